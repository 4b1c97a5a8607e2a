"""Keeps what writers leave in the page cache small: starts writing early, waits for what is old, drops what is done.

Dirty pages count against a memory cgroup and can't be dropped, so a fast writer can get its own run killed.  It serves the
scratch file, catalogues and check-images; it writes nothing itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections import deque

# Written bytes that may wait for the disk, per file and process: two such pieces are in flight.
WRITE_BEHIND_BYTES = 1 << 20

# The same where writes leave gaps, and how many such pieces stay: neighbours should have time to complete a page.
SCATTERED_BYTES = 2 << 20
SCATTERED_PIECES = 2

# What sync_file_range says of files that have nothing to sync: pipes, devices, some file systems.
_NOT_SYNCABLE = frozenset({errno.ESPIPE, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4

_sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def _sync(fd: int, offset: int, nbytes: int, wait: bool) -> None:
    """Start to write a range of a file (0 bytes: to the end) to the disk, or wait until it is there; OSError."""
    if _sync_file_range is None:
        if wait:
            os.fdatasync(fd)
    elif _sync_file_range(fd, offset, nbytes, (_WAIT_BEFORE | _WRITE | _WAIT_AFTER) if wait else _WRITE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def start_writing(fd: int, offset: int, nbytes: int) -> None:
    """Have the kernel begin to write what is dirty in a range; OSError if the disk is full or fails."""
    try:
        _sync(fd, offset, nbytes, wait=False)
    except OSError as exc:
        if exc.errno not in _NOT_SYNCABLE:
            raise


def drop(fd: int, offset: int = 0, nbytes: int = 0) -> None:
    """Drop clean pages of a range (0 bytes: to the end) from the page cache."""
    # Not a file that has pages, a pipe say: then there is nothing to drop.
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)


class WriteBehind:
    """Keeps at most about two pieces of written data of one descriptor off the disk.

    Ranges may come in any order; a piece is the span of what came since the last one.  What is on the disk leaves the page
    cache, but for where later pieces have begun: where writes leave gaps, neighbours may still complete a page, and to drop
    it would mean reading it back.

    Attributes
    ----------
    off : bool
        The file has nothing to sync: a pipe, a device.
    """

    __slots__ = ("_first", "_last", "_pending", "_pieces", "off")

    def __init__(self) -> None:
        self._first = 0
        self._last = 0
        self._pending = 0
        self._pieces: deque[tuple[int, int, bool]] = deque()
        self.off = False

    def written(self, fd: int, offset: int, last: int, nbytes: int) -> None:
        """`nbytes` within ``offset <= position < last`` were written; waits for the disk if too many are pending.

        Raises
        ------
        OSError
            What the disk said of these or of earlier bytes.
        """
        if self.off:
            return
        self._first = offset if not self._pending else min(self._first, offset)
        self._last = max(self._last, last) if self._pending else last
        self._pending += nbytes
        dense = self._last - self._first <= self._pending
        if self._pending < (WRITE_BEHIND_BYTES if dense else SCATTERED_BYTES):
            return
        self._pending = 0
        if self._synced(fd, self._first, self._last - self._first, wait=False):
            self._pieces.append((self._first, self._last, dense))
            if len(self._pieces) > (1 if dense else SCATTERED_PIECES):
                self._let_go(fd)

    def _let_go(self, fd: int) -> None:
        """Wait for the oldest piece, and drop what no later one looks like going on with."""
        first, last, dense = self._pieces.popleft()
        if self._synced(fd, first, last - first, wait=True):
            end = last if dense else min(last, *(piece[0] for piece in self._pieces))
            if end > first:
                drop(fd, first, end - first)

    def settle(self, fd: int, offset: int = 0, nbytes: int = 0) -> None:
        """Wait until a range (0 bytes: to the end) is on the disk and drop it from the page cache; OSError."""
        if not self.off and self._synced(fd, offset, nbytes, wait=True):
            drop(fd, offset, nbytes)

    def _synced(self, fd: int, offset: int, nbytes: int, wait: bool) -> bool:
        try:
            _sync(fd, offset, nbytes, wait)
        except OSError as exc:
            if exc.errno not in _NOT_SYNCABLE:
                raise
            self.off = True
        return not self.off
