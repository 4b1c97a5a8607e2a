"""Stamps: pixels out of tiles or from the file, and what a source may not see, against an image in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_cutter import synthetic_scene
from scipy import ndimage

from sextract.measurement import stamps
from sextract.measurement.stamps import StampCutter, TileGrid
from sextract.records import BAD, FRAGMENT, RUN, SOURCE, Box


def fragments_of(mask: Any) -> Any:
    """A mask as FRAGMENTs in raster order."""
    found = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.r_[0, row.astype(np.int8), 0])).tolist()
        found += [(y, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return np.array(found, FRAGMENT)


@dataclass
class World:
    """A frame, its detections, and a cutter over both as a worker has them."""

    image: Any
    labels: Any
    freed: Any
    cutter: StampCutter
    loads: list[Box]

    def seen(self, source: int, box: Box) -> Any:
        """What should be cut."""
        part = slice(box.y0, box.y1), slice(box.x0, box.x1)
        hidden = (self.labels > 0) & (self.labels != source + 1) & ~self.freed
        return np.where(hidden, np.float32(BAD), self.image)[part]

    def cut(self, source: int, box: Box) -> Any:
        out = np.full(box.shape, np.nan, np.float32)
        self.cutter.cut(source, box, out)
        return out


def world(
    seed: int, grid: TileGrid, held: float = 1.0, scanned: float = 1.0, freed: float = 0.2, masking: bool = True
) -> World:
    """Random detections; shares of the tiles are held, have runs, and of the sources were eaten."""
    rng = np.random.default_rng(seed)
    shape = grid.height, grid.width
    image = rng.normal(0, 1, shape).astype(np.float32)
    labels, n = ndimage.label(rng.random(shape) < 0.4)
    gone = np.isin(labels, 1 + np.flatnonzero(rng.random(n) < freed))
    floats, slab = [np.full(5, np.nan, np.float32)], [np.zeros(16, np.uint8)]
    tiles, runs = np.full(grid.across * grid.down, -1, np.int64), np.full(grid.across * grid.down, -1, np.int64)
    for i in range(len(tiles)):
        tile, block = grid.tile(*divmod(i, grid.across)), grid.block(*divmod(i, grid.across))
        if rng.random() < held:
            tiles[i] = sum(map(len, floats))
            floats.append(image[block.y0 : block.y1, block.x0 : block.x1].ravel())
        if rng.random() >= scanned:
            labels[tile.y0 : tile.y1, tile.x0 : tile.x1] = 0
            continue
        found = fragments_of(labels[tile.y0 : tile.y1, tile.x0 : tile.x1] > 0)
        start = np.searchsorted(found["y"], np.arange(grid.rows + 1)).astype(np.int32)
        some = np.zeros(len(found), RUN)
        some["x0"], some["x1"] = found["x0"] + tile.x0, found["x1"] + tile.x0
        runs[i] = sum(map(len, slab))
        slab.append(np.concatenate([start.view(np.uint8), some.view(np.uint8)]))
    sources = np.zeros(n, SOURCE)
    for k in range(n):
        own = fragments_of(labels == k + 1)
        # List order isn't raster order, but for giants.
        sources["sorted"][k] = k % 2
        own = own if k % 2 else rng.permutation(own)
        sources["fragments"][k], sources["nfragments"][k] = sum(map(len, slab)), len(own)
        slab.append(own.view(np.uint8))
    loads: list[Box] = []

    def load(box: Box, out: Any) -> int:
        loads.append(box)
        out[...] = image[box.y0 : box.y1, box.x0 : box.x1]
        return 0

    cutter = StampCutter(
        grid, np.concatenate(slab), np.concatenate(floats), tiles, runs, sources, fragments_of(gone & (labels > 0)), load,
        np.full(image.size, 7, np.uint8), 0, grid.height, masking,
    )  # fmt: skip
    return World(image, labels, gone, cutter, loads)


GRIDS = {
    "one tile": TileGrid(41, 30, 30, 41, 1, 1),
    "bands": TileGrid(41, 30, 8, 41, 1, 1),
    "small tiles": TileGrid(41, 30, 7, 9, 2, 3),
    "pixels": TileGrid(11, 9, 1, 1, 0, 0),
}
BOXES = [Box(0, 0, 5, 6), Box(3, 2, 9, 11), Box(8, 0, 9, 11), Box(0, 10, 9, 11), Box(4, 4, 5, 5)]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("held", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("scanned", [0.5, 1.0])
def test_others_are_hidden_own_and_freed_are_seen(name: str, held: float, scanned: float) -> None:
    w = world(3, GRIDS[name], held, scanned)
    whole = Box(0, 0, GRIDS[name].height, GRIDS[name].width)
    for box in (whole, *BOXES):
        for source in (0, 1, 2):
            np.testing.assert_array_equal(w.cut(source, box), w.seen(source, box))
    assert bool(w.loads) == bool((w.cutter.tiles < 0).any())


def test_own_pixels_of_some_rows_and_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    w, settled = world(3, GRIDS["bands"]), []
    w.cutter.settle = lambda: settled.append(1)
    monkeypatch.setattr(stamps, "OWN_AT_ONCE", 3)
    big = np.argsort(w.cutter.sources["nfragments"])[-6:]
    assert set(w.cutter.sources["sorted"][big]) == {0, 1}
    for source in big.tolist():
        own = w.cutter.own(source)
        parts = list(w.cutter.own_parts(source))
        assert np.concatenate(parts).tolist() == own.tolist() and len(parts) == -(-len(own) // 3)
        for rows in ((0, 30), (5, 6), (3, 12), (29, 30)):
            wanted = own[(own["y"] >= rows[0]) & (own["y"] < rows[1])].tolist()
            found = w.cutter.own(source, rows).tolist()
            # Those that aren't sorted are all given: it costs less to leave them in.
            assert found == (wanted if w.cutter.sources["sorted"][source] else own.tolist())
    assert len(settled) == sum(-(-int(n) // 3) for n in w.cutter.sources["nfragments"][big])


def test_large_windows_are_masked_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    w, whole, settled = world(4, GRIDS["bands"]), Box(0, 0, 30, 41), []
    w.cutter.settle = lambda: settled.append(1)
    monkeypatch.setattr(stamps, "MASKED_AT_ONCE", 100)
    for source in range(4):
        np.testing.assert_array_equal(w.cut(source, whole), w.seen(source, whole))
    assert len(settled) == 4 * 15
    # Among others at once too, though all its tiles are held.
    boxes, arena = np.array([(3, 4, 12, 9), (0, 0, 41, 30), (5, 5, 15, 15)]), np.empty(45 + 1230 + 100, np.float32)
    w.cutter.cut_many(np.array([1, 2, 3]), boxes, np.array([0, 45, 1275]), arena)
    assert len(settled) == 4 * 15 + 15 + 1
    np.testing.assert_array_equal(arena[45:1275].reshape(whole.shape), w.seen(2, whole))
    np.testing.assert_array_equal(arena[1275:].reshape(10, 10), w.seen(3, Box(5, 5, 15, 15)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_grid_and_box(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 24))
    grid = TileGrid(
        width, height, data.draw(st.integers(1, height)), data.draw(st.integers(1, width)), data.draw(st.integers(0, 3)),
        data.draw(st.integers(0, 3)),
    )  # fmt: skip
    w = world(data.draw(st.integers(0, 50)), grid, data.draw(st.sampled_from([0.5, 1.0])), 0.8)
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    if len(w.cutter.sources):
        source = data.draw(st.integers(0, len(w.cutter.sources) - 1))
        np.testing.assert_array_equal(w.cut(source, box), w.seen(source, box))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.sampled_from(sorted(GRIDS)), st.sampled_from([0.0, 0.7, 1.0]), st.booleans())
def test_many_stamps_at_once_are_each_in_turn(seed: int, name: str, held: float, masking: bool) -> None:
    grid, rng = GRIDS[name], np.random.default_rng(seed)
    w = world(seed % 7, grid, held, 0.8, masking=masking)
    index = rng.integers(0, len(w.cutter.sources), 12)
    # Some are empty.
    y, x = np.sort(rng.integers(0, grid.height + 1, (12, 2))), np.sort(rng.integers(0, grid.width + 1, (12, 2)))
    boxes = np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]])
    sizes = (x[:, 1] - x[:, 0]) * (y[:, 1] - y[:, 0])
    offsets = np.cumsum(sizes) - sizes + 3
    arena = np.full(offsets[-1] + sizes[-1] + 3, np.nan, np.float32)
    w.cutter.cut_many(index, boxes, offsets, arena)
    for i, (x0, y0, x1, y1), first, n in zip(index.tolist(), boxes.tolist(), offsets, sizes, strict=True):
        box = Box(y0, x0, y1, x1)
        expected = w.seen(i, box) if masking else w.image[y0:y1, x0:x1]
        np.testing.assert_array_equal(arena[first : first + n].reshape(box.shape), expected)
    assert np.isnan(arena[:3]).all() and np.isnan(arena[-3:]).all() and not np.isnan(arena[3:-3]).any()


def test_the_first_stamp_is_cut_for_all_families() -> None:
    """One cut where families ask for more and more; what is far more than they said is cut again."""
    scene, cut = synthetic_scene(1), []
    batch = scene.batch([], reaches=[lambda s, p: (np.full(len(s), 5.0), np.full(len(s), 9.0))] * 2)
    once = batch.cutter.cut

    def counted(source: int, box: Box, out: Any) -> None:
        cut.append(source)
        once(source, box, out)

    batch.cutter.cut = counted
    for half, cuts in ((3.0, 1), (5.0, 1), (9.0, 2), (9.0, 2), (40.0, 3)):
        for view in batch.windows(np.full(len(batch), half), np.full(len(batch), half)):
            assert view.whole
        assert sorted(cut) == sorted(list(range(len(batch))) * cuts), half


def test_own_pixels_are_the_sources_fragments() -> None:
    w = world(1, GRIDS["bands"])
    for k in range(len(w.cutter.sources)):
        assert sorted(w.cutter.own(k).tolist()) == fragments_of(w.labels == k + 1).tolist()


def test_a_tile_that_is_not_held_is_loaded_as_the_whole_box() -> None:
    w = world(1, GRIDS["small tiles"])
    w.cutter.tiles[0] = -1
    w.cut(0, Box(7, 9, 20, 30))
    assert w.loads == []
    w.cut(0, Box(6, 8, 20, 30))
    assert w.loads == [Box(6, 8, 20, 30)]


def test_without_masking_all_is_seen() -> None:
    w = world(1, GRIDS["bands"], masking=False)
    box = Box(2, 3, 20, 30)
    assert (w.cut(0, box) == w.image[2:20, 3:30]).all()


def test_bad_pixels_stay_bad() -> None:
    w = world(2, GRIDS["bands"], 0.0, freed=1.0)
    w.image[5, 5] = BAD
    assert w.cut(0, Box(0, 0, 30, 41))[5, 5] == np.float32(BAD)


def test_an_empty_box_is_nothing() -> None:
    w = world(1, GRIDS["bands"])
    w.cut(0, Box(3, 3, 3, 9))
    assert w.loads == []


def test_the_grid_covers_the_frame_once() -> None:
    grid = GRIDS["small tiles"]
    seen = np.zeros((30, 41), int)
    for ty in range(grid.down):
        for tx in range(grid.across):
            tile, block = grid.tile(ty, tx), grid.block(ty, tx)
            seen[tile.y0 : tile.y1, tile.x0 : tile.x1] += 1
            assert block == tile.grown(2, 3, 30, 41)
    assert (seen == 1).all()
