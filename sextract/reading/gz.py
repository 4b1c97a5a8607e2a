"""``.gz``: the file is unpacked to a nameless scratch file (``scratch.py``), which is then read like any other."""

from __future__ import annotations

import os

from sextract.errors import InputError
from sextract.reading.fits import list_hdus
from sextract.reading.handle import FileHandle
from sextract.reading.scratch import ScratchFile, filled
from sextract.reading.source import OPENERS, Hdu, Opener

CHUNK_BYTES = 32 * 1024


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
    return unpacked(FileHandle(path), scratch_dir)


def unpacked(handle: FileHandle, scratch_dir: str) -> list[Hdu]:
    """The same for a file that is open already; it isn't needed any more then."""

    def fill(file: ScratchFile) -> None:
        _unpack(handle, file)
        if os.pread(file.fd, 9, 0) != b"SIMPLE  =":
            raise InputError(f"{handle.path}: what is packed in it is not a FITS file")

    return list_hdus(FileHandle(handle.path, kept=filled(handle.path, scratch_dir, "unpacking", fill)))


def _unpack(handle: FileHandle, file: ScratchFile) -> None:
    # Not at the head: what these import is a MiB in every process of a run, and most images aren't packed.
    import gzip
    import zlib

    written = 0
    try:
        # Opened anew: a position of its own.
        with open(f"/proc/self/fd/{handle.fileno()}", "rb") as source, gzip.open(source) as packed:
            while chunk := packed.read(CHUNK_BYTES):
                file.write(chunk)
                written += len(chunk)
        handle.check_unchanged()
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise InputError(f"{handle.path}: the gzip data are damaged after {written} bytes: {exc}") from exc
    except OSError as exc:
        raise InputError(f"{handle.path}: can't read the image: {exc.strerror}") from exc
    file.finish()


def _recognises(first: bytes) -> bool:
    return first.startswith(b"\x1f\x8b")


OPENERS.add("gz", Opener("gz", _recognises, open_gz, unpacked))
