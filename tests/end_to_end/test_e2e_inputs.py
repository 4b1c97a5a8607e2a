"""The same pixels give the same rows, however they are stored; bad ones are left out, and dead extensions told."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from sextract.records import Box
from tests.conftest import CommandLine
from tests.end_to_end import sides
from tests.parity import compare, reference
from tests.parity.reference import COLUMNS, Setup
from tests.scenes import Scene

needs_reference = pytest.mark.skipif(reference.SEXTRACTOR is None, reason="source-extractor is not installed")
INPUT = 3


def scene() -> Scene:
    """A few dozen sources."""
    return Scene(200, 220, sky=120.0, seed=4).scatter(40, margin=10.0)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.float32]:
    """The scene in whole numbers, which every BITPIX holds."""
    return np.clip(np.rint(scene().pixels()), 0, 255).astype("f4")


def rows(cli: CommandLine, folder: Path, image: object, *options: object, **keywords: str) -> list[NDArray[Any]]:
    """Rows of every table."""
    return [t.rows for t in sides.tables(cli, Setup(folder, COLUMNS, keywords), image, *options)]


def equal(a: NDArray[Any], b: NDArray[Any]) -> None:
    """Two tables hold the same bytes."""
    assert a.dtype == b.dtype
    assert len(a) > 20
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f8"])
def test_every_bitpix(dtype: str, pixels: NDArray[np.float32], cli: CommandLine, tmp_path: Path) -> None:
    fits.PrimaryHDU(pixels).writeto(tmp_path / "f4.fits")
    fits.PrimaryHDU(pixels.astype(dtype)).writeto(tmp_path / "other.fits")
    plain = rows(cli, tmp_path, tmp_path / "f4.fits", "--workers", 0)[0]
    equal(rows(cli, tmp_path, tmp_path / "other.fits", "--workers", 2)[0], plain)


@pytest.mark.parametrize(
    ("dtype", "bscale", "bzero"), [("i2", 1.0, 32768.0), ("i2", 0.5, 64.0), ("u1", 2.0, -64.0), ("i4", 0.25, 2.0**20)]
)
def test_scaled_integers(
    dtype: str, bscale: float, bzero: float, pixels: NDArray[np.float32], cli: CommandLine, tmp_path: Path
) -> None:
    stored = np.clip(np.rint((pixels * 2 - bzero) / bscale), np.iinfo(dtype).min, np.iinfo(dtype).max)
    hdu = fits.PrimaryHDU(stored.astype(dtype))
    hdu.header["BSCALE"], hdu.header["BZERO"] = bscale, bzero
    hdu.writeto(tmp_path / "scaled.fits")
    fits.PrimaryHDU((stored * bscale + bzero).astype("f4")).writeto(tmp_path / "plain.fits")
    plain = rows(cli, tmp_path, tmp_path / "plain.fits", "--workers", 0)[0]
    equal(rows(cli, tmp_path, tmp_path / "scaled.fits", "--workers", 1)[0], plain)


@needs_reference
@pytest.mark.parametrize("cards", [{"BZERO": 32768.0}, {"BSCALE": 0.25, "BZERO": 10.0}])
def test_scaled_integers_as_sextractor_reads_them(cards: dict[str, float], cli: CommandLine, tmp_path: Path) -> None:
    scale, zero = cards.get("BSCALE", 1.0), cards["BZERO"]
    hdu = fits.PrimaryHDU(np.rint((scene().pixels() - zero) / scale).astype("i2"))
    hdu.header.update(cards)
    hdu.writeto(tmp_path / "scaled.fits")
    setup = Setup(tmp_path)
    found = sides.tables(cli, setup, tmp_path / "scaled.fits")
    assert sides.disagreements(compare.load(setup.reference(tmp_path / "scaled.fits")), found) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_patches_of_bad_pixels_are_alike(value: float, cli: CommandLine, tmp_path: Path) -> None:
    image = scene().pixels()
    hole = (slice(60, 90), slice(80, 150))
    image[hole] = np.nan
    fits.PrimaryHDU(image).writeto(tmp_path / "nan.fits")
    image[hole] = value
    image[61, 81] = np.nan
    fits.PrimaryHDU(image).writeto(tmp_path / "other.fits")
    plain = rows(cli, tmp_path, tmp_path / "nan.fits", "--workers", 0)[0]
    equal(rows(cli, tmp_path, tmp_path / "other.fits", "--workers", 2, "--tile-shape", "50x60")[0], plain)
    inside = (np.abs(plain["X_IMAGE"] - 115.5) < 34) & (np.abs(plain["Y_IMAGE"] - 75.5) < 14)
    assert not inside.any()


def test_blank_is_bad(cli: CommandLine, tmp_path: Path) -> None:
    made = scene().bad(Box(60, 80, 90, 150))
    image = np.rint(made.pixels())
    fits.PrimaryHDU(image).writeto(tmp_path / "nan.fits")
    plain = rows(cli, tmp_path, tmp_path / "nan.fits", "--workers", 0)[0]
    made.write(tmp_path / "blank.fits", dtype="i4")
    equal(rows(cli, tmp_path, tmp_path / "blank.fits", "--workers", 1)[0], plain)


@needs_reference
def test_bad_pixels_as_sextractor_has_them(cli: CommandLine, tmp_path: Path) -> None:
    image = scene().bad(Box(60, 80, 90, 150)).bad(Box(150, 0, 152, 220)).write(tmp_path / "bad.fits")
    setup = Setup(tmp_path)
    found = sides.tables(cli, setup, image, "--workers", 2, "--tile-shape", "64x64")
    assert sides.disagreements(compare.load(setup.reference(image)), found) == []


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_compressed_tiles(kind: str, dtype: str, pixels: NDArray[np.float32], cli: CommandLine, tmp_path: Path) -> None:
    if dtype == "f4" and kind == "RICE_1":
        hdu = fits.CompImageHDU(pixels, compression_type=kind, quantize_level=16, quantize_method=1, dither_seed=7)
    else:
        hdu = fits.CompImageHDU(pixels.astype(dtype), compression_type=kind, quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "c.fits.fz")
    with fits.open(tmp_path / "c.fits.fz") as hdus:
        fits.PrimaryHDU(np.asarray(hdus[1].data, "f4")).writeto(tmp_path / "plain.fits")
    plain = rows(cli, tmp_path, tmp_path / "plain.fits", "--workers", 0)[0]
    equal(rows(cli, tmp_path, tmp_path / "c.fits.fz", "--workers", 2)[0], plain)


def test_gzipped_files(pixels: NDArray[np.float32], cli: CommandLine, tmp_path: Path) -> None:
    fits.PrimaryHDU(pixels).writeto(tmp_path / "plain.fits")
    (tmp_path / "packed.fits.gz").write_bytes(gzip.compress((tmp_path / "plain.fits").read_bytes()))
    plain = rows(cli, tmp_path, tmp_path / "plain.fits", "--workers", 0)[0]
    for workers in (0, 2):
        equal(rows(cli, tmp_path, tmp_path / "packed.fits.gz", "--workers", workers)[0], plain)


@pytest.fixture
def mosaic(tmp_path: Path) -> Path:
    """An empty primary and CCDs: sources, nothing, a table, all NaN, sources again in another size and type."""
    rng = np.random.default_rng(8)
    table = fits.BinTableHDU.from_columns([fits.Column("A", "1E", array=np.arange(3.0))], name="TABLE")
    images = {
        "CCD1": scene().pixels(),
        "CCD2": rng.normal(100.0, 5.0, (90, 110)).astype("f4"),
        "CCD3": np.full((70, 80), np.nan, "f4"),
        "CCD4": np.rint(scene().pixels()[:, ::-1][:180]).astype("i2"),
    }
    hdus = [fits.ImageHDU(data, name=name) for name, data in images.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus[:2], table, *hdus[2:]]).writeto(tmp_path / "mosaic.fits")
    return tmp_path / "mosaic.fits"


COUNTS = ["NUMBER", "EXT_NUMBER", "ID_PARENT", *COLUMNS[1:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_table_for_each_extension(workers: int, mosaic: Path, cli: CommandLine, tmp_path: Path) -> None:
    setup = Setup(tmp_path, COUNTS)
    done = sides.ours(cli, setup, mosaic, "--workers", workers, "-VERBOSE_TYPE", "NORMAL")
    found = compare.load(tmp_path / "ours.cat")
    lengths = [len(t.rows) for t in found]
    assert lengths[1:3] == [0, 0]
    assert lengths[0] > 20 and lengths[3] > 20
    assert "no background can be measured, 5600 of 5600 pixels are bad" in done.err
    for n in (0, 3):
        assert found[n].rows["NUMBER"].tolist() == list(range(1, lengths[n] + 1))
        assert set(found[n].rows["EXT_NUMBER"]) == {n + 1}
    # NUMBER begins again, ID_PARENT goes on.
    assert found[3].rows["ID_PARENT"].min() == found[0].rows["ID_PARENT"].max() + 1
    if reference.SEXTRACTOR is not None:
        theirs = compare.load(setup.reference(mosaic))
        assert [len(t.rows) for t in theirs] == lengths
        assert [set(t.rows["EXT_NUMBER"]) for t in theirs] == [set(t.rows["EXT_NUMBER"]) for t in found]
        assert sides.disagreements(theirs, found) == []


def test_an_extension_by_number_and_by_name(mosaic: Path, cli: CommandLine, tmp_path: Path) -> None:
    # Pixels shared between blended sources are drawn anew for each EXT_NUMBER: without blends.
    whole = rows(cli, tmp_path, mosaic, "--workers", 0, DEBLEND_MINCONT="1")
    for which, table in (("[1]", 0), ("[CCD1]", 0), ("[5]", 3), ("[ccd4]", 3)):
        (part,) = rows(cli, tmp_path, f"{mosaic}{which}", "--workers", 0, DEBLEND_MINCONT="1")
        assert len(part) == len(whole[table])
        for name in ("X_IMAGE", "FLUX_AUTO", "FLAGS"):
            np.testing.assert_array_equal(part[name], whole[table][name])


def test_a_dead_extension_alone_is_refused(mosaic: Path, cli: CommandLine) -> None:
    done = cli(f"{mosaic}[CCD3]", "-o", "out.cat", *sides.LIMIT)
    assert done.code == INPUT
    assert "5600 of 5600 pixels are bad" in done.err
    assert done.made == frozenset()


def test_a_file_of_dead_extensions_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    hdus = [fits.ImageHDU(np.full((40, 50), np.nan, "f4")) for _ in range(2)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "dead.fits")
    done = cli(tmp_path / "dead.fits", "-o", "out.cat", "-CATALOG_TYPE", "FITS_LDAC", *sides.LIMIT)
    assert done.code == INPUT
    assert done.made == frozenset()
