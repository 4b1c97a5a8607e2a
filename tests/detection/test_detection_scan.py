"""The scan: filter and runs against a float32 twin bit for bit, bad pixels, tiles, and calls that run out of room."""

from __future__ import annotations

from typing import Any

import lutz_twin as twins
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from sextract.detection import _components, _scan
from sextract.records import BAD, RUN

NONE = np.zeros((0, 0), np.float32)
GAUSS = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / np.float32(16)
HAT = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32) / np.float32(9)
LOPSIDED = np.random.default_rng(7).normal(0.1, 0.3, (5, 3)).astype(np.float32)
EVEN = np.random.default_rng(8).normal(0.3, 0.3, (4, 2)).astype(np.float32)
WIDE = np.random.default_rng(9).normal(0.02, 0.1, (9, 9)).astype(np.float32)
KERNELS = {"none": NONE, "gauss": GAUSS, "hat": HAT, "lopsided": LOPSIDED, "even": EVEN, "wide": WIDE}


def noise(seed: int, shape: tuple[int, int]) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def scan(
    block: Any, taps: Any, threshold: float, tile: tuple[int, int, int, int] | None = None, column: int = 0
) -> tuple[Any, Any]:
    """Row starts and runs of a tile of a block."""
    y0, x0, y1, x1 = tile or (0, 0, *block.shape)
    start, runs = np.zeros(y1 - y0 + 1, np.int32), np.zeros((y1 - y0) * ((x1 - x0 + 1) // 2), RUN)
    line = np.zeros(x1 - x0, np.float32)
    guard = bool((block <= BAD / 10).any())
    assert _scan.scan(block, taps, y0, x0, y1, x1, column, threshold, guard, line, start, runs, 0) == y1 - y0
    return start, runs[: start[-1]]


def painted(start: Any, runs: Any, width: int) -> Any:
    """Runs as a mask."""
    mask = np.zeros((len(start) - 1, width), bool)
    for y in range(len(mask)):
        for x0, x1 in runs[start[y] : start[y + 1]].tolist():
            mask[y, x0:x1] = True
    return mask


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (33, 57), (12, 115)])
def test_filtered_values_are_the_twins_bits(name: str, shape: tuple[int, int]) -> None:
    taps, image = KERNELS[name], noise(1, shape)
    expected = twins.filtered_twin(image, taps)
    out = np.empty(shape[1], np.float32)
    for y in range(shape[0]):
        _scan.filter_row(image, taps, y, 0, shape[1], out, False)
        assert (out == expected[y]).all()
    if taps.size:
        smooth = ndimage.correlate(image.astype(float), taps.astype(float), mode="constant")
        np.testing.assert_allclose(expected, smooth, atol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.6, 9.0])
def test_runs_are_what_is_strictly_above(name: str, threshold: float) -> None:
    image = noise(2, (29, 61))
    expected = twins.filtered_twin(image, KERNELS[name])
    start, runs = scan(image, KERNELS[name], threshold)
    twin_start, twin_runs = twins.runs_twin(expected > np.float32(threshold))
    assert (start == twin_start).all() and runs.tolist() == twin_runs


def test_a_pixel_at_the_threshold_is_not_above_it() -> None:
    image = np.full((2, 3), 1.5, np.float32)
    image[1, 1] = np.nextafter(np.float32(1.5), np.float32(2))
    assert scan(image, NONE, 1.5)[1].tolist() == [(1, 2)]


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_detected_beside_a_bad_pixel(name: str) -> None:
    # SExtractor finds a source under a negative tap there: docs list it as a difference.
    taps, image = KERNELS[name], noise(3, (40, 50))
    clean = twins.filtered_twin(image, taps)
    bad = np.random.default_rng(3).random(image.shape) < 0.03
    image[bad] = BAD
    under = twins.under_bad_twin(image, taps, BAD)
    found = painted(*scan(image, taps, 0.2), image.shape[1])
    assert under.any() and not (found & under).any()
    assert (found[~under] == (clean > np.float32(0.2))[~under]).all()


def test_a_bad_pixel_under_a_zero_tap_does_no_harm() -> None:
    image = np.full((3, 3), 10, np.float32)
    image[0, 0] = BAD
    found = painted(*scan(image, HAT, 0.1), 3)
    assert found[1, 1] and not found[0, 1] and not found[1, 0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tiles_with_their_halo_give_the_runs_of_the_whole(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 40))
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    taps = KERNELS[data.draw(st.sampled_from(sorted(KERNELS)))]
    image = noise(data.draw(st.integers(0, 99)), (height, width))
    if data.draw(st.booleans()):
        image[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = BAD
    hy, hx = (n // 2 for n in taps.shape)
    starts, found = [], []
    for y in range(0, height, rows):
        y1 = min(y + rows, height)
        tiles = []
        for x in range(0, width, columns):
            x1 = min(x + columns, width)
            ya, xa = max(y - hy, 0), max(x - hx, 0)
            block = np.ascontiguousarray(image[ya : y1 + hy, xa : x1 + hx])
            tiles.append(scan(block, taps, 0.3, (y - ya, x - xa, y1 - ya, x1 - xa), x))
        start = np.zeros(y1 - y + 1, np.int32)
        out = np.zeros(sum(len(r) for _, r in tiles) + 1, RUN)
        _components.join_tiles([s for s, _ in tiles], [r for _, r in tiles], y1 - y, start, out)
        starts.append(start)
        found.append(out[: start[-1]])
    whole_start, whole = scan(image, taps, 0.3)
    assert np.concatenate(found).tolist() == whole.tolist()
    assert np.concatenate([np.diff(s) for s in starts]).tolist() == np.diff(whole_start).tolist()


def test_a_scan_out_of_room_goes_on_where_it_stopped() -> None:
    image = noise(5, (40, 30))
    expected_start, expected = scan(image, GAUSS, 0.1)
    start, line = np.zeros(41, np.int32), np.zeros(30, np.float32)
    runs, done, calls = np.zeros(15, RUN), 0, 0
    while done < 40:
        more = _scan.scan(image, GAUSS, 0, 0, 40, 30, 0, 0.1, False, line, start, runs, done)
        assert more > done
        runs, done, calls = np.concatenate([runs[: start[more]], np.zeros(15, RUN)]), more, calls + 1
    assert calls > 3
    assert (start == expected_start).all() and runs[: start[-1]].tolist() == expected.tolist()


def test_no_run_is_written_without_room_for_a_whole_row() -> None:
    image = np.ones((1, 9), np.float32)
    start, runs = np.zeros(2, np.int32), np.zeros(4, RUN)
    assert _scan.scan(image, NONE, 0, 0, 1, 9, 0, 0.0, False, np.zeros(9, np.float32), start, runs, 0) == 0
