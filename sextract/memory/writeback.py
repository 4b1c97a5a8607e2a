"""Keeps what a writer leaves in the page cache small: starts writing early, waits for what is old, drops what is done.

Dirty pages count against a memory cgroup and can't be dropped, so a fast writer can get its own run killed.  It serves
the spill file; catalogues and check-images, which are written in scattered ranges, have ``catalogue/output.py``.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque

# Two pieces may be dirty or on their way per file.
_PIECE = 4 << 20
_PENDING = 2

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4

# A disk that is full or fails may tell only now.  Anything else means that this file has nothing to sync.
_FAILED = (errno.EIO, errno.ENOSPC, errno.EDQUOT)

_sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def _sync(fd: int, offset: int, nbytes: int, wait: bool) -> None:
    """Start writing a range of a file, or wait until it is written; nothing where a file system can't.

    Raises
    ------
    OSError
        The disk is full or has failed.
    """
    if _sync_file_range is not None:
        bad = _sync_file_range(fd, offset, nbytes, (_WAIT_BEFORE | _WRITE | _WAIT_AFTER) if wait else _WRITE)
        code = ctypes.get_errno()
        if bad and code in _FAILED:
            raise OSError(code, os.strerror(code))
    elif wait:
        os.fdatasync(fd)


def start_writing(fd: int, offset: int, nbytes: int) -> None:
    """Have the kernel begin to write what is dirty in a range."""
    _sync(fd, offset, nbytes, wait=False)


def drop(fd: int, offset: int, nbytes: int) -> None:
    """Drop clean pages of a range from the page cache."""
    try:
        os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)
    except OSError:
        # Not a file that has pages, a pipe say: then there is nothing to drop.
        return


class WriteBehind:
    """Told of each write to a file, it bounds the file's dirty pages to some MiB.

    Parameters
    ----------
    fd : int
        The file; it must stay open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._start = self._end = 0
        self._pending: deque[tuple[int, int]] = deque()

    def wrote(self, offset: int, nbytes: int) -> None:
        """`nbytes` were written at `offset`."""
        if offset != self._end:
            self._submit()
            self._start = offset
        self._end = offset + nbytes
        if self._end - self._start >= _PIECE:
            self._submit()

    def finish(self) -> None:
        """Write and drop all that is left."""
        self._submit()
        self._settle(0)

    def _submit(self) -> None:
        if self._end > self._start:
            _sync(self._fd, self._start, self._end - self._start, wait=False)
            self._pending.append((self._start, self._end - self._start))
            self._settle(_PENDING)
        self._start = self._end

    def _settle(self, keep: int) -> None:
        while len(self._pending) > keep:
            offset, nbytes = self._pending.popleft()
            _sync(self._fd, offset, nbytes, wait=True)
            drop(self._fd, offset, nbytes)
