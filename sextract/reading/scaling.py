"""How stored pixels become physical ones: BITPIX, BSCALE, BZERO and BLANK of a header, and their arithmetic.

SExtractor scales 8-, 16- and 32-bit data in single precision, 64-bit floats in double with factors rounded to single;
so do we, bit for bit, because thresholds decide on the last bit.  Where single precision would be wrong instead of
merely rounded, double is used: 32-bit integers with a large offset, as unsigned ones have (a value of 1000 would come
out as 1024), and BITPIX 64, which SExtractor doesn't read.  The loops are in ``_convert.pyx``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.errors import InputError
from sextract.reading._convert import convert
from sextract.reading.header import card_integer, card_number, card_value

BITPIX = (8, 16, 32, 64, -32, -64)

# Above 2^24 float32 no longer holds every integer.
_EXACT = 2.0**24


class Scaling(NamedTuple):
    """Arithmetic from stored to physical values.

    Attributes
    ----------
    bitpix : int
    scale, zero : float
        Factors as they are applied.
    wide : bool
        Computed in double.
    blank : int or None
        Stored value without data; None for floats.
    """

    bitpix: int
    scale: float = 1.0
    zero: float = 0.0
    wide: bool = False
    blank: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of a stored pixel."""
        return abs(self.bitpix) // 8

    def apply(
        self, raw: NDArray[np.uint8], stride: int, out: NDArray[np.float32], *, start: int = 0, big: bool = True
    ) -> int:
        """Convert rows of raw bytes, the first at byte `start`, `stride` bytes apart, into `out`; the bad pixels."""
        blank = 0 if self.blank is None else self.blank
        has_blank = self.blank is not None
        return int(
            convert(raw, start, stride, out, self.bitpix, self.wide, big, self.scale, self.zero, has_blank, blank)
        )


def scaling_of(header: str, bitpix: int, where: str) -> Scaling:
    """The scaling that a header asks for.

    Parameters
    ----------
    header : str
        80-column cards.
    bitpix : int
        Stored type, one of `BITPIX`.
    where : str
        File and HDU for messages.

    Raises
    ------
    InputError
        BSCALE, BZERO or BLANK is no number, or BSCALE is 0.
    """
    scale, zero = (_factor(header, key, default, where) for key, default in (("BSCALE", 1.0), ("BZERO", 0.0)))
    if scale == 0.0:
        raise InputError(f"{where}: BSCALE is 0: every pixel would have the same value")
    wide = abs(bitpix) == 64 or (bitpix == 32 and abs(zero) > _EXACT * abs(scale))
    if bitpix == -64 or not wide:
        scale, zero = float(np.float32(scale)), float(np.float32(zero))
    return Scaling(bitpix, scale, zero, wide, _blank(header, bitpix, where))


def _factor(header: str, key: str, default: float, where: str) -> float:
    if card_value(header, key) is None:
        return default
    value = card_number(header, key)
    if value is None or abs(value) > float(np.finfo(np.float32).max):
        raise InputError(f"{where}: {key} is {card_value(header, key)!r}, which is not a usable number")
    return value


def _blank(header: str, bitpix: int, where: str) -> int | None:
    """BLANK of integer data; one that the type can't hold marks nothing."""
    text = card_value(header, "BLANK")
    if bitpix < 0 or not text:
        return None
    value = card_integer(header, "BLANK")
    if value is None:
        raise InputError(f"{where}: BLANK is {text!r}, which is not an integer")
    low, high = (0, 255) if bitpix == 8 else (-(1 << (bitpix - 1)), (1 << (bitpix - 1)) - 1)
    return value if low <= value <= high else None
