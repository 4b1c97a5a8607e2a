"""Nameless scratch files that hold a whole image: unpacked, or fetched from where only parts of it can be read.

Nothing is left behind however the run ends, because the file never has a name (or loses it before it is filled).  It is on
disk: a scratch folder in memory would hold the image outside the memory limit, and is refused unless the user names it.
Buffers that outgrow memory are ``memory/spill.py``'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from sextract.config.machine import memory_filesystem
from sextract.errors import InputError, OutputError

# Dirty pages count for a memory cgroup: every so often their writing is begun.
WRITE_BEHIND_BYTES = 8 * 1024 * 1024


class ScratchFile:
    """A file to be filled from its beginning, or by parts.

    Parameters
    ----------
    path : str
        The image, for messages.
    scratch_dir : str
        Folder; default: $TMPDIR, else /var/tmp.
    what : str
        What is done to the image there: ``unpacking``.

    Attributes
    ----------
    fd : int
        Open for reading and writing; whoever takes it closes it.

    Raises
    ------
    InputError
        The folder is in memory.
    OutputError
        It is missing or not writable.
    """

    def __init__(self, path: str, scratch_dir: str, what: str) -> None:
        # Not at the head: what it imports is a MiB in every process of a run, and most images need no scratch.
        import tempfile

        self.path = path
        self._doing = what
        self._folder = scratch_dir or os.environ.get("TMPDIR") or "/var/tmp"
        kind = memory_filesystem(self._folder)
        if kind and not scratch_dir:
            raise InputError(
                f"{path}: {what} it to {self._folder} would fill memory (a {kind}): name a folder on disk with --scratch"
            )
        self._begun = self._at = 0
        try:
            with tempfile.TemporaryFile(dir=self._folder, prefix="sextract-", buffering=0) as file:
                self.fd = os.dup(file.fileno())
        except OSError as exc:
            raise self._failed(exc) from exc

    def seek(self, offset: int) -> None:
        """Go on writing there."""
        self._behind()
        self._begun = self._at = os.lseek(self.fd, offset, os.SEEK_SET)

    def write(self, chunk: bytes | memoryview) -> None:
        """Write all of it."""
        view = memoryview(chunk)
        self._at += len(view)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as exc:
            raise self._failed(exc) from exc
        if self._at - self._begun >= WRITE_BEHIND_BYTES:
            self._behind()

    def finish(self, size: int = -1) -> None:
        """Have it all on the disk, and the file `size` bytes long; what was not written is zeros."""
        try:
            if size >= 0:
                os.ftruncate(self.fd, size)
            # A page that the disk refused is dropped in silence, unless someone asks.
            os.fdatasync(self.fd)
        except OSError as exc:
            raise self._failed(exc) from exc

    def _behind(self) -> None:
        # On pages that are still dirty this begins their writing and drops nothing.
        os.posix_fadvise(self.fd, self._begun, self._at - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self._at

    def _failed(self, exc: OSError) -> OutputError:
        verb = {"unpacking": "unpack", "copying": "copy"}[self._doing]
        return OutputError(
            f"{self.path}: can't {verb} to the scratch folder {self._folder}: {exc.strerror}; name another one with --scratch"
        )


def filled(path: str, scratch_dir: str, what: str, fill: Callable[[ScratchFile], None]) -> int:
    """Descriptor of a scratch file that `fill` has filled; none is left open if it fails."""
    file = ScratchFile(path, scratch_dir, what)
    try:
        fill(file)
    except BaseException:
        os.close(file.fd)
        raise
    return file.fd
