"""Families that hand on what detection found: identifiers, positions, background columns, shapes, position errors."""

import numpy as np
import pytest
from scene_cutter import synthetic_scene

from sextract.measurement.measure import MEASUREMENTS
from sextract.measurement.positions import fits_pixel
from sextract.measurement.shape import conic, ellipse, polarisation
from sextract.records import SOURCE

PLAIN = ("identifiers", "positions", "background_columns", "shape", "position_errors")


@pytest.fixture(scope="module")
def batch():
    scene = synthetic_scene(count=12)
    s = scene.sources
    s["parent"], s["bkg"], s["dbkg"] = np.arange(len(s)) + 100, 7.5, 0.0
    s["errx2"], s["erry2"], s["errxy"] = 0.04, 0.01, 0.005
    return scene.measure([c.name for name in PLAIN for c in MEASUREMENTS.get(name).columns])


def test_fits_counts_pixels_from_one():
    assert fits_pixel(np.array([0.0, -0.25, 11.5])).tolist() == [1.0, 0.75, 12.5]
    assert fits_pixel(np.array([3], np.int32), np.int32).dtype == np.int32


def test_every_declared_column_is_filled_with_its_type(batch):
    for name in PLAIN:
        for column in MEASUREMENTS.get(name).columns:
            assert batch[column.name].dtype == np.dtype(column.dtype), column.name
            assert batch[column.name].shape == (len(batch),), column.name


def test_positions_and_extents_are_one_more(batch):
    s = batch.sources
    assert (batch["X_IMAGE_DBL"] == s["x"] + 1).all()
    assert (batch["Y_IMAGE"] == (s["y"] + 1).astype(np.float32)).all()
    for name in ("XMIN", "YMIN", "XMAX", "YMAX", "XPEAK", "YPEAK"):
        assert (batch[f"{name}_IMAGE"] == s[name.lower()] + 1).all()


def test_identifiers(batch):
    assert (batch["NUMBER"] == batch.sources["number"]).all()
    assert (batch["ID_PARENT"] == np.arange(len(batch)) + 100).all()
    assert (batch["EXT_NUMBER"] == 1).all()


def test_the_local_correction_moves_background_and_peak_but_not_the_threshold():
    scene = synthetic_scene(count=12)
    one = scene.batch(["BACKGROUND"])
    one.sources["bkg"], one.sources["dbkg"], one.sources["peak"] = 100.0, 0.5, 40.0
    MEASUREMENTS.get("background_columns").run(one)
    assert (one["BACKGROUND"] == 100.5).all() and (one["FLUX_MAX"] == 39.5).all()
    assert (one["THRESHOLD"] == one.sources["dthresh"]).all()


def test_iso_areas_keep_their_order():
    scene = synthetic_scene(count=12)
    one = scene.batch(["ISO0"])
    one.sources["iso"] = np.arange(8) * 3
    MEASUREMENTS.get("background_columns").run(one)
    assert [int(one[f"ISO{k}"][0]) for k in range(8)] == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize("a, b, theta", [(3.0, 1.0, 30.0), (2.0, 2.0, 45.0), (5.0, 0.5, -60.0), (1.5, 1.0, 90.0)])
def test_ellipse_inverts_its_moments(a, b, theta):
    c, s = np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))
    moments = [
        np.array([v]) for v in (a * a * c * c + b * b * s * s, a * a * s * s + b * b * c * c, (a * a - b * b) * c * s)
    ]
    found = [float(v[0]) for v in ellipse(*moments)]
    assert found[:2] == pytest.approx([a, b])
    if a != b:
        assert found[2] == pytest.approx(theta)
    cxx, cyy, cxy = (float(v[0]) for v in conic(*moments))
    x, y = a * c, a * s
    assert cxx * x * x + cyy * y * y + cxy * x * y == pytest.approx(1.0)


def test_ellipse_of_a_line_and_of_nothing():
    a, b, theta = ellipse(np.array([4.0, 0.0]), np.array([0.0, 0.0]), np.array([0.0, 0.0]))
    assert a.tolist() == [2.0, 0.0] and b.tolist() == [0.0, 0.0] and theta.tolist() == [0.0, 45.0]


def test_ellipse_does_not_depend_on_length_or_stride():
    rng = np.random.default_rng(5)
    x2, y2, xy = rng.uniform(1, 3, 67), rng.uniform(1, 3, 67), rng.uniform(-0.9, 0.9, 67)
    all_at_once = np.array(ellipse(x2, y2, xy))
    one_by_one = np.array([[v[0] for v in ellipse(x2[i : i + 1], y2[i : i + 1], xy[i : i + 1])] for i in range(67)]).T
    strided = np.array(ellipse(np.repeat(x2, 2)[::2], np.repeat(y2, 2)[::2], np.repeat(xy, 2)[::2]))
    assert all_at_once.tobytes() == one_by_one.tobytes() == strided.tobytes()


def test_polarisation_of_a_circle_and_of_a_point():
    assert polarisation(np.array([2.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0])).tolist() == [0.0, 0.0, 1.0]


def test_shape_ratios(batch):
    s = batch.sources
    assert batch["ELONGATION"] == pytest.approx(s["a"] / s["b"])
    assert batch["ELLIPTICITY"] == pytest.approx(1 - s["b"] / s["a"])
    assert batch["FWHM_WORLD"] == pytest.approx(s["fwhm"] * batch.frame.pixel_scale / 3600)


def test_position_errors_are_those_of_the_barycentre(batch):
    a, b, theta = ellipse(np.array([0.04]), np.array([0.01]), np.array([0.005]))
    assert (batch["ERRX2_IMAGE"] == 0.04).all() and (batch["ERRXY_IMAGE"] == 0.005).all()
    assert batch["ERRA_IMAGE"] == pytest.approx(a[0]) and batch["ERRB_IMAGE"] == pytest.approx(b[0])
    assert batch["ERRTHETA_IMAGE"] == pytest.approx(theta[0])
    assert batch["ERRCXX_IMAGE"] == pytest.approx(0.01 / (0.04 * 0.01 - 0.005**2))


def test_no_sources():
    scene = synthetic_scene(count=3)
    scene.sources = np.zeros(0, SOURCE)
    empty = scene.measure(["NUMBER", "X_IMAGE", "A_IMAGE", "ERRA_IMAGE", "ISO3"], index=np.zeros(0, int))
    assert len(empty["A_IMAGE"]) == len(empty["ISO3"]) == 0
