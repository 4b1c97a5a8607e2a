"""Which images of a file are used: numbering, ``[n]``, ``[NAME]``, cubes, tables between, and what messages say."""

from __future__ import annotations

import numpy as np
import pytest

from sextract.errors import InputError
from sextract.reading import open_images
from sextract.reading.spec import Spec, parse_spec


def table_bytes(tools) -> bytes:
    cards = [
        tools.card("XTENSION", "BINTABLE"),
        *(tools.card(k, v) for k, v in (("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 4), ("NAXIS2", 5))),
        *(tools.card(k, v) for k, v in (("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", 1), ("TFORM1", "1J"))),
    ]
    return tools.header_bytes(cards) + tools.data_bytes(np.zeros(5, ">i4"))


@pytest.fixture
def mosaic(write, tools) -> str:
    """An empty primary, then image, table, image, cube, spectrum, image."""

    def image(value: int, shape: tuple[int, ...], *extra: str) -> bytes:
        data = np.zeros(shape)
        data[(0,) * (len(shape) - 2)] = value
        return tools.hdu_bytes(data, 16, extra, extension=True)

    def name(text: str) -> str:
        return tools.card("EXTNAME", text)

    parts = [
        tools.header_bytes([*tools.structure(8, ()), tools.card("TELESCOP", "T"), tools.card("NEXTEND", 6)]),
        image(1, (5, 4), name("SCI"), tools.card("EXTVER", 1)),
        table_bytes(tools),
        image(2, (6, 4), name("SCI"), tools.card("EXTVER", 2)),
        image(3, (2, 3, 7), name("cube")),
        tools.hdu_bytes(np.zeros(9), 16, [name("SPEC")], extension=True),
        image(4, (1, 1, 3, 7), name("3")),
    ]
    return write(b"".join(parts), "mosaic.fits")


def facts(spec: str, tools) -> list[tuple[int, int, int, int, float]]:
    return [
        (s.info.hdu, s.info.ext_number, s.info.width, s.info.height, float(tools.read_all(s)[0].mean()))
        for s in open_images(spec)
    ]


def test_every_image_in_turn_first_planes_of_cubes(mosaic, tools):
    # SExtractor numbers the same file 1, 2, 3, 4 and takes the first plane of the cubes.
    assert facts(mosaic, tools) == [(1, 1, 4, 5, 1), (3, 2, 4, 6, 2), (4, 3, 7, 3, 3), (6, 4, 7, 3, 4)]


@pytest.mark.parametrize(
    ("bracket", "hdu"),
    [("1", 1), ("3", 3), ("4", 4), ("SCI", 1), ("sci", 1), ("SCI,2", 3), ("SCI, 2 ", 3), ("Cube", 4)],
)
def test_selection(mosaic, tools, bracket, hdu):
    ((found, number, *_),) = facts(f"{mosaic}[{bracket}]", tools)
    assert (found, number) == (hdu, 1)
    (source,) = open_images(f"{mosaic}[{bracket}]")
    assert (source.info.path, source.info.spec) == (mosaic, f"{mosaic}[{bracket}]")


@pytest.mark.parametrize(
    ("bracket", "message"),
    [
        ("0", r"\[0\]: not a 2-D image; the file holds \[0\] header without data, \[1\] SCI: image of 4 × 5"),
        ("2", r"\[2\]: not a 2-D image.*\[2\] binary table"),
        ("5", r"\[5\]: not a 2-D image.*SPEC: image of 9"),
        ("7", "no HDU 7"),
        ("SCI,3", r"no extension is called \[SCI,3\]"),
        ("nope", r"no extension is called \[nope\]"),
        ("", r"no extension is called \[\]|not a 2-D image"),
    ],
)
def test_a_wrong_selection_says_what_is_there(mosaic, bracket, message):
    with pytest.raises(InputError, match=message) as caught:
        open_images(f"{mosaic}[{bracket}]")
    assert "\n" not in str(caught.value)


def test_headers_are_raw_cards(mosaic, tools):
    first, *_ = open_images(mosaic)
    assert first.info.header.startswith("XTENSION= ")
    assert first.info.primary_header.startswith("SIMPLE  = ")
    assert len(first.info.header) % 80 == 0
    assert first.info.header.endswith(tools.card("EXTVER", 1))
    assert tools.card("TELESCOP", "T") in first.info.primary_header
    assert (first.info.extname, first.tile_rows, first.info.data_size) == ("SCI", 1, 40)


def test_a_primary_with_data_is_the_first(write, tools):
    data = tools.hdu_bytes(np.ones((3, 3)), 16) + tools.hdu_bytes(np.full((3, 3), 2), 16, extension=True)
    assert facts(write(data), tools) == [(0, 1, 3, 3, 1), (1, 2, 3, 3, 2)]


def test_no_image_at_all(write, tools):
    path = write(tools.header_bytes(tools.structure(8, ())) + table_bytes(tools))
    with pytest.raises(InputError, match=r"no 2-D image in it; it holds \[0\] header without data, \[1\] binary table"):
        open_images(path)


def test_random_groups_are_no_image(write, tools):
    cards = [*tools.structure(-32, (5, 0)), *(tools.card(k, v) for k, v in (("PCOUNT", 2), ("GCOUNT", 3)))]
    group = tools.header_bytes([*cards, tools.card("GROUPS", True)]) + tools.data_bytes(np.zeros(21, ">f4"))
    path = write(group + tools.hdu_bytes(np.ones((3, 3)), 16, extension=True))
    assert facts(path, tools) == [(1, 1, 3, 3, 1)]


def test_bytes_behind_the_last_hdu_are_ignored(write, tools):
    path = write(tools.hdu_bytes(np.ones((3, 3)), 16) + b"some tape mark" * 1000)
    assert facts(path, tools) == [(0, 1, 3, 3, 1)]


def test_a_name_that_ends_in_brackets_is_a_name_if_it_exists(write, tools):
    path = write(tools.hdu_bytes(np.ones((3, 3)), 16), "odd[2]")
    assert facts(path, tools) == [(0, 1, 3, 3, 1)]
    assert facts(path + "[0]", tools) == [(0, 1, 3, 3, 1)]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a.fits", Spec("a.fits")),
        ("a.fits[2]", Spec("a.fits", hdu=2)),
        ("d[1]/a.fits", Spec("d[1]/a.fits")),
        ("a.fits[SCI]", Spec("a.fits", name="SCI")),
        ("a.fits[SCI,3]", Spec("a.fits", name="SCI", version=3)),
        ("a.fits[²]", Spec("a.fits", name="²")),
        ("[2]", Spec("[2]")),
    ],
)
def test_specs(text, spec):
    assert parse_spec(text) == spec
