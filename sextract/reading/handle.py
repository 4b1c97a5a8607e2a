"""An input file that many processes read: opened when first needed, once per process, and known not to have changed.

The process that opened it first keeps it open; what it forks reads the same file, even if its name has been given to
another one meanwhile.  `check_unchanged` tells at the end whether all that was read came from one state of it.

It knows bytes only.  Reads are positioned, so that processes which inherited one descriptor don't disturb each other.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sextract.errors import InputError

# Bytes between the rows of a narrow box that are cheaper read over than skipped by one more system call.
CHEAP_GAP_BYTES = 32 * 1024


class Handle(Protocol):
    """What formats read from: a `FileHandle`, or an object on a server that looks like one."""

    path: str
    cheap_gap_bytes: int

    @property
    def identity(self) -> tuple[int | str, ...]:
        """What tells one state of it from another."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    def fileno(self) -> int:
        """Descriptor of this process, where there is one."""
        ...

    def expect(self, offset: int, nbytes: int) -> None:
        """A hint: the next reads are in these bytes, in order."""
        ...

    def read(self, offset: int, out: NDArray[np.uint8]) -> int:
        """Fill `out` from byte `offset`; fewer bytes than its length only at the end of the file."""
        ...

    def read_exactly(self, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` from byte `offset`; an InputError if the file ends before."""
        ...

    def check_unchanged(self) -> None:
        """InputError if the file is not what it was."""
        ...

    def drop_behind(self) -> None:
        """Have what is read leave the page cache."""
        ...

    def close(self) -> None:
        """Let go of it in this process."""
        ...


class Identity(NamedTuple):
    """What must not change while a file is read."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, fd: int) -> Identity:
        """Identity of an open file."""
        st = os.fstat(fd)
        return cls(st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns)


class FileHandle:
    """A file by path, or by a descriptor that one process keeps because the file has no name any more.

    Parameters
    ----------
    path : str
        What messages call it, and what is opened.
    kept : int, optional
        Open descriptor of a nameless file; this process owns it.  A forked child uses its own copy, any other process
        opens it through the owner's ``/proc`` entry, so the owner must live as long as others begin to read.

    Attributes
    ----------
    drops : bool
        What was read leaves the page cache.

    Raises
    ------
    InputError
        The file can't be opened.
    """

    cheap_gap_bytes = CHEAP_GAP_BYTES

    def __init__(self, path: str, kept: int = -1) -> None:
        self.path = path
        self._target = os.path.abspath(path)
        self._kept = kept
        self._owner = os.getpid()
        self.drops = False
        self._owns = kept >= 0
        self._fd = kept
        self._pid = self._owner if kept >= 0 else -1
        self.identity = Identity.of(self._open_named() if kept < 0 else kept)

    @property
    def size(self) -> int:
        """Bytes of the file when it was first opened."""
        return self.identity.size

    def fileno(self) -> int:
        """Descriptor of this process.

        Raises
        ------
        InputError
            The file is gone, or is not the one that was there before.
        """
        if self._pid == os.getpid():
            return self._fd
        fd = self._open_inherited()
        if fd < 0:
            fd = self._open_kept() if self._kept >= 0 else self._open_named()
        if Identity.of(fd) != self.identity:
            self.close()
            raise self._changed()
        return fd

    def check_unchanged(self) -> None:
        """Make sure that the file is still what it was when it was opened.

        Raises
        ------
        InputError
            It was written to, cut, or replaced by another one meanwhile.  One that was removed is no error: its bytes
            are there as long as somebody has it open.
        """
        if Identity.of(self.fileno()) != self.identity:
            raise self._changed()
        if self._kept < 0:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(self._target)
                if (status.st_dev, status.st_ino) != self.identity[:2]:
                    raise self._changed()

    def _changed(self) -> InputError:
        return InputError(f"{self.path}: the file changed while it was being read; run again when it is complete")

    def _open_named(self) -> int:
        try:
            fd = os.open(self._target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise InputError(f"{self.path}: can't open the image: {exc.strerror}") from exc
        return self._adopt(fd)

    def _open_inherited(self) -> int:
        """The file that a fork has open already, opened anew for read-ahead of its own; -1 if there is none."""
        fd = self._fd
        with contextlib.suppress(OSError):
            # Something else may have taken that number since.
            if fd >= 0 and Identity.of(fd)[:2] == self.identity[:2]:
                with contextlib.suppress(OSError):
                    fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                return self._adopt(fd)
        return -1

    def _open_kept(self) -> int:
        try:
            fd = os.open(f"/proc/{self._owner}/fd/{self._kept}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise InputError(f"{self.path}: its unpacked copy is gone with the process that made it") from exc
        return self._adopt(fd)

    def _adopt(self, fd: int) -> int:
        # Both passes read forward; pages stay cached for the second one.  Where they don't, reading ahead would fetch some MiB
        # that others drop again.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM if self.drops else os.POSIX_FADV_SEQUENTIAL)
        self._fd, self._pid = fd, os.getpid()
        return fd

    def drop_behind(self) -> None:
        """From now on, have what is read leave the page cache."""
        self.drops = True
        if self._pid == os.getpid():
            self._adopt(self._fd)

    def expect(self, offset: int, nbytes: int) -> None:
        """Nothing: the kernel reads ahead."""

    def read(self, offset: int, out: NDArray[np.uint8]) -> int:
        """Fill `out` from byte `offset`; fewer bytes than its length only at the end of the file."""
        fd, view, done = self.fileno(), out.data, 0
        try:
            while done < len(view):
                got = os.preadv(fd, [view[done:]], offset + done)
                if got == 0:
                    break
                done += got
        except OSError as exc:
            what = self.path if self._kept < 0 else f"{self.path}, unpacked to a scratch file"
            raise InputError(f"{what}: can't read {len(view)} bytes at {offset}: {exc.strerror}") from exc
        if self.drops:
            os.posix_fadvise(fd, offset, done, os.POSIX_FADV_DONTNEED)
        return done

    def read_exactly(self, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` from byte `offset`; an InputError if the file ends before."""
        got = self.read(offset, out)
        if got < len(out):
            raise InputError(
                f"{self.path}: the file changed while it was being read: it ends at byte {offset + got}, it had {self.size}"
            )

    def close(self) -> None:
        """Close this process's descriptor, but not a nameless file's while its owner may be asked for it."""
        if self._pid == os.getpid() and self._fd != self._kept:
            os.close(self._fd)
            self._fd = self._pid = -1

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            mine = self._fd != self._kept or (self._owns and self._pid == self._owner)
            if mine and self._fd >= 0 and self._pid == os.getpid():
                os.close(self._fd)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_fd": -1, "_pid": -1, "_owns": False}
