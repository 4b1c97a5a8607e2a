"""Room on disk behind the slab, for tables that outgrow it: what crowding, or one footprint of millions of runs, piles up.

The slab's address range goes on over an unlinked scratch file, so that a ``BlockRef`` beyond the slab means the same bytes in
every process and kernels needn't know.  Such blocks are worked through in order, some pages at a time, and each process lets
go of them after every piece of work (``drop``): they count as memory no longer than that.  Tiles, stamps and scratch, which
are read again and again, never lie here.  Runs and rows that only wait have ``spill.py``, which needs no address.

Blocks are given out one behind the other; a freed one goes back to the file system at once, and the place starts over when
none is left.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from typing import Any

from sextract.config.machine import OVERFLOW_PART
from sextract.errors import ConfigError
from sextract.memory.spill import explain_scratch, open_unlinked, scratch_folder
from sextract.memory.writeback import start_writing
from sextract.records import BlockRef

# Address space, and what one run may have on disk at the same time.
MOST_BYTES = 64 << 30
_PAGE = 4096

_FALLOC_PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_MAP_FIXED = 0x10
_MADV_RANDOM, _MADV_DONTNEED = 1, 4


def overflow_bytes(base: int) -> int:
    """How much address space there may be behind `base` bytes of slab."""
    most = MOST_BYTES
    addresses, file_size = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE))
    if addresses != resource.RLIM_INFINITY:
        most = min(most, addresses // OVERFLOW_PART)
    if file_size != resource.RLIM_INFINITY:
        most = min(most, max(file_size - base, 0))
    return most // _PAGE * _PAGE


class Overflow:
    """A scratch file mapped behind the slab.

    Parameters
    ----------
    folder : str
        As chosen with ``--scratch``; see `scratch_folder`.
    base : int
        Offset of its first byte in the slab's range.

    Raises
    ------
    ConfigError, OSError
        There is no folder for it, or no file can be made there.
    """

    def __init__(self, folder: str, base: int) -> None:
        self._folder = scratch_folder(folder)
        self._fd = open_unlinked(self._folder)
        self._base = base
        self._address = self._size = 0
        self._end = 0
        self._blocks: dict[int, int] = {}
        self.used = self.peak = 0

    def attach(self, address: int, nbytes: int) -> None:
        """Map the file over that range, which is part of a mapping that the caller owns."""
        flags = mmap.MAP_SHARED | _MAP_FIXED
        if _libc.mmap(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, self._fd, 0) != address:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._address, self._size = address, nbytes
        # Without this the page cache holds it in blocks of up to 2 MiB, and a newer kernel maps all of one for a byte of it.
        _libc.madvise(address, nbytes, _MADV_RANDOM)

    def renew(self) -> None:
        """Take all blocks back, and their room on the disk."""
        if self._end:
            self.drop()
            os.ftruncate(self._fd, 0)
        self._blocks.clear()
        self._end = self.used = self.peak = 0

    def __contains__(self, ref: BlockRef) -> bool:
        return ref.offset >= self._base

    def alloc(self, nbytes: int) -> BlockRef | None:
        """A block of undefined content; None if the range is used up.

        Raises
        ------
        OutputError
            The disk is full.
        """
        taken = -(-max(nbytes, 1) // _PAGE) * _PAGE
        if self._end + taken > self._size:
            return None
        try:
            # A hole in the file would be a SIGBUS in waiting.
            os.posix_fallocate(self._fd, self._end, taken)
        except OSError as exc:
            raise explain_scratch(exc, self._folder, nbytes) from exc
        ref = BlockRef(self._base + self._end, nbytes)
        self._blocks[ref.offset] = taken
        self._end += taken
        self.used += taken
        self.peak = max(self.peak, self.used)
        return ref

    def free(self, ref: BlockRef) -> None:
        """Take a block back; ValueError if it isn't lent out."""
        taken = self._blocks.pop(ref.offset, None)
        if taken is None:
            raise ValueError(f"{ref} isn't lent out")
        self.used -= taken
        if not self._blocks:
            self._end = 0
            os.ftruncate(self._fd, 0)
        else:
            # Where a file system can't, its room comes back at the end.
            _libc.fallocate(self._fd, _FALLOC_PUNCH, ref.offset - self._base, taken)

    def drop(self) -> None:
        """Let go of the pages that this process has touched; what is in them stays in the file."""
        _libc.madvise(self._address, self._size, _MADV_DONTNEED)

    def settle(self) -> None:
        """`drop`, and have what was written begin its way to the disk, for the process that gives out blocks."""
        if self._end:
            self.drop()
            start_writing(self._fd, 0, self._end)

    def close(self) -> None:
        """Give the file back; the mapping goes with the slab's."""
        os.close(self._fd)


def open_overflow(folder: str, base: int) -> Overflow | None:
    """An overflow, or None where no folder is fit for one, or no address: only a run that needs it fails then."""
    if not overflow_bytes(base):
        return None
    try:
        return Overflow(folder, base)
    except (ConfigError, OSError):
        if folder:
            raise
        return None
