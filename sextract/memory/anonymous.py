"""A file in memory without a name: shared by whoever inherits it, gone with the last of them.

What is kept in it is ``slab.py``'s.
"""

from __future__ import annotations

import ctypes
import errno
import os

from sextract.errors import LimitError

# From linux/memfd.h; Python knows the first, or neither.
_MFD_CLOEXEC, _MFD_NOEXEC_SEAL = 0x0001, 0x0008


def _memfd(flags: int = _MFD_CLOEXEC | _MFD_NOEXEC_SEAL) -> int:
    """An anonymous file in memory, closed on exec."""
    try:
        if hasattr(os, "memfd_create"):
            return os.memfd_create("sextract", flags)
        # A Python that was built against an old C library (conda's) lacks what the system has.
        libc = ctypes.CDLL(None, use_errno=True)
        fd = int(libc.memfd_create(b"sextract", flags)) if hasattr(libc, "memfd_create") else -1
        if fd < 0:
            raise OSError(ctypes.get_errno() or errno.ENOSYS, os.strerror(ctypes.get_errno() or errno.ENOSYS))
        return fd
    except OSError as exc:
        # Kernels before 6.3 don't know the second flag, later ones may ask for it.
        if exc.errno == errno.EINVAL and flags & _MFD_NOEXEC_SEAL:
            return _memfd(_MFD_CLOEXEC)
        raise


def anonymous_file(nbytes: int) -> int:
    """A memfd; in a sandbox that forbids those, a file without a name in /dev/shm, if that has room for `nbytes`.

    Raises
    ------
    LimitError
    """
    try:
        return _memfd()
    except OSError as exc:
        why = f"memfd_create: {exc.strerror}"
    try:
        fd = os.open("/dev/shm", os.O_TMPFILE | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LimitError(f"can't make a buffer in memory ({why}; /dev/shm: {exc.strerror})") from exc
    room = os.fstatvfs(fd)
    free = room.f_bavail * room.f_frsize
    if free < nbytes:
        os.close(fd)
        raise LimitError(
            f"can't make a buffer in memory ({why}), and /dev/shm has room for {free >> 20} MiB: lower --mem-limit to that"
        )
    return fd
