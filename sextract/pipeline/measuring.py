"""Measurement of an extension's sources: batches in the order of NUMBER, their pixels, masks and rows.

A batch is submitted when all rows that it will look at have final masks.  A source that looks far, or farther than expected,
is set aside with a copy of its fragments and measured alone when those rows are final.  Others don't wait for it: their rows
do, in a scratch file if need be, since rows are written in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.dataclass import dataclass
from sextract.memory.slab import SlabFull
from sextract.memory.tiles import TileKey
from sextract.pipeline.sources import SourceTable
from sextract.pipeline.stages import EATEN, Kind, imports_astropy, pack
from sextract.pipeline.tasks import Desk, Reply
from sextract.records import FRAGMENT, SOURCE, BlockRef

# Sources looked at for a batch: no array made of them is large.
LOOKED_AT = 2048

# A source that looks this many rows away is set aside.
FAR_ROWS = 256

# Batches that may wait in the slab for the rows before theirs.
WAITING_BATCHES = 16

# Of the work, for the progress bar.
MEASURE_SHARE = 0.6


@dataclass(slots=True, eq=False)
class Some:
    """Sources of a batch that one task measures: their places in it, and what the task gets of them.

    `aside` is where their fragments are, if they were set aside; those of others are the table's.
    """

    sources: NDArray[Any]
    place: NDArray[np.int64]
    aside: Aside | None = None


@dataclass(slots=True, eq=False)
class Aside:
    """Sources of a batch that wait: SOURCEs, their places (int64) and fragments in a block of their own.

    They are measured one by one from `next` on, when rows up to `row` are final; `left` haven't been answered.
    """

    batch: Measured
    ref: BlockRef
    n: int
    row: int
    next: int = 0
    left: int = 0


@dataclass(slots=True, eq=False)
class Measured:
    """A batch of sources at absolute places [first, last) of the table, and the rows they will have.

    `open` counts what is still to be measured, `attached` tasks that use fragments of the table.
    """

    first: int
    last: int
    rows: BlockRef
    nrows: int
    row: int
    open: int = 0
    attached: int = 0
    done: bool = False
    written: bool = False


class Measuring:
    """Measures the sources of a table and writes their rows.

    Parameters
    ----------
    desk : Desk
    table : SourceTable
    final_row : callable
        Rows below it have final masks.
    ending : callable
        Whether no source will come any more.

    Attributes
    ----------
    written : int
        Absolute place in the table up to which nothing of it is needed any more.
    """

    def __init__(self, desk: Desk, table: SourceTable, final_row: Callable[[], int], ending: Callable[[], bool]) -> None:
        self.desk, self.table, self.grid, self.run = desk, table, desk.grid, desk.run
        self._final_row, self._ending = final_row, ending
        # Of all that might, one worker alone imports astropy.
        self._affinity = 0 if imports_astropy(self.run.plan, [image.info for image in self.run.images]) else None
        self._batches: deque[Measured] = deque()
        self._attached: deque[Measured] = deque()
        self._complete: deque[Measured] = deque()
        self._aside: deque[Aside] = deque()
        self._loading: set[TileKey] = set()
        self._loaded_for = -1
        self._row = 0
        self.written = 0

    @property
    def idle(self) -> bool:
        """Whether every source of the table has its row written."""
        return not self._batches and self.table.batched == self.table.count

    @property
    def behind(self) -> bool:
        """Whether several batches could go but for tiles or room: what is scanned now would only push theirs out."""
        return self.table.numbered - self.table.batched > 4 * self.run.sources_per_task

    def submit(self) -> bool:
        """Submit the next batch, or a source that had to wait; False if there is nothing, or no room."""
        final = self._final_row()
        if self._submit_aside(final):
            return True
        t = self.table
        t.settle(final)
        rows, alive = self._next_rows()
        if not len(alive):
            self._write()
            return False
        far = rows["spare"][alive] - rows["y"][alive] > FAR_ROWS
        late = np.flatnonzero((np.minimum(rows["spare"][alive], self.grid.height) > final) & ~far)
        ready = int(late[0]) if len(late) else len(alive)
        most = self.run.sources_per_task
        few = ready < most and len(rows) < LOOKED_AT
        if ready == 0 or (few and not self._ending() and self.desk.busy):
            return False
        n = min(ready, most)
        chosen, far, place = rows[alive[:n]], far[:n], np.arange(n)
        near = Some(chosen[~far], place[~far])
        first, last = t.base + t.batched, t.base + t.batched + int(alive[n - 1]) + 1
        if len(near.sources) and not self._have_tiles(first, near.sources):
            return False
        m = Measured(first, last, BlockRef(0, 0), n, int(chosen["row"][-1]))
        try:
            m.rows = self.desk.alloc_for_task(n * self.run.plan.row.itemsize, "rows")
        except SlabFull:
            return False
        eaten = t.eaten_by(first, last) if self.run.paints else 0
        if (len(near.sources) or eaten) and not self._measure(m, near, final, eaten):
            self.desk.slab.free(m.rows)
            return False
        self._set_aside(m, chosen[far], place[far])
        t.batched = last - t.base
        self._batches.append(m)
        if m.attached:
            self._attached.append(m)
        return True

    def _next_rows(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Rows of the table that no batch has yet, some of them, and which of these weren't eaten."""
        t = self.table
        while True:
            rows = t.rows[t.batched : min(t.numbered, t.batched + LOOKED_AT)]
            alive = np.flatnonzero(rows["number"] > 0)
            if len(alive) or not len(rows):
                return rows, alive
            t.batched += len(rows)

    def _submit_aside(self, final: int) -> bool:
        """Submit the next of the sources that had to wait and need not any more."""
        for aside in self._aside:
            if aside.row <= final:
                sources, places = self._views(aside)
                k = slice(aside.next, aside.next + 1)
                if not self._measure(aside.batch, Some(sources[k], places[k], aside), final, 0):
                    return False
                aside.next += 1
                if aside.next == aside.n:
                    self._aside.remove(aside)
                return True
        return False

    def _views(self, aside: Aside) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Sources of a block that waits, and their places."""
        places = self.desk.view(aside.ref, np.dtype(np.int64), aside.n, aside.n * SOURCE.itemsize)
        return self.desk.view(aside.ref, SOURCE, aside.n), places

    def _set_aside(self, m: Measured, sources: NDArray[Any], places: NDArray[np.int64]) -> None:
        """Have sources wait, each to be measured alone, with copies of their fragments."""
        n = len(sources)
        if n == 0:
            return
        head = n * (SOURCE.itemsize + 8)
        ends = np.cumsum(sources["nfragments"]) * FRAGMENT.itemsize + head
        ref = self.desk.alloc(int(ends[-1]), "sources")
        row = min(int(sources["spare"].max()), self.grid.height)
        aside = Aside(m, ref, n, row, left=n)
        kept, kept_places = self._views(aside)
        kept[:], kept_places[:] = sources, places
        # Where each one's fragments begin; the memoryview copies don't pass through an array.
        kept["fragments"] = ref.offset + ends - sources["nfragments"] * FRAGMENT.itemsize
        for old, new, nbytes in zip(
            sources["fragments"].tolist(), kept["fragments"].tolist(), (sources["nfragments"] * FRAGMENT.itemsize).tolist(),
            strict=True,
        ):  # fmt: skip
            self.desk.store.copy(old, new, nbytes)
        m.open += n
        self._aside.append(aside)

    def _have_tiles(self, first: int, sources: NDArray[Any]) -> bool:
        """Whether a batch may go: tiles it looks at that were given up are loaded again first, once, if there is room."""
        if self._loading:
            return False
        if self._loaded_for == first:
            return True
        self._loaded_for = first
        y0, y1 = self._rows_of(sources)
        g = self.grid
        for ty in range(y0 // g.rows, (y1 - 1) // g.rows + 1):
            for tx in range(g.across):
                key = (self.desk.extension, ty, tx)
                if key not in self.desk.tiles and (block := self.desk.reserve_tile(key)) is not None:
                    self._loading.add(key)
                    self.desk.load_tile(key, block, BlockRef(0, 0), partial(self._reloaded, key))
        return not self._loading

    def _reloaded(self, key: TileKey, reply: Reply) -> None:
        self.desk.tiles.seal(key)
        self._loading.discard(key)

    def _measure(self, m: Measured, some: Some, final: int, neaten: int) -> bool:
        """Submit sources of a batch, and, if it is to be painted, what the batch has eaten; False if there is no room."""
        g, n, sources = self.grid, len(some.sources), some.sources
        y0, y1 = self._rows_of(sources)
        # Whole rows of tiles may be looked at, so all that CLEAN freed in them is needed.
        bands = range(y0 // g.rows, (y1 - 1) // g.rows + 1)
        top, bottom = bands.start * g.rows, bands.stop * g.rows
        nfreed = self.table.freed.count(bands)
        place_at = n * SOURCE.itemsize
        eaten_at = place_at + 8 * n
        freed_at = eaten_at + neaten * EATEN.itemsize
        try:
            ref = self.desk.alloc_for_task(freed_at + nfreed * FRAGMENT.itemsize, "sources")
        except SlabFull:
            return False
        runs = self.desk.store.pin(bands.start * g.across, min(bands.stop, g.down) * g.across)
        self.desk.view(ref, SOURCE, n)[:] = sources
        self.desk.view(ref, np.dtype(np.int64), n, place_at)[:] = some.place
        if neaten:
            self.table.eaten_by(m.first, m.last, self.desk.view(ref, EATEN, neaten, eaten_at))
        self.table.freed.copy(bands, self.desk.view(ref, FRAGMENT, nfreed, freed_at))
        lease = self.desk.pin(y0, y1)
        head = pack(
            n, ref.offset, ref.offset + place_at, ref.offset + freed_at, nfreed, m.rows.offset, m.nrows, top,
            min(final, bottom), ref.offset + eaten_at, neaten,
        )  # fmt: skip
        payload = head + self.desk.tile_pairs(lease)
        m.open += n if some.aside is None else 0
        m.attached += some.aside is None

        def give_back() -> None:
            self.desk.tiles.release(lease)
            self.desk.store.release(runs)
            self.desk.slab.free(ref)
            m.open -= n
            m.attached -= some.aside is None
            if some.aside is not None:
                some.aside.left -= 1
                if some.aside.left == 0:
                    self.desk.slab.free(some.aside.ref)

        def measured(reply: Reply) -> None:
            late = reply.reshape(-1, 2)
            again = sources[late[:, 0]]
            again["spare"] = np.maximum(again["spare"], late[:, 1])
            self._set_aside(m, again, some.place[late[:, 0]])
            give_back()
            self._next_step(m)

        def crashed(died: str) -> None:
            if n == 1:
                self._fill_row(m, some, died)
            else:
                self._set_aside(m, sources, some.place)
            give_back()
            self._next_step(m)

        self.desk.submit(Kind.MEASURE, payload, measured, crashed=crashed)
        return True

    def _rows_of(self, sources: NDArray[Any]) -> tuple[int, int]:
        """Rows that these sources may look at: as far up as down, and a little more."""
        if not len(sources):
            return 0, 1
        half = sources["spare"] - sources["y"]
        y0 = int(np.clip(np.floor((sources["y"] - half).min()) - 4, 0, self.grid.height - 1))
        return y0, int(min(sources["spare"].max(), self.grid.height))

    def _fill_row(self, m: Measured, some: Some, died: str) -> None:
        """The row of a source that crashes workers: what is known without looking at it, and a flag."""
        s = some.sources[0]
        self.run.reporter.warning(
            f"measuring source {s['number']} at ({s['x'] + 1:.1f}, {s['y'] + 1:.1f}) crashed two workers ({died}): "
            "its measurements are NaN, FLAGS 128"
        )
        row = self.desk.view(m.rows, self.run.plan.row, m.nrows)[some.place[0] : some.place[0] + 1]
        known = {
            "NUMBER": s["number"], "ID_PARENT": s["parent"], "EXT_NUMBER": self.desk.info.ext_number, "X_IMAGE": s["x"] + 1,
            "Y_IMAGE": s["y"] + 1, "X_IMAGE_DBL": s["x"] + 1, "Y_IMAGE_DBL": s["y"] + 1, "FLAGS": s["flags"] | 128,
        }  # fmt: skip
        for name in row.dtype.names or ():
            row[name] = known.get(name, np.nan if row.dtype[name].base.kind == "f" else 0)

    def _next_step(self, m: Measured) -> None:
        """When all sources of a batch are measured: the columns that follow from the row."""
        if m.open:
            return
        if self.run.plan.table and self.run.shelf is None:
            rows = pack(m.rows.offset, m.nrows)
            self.desk.submit(Kind.TABLE, rows, lambda reply: self._completed(m), affinity=self._affinity)
        else:
            self._completed(m)

    def _completed(self, m: Measured) -> None:
        m.done = True
        self._complete.append(m)
        self._write()

    def _write(self) -> None:
        """Write the rows whose turn it is, and let go of what is no longer needed."""
        while self._batches and self._batches[0].done:
            m = self._batches.popleft()
            self.run.take(self.desk.view(m.rows, self.run.plan.row, m.nrows))
            self.desk.slab.free(m.rows)
            m.written = True
            self.run.progress.advance(MEASURE_SHARE * max(m.row - self._row, 0) / self.grid.height)
            self._row = max(m.row, self._row)
        while self._complete and (self._complete[0].written or len(self._complete) > WAITING_BATCHES):
            m = self._complete.popleft()
            if not m.written:
                m.rows = self.desk.store.put_away(m.rows)
        while self._attached and not self._attached[0].attached:
            self._attached.popleft()
        self.written = self._attached[0].first if self._attached else self.table.base + self.table.batched
        if self.run.paints:
            # What a source has eaten is painted with it, which may be much later.
            self.written = self.table.kept_from(self.written)
        self.table.release(self.written)
