"""Plain FITS: a scan of header blocks, and pixels by positioned reads.

The scan is our own because raw card text and offsets are needed, headers may be damaged, and a library would have to be
handed a file that it may not survive.  Tile-compressed HDUs are listed here and read by ``compressed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.errors import InputError
from sextract.reading import compressed
from sextract.reading.handle import FileHandle, Handle
from sextract.reading.header import CARD, card_integer, card_true, card_value
from sextract.reading.scaling import BITPIX, Scaling, scaling_of
from sextract.reading.source import LONGEST_SIDE, OPENERS, Hdu, ImageInfo, ImageSource, Opener
from sextract.records import Box

BLOCK = 2880

# 8 MB of header: no instrument writes a hundredth of it, and a file of zeros after SIMPLE must not be read to its end.
MOST_CARDS = 100_000

# Raw bytes per read: what stays in a core's cache between the read and the conversion.
CHUNK_BYTES = 512 * 1024

_END = "END".ljust(8)
_PRINTABLE = {i: " " for i in range(256) if not 32 <= i < 127}


class PlainSource:
    """An uncompressed 2-D image (or the first plane of a cube) of a FITS file."""

    def __init__(self, info: ImageInfo, handle: Handle, scaling: Scaling) -> None:
        self._info = info
        self._handle = handle
        self._scaling = scaling

    @property
    def info(self) -> ImageInfo:
        """What is known of it."""
        return self._info

    @property
    def tile_rows(self) -> int:
        """Every row is as good to begin with as any."""
        return self._info.tile_rows

    def read_into(self, box: Box, out: NDArray[np.float32], scratch: NDArray[np.uint8]) -> int:
        """See ``ImageSource.read_into``."""
        h, w = box.shape
        row, need = self._info.width * self._scaling.nbytes, w * self._scaling.nbytes
        first = self._info.data_offset + box.y0 * row + box.x0 * self._scaling.nbytes
        room = scratch[:CHUNK_BYTES]
        if need > len(room):
            self.expect(box)
            return self._read_long_rows(box, out, room, first, row)
        rows = (len(room) - need) // row + 1 if row - need <= self._handle.cheap_gap_bytes else 1
        self.expect(box)
        bad = 0
        for y in range(0, h, rows):
            n = min(rows, h - y)
            raw = room[: (n - 1) * row + need]
            self._handle.read_exactly(first + y * row, raw)
            bad += self._scaling.apply(raw, row, out[y : y + n, :w])
        return bad

    def _read_long_rows(self, box: Box, out: NDArray[np.float32], room: NDArray[np.uint8], first: int, row: int) -> int:
        """Row by row, in pieces of a row."""
        h, w = box.shape
        size = self._scaling.nbytes
        step, bad = len(room) // size, 0
        for y in range(h):
            for x in range(0, w, step):
                n = min(step, w - x)
                raw = room[: n * size]
                self._handle.read_exactly(first + y * row + x * size, raw)
                bad += self._scaling.apply(raw, n * size, out[y : y + 1, x : x + n])
        return bad

    def expect(self, box: Box) -> None:
        """See ``ImageSource.expect``."""
        row, need = self._info.width * self._scaling.nbytes, (box.x1 - box.x0) * self._scaling.nbytes
        if row - need <= self._handle.cheap_gap_bytes:
            first = self._info.data_offset + box.y0 * row + box.x0 * self._scaling.nbytes
            self._handle.expect(first, (box.y1 - box.y0 - 1) * row + need)

    def read_raw(self, offset: int, out: NDArray[np.uint8]) -> None:
        """See ``ImageSource.read_raw``."""
        self._handle.read_exactly(self._info.data_offset + offset, out)

    def check_unchanged(self) -> None:
        """See ``ImageSource.check_unchanged``."""
        self._handle.check_unchanged()

    def drop_behind(self) -> None:
        """See ``ImageSource.drop_behind``."""
        self._handle.drop_behind()

    def close(self) -> None:
        """See ``ImageSource.close``."""
        self._handle.close()


class _Unit(NamedTuple):
    """A header and the data unit that it claims."""

    header: str
    offset: int
    size: int
    axes: tuple[int, ...]
    bitpix: int


def open_fits(path: str, scratch_dir: str = "") -> list[Hdu]:
    """HDUs of a FITS file.

    Parameters
    ----------
    path : str
    scratch_dir : str
        Not used: nothing is unpacked.

    Raises
    ------
    InputError
        The primary header is damaged.  What is wrong with a later HDU is in its ``problem``.
    """
    return list_hdus(FileHandle(path))


def list_hdus(handle: FileHandle, scratch_dir: str = "") -> list[Hdu]:
    """The same for a file that is open already."""
    return list(walk(handle))


def walk(handle: Handle) -> Iterator[Hdu]:
    """The same, one after the other."""
    offset = index = 0
    while offset < handle.size and (index == 0 or _begins_extension(handle, offset)):
        where = f"{handle.path}[{index}]"
        try:
            unit = _read_unit(handle, offset, where)
        except InputError as exc:
            if index == 0:
                raise
            yield Hdu("damaged header", problem=str(exc).removeprefix(where + ": "))
            return
        yield _describe(unit, handle, where)
        offset = unit.offset + -(-unit.size // BLOCK) * BLOCK
        index += 1


def _begins_extension(handle: Handle, offset: int) -> bool:
    """Whether an extension begins there; other bytes after the last HDU are allowed, and nobody's business."""
    start = np.empty(8, np.uint8)
    return handle.read(offset, start) == 8 and start.tobytes() == b"XTENSION"


def _read_unit(handle: Handle, offset: int, where: str) -> _Unit:
    header, data = _read_header(handle, offset, where)
    bitpix, axes = _integer(header, "BITPIX", where), []
    naxis = _integer(header, "NAXIS", where)
    if bitpix not in BITPIX:
        raise InputError(f"{where}: BITPIX is {bitpix}; FITS knows {', '.join(map(str, BITPIX))}")
    if not 0 <= naxis <= 999:
        raise InputError(f"{where}: NAXIS is {naxis}")
    for k in range(1, naxis + 1):
        axes.append(_integer(header, f"NAXIS{k}", where))
        if axes[-1] < 0:
            raise InputError(f"{where}: NAXIS{k} is {axes[-1]}")
    return _Unit(header, data, _data_size(header, bitpix, axes, where), tuple(axes), bitpix)


def _data_size(header: str, bitpix: int, axes: list[int], where: str) -> int:
    """Bytes of the data unit, |BITPIX| / 8 · GCOUNT · (PCOUNT + product of the axes), as the standard has it."""
    if not axes:
        return 0
    # Random groups mark themselves by a first axis of 0, which doesn't count.
    used = axes[1:] if axes[0] == 0 and card_true(header, "GROUPS") else axes
    extra = _integer(header, "PCOUNT", where) if card_value(header, "PCOUNT") else 0
    groups = _integer(header, "GCOUNT", where) if card_value(header, "GCOUNT") else 1
    if extra < 0 or groups < 0:
        raise InputError(f"{where}: PCOUNT is {extra} and GCOUNT {groups}")
    pixels = 1
    for n in used:
        pixels *= n
    return abs(bitpix) // 8 * groups * (extra + pixels)


def _integer(header: str, key: str, where: str) -> int:
    value = card_integer(header, key)
    if value is None:
        text = card_value(header, key)
        what = f"has no {key}" if text is None else f"says {key} = {text!r}, no integer"
        raise InputError(f"{where}: the header {what}")
    return value


def _read_header(handle: Handle, offset: int, where: str) -> tuple[str, int]:
    """Cards up to END, and the offset of the data behind them."""
    block, blocks = np.empty(BLOCK, np.uint8), []
    for n in range(MOST_CARDS * CARD // BLOCK):
        if handle.read(offset + n * BLOCK, block) < BLOCK:
            raise InputError(f"{where}: the file ends at byte {handle.size}, inside a header without END")
        text = block.tobytes().decode("latin-1")
        end = next((i for i in range(0, BLOCK, CARD) if text.startswith(_END, i)), -1)
        blocks.append(text if end < 0 else text[:end])
        if end >= 0:
            return "".join(blocks).translate(_PRINTABLE), offset + (n + 1) * BLOCK
    raise InputError(f"{where}: no END in the first {MOST_CARDS} cards of the header")


def _describe(unit: _Unit, handle: Handle, where: str) -> Hdu:
    """What an HDU is, and how to read it if it is an image."""
    version = card_integer(unit.header, "EXTVER")
    hdu = Hdu(
        _kind(unit),
        problem=_truncation(unit, handle),
        header=unit.header,
        extname=(card_value(unit.header, "EXTNAME") or "").strip(),
        extver=1 if version is None else version,
        bitpix=unit.bitpix,
        data_offset=unit.offset,
        data_size=unit.size,
    )
    if compressed.is_compressed(unit.header):
        return compressed.describe(hdu, handle, where)
    if not is_image(unit.header) or len(unit.axes) < 2 or 0 in unit.axes:
        return hdu
    return described_image(hdu, unit.axes, partial(_make_plain, handle=handle), where)


def described_image(hdu: Hdu, axes: tuple[int, ...], make: Callable[[ImageInfo], ImageSource], where: str) -> Hdu:
    """An HDU completed by the facts of its image."""
    width, height = axes[:2]
    problem = hdu.problem
    if not problem and max(width, height) > LONGEST_SIDE:
        problem = f"{width} × {height} pixels: a side can't be longer than {LONGEST_SIDE}"
    if not problem:
        try:
            scaling_of(hdu.header, hdu.bitpix, where)
        except InputError as exc:
            problem = str(exc).removeprefix(where + ": ")
    return hdu._replace(width=width, height=height, make=make, problem=problem)


def _make_plain(info: ImageInfo, handle: Handle) -> PlainSource:
    if info.remote:
        info = info._replace(state=" ".join(map(str, handle.identity)))
    return PlainSource(info, handle, scaling_of(info.header, info.bitpix, f"{info.path}[{info.hdu}]"))


def is_image(header: str) -> bool:
    """Whether a header is a primary one or an image extension's."""
    return not header.startswith("XTENSION") or (card_value(header, "XTENSION") or "") in ("IMAGE", "IUEIMAGE")


def _truncation(unit: _Unit, handle: Handle) -> str:
    """What is missing at the end of the file; padding isn't asked for."""
    end = unit.offset + unit.size
    if end <= handle.size:
        return ""
    return f"the file is cut short or its header is wrong: {end} bytes are needed, it has {handle.size}"


def _kind(unit: _Unit) -> str:
    """In words."""
    size = " × ".join(map(str, unit.axes))
    if is_image(unit.header):
        return f"image of {size}" if unit.axes and 0 not in unit.axes else "header without data"
    name = card_value(unit.header, "XTENSION") or "unnamed extension"
    return {"BINTABLE": "binary table", "A3DTABLE": "binary table", "TABLE": "ASCII table"}.get(name, name)


def _recognises(first: bytes) -> bool:
    return first.startswith(b"SIMPLE  =")


OPENERS.add("fits", Opener("fits", _recognises, open_fits, list_hdus))
