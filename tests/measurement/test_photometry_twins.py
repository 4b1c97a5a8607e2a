"""Photometric families against their definitions written out in Python, and the contract that each of them keeps."""

from typing import ClassVar

import numpy as np
import photometry_twins as twin
import pytest
from measurement_contract import MeasurementContract
from scene_cutter import SceneCutter, synthetic_scene

from sextract.measurement import _aperture, _growth
from sextract.records import BAD, Box

PHOTOMETRY = {"apertures": (3.0, 7.5, 20.0), "fluxfrac": (0.3, 0.5, 0.95), "mag_zeropoint": 25.3}


class TestAperture(MeasurementContract):
    family = "aperture"
    columns = dict.fromkeys(("FLUX_APER", "FLUXERR_APER", "MAG_APER", "MAGERR_APER"), (3,))
    photometry = PHOTOMETRY


class TestKron(MeasurementContract):
    family = "kron"
    columns = dict.fromkeys(("FLUX_AUTO", "FLUXERR_AUTO", "MAG_AUTO", "MAGERR_AUTO", "KRON_RADIUS"), ())


class TestPetrosian(MeasurementContract):
    family = "petrosian"
    columns = dict.fromkeys(("FLUX_PETRO", "FLUXERR_PETRO", "MAG_PETRO", "MAGERR_PETRO", "PETRO_RADIUS"), ())
    photometry: ClassVar = {"autoapers": (25.0, 12.0)}


class TestLightRadii(MeasurementContract):
    family = "growth"
    columns: ClassVar = {"FLUX_RADIUS": (3,)}
    photometry = PHOTOMETRY


class TestGrowth(MeasurementContract):
    family = "growth"
    columns: ClassVar = {
        "FLUX_RADIUS": (3,),
        "FLUX_GROWTH": (7,),
        "FLUX_GROWTHSTEP": (),
        "MAG_GROWTH": (4,),
        "MAG_GROWTHSTEP": (),
    }
    photometry = PHOTOMETRY


class TestIsophotal(MeasurementContract):
    family = "isophotal_flux"
    columns: ClassVar = {f"{n}_{k}": () for n in ("FLUX", "FLUXERR", "MAG", "MAGERR") for k in ("ISO", "ISOCOR")}


class TestBest(MeasurementContract):
    family = "best"
    columns = dict.fromkeys(("FLUX_BEST", "FLUXERR_BEST", "MAG_BEST", "MAGERR_BEST"), ())


class TestSurfaceBrightness(MeasurementContract):
    family = "surface_brightness"
    columns: ClassVar = {"MU_MAX": (), "MU_THRESHOLD": ()}


class TestFlags(MeasurementContract):
    family = "flags"
    columns: ClassVar = {"FLAGS": ()}


def seen(scene, i):
    """The whole image as source `i` sees it."""
    out = np.empty_like(scene.pixels)
    SceneCutter(scene.pixels, scene.masked, scene.labels, scene.ids, scene.photometry.mask_type).cut(
        i, Box(0, 0, *out.shape), out
    )
    return out


@pytest.fixture(scope="module", params=["CORRECT", "BLANK"])
def scene(request):
    return synthetic_scene(2, (60, 70), 14, gain=2.0, mask_type=request.param, **PHOTOMETRY)


def test_aperture_is_its_definition(scene):
    batch = scene.measure({"FLUX_APER": (3,), "FLUXERR_APER": (3,)})
    for i, s in enumerate(scene.sources):
        for k, diameter in enumerate(scene.photometry.apertures):
            image = seen(scene, i)
            flux, area = twin.aperture(image, s["x"], s["y"], diameter / 2, scene.photometry.mask_type == "CORRECT")
            assert batch["FLUX_APER"][i, k] == np.float32(flux)
            error = np.sqrt(area * scene.frame.rms**2 + max(flux, 0) / scene.frame.gain)
            assert batch["FLUXERR_APER"][i, k] == pytest.approx(error, rel=1e-6)


def test_kron_is_its_definition(scene):
    batch = scene.measure(["FLUX_AUTO", "FLUXERR_AUTO", "KRON_RADIUS"])
    for i, s in enumerate(scene.sources):
        image = seen(scene, i)
        radius = twin.kron_radius(image, s, 2.5, 3.5)
        flux, area = twin.ellipse(image, s, radius, scene.photometry.mask_type == "CORRECT")
        assert batch["KRON_RADIUS"][i] == pytest.approx(radius if flux > 0 else 0, rel=1e-6)
        assert batch["FLUX_AUTO"][i] == pytest.approx(flux, rel=1e-6)
        assert batch["FLUXERR_AUTO"][i] == pytest.approx(np.sqrt(area + max(flux, 0) / 2), rel=1e-6)


def test_petrosian_is_its_definition(scene):
    batch = scene.measure(["FLUX_PETRO", "PETRO_RADIUS"])
    for i, s in enumerate(scene.sources):
        image = seen(scene, i)
        radius = twin.petrosian_radius(image, s, 2.0, 3.5)
        flux, _ = twin.ellipse(image, s, radius, scene.photometry.mask_type == "CORRECT")
        assert batch["PETRO_RADIUS"][i] == pytest.approx(radius if flux > 0 else 0, rel=1e-6)
        assert batch["FLUX_PETRO"][i] == pytest.approx(flux, rel=1e-6)


def test_growth_is_its_definition(scene):
    columns: ClassVar = {"FLUX_RADIUS": (3,), "FLUX_GROWTH": (64,), "FLUX_GROWTHSTEP": (), "FLUX_AUTO": ()}
    whole, short = scene.measure(columns), scene.measure({"FLUX_RADIUS": (3,)})
    correct = scene.photometry.mask_type == "CORRECT"
    for i, s in enumerate(scene.sources):
        limit = 6 * float(s["a"])
        curve = twin.growth_curve(seen(scene, i), s["x"], s["y"], limit, correct)
        np.testing.assert_allclose(whole["FLUX_GROWTH"][i, 1:63], curve[1:63], rtol=2e-4, atol=1e-3)
        assert whole["FLUX_GROWTHSTEP"][i] == np.float32(limit / 64)
        for k, fraction in enumerate(scene.photometry.fluxfrac):
            target = float(np.float32(fraction)) * float(whole["FLUX_AUTO"][i])
            assert whole["FLUX_RADIUS"][i, k] == pytest.approx(twin.light_radius(curve, target, limit), rel=1e-6)
        half = twin.light_radius(curve, 0.5 * float(whole["FLUX_AUTO"][i]), limit)
        assert whole["HALF_LIGHT_RADIUS"][i] == pytest.approx(min(max(abs(half), 0.5), limit), rel=1e-6)
    # Rings that aren't looked at change no bit of a radius.
    assert whole["FLUX_RADIUS"].tobytes() == short["FLUX_RADIUS"].tobytes()
    assert whole["HALF_LIGHT_RADIUS"].tobytes() == short["HALF_LIGHT_RADIUS"].tobytes()


@pytest.mark.parametrize("size", [0.0, 1e-30, np.nan, np.inf, 1e20])
def test_sources_of_impossible_size_are_survived(size):
    scene = synthetic_scene(2, (60, 70), 8, **PHOTOMETRY)
    s = scene.sources
    for name in ("a", "b", "cxx", "cyy", "cxy", "x2", "y2"):
        s[name][::2] = size
    columns = {
        "FLUX_AUTO": (),
        "FLUX_PETRO": (),
        "FLUX_GROWTH": (5,),
        "FLUX_RADIUS": (2,),
        "FLAGS": (),
        "FLUX_APER": (2,),
    }
    whole, plain = scene.measure(columns), scene.measure({"FLUX_RADIUS": (2,), "FLUX_APER": (2,)})
    assert np.isfinite(whole["FLUX_APER"]).all()
    assert whole["FLUX_RADIUS"][1::2].tobytes() == plain["FLUX_RADIUS"][1::2].tobytes()


def one_pixel(value, x, y):
    """Windows arguments of an image that is 0 but for one pixel."""
    pixels = np.zeros((9, 9), np.float32)
    pixels[4, 4] = value
    box = np.array([[0, 0, 0, 9, 9]])
    return (pixels.ravel(), np.array([0]), box, box, np.array([[0, 9]])), np.array([x]), np.array([y])


def test_sub_pixels_in_rings_are_counted_one_by_one():
    """Brute force: the short ways of the kernel give the count of 25 square roots in every ring."""
    rng = np.random.default_rng(4)
    for trial in range(2000):
        # Centres on lattice points and halves bring about ties; small limits and large ones take the other branches.
        x, y = rng.uniform(2, 6, 2) if trial % 3 else np.round(rng.uniform(2, 6, 2) * 5) / 5
        limit = float(rng.choice([1.0, 3.0, 9.6, 12.0, 25.6, 60.0, 130.0])) * (
            1.0 if trial % 2 else rng.uniform(0.9, 1.1)
        )
        windows, cx, cy = one_pixel(25.0, x, y)
        curve = np.zeros((1, 64))
        radius = np.array([limit + 1.5])
        _growth.fold(*windows, cx, cy, np.array([limit]), radius, False, 0, curve)
        expected = np.zeros(64)
        image = windows[0].reshape(9, 9)
        expected[:] = np.diff(twin.growth_curve(image, x, y, limit, False), prepend=0.0)
        np.testing.assert_allclose(curve[0], expected, atol=1e-9)


def test_sub_pixels_of_apertures_are_counted_one_by_one():
    rng = np.random.default_rng(5)
    for trial in range(800):
        x, y = rng.uniform(2, 6, 2) if trial % 2 else np.round(rng.uniform(2, 6, 2) * 5) / 5
        radius = rng.uniform(0.1, 4)
        windows, cx, cy = one_pixel(1.0, x, y)
        state = np.zeros((1, 1, 2))
        radii = np.array([radius])
        _aperture.fold(*windows, cx.astype(np.float32), cy.astype(np.float32), radii, False, state)
        assert tuple(state[0, 0]) == twin.aperture(windows[0].reshape(9, 9), x, y, radius, False)


def test_apertures_are_summed_pixel_by_pixel():
    """To the last bit, whole images: rows of sub-pixels that only graze the rim, ties, centres outside, wide circles."""
    rng = np.random.default_rng(6)
    image = rng.normal(0, 1, (30, 34)).astype(np.float32)
    image[4:9, 10:16] = BAD
    box = np.array([[0, 0, 0, 34, 30]])
    for trial in range(240):
        x, y = rng.uniform(-1, 35, 2) if trial % 3 == 0 else np.round(rng.uniform(-1, 35, 2) * 5) / 5
        radius = rng.uniform(0.1, 6) if trial % 2 else np.round(rng.uniform(0.1, 6) * 5) / 5 + 0.1 * (trial % 4)
        radius *= 8 if trial % 40 == 0 else 1
        x += rng.choice([0.0, 1e-3])
        x, y = np.float32(x), np.float32(y)
        state, correct = np.zeros((1, 1, 2)), trial % 5 > 0
        for rows in ([0, 11], [11, 30]):
            windows = image.ravel(), np.array([0]), box, box, np.array([rows])
            _aperture.fold(*windows, np.array([x]), np.array([y]), np.array([radius]), correct, state)
        assert tuple(state[0, 0]) == twin.aperture(image, x, y, radius, correct), trial


def test_masked_centre_is_no_mirror_of_itself():
    windows, cx, cy = one_pixel(BAD, 4.0, 4.0)
    state = np.zeros((1, 1, 2))
    _aperture.fold(*windows, cx.astype(np.float32), cy.astype(np.float32), np.array([2.0]), True, state)
    assert state[0, 0, 0] == 0
    assert state[0, 0, 1] > 12
