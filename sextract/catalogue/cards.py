"""Header cards as text: making them, reading values out of them, blocks of 2880 bytes, CHECKSUM and DATASUM.

Which cards a catalogue has is in ``keywords.py``; here is only how a card looks.  Values are laid out as SExtractor's:
integers and logicals end in column 30, reals are ``%20.12E`` or ``%20.8f``, strings are padded to column 30.

References
----------
FITS standard 4.0, section 4.1 (cards), section 4.4.2.7 and appendix J (checksums).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from sextract.catalogue import _io

CARD = 80
BLOCK = 2880
END = "END".ljust(CARD)


def _compose(key: str, value: str, comment: str) -> str:
    text = f"{key:<8}= {value:<20}"
    if comment:
        text = f"{text} / {comment}"
    return text[:CARD].ljust(CARD)


def logical(key: str, value: bool, comment: str = "") -> str:
    """A card with T or F."""
    return _compose(key, f"{'T' if value else 'F':>20}", comment)


def integer(key: str, value: int, comment: str = "") -> str:
    """A card with an integer of any size."""
    return _compose(key, f"{int(value):>20d}", comment)


def expo(key: str, value: float, comment: str = "") -> str:
    """A card with a real as ``%20.12E``; NaN and infinities, which FITS has no text for, leave it without a value."""
    return _compose(key, f"{value:20.12E}" if math.isfinite(value) else "", comment)


def fixed(key: str, value: float, comment: str = "") -> str:
    """A card with a real as ``%20.8f``, in exponential form where that is too wide."""
    plain = f"{value:20.8f}" if math.isfinite(value) else ""
    return _compose(key, plain, comment) if len(plain) <= 20 else expo(key, value, comment)


def text(key: str, value: str, comment: str = "") -> str:
    """A card with a string; what doesn't fit on a card is cut."""
    clean = printable(value).replace("'", "''")[: CARD - 12]
    if (len(clean) - len(clean.rstrip("'"))) % 2 and len(clean) == CARD - 12:
        clean = clean[:-1]  # the cut split a doubled quote
    return _compose(key, f"'{clean:<8}'", comment)


# The images of a survey have a hundred of them in common.
@lru_cache(maxsize=256)
def commentary(key: str, value: str) -> tuple[str, ...]:
    """COMMENT or HISTORY cards with as many lines as `value` needs."""
    clean = printable(value)
    return tuple(f"{key:<8}{clean[i : i + 72]}".ljust(CARD) for i in range(0, max(len(clean), 1), 72))


def printable(value: str) -> str:
    """`value` with what FITS doesn't allow in a card replaced by question marks."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if " " <= c <= "~" else "?" for c in value)


def split(header: str) -> list[str]:
    """The cards of a header without END, what follows it, and blank ones."""
    out = []
    for i in range(0, len(header), CARD):
        card = header[i : i + CARD].ljust(CARD)
        if card[:8] == "END     ":
            break
        if card.strip():
            out.append(card)
    return out


def keyword(card: str) -> str:
    """The keyword of a card."""
    return card[:8].rstrip()


def value_of(header: str, key: str) -> str | None:
    """The value of a keyword as text, without quotes and comment; None if it is missing or has no value."""
    for card in split(header):
        if keyword(card) == key and card[8:10] == "= ":
            return _value(card[10:].strip())
    return None


def _value(raw: str) -> str | None:
    if not raw.startswith("'"):
        return raw.split("/", 1)[0].strip() or None
    end = 1
    while end < len(raw):
        if raw[end] == "'":
            if raw[end + 1 : end + 2] != "'":
                break
            end += 1
        end += 1
    return raw[1:end].replace("''", "'").rstrip()


def header_bytes(cards: Iterable[str]) -> bytes:
    """Cards, END, and blanks to a whole number of blocks."""
    joined = "".join(cards) + END
    return joined.ljust(-(-len(joined) // BLOCK) * BLOCK).encode("ascii", "replace")


def padding(nbytes: int) -> int:
    """Bytes from `nbytes` to the end of its block."""
    return -nbytes % BLOCK


def sum_cards(datasum: int, checksum: str = "0" * 16) -> list[str]:
    """CHECKSUM and DATASUM, without the time of day that others put there: it would change the bytes of a rerun."""
    return [
        text("CHECKSUM", checksum, "HDU checksum"),
        text("DATASUM", str(datasum), "data unit checksum"),
    ]


def sealed(cards: Sequence[str], datasum: int) -> bytes:
    """The header of `cards` with DATASUM and a CHECKSUM that makes the sum over header and data all ones."""
    zeroed = header_bytes([*cards, *sum_cards(datasum)])
    total = _io.sum32(zeroed, datasum, 0)
    return header_bytes([*cards, *sum_cards(datasum, encode_checksum(~total & 0xFFFFFFFF))])


def encode_checksum(value: int) -> str:
    """A 32-bit sum as 16 letters and digits whose own sum is that value more than sixteen zeros'."""
    columns: list[list[int]] = []
    for byte in value.to_bytes(4, "big"):
        quarter, rest = divmod(byte, 4)
        four = [quarter + rest + 48, quarter + 48, quarter + 48, quarter + 48]
        # Punctuation is avoided by moving characters apart in pairs, which leaves their sum.
        while any(_is_punctuation(c) for c in four):
            for i in (0, 2):
                if _is_punctuation(four[i]) or _is_punctuation(four[i + 1]):
                    four[i] += 1
                    four[i + 1] -= 1
        columns.append(four)
    letters = "".join(chr(columns[byte][i]) for i in range(4) for byte in range(4))
    # The value begins in column 12 of its card, so that the letters sit one byte to the right within words.
    return letters[-1] + letters[:-1]


def _is_punctuation(code: int) -> bool:
    return 0x3A <= code <= 0x40 or 0x5B <= code <= 0x60


class RunningSum:
    """DATASUM of bytes that come in pieces.

    Attributes
    ----------
    value : int
        Ones' complement sum so far.
    nbytes : int
        Bytes so far.
    """

    __slots__ = ("nbytes", "value")

    def __init__(self) -> None:
        self.value = 0
        self.nbytes = 0

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data).cast("B")
        self.value = _io.sum32(view, self.value, self.nbytes % 4)
        self.nbytes += len(view)


def chunks(nbytes: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of pieces of at most `size` bytes."""
    for offset in range(0, nbytes, size):
        yield offset, min(size, nbytes - offset)
