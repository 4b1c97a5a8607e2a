"""Takes the pages of programs and libraries that a process no longer needs out of its resident memory.

Importing touches most of the code and constants of Python and numpy, running touches a third of them.  The rest counts as long
as it is mapped, in Pss as in a batch system's eyes.  The kernel brings a page back from the page cache when it is needed again.
Heaps are ``execution/environment.py``'s.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator
from typing import Any

_MADV_DONTNEED = 4

# Of /proc/self/smaps at a time; every process of a run reads all of it, some 200 KiB, when it starts.
_PIECE = 32 << 10
# The last line on a mapping, and the first on a read-only one of a file, behind what is left of the line before.
_END = b"\nVmFlags:"
_READ_ONLY = re.compile(rb"(?:.*\n)?([0-9a-f]+)-([0-9a-f]+) r-[-x]p \S+ \S+ [1-9]")
_RESIDENT = re.compile(rb"\nRss: +([1-9]\d*) kB")
_NOTHING_OWN = re.compile(rb"\nAnonymous: +0 kB")

_libc: Any = ctypes.CDLL(None)


def drop_code_pages() -> int:
    """Unmap the resident pages of read-only file mappings that hold nothing of this process's own.

    Returns
    -------
    int
        Bytes that were resident; 0 where the kernel doesn't tell.
    """
    try:
        with open("/proc/self/smaps", "rb", buffering=0) as file:
            found = list(droppable(iter(lambda: file.read(_PIECE), b"")))
    except OSError:
        return 0
    madvise = _libc.madvise
    return sum(
        resident
        for start, nbytes, resident in found
        if madvise(ctypes.c_void_p(start), ctypes.c_size_t(nbytes), _MADV_DONTNEED) == 0
    )


def droppable(smaps: Iterable[bytes]) -> Iterator[tuple[int, int, int]]:
    """Start, length and resident bytes of the mappings in the pieces of an smaps file that can be dropped.

    What was written to before it was protected (relocations), or by a debugger, is anonymous and stays.
    """
    rest = b""
    for piece in smaps:
        *mappings, rest = (rest + piece).split(_END)
        for text in mappings:
            head = _READ_ONLY.match(text)
            if head and _NOTHING_OWN.search(text) and (resident := _RESIDENT.search(text)):
                start = int(head[1], 16)
                yield start, int(head[2], 16) - start, int(resident[1]) << 10
