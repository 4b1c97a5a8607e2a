"""Takes the pages of programs and libraries that a process no longer needs out of its resident memory.

Importing touches most of the code and constants of Python and numpy, running touches a third of them.  The rest counts as long
as it is mapped, in Pss as in a batch system's eyes.  The kernel brings a page back from the page cache when it is needed again.
Heaps are ``execution/environment.py``'s.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import Any

_MADV_DONTNEED = 4

_libc: Any = ctypes.CDLL(None)


def drop_code_pages() -> int:
    """Unmap the resident pages of read-only file mappings that hold nothing of this process's own.

    Returns
    -------
    int
        Bytes that were resident; 0 where the kernel doesn't tell.
    """
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as lines:
            found = list(droppable(lines))
    except OSError:
        return 0
    madvise = _libc.madvise
    return sum(
        resident
        for start, nbytes, resident in found
        if madvise(ctypes.c_void_p(start), ctypes.c_size_t(nbytes), _MADV_DONTNEED) == 0
    )


def droppable(smaps: Iterable[str]) -> Iterator[tuple[int, int, int]]:
    """Start, length and resident bytes of the mappings of an smaps file that can be dropped.

    What was written to before it was protected (relocations), or by a debugger, is anonymous and stays.
    """
    start = nbytes = resident = 0
    for line in smaps:
        word, *rest = line.split()
        if not word.endswith(":"):
            nbytes = 0
            if rest[0] in ("r-xp", "r--p") and rest[3] != "0":
                first, _, last = word.partition("-")
                start, nbytes = int(first, 16), int(last, 16) - int(first, 16)
        elif nbytes and word == "Rss:":
            resident = int(rest[0]) << 10
        elif nbytes and word == "Anonymous:" and rest[0] == "0" and resident:
            yield start, nbytes, resident
