"""Hand-made FITS files: headers card by card, so that they can be wrong on purpose, and independent of any library."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from sextract.reading import ImageSource
from sextract.records import Box

STORED = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


def card(key: str, value: object) -> str:
    """One card; strings are quoted, a bool is T or F."""
    text = "T" if value is True else "F" if value is False else repr(value) if isinstance(value, str) else str(value)
    return f"{key:<8}= {text:>20}".ljust(80)


def header_bytes(cards: Sequence[str]) -> bytes:
    """Cards, END and padding."""
    text = "".join(c.ljust(80) for c in [*cards, "END"])
    return text.ljust(-(-len(text) // 2880) * 2880).encode("ascii")


def data_bytes(stored: NDArray[np.generic]) -> bytes:
    """Big-endian data and padding."""
    raw = stored.tobytes()
    return raw + bytes(-len(raw) % 2880)


def structure(bitpix: int, shape: Sequence[int], extension: bool = False) -> list[str]:
    """Mandatory cards for an array of that shape, last axis first in FITS."""
    cards = [card("XTENSION", "IMAGE   ") if extension else card("SIMPLE", True), card("BITPIX", bitpix)]
    cards.append(card("NAXIS", len(shape)))
    cards += [card(f"NAXIS{k}", n) for k, n in enumerate(reversed(shape), start=1)]
    return [*cards, card("PCOUNT", 0), card("GCOUNT", 1)] if extension else cards


def hdu_bytes(stored: NDArray[np.generic], bitpix: int, extra: Sequence[str] = (), extension: bool = False) -> bytes:
    """A whole image HDU."""
    stored = stored.astype(STORED[bitpix])
    return header_bytes([*structure(bitpix, stored.shape, extension), *extra]) + data_bytes(stored)


def read_all(source: ImageSource, scratch_bytes: int = 1 << 16) -> tuple[NDArray[np.float32], int]:
    """The whole image and its count of bad pixels."""
    height, width = source.info.height, source.info.width
    out = np.full((height, width), np.float32(np.nan))
    return out, source.read_into(Box(0, 0, height, width), out, np.zeros(scratch_bytes, np.uint8))


class FitsTools:
    """The functions above, for tests."""

    card = staticmethod(card)
    header_bytes = staticmethod(header_bytes)
    data_bytes = staticmethod(data_bytes)
    structure = staticmethod(structure)
    hdu_bytes = staticmethod(hdu_bytes)
    read_all = staticmethod(read_all)


@pytest.fixture(scope="session")
def tools() -> type[FitsTools]:
    return FitsTools


@pytest.fixture
def write(tmp_path) -> Callable[[bytes], str]:
    """Writes bytes to a file and returns its path."""

    def writer(data: bytes, name: str = "image.fits") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return writer
