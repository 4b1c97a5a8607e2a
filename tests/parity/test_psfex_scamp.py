"""psfex and scamp come to the same PSF and astrometry from our FITS_LDAC as from SExtractor's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.parity import companions, reference
from tests.scenes import Field, field

pytestmark = pytest.mark.skipif(reference.SEXTRACTOR is None, reason="source-extractor is not installed")
needs_psfex = pytest.mark.skipif(companions.PSFEX is None, reason="psfex is not installed")
needs_scamp = pytest.mark.skipif(companions.SCAMP is None, reason="scamp is not installed")

STARS = {"star_fraction": 1.0, "blend_fraction": 0.0, "fwhm_px": 3.6}


def star_field(folder: Path) -> Field:
    """One image of stars."""
    return field(folder / "stars.fits", 512, 110, 5, **STARS)


def mosaic(folder: Path) -> Field:
    """Three CCDs of stars, the second one empty."""
    return field(folder / "mosaic.fits", 420, 80, 6, extensions=3, empty=(2,), **STARS)


@needs_psfex
@pytest.mark.parametrize(("make", "filled"), [(star_field, [True]), (mosaic, [True, False, True])])
def test_psfex_gives_the_same_psf(make: Callable[[Path], Field], filled: list[bool], tmp_path: Path) -> None:
    image = make(tmp_path).path
    keywords = {"CATALOG_TYPE": "FITS_LDAC", "PHOT_APERTURES": "12"}
    setup = reference.Setup(tmp_path, companions.PSFEX_COLUMNS, keywords)
    theirs = companions.psfex(setup.reference(image), tmp_path / "theirs")
    ours = companions.psfex(setup.ours(image), tmp_path / "ours")
    # An empty CCD keeps its place.
    assert [p.accepted > 20 for p in theirs] == filled
    assert [p.loaded for p in ours] == [p.loaded for p in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.fwhm == pytest.approx(other.fwhm, rel=1e-3)
        assert mine.chi2 == pytest.approx(other.chi2, rel=1e-3)
        assert mine.pixels.shape == other.pixels.shape
        peak = max(float(np.abs(other.pixels[0]).max()), 1e-30)
        assert float(np.abs(mine.pixels - other.pixels).max()) <= 1e-3 * peak


@needs_scamp
def test_scamp_gives_the_same_astrometry(tmp_path: Path) -> None:
    made = mosaic(tmp_path)
    stars = made.truth[made.truth["PEAK"] < 20000.0]
    local = companions.write_reference(
        tmp_path / "reference.cat",
        stars["ALPHA_J2000"],
        stars["DELTA_J2000"],
        25.0 - 2.5 * np.log10(stars["FLUX"]),
    )
    setup = reference.Setup(tmp_path, companions.SCAMP_COLUMNS, {"CATALOG_TYPE": "FITS_LDAC"})
    theirs = companions.scamp(setup.reference(made.path), local, tmp_path / "theirs")
    ours = companions.scamp(setup.ours(made.path), local, tmp_path / "ours")
    assert theirs.contrast > 5.0
    # scamp drops flagged and elongated sources: a blend may fall on either side of its cuts.
    assert ours.detections == pytest.approx(theirs.detections, abs=2)
    assert ours.contrast == pytest.approx(theirs.contrast, rel=0.05)
    assert ours.sigma_arcsec == pytest.approx(theirs.sigma_arcsec, rel=0.02)
    assert len(ours.headers) == len(theirs.headers) == 3
    for mine, other in zip(ours.headers, theirs.headers, strict=True):
        # A hundredth of a pixel, in degrees and in pixels.
        assert mine["CRVAL1"] == pytest.approx(other["CRVAL1"], abs=0.0026 / 3600)
        assert mine["CRVAL2"] == pytest.approx(other["CRVAL2"], abs=0.0026 / 3600)
        assert mine["CRPIX1"] == pytest.approx(other["CRPIX1"], abs=0.01)
        assert mine["CRPIX2"] == pytest.approx(other["CRPIX2"], abs=0.01)
