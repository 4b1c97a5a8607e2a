"""The table of sources: what is freed and when, with CLEAN between sources that are far apart in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sextract.config.settings import Settings
from sextract.memory.slab import Slab
from sextract.memory.tiles import TileManager
from sextract.pipeline.runs import RunStore
from sextract.pipeline.sources import SourceTable
from sextract.pipeline.stages import EATEN
from sextract.pipeline.statefile import StateReader, StateWriter
from sextract.records import FRAGMENT, SOURCE

HEIGHT, BAND = 12_000, 40


def star(y: float, flux: float, x: float = 100.0, mthresh: float = 0.01) -> Any:
    """A round source of one fragment, closed two lines below its centre."""
    s = np.zeros(1, SOURCE)
    s["x"], s["y"], s["a"], s["b"], s["cxx"], s["cyy"], s["npix"] = x, y, 2, 2, 0.25, 0.25, 20
    s["fdflux"], s["dthresh"], s["abcor"], s["mthresh"] = flux, 1.5, 1, mthresh
    s["ymin"], s["ymax"], s["row"] = y - 2, y + 1, y + 2
    return s


class Blocks:
    """Gives a table what tasks would: blocks of fragments and sources."""

    def __init__(self, folder: Path, clean: bool = True, band: int = BAND) -> None:
        self.slab = Slab(8 << 20, headroom=lambda: (1 << 40, "test"))
        self.bytes = np.frombuffer(self.slab.bytes_view(0, self.slab.capacity), np.uint8)
        self.store = RunStore(self.slab, TileManager(self.slab), str(folder), -(-HEIGHT // band))
        settings = Settings()
        settings = replace(settings, deblending=replace(settings.deblending, clean=clean))
        reach = lambda sources: np.full(len(sources), HEIGHT)  # noqa: E731
        self.table = SourceTable(self.store, self.slab, self.bytes, settings, 4096, HEIGHT, band, 0, reach)
        self.count = 0

    def give(self, *stars: Any, written: int = 0) -> None:
        """One block; the fragment of source n has its row at n."""
        sources = np.concatenate(stars)
        n = len(sources)
        sources["fragments"], sources["nfragments"] = np.arange(n), 1
        ref = self.store.alloc(n * (FRAGMENT.itemsize + SOURCE.itemsize), "test")
        fragments = self.bytes[ref.offset :][: n * FRAGMENT.itemsize].view(FRAGMENT)
        fragments["y"], fragments["x0"], fragments["x1"] = np.arange(self.count, self.count + n), 3, 9
        at = ref.offset + n * FRAGMENT.itemsize
        self.bytes[at : at + n * SOURCE.itemsize] = sources.view(np.uint8)
        self.count += n
        self.table.take(ref, n, n, n, written)

    def eaten(self, first: int, last: int) -> list[tuple[int, int]]:
        """Fragments eaten by rows, by the place of the source that had them, and the NUMBER they get."""
        out = []
        found = np.empty(self.table.eaten_by(first, last), EATEN)
        assert self.table.eaten_by(first, last, found) == len(found)
        for first_byte, n, number in found.tolist():
            own = self.bytes[first_byte :][: n * FRAGMENT.itemsize].view(FRAGMENT)
            out += [(y, number) for y in own["y"].tolist()]
        return out


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[Blocks]:
    made = Blocks(tmp_path)
    yield made
    made.table.close()
    made.store.close()
    assert made.slab.free_bytes == made.slab.capacity
    del made.bytes, made.table, made.store
    made.slab.close()


def far(n: int, y: float) -> list[Any]:
    """Sources that have nothing to do with any other."""
    return [star(y, 100, 300 + 110 * k, 1e9) for k in range(n)]


def test_an_eaten_source_is_kept_until_its_eater_is_written(blocks: Blocks) -> None:
    t = blocks.table
    blocks.give(star(100, 30), *far(30, 100))
    blocks.give(*far(30, 103))
    blocks.give(star(110, 1e5), *far(2, 111))
    assert t.rows["number"][:2].tolist() == [-62, 0]
    # All before the eater is written, the eater isn't.
    assert t.kept_from(61) == 0
    t.release(t.kept_from(61))
    t.settle(HEIGHT)
    assert blocks.eaten(0, 61) == []
    assert blocks.eaten(61, 64) == [(0, t.rows["number"][61])]
    assert t.kept_from(62) == 62


def test_what_an_eaten_source_had_eaten_goes_with_it(blocks: Blocks) -> None:
    t = blocks.table
    blocks.give(star(100, 3e2), star(101, 30), *far(9, 100))
    blocks.give(*far(9, 103), star(108, 1e6))
    assert t.rows["number"][:2].tolist() == [-21, -1]
    assert t.kept_from(11) == 0
    t.settle(HEIGHT)
    assert sorted(blocks.eaten(20, 21)) == [(0, t.number), (1, t.number)]


def test_a_table_that_is_compacted_goes_on(blocks: Blocks) -> None:
    t, written = blocks.table, 0
    for k in range(400):
        y = 10 * k + 5
        blocks.give(*far(24, y), star(y, 1e5, 100, 1e9), star(y + 1, 30), written=written)
        t.settle(y - 1024)
        written = t.kept_from(t.base + t.numbered)
        t.batched = written - t.base
        t.release(written)
    assert t.base > 0 and t.base + t.count == blocks.count == t.detected
    t.settle(1 << 30)
    assert t.number == 400 * 25 and t.base + t.numbered == blocks.count
    numbers = t.rows["number"][: t.count]
    assert len(blocks.eaten(t.base, blocks.count)) == ((numbers < 0) & (numbers > -1 - len(numbers))).sum() > 50


def test_freed_fragments_are_found_by_row(blocks: Blocks) -> None:
    for k in range(200):
        blocks.give(star(19 * k + 5, 1e6), star(19 * k + 6, 30))
    freed = blocks.table.freed
    every, some = (np.empty(freed.count(bands), FRAGMENT) for bands in (range(HEIGHT // BAND), range(2, 4)))
    freed.copy(range(HEIGHT // BAND), every)
    freed.copy(range(2, 4), some)
    assert len(every) > 100 and (np.diff(every["y"]) >= 0).all()
    assert some.tolist() == every[(every["y"] >= 80) & (every["y"] < 160)].tolist()


def fragments_of(blocks: Blocks, place: int) -> list[Any]:
    """The fragments of sources from an absolute place in a table on."""
    t = blocks.table
    rows = t.rows[place - t.base : t.count]
    return [
        blocks.bytes[first:][: n * FRAGMENT.itemsize].view(FRAGMENT).tolist()
        for first, n in zip(rows["fragments"].tolist(), rows["nfragments"].tolist(), strict=True)
    ]


def test_a_table_restored_from_a_checkpoint_goes_on(blocks: Blocks, tmp_path: Path) -> None:
    def step(b: Blocks, k: int, written: int = 0) -> int:
        y = 10 * k + 5
        b.give(*far(24, y), star(y, 1e5, 100, 1e9), star(y + 1, 30), star(y, 30, 400), written=written)
        b.table.settle(y - 200)
        b.table.batched = b.table.numbered
        written = b.table.kept_from(b.table.base + b.table.batched)
        b.table.release(written)
        return written

    written = 0
    for k in range(90):
        written = step(blocks, k, written)
    path = str(tmp_path / "state")
    out = StateWriter(path)
    out.publish(blocks.table.save(out, written))
    saved = StateReader(path)
    # Freed fragments are by other bands, blocks lie elsewhere.
    other = Blocks(tmp_path, band=97)
    other.count = blocks.count
    held = other.store.alloc(1 << 20, "test")
    other.table.restore(saved, saved.meta)
    saved.close()
    for k in range(90, 120):
        written = step(blocks, k)
        assert written == step(other, k)
    ours, theirs = (t.rows[: t.count] for t in (blocks.table, other.table))
    assert blocks.table.count > 100 and (ours["number"] < 0).any()
    for name in SOURCE.names or ():
        assert name == "fragments" or (ours[name] == theirs[name]).all(), name
    # What is written has none any more.
    assert fragments_of(blocks, written) == fragments_of(other, written)
    freed = []
    for b, band in ((blocks, BAND), (other, 97)):
        bands = range(-(-HEIGHT // band))
        freed.append(np.empty(b.table.freed.count(bands), FRAGMENT))
        b.table.freed.copy(bands, freed[-1])
    assert len(freed[0]) > 50 and sorted(freed[0].tolist()) == sorted(freed[1].tolist())
    other.slab.free(held)
    other.table.close()
    other.store.close()
    assert other.slab.free_bytes == other.slab.capacity
