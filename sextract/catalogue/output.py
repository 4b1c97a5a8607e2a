"""Files that appear whole or not at all, written without filling the page cache.

An `OutputFile` has no name, or a temporary one (``temporary.py``), and gets its own by `commit`.  What is written goes
to the disk soon after (``memory/writeback.py``): dirty pages belong to the memory of a cgroup.  It knows no format;
those are ``fits.py``, ``ascii.py`` and the check-images.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sextract.catalogue import temporary
from sextract.errors import OutputError
from sextract.memory.writeback import WriteBehind


def explain(exc: OSError, path: str, option: str) -> OutputError:
    """An `OSError` as the error of the output `path`, which `option` names."""
    what = {
        errno.ENOENT: "its folder does not exist",
        errno.ENOTDIR: "its folder is not a folder",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "no space left on the device",
        errno.EDQUOT: "the disk quota is exceeded",
        errno.ENAMETOOLONG: "the name is too long",
        errno.EISDIR: "it is a folder",
        errno.EPIPE: "the reader has gone",
        errno.EBADF: "it is closed",
        errno.EFBIG: "it grows beyond the largest file allowed (ulimit -f)",
        errno.EIO: "the device failed (Input/output error)",
    }.get(exc.errno or 0, exc.strerror or str(exc))
    return OutputError(f"can't write {path}: {what}; choose another place with {option}")


class OutputFile:
    """A file that appears under its name only when `commit` is called.

    A pipe or a device is written directly.  The object may cross a fork or be pickled: a forked process has the file
    open already, another one opens it through the process that made it, which must still live; and that one calls
    `commit` when all have written.

    Parameters
    ----------
    path : str
        Destination.  Links are followed.
    option : str
        The options that name it, for messages: ``-o or CATALOG_NAME``.
    seekable : bool
        The format goes back to earlier bytes, so that a pipe is refused.
    settled : bool
        `commit` waits until the disk has its name, too; else who made the file sees to that (`sync_folder`).

    Raises
    ------
    OutputError
        The folder is missing or not writable, or the destination is a folder.
    """

    def __init__(self, path: str, option: str, *, seekable: bool = True, settled: bool = True) -> None:
        self.path = path
        self.settled = settled
        self.option = option
        self.direct = False
        self.temporary = ""
        self.target = path
        self.appended = 0
        self.done = self.kept = False
        self.owner = self._pid = os.getpid()
        self.number = self._fd = -1
        self.inode = (0, 0)
        self._behind = WriteBehind()
        with self.translated():
            self._open(seekable)

    def _open(self, seekable: bool) -> None:
        self.target = os.path.realpath(self.path)
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            mode = 0
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", self.path)
        if mode and not os.access(self.path, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable", self.path)
        if mode and not stat.S_ISREG(mode):
            if seekable and not stat.S_ISCHR(mode):
                raise OutputError(
                    f"can't write {self.path}: this format needs a file, not a pipe; choose another place with "
                    f"{self.option}, or CATALOG_TYPE ASCII_HEAD"
                )
            # Not the resolved name: that of an anonymous pipe behind /dev/stdout can't be opened.
            self.direct = True
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        else:
            self._fd, self.temporary = temporary.create(self.target)
            # It is read back in large pieces, once; what is read ahead of these would be memory of a cgroup.
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        self.number = self._fd
        self.inode = _inode(self._fd)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fd, self._pid, self._behind = -1, -1, WriteBehind()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns an `OSError` within into an `OutputError` that names this file."""
        try:
            yield
        except OSError as exc:
            raise explain(exc, self.path, self.option) from exc

    @property
    def fd(self) -> int:
        """The descriptor of this process."""
        if self._pid != os.getpid():
            with self.translated():
                self._fd = self._inherited()
            self._pid, self._behind = os.getpid(), WriteBehind()
        return self._fd

    def _inherited(self) -> int:
        """The descriptor in a process that didn't make the file."""
        with contextlib.suppress(OSError):
            # A fork has it.  Positions are given with each read and write, so that sharing it does no harm.
            if _inode(self.number) == self.inode:
                return self.number
        return os.open(f"/proc/{self.owner}/fd/{self.number}", (os.O_WRONLY if self.direct else os.O_RDWR) | os.O_CLOEXEC)

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of `data` at an absolute position."""
        fd, view, start = self.fd, memoryview(data).cast("B"), offset
        with self.translated():
            while len(view):
                done = os.pwrite(fd, view, offset)
                offset += done
                view = view[done:]
            self._behind.written(fd, start, offset, offset - start)

    def append(self, data: bytes) -> None:
        """Write all of `data` behind what was appended before."""
        if not self.direct:
            self.pwrite(data, self.appended)
        else:
            fd, view = self.fd, memoryview(data)
            with self.translated():
                while len(view):
                    view = view[os.write(fd, view) :]
        self.appended += len(data)

    def wrote(self, offset: int, last: int, nbytes: int) -> None:
        """A kernel has written `nbytes` on its own within ``offset <= position < last``."""
        with self.translated():
            self._behind.written(self.fd, offset, last, nbytes)

    def pread(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from an absolute position; what lies beyond the end, or is in a device, reads as zeros."""
        if self.direct:
            buffer[:] = bytes(len(buffer))
            return
        with self.translated():
            while len(buffer):
                done = os.preadv(self.fd, [buffer], offset)
                if not done:
                    buffer[:] = bytes(len(buffer))
                    return
                buffer, offset = buffer[done:], offset + done

    def drop_cache(self, offset: int = 0, nbytes: int = 0) -> None:
        """Write that range (0 bytes: to the end) out and drop it from the page cache."""
        with self.translated():
            self._behind.settle(self.fd, offset, nbytes)

    def resize(self, nbytes: int) -> None:
        """Set the length; what is new reads as zeros."""
        if not self.direct:
            with self.translated():
                os.ftruncate(self.fd, nbytes)

    @property
    def size(self) -> int:
        """Its length, bytes."""
        with self.translated():
            return os.fstat(self.fd).st_size

    def keep(self, name: str) -> None:
        """Give the file a name under which it outlives this process, whatever happens; `commit` moves it from there."""
        with self.translated():
            if self.temporary:
                os.rename(self.temporary, name)
            else:
                temporary.link(self.fd, name)
            sync_folder(os.path.dirname(name))
        self.temporary, self.kept = name, True

    def adopt(self, name: str, nbytes: int) -> None:
        """Go on with the first bytes of a file that another process has kept, in place of what was written so far."""
        with self.translated():
            fd = temporary.reopen(name)
            try:
                os.ftruncate(fd, nbytes)
                os.dup2(fd, self.fd, inheritable=False)
            finally:
                os.close(fd)
            if self.temporary:
                os.unlink(self.temporary)
            temporary.lock(self.fd)
        self.temporary, self.kept, self.inode = name, True, _inode(self.fd)

    def finish(self) -> None:
        """Have everything on the disk: from here on `commit` can't fail for lack of space."""
        with self.translated():
            if not self.direct:
                self.drop_cache()
                os.fsync(self.fd)

    def commit(self) -> None:
        """Finish, and move the file in place."""
        if self.done:
            return
        self.finish()
        with self.translated():
            if not self.direct:
                temporary.publish(self.fd, self.temporary, self.target)
                if self.settled:
                    sync_folder(os.path.dirname(self.target))
            self._close()

    def _close(self) -> None:
        self.done = True
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                os.close(self._fd)

    def abort(self) -> None:
        """Give the file up; nothing happens after `commit`.  One that is kept stays."""
        if self.done:
            return
        self._close()
        if self.temporary and not self.kept:
            with contextlib.suppress(OSError):
                os.unlink(self.temporary)


class StandardOutput(OutputFile):
    """The same for standard output: bytes go out as they come, there is nothing to move or to remove."""

    def __init__(self, option: str) -> None:
        self.path, self.option, self.target, self.temporary = "STDOUT", option, "STDOUT", ""
        self.direct, self.appended, self.done, self.kept = True, 0, False, False
        self._behind = WriteBehind()
        self._fd, self._pid = 1, os.getpid()

    @property
    def fd(self) -> int:
        """Descriptor 1, in any process."""
        return 1

    def commit(self) -> None:
        """Nothing: every byte is out already."""

    def abort(self) -> None:
        """Nothing: what is out is out."""


def _inode(fd: int) -> tuple[int, int]:
    """What tells an open file from every other."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def sync_folder(folder: str) -> None:
    """Make a rename durable; file systems that can't are left alone."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
