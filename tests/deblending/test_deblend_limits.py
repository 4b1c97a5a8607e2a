"""Tiles, strips, scratch, output: what is at hand changes nothing.  The caps on branches and on pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deblend_driver import GAUSS, NO_TAPS, Scene, blobs, same
from deblend_twin import Settings

from sextract.deblending._deblend import DONE, LARGE, MISSING, OUTPUT, SCRATCH, most_scratch

LEFT = np.arange(1, 16, dtype=np.float32).reshape(5, 3) / np.float32(120)


@pytest.fixture(scope="module", params=["none", "gauss", "lopsided"])
def scene(request: pytest.FixtureRequest) -> Scene:
    taps = {"none": NO_TAPS, "gauss": GAUSS, "lopsided": LEFT}[request.param]
    return Scene(blobs(3, (70, 90), 60), Settings(threshold=1.1), taps)


@pytest.mark.parametrize("tile", [(70, 90), (8, 90), (70, 11), (5, 7), (1, 1)])
@pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("step", [1, 4, 100])
def test_where_pixels_come_from_changes_nothing(scene: Scene, tile: tuple[int, int], missing: float, step: int) -> None:
    reference, found = scene.run(), scene.run(tile, missing, step=step)
    assert same(reference.sources, found.sources) and reference.pixels == found.pixels
    assert reference.stops == [DONE]
    strips = found.stops.count(MISSING)
    assert strips == {0.0: 0, 1.0: len(scene.footprints)}.get(missing, strips)


@pytest.mark.parametrize("scratch", [1, 500, 3000, 20_000])
@pytest.mark.parametrize("missing", [0.0, 1.0])
def test_little_scratch_is_asked_for_again(scene: Scene, scratch: int, missing: float) -> None:
    reference, found = scene.run(), scene.run(scratch=scratch, missing=missing)
    assert same(reference.sources, found.sources) and reference.pixels == found.pixels
    assert SCRATCH in found.stops


@pytest.mark.parametrize("tight", range(0, 4000, 97))
def test_any_scratch_that_is_taken_is_enough(tight: int) -> None:
    # Just too little at each stage in turn: preparation, tree, sharing, fragments.
    scene = Scene(blobs(8, (24, 24), 14, noise=2), Settings(threshold=1.0, mincont=0.001), GAUSS)
    reference, found = scene.run(), scene.run(scratch=4000 + 16 * tight)
    assert same(reference.sources, found.sources) and reference.pixels == found.pixels


@pytest.mark.parametrize("missing", [0.0, 1.0])
def test_a_full_output_goes_on(scene: Scene, missing: float) -> None:
    reference, found = scene.run(), scene.run(room=1, missing=missing)
    assert same(reference.sources, found.sources) and reference.pixels == found.pixels
    assert found.stops.count(OUTPUT) >= 2


def test_filtered_values_at_the_frames_edge_are_the_scans() -> None:
    # The halo of a strip is cut at the frame, not at the strip.
    image = np.full((12, 12), 5, np.float32)
    scene = Scene(image, Settings(threshold=1.0), LEFT)
    for found in (scene.run(), scene.run(missing=1.0, step=2)):
        total = np.float32(sum(float(scene.filtered[y, x]) for p in found.pixels for y, x in p))
        assert found.sources["fdflux"][0] == pytest.approx(total)


def test_a_level_of_1024_branches_leaves_the_object_whole() -> None:
    def field(peaks: int) -> Scene:
        image = np.full((2, 2 * peaks + 1), 2, np.float32)
        image[0, 1::2] = 100
        return Scene(image, Settings(threshold=1.0, minarea=1, mincont=0.0), NO_TAPS)

    whole = field(1024).run()
    assert len(whole.sources) == 1 and whole.sources["flags"][0] == 64 | 8
    assert len(field(1023).run().sources) == 1023


# mthresh depends on the order of the list beyond rounding, the list of fragments is in raster order.
BY_ORDER = {"mthresh", "flags", "fragments", "sorted"}


@pytest.mark.parametrize("taps", [NO_TAPS, LEFT])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_footprint_over_the_cap_is_analysed_whole(taps: np.ndarray, step: int) -> None:
    image = blobs(2, (60, 80), 16, noise=0.3)
    options = {"threshold": 0.9, "gain": 2.0, "saturation": 300.0, "analysis": 1.2}
    scene = Scene(image, Settings(most_pixels=100, **options), taps)
    split = Scene(image, Settings(nthresh=1, **options), taps).run()
    found = scene.run(step=step, missing=0.5)
    large = scene.footprints["npix"] > 100
    assert large.any() and not large.all()
    assert found.stops.count(LARGE) == large.sum()
    for name in found.sources.dtype.names:
        if name not in BY_ORDER:
            np.testing.assert_allclose(found.sources[name], split.sources[name], rtol=1e-5, atol=1e-9, err_msg=name)
    kept = found.sources["npix"] > 100
    assert (found.sources["flags"] == split.sources["flags"] | np.where(kept, 128, 0)).all()
    assert (found.sources["sorted"] == kept).all()
    assert [set(p) for p in found.pixels] == [set(p) for p in split.pixels]
    assert all(p == sorted(p) for p, k in zip(found.pixels, kept, strict=True) if k)


def test_the_wing_threshold_over_the_cap_is_that_of_the_raster() -> None:
    scene = Scene(blobs(2, (60, 80), 16), Settings(threshold=0.9, most_pixels=50), GAUSS)
    found = scene.run()
    large = [(s, p) for s, p in zip(found.sources, found.pixels, strict=True) if s["flags"] & 128]
    assert large
    for s, p in large:
        values = np.sort([scene.filtered[q] for q in p]) - np.float32(0.9)
        # Not quite the MINAREA-th brightest, but no pixel is above its neighbours for it.
        assert values[0] <= s["mthresh"] <= values[-1]
        assert s["mthresh"] in values


@pytest.mark.parametrize("room", [1, 300])
def test_over_the_cap_with_little_room(room: int) -> None:
    scene = Scene(blobs(2, (60, 80), 16), Settings(threshold=0.9, most_pixels=100), GAUSS)
    reference, found = scene.run(), scene.run(scratch=64, room=room)
    assert same(reference.sources, found.sources) and reference.pixels == found.pixels
    assert {SCRATCH, LARGE} <= set(found.stops) and (OUTPUT in found.stops or room > 1)


def test_over_the_cap_and_too_large() -> None:
    scene = Scene(blobs(2, (60, 80), 16), Settings(threshold=0.9, most_pixels=100, maxarea=200), GAUSS)
    found = scene.run()
    assert (found.sources["npix"] <= 200).all()
    assert (scene.footprints["npix"] > 200).any()


def chessboard(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    noise = np.random.default_rng(1).normal(0, 0.3, (side, side))
    return np.asarray(10.0 * ((x + y) % 2) + noise, np.float32)


def lace(side: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(2).normal(0.9, 1, (side, side)), np.float32)


def teeth(side: int) -> np.ndarray:
    image = chessboard(side)
    image[:, ::2], image[:, 1::2] = 10 + image[:, ::2] / 20, 0
    image[-1] = 9
    return image


# Few levels, so that the tree's nodes, which are there for any footprint, take less than its pixels.
FEW = {"threshold": 1.0, "nthresh": 4, "mincont": 1e-5}


@pytest.mark.parametrize(("draw", "side"), [(chessboard, 160), (lace, 256), (teeth, 160)])
@pytest.mark.parametrize("missing", [0.0, 1.0])
def test_a_footprint_of_many_peaks_is_taken_whole_beyond_the_scratch_of_the_cap(
    draw: Any, side: int, missing: float
) -> None:
    image = draw(side)
    pixels = max(Scene(image, Settings(**FEW), NO_TAPS).footprints["npix"])
    scene = Scene(image, Settings(most_pixels=int(pixels), **FEW), NO_TAPS)
    most = most_scratch(int(pixels), side, side, 4, 5)
    found = scene.run(scratch=2000, missing=missing, step=50)
    # It was asked for more than once, never for more than was promised to be enough.
    assert SCRATCH in found.stops and found.scratch <= most
    assert same(found.sources, scene.run(scratch=most, missing=missing, step=50).sources)
    (large,) = found.sources[found.sources["npix"] == pixels]
    assert large["flags"] & 128
    unsplit = Scene(image, Settings(threshold=1.0, nthresh=1), NO_TAPS).run()
    (whole,) = unsplit.sources[unsplit.sources["npix"] == pixels]
    for name in found.sources.dtype.names:
        if name not in BY_ORDER:
            np.testing.assert_allclose(large[name], whole[name], rtol=1e-5, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("draw", [chessboard, lace, teeth])
def test_it_is_split_where_the_cap_is_far(draw: Any) -> None:
    scene = Scene(draw(60), Settings(**FEW), NO_TAPS)
    found = scene.run()
    assert not (found.sources["flags"] & 128).any()
    assert found.scratch == 1 << 24 or SCRATCH not in found.stops


def test_smooth_footprints_are_split_up_to_the_cap() -> None:
    y, x = np.mgrid[:240, :240]
    image = sum(50 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 900) for cx, cy in ((70, 80), (160, 110), (100, 180)))
    image = np.asarray(image + np.random.default_rng(3).normal(0, 1, image.shape), np.float32)
    settings = Settings(threshold=4.0, mincont=0.001, nthresh=4)
    (footprint,) = Scene(image, settings).footprints[:1]
    scene = Scene(image, Settings(threshold=4.0, mincont=0.001, nthresh=4, most_pixels=int(footprint["npix"])))
    found = scene.run(scratch=most_scratch(int(footprint["npix"]), 240, 240, 4, 5))
    assert found.stops == [DONE] and len(found.sources) > 2 and (found.sources["flags"] & 130 == 2).sum() > 2


def test_lists_of_more_than_one_portion() -> None:
    # Two chessboards and a bridge: lists of the whole, of leaves and of what they become.
    image = np.zeros((64, 132), np.float32)
    image[5:60, 5:60] = image[5:60, 70:125] = 5 * chessboard(55)
    image[30, 60:70] = 5
    image[4:8, 8:20] = 6
    scene = Scene(image, Settings(threshold=1.0, nthresh=8), NO_TAPS)
    found, expected = scene.run(), scene.twin()
    assert found.pixels == [p for _, _, p in expected]
    assert (found.sources["nfragments"] > 1024).sum() == 2
    for s, (_, o, _) in zip(found.sources, expected, strict=True):
        for name in ("x", "cxx", "abcor", "mthresh", "flux_iso", "errx2", "fwhm", "isoarea", "flags"):
            np.testing.assert_allclose(s[name], o[name], rtol=3e-6, atol=1e-6, err_msg=name)
