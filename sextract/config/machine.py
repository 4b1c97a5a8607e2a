"""What the machine allows: the default memory limit and number of workers, what set them, and which folders are memory.

Linux only, from /proc, /sys, the resource limits and Slurm's environment.  It measures nothing of a run; that is
``memory/gauge.py``.
"""

from __future__ import annotations

import math
import os
import re
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sextract.errors import LimitError

# Beside the limits that are set: a part of the memory that leaves the machine to others.
PHYSICAL_PART = 4

# Address space that is still to be mapped when a limit is chosen: kernels, astropy and fitsio in a worker (54 MiB with
# astropy 8), heaps.
TO_COME_BYTES = 96 << 20
# Part of a limited address space that is kept for what outgrows the buffers (``memory/overflow.py``).
OVERFLOW_PART = 8
# Data segment that is still to come, likewise (31 MiB with astropy 8).
DATA_TO_COME_BYTES = 48 << 20
# With less for buffers the message that --mem-limit is too small would mislead.
LEAST_ROOM_BYTES = 32 << 20

# Of a job's memory, for its shell and what a script starts beside the run: bash takes 4 MiB, several commands 2 MiB each.
JOB_BYTES = 16 << 20

# v1 writes "no limit" as a number near 2**63; nothing that large is a limit.
UNLIMITED = 1 << 60

_MIB = 1 << 20

# File systems whose files are memory: what is written there counts against a limit.
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


class Default(NamedTuple):
    """A value the machine suggests, and what set it."""

    value: int
    origin: str


class _Bound(NamedTuple):
    """A limit that holds for this process, what it is called, and bytes of it that the run can't have, with the reason."""

    nbytes: int
    origin: str
    spoken_for: int = 0
    by: str = ""

    @property
    def default(self) -> Default:
        """What is left of it for a run."""
        less = f": {self.nbytes // _MIB}M less {-(-self.spoken_for // _MIB)}M {self.by}" if self.spoken_for >= _MIB else ""
        return Default(max(self.nbytes - self.spoken_for, 1), self.origin + less)


def default_mem_limit(
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit,
) -> Default:
    """What the smallest of the memory limits that hold for this process leaves, at most a quarter of the physical memory.

    Of a cgroup's limit others may hold a part; of the address space code takes some, which isn't memory.  Swap is left
    out: a run that swaps is slower than one with a smaller limit.

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
        Bytes.  If several are equal, the first of: cgroup, address space, data, Slurm, physical memory, what is free of it.
    """
    found = [bound.default for bound in _bounds(root, os.environ if environ is None else environ, rlimit)]
    found.append(Default(_physical(root) // PHYSICAL_PART, "a quarter of the physical memory"))
    if available := memory_table(root / "proc/meminfo").get("MemAvailable", 0) << 10:
        found.append(Default(available, "what the machine has available"))
    return min(found, key=lambda d: d.value)


def allowed_memory(
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit,
) -> Default:
    """The most memory that this process could ever have, whoever asks for it, and what sets that.

    Parameters
    ----------
    root, environ, rlimit
        See `default_mem_limit`.
    """
    bounds = _bounds(root, os.environ if environ is None else environ, rlimit)
    found = [Default(bound.nbytes, bound.origin) for bound in bounds]
    return min([*found, Default(_physical(root), "the physical memory")], key=lambda d: d.value)


def within_address_space(
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
        RLIMIT_AS leaves no room for buffers at all.
    """
    soft = rlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY:
        return limit
    room = _address_room(soft, root)
    if room < LEAST_ROOM_BYTES:
        least = -(-(soft - room + LEAST_ROOM_BYTES) * OVERFLOW_PART // (OVERFLOW_PART - 1) // _MIB)
        raise LimitError(f"the address space (ulimit -v) of {soft >> 20} MiB is too small: at least {least} MiB are needed")
    return min(limit, Default(room, "what ulimit -v leaves for buffers"), key=lambda d: d.value)


def require_data_segment(root: Path = Path("/"), rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit) -> None:
    """Refuse an RLIMIT_DATA that libraries won't fit in: an interpreter that has run out can't be relied on to say so.

    Raises
    ------
    LimitError
    """
    soft = rlimit(resource.RLIMIT_DATA)[0]
    pages = _read(root / "proc/self/statm").split()
    needed = (int(pages[5]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 5 else 0) + DATA_TO_COME_BYTES
    if soft != resource.RLIM_INFINITY and soft < needed:
        least = -(-needed >> 20)
        raise LimitError(f"the data segment (ulimit -d) of {soft >> 20} MiB is too small: at least {least} MiB are needed")


def _address_room(soft: int, root: Path) -> int:
    """What a limit on the address space leaves for buffers."""
    return soft - soft // OVERFLOW_PART - _mapped(root) - TO_COME_BYTES


def cache_room(limit: int, root: Path = Path("/")) -> int:
    """Bytes that a run with that limit leaves for pages of files in the tightest memory cgroup; UNLIMITED without one."""
    return min((max(bound.nbytes - limit, 0) for bound in _cgroup_memory(root)), default=UNLIMITED)


def default_workers(
    root: Path = Path("/"), cpus: int | None = None, environ: Mapping[str, str] | None = None
) -> Default:
    """CPUs this process may run on, cut to the cgroup's quota and to what Slurm gave the job.

    Slurm's own figure counts because it binds tasks to their CPUs only where a site has set it up so.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are, for tests.
    cpus : int, optional
        CPUs of the affinity mask; the process's own if not given.
    environ : mapping, optional
        Environment with Slurm's variables; the process's own if not given.
    """
    cpus = len(os.sched_getaffinity(0)) if cpus is None else cpus
    found = [Default(cpus, "CPU affinity")]
    found.extend(Default(max(1, math.floor(quota)), f"cgroup quota of {quota:.2f} CPUs") for quota in _quotas(root))
    found.extend(_slurm_cpus(os.environ if environ is None else environ))
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


def _bounds(
    root: Path, environ: Mapping[str, str], rlimit: Callable[[int], tuple[int, int]]
) -> Iterator[_Bound]:
    """Every memory limit that holds for this process."""
    yield from _cgroup_memory(root)
    for name, what in (("RLIMIT_AS", "address space"), ("RLIMIT_DATA", "data segment")):
        soft = rlimit(getattr(resource, name))[0]
        if soft != resource.RLIM_INFINITY:
            taken = soft - _address_room(soft, root) if name == "RLIMIT_AS" else 0
            yield _Bound(soft, f"ulimit on the {what}", taken, "for code and overflow")
    yield from _slurm_memory(environ)


def _cgroup_memory(root: Path) -> Iterator[_Bound]:
    own = memory_table(root / "proc/self/status").get("RssAnon", 0) << 10
    for version, folder in cgroups(root, "memory"):
        for name in ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",):
            limit = number(folder / name)
            if limit is not None and limit < UNLIMITED:
                others = max(cgroup_held(folder, version) - own, 0)
                yield _Bound(limit, f"cgroup {name} in /{folder.relative_to(root)}", others, "that others hold")


def cgroup_held(folder: Path, version: int) -> int:
    """Bytes of a memory cgroup that the kernel can't simply drop: all but clean page cache (which has no shared memory)."""
    usage = number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
    stat = memory_table(folder / "memory.stat")
    prefix = "" if version == 2 else "total_"
    cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    # What is dirty has to be written first.
    dirty = stat.get("file_dirty", 0) if version == 2 else stat.get("total_dirty", 0)
    return max(usage - max(cache - dirty, 0), 0)


def _quotas(root: Path) -> Iterator[float]:
    """CPUs of every quota that holds."""
    for version, folder in cgroups(root, "cpu"):
        if version == 2:
            words = _read(folder / "cpu.max").split()
            if len(words) == 2 and words[0].isdigit():
                yield int(words[0]) / int(words[1])
        else:
            quota, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
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


def _slurm_memory(environ: Mapping[str, str]) -> Iterator[_Bound]:
    """Slurm's memory of the job on this node, divided by the tasks that share it; its variables are in MiB, 0 means all.

    Where Slurm polls, the job's shell counts as the run does.
    """
    tasks = _slurm_tasks(environ)
    shared = f", by {tasks} tasks" if tasks > 1 else ""
    per_node = environ.get("SLURM_MEM_PER_NODE", "")
    if per_node.isdigit() and int(per_node):
        yield _Bound((int(per_node) << 20) // tasks, f"SLURM_MEM_PER_NODE{shared}", JOB_BYTES // tasks, "for the job's shell")
    per_cpu, cpus = environ.get("SLURM_MEM_PER_CPU", ""), environ.get("SLURM_CPUS_ON_NODE", "")
    if per_cpu.isdigit() and cpus.isdigit() and int(per_cpu) and int(cpus):
        job = (int(per_cpu) << 20) * int(cpus)
        yield _Bound(job // tasks, f"SLURM_MEM_PER_CPU{shared}", JOB_BYTES // tasks, "for the job's shell")


def _slurm_cpus(environ: Mapping[str, str]) -> Iterator[Default]:
    """CPUs that Slurm gave this task, or the job on this node."""
    tasks = _slurm_tasks(environ)
    per_task, on_node = environ.get("SLURM_CPUS_PER_TASK", ""), environ.get("SLURM_CPUS_ON_NODE", "")
    if per_task.isdigit() and int(per_task):
        yield Default(int(per_task), "SLURM_CPUS_PER_TASK")
    elif on_node.isdigit() and int(on_node):
        yield Default(max(int(on_node) // tasks, 1), "SLURM_CPUS_ON_NODE" + (f", by {tasks} tasks" if tasks > 1 else ""))


def _slurm_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of this job step on this node: ``4(x2),1`` is four on each of two nodes, one on the third; 1 outside a step."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found:
            counts += [int(found[1])] * int(found[2] or 1)
    node = environ.get("SLURM_NODEID", "")
    at = int(node) if node.isdigit() else 0
    return max(counts[at], 1) if at < len(counts) else 1


def _mapped(root: Path) -> int:
    """Bytes of address space of this process."""
    return memory_table(root / "proc/self/status").get("VmSize", 0) << 10


def _physical(root: Path) -> int:
    total = memory_table(root / "proc/meminfo").get("MemTotal")
    return total << 10 if total else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _unescape(path: str) -> str:
    """A path of mountinfo, where blanks are written \\040."""
    return path.replace("\\040", " ")


def number(path: Path) -> int | None:
    """The integer in a file; None if there is none, or none meant (``max``)."""
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def memory_table(path: Path) -> dict[str, int]:
    """A file of ``name value`` or ``name: value unit`` lines; empty if it can't be read."""
    rows = [line.replace(":", " ").split() for line in _read(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
