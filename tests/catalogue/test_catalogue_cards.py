"""Header cards: their text, their values, checksums against astropy's and a plain definition."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from sextract.catalogue import _io, cards


def test_layout_is_sextractors() -> None:
    # Cards as source-extractor 2.25 writes them.
    assert cards.integer("SEXMINAR", 3, "Minimum area used for detection (pixels)").rstrip() == (
        "SEXMINAR=                    3 / Minimum area used for detection (pixels)"
    )
    assert cards.expo("SEXSFWHM", float(np.float32(1.2)), "SEEING FWHM (ARCSEC)").rstrip() == (
        "SEXSFWHM=   1.200000047684E+00 / SEEING FWHM (ARCSEC)"
    )
    assert cards.fixed("SEXDBLDC", 0.005, "CONTRAST PARAMETER").rstrip() == (
        "SEXDBLDC=           0.00500000 / CONTRAST PARAMETER"
    )
    assert cards.text("FITSFILE", "im.fits", "File name").rstrip() == "FITSFILE= 'im.fits '           / File name"
    assert cards.logical("SEXCLN", True, "CLEANING FLAG").rstrip() == "SEXCLN  =                    T / CLEANING FLAG"
    assert cards.integer("BITPIX", 8, " ").rstrip() == "BITPIX  =                    8 /"


@given(st.text(max_size=90))
def test_any_text_makes_a_valid_card(value: str) -> None:
    card = cards.text("KEY", value, "comment")
    assert len(card) == 80
    back = fits.Card.fromstring(card)
    back.verify("exception")
    clean = "".join(c if " " <= c <= "~" else "?" for c in value).rstrip()
    assert clean.startswith(back.value.rstrip())
    assert cards.value_of(card, "KEY") == back.value.rstrip()


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_makes_a_valid_card(value: float) -> None:
    for card in (cards.fixed("KEY", value, "c"), cards.expo("KEY", value, "c")):
        assert len(card) == 80
        back = fits.Card.fromstring(card).value
        if np.isfinite(value):
            assert back == pytest.approx(value, rel=1e-11, abs=1e-8)
        else:
            assert isinstance(back, fits.card.Undefined)


def test_values_are_found() -> None:
    header = "".join(
        c.ljust(80)
        for c in (
            "A       = 'it''s / so' / text",
            "B       =  3 / n",
            "C       =",
            "COMMENT = 4",
            "HISTORY B = 9",
            "",
            "END",
            "D       = 1",
        )
    )
    assert cards.value_of(header, "A") == "it's / so"
    assert cards.value_of(header, "B") == "3"
    assert cards.value_of(header, "C") is None
    assert cards.value_of(header, "D") is None
    assert len(cards.split(header)) == 5


def test_long_comments_go_on() -> None:
    lines = cards.commentary("HISTORY", "x" * 100)
    assert [len(x) for x in lines] == [80, 80]
    assert "".join(x[8:].rstrip() for x in lines) == "x" * 100
    assert cards.commentary("COMMENT", "") == ("COMMENT".ljust(80),)


def plain_sum(data: bytes) -> int:
    """DATASUM by its definition."""
    total = 0
    for i in range(0, len(data), 4):
        total += int.from_bytes(data[i : i + 4].ljust(4, b"\0"), "big")
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_sums_of_pieces(data: bytes, cuts: list[int]) -> None:
    total = cards.RunningSum()
    at = 0
    for cut in [*sorted(min(c, len(data)) for c in cuts), len(data)]:
        total.add(data[at:cut])
        at = cut
    assert total.nbytes == len(data)
    assert total.value == plain_sum(data)


def test_sum_carries_around() -> None:
    assert _io.sum32(b"\xff\xff\xff\xff" * 3, 5, 0) == plain_sum(b"\xff\xff\xff\xff" * 3 + b"\0\0\0\5")


@given(st.integers(0, 2**32 - 1))
def test_encoded_checksum_sums_to_its_value(value: int) -> None:
    encoded = cards.encode_checksum(value)
    assert encoded.isalnum() and len(encoded) == 16
    # On the card the text begins one byte before a word.
    shifted = (encoded[1:] + encoded[:1]).encode()
    assert (plain_sum(shifted) - plain_sum(b"0" * 16) - value) % 0xFFFFFFFF == 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 70))
def test_sealed_header_sums_to_all_ones(datasum: int, count: int) -> None:
    header = cards.sealed([cards.logical("SIMPLE", True), *[cards.integer("A", i) for i in range(count)]], datasum)
    assert len(header) % 2880 == 0
    assert _io.sum32(header, datasum, 0) == 0xFFFFFFFF
