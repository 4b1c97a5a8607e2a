"""What the machine lets this process use: memory limits and headroom, CPUs.

Reads cgroups (v1 and v2, every ancestor that can be seen), Slurm's variables, resource limits, physical memory.  It
measures nobody (``gauge.py``) and splits nothing (``budget.py``).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")

# cgroup v1 writes "no limit" as the largest multiple of a page; anything of that order is none.
_NO_LIMIT = 1 << 60


def _number(path: Path) -> int | None:
    """The integer in a one-line file; None if there is none, or none meant (``max``)."""
    try:
        text = path.read_text().split()[0]
        return None if text == "max" else int(text)
    except (OSError, ValueError, IndexError):
        return None


def _table(path: Path) -> dict[str, int]:
    """A file of ``name value`` lines."""
    try:
        rows = (line.replace(":", " ").split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].lstrip("-").isdigit()}
    except OSError:
        return {}


def _groups(controller: str, root: Path, proc: Path) -> Iterator[tuple[Path, int]]:
    """Folders of this process's cgroup and its ancestors, with the cgroup version."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        version = 2 if names == "" else 1
        if version == 1 and controller not in names.split(","):
            continue
        mounts = [root] if version == 2 else [root / controller, root / names]
        for mount in dict.fromkeys(mounts):
            # In a container the path may be the host's: then only the root of the mount is ours.
            folder = mount / path.lstrip("/")
            while folder != mount and mount in folder.parents:
                if folder.is_dir():
                    yield folder, version
                folder = folder.parent
            if mount.is_dir():
                yield mount, version


def _limit(folder: Path, version: int) -> int | None:
    """Bytes a cgroup may hold, None without a limit."""
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    values = [value for name in names if (value := _number(folder / name)) is not None and value < _NO_LIMIT]
    return min(values, default=None)


def _held(folder: Path, version: int) -> int:
    """Bytes a cgroup holds that the kernel can't simply drop: usage less page cache (shared memory isn't in it)."""
    usage = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
    stat = _table(folder / "memory.stat")
    prefix = "" if version == 2 else "total_"
    return max(usage - stat.get(f"{prefix}inactive_file", 0) - stat.get(f"{prefix}active_file", 0), 0)


def headroom(root: Path = _CGROUP_ROOT, proc: Path = _PROC) -> tuple[int, str]:
    """How many more bytes can be held before the kernel kills someone, and what sets that.

    Returns
    -------
    nbytes : int
        Smallest of what is left in each cgroup above us and of the machine's available memory.
    what : str
        For messages.
    """
    found = [(_table(proc / "meminfo").get("MemAvailable", _NO_LIMIT >> 10) << 10, "available memory of the machine")]
    for folder, version in _groups("memory", root, proc):
        limit = _limit(folder, version)
        if limit is not None:
            found.append((limit - _held(folder, version), f"memory cgroup {folder}"))
    return min(found)


def memory_limit(
    root: Path = _CGROUP_ROOT, proc: Path = _PROC, environ: Mapping[str, str] = os.environ
) -> tuple[int, str]:
    """The limit to use when none is given, and where it comes from.

    The smallest of: each cgroup's limit, Slurm's (``SLURM_MEM_PER_NODE``, or ``_PER_CPU`` times its CPUs), RLIMIT_AS,
    and a quarter of the physical memory.
    """
    total = _table(proc / "meminfo").get("MemTotal", 4 << 20) << 10
    found = [(total // 4, "a quarter of the physical memory")]
    for folder, version in _groups("memory", root, proc):
        limit = _limit(folder, version)
        if limit is not None:
            found.append((limit, f"memory cgroup {folder}"))
    slurm = environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit() and int(slurm):
        found.append((int(slurm) << 20, "SLURM_MEM_PER_NODE"))
    per_cpu, ncpus = environ.get("SLURM_MEM_PER_CPU", ""), environ.get("SLURM_CPUS_ON_NODE", "")
    if per_cpu.isdigit() and ncpus.isdigit() and int(per_cpu):
        found.append((int(per_cpu) * max(int(ncpus), 1) << 20, "SLURM_MEM_PER_CPU"))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        found.append((address_space, "RLIMIT_AS (ulimit -v)"))
    return min(found)


def usable_cpus(root: Path = _CGROUP_ROOT, proc: Path = _PROC) -> tuple[int, str]:
    """How many CPUs this process may keep busy, and what sets that: affinity, or the quota of a cgroup."""
    found = [(len(os.sched_getaffinity(0)), "CPU affinity")]
    for folder, version in _groups("cpu", root, proc):
        if version == 2:
            try:
                quota_text, period_text = (folder / "cpu.max").read_text().split()
                quota, period = (None if quota_text == "max" else int(quota_text)), int(period_text)
            except (OSError, ValueError):
                continue
        else:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us") or 0
        if quota is not None and quota > 0 and period > 0:
            found.append((max(quota // period, 1), f"CPU quota of cgroup {folder}"))
    return min(found)
