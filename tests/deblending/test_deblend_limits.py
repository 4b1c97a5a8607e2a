"""Tiles, strips, scratch, output: what is at hand changes nothing.  The caps on branches and on pixels."""

from __future__ import annotations

import numpy as np
import pytest
from deblend_driver import GAUSS, NO_TAPS, Scene, blobs, same
from deblend_twin import Settings

from sextract.deblending._deblend import DONE, LARGE, MISSING, OUTPUT, SCRATCH

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
BY_ORDER = {"mthresh", "flags", "fragments"}


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
