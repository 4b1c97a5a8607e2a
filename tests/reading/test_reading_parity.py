"""Pixel values and numbering as SExtractor has them, bit for bit, where the program is installed."""

from __future__ import annotations

import shutil
import subprocess

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from sextract.reading import open_images

PROGRAM = shutil.which("source-extractor") or shutil.which("sex")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="SExtractor is not installed")


def pixels_of_sextractor(tmp_path, image: str) -> list[np.ndarray]:
    """The image less a background of 0, as SExtractor writes it; one array per extension that it used."""
    (tmp_path / "p.param").write_text("NUMBER\n")
    (tmp_path / "empty.sex").write_text("")
    options = (
        "-c empty.sex -PARAMETERS_NAME p.param -FILTER N -CATALOG_TYPE NONE -VERBOSE_TYPE QUIET "
        "-BACK_TYPE MANUAL -BACK_VALUE 0 -THRESH_TYPE ABSOLUTE -DETECT_THRESH 9e9 -ANALYSIS_THRESH 9e9 "
        "-CHECKIMAGE_TYPE -BACKGROUND -CHECKIMAGE_NAME check.fits"
    )
    subprocess.run([str(PROGRAM), image, *options.split()], cwd=tmp_path, check=True, capture_output=True)
    with fitsio.FITS(tmp_path / "check.fits") as hdus:
        return [hdu.read() for hdu in hdus if hdu.has_data()]


# Beyond this ratio of offset to scale SExtractor's single precision loses whole counts, and ours is meant to differ.
CASES = [
    (bitpix, dtype, scale, zero)
    for bitpix, dtype in ((8, "u1"), (16, "i2"), (32, "i4"), (-32, "f4"), (-64, "f8"))
    for scale, zero in ((1.0, 0.0), (0.1, 5.3), (1.7e-3, 32768.0))
    if bitpix != 32 or zero / scale < 2**24
]


@pytest.mark.parametrize(("bitpix", "dtype", "scale", "zero"), CASES)
def test_values(tmp_path, write, tools, bitpix, dtype, scale, zero):
    rng = np.random.default_rng(2)
    if bitpix > 0:
        limits = np.iinfo(dtype)
        stored = rng.integers(limits.min, limits.max, (50, 60), endpoint=True, dtype=dtype)
        stored[5, 5:9] = 7
    else:
        stored = rng.normal(1000, 300, (50, 60)).astype(dtype)
        stored[3, 3:6] = np.nan, np.inf, -np.inf
    cards = [tools.card("BSCALE", scale), tools.card("BZERO", zero), *([tools.card("BLANK", 7)] if bitpix > 0 else [])]
    path = write(tools.hdu_bytes(stored, bitpix, cards))
    (truth,) = pixels_of_sextractor(tmp_path, path)
    np.testing.assert_array_equal(tools.read_all(open_images(path)[0])[0], truth)


def test_numbering(tmp_path, write, tools):
    def image(value: int, shape: tuple[int, ...]) -> bytes:
        return tools.hdu_bytes(np.full(shape, value), 16, extension=True)

    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(5))])
    table.writeto(tmp_path / "table.fits")
    table_bytes = (tmp_path / "table.fits").read_bytes()[2880:]
    path = write(
        tools.header_bytes([*tools.structure(8, ()), tools.card("EXTEND", True)])
        + image(1, (40, 40))
        + table_bytes
        + image(2, (40, 30))
        + image(3, (2, 30, 40))
        + image(4, (50,))
        + image(5, (20, 40))
    )
    theirs = pixels_of_sextractor(tmp_path, path)
    ours = [tools.read_all(s)[0] for s in open_images(path)]
    assert [o.shape for o in ours] == [t.shape for t in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
