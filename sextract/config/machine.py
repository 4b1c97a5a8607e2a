"""What the machine allows: the default memory limit and number of workers, what set them, and which folders are memory.

Linux only, from /proc, /sys, the resource limits and Slurm's environment.  It measures nothing of a run; that is
``memory/gauge.py``.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sextract.errors import LimitError

# Beside the limits that are set: a part of the memory that leaves the machine to others.
PHYSICAL_PART = 4

# Address space that is still to be mapped when a limit is chosen: kernels, astropy and fitsio in a worker (54 MiB with
# astropy 8), heaps.
TO_COME_BYTES = 96 << 20
# The part of it that is data (31 MiB with astropy 8), likewise.
DATA_TO_COME_BYTES = 48 << 20
# With less for buffers the message that --mem-limit is too small would mislead.
LEAST_ROOM_BYTES = 32 << 20

# v1 writes "no limit" as a number near 2**63; nothing that large is a limit.
UNLIMITED = 1 << 60


# File systems whose files are memory: what is written there counts against a limit.
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


@dataclass(frozen=True, slots=True)
class Default:
    """A value the machine suggests, and what set it."""

    value: int
    origin: str


def default_mem_limit(
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit,
) -> Default:
    """The smallest of the memory limits that hold for this process and a quarter of the physical memory.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are, for tests.
    environ : mapping, optional
        Environment with Slurm's variables; the process's own if not given.
    rlimit : callable
        `resource.getrlimit`.

    Returns
    -------
    Default
        Bytes.  If several are equal, the first of: cgroup, address space, data, Slurm, physical memory.
    """
    environ = os.environ if environ is None else environ
    found = list(_cgroup_memory(root))
    for name, what in (("RLIMIT_AS", "address space"), ("RLIMIT_DATA", "data segment")):
        soft = rlimit(getattr(resource, name))[0]
        if soft != resource.RLIM_INFINITY:
            found.append(Default(soft, f"ulimit on the {what}"))
    found.extend(_slurm(environ))
    found.append(Default(_physical(root) // PHYSICAL_PART, "a quarter of the physical memory"))
    return min((d for d in found if d.value > 0), key=lambda d: d.value)


def within_shell_limits(
    limit: Default,
    root: Path = Path("/"),
    rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit,
) -> Default:
    """A limit, or what RLIMIT_AS leaves of it: all buffers are mapped in every process, beside programs and libraries.

    Parameters
    ----------
    limit : Default
    root, rlimit
        See `default_mem_limit`.

    Raises
    ------
    LimitError
        RLIMIT_AS or RLIMIT_DATA leaves too little for libraries, which can't be told once an interpreter has run out.
    """
    pages = [int(word) for word in _read(root / "proc/self/statm").split()]
    mapped, data = (pages[k] * os.sysconf("SC_PAGE_SIZE") if len(pages) > k else 0 for k in (0, 5))
    space, most_data = (rlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if 0 <= most_data < data + DATA_TO_COME_BYTES:
        raise _too_small("data segment (ulimit -d)", most_data, data + DATA_TO_COME_BYTES)
    room = space - mapped - TO_COME_BYTES
    if space == resource.RLIM_INFINITY:
        return limit
    if room < LEAST_ROOM_BYTES:
        raise _too_small("address space (ulimit -v)", space, mapped + TO_COME_BYTES + LEAST_ROOM_BYTES)
    return min(limit, Default(room, "what ulimit -v leaves for buffers"), key=lambda d: d.value)


def _too_small(what: str, soft: int, least: int) -> LimitError:
    return LimitError(f"the {what} of {soft >> 20} MiB is too small: at least {-(-least >> 20)} MiB are needed")


def default_workers(root: Path = Path("/"), cpus: int | None = None) -> Default:
    """CPUs this process may run on, cut to the cgroup's quota.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are, for tests.
    cpus : int, optional
        CPUs of the affinity mask; the process's own if not given.
    """
    cpus = len(os.sched_getaffinity(0)) if cpus is None else cpus
    found = [Default(cpus, "CPU affinity")]
    found.extend(Default(max(1, math.floor(quota)), f"cgroup quota of {quota:.2f} CPUs") for quota in _quotas(root))
    return min(found, key=lambda d: d.value)


def memory_filesystem(folder: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """Type of the file system that holds a folder if that is memory (``tmpfs``); empty if not, or if it can't be told."""
    try:
        device = os.stat(folder).st_dev
    except OSError:
        # A folder that is missing is for whoever writes there to report.
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _read(mountinfo).splitlines():
        head, _, tail = line.partition(" - ")
        if tail and head.split()[2] == wanted:
            kind = tail.split()[0]
            return kind if kind in _IN_MEMORY else ""
    return ""


def _cgroup_memory(root: Path) -> Iterator[Default]:
    for version, folder in cgroups(root, "memory"):
        for name in ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",):
            limit = _number(folder / name)
            if limit is not None and limit < UNLIMITED:
                yield Default(limit, f"cgroup {name} in /{folder.relative_to(root)}")


def _quotas(root: Path) -> Iterator[float]:
    """CPUs of every quota that holds."""
    for version, folder in cgroups(root, "cpu"):
        if version == 2:
            words = _read(folder / "cpu.max").split()
            if len(words) == 2 and words[0].isdigit():
                yield int(words[0]) / int(words[1])
        else:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            if quota and period:
                yield quota / period


def cgroups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Version and folder of this process's cgroup for a controller and of all its ancestors."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version == 1 and controller not in kind[2].split(","):
            continue
        mount = root / _unescape(fields[4]).lstrip("/")
        path = _own_path(root, "" if version == 2 else controller)
        # A container may show its own cgroup as the mount's root.
        top = _unescape(fields[3]).rstrip("/")
        inside = path[len(top) :] if top and path.startswith(top) else ("" if top else path)
        folder = mount / inside.lstrip("/")
        while folder != mount and mount in folder.parents:
            yield version, folder
            folder = folder.parent
        yield version, mount


def _own_path(root: Path, controller: str) -> str:
    """Path of this process in a hierarchy, from /proc/self/cgroup."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and controller in parts[1].split(",") and ".." not in parts[2]:
            return parts[2]
    return ""


def _slurm(environ: Mapping[str, str]) -> Iterator[Default]:
    """Slurm's memory of the job on this node; its variables are in MiB, 0 means all."""
    per_node = environ.get("SLURM_MEM_PER_NODE", "")
    if per_node.isdigit() and int(per_node):
        yield Default(int(per_node) << 20, "SLURM_MEM_PER_NODE")
    per_cpu, cpus = environ.get("SLURM_MEM_PER_CPU", ""), environ.get("SLURM_CPUS_ON_NODE", "")
    if per_cpu.isdigit() and cpus.isdigit() and int(per_cpu) and int(cpus):
        yield Default((int(per_cpu) << 20) * int(cpus), "SLURM_MEM_PER_CPU")


def _physical(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _unescape(path: str) -> str:
    """A path of mountinfo, where blanks are written \\040."""
    return path.replace("\\040", " ")


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
