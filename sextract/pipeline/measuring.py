"""Measurement of an extension's sources: batches in the order of NUMBER, their pixels, masks and rows.

A batch is submitted when all rows that it will look at have final masks.  A source that looks far, or farther than expected,
is set aside with a copy of its fragments and measured alone when those rows are final.  Others don't wait for it: their rows
do, in a scratch file if need be, since rows are written in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.memory.slab import SlabFull
from sextract.pipeline.sources import SourceTable
from sextract.pipeline.stages import EATEN, Kind, imports_astropy, pack
from sextract.pipeline.statefile import StateReader, StateWriter
from sextract.pipeline.tasks import Desk, Reply
from sextract.records import FRAGMENT, SOURCE, BlockRef

# Sources looked at for a batch: no array made of them is large.
LOOKED_AT = 2048

# A source that looks this many rows away is set aside, or fewer where tiles are few: a part of the rows that can be held.
FAR_ROWS, NEAR_ROWS, FAR_PART = 256, 24, 10

# Pixels of the windows of sources that waited and are measured together, unless one has more.
ASIDE_PIXELS = 4_000_000

# How many tasks each worker gets of sources, or footprints, that are left when no more will come; the fewest sources of one.
LAST_SHARES, FEWEST = 3, 96

# Batches that may wait in the slab for the rows before theirs.
WAITING_BATCHES = 16

# Of the work, for the progress bar.
MEASURE_SHARE = 0.6


@dataclass(slots=True, eq=False)
class Some:
    """Sources of a batch that one task measures: where they are (SOURCE array, and which of it), and their places in the batch.

    `aside` is where their fragments are, if they were set aside; those of others are the table's.
    """

    rows: NDArray[Any]
    index: NDArray[np.int64]
    place: NDArray[np.int64]
    aside: Aside | None = None

    def __len__(self) -> int:
        return len(self.index)

    def put(self, out: NDArray[Any]) -> None:
        """Copy them to `out`, without an array between."""
        np.take(self.rows, self.index, out=out, mode="clip")


@dataclass(slots=True, eq=False)
class Aside:
    """Sources of a batch that wait: SOURCEs, their places (int64) and fragments in a block of their own.

    They are measured from `next` on, some at a time or each `alone`, when rows up to `row` are final; `left` have no answer.
    """

    batch: Measured
    ref: BlockRef
    n: int
    row: int = 0
    next: int = 0
    left: int = 0
    alone: bool = False


@dataclass(slots=True, eq=False)
class Measured:
    """A batch of sources at absolute places [first, last) of the table, and the rows they will have.

    `open` counts what is still to be measured, `attached` tasks that use fragments of the table; `crashed`: the row of a source
    that wasn't measured lacks the columns that follow from it.
    """

    first: int
    last: int
    rows: BlockRef
    nrows: int
    row: int
    open: int = 0
    attached: int = 0
    crashed: bool = False
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
    first_row : int
        First row that the latest batch looks at.
    far_rows : int
        A source that looks farther is set aside.
    """

    def __init__(self, desk: Desk, table: SourceTable, final_row: Callable[[], int], ending: Callable[[], bool]) -> None:
        self.desk, self.table, self.grid, self.run = desk, table, desk.grid, desk.run
        self._final_row, self._ending = final_row, ending
        # Of all that might, one worker alone imports astropy; without it these columns are done with the others.
        self._tables = imports_astropy(self.run.plan, [image.info for image in self.run.images])
        self._batches: deque[Measured] = deque()
        self._attached: deque[Measured] = deque()
        self._complete: deque[Measured] = deque()
        self._aside: deque[Aside] = deque()
        self.far_rows = min(max(desk.held_rows // FAR_PART, NEAR_ROWS), FAR_ROWS)
        self._row = 0
        self._too_few_at = -1
        self.written = self.first_row = 0

    @property
    def idle(self) -> bool:
        """Whether every source of the table has its row written."""
        return not self._batches and self.table.batched == self.table.count

    def progressed(self, row: int) -> None:
        """For the progress bar: rows above this one are done."""
        self._row = max(self._row, row)

    @property
    def behind(self) -> bool:
        """Whether several batches could go but for tiles or room: what is scanned now would only push theirs out."""
        return self.table.numbered - self.table.batched > 4 * self.run.sources_per_task

    def submit(self, few_too: bool = False) -> bool:
        """Submit the next batch, or a source that had to wait; False if there is nothing, or no room.

        A batch of few sources is submitted where nothing else can be done (`few_too`), or no more will come.
        """
        final = self._final_row()
        if self._submit_aside(final):
            return True
        if self.desk.gathers("measure"):
            return False
        t = self.table
        few = t.count - t.batched < self.run.sources_per_task
        if (few or final == self._too_few_at) and not few_too and not self._ending():
            # Too few for a batch, whatever becomes of them, or no more than when it was last looked.
            return False
        t.settle(final)
        rows, alive = self._next_rows()
        if not len(alive):
            self._write()
            return False
        far = rows["spare"][alive] - rows["y"][alive] > self.far_rows
        late = np.flatnonzero((np.minimum(rows["spare"][alive], self.grid.height) > final) & ~far)
        ready = int(late[0]) if len(late) else len(alive)
        most = self._most()
        few = ready < most and len(rows) < LOOKED_AT
        if ready == 0 or (few and not self._ending() and not few_too):
            self._too_few_at = final
            return False
        self._too_few_at = -1
        n = min(ready, most)
        alive, far, place = alive[:n], far[:n], np.arange(n)
        near = Some(rows, alive[~far], place[~far])
        first, last = t.base + t.batched, t.base + t.batched + int(alive[-1]) + 1
        if len(near) and not self._has_pixels(*self._rows_of(near)):
            return False
        m = Measured(first, last, BlockRef(0, 0), n, int(rows["row"][alive[-1]]))
        try:
            m.rows = self.desk.alloc_for_task(n * self.run.plan.row.itemsize, "rows")
        except SlabFull:
            return False
        eaten = t.eaten_by(first, last) if self.run.paints else 0
        if (len(near) or eaten) and not self._measure(m, near, final, eaten):
            self.desk.slab.free(m.rows)
            return False
        self._set_aside(m, Some(rows, alive[far], place[far]))
        t.batched = last - t.base
        self._batches.append(m)
        if m.attached:
            self._attached.append(m)
        return True

    def _has_pixels(self, y0: int, y1: int) -> bool:
        return self.desk.have_runs(y0, y1) and self.desk.have_tiles("measure", y0, y1)

    def _most(self) -> int:
        """How many sources a batch has: less when the last ones are shared out, so that all workers end at the same time."""
        most = self.run.sources_per_task
        if not self._ending() or self.desk.backend.workers == 1:
            return most
        share = (self.table.numbered - self.table.batched) // (LAST_SHARES * self.desk.backend.workers)
        return min(max(share, FEWEST), most)

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
                side = 2 * (sources["spare"][aside.next :] - sources["y"][aside.next :])
                n = 1 if aside.alone else max(int(np.searchsorted(np.cumsum(side * side), ASIDE_PIXELS)), 1)
                k = np.arange(aside.next, aside.next + n)
                if not self._measure(aside.batch, Some(sources, k, places[k], aside), final, 0):
                    return False
                aside.next += n
                if aside.next == aside.n:
                    self._aside.remove(aside)
                return True
        return False

    def _views(self, aside: Aside) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Sources of a block that waits, and their places."""
        places = self.desk.view(aside.ref, np.dtype(np.int64), aside.n, aside.n * SOURCE.itemsize)
        return self.desk.view(aside.ref, SOURCE, aside.n), places

    def _set_aside(self, m: Measured, some: Some, alone: bool = False) -> None:
        """Have sources wait, with copies of their fragments, some to be measured at a time or each alone."""
        n = len(some)
        if n == 0:
            return
        nbytes = some.rows["nfragments"][some.index] * FRAGMENT.itemsize
        ends = np.cumsum(nbytes) + n * (SOURCE.itemsize + 8)
        ref = self.desk.alloc(int(ends[-1]), "sources")
        aside = Aside(m, ref, n, left=n, alone=alone)
        kept, places = self._views(aside)
        some.put(kept)
        places[:] = some.place
        aside.row = min(int(kept["spare"].max()), self.grid.height)
        # Where each one's fragments begin; the memoryview copies don't pass through an array.
        old = kept["fragments"].tolist()
        kept["fragments"] = ref.offset + ends - nbytes
        for one in zip(old, kept["fragments"].tolist(), nbytes.tolist(), strict=True):
            self.desk.store.copy(*one)
        m.open += n
        self._aside.append(aside)

    def _measure(self, m: Measured, some: Some, final: int, neaten: int) -> bool:
        """Submit sources of a batch, and, if it is to be painted, what the batch has eaten; False if there is no room."""
        g, n = self.grid, len(some)
        y0, y1 = self._rows_of(some)
        if n and not self.desk.have_runs(y0, y1):
            return False
        if some.aside is None and n:
            self.first_row = y0
        # Whole rows of tiles may be looked at, so all that CLEAN freed in them is needed.
        bands = range(y0 // g.rows, (y1 - 1) // g.rows + 1)
        top, bottom = bands.start * g.rows, bands.stop * g.rows
        nfreed = self.table.freed.count(bands)
        # The task works on a copy, so that it can be repeated.
        copy_at = n * SOURCE.itemsize
        place_at = 2 * copy_at
        eaten_at = place_at + 8 * n
        freed_at = eaten_at + neaten * EATEN.itemsize
        try:
            ref = self.desk.alloc_for_task(freed_at + nfreed * FRAGMENT.itemsize, "sources")
        except SlabFull:
            return False
        runs = self.desk.store.pin(bands.start * g.across, min(bands.stop, g.down) * g.across)
        sources = self.desk.view(ref, SOURCE, n)
        some.put(sources)
        self.desk.view(ref, np.dtype(np.int64), n, place_at)[:] = some.place
        if neaten:
            self.table.eaten_by(m.first, m.last, self.desk.view(ref, EATEN, neaten, eaten_at))
        self.table.freed.copy(bands, self.desk.view(ref, FRAGMENT, nfreed, freed_at))
        lease = self.desk.pin(y0, y1)
        head = pack(
            n, ref.offset, ref.offset + copy_at, ref.offset + place_at, ref.offset + freed_at, nfreed, m.rows.offset, m.nrows,
            top, min(final, bottom), ref.offset + eaten_at, neaten,
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
                some.aside.left -= n
                if some.aside.left == 0:
                    self.desk.slab.free(some.aside.ref)

        def measured(reply: Reply) -> None:
            late, row = reply.reshape(-1, 2).T
            sources["spare"][late] = np.maximum(sources["spare"][late], row)
            self._set_aside(m, Some(sources, late, some.place[late]))
            give_back()
            self._next_step(m)

        def crashed(died: str) -> None:
            if n == 1:
                self._fill_row(m, sources[0], some.place[0], died)
                m.crashed = True
            else:
                self._set_aside(m, Some(sources, np.arange(n), some.place), alone=True)
            give_back()
            self._next_step(m)

        self.desk.submit(Kind.MEASURE, payload, measured, crashed=crashed)
        return True

    def save(self, out: StateWriter) -> dict[str, Any]:
        """Put into a checkpoint the rows of batches that aren't written yet, and the sources that they wait for."""
        place = {id(m): k for k, m in enumerate(self._batches)}
        for m in self._batches:
            self.desk.store.save(out, m.rows.offset, m.nrows * self.run.plan.row.itemsize)
        for a in self._aside:
            self.desk.store.save(out, *a.ref)
        return {
            "batches": [(m.first, m.last, m.nrows, m.row, m.crashed) for m in self._batches],
            "aside": [(place[id(a.batch)], a.n, a.row, a.next, a.alone, *a.ref) for a in self._aside],
        }

    def restore(self, saved: StateReader, numbers: Mapping[str, Any]) -> None:
        """Take what a checkpoint holds."""
        store = self.desk.store
        for first, last, nrows, row, crashed in numbers["batches"]:
            rows = store.restore(saved, nrows * self.run.plan.row.itemsize, "rows")
            self._batches.append(Measured(first, last, rows, nrows, row, crashed=crashed))
        for place, n, row, following, alone, old, nbytes in numbers["aside"]:
            ref, m = store.restore(saved, nbytes, "sources"), self._batches[place]
            aside = Aside(m, ref, n, row, following, n - following, alone)
            self._views(aside)[0]["fragments"] += ref.offset - old
            m.open += aside.left
            self._aside.append(aside)
        for m in tuple(self._batches):
            # Their last columns may not be there if they came late before.
            self._next_step(m)
        self._write()

    def _rows_of(self, some: Some) -> tuple[int, int]:
        """Rows that these sources may look at: as far up as down, and a little more."""
        if not len(some):
            return 0, 1
        y, last = some.rows["y"][some.index], some.rows["spare"][some.index]
        y0 = int(np.clip(np.floor((2 * y - last).min()) - 4, 0, self.grid.height - 1))
        return y0, int(min(last.max(), self.grid.height))

    def _fill_row(self, m: Measured, s: Any, place: int, died: str) -> None:
        """The row of a source that crashes workers: what is known without looking at it, and a flag."""
        self.run.reporter.warning(
            f"measuring source {s['number']} at ({s['x'] + 1:.1f}, {s['y'] + 1:.1f}) crashed two workers ({died}): "
            "its measurements are NaN, FLAGS 128"
        )
        row = self.desk.view(m.rows, self.run.plan.row, m.nrows)[place : place + 1]
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
        if self.run.shelf is None and (self._tables or (m.crashed and self.run.plan.table)):
            self.desk.submit(Kind.TABLE, pack(m.rows.offset, m.nrows), lambda reply: self._completed(m), affinity=0)
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
            with self.run.track("write"):
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
