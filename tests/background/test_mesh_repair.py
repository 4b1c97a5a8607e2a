"""Repair, median filter and globals: against brute force."""

from __future__ import annotations

import math

import background_twins as twins
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextract.background.mesh import mesh_grid
from sextract.background.repair import mostly_constant, repair_and_filter, repair_scratch_bytes
from sextract.records import BAD


def run(back, sigma, **options):
    chosen = twins.settings(1, **options)
    grid = mesh_grid(back.shape[1], back.shape[0], chosen)
    back, sigma = back.copy(), sigma.copy()
    levels = repair_and_filter(back, sigma, grid, chosen, np.zeros(repair_scratch_bytes(grid), np.uint8))
    return back, sigma, levels


def maps(seed: int, shape: tuple[int, int], bad: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    back, sigma = (rng.normal(m, s, shape).astype(np.float32) for m, s in ((1000, 50), (10, 1)))
    gone = rng.random(shape) < bad
    back[gone] = sigma[gone] = BAD
    return back, sigma


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    bad=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.98]),
)
def test_repair(seed, shape, bad):
    back, sigma = maps(seed, shape, bad)
    if (back <= BAD / 10).all():
        back[0, -1], sigma[0, -1] = 3, 4
    got = run(back, sigma, filter_size=1)
    np.testing.assert_array_equal(got[:2], twins.repaired(back, sigma))


def test_all_equally_near_cells_count():
    # The only good cells lie on a circle of radius 5 with 12 points.
    back = np.full((11, 11), BAD, np.float32)
    circle = [(x, y) for x in range(-5, 6) for y in range(-5, 6) if x * x + y * y == 25]
    for k, (x, y) in enumerate(circle):
        back[5 + y, 5 + x] = 100.0 * k
    sigma = np.where(back > 0, np.float32(2), back)
    sigma[back == 0] = 2
    filled, spread, _ = run(back, sigma, filter_size=1)
    assert len(circle) == 12
    assert filled[5, 5] == 550
    assert spread[5, 5] == 2


def test_a_large_hole_is_filled_from_its_rim():
    y, x = np.mgrid[:300, :300]
    back = (x + 1000 * y).astype(np.float32)
    back[:, 50:] = BAD
    filled, _, _ = run(back, np.where(back > 0, np.float32(1), back), filter_size=1)
    np.testing.assert_array_equal(filled[:, 50:], np.repeat(filled[:, 49:50], 250, axis=1))


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(2, 12), st.integers(1, 12)),
    box=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    threshold=st.sampled_from([0.0, 20.0, 1e9]),
)
def test_filter(seed, shape, box, threshold):
    back, sigma = maps(seed, shape, 0)
    got = run(back, sigma, filter_size=box, filter_thresh=threshold)
    np.testing.assert_array_equal(got[:2], twins.filtered(back, sigma, box, threshold))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), levels=st.sampled_from([1, 3, 1000]))
def test_globals_are_medians(seed, n, levels):
    rng = np.random.default_rng(seed)
    back = (rng.integers(-levels, levels, (1, n)) * 1.5).astype(np.float32)
    sigma = rng.integers(1, 1 + levels, (1, n)).astype(np.float32)
    assert run(back, sigma, filter_size=1)[2] == (np.median(back), np.median(sigma))


def test_rms_of_mostly_constant_images():
    back, sigma = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
    scratch = np.zeros(1 << 15, np.uint8)
    assert run(back, sigma, filter_size=1)[2] == (1, 1)
    sigma[0, :2] = 1, 2
    assert run(back, sigma, filter_size=1)[2] == (1, 1.5)
    assert mostly_constant(sigma, scratch)
    assert not mostly_constant(sigma + 1, scratch)


def test_no_good_cell():
    bad = np.full((3, 5), BAD, np.float32)
    back, sigma, levels = run(bad, bad)
    assert (back == 0).all()
    assert (sigma == 1).all()
    assert all(math.isnan(v) for v in levels)


@pytest.mark.parametrize("size", [(101, 3), (41, 41)])
def test_large_boxes(size):
    rng = np.random.default_rng(8)
    # Sorted, equal and random values: the selection must not depend on luck.
    for back in (np.arange(45 * 120), np.zeros(45 * 120), rng.normal(0, 1, 45 * 120)):
        back = back.reshape(45, 120).astype(np.float32)
        sigma = -back + 10
        got = run(back, sigma, filter_size=size)
        np.testing.assert_array_equal(got[:2], twins.filtered(back, sigma, size, 0.0))
