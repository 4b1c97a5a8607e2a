"""Deblending against a twin in plain Python: sources, their pixels in list order, and every field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deblend_driver import GAUSS, NO_TAPS, Found, Scene, blobs, same
from deblend_twin import Settings, background_twin, draw_twin, mthresh_twin
from hypothesis import given
from hypothesis import strategies as st

from sextract.deblending import _deblend
from sextract.records import SOURCE

BOOKKEEPING = {"fragments", "nfragments", "parent", "row", "sorted"}


def check(scene: Scene, found: Found) -> int:
    """All fields against the twin; the number of sources that are parts of a blend."""
    expected = scene.twin()
    assert found.pixels == [p for _, _, p in expected]
    for s, (f, o, _) in zip(found.sources, expected, strict=True):
        assert s["parent"] == f["parent"] and s["row"] == f["row"]
        assert set(o) == set(SOURCE.names or ()) - BOOKKEEPING
        for name, value in o.items():
            if SOURCE[name].base.kind == "i":
                assert np.all(s[name] == value), name
            elif SOURCE[name] == np.float64:
                np.testing.assert_allclose(s[name], value, rtol=1e-9, atol=1e-10, err_msg=name)
            else:
                np.testing.assert_allclose(s[name], value, rtol=3e-6, atol=1e-6, err_msg=name)
    return int((found.sources["flags"] & 2 > 0).sum())


SETTINGS = {
    "default": Settings(threshold=1.1, analysis=1.1),
    "gain and saturation": Settings(threshold=1.1, analysis=2.0, gain=1.7, rms=0.7, saturation=140.0),
    "low contrast": Settings(threshold=0.8, analysis=0.3, mincont=0.0, minarea=3, nthresh=64),
    "few levels": Settings(threshold=1.1, nthresh=5, mincont=0.02, extension=3),
    "no levels": Settings(threshold=1.1, nthresh=1),
    "one pixel is enough": Settings(threshold=1.0, minarea=1, mincont=0.001),
    "many are needed": Settings(threshold=1.0, minarea=30),
    "none too large": Settings(threshold=1.0, maxarea=60),
    "nothing to analyse": Settings(threshold=1.0, analysis=1e6),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_blends_are_the_twins(name: str) -> None:
    scene = Scene(blobs(3, (70, 90), 60), SETTINGS[name])
    found = scene.run()
    blended = check(scene, found)
    assert len(found.sources) > 8 and (blended > 5 or name == "no levels")


@pytest.mark.parametrize("taps", [NO_TAPS, GAUSS, -GAUSS[1:] + GAUSS[1:].T.mean() * 2])
def test_any_filter(taps: Any) -> None:
    scene = Scene(blobs(5, (50, 60), 35), Settings(threshold=1.5, mincont=0.002), np.ascontiguousarray(taps))
    assert check(scene, scene.run()) > 3


@pytest.mark.parametrize("seed", range(4))
def test_crowded_noise(seed: int) -> None:
    # Most of the frame is one footprint with hundreds of peaks.
    scene = Scene(blobs(seed, (48, 64), 50, 20, 3.0), Settings(threshold=0.4, mincont=1e-4, minarea=1 + seed), NO_TAPS)
    assert check(scene, scene.run()) > 10


def test_equal_pixels() -> None:
    # Plateaus, ties of flux and no noise at all.
    image = np.zeros((40, 60), np.float32)
    for i, (y, x) in enumerate([(8, 10), (8, 22), (30, 14), (30, 40), (12, 45)]):
        image[y - 5 : y + 6, x - 6 : x + 7] = np.maximum(image[y - 5 : y + 6, x - 6 : x + 7], 2)
        image[y - 2 : y + 3, x - 2 : x + 3] = 64 if i % 2 else 32
    scene = Scene(image, Settings(threshold=1.0, minarea=3), NO_TAPS)
    assert check(scene, scene.run()) >= 2


@pytest.mark.parametrize("seed", range(12))
def test_values_that_are_often_equal(seed: int) -> None:
    # Several maxima, passes and levels at a time.  Shapes are left out: angles of symmetric ones are a matter of rounding.
    image = np.round(np.maximum(blobs(seed, (40, 50), 25, 12, 0.8), 0) / (1 + seed % 3)).astype(np.float32)
    nthresh, mincont = [32, 64, 7, 3][seed // 3], [0.0, 1e-4, 3e-3][seed % 3]
    settings = Settings(threshold=0.7, mincont=mincont, minarea=1 + seed % 4, nthresh=nthresh)
    scene = Scene(image, settings, NO_TAPS)
    found = scene.run()
    assert found.pixels == [p for _, _, p in scene.twin()]
    assert (found.sources["flags"] & 2).sum() > 3


def ridge(gap: int) -> Any:
    """A footprint as long as the frame, or in two halves."""
    image = np.maximum(blobs(6, (44, 1600), 260, 20), 0)
    image[20, : 800 - gap] = np.maximum(image[20, : 800 - gap], 2)
    image[20, 800 + gap :] = np.maximum(image[20, 800 + gap :], 2)
    image[:, 800 - gap : 800 + gap] = 0
    return image.astype(np.float32)


@pytest.mark.parametrize("gap", [0, 2])
def test_small_boxes_and_large_ones(gap: int) -> None:
    # Up to 65,536 pixels the tree grows from maxima, beyond from runs.
    scene = Scene(ridge(gap), Settings(threshold=0.6, mincont=2e-4), NO_TAPS)
    box = (scene.footprints["xmax"] - scene.footprints["xmin"] + 3) * (scene.footprints["ymax"] - scene.footprints["ymin"] + 3)
    assert box.max() > 65536 if gap == 0 else 30000 < box.max() <= 65536
    assert check(scene, scene.run()) > 40


@pytest.mark.parametrize("bright", [1e6, 1e9])
def test_peaks_far_above_the_threshold(bright: float) -> None:
    # Beyond a range of 2²⁹ sums aren't exact, and branches are summed run by run.
    image = blobs(3, (40, 50), 20)
    image[20, 20:23] += bright
    image[22, 30] += bright / 3
    scene = Scene(image, Settings(threshold=1.0, mincont=1e-8, minarea=1), GAUSS)
    assert check(scene, scene.run()) > 1


def test_lines_of_single_pixels() -> None:
    image = np.zeros((30, 40), np.float32)
    image[3, 2:38] = np.tile([5, 9, 2], 12)
    image[6:29, 5] = 7
    image[np.arange(8, 28), np.arange(9, 29)] = 3
    scene = Scene(image, Settings(threshold=1.0, mincont=0.0, minarea=1), NO_TAPS)
    found = scene.run()
    check(scene, found)
    assert found.sources["singular"].any()


def test_a_footprint_of_the_whole_frame() -> None:
    image = np.abs(blobs(9, (30, 30), 25)) + 2
    scene = Scene(image, Settings(threshold=1.0), NO_TAPS)
    assert len(scene.footprints) == 1
    found = scene.run()
    check(scene, found)
    # Only a part whose own peak reaches the edge is flagged.
    assert set(np.unique(found.sources["flags"] & 8)) == {0, 8}


def test_rejected_parts_are_left_out() -> None:
    image = blobs(3, (70, 90), 60)
    every = Scene(image, Settings(threshold=1.0)).run()
    small = Scene(image, Settings(threshold=1.0, maxarea=60)).run()
    keep = every.sources["npix"] <= 60
    assert 0 < keep.sum() < len(keep)
    assert [p for p, k in zip(every.pixels, keep, strict=True) if k] == small.pixels
    assert same(small.sources, every.sources[keep])


def test_no_pixel_is_lost_or_shared() -> None:
    scene = Scene(blobs(3, (70, 90), 60), Settings(threshold=1.0))
    found = scene.run()
    pixels = [q for p in found.pixels for q in p]
    assert len(set(pixels)) == len(pixels)
    assert set(pixels) == {q for p in scene.lists() for q in p}


@given(st.integers(1, 99), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_draws_depend_on_the_pixel_alone(extension: int, x: int, y: int) -> None:
    assert _deblend.share_draw(extension, x, y) == draw_twin(extension, x, y)


def test_draws_are_even() -> None:
    draws = np.array([draw_twin(1, x, y) for x in range(60) for y in range(60)])
    counts, _ = np.histogram(draws, 12, (0, 1))
    assert ((counts - 300) ** 2 / 300).sum() < 32  # χ² of 11 degrees, 1 in 1000
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.06


def test_the_wing_threshold_of_short_lists() -> None:
    values = [np.float32(v) for v in (5, 1, 4, 2, 3)]
    assert mthresh_twin(values, 6) == 0 and mthresh_twin(values, 5) == 5 and mthresh_twin(values, 4) == 1


def test_background_between_nodes() -> None:
    # A plane is reproduced everywhere, beyond the outermost nodes too.
    y, x = np.mgrid[:3, :4]
    back = (10 + 2 * (x + 0.5) + 3 * (y + 0.5)).astype(np.float32)
    assert background_twin(back, (16, 32), 0, 0) == pytest.approx(10)
    assert background_twin(back, (16, 32), 100, 40) == pytest.approx(10 + 2 * 100 / 32 + 3 * 40 / 16)
    assert background_twin(back[:1, :1], (16, 32), 100, 40) == back[0, 0]
