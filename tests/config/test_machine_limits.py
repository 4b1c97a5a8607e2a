"""Defaults from the machine, on made-up trees of /proc and /sys."""

import os
import resource
from pathlib import Path

import pytest

from sextract.config.machine import (
    DATA_TO_COME_BYTES,
    LEAST_ROOM_BYTES,
    OVERFLOW_PART,
    TO_COME_BYTES,
    Default,
    allowed_memory,
    cache_room,
    default_mem_limit,
    default_workers,
    memory_filesystem,
    require_data_segment,
    within_address_space,
)
from sextract.errors import LimitError

MIB, GIB = 1 << 20, 1 << 30
SHELL = 16 << 20
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def unlimited(which):
    return resource.RLIM_INFINITY, resource.RLIM_INFINITY


@pytest.fixture
def machine(tmp_path):
    def write(files):
        for name, text in {"proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 5 kB\n", **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def limit(root, environ=None, rlimit=unlimited):
    return default_mem_limit(root, environ or {}, rlimit)


def test_without_limits_a_quarter_of_the_memory(machine):
    assert limit(machine({})) == Default(4 * GIB, "a quarter of the physical memory")


def test_the_smallest_of_all_ancestors_in_v2(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/a/b/c\n",
            "sys/fs/cgroup/a/b/c/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.max": str(3 * GIB),
            "sys/fs/cgroup/a/memory.max": str(GIB),
            "sys/fs/cgroup/a/memory.high": "max",
            "sys/fs/cgroup/other/memory.max": "5",
        }
    )
    assert limit(root) == Default(GIB, "cgroup memory.max in /sys/fs/cgroup/a")


def test_memory_high_counts_because_it_throttles(machine):
    root = machine(
        {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.high": str(GIB // 2)}
    )
    assert limit(root).value == GIB // 2


def test_what_a_limit_leaves_for_pages_of_files(machine):
    files = {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/a\n"}
    assert cache_room(GIB, machine({**files, "sys/fs/cgroup/a/memory.max": "max"})) > 1 << 50
    root = machine({**files, "sys/fs/cgroup/a/memory.max": str(3 * GIB)})
    assert cache_room(GIB, root) == 2 * GIB
    assert cache_room(4 * GIB, root) == 0


def test_v1_limits_and_its_number_for_none(machine):
    root = machine(
        {
            "proc/self/mountinfo": V1,
            "proc/self/cgroup": "4:memory:/job/step\n3:cpu,cpuacct:/job\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/job/step/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )
    assert limit(root) == Default(2 * GIB, "cgroup memory.limit_in_bytes in /sys/fs/cgroup/memory/job")


def test_a_container_sees_its_cgroup_as_the_mounts_root(machine):
    root = machine(
        {
            "proc/self/mountinfo": "40 31 0:30 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "proc/self/cgroup": "0::/docker/abc/inner\n",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/inner/memory.max": str(2 * GIB),
        }
    )
    assert limit(root).value == GIB


def test_a_path_outside_the_namespace_means_the_mount(machine):
    root = machine({"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/memory.max": str(GIB)})
    assert limit(root).value == GIB


def test_what_others_hold_of_a_cgroup_is_left_to_them(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/a/b\n",
            "proc/self/status": "Name:\tpython\nVmSize:\t  99 kB\nRssAnon:\t  10240 kB\n",
            "sys/fs/cgroup/a/memory.max": str(2 * GIB),
            "sys/fs/cgroup/a/memory.current": str(GIB),
            # A quarter is page cache, of which some hasn't been written yet.
            "sys/fs/cgroup/a/memory.stat": f"active_file {GIB // 8}\ninactive_file {GIB // 8}\nfile_dirty {30 * MIB}\n",
        }
    )
    held = GIB - GIB // 4 + 30 * MIB - 10 * MIB
    assert limit(root) == Default(
        2 * GIB - held, f"cgroup memory.max in /sys/fs/cgroup/a: 2048M less {held // MIB}M that others hold"
    )
    assert allowed_memory(root, {}, unlimited) == Default(2 * GIB, "cgroup memory.max in /sys/fs/cgroup/a")


def test_a_full_cgroup_leaves_next_to_nothing(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/memory.current": str(2 * GIB),
        }
    )
    assert limit(root).value == 1


def test_no_more_than_is_available(machine):
    root = machine({"proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 1048576 kB\n"})
    assert limit(root) == Default(GIB, "what the machine has available")
    assert allowed_memory(root, {}, unlimited) == Default(16 * GIB, "the physical memory")


def only(name, nbytes):
    """One resource limit."""

    def rlimit(number):
        return (nbytes, nbytes) if number == getattr(resource, name) else unlimited(number)

    return rlimit


def test_a_limit_on_the_data_segment(machine):
    assert limit(machine({}), rlimit=only("RLIMIT_DATA", GIB)) == Default(GIB, "ulimit on the data segment")


def test_code_takes_its_part_of_the_address_space(machine):
    root = machine({"proc/self/status": "VmPeak:\t 999999 kB\nVmSize:\t  102400 kB\n"})
    found = limit(root, rlimit=only("RLIMIT_AS", GIB))
    # The process as it is, 96 MiB that it will still map, and an eighth for what outgrows the buffers.
    assert found == Default(GIB - 324 * MIB, "ulimit on the address space: 1024M less 324M for code and overflow")
    assert allowed_memory(root, {}, only("RLIMIT_AS", GIB)) == Default(GIB, "ulimit on the address space")


@pytest.mark.parametrize(
    ("environ", "value", "origin"),
    [
        ({"SLURM_MEM_PER_NODE": "2048"}, 2 * GIB - SHELL, "SLURM_MEM_PER_NODE: 2048M less 16M for the job's shell"),
        (
            {"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4"},
            2 * GIB - SHELL,
            "SLURM_MEM_PER_CPU: 2048M less 16M for the job's shell",
        ),
        ({"SLURM_MEM_PER_NODE": "0"}, 4 * GIB, "a quarter of the physical memory"),
        ({"SLURM_MEM_PER_NODE": "lots"}, 4 * GIB, "a quarter of the physical memory"),
        ({"SLURM_MEM_PER_GPU": "512"}, 4 * GIB, "a quarter of the physical memory"),
        (
            {"SLURM_MEM_PER_NODE": "2048", "SLURM_TASKS_PER_NODE": "4"},
            2 * GIB - SHELL,
            "SLURM_MEM_PER_NODE: 2048M less 16M for the job's shell",
        ),
        (
            {"SLURM_MEM_PER_NODE": "2048", "SLURM_STEP_TASKS_PER_NODE": "4"},
            (2 * GIB - SHELL) // 4,
            "SLURM_MEM_PER_NODE, by 4 tasks: 512M less 4M for the job's shell",
        ),
        (
            {"SLURM_MEM_PER_NODE": "3072", "SLURM_STEP_TASKS_PER_NODE": "1(x2),3", "SLURM_NODEID": "2"},
            GIB - SHELL // 3,
            "SLURM_MEM_PER_NODE, by 3 tasks: 1024M less 6M for the job's shell",
        ),
        (
            {"SLURM_MEM_PER_NODE": "2048", "SLURM_STEP_TASKS_PER_NODE": "?"},
            2 * GIB - SHELL,
            "SLURM_MEM_PER_NODE: 2048M less 16M for the job's shell",
        ),
    ],
)
def test_slurm(machine, environ, value, origin):
    assert limit(machine({}), environ) == Default(value, origin)


def test_workers_follow_affinity_and_quota(machine):
    root = machine({"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/a/b\n"})
    assert default_workers(root, 8, {}) == Default(8, "CPU affinity")
    root = machine({"sys/fs/cgroup/a/cpu.max": "250000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"})
    assert default_workers(root, 8, {}) == Default(2, "cgroup quota of 2.50 CPUs")
    assert default_workers(root, 1, {}) == Default(1, "CPU affinity")


def test_a_part_of_a_cpu_is_one_worker(machine):
    root = machine(
        {
            "proc/self/mountinfo": V1,
            "proc/self/cgroup": "3:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        }
    )
    assert default_workers(root, 4, {}).value == 1


@pytest.mark.parametrize(
    ("environ", "workers", "origin"),
    [
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "12"}, 3, "SLURM_CPUS_PER_TASK"),
        ({"SLURM_CPUS_ON_NODE": "12"}, 12, "SLURM_CPUS_ON_NODE"),
        ({"SLURM_CPUS_ON_NODE": "12", "SLURM_STEP_TASKS_PER_NODE": "5"}, 2, "SLURM_CPUS_ON_NODE, by 5 tasks"),
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_STEP_TASKS_PER_NODE": "5"}, 1, "SLURM_CPUS_ON_NODE, by 5 tasks"),
        ({"SLURM_CPUS_ON_NODE": "200"}, 128, "CPU affinity"),
        ({"SLURM_CPUS_PER_TASK": "all"}, 128, "CPU affinity"),
    ],
)
def test_workers_follow_slurm_where_it_does_not_bind(machine, environ, workers, origin):
    assert default_workers(machine({}), 128, environ) == Default(workers, origin)


def test_this_machine_has_limits():
    assert default_mem_limit(Path("/")).value > 0
    assert default_workers(Path("/")).value >= 1


def test_folders_in_memory_are_found_by_device(tmp_path):
    device = os.stat(tmp_path).st_dev
    table = tmp_path / "mountinfo"
    wanted = f"{os.major(device)}:{os.minor(device)}"
    proc = "21 1 0:999 / /proc rw - proc proc rw\n"
    table.write_text(proc + f"29 1 {wanted} / /tmp rw,relatime shared:1 - tmpfs tmpfs rw,size=1g\n")
    assert memory_filesystem(str(tmp_path), table) == "tmpfs"
    table.write_text(proc + f"29 1 {wanted} / /tmp rw,relatime - ext4 /dev/sda1 rw\n")
    assert memory_filesystem(str(tmp_path), table) == ""
    table.write_text(proc)
    assert memory_filesystem(str(tmp_path), table) == ""
    assert memory_filesystem(str(tmp_path), tmp_path / "none") == ""
    assert memory_filesystem(str(tmp_path / "missing"), table) == ""


def test_buffers_fit_into_the_address_space_beside_what_is_mapped(machine):
    root = machine({"proc/self/status": "VmSize:\t  102400 kB\n"})
    mapped = 100 * MIB
    chosen = Default(GIB, "--mem-limit")
    assert within_address_space(chosen, root, unlimited) == chosen
    for room in (LEAST_ROOM_BYTES, GIB // 2, GIB, 2 * GIB):
        # An eighth of the address space is kept for what outgrows the buffers.
        soft = -(-(mapped + TO_COME_BYTES + room) * OVERFLOW_PART // (OVERFLOW_PART - 1))
        found = within_address_space(chosen, root, lambda which, soft=soft: (soft, 0))
        assert 0 <= found.value - min(room, GIB) < 8
        assert found.origin == ("--mem-limit" if room >= GIB else "what ulimit -v leaves for buffers")
    with pytest.raises(LimitError, match="ulimit -v"):
        within_address_space(chosen, root, lambda which: (mapped + TO_COME_BYTES, 0))


def test_libraries_fit_into_the_data_segment(machine):
    root = machine({"proc/self/statm": "25600 9 9 9 0 1000 0\n"})
    needed = 1000 * os.sysconf("SC_PAGE_SIZE") + DATA_TO_COME_BYTES
    require_data_segment(root, unlimited)
    require_data_segment(root, lambda which: (needed, needed))
    with pytest.raises(LimitError, match="ulimit -d"):
        require_data_segment(root, lambda which: (needed - 1, needed))
