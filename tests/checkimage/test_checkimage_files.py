"""Check-images: pixels land where they belong, from any process; headers and sums are valid; whole files or none."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from sextract.checkimage.checkimage import CHECKIMAGES, CheckImages, open_checkimages
from sextract.checkimage.headers import ImageExtension
from sextract.errors import ConfigError, OutputError
from sextract.records import FRAGMENT, Box

FLOAT_KINDS = ["BACKGROUND", "BACKGROUND_RMS", "-BACKGROUND", "FILTERED", "OBJECTS", "APERTURES"]


def header(*cards: str) -> str:
    """A header of 80-column cards."""
    return "".join(card.ljust(80) for card in (*cards, "END"))


WCS = ("CTYPE1  = 'RA---TAN'", "CRPIX1  =                  5.5", "CRVAL1  =                 10.0")
SINGLE = header(
    "SIMPLE  =                    T",
    "BITPIX  =                   16",
    "NAXIS   =                    3",
    "NAXIS1  =                  300",
    "NAXIS2  =                  200",
    "NAXIS3  =                    1",
    *WCS,
    "",
    "BSCALE  =                  2.0",
    "BZERO   =              32768.0",
    "BLANK   =               -32768",
    "ZCMPTYPE= 'RICE_1  '",
    "CHECKSUM= 'stale   '",
    "COMMENT kept",
)


def extension(name: str) -> str:
    """The header of an image extension."""
    return header("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 2", f"EXTNAME = '{name}'", "PCOUNT  = 0", *WCS)


ONE = [ImageExtension(300, 200, SINGLE)]
MANY = [ImageExtension(30, 20, extension("CCD1")), ImageExtension(17, 41, extension("CCD2"))]


def begin(folder: Path, kinds: Sequence[str], extensions: Sequence[ImageExtension] = ONE) -> CheckImages:
    return open_checkimages([(kind, str(folder / f"{kind}.fits")) for kind in kinds], extensions)


def read(folder: Path, kind: str) -> list[tuple[fits.Header, Any]]:
    with fits.open(folder / f"{kind}.fits", checksum=True) as hdus:
        hdus.verify("exception")
        return [(h.header.copy(), None if h.data is None else np.array(h.data)) for h in hdus]


def boxes(width: int, height: int, dy: int, dx: int) -> list[Box]:
    return [
        Box(y, x, min(y + dy, height), min(x + dx, width)) for y in range(0, height, dy) for x in range(0, width, dx)
    ]


def some_fragments(rng: np.random.Generator, width: int, height: int) -> np.ndarray[Any, Any]:
    """One piece or none on each row."""
    x = np.sort(rng.integers(0, width + 1, (height, 2)), axis=1)
    out = np.zeros(height, FRAGMENT)
    out["y"], out["x0"], out["x1"] = np.arange(height), x[:, 0], x[:, 1]
    return out[out["x1"] > out["x0"]]


def test_kinds_are_registered() -> None:
    assert set(CHECKIMAGES) >= {*FLOAT_KINDS, "SEGMENTATION"}


@pytest.mark.parametrize("tile", [(200, 300), (7, 300), (64, 64), (200, 1), (1, 300)])
def test_boxes_of_any_shape(tmp_path: Path, tile: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(200, 300)).astype(np.float32)
    truth[3, 4], truth[0, 0] = np.nan, np.inf
    with begin(tmp_path, ["FILTERED"]) as images:
        order = boxes(300, 200, *tile)
        rng.shuffle(order)
        for box in order:
            box = Box(*map(int, box))
            images["FILTERED"].write_box(0, box, truth[box.y0 : box.y1, box.x0 : box.x1])
    ((_, data),) = read(tmp_path, "FILTERED")
    np.testing.assert_array_equal(data, truth)


def test_rows_wider_than_the_buffer(tmp_path: Path) -> None:
    truth = np.arange(3 * 40_000, dtype=np.float32).reshape(3, 40_000)
    with begin(tmp_path, ["FILTERED"], [ImageExtension(40_000, 3)]) as images:
        images["FILTERED"].write_box(0, Box(0, 0, 3, 39_999), truth[:, :39_999])
        images["FILTERED"].write_box(0, Box(0, 39_999, 3, 40_000), truth[:, 39_999:])
    np.testing.assert_array_equal(read(tmp_path, "FILTERED")[0][1], truth)
    with begin(tmp_path, ["FILTERED"], [ImageExtension(40_000, 3)]) as images:
        images["FILTERED"].write_box(0, Box(0, 0, 3, 40_000), truth)
    np.testing.assert_array_equal(read(tmp_path, "FILTERED")[0][1], truth)


def test_labels_and_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    truth, labels = np.zeros((200, 300), np.float32), np.zeros((200, 300), np.int32)
    with begin(tmp_path, ["SEGMENTATION", "OBJECTS"]) as images:
        for number in (5, 2_000_000_000):
            fragments = some_fragments(rng, 300, 200)
            values = rng.normal(size=int((fragments["x1"] - fragments["x0"]).sum())).astype(np.float32)
            at = 0
            for y, x0, x1 in fragments.tolist():
                truth[y, x0:x1] = values[at : at + x1 - x0]
                labels[y, x0:x1] = number
                at += x1 - x0
            images["SEGMENTATION"].write_labels(0, fragments, np.full(len(fragments), number, np.int64))
            images["OBJECTS"].write_values(0, fragments, values)
        images["SEGMENTATION"].write_labels(0, fragments[:0], 3)
        images["OBJECTS"].write_values(0, fragments[:0], values[:0])
    ((seg_header, seg),) = read(tmp_path, "SEGMENTATION")
    assert seg_header["BITPIX"] == 32
    np.testing.assert_array_equal(seg, labels)
    np.testing.assert_array_equal(read(tmp_path, "OBJECTS")[0][1], truth)


def test_fragments_longer_than_the_buffer(tmp_path: Path) -> None:
    fragments = np.array([(1, 10, 39_000)], FRAGMENT)
    values = np.arange(38_990, dtype=np.float32)
    with begin(tmp_path, ["SEGMENTATION", "OBJECTS"], [ImageExtension(40_000, 2)]) as images:
        images["SEGMENTATION"].write_labels(0, fragments, 7)
        images["OBJECTS"].write_values(0, fragments, values)
    seg = read(tmp_path, "SEGMENTATION")[0][1]
    assert (seg[1, 10:39_000] == 7).all() and seg.sum() == 7 * 38_990
    np.testing.assert_array_equal(read(tmp_path, "OBJECTS")[0][1][1, 10:39_000], values)


def test_header_of_a_single_image(tmp_path: Path) -> None:
    begin(tmp_path, ["SEGMENTATION", "BACKGROUND"]).close()
    ((head, data),) = read(tmp_path, "BACKGROUND")
    assert head["BITPIX"] == -32 and head["NAXIS"] == 2 and data.shape == (200, 300)
    assert head["CTYPE1"] == "RA---TAN" and head["CRPIX1"] == 5.5 and list(head["COMMENT"]) == ["kept"]
    assert not {"BSCALE", "BZERO", "BLANK", "NAXIS3", "ZCMPTYPE"} & set(head)


def test_an_only_extension_becomes_the_primary(tmp_path: Path) -> None:
    begin(tmp_path, ["BACKGROUND"], MANY[:1]).close()
    ((head, data),) = read(tmp_path, "BACKGROUND")
    assert "EXTNAME" not in head and head["CRVAL1"] == 10.0 and data.shape == (20, 30)


def test_several_extensions_keep_their_names(tmp_path: Path) -> None:
    with begin(tmp_path, ["BACKGROUND"], MANY) as images:
        for ext, image in enumerate(MANY):
            shape = image.height, image.width
            images["BACKGROUND"].write_box(ext, Box(0, 0, *shape), np.full(shape, ext + 1, np.float32))
    primary, *found = read(tmp_path, "BACKGROUND")
    assert primary[0]["NEXTEND"] == 2 and primary[1] is None
    assert [h["EXTNAME"] for h, _ in found] == ["CCD1", "CCD2"]
    assert [d.shape for _, d in found] == [(20, 30), (41, 17)]
    assert [(d == i).all() for i, (_, d) in enumerate(found, 1)] == [True, True]


def test_other_processes_write(tmp_path: Path) -> None:
    images = begin(tmp_path, ["FILTERED"])
    image = images["FILTERED"]
    # One process that was forked with the file open, one that gets it in a message.
    message = pickle.dumps(image)
    for half, got in ((0, image), (1, None)):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                target = got or pickle.loads(message)
                target.write_box(
                    0, Box(100 * half, 0, 100 * half + 100, 300), np.full((100, 300), half + 1, np.float32)
                )
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    sums = {"FILTERED": [image.datasum(0)]}
    images.close(sums)
    data = read(tmp_path, "FILTERED")[0][1]
    assert (data[:100] == 1).all() and (data[100:] == 2).all()


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    pixels = np.arange(60_000, dtype=np.float32).reshape(200, 300)
    found = []
    for times in (1, 3):
        with begin(tmp_path, ["FILTERED"]) as images:
            for _ in range(times):
                images["FILTERED"].write_box(0, Box(0, 0, 200, 300), pixels)
        found.append((tmp_path / "FILTERED.fits").read_bytes())
    assert found[0] == found[1]


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "OBJECTS.fits").write_text("old")
    with pytest.raises(ZeroDivisionError), begin(tmp_path, [*FLOAT_KINDS, "SEGMENTATION"]):
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["OBJECTS.fits"]
    assert (tmp_path / "OBJECTS.fits").read_text() == "old"


def test_one_bad_name_leaves_none(tmp_path: Path) -> None:
    pairs = [("OBJECTS", str(tmp_path / "a.fits")), ("FILTERED", str(tmp_path / "no" / "b.fits"))]
    with pytest.raises(OutputError, match="CHECKIMAGE_NAME"):
        open_checkimages(pairs, ONE)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told() -> None:
    with pytest.raises(OutputError, match=r"/dev/full.*no space.*CHECKIMAGE_NAME"):
        open_checkimages([("OBJECTS", "/dev/full")], ONE)


def test_a_device_swallows_everything() -> None:
    with open_checkimages([("FILTERED", "/dev/null")], ONE) as images:
        images["FILTERED"].write_box(0, Box(0, 0, 1, 300), np.ones((1, 300), np.float32))


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([("PRETTY", "a.fits")], "PRETTY"),
        ([("OBJECTS", "a.fits"), ("FILTERED", "a.fits")], "a.fits is given twice"),
        ([("OBJECTS", "a.fits"), ("OBJECTS", "b.fits")], "OBJECTS is given twice"),
    ],
)
def test_bad_requests(tmp_path: Path, pairs: list[tuple[str, str]], match: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=match):
        open_checkimages(pairs, ONE)
    assert not list(tmp_path.iterdir())


def test_none_is_nothing() -> None:
    assert len(open_checkimages([("NONE", "check.fits")], ONE)) == 0


def test_wrong_pixels_are_refused(tmp_path: Path) -> None:
    images = begin(tmp_path, ["OBJECTS", "SEGMENTATION"])
    fragments = np.array([(1, 2, 5)], FRAGMENT)
    with pytest.raises(TypeError):
        images["OBJECTS"].write_box(0, Box(0, 0, 2, 2), np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError):
        images["OBJECTS"].write_box(0, Box(0, 0, 2, 2), np.zeros((2, 2)))
    with pytest.raises(TypeError):
        images["OBJECTS"].write_values(0, fragments, np.zeros(2, np.float32))
    with pytest.raises(TypeError):
        images["SEGMENTATION"].write_labels(0, np.zeros((1, 3), np.int32), 1)
    images.abort()
    assert not list(tmp_path.iterdir())


class Flat:
    """A tile whose planes are constants."""

    def background(self, out: Any) -> None:
        out[...] = 1

    def rms(self, out: Any) -> None:
        out[...] = 2

    def subtracted(self, out: Any) -> None:
        out[...] = 3

    def filtered(self, out: Any) -> None:
        out[...] = 4


def test_rendered_kinds(tmp_path: Path) -> None:
    images = begin(tmp_path, [*FLOAT_KINDS, "SEGMENTATION"])
    out = np.zeros((2, 2), np.float32)
    found = {}
    for kind, _ in images.stage("tile"):
        assert kind.render is not None
        kind.render(Flat(), out)
        found[kind.name] = out[0, 0]
    assert found == {"BACKGROUND": 1, "BACKGROUND_RMS": 2, "-BACKGROUND": 3, "FILTERED": 4, "APERTURES": 3}
    assert {kind.name for kind, _ in images.stage("fragments")} == {"OBJECTS", "SEGMENTATION"}
    assert {kind.name for kind, _ in images.stage("outlines")} == {"APERTURES"}
    images.abort()


def test_positions_beyond_32_bits(tmp_path: Path) -> None:
    width, height = 50_000, 30_000
    images = begin(tmp_path, ["SEGMENTATION"], [ImageExtension(width, height)])
    image = images["SEGMENTATION"]
    image.write_labels(0, np.array([(height - 1, width - 3, width - 1)], FRAGMENT), 77)
    got = memoryview(bytearray(12))
    image.file.pread(got, image.bases[0] + 4 * (width * height - 3))
    np.testing.assert_array_equal(np.frombuffer(got, ">i4"), [77, 77, 0])
    images.abort()
