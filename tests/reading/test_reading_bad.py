"""Files that are wrong: each ends in one clear InputError when it is opened, none in anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sextract.errors import InputError
from sextract.reading import open_images


def refused(spec: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        open_images(spec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_no_file(tmp_path):
    refused(str(tmp_path / "no.fits"), r"no\.fits: can't open the image: No such file")


def test_a_folder_and_a_pipe(tmp_path):
    refused(str(tmp_path), "is a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(str(tmp_path / "pipe"), "not a regular file")


def test_a_name_with_a_zero_byte():
    refused("a\0b", "can't open")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(write):
    path = write(b"SIMPLE  =")
    Path(path).chmod(0)
    refused(path, "Permission denied")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"hello world" * 1000, "not a FITS file .it begins with b'hello wo'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "not a FITS file"),
        (b"BZh91AY&SY", "packed by bzip2: unpack it first"),
        (b"SIMPLE  =", "inside a header without END"),
        (b"SIMPLE  = ".ljust(80) * 36 * 5, "inside a header without END"),
        (b"SIMPLE  = ".ljust(80) + bytes(9_000_000), "no END in the first"),
    ],
)
def test_not_fits(write, data, match):
    refused(write(data), match)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("BITPIX", 17, "BITPIX is 17"),
        ("BITPIX", "16", None),
        ("BITPIX", 16.5, "BITPIX = '16.5', no integer"),
        ("NAXIS", -2, "NAXIS is -2"),
        ("NAXIS", 1000, "NAXIS is 1000"),
        ("NAXIS", 3, "has no NAXIS3"),
        ("NAXIS1", -5, "NAXIS1 is -5"),
        ("NAXIS1", "many", "NAXIS1 = 'many', no integer"),
        ("NAXIS2", 8, None),
        ("NAXIS2", 10**40, "cut short or its header is wrong: 1[0-9]* bytes are needed, it has 5760"),
        ("NAXIS2", 10000, "cut short or its header is wrong: 162880 bytes are needed, it has 5760"),
        ("BSCALE", 0, "BSCALE is 0"),
        ("BZERO", "x", "BZERO is 'x'"),
        ("BSCALE", "1e999", "BSCALE is"),
        ("BLANK", 1.5, "BLANK is '1.5'"),
        ("PCOUNT", -1, "PCOUNT is -1"),
    ],
)
def test_headers_that_lie(write, tools, key, value, match):
    cards = [c for c in tools.structure(16, (8, 8)) if not c.startswith(key.ljust(8) + "=")]
    path = write(tools.header_bytes([*cards, tools.card(key, value)]) + tools.data_bytes(np.ones((8, 8), ">i2")))
    if match is None:
        (source,) = open_images(path)
        assert tools.read_all(source)[0].sum() == 64
    else:
        refused(path, match)


@pytest.mark.parametrize("missing", ["BITPIX", "NAXIS ", "NAXIS1"])
def test_missing_structure(write, tools, missing):
    cards = [c for c in tools.structure(16, (8, 8)) if not c.startswith(missing)]
    refused(write(tools.header_bytes(cards) + bytes(2880)), f"has no {missing.strip()}")


def test_an_image_too_wide_for_its_coordinates(tmp_path, tools):
    path = tmp_path / "wide.fits"
    path.write_bytes(tools.header_bytes(tools.structure(8, (1, 2**31))))
    os.truncate(path, 2880 + 2**31)
    refused(str(path), "can't be longer than 2147483647")


def test_damage_matters_where_it_is_asked_for(write, tools):
    good, later = tools.hdu_bytes(np.ones((40, 40)), 16), tools.hdu_bytes(np.ones((40, 40)), 16, extension=True)
    path = write(good + later[:-4000])
    refused(path, r"\[1\]: the file is cut short")
    refused(path + "[1]", "cut short")
    refused(path + "[7]", "cut short")
    assert tools.read_all(open_images(path + "[0]")[0])[0].sum() == 1600
    path = write(good + later[:1000])
    refused(path, r"\[1\]: the file ends at byte 9640, inside a header")
    assert len(open_images(path + "[0]")) == 1


def test_odd_bytes_in_a_header_become_blanks(write, tools):
    data = bytearray(tools.hdu_bytes(np.ones((4, 4)), 16, [tools.card("OBSERVER", "xxxxx")]))
    at = data.index(b"xxxxx")
    data[at : at + 3] = b"\xe9\x00\n"
    (source,) = open_images(write(bytes(data)))
    assert "'   xx'" in source.info.header


fragments = st.sampled_from(
    [
        *(b"SIMPLE  =                    T", b"XTENSION= 'BINTABLE'", b"XTENSION= 'IMAGE   '", b"BITPIX  = 8"),
        *(b"BITPIX  = -32", b"NAXIS   = 2", b"NAXIS   = 1", b"NAXIS1  = 3", b"NAXIS2  = 99999", b"NAXIS2  = 2"),
        *(b"PCOUNT  = 5", b"GCOUNT  = 1", b"ZIMAGE  = T", b"ZBITPIX = 16", b"ZNAXIS  = 2", b"ZNAXIS1 = 5"),
        *(b"ZNAXIS2 = 5", b"ZTILE1  = 0", b"ZTILE2  = -4", b"BSCALE  = 1D400", b"BZERO   = 'a", b"BLANK   = 9"),
        *(b"END", b"EXTNAME = 'A''", b"EXTVER  = x", b"TFIELDS = 1"),
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.sampled_from([b"", b"SIMPLE  =                    T".ljust(80), b"\x1f\x8b\x08\x00"]),
    cards=st.lists(fragments, max_size=40),
    tail=st.binary(max_size=400),
    pad=st.integers(0, 2880 * 3),
    spec=st.sampled_from(["", "[0]", "[1]", "[A]"]),
)
def test_any_bytes_give_images_or_an_input_error(write, tools, tmp_path, first, cards, tail, pad, spec):
    path = write(first + b"".join(c.ljust(80) for c in cards) + tail + bytes(pad))
    try:
        sources = open_images(path + spec, scratch_dir=str(tmp_path))
    except InputError as exc:
        assert "\n" not in str(exc)
        return
    for source in sources:
        assert source.info.width >= 1
        assert source.info.height >= 1


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_gives_images_or_an_input_error(write, tools, data):
    whole = bytearray(tools.hdu_bytes(np.ones((4, 4)), 16) + tools.hdu_bytes(np.ones((2, 4, 4)), -32, extension=True))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        for source in open_images(write(bytes(whole))):
            tools.read_all(source)
    except InputError as exc:
        assert "\n" not in str(exc)
