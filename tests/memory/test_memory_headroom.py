"""What is left in made-up cgroups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from sextract.memory.headroom import headroom

GIB = 1 << 30


class Machine:
    """A /proc and a /sys in a folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.write("proc/meminfo", f"MemTotal: {64 << 20} kB\nMemFree: 1 kB\nMemAvailable: {32 << 20} kB")

    def write(self, path: str, text: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    def mounts(self, own: str, mount: str) -> None:
        self.write("proc/self/cgroup", own)
        self.write("proc/self/mountinfo", mount)

    def version_2(self, path: str = "/") -> None:
        self.mounts(f"0::{path}", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw")

    def version_1(self, path: str = "/") -> None:
        self.mounts(f"4:memory:{path}", "30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")

    def group(self, path: str, limit: object, current: int = 0, cache: int = 0, dirty: int = 0) -> None:
        folder = f"sys/fs/cgroup/{path}"
        self.write(f"{folder}/memory.max", limit)
        self.write(f"{folder}/memory.current", current)
        half = cache // 2
        self.write(
            f"{folder}/memory.stat", f"anon 1\ninactive_file {half}\nactive_file {cache - half}\nfile_dirty {dirty}"
        )

    def old_group(self, path: str, limit: int, usage: int = 0, cache: int = 0) -> None:
        folder = f"sys/fs/cgroup/memory/{path}"
        self.write(f"{folder}/memory.limit_in_bytes", limit)
        self.write(f"{folder}/memory.usage_in_bytes", usage)
        self.write(f"{folder}/memory.stat", f"cache 9\ntotal_inactive_file {cache}\ntotal_active_file 0")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_limits_it_is_the_machines_memory(machine: Machine) -> None:
    machine.version_2()
    assert headroom(machine.root) == (32 * GIB, "memory of the machine")


def test_the_tightest_ancestor_counts(machine: Machine) -> None:
    machine.version_2("/slurm/job7/step0")
    machine.group("slurm/job7/step0", "max", GIB)
    machine.group("slurm/job7", 4 * GIB, 2 * GIB)
    machine.group("slurm", 40 * GIB, 39 * GIB)
    assert headroom(machine.root) == (GIB, "memory cgroup /sys/fs/cgroup/slurm")


def test_page_cache_is_no_obstacle_unless_it_is_dirty(machine: Machine) -> None:
    machine.version_2("/box")
    machine.group("box", 4 * GIB, 4 * GIB, cache=3 * GIB)
    assert headroom(machine.root)[0] == 3 * GIB
    machine.group("box", 4 * GIB, 4 * GIB, cache=3 * GIB, dirty=GIB)
    assert headroom(machine.root)[0] == 2 * GIB


def test_version_1_and_its_no_limit(machine: Machine) -> None:
    machine.version_1("/a/b")
    machine.old_group("a/b", 2 * GIB, GIB, cache=GIB // 2)
    machine.old_group("a", 9223372036854771712)
    assert headroom(machine.root) == (2 * GIB - GIB // 2, "memory cgroup /sys/fs/cgroup/memory/a/b")


def test_this_machine_has_some() -> None:
    assert headroom()[0] > 0
