"""Tile-compressed images (``.fz``): only the tiles that a box touches are decoded, by cfitsio through fitsio.

cfitsio undoes the compression and the quantisation of floats; BSCALE, BZERO and BLANK are applied by the same kernel
as for plain files, so that a losslessly compressed image gives the same bits.  cfitsio allocates on its own: about
``ImageInfo.library_bytes`` (its buffers, and the tiles across the image) and one array of at most the scratch's size per call.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.errors import InputError
from sextract.reading.handle import Handle
from sextract.reading.header import card_integer, card_true, card_value, cards
from sextract.reading.scaling import BITPIX, Scaling, scaling_of
from sextract.reading.source import LONGEST_SIDE, Hdu, ImageInfo
from sextract.records import Box

# Cards of the table that holds a compressed image; the image's own are behind ZBITPIX and so on.
_TABLE = re.compile(
    r"(XTENSION|SIMPLE|EXTEND|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|THEAP|CHECKSUM|DATASUM"
    r"|(TTYPE|TFORM|TUNIT|TNULL|TSCAL|TZERO|TDISP|TDIM)\d+"
    r"|ZIMAGE|ZTABLE|ZSIMPLE|ZTENSION|ZEXTEND|ZBLOCKED|ZBITPIX|ZNAXIS\d*|ZPCOUNT|ZGCOUNT|ZHECKSUM|ZDATASUM"
    r"|ZTILE\d+|ZCMPTYPE|ZNAME\d+|ZVAL\d+|ZMASKCMP|ZQUANTIZ|ZDITHER0|ZSCALE|ZZERO|ZBLANK)"
)

# What cfitsio holds in a process from the first tile on, whatever the image: its buffers and tables.  Measured with
# fitsio 1.4: 2.2 MiB.
_CFITSIO_BYTES = 5 << 19


class CompressedSource:
    """A tile-compressed 2-D image (or the first plane of a cube) of a FITS file."""

    def __init__(
        self, info: ImageInfo, handle: Handle, scaling: Scaling, naxis: int, tile: tuple[int, int]
    ) -> None:
        self._info = info
        self._handle = handle
        self._scaling = scaling
        self._naxis = naxis
        self._tile = tile
        self._pid = -1
        self._file: Any = None
        self._inherited: list[Any] = []

    @property
    def info(self) -> ImageInfo:
        """What is known of it."""
        return self._info

    @property
    def tile_rows(self) -> int:
        """Rows of a compression tile."""
        return self._info.tile_rows

    def read_into(self, box: Box, out: NDArray[np.float32], scratch: NDArray[np.uint8]) -> int:
        """See ``ImageSource.read_into``; the scratch only says how much may be decoded at a time."""
        rows, columns = self._portion(box.x1 - box.x0, len(scratch) // self._scaling.nbytes)
        bad = 0
        for y0, y1 in _cuts(box.y0, box.y1, rows, self._tile[0]):
            for x0, x1 in _cuts(box.x0, box.x1, columns, self._tile[1]):
                part = out[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0]
                raw = self._decode(Box(y0, x0, y1, x1))
                bad += self._scaling.apply(raw, (x1 - x0) * self._scaling.nbytes, part, big=False)
        return bad

    def _portion(self, width: int, room: int) -> tuple[int, int]:
        """Rows and columns to decode at a time: whole tiles if `room` holds one, else as many pixels as it holds."""
        high, wide = self._tile
        if high * min(wide, width) > room:
            columns = min(width, max(room, 1))
            return max(room // columns, 1), columns
        columns = min(room // high, width)
        return room // columns // high * high, columns if columns == width else columns // wide * wide

    def _decode(self, box: Box) -> NDArray[np.uint8]:
        """Stored values of a box, in the machine's order, as bytes."""
        plane = (slice(0, 1),) * (self._naxis - 2)
        try:
            stored = self._hdu()[(*plane, slice(box.y0, box.y1), slice(box.x0, box.x1))]
        except (OSError, ValueError, RuntimeError) as exc:
            raise InputError(f"{self._where}: can't decode rows {box.y0} to {box.y1}: {_one_line(exc)}") from exc
        if stored.size != box.size or stored.dtype.itemsize != self._scaling.nbytes:
            raise InputError(
                f"{self._where}: decoded to {stored.dtype} {stored.shape}, BITPIX {self._info.bitpix} expected"
            )
        raw: NDArray[np.uint8] = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
        return raw

    def _hdu(self) -> Any:
        """The HDU as this process has it open."""
        import fitsio

        pid = os.getpid()
        if self._pid != pid:
            if self._file is not None:
                # Closing what a fork inherited would move the file position that is shared with the parent.
                self._inherited.append(self._file)
            # A path under /proc because cfitsio takes brackets and plus signs in names for its own syntax.
            self._file = fitsio.FITS(f"/proc/self/fd/{self._handle.fileno()}")
            self._file[self._info.hdu].ignore_scaling = True
            self._pid = pid
        return self._file[self._info.hdu]

    @property
    def _where(self) -> str:
        return f"{self._info.path}[{self._info.hdu}]"

    def expect(self, box: Box) -> None:
        """Nothing: cfitsio reads, from a file."""

    def read_raw(self, offset: int, out: NDArray[np.uint8]) -> None:
        """See ``ImageSource.read_raw``."""
        self._handle.read_exactly(self._info.data_offset + offset, out)

    def check_unchanged(self) -> None:
        """See ``ImageSource.check_unchanged``."""
        self._handle.check_unchanged()

    def drop_behind(self) -> None:
        """Nothing: cfitsio reads, and a compressed file is small."""

    def close(self) -> None:
        """See ``ImageSource.close``."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
            self._file, self._pid = None, -1
        self._handle.close()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None, "_pid": -1, "_inherited": []}


def _cuts(start: int, stop: int, step: int, grid: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most `step`, which end on the grid where they can, lest a tile be decoded twice."""
    while start < stop:
        end = min(start + step, stop)
        if end < stop and end // grid * grid > start:
            end = end // grid * grid
        yield start, end
        start = end


def is_compressed(header: str) -> bool:
    """Whether a header is that of a tile-compressed image."""
    return card_true(header, "ZIMAGE") and (card_value(header, "XTENSION") or "") == "BINTABLE"


def describe(hdu: Hdu, handle: Handle, where: str) -> Hdu:
    """Complete the record of a compressed image's table by the facts of the image."""
    try:
        return _describe(hdu, handle, where)
    except InputError as exc:
        return hdu._replace(kind="compressed image", compressed=True, problem=str(exc).removeprefix(where + ": "))


def _describe(hdu: Hdu, handle: Handle, where: str) -> Hdu:
    bitpix, naxis = (_integer(hdu.header, key, where) for key in ("ZBITPIX", "ZNAXIS"))
    if bitpix not in BITPIX or not 0 <= naxis <= 999:
        raise InputError(f"{where}: ZBITPIX is {bitpix} and ZNAXIS {naxis}")
    axes = [_integer(hdu.header, f"ZNAXIS{k}", where) for k in range(1, naxis + 1)]
    found = hdu._replace(kind=f"compressed image of {' × '.join(map(str, axes))}", bitpix=bitpix, compressed=True)
    if len(axes) < 2 or min(axes) == 0:
        return found
    if min(axes) < 0 or max(axes[:2]) > LONGEST_SIDE:
        raise InputError(f"{where}: a compressed image of {axes[0]} × {axes[1]} pixels")
    header = image_header(hdu.header, bitpix, axes)
    scaling = scaling_of(header, bitpix, where)
    high = min(max(card_integer(hdu.header, "ZTILE2") or 1, 1), axes[1])
    wide = min(max(card_integer(hdu.header, "ZTILE1") or axes[0], 1), axes[0])
    across = -(-axes[0] // wide) * wide * high
    name = hdu.extname if hdu.extname != "COMPRESSED_IMAGE" else ""

    def make(info: ImageInfo) -> CompressedSource:
        return CompressedSource(info, handle, scaling, naxis, (high, wide))

    return found._replace(
        make=make,
        width=axes[0],
        height=axes[1],
        header=header,
        extname=name,
        tile_rows=high,
        # The decoded tiles of one row of them; while one is being decoded, its integers and its bytes as well.
        library_bytes=_CFITSIO_BYTES + 3 * across * max(scaling.nbytes, 4),
    )


def _integer(header: str, key: str, where: str) -> int:
    value = card_integer(header, key)
    if value is None:
        raise InputError(f"{where}: the header of a compressed image has no proper {key}")
    return value


def image_header(table: str, bitpix: int, axes: list[int]) -> str:
    """Header of the image as if it were not compressed.

    Parameters
    ----------
    table : str
        Cards of the table that holds it.
    bitpix : int
    axes : list of int
        NAXISn.

    Returns
    -------
    str
        Structure first, then every card that doesn't describe the table or the compression.
    """
    number: Callable[[str, int], str] = lambda key, value: f"{key:<8}= {value:>20}"  # noqa: E731
    primary = card_true(table, "ZSIMPLE")
    kept = [f"{'SIMPLE':<8}= {'T':>20}" if primary else f"{'XTENSION':<8}= 'IMAGE   '"]
    kept += [number("BITPIX", bitpix), number("NAXIS", len(axes))]
    kept += [number(f"NAXIS{k}", n) for k, n in enumerate(axes, start=1)]
    if not primary:
        kept += [number("PCOUNT", 0), number("GCOUNT", 1)]
    for card in cards(table):
        key = card[:8].rstrip()
        if key == "EXTNAME" and "'COMPRESSED_IMAGE'" in card:
            continue
        if key == "ZBLANK" and bitpix > 0 and card_value(table, "BLANK") is None:
            kept.append("BLANK   " + card[8:])
        elif not _TABLE.fullmatch(key):
            kept.append(card)
    return "".join(card.ljust(80) for card in kept)


def _one_line(exc: Exception) -> str:
    return "; ".join(line.strip() for line in str(exc).splitlines() if line.strip())
