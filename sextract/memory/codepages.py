"""Takes the pages of programs and libraries that a process no longer needs out of its resident memory.

Importing touches most of the code of Python and numpy, running touches a third of it.  The rest counts as long as it is
mapped, in Pss as in a batch system's eyes.  The kernel brings a page back from the page cache when it is needed again.
Heaps are ``execution/environment.py``'s.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

_MADV_DONTNEED = 4

_libc: Any = ctypes.CDLL(None)


def drop_code_pages() -> int:
    """Unmap the resident pages of all code that comes from files; how many mappings that concerned.

    Code is never written to, so nothing is lost.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            found = list(_code_mappings(lines))
    except OSError:
        return 0
    madvise = _libc.madvise
    return sum(madvise(ctypes.c_void_p(at), ctypes.c_size_t(nbytes), _MADV_DONTNEED) == 0 for at, nbytes in found)


def _code_mappings(lines: Iterator[str]) -> Iterator[tuple[int, int]]:
    """Start and length of the executable mappings of files."""
    for line in lines:
        extent, mode, _, _, inode, *_ = line.split()
        if mode == "r-xp" and inode != "0":
            first, _, last = extent.partition("-")
            yield int(first, 16), int(last, 16) - int(first, 16)
