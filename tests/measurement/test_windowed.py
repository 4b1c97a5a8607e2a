"""Windowed measurements: against a twin in NumPy, analytic sources, SExtractor, and themselves in other batches."""

import math

import numpy as np
import pytest
from astropy.io import fits
from scene_cutter import gaussian_image, sextractor_scene, synthetic_scene

from sextract.config.settings import PhotometrySettings
from sextract.measurement import _windowed
from sextract.measurement.measure import MEASUREMENTS
from sextract.measurement.windowed import SIGMA_PER_HALF_LIGHT, centre
from sextract.records import BAD

COLUMNS = [c.name for c in MEASUREMENTS.get("windowed").columns]
F = np.float32
# Columns without zeros in sight, compared by ratio.
SMOOTH = (
    *("X2WIN_IMAGE", "AWIN_IMAGE", "BWIN_IMAGE", "CXXWIN_IMAGE", "ERRX2WIN_IMAGE", "ERRAWIN_IMAGE"),
    *("FLUX_WIN", "FLUXERR_WIN", "MAG_WIN", "MAGERR_WIN", "SNR_WIN"),
)


def twin_sums(pixels, x0, y0, sigma, variance, gain, correct):
    """The ten sums about (x0, y0) over a whole image, one pixel after the other."""
    h, w = pixels.shape
    s = F(sigma)
    radius = F(4.0 * float(s))
    inner, outer, inverse = F(float(radius) - math.sqrt(0.5)), F(float(radius) + 0.75), F(1 / (2.0 * float(s) * float(s)))
    step = F(1 / 11)
    sums = np.zeros(10)
    for y in range(max(int(y0 - radius + 0.499999), 0), min(int(y0 + radius + 1.499999), h)):
        for x in range(max(int(x0 - radius + 0.499999), 0), min(int(x0 + radius + 1.499999), w)):
            dx, dy = F(x - x0), F(y - y0)
            r2 = dx * dx + dy * dy
            if r2 > outer * outer:
                continue
            weight = F(math.exp(-float(r2 * inverse)))
            if r2 > inner * inner:
                offsets = [np.cumsum(np.array([d + F(0.5 * (float(step) - 1))] + [step] * 10, F)) for d in (dx, dy)]
                covered = (offsets[0][None, :] ** 2 + offsets[1][:, None] ** 2 <= radius * radius).sum()
                weight *= F(np.cumsum(np.full(122, step * step, F))[covered - 1]) if covered else F(0)
            value = pixels[y, x]
            if value < BAD / 10:
                u, v = int(2 * x0 + 0.49999 - x), int(2 * y0 + 0.49999 - y)
                seen = correct and 0 <= u < w and 0 <= v < h and pixels[v, u] > BAD / 10
                value = pixels[v, u] if seen else F(0)
            noise = (variance + (float(value) / gain if gain > 0 and value > 0 else 0.0)) * float(weight) ** 2
            i, dx, dy = float(weight) * float(value), float(dx), float(dy)
            second = [dx * dx, dy * dy, dx * dy]
            sums[:6] += [i, i * dx, i * dy, *(i * m for m in second)]
            sums[6:] += [noise, noise * (second[0] + 0.0833), noise * (second[1] + 0.0833), noise * second[2]]
    return sums


def fold_image(pixels, x, y, sigma, gain=0.0, correct=True, window=None):
    """The kernel's sums for one source, from a window of the image, rows `window` of it at a time."""
    h, w = pixels.shape
    sums = np.zeros((1, 10))
    box = np.array([[0, 0, 0, w, h]])
    step = window or h
    for ya in range(0, h, step):
        place = np.array([x]), np.array([y]), np.array([sigma])
        rows = np.array([[ya, min(ya + step, h)]])
        _windowed.fold(pixels.ravel(), np.array([0]), box, box, rows, *place, 1.0, gain, correct, sums)
    return sums[0]


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("x, y, sigma", [(20.3, 17.8, 2.1), (1.2, 30.4, 1.7), (19.5, 20.0, 0.43), (12.0, 39.0, 6.0)])
def test_sums_equal_the_twin(x, y, sigma, correct):
    image, _ = gaussian_image(3, (40, 44), 6)
    image[10:14, 15:30] = BAD
    image[36:, :20] = BAD
    expected = twin_sums(image, x, y, sigma, 1.0, 2.5, correct)
    found = fold_image(image, x, y, sigma, gain=2.5, correct=correct)
    scale = np.abs(expected).max()
    assert found == pytest.approx(expected, rel=3e-7, abs=3e-7 * scale)


@pytest.mark.parametrize("window", [1, 3, 17])
def test_rows_may_come_in_pieces(window):
    image, _ = gaussian_image(4, (60, 50), 8)
    whole = fold_image(image, 24.6, 31.2, 3.3)
    assert fold_image(image, 24.6, 31.2, 3.3, window=window).tobytes() == whole.tobytes()


@pytest.mark.parametrize("sigma, shape", [(30.0, (30, 400)), (140.0, (6, 1300))])
def test_rows_longer_than_a_run(sigma, shape):
    image, _ = gaussian_image(5, shape, 8)
    x, y = shape[1] * 0.476, shape[0] * 0.46
    expected = twin_sums(image, x, y, sigma, 1.0, 0.0, True)
    assert fold_image(image, x, y, sigma) == pytest.approx(expected, rel=1e-6, abs=1e-7 * abs(expected).max())


def flat_under_the_window(x, y, sigma, shape):
    """An image whose product with the window is 1 everywhere, so that each sub-pixel along the rim tells in the flux."""
    v, u = np.mgrid[: shape[0], : shape[1]]
    return np.exp(np.minimum(((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2), 20.0)).astype(F)


def test_sub_pixels_are_counted_one_by_one():
    """Brute force: rows that are bounded by a root hold as many sub-pixels as are found one by one; wide discs too."""
    rng = np.random.default_rng(7)
    for trial in range(240):
        # Centres and radii in steps of sub-pixels, or of half ones, bring about ties, also where a row only grazes the disc and
        # roots are worth least; some discs leave the image.
        x, y = rng.uniform(-1, 41, 2) if trial % 3 else np.round(rng.uniform(-1, 41, 2) * 22) / 22
        x += rng.choice([0.0, 3e-4])
        sigma = rng.uniform(0.43, 3) if trial % 2 else np.round(rng.uniform(0.43, 3) * 44) / 44
        sigma *= 4 if trial % 25 == 0 else 1
        image = flat_under_the_window(x, y, sigma, (40, 40))
        expected = twin_sums(image, x, y, sigma, 1.0, 0.0, True)
        assert fold_image(image, x, y, sigma) == pytest.approx(expected, rel=5e-7, abs=3e-7 * np.abs(expected).max()), trial


@pytest.mark.parametrize("sigma", [2.0, 4.5, 9.0])
def test_settling_sums_as_pieces_do(sigma):
    """Discs of one part, of several, and of more columns than a part has: the last iteration's sums are those of its centre."""
    image, _ = gaussian_image(9, (110, 120), 30)
    v, u = np.mgrid[:110, :120]
    image += F(500) * np.exp(-((u - 58) ** 2 + (v - 55) ** 2) / 8).astype(F)
    image[50:53, 40:70] = BAD
    cx, cy = np.array([57.2]), np.array([54.7])
    box, at = np.array([[0, 0, 0, 120, 110]]), np.array([0])
    sums, iterations, moving = np.zeros((1, 10)), np.zeros(1, np.int16), np.ones(1, np.uint8)
    _windowed.settle(
        image.ravel(), at, box, cx, cy, np.array([sigma]), 1.0, 2.5, True, 2.0, 1e-8, 1, (120, 110, 2),
        sums, iterations, moving,
    )  # fmt: skip
    assert iterations[0] == 2 and moving[0] == 0 and cx[0] != 57.2
    assert sums[0].tobytes() == fold_image(image, 57.2, 54.7, sigma, gain=2.5).tobytes()


def lone_scene(noise_seed=1, **photometry):
    """One source, 40 pixels from everything."""
    scene = synthetic_scene(noise_seed, (90, 96), 1, **photometry)
    return scene


def test_a_gaussian_is_found_where_it_is():
    scene = lone_scene()
    s = scene.sources
    y, x = np.mgrid[: scene.pixels.shape[0], : scene.pixels.shape[1]]
    sigma, flux, cx, cy = 2.2, 1e4, 47.3, 41.8
    r2 = (x - cx) ** 2 + (y - cy) ** 2
    scene.pixels[...] = flux / (2 * np.pi * sigma**2) * np.exp(-0.5 * r2 / sigma**2)
    scene.masked[...] = False
    s["x"], s["y"], s["a"], s["b"], s["cxx"], s["cyy"], s["cxy"] = cx + 0.4, cy - 0.3, sigma, sigma, 0.2, 0.2, 0.0
    b = scene.batch(COLUMNS)
    b["HALF_LIGHT_RADIUS"] = np.array([sigma / SIGMA_PER_HALF_LIGHT], np.float32)
    MEASUREMENTS.get("windowed").run(b)
    assert b["XWIN_IMAGE"][0] == pytest.approx(cx + 1, abs=2e-4)
    assert b["YWIN_IMAGE"][0] == pytest.approx(cy + 1, abs=2e-4)
    # The product of two equal Gaussians is narrower by the root of two.
    assert b["X2WIN_IMAGE"][0] == pytest.approx(sigma**2 / 2, rel=0.01)
    assert b["FLUX_WIN"][0] == pytest.approx(flux / 2, rel=0.01)
    assert b["FLUXERR_WIN"][0] == pytest.approx(np.sqrt(np.pi * sigma**2), rel=0.01)
    assert b["ERRX2WIN_IMAGE"][0] == pytest.approx(
        4 * (0.5 * sigma**2 + 0.0833) * np.pi * sigma**2 / (flux / 2) ** 2, rel=0.02
    )
    assert b["SNR_WIN"][0] == pytest.approx(b["FLUX_WIN"][0] / b["FLUXERR_WIN"][0])
    assert b["FLAGS_WIN"][0] == 0 and 1 < b["NITER_WIN"][0] < 16


@pytest.mark.parametrize("value, bit", [(-3.0, 4), (0.0, 4)])
def test_without_flux_the_isophotal_values_stand_in(value, bit):
    scene = lone_scene()
    s = scene.sources
    scene.pixels[...] = value
    scene.masked[...] = False
    s["x2"], s["y2"], s["xy"], s["errx2"], s["erry2"] = 4.0, 3.0, 0.5, 0.01, 0.02
    b = scene.batch(COLUMNS)
    b["HALF_LIGHT_RADIUS"] = np.array([2.0], np.float32)
    MEASUREMENTS.get("windowed").run(b)
    assert b["FLAGS_WIN"][0] & bit
    assert b["XWIN_IMAGE"][0] == s["x"][0] + 1 and b["Y2WIN_IMAGE"][0] == 3.0 and b["ERRY2WIN_IMAGE"][0] == 0.02
    assert b["MAG_WIN"][0] == 99 and b["NITER_WIN"][0] == 1
    assert b["FLUX_WIN"][0] == pytest.approx(value * 2 * np.pi * (2 * SIGMA_PER_HALF_LIGHT) ** 2, rel=0.02)


def test_a_centre_that_strays_is_flagged():
    scene = lone_scene()
    s = scene.sources
    y, x = np.mgrid[: scene.pixels.shape[0], : scene.pixels.shape[1]]
    scene.pixels[...] = 1e3 * np.exp(-0.5 * ((x - 50) ** 2 + (y - 44) ** 2) / 4)
    scene.masked[...] = False
    s["x"], s["y"], s["cxx"], s["cyy"], s["cxy"] = 47.0, 41.0, 1.0, 1.0, 0.0
    b = scene.batch(COLUMNS)
    b["HALF_LIGHT_RADIUS"] = np.array([3.0], np.float32)
    MEASUREMENTS.get("windowed").run(b)
    assert b["FLAGS_WIN"][0] == 8
    assert b["XWIN_IMAGE"][0] == 48.0 and b["FLUX_WIN"][0] > 0


def test_a_size_that_is_no_number_leaves_a_flag():
    scene = lone_scene()
    b = scene.batch(COLUMNS)
    b["HALF_LIGHT_RADIUS"] = np.array([np.nan], np.float32)
    MEASUREMENTS.get("windowed").run(b)
    assert b["FLAGS_WIN"][0] == 4 and b["NITER_WIN"][0] == 0 and b["XWIN_IMAGE"][0] == scene.sources["x"][0] + 1


@pytest.mark.parametrize("mask_type", ["CORRECT", "BLANK", "NONE"])
def test_same_bits_in_any_batch_and_any_storage(mask_type):
    scene = synthetic_scene(2, gain=1.7, mask_type=mask_type)
    n = len(scene.sources)
    whole = scene.measure(COLUMNS)
    order = np.random.default_rng(1).permutation(n)
    shuffled, tight = scene.measure(COLUMNS, index=order), scene.measure(COLUMNS, arena_px=6000)
    for name in COLUMNS:
        assert whole[name].dtype == np.dtype(
            next(c.dtype for c in MEASUREMENTS.get("windowed").columns if c.name == name)
        )
        assert whole[name][order].tobytes() == shuffled[name].tobytes(), name
        assert whole[name].tobytes() == tight[name].tobytes(), name
    for i in (0, n // 2, n - 1):
        alone = scene.measure(COLUMNS, index=[i])
        assert all(alone[name].tobytes() == whole[name][i : i + 1].tobytes() for name in COLUMNS)


def test_the_search_ends():
    scene = synthetic_scene(6, (120, 120), 25)
    b = scene.batch(COLUMNS)
    found = centre(b, np.full(len(b), 1.5))
    assert found.iterations.min() >= 1 and found.iterations.max() <= 17


@pytest.mark.parametrize("mask_type, gain", [("CORRECT", 2.0), ("BLANK", 0.0), ("NONE", 0.0)])
def test_equal_to_sextractor(tmp_path, mask_type, gain):
    image, _ = gaussian_image(11, (300, 300), 90, noise=3.0)
    fits.writeto(tmp_path / "im.fits", image + 100)
    photometry = PhotometrySettings(mask_type=mask_type, gain=gain, mag_zeropoint=25.0)
    scene = sextractor_scene(tmp_path, tmp_path / "im.fits", [*COLUMNS, "FLUX_RADIUS"], photometry)
    if scene is None:
        pytest.skip("source-extractor isn't installed")
    b = scene.batch(COLUMNS)
    b["HALF_LIGHT_RADIUS"] = np.maximum(np.abs(scene.table["FLUX_RADIUS"]), 0.5)
    MEASUREMENTS.get("windowed").run(b)
    t = scene.table
    assert len(t) > 50
    assert (b["FLAGS_WIN"] == t["FLAGS_WIN"]).all() and (b["NITER_WIN"] == t["NITER_WIN"]).mean() > 0.98
    for name in ("XWIN_IMAGE", "YWIN_IMAGE"):
        assert np.percentile(np.abs(b[name] - t[name]), 99) < 1e-6, name
    for name in SMOOTH:
        assert np.percentile(np.abs(b[name] / t[name].astype(float) - 1), 99) < 3e-6, name
