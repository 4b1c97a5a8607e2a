"""How much more memory the machine would let a run hold, asked before the slab grows.

Beyond a cgroup's limit comes SIGKILL, not an error.  What the limits are when none is given is ``config/machine.py``'s.
"""

from __future__ import annotations

from pathlib import Path

from sextract.config.machine import UNLIMITED, cgroups


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
    found = [(_table(root / "proc/meminfo").get("MemAvailable", UNLIMITED >> 10) << 10, "memory of the machine")]
    for version, folder in cgroups(root, "memory"):
        limit = _number(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is not None and limit < UNLIMITED:
            found.append((limit - _held(folder, version), f"memory cgroup /{folder.relative_to(root)}"))
    return min(found)


def _held(folder: Path, version: int) -> int:
    """Bytes of a cgroup that the kernel can't simply drop: all but clean page cache (which has no shared memory)."""
    usage = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
    stat = _table(folder / "memory.stat")
    prefix = "" if version == 2 else "total_"
    cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    # What is dirty has to be written first.
    dirty = stat.get("file_dirty", 0) if version == 2 else stat.get("total_dirty", 0)
    return max(usage - max(cache - dirty, 0), 0)


def _number(path: Path) -> int | None:
    """The integer in a file; None if there is none, or none meant (``max``)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """A file of ``name value`` lines."""
    try:
        rows = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
