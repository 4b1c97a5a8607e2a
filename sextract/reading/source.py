"""The door of reading: what an image source is, how formats register, and which images of a file are used.

A format is one file of this package (or an entry point) that adds an `Opener`: it recognises a file by its first bytes
and lists what is in it as `Hdu` records, each with a function that makes the `ImageSource` of it.  This module
parses the user's text, chooses and numbers the images, and words the errors.  It does not know FITS (``fits.py``), nor how
to read what is no local file (``remote``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sextract.config.locations import is_url, shown
from sextract.errors import InputError
from sextract.reading.handle import FileHandle
from sextract.reading.spec import Spec, parse_spec
from sextract.records import Box
from sextract.registry import Registry

# Pixel coordinates are 32-bit in the layouts of runs and fragments; pixel indices are 64-bit everywhere.
LONGEST_SIDE = 2**31 - 1

# Bytes that an opener may look at to recognise its format.
SNIFFED = 80


class ImageInfo(NamedTuple):
    """All that is known of an image without reading a pixel.

    Attributes
    ----------
    path : str
        The file as the user named it, without brackets; of an address, what may be shown of it.
    spec : str
        As the user wrote it, likewise.
    hdu : int
        Index in the file, 0 is the primary.
    ext_number : int
        EXT_NUMBER, from 1 over the images that are used.
    width, height : int
        Pixels.
    bitpix : int
        Stored type (of the image, where it is compressed).
    header : str
        Cards of 80 columns up to but without END, no separators; where the image is compressed, as if it weren't.
    primary_header : str
        The same of the primary HDU.
    extname : str
        EXTNAME, or empty.
    tile_rows : int
        Boxes whose first row is a multiple of this are cheapest to read.
    data_offset, data_size : int
        The data unit as stored: first byte and length without padding (of the unpacked file, for ``.gz``).
    library_bytes : int
        About what a decoding library holds on its own heap in each process that reads.
    remote : bool
        It is read over a network.
    opening_bytes : int
        What all processes held to open it, with libraries that have gone since.
    state : str
        What tells one state of an object on a server from another.
    """

    path: str
    spec: str
    hdu: int
    ext_number: int
    width: int
    height: int
    bitpix: int
    header: str
    primary_header: str
    extname: str = ""
    tile_rows: int = 1
    data_offset: int = 0
    data_size: int = 0
    library_bytes: int = 0
    remote: bool = False
    opening_bytes: int = 0
    state: str = ""


class ImageSource(Protocol):
    """One 2-D image.  It can be pickled and inherited by a fork; each process opens the file when it first reads."""

    @property
    def info(self) -> ImageInfo:
        """What is known of it."""
        ...

    @property
    def tile_rows(self) -> int:
        """``info.tile_rows``."""
        ...

    def read_into(self, box: Box, out: NDArray[np.float32], scratch: NDArray[np.uint8]) -> int:
        """Fill `out` with physical pixel values.

        Parameters
        ----------
        box : Box
            Inside the image.
        out : float32 array (h, w)
            Any row stride, contiguous rows.  Bad pixels (BLANK, NaN, infinite, or as low as the mark itself) become
            ``records.BAD``; everything else is finite.
        scratch : uint8 array
            Room for raw bytes, at least 64 of them; only speed depends on its size.

        Returns
        -------
        int
            Number of bad pixels.

        Raises
        ------
        InputError
            The file can't be read any more, has changed, or its content can't be decoded.
        """
        ...

    def expect(self, box: Box) -> None:
        """A hint: `read_into` will be asked for the rows of this box, from the first to the last, a few at a time.

        One request to a server may then bring them all; a source for which a read more is nothing may ignore it.
        """
        ...

    def read_raw(self, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with bytes of the stored data unit, `offset` bytes from its beginning."""
        ...

    def check_unchanged(self) -> None:
        """Make sure that all that was read came from one state of the file; InputError if it has changed meanwhile."""
        ...

    def drop_behind(self) -> None:
        """From now on, in this process and those it forks, have pages that were read leave the page cache.

        Called where the cache has no room for the file anyway; a source that reads through a library may ignore it.
        """
        ...

    def close(self) -> None:
        """Let go of the file in this process; reading again opens it again."""
        ...


class Hdu(NamedTuple):
    """A part of a file, as an opener lists it.

    Attributes
    ----------
    kind : str
        In words, for messages: ``2-D image 100 × 200``, ``binary table``.
    make : callable or None
        Makes the source; None if this is no image of two or more dimensions.
    problem : str
        Why it can't be used though it is one, in words; empty if it can.
    compressed : bool
        In tiles, by a library that must read a file.
    """

    kind: str
    make: Callable[[ImageInfo], ImageSource] | None = None
    problem: str = ""
    width: int = 0
    height: int = 0
    bitpix: int = 0
    header: str = ""
    extname: str = ""
    extver: int = 1
    tile_rows: int = 1
    data_offset: int = 0
    data_size: int = 0
    library_bytes: int = 0
    compressed: bool = False


class Opener(NamedTuple):
    """A format: its name, a test on a file's first bytes, and ``open(path, scratch_dir)``, which lists its HDUs.

    With ``open_handle(handle, scratch_dir)`` it does so for a file that is open and has no name, as a copy of what is
    read over a network; a format without it is read from local files alone.
    """

    name: str
    recognises: Callable[[bytes], bool]
    open: Callable[[str, str], list[Hdu]]
    open_handle: Callable[[FileHandle, str], list[Hdu]] | None = None


OPENERS: Registry[Opener] = Registry("reader", "sextract.reading")

# Other packings, only to name them in the message.
_PACKED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x1f\x9d": "compress",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def open_images(
    spec: str, *, scratch_dir: str = "", limit_bytes: int = 0, say: Callable[[str], None] | None = None
) -> list[ImageSource]:
    """Find the images of a file.

    Parameters
    ----------
    spec : str
        ``path``: every image of two or more dimensions (its first plane); ``path[n]``: HDU n, 0 is the primary;
        ``path[NAME]`` or ``path[NAME,version]``: by EXTNAME (and EXTVER), the first that fits.  The path may be an
        address, ``s3://bucket/image.fits``.
    scratch_dir : str
        Where a packed file is unpacked; default: $TMPDIR, else /var/tmp.
    limit_bytes : int
        What opening may take, for libraries that are needed for nothing else; 0: anything.
    say : callable, optional
        Gets lines for the log.

    Returns
    -------
    list of ImageSource
        In file order, EXT_NUMBER counted from 1 as SExtractor does.

    Raises
    ------
    InputError
        The file is missing, unreadable, in no known format, shorter than its headers say, or has no such image.
    LimitError
        `limit_bytes` is too small to open it.
    """
    asked = parse_spec(spec)
    common = ImageInfo(asked.path, spec, 0, 0, 0, 0, 0, "", "")
    if is_url(asked.path):
        # Not at the head: most images are files.
        from sextract.reading.remote import open_remote, opening_bytes

        hdus = open_remote(asked, scratch_dir, limit_bytes, say or (lambda text: None))
        common = common._replace(
            path=shown(asked.path), spec=shown(spec), remote=True, opening_bytes=opening_bytes(asked.path)
        )
    else:
        hdus = opener_of(_first_bytes(asked.path), asked.path).open(asked.path, scratch_dir)
    chosen = choose(hdus, asked._replace(path=common.path))
    return [_source(hdus, k, number, common) for number, k in enumerate(chosen, start=1)]


def opener_of(first: bytes, path: str) -> Opener:
    """The opener of a file that begins so."""
    if not first:
        raise InputError(f"{path}: the file is empty")
    opener = next((o for o in map(OPENERS.get, OPENERS) if o.recognises(first)), None)
    if opener is None:
        raise InputError(f"{path}: not a FITS file ({_looks_like(first)})")
    return opener


def _first_bytes(path: str) -> bytes:
    try:
        # A pipe without a writer would block the open.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as exc:
        raise InputError(f"{path}: can't open the image: {getattr(exc, 'strerror', None) or exc}") from exc
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise InputError(f"{path}: is {what}, an image file is needed")
        return os.read(fd, SNIFFED)
    except OSError as exc:
        raise InputError(f"{path}: can't read the image: {exc.strerror}") from exc
    finally:
        os.close(fd)


def _looks_like(first: bytes) -> str:
    for magic, name in _PACKED.items():
        if first.startswith(magic):
            return f"it is packed by {name}: unpack it first"
    return f"it begins with {first[:8]!r}"


def choose(hdus: Sequence[Hdu], asked: Spec) -> list[int]:
    """Indices of the HDUs to use; a damaged one matters only if it is among them."""
    if asked.hdu is not None:
        if asked.hdu >= len(hdus):
            _refuse_damage(hdus, asked.path)
            raise InputError(f"{asked.path}: there is no HDU {asked.hdu}; it holds {_contents(hdus)}")
        chosen = [asked.hdu]
    elif asked.name is not None:
        chosen = [k for k, h in enumerate(hdus) if _fits(h, asked)][:1]
        if not chosen:
            _refuse_damage(hdus, asked.path)
            version = "" if asked.version is None else f",{asked.version}"
            raise InputError(
                f"{asked.path}: no extension is called [{asked.name}{version}]; it holds {_contents(hdus)}"
            )
    else:
        _refuse_damage(hdus, asked.path)
        chosen = [k for k, h in enumerate(hdus) if h.make is not None]
        if not chosen:
            raise InputError(f"{asked.path}: no 2-D image in it; it holds {_contents(hdus)}")
    for k in chosen:
        if hdus[k].problem:
            raise InputError(f"{asked.path}[{k}]: {hdus[k].problem}")
        if hdus[k].make is None:
            raise InputError(f"{asked.path}[{k}]: not a 2-D image; the file holds {_contents(hdus)}")
    return chosen


def settles(index: int, hdu: Hdu, asked: Spec) -> bool:
    """Whether no later HDU can matter once this one is known."""
    return index == asked.hdu or (asked.name is not None and _fits(hdu, asked))


def _fits(hdu: Hdu, asked: Spec) -> bool:
    assert asked.name is not None
    return hdu.extname.upper() == asked.name.upper() and asked.version in (None, hdu.extver)


def _refuse_damage(hdus: Sequence[Hdu], path: str) -> None:
    for k, hdu in enumerate(hdus):
        if hdu.problem:
            raise InputError(f"{path}[{k}]: {hdu.problem}")


def _contents(hdus: Sequence[Hdu], most: int = 8) -> str:
    """The HDUs in words, one line."""
    words = [f"[{k}] {h.extname + ': ' if h.extname else ''}{h.kind}" for k, h in enumerate(hdus[:most])]
    return ", ".join(words) + (f" and {len(hdus) - most} more" if len(hdus) > most else "")


def _source(hdus: Sequence[Hdu], index: int, number: int, common: ImageInfo) -> ImageSource:
    """The source of an HDU; `common` is what all images of a file have in common."""
    hdu = hdus[index]
    assert hdu.make is not None
    info = common._replace(
        hdu=index,
        ext_number=number,
        width=hdu.width,
        height=hdu.height,
        bitpix=hdu.bitpix,
        header=hdu.header,
        primary_header=hdus[0].header,
        extname=hdu.extname,
        tile_rows=hdu.tile_rows,
        data_offset=hdu.data_offset,
        data_size=hdu.data_size,
        library_bytes=hdu.library_bytes,
    )
    return hdu.make(info)
