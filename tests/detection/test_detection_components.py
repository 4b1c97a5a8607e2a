"""Components: the order of closing and the order of pixels of the Lutz scan, whatever the storage and the cuts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import lutz_twin as twins
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sextract.detection import _components as kernel
from sextract.records import FOOTPRINT, FRAGMENT, RUN

Found = tuple[Any, list[list[tuple[int, int]]]]


def u1(n: int, size: int) -> Any:
    return np.zeros(n * size, np.uint8)


def drain(components: kernel.Components, most: int) -> Found:
    """Take out the oldest closed components; their pixels in list order."""
    n, pieces, pixels = components.next_closed(1 << 40, most, 1 << 40)
    footprints, fragments = np.zeros(n, FOOTPRINT), np.zeros(pieces, FRAGMENT)
    done = components.drain(footprints, fragments, 0, 3)
    while done < pieces:
        done = components.drain(footprints, fragments, done, 3, 1)
    assert done == pieces
    assert footprints["npix"].sum() == pixels
    lists = []
    for f in footprints:
        some = fragments[f["fragments"] : f["fragments"] + f["nfragments"]].tolist()
        lists.append([(y, x) for y, x0, x1 in some for x in range(x0, x1)])
    return footprints, lists


def join(
    mask: Any, minarea: int = 1, bands: tuple[int, ...] = (), pieces: int = 99999, components: int = 9999, most: int = 1,
    more: int = 3, runs_at_once: int = 1 << 40,
) -> Found:
    """Footprints of a mask fed in bands of rows, with storage that grows by a little whenever it is too small."""
    height, width = mask.shape
    labels = u1(2 * (width // 2 + 2), kernel.LABEL_BYTES)
    pool = kernel.Components(u1(pieces, kernel.PIECE_BYTES), u1(components, kernel.COMPONENT_BYTES), labels, minarea)
    parts: list[Found] = []
    edges = sorted({0, height, *(b for b in bands if b < height)})
    for y0, y1 in pairwise(edges):
        start, runs = twins.runs_twin(mask[y0:y1])
        array, done = np.array([*runs, (0, 0)], RUN), 0
        while done < y1 - y0:
            taken = pool.feed(start, array, y0, done, runs_at_once)
            # With the last row alone there were enough.
            assert taken <= done + 1 or start[taken - 1] - start[done] < runs_at_once
            if taken == done and pool.waiting[0]:
                parts.append(drain(pool, most))
            elif taken == done:
                pool.add_pieces(u1(more, kernel.PIECE_BYTES))
                pool.move_components(u1(pool.ncomponents + 2, kernel.COMPONENT_BYTES))
            done = taken
    pool.finish(height)
    assert (pool.first_closed_row >= 0) == bool(pool.waiting[0])
    while pool.waiting[0]:
        parts.append(drain(pool, most))
    # Everything was given back.
    assert pool.free == (pool.npieces, pool.ncomponents) and pool.waiting == (0, 0, 0)
    footprints = np.concatenate([np.zeros(0, FOOTPRINT), *(f for f, _ in parts)])
    return footprints, [pixels for _, lists in parts for pixels in lists]


def check(mask: Any, minarea: int, found: Found) -> None:
    """Against the twin: order, pixels, extents, numbers."""
    expected = twins.lutz_twin(mask, minarea)
    footprints, lists = found
    assert lists == expected
    assert footprints["parent"].tolist() == list(range(1, len(expected) + 1))
    for f, pixels in zip(footprints, expected, strict=True):
        ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
        assert (f["ymin"], f["ymax"], f["xmin"], f["xmax"]) == (min(ys), max(ys), min(xs), max(xs))
        assert f["npix"] == len(pixels) and f["row"] == max(ys) + 1


def spiral(side: int) -> Any:
    """A line one pixel wide that winds inwards, with gaps of one pixel."""
    mask = np.zeros((side, side), bool)
    y = x = 0
    dy, dx, length = 0, 1, side - 1
    mask[0, 0] = True
    for turn in range(2 * (side // 2)):
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
        if turn >= 2 and turn % 2 == 0:
            length -= 2
        if length <= 0:
            break
    return mask


def comb(teeth: int, depth: int, up: bool) -> Any:
    mask = np.zeros((depth, 2 * teeth), bool)
    mask[:, ::2] = True
    mask[0 if up else -1] = True
    return mask


NASTY = {
    "empty": np.zeros((5, 7), bool),
    "full": np.ones((9, 11), bool),
    "one pixel": np.ones((1, 1), bool),
    "checkerboard": np.indices((20, 21)).sum(axis=0) % 2 == 0,
    "dots": np.pad(np.ones((1, 1), bool), ((0, 1), (0, 1)))[np.ix_([0, 1] * 9, [0, 1] * 10)],
    "comb": comb(20, 9, False),
    "comb upside down": comb(20, 9, True),
    "spiral": spiral(31),
    "spiral from below": spiral(31)[::-1],
    "rings": np.maximum(*np.abs(np.indices((31, 31)) - 15)) % 2 == 0,
    "columns": np.tile([True, False], (13, 17)),
    "rows": np.tile([[True], [False]], (8, 30)),
    "a V in a V": np.array([[x in (y, 20 - y) or (y < 7 and x in (y+4, 16-y)) for x in range(21)] for y in range(9)]),
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("minarea", [1, 4])
def test_nasty_shapes(name: str, minarea: int) -> None:
    mask = NASTY[name]
    for some in (mask, mask[:, ::-1], mask[::-1], mask.T):
        check(some, minarea, join(some, minarea, most=3))
        check(some, minarea, join(some, minarea, pieces=60, components=30, runs_at_once=5))


MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 18)))


@settings(max_examples=250, deadline=None)
@given(MASKS, st.integers(1, 6), st.lists(st.integers(1, 13), max_size=4))
def test_random_masks_in_any_chunks(mask: Any, minarea: int, bands: list[int]) -> None:
    check(mask, minarea, join(mask, minarea, tuple(bands)))


@settings(max_examples=150, deadline=None)
@given(MASKS, st.integers(1, 3), st.integers(1, 12), st.integers(1, 6), st.integers(1, 4))
def test_small_storage_grows_and_changes_nothing(
    mask: Any, minarea: int, pieces: int, components: int, most: int
) -> None:
    check(mask, minarea, join(mask, minarea, (), pieces, components, most))


@pytest.mark.parametrize("density", [0.2, 0.41, 0.6, 0.8])
def test_percolating_noise(density: float) -> None:
    mask = np.random.default_rng(11).random((120, 150)) < density
    check(mask, 5, join(mask, 5, (17, 50), pieces=64, components=64, most=10))


def test_blocks_of_pieces_are_as_good_as_one() -> None:
    # Over half a million pieces, so that a block takes more than one segment.
    y, x = np.mgrid[:1100, :1000]
    mask = (x + y) % 2 == 0
    footprints, (whole,) = join(mask, 5, (), pieces=600_000, components=2000)
    assert footprints["npix"].tolist() == [mask.sum()] and len(set(whole)) == mask.sum()
    assert join(mask, 5, (300, 301, 900), pieces=1000, components=2000, more=4000)[1] == [whole]
    assert join(mask, 5, (), pieces=3000, components=2000, more=530_000)[1] == [whole]


def test_blocks_are_counted() -> None:
    pool = kernel.Components(u1(9, kernel.PIECE_BYTES), u1(9, kernel.COMPONENT_BYTES), u1(8, kernel.LABEL_BYTES), 1)
    one = u1(2, kernel.PIECE_BYTES)
    with pytest.raises(OverflowError, match="blocks"):
        for _ in range(5000):
            pool.add_pieces(one)
    assert pool.npieces == pool.free[0] == 9 + 2 * 4095


@settings(max_examples=100, deadline=None)
@given(MASKS, st.lists(st.integers(1, 17), max_size=5))
def test_tiles_joined_across_any_cuts(mask: Any, cuts: list[int]) -> None:
    height, width = mask.shape
    edges = sorted({0, width, *(c for c in cuts if c < width)})
    starts, parts = [], []
    for x0, x1 in pairwise(edges):
        start, runs = twins.runs_twin(mask[:, x0:x1])
        starts.append(start)
        parts.append(np.array([(a + x0, b + x0) for a, b in runs], RUN))
    start, out = np.zeros(height + 1, np.int32), np.zeros(sum(map(len, parts)) + 1, RUN)
    kernel.join_tiles(starts, parts, height, start, out)
    expected_start, expected = twins.runs_twin(mask)
    assert (start == expected_start).all() and out[: start[-1]].tolist() == expected


def test_a_batch_keeps_to_its_sums_but_is_never_empty() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0, :5] = mask[2, :3] = mask[4, :2] = True
    start, runs = twins.runs_twin(mask)
    pieces, components = u1(100, kernel.PIECE_BYTES), u1(100, kernel.COMPONENT_BYTES)
    pool = kernel.Components(pieces, components, u1(20, kernel.LABEL_BYTES), 1)
    assert pool.next_closed(9, 9, 9) == (0, 0, 0) and pool.first_closed_row == -1
    pool.feed(start, np.array(runs, RUN), 0, 0)
    pool.finish(9)
    assert pool.first_closed_row == 1 and pool.waiting == (3, 3, 10)
    assert pool.next_closed(1, 9, 9) == (1, 1, 5)
    assert pool.next_closed(8, 9, 9) == (2, 2, 8)
    assert pool.next_closed(99, 2, 9) == (2, 2, 8)
    assert pool.next_closed(99, 9, 2) == (2, 2, 8)
    assert pool.next_closed(99, 9, 9) == (3, 3, 10)


def test_numbering_goes_on_from_where_it_is_set() -> None:
    pool = kernel.Components(u1(9, kernel.PIECE_BYTES), u1(9, kernel.COMPONENT_BYTES), u1(8, kernel.LABEL_BYTES), 1)
    pool.parents = 41
    pool.feed(np.array([0, 1], np.int32), np.array([(0, 1)], RUN), 0, 0)
    pool.finish(1)
    assert drain(pool, 1)[0]["parent"].tolist() == [42] and pool.parents == 42


def resume(pool: kernel.Components, width: int, minarea: int, portion: int) -> kernel.Components:
    """What another one makes of all that this one has open, some at a time; its storage has other slots and just holds it."""
    saved, first = [np.empty((0, kernel.SAVED), np.int64)], 0
    some = np.empty((portion, kernel.SAVED), np.int64)
    while n := pool.save(some, first):
        saved.append(some[:n].copy())
        first += n
    assert first == pool.runs_above
    pieces, begin = [np.empty(0, FRAGMENT)], True
    few = np.empty(portion, FRAGMENT)
    while n := pool.save_pieces(few, begin, 1):
        pieces.append(few[:n].copy())
        begin = False
    runs, fragments = np.concatenate(saved), np.concatenate(pieces)
    labels = u1(2 * (width // 2 + 2), kernel.LABEL_BYTES)
    storage = u1(max(len(fragments), 1), kernel.PIECE_BYTES), u1(max(len(runs), 1), kernel.COMPONENT_BYTES)
    new = kernel.Components(*storage, labels, minarea)
    for k in range(0, len(runs), portion):
        new.restore(runs[k : k + portion])
    for k in range(0, len(fragments), portion):
        new.restore_pieces(fragments[k : k + portion])
    new.parents = pool.parents
    return new


@settings(deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14)),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_a_checkpoint_after_any_row_changes_nothing(mask: Any, minarea: int, portion: int, seed: int) -> None:
    height, width = mask.shape
    labels = u1(2 * (width // 2 + 2), kernel.LABEL_BYTES)
    pool = kernel.Components(u1(99999, kernel.PIECE_BYTES), u1(9999, kernel.COMPONENT_BYTES), labels, minarea)
    parts: list[Found] = []
    at = np.random.default_rng(seed).random(height) < 0.5
    for y in range(height):
        start, runs = twins.runs_twin(mask[y : y + 1])
        array = np.array([*runs, (0, 0)], RUN)
        while pool.feed(start, array, y, 0) < 1:
            pool.add_pieces(u1(64, kernel.PIECE_BYTES))
            pool.move_components(u1(pool.ncomponents + 16, kernel.COMPONENT_BYTES))
        while pool.waiting[0]:
            parts.append(drain(pool, 1))
        if at[y]:
            pool = resume(pool, width, minarea, portion)
    pool.finish(height)
    while pool.waiting[0]:
        parts.append(drain(pool, 1))
    footprints = np.concatenate([np.zeros(0, FOOTPRINT), *(f for f, _ in parts)])
    check(mask, minarea, (footprints, [pixels for _, lists in parts for pixels in lists]))
