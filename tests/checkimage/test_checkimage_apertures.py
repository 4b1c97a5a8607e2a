"""APERTURES: strokes against a plain drawing, at the edges of the frame and of the buffer, and added once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from sextract.checkimage import _draw
from sextract.checkimage.apertures import OUTLINE, STROKE_RMS, ApertureImage, circles, ellipses
from sextract.checkimage.checkimage import open_checkimages
from sextract.checkimage.headers import ImageExtension
from sextract.records import Box


def plain(shapes: np.ndarray[Any, Any], width: int, height: int) -> list[int]:
    """Pixels of outlines: 36 strokes each, walked along the longer axis."""
    out = []
    for s in shapes:
        if not s["a"] > 0:
            continue
        ct, st = math.cos(s["theta"]), math.sin(s["theta"])
        corners = []
        for k in range(37):
            u, v = s["a"] * math.cos(2 * math.pi * k / 36), s["b"] * math.sin(2 * math.pi * k / 36)
            corners.append((s["x"] + u * ct - v * st, s["y"] + u * st + v * ct))
        for k in range(0, 36, 2 if s["dotted"] else 1):
            (x0, y0), (x1, y1) = corners[k], corners[k + 1]
            flat = abs(x1 - x0) > abs(y1 - y0)
            if not flat:
                x0, y0, x1, y1 = y0, x0, y1, x1
            slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
            first, last = math.floor(x0 + 0.5), math.floor(x1 + 0.5)
            step = 1 if last > first else -1
            for i in range(first + step, last + step, step) if last != first else ():
                j = math.floor(y0 + (i - x0) * slope + 0.5)
                x, y = (i, j) if flat else (j, i)
                if 0 <= x < width and 0 <= y < height:
                    out.append(y * width + x)
    return out


def drawn(shapes: np.ndarray[Any, Any], width: int, height: int, room: int = 50) -> list[int]:
    state, out, found = np.zeros(3, np.int64), np.zeros(room, np.int64), []
    columns = [np.ascontiguousarray(shapes)[name] for name in OUTLINE.names or ()]
    while state[0] < len(shapes):
        n = _draw.draw(*columns, width, height, state, out)
        found += out[:n].tolist()
    return found


def random_outlines(seed: int, n: int = 40) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    out = np.zeros(n, OUTLINE)
    out["x"], out["y"] = rng.uniform(-20, 120, n), rng.uniform(-20, 90, n)
    out["a"], out["b"] = rng.uniform(0, 60, n), rng.uniform(0, 60, n)
    out["theta"], out["dotted"] = rng.uniform(-2, 2, n), rng.integers(0, 2, n)
    out["a"][::10] = 0
    return out


@pytest.mark.parametrize("room", [1, 7, 5000])
def test_kernel_equals_plain_drawing(room: int) -> None:
    for seed in range(5):
        shapes = random_outlines(seed)
        assert drawn(shapes, 100, 70, room) == plain(shapes, 100, 70)


def test_nonsense_draws_nothing() -> None:
    shapes = random_outlines(1, 6)
    shapes["x"][0], shapes["a"][1], shapes["theta"][2] = np.nan, np.inf, np.nan
    shapes["b"][3], shapes["a"][4], shapes["y"][5] = -np.inf, -1, 1e300
    assert drawn(shapes, 100, 70) == []


def test_a_giant_outline_is_clipped_at_once() -> None:
    shapes = np.zeros(1, OUTLINE)
    shapes["x"], shapes["y"], shapes["a"], shapes["b"] = 1e14, 35, 1e14, 1e14
    assert all(0 <= p < 7000 for p in drawn(shapes, 100, 70))


def test_circle_is_where_it_should_be() -> None:
    shapes = circles(np.array([40.3]), np.array([30.8]), [20.0]).reshape(-1)
    pixels = np.array(drawn(shapes, 100, 70))
    radius = np.hypot(pixels % 100 - 40.3, pixels // 100 - 30.8)
    assert (np.abs(radius - 10) < 0.8).all() and 50 <= len(pixels) <= 65


def test_ellipse_has_the_catalogue_axes_and_dots() -> None:
    one = np.ones(2)
    shapes = ellipses(40 * one, 30 * one, 4 * one, 2 * one, 90 * one, 3.5 * one, np.array([2, 3])).reshape(-1)
    assert shapes["dotted"].tolist() == [0, 1]
    pixels, dots = np.array(drawn(shapes[:1], 100, 70)), drawn(shapes[1:], 100, 70)
    assert np.ptp(pixels % 100) == 14 and np.ptp(pixels // 100) == 28
    assert set(dots) < set(pixels.tolist()) and 0.3 < len(dots) / len(pixels) < 0.7


def test_strokes_add_to_the_tiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=(70, 100)).astype(np.float32)
    shapes = random_outlines(4, 300)
    with open_checkimages([("APERTURES", str(tmp_path / "a.fits"))], [ImageExtension(100, 70)] * 2) as images:
        image = images["APERTURES"]
        assert isinstance(image, ApertureImage)
        for ext in (0, 1):
            image.write_box(ext, Box(0, 0, 70, 100), base)
        # Out of order, a gap between, the first ones twice: as retried tasks would.
        image.put_outlines(350, shapes[150:])
        image.put_outlines(0, shapes[:150])
        image.put_outlines(0, shapes[:150].reshape(50, 3))
        image.draw(0, 2.0)
        image.forget_outlines()
        image.draw(1, 2.0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]
    count = np.bincount(plain(shapes, 100, 70), minlength=7000).reshape(70, 100)
    assert count.max() > 2
    with fits.open(tmp_path / "a.fits", checksum=True) as hdus:
        np.testing.assert_allclose(hdus[1].data - base, count * STROKE_RMS * 2.0, rtol=1e-4)
        np.testing.assert_array_equal(hdus[2].data, base)


def test_outlines_do_not_outlive_a_failure(tmp_path: Path) -> None:
    pairs = [("APERTURES", str(tmp_path / "a.fits"))]
    with pytest.raises(ZeroDivisionError), open_checkimages(pairs, [ImageExtension(100, 70)]) as images:
        images["APERTURES"].put_outlines(0, random_outlines(1))  # type: ignore[attr-defined]
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
