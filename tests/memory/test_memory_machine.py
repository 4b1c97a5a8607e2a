"""Limits of made-up machines: cgroups of both versions, Slurm, quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sextract.memory.machine import headroom, memory_limit, usable_cpus

GIB = 1 << 30


class Machine:
    """A /proc and a /sys/fs/cgroup in a folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.write(self.proc / "meminfo", f"MemTotal: {64 << 20} kB\nMemFree: 1 kB\nMemAvailable: {32 << 20} kB\n")
        self.root.mkdir()

    def write(self, path: Path, text: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def groups(self, text: str) -> None:
        self.write(self.proc / "self" / "cgroup", text)

    def v2(self, path: str, limit: object, current: int = 0, cache: int = 0, high: object = "max") -> None:
        folder = self.root / path
        self.write(folder / "memory.max", limit)
        self.write(folder / "memory.high", high)
        self.write(folder / "memory.current", current)
        self.write(folder / "memory.stat", f"anon 1\ninactive_file {cache // 2}\nactive_file {cache - cache // 2}")

    def v1(self, path: str, limit: int, usage: int = 0, cache: int = 0) -> None:
        folder = self.root / "memory" / path
        self.write(folder / "memory.limit_in_bytes", limit)
        self.write(folder / "memory.usage_in_bytes", usage)
        self.write(folder / "memory.stat", f"cache 9\ntotal_inactive_file {cache}\ntotal_active_file 0")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_bare_machine(machine: Machine) -> None:
    machine.groups("0::/")
    assert headroom(machine.root, machine.proc) == (32 * GIB, "available memory of the machine")
    assert memory_limit(machine.root, machine.proc, {})[0] == 16 * GIB
    assert usable_cpus(machine.root, machine.proc)[0] == len(os.sched_getaffinity(0))


def test_the_tightest_ancestor_counts(machine: Machine) -> None:
    machine.groups("0::/slurm/job7/step0")
    machine.v2("slurm/job7/step0", "max", GIB)
    machine.v2("slurm/job7", 4 * GIB, 3 * GIB, cache=GIB)
    machine.v2("slurm", 40 * GIB, 39 * GIB)
    room, what = headroom(machine.root, machine.proc)
    assert (room, what) == (GIB, f"memory cgroup {machine.root}/slurm")
    limit, what = memory_limit(machine.root, machine.proc, {})
    assert (limit, what) == (4 * GIB, f"memory cgroup {machine.root}/slurm/job7")


def test_page_cache_is_no_obstacle_and_high_is_a_limit(machine: Machine) -> None:
    machine.groups("0::/box")
    machine.v2("box", 4 * GIB, 4 * GIB, cache=3 * GIB, high=3 * GIB)
    assert headroom(machine.root, machine.proc)[0] == 2 * GIB
    assert memory_limit(machine.root, machine.proc, {})[0] == 3 * GIB


def test_version_1_and_its_no_limit(machine: Machine) -> None:
    machine.groups("9:name=systemd:/\n4:memory:/a/b\n0::/")
    machine.v1("a/b", 2 * GIB, GIB, cache=GIB // 2)
    machine.v1("a", 9223372036854771712)
    assert headroom(machine.root, machine.proc)[0] == 2 * GIB - GIB // 2
    assert memory_limit(machine.root, machine.proc, {})[0] == 2 * GIB


def test_in_a_container_the_mount_itself_is_ours(machine: Machine) -> None:
    machine.groups("0::/kubepods/pod1/abc")
    machine.v2(".", 3 * GIB, GIB)
    assert memory_limit(machine.root, machine.proc, {})[0] == 3 * GIB
    assert headroom(machine.root, machine.proc)[0] == 2 * GIB


@pytest.mark.parametrize(
    ("environ", "limit", "what"),
    [
        ({"SLURM_MEM_PER_NODE": "6144"}, 6 * GIB, "SLURM_MEM_PER_NODE"),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "4"}, 4 * GIB, "SLURM_MEM_PER_CPU"),
        ({"SLURM_MEM_PER_NODE": "0"}, 16 * GIB, "a quarter of the physical memory"),
    ],
)
def test_slurm(machine: Machine, environ: dict[str, str], limit: int, what: str) -> None:
    machine.groups("0::/")
    assert memory_limit(machine.root, machine.proc, environ) == (limit, what)


def test_cpu_quota_of_both_versions(machine: Machine) -> None:
    machine.groups("0::/box")
    machine.write(machine.root / "box" / "cpu.max", "150000 100000")
    assert usable_cpus(machine.root, machine.proc)[0] == 1
    machine.write(machine.root / "box" / "cpu.max", "max 100000")
    assert usable_cpus(machine.root, machine.proc)[0] == len(os.sched_getaffinity(0))
    machine.groups("3:cpu,cpuacct:/box")
    machine.write(machine.root / "cpu" / "box" / "cpu.cfs_quota_us", 50000)
    machine.write(machine.root / "cpu" / "box" / "cpu.cfs_period_us", 100000)
    assert usable_cpus(machine.root, machine.proc)[0] == 1


def test_this_machine_has_something() -> None:
    assert headroom()[0] > 0
    assert memory_limit()[0] > 0
    assert usable_cpus()[0] >= 1
