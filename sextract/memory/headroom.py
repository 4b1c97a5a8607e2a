"""How much more memory the machine would let a run hold, asked before the slab grows.

Beyond a cgroup's limit comes SIGKILL, not an error.  What the limits are when none is given is ``config/machine.py``'s.
"""

from __future__ import annotations

from pathlib import Path

from sextract.config.machine import UNLIMITED, cgroup_held, cgroups, memory_table, number


def headroom(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that can still be held before the kernel kills someone, and what sets that.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are, for tests.

    Returns
    -------
    nbytes : int
        Smallest of what is left in each memory cgroup above this process and of the machine's available memory.
    what : str
        For messages.
    """
    found = [(memory_table(root / "proc/meminfo").get("MemAvailable", UNLIMITED >> 10) << 10, "memory of the machine")]
    for version, folder in cgroups(root, "memory"):
        limit = number(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is not None and limit < UNLIMITED:
            found.append((limit - cgroup_held(folder, version), f"memory cgroup /{folder.relative_to(root)}"))
    return min(found)
