"""The table of images: seeing, depth and place against fields whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.wcs import WCS

from sextract.survey.manifest import ExtensionEntry
from sextract.survey.merge.quality import FrameSummary, depth, half_sample_mode, star_like, stellar_fwhm
from tests.survey.merge.surveys import rows_at

SKY = ("ALPHA_J2000", "DELTA_J2000")


def extension(width=1000, height=600):
    return ExtensionEntry(1, 1, width, height, 100.0, 5.0, 7.5, 1.0, 0.5, 25.0, 0, 0)


def test_depth_is_five_sigma_of_the_best_photometry():
    # A star of that magnitude on a grid of pixels: the error of the fit of its own profile is that of weights ~ profile.
    rms, fwhm, zeropoint = 5.0, 3.2, 25.0
    y, x = np.mgrid[-20:21, -20:21]
    profile = np.exp(-4 * math.log(2) * ((x - 0.3) ** 2 + (y + 0.2) ** 2) / fwhm**2)
    profile /= profile.sum()
    error = rms / math.sqrt((profile**2).sum())
    flux = 10 ** (-0.4 * (depth(zeropoint, rms, fwhm) - zeropoint))
    assert flux / error == pytest.approx(5.0, rel=1e-3)
    noise = np.random.default_rng(1).normal(0, rms, (4000, *profile.shape))
    fitted = ((flux * profile + noise) * profile).sum(axis=(1, 2)) / (profile**2).sum()
    assert fitted.mean() / fitted.std() == pytest.approx(5.0, rel=0.05)


def test_depth_of_what_is_unknown():
    assert math.isnan(depth(25.0, 0.0, 3.0)) and math.isnan(depth(25.0, 5.0, math.nan))


def test_fwhm_of_stars_among_galaxies():
    rng = np.random.default_rng(2)
    sizes = np.concatenate([rng.normal(3.0, 0.06, 300), rng.uniform(3.2, 15.0, 700), rng.uniform(1.0, 2.0, 20)])
    assert stellar_fwhm(rng.permutation(sizes)) == pytest.approx(3.0, rel=0.01)
    assert math.isnan(stellar_fwhm(sizes[:4]))


def test_mode_of_a_few_values():
    assert half_sample_mode(np.array([1.0])) == 1
    assert half_sample_mode(np.array([1.0, 2.0])) == 1.5
    assert half_sample_mode(np.array([0.0, 4.0, 5.0, 5.1, 5.2, 9.0, 20.0])) == pytest.approx(5.1, abs=0.06)


def test_what_is_like_a_star():
    layout = [(n, "f4") for n in ("FWHM_IMAGE", "SNR_WIN", "A_IMAGE", "B_IMAGE", "CLASS_STAR")] + [("FLAGS", "i2")]
    rows = np.array([(3, 50, 1, 0.9, 1, 0)] * 7, layout)
    rows["FWHM_IMAGE"][1] = 0
    rows["SNR_WIN"][2] = 19
    rows["B_IMAGE"][3] = 0.7
    rows["CLASS_STAR"][4] = 0.5
    rows["FLAGS"][5] = 2
    rows["SNR_WIN"][6] = np.nan
    assert star_like(rows).tolist() == [True] + [False] * 6


@pytest.mark.parametrize("centre", [(0.0, 0.0), (359.999, -45.0), (123.0, 89.99), (40.0, -90.0)])
def test_where_a_frame_is(centre):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = centre, [700.0, -100.0]
    turn = np.radians(30)
    wcs.wcs.cd = 0.5 / 3600 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0.5, 1000.5, 400), rng.uniform(0.5, 600.5, 400)
    rows = rows_at(*wcs.all_pix2world(x, y, 1))
    rows["X_IMAGE"], rows["Y_IMAGE"] = x, y
    summary = FrameSummary(extension(), SKY)
    rows["ALPHA_J2000"][3] = np.nan
    for piece in np.array_split(rows, 7):
        summary.add(piece)
    sky = summary.sky
    ra, dec = (float(v) for v in wcs.all_pix2world(500.5, 300.5, 1))
    assert sky.dec == pytest.approx(dec, abs=1e-6)
    assert math.cos(math.radians(dec)) * abs((sky.ra - ra + 180) % 360 - 180) < 1e-6
    assert (sky.width, sky.height) == pytest.approx((1000 * 0.5 / 3600, 600 * 0.5 / 3600), rel=1e-4)
    assert summary.pixel_scale == pytest.approx(0.5, rel=1e-4)


def test_a_place_that_two_sources_do_not_tell():
    summary = FrameSummary(extension(), SKY)
    summary.add(rows_at([10.0, 10.1], [1.0, 1.1]))
    assert all(map(math.isnan, summary.sky)) and summary.pixel_scale == 0.5


def test_fractions_and_sizes_of_many_pieces():
    layout = [("FWHM_IMAGE", "f4"), ("SNR_WIN", "f4"), ("FLAGS", "i2")]
    rng = np.random.default_rng(5)
    rows = np.zeros(200_000, layout)
    rows["FWHM_IMAGE"], rows["SNR_WIN"] = rng.normal(3.0, 0.1, len(rows)), 30
    rows["FLAGS"][:50_000] = 3
    fwhm = set()
    for pieces in (1, 13):
        summary = FrameSummary(extension(), SKY)
        for piece in np.array_split(rows, pieces):
            summary.add(piece)
        assert (summary.unflagged, summary.fraction(1), summary.fraction(4)) == (150_000, 0.25, 0.0)
        fwhm.add(summary.fwhm)
    assert len(fwhm) == 1 and fwhm.pop() == pytest.approx(3.0, abs=0.01)
