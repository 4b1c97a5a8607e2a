"""``.gz``: the file is unpacked to a nameless scratch file, which is then read like any other.

Nothing is left behind however the run ends, because the scratch file never has a name (or loses it before it is
filled).  It is on disk: a scratch folder in memory would hold the image outside the memory limit, and is refused unless
the user names it.
"""

from __future__ import annotations

import os

from sextract.config.machine import memory_filesystem
from sextract.errors import InputError, OutputError
from sextract.reading.fits import list_hdus
from sextract.reading.handle import FileHandle, Identity
from sextract.reading.source import OPENERS, Hdu, Opener

CHUNK_BYTES = 32 * 1024

# Dirty pages count for a memory cgroup: every so often their writing is begun.
WRITE_BEHIND_BYTES = 8 * 1024 * 1024


def open_gz(path: str, scratch_dir: str = "") -> list[Hdu]:
    """HDUs of a gzipped FITS file.

    Parameters
    ----------
    path : str
    scratch_dir : str
        Folder of the scratch file; default: $TMPDIR, else /var/tmp.

    Raises
    ------
    InputError
        The file is damaged, or holds no FITS; or the scratch folder is in memory.
    OutputError
        The scratch folder is missing, not writable or full.
    """
    folder = scratch_dir or os.environ.get("TMPDIR") or "/var/tmp"
    kind = memory_filesystem(folder)
    if kind and not scratch_dir:
        raise InputError(
            f"{path}: unpacking it to {folder} would fill memory (a {kind}): name a folder on disk with --scratch"
        )
    fd = _scratch_file(path, folder)
    try:
        _unpack(path, fd, folder)
        if os.pread(fd, 9, 0) != b"SIMPLE  =":
            raise InputError(f"{path}: what is packed in it is not a FITS file")
    except BaseException:
        os.close(fd)
        raise
    return list_hdus(FileHandle(path, kept=fd))


def _scratch_file(path: str, folder: str) -> int:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder, prefix="sextract-", buffering=0) as file:
            return os.dup(file.fileno())
    except OSError as exc:
        raise _no_scratch(path, folder, exc) from exc


def _unpack(path: str, fd: int, folder: str) -> None:
    # Not at the head: what these import is a MiB in every process of a run, and most images aren't packed.
    import gzip
    import zlib

    begun = written = 0
    try:
        with open(path, "rb") as file, gzip.open(file) as packed:
            before = Identity.of(file.fileno())
            while chunk := packed.read(CHUNK_BYTES):
                _write(fd, chunk, path, folder)
                written += len(chunk)
                if written - begun >= WRITE_BEHIND_BYTES:
                    # On pages that are still dirty this begins their writing and drops nothing.
                    os.posix_fadvise(fd, begun, written - begun, os.POSIX_FADV_DONTNEED)
                    begun = written
            if Identity.of(file.fileno()) != before:
                raise InputError(f"{path}: the file changed while it was being read; run again when it is complete")
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise InputError(f"{path}: the gzip data are damaged after {written} bytes: {exc}") from exc
    except OSError as exc:
        raise InputError(f"{path}: can't read the image: {exc.strerror}") from exc
    try:
        # A page that the disk refused is dropped in silence, unless someone asks.
        os.fdatasync(fd)
    except OSError as exc:
        raise _no_scratch(path, folder, exc) from exc


def _write(fd: int, chunk: bytes, path: str, folder: str) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as exc:
        raise _no_scratch(path, folder, exc) from exc


def _no_scratch(path: str, folder: str, exc: OSError) -> OutputError:
    return OutputError(f"{path}: can't unpack to the scratch folder {folder}: {exc.strerror}; name another one with --scratch")


def _recognises(first: bytes) -> bool:
    return first.startswith(b"\x1f\x8b")


OPENERS.add("gz", Opener("gz", _recognises, open_gz))
