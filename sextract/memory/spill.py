"""The scratch file: what must be kept but needn't be in memory, mostly runs and sources far behind the scan.

Unlinked when it is created, so nothing is left whatever happens; inherited by processes forked later.  One process
appends, all may read.  It decides nothing about what goes there, and image tiles never do: they are read again.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.config.machine import memory_filesystem
from sextract.errors import ConfigError, OutputError
from sextract.memory.writeback import WriteBehind, drop

Bytes = bytes | bytearray | memoryview | NDArray[Any]


def _as_bytes(data: Bytes) -> memoryview:
    """The bytes themselves; a record array has no format that memoryview could cast."""
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise ValueError("scratch data must be contiguous")
        return data.reshape(-1).view(np.uint8).data
    return memoryview(data).cast("B")


def scratch_folder(chosen: str = "") -> str:
    """The folder for scratch files: `chosen`, or the first of TMPDIR, /var/tmp, /tmp and the current one on a disk.

    Raises
    ------
    ConfigError
        If `chosen` can't be written to, or lies in memory (tmpfs), where it would count against the limit; or if
        nothing else will do.
    """
    if chosen:
        if not os.path.isdir(chosen) or not os.access(chosen, os.W_OK | os.X_OK):
            raise ConfigError(f"the scratch folder {chosen} (--scratch) isn't a folder that can be written to")
        kind = memory_filesystem(chosen)
        if kind:
            raise ConfigError(f"the scratch folder {chosen} (--scratch) is {kind}, which is memory; name a disk")
        return chosen
    candidates = [os.environ.get("TMPDIR", ""), "/var/tmp", "/tmp", os.getcwd()]
    for folder in candidates:
        usable = bool(folder) and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
        if usable and not memory_filesystem(folder):
            return folder
    raise ConfigError(
        "no folder on a disk can be written to for scratch files (TMPDIR, /var/tmp and /tmp are memory or read-only): "
        "name one with --scratch"
    )


def open_unlinked(folder: str) -> int:
    """A file without a name."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        # Not every file system has O_TMPFILE.
        import tempfile

        fd, path = tempfile.mkstemp(prefix="sextract-", dir=folder)
        os.unlink(path)
        return fd


def explain_scratch(exc: OSError, folder: str, nbytes: int) -> OutputError:
    """A failed write of scratch as an error for the user."""
    return OutputError(
        f"can't write {nbytes} bytes of scratch in {folder} ({exc.strerror}): free some space, "
        f"name another folder with --scratch, or raise --mem-limit"
    )


class Spill:
    """An append-only scratch file.

    Parameters
    ----------
    folder : str
        A folder on a disk; see `scratch_folder`.

    Raises
    ------
    OutputError
        If the file can't be made, or later, if the disk is full.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = scratch_folder(folder)
        try:
            self._fd = open_unlinked(self._folder)
        except OSError as exc:
            raise OutputError(f"can't make a scratch file in {self._folder} (--scratch): {exc.strerror}") from exc
        self._behind = WriteBehind()
        self._end = 0
        self.peak = 0

    @property
    def used(self) -> int:
        """Bytes of the file handed out."""
        return self._end

    def reserve(self, nbytes: int) -> int:
        """Offset of the next `nbytes`, for someone who will ``write`` them; only the owner may reserve."""
        offset = self._end
        self._end += nbytes
        self.peak = max(self.peak, self._end)
        return offset

    def put(self, data: Bytes) -> tuple[int, int]:
        """Append bytes; their offset and length."""
        with _as_bytes(data) as view:
            offset = self.reserve(view.nbytes)
            self.write(offset, view)
            return offset, view.nbytes

    def write(self, offset: int, data: Bytes) -> None:
        """Write bytes to a place reserved before; any process."""
        with _as_bytes(data) as view:
            done = 0
            try:
                while done < view.nbytes:
                    done += os.pwrite(self._fd, view[done:], offset + done)
                self._behind.written(self._fd, offset, offset + done, done)
            except OSError as exc:
                raise explain_scratch(exc, self._folder, view.nbytes) from exc

    def get(self, offset: int, nbytes: int, out: Bytes) -> None:
        """Read bytes back into `out` (at least `nbytes` long); any process."""
        with _as_bytes(out) as whole, whole[:nbytes] as view:
            done = 0
            while done < nbytes:
                try:
                    got = os.preadv(self._fd, [view[done:]], offset + done)
                except OSError as exc:
                    raise OutputError(
                        f"can't read {nbytes} bytes of scratch in {self._folder} ({exc.strerror}): name another folder "
                        f"with --scratch"
                    ) from exc
                if got == 0:
                    raise ValueError(f"scratch bytes {offset}..{offset + nbytes} were never written")
                done += got
        drop(self._fd, offset, nbytes)

    def clear(self) -> None:
        """Forget everything, between two images; nobody may read old offsets any more."""
        os.ftruncate(self._fd, 0)
        self._behind = WriteBehind()
        self._end = 0

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
