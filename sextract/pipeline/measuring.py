"""Measurement of an extension's sources: batches in the order of NUMBER, their pixels, masks and rows.

A batch is submitted when all rows that it will look at have final masks.  A source that looks farther than expected is
measured again when those rows are final; its batch waits, and rows are written in order all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.memory.slab import SlabFull
from sextract.memory.tiles import TileKey
from sextract.pipeline.sources import SourceTable
from sextract.pipeline.stages import EATEN, Kind, pack
from sextract.pipeline.tasks import Desk, Reply
from sextract.records import FRAGMENT, SOURCE, BlockRef

# A task of about ten milliseconds.
SOURCES_PER_TASK = 192

# Of the work, for the progress bar.
MEASURE_SHARE = 0.6


@dataclass(slots=True)
class Some:
    """Sources of a batch that one task measures: copies, their rows, and the row that must be final before."""

    sources: NDArray[Any]
    place: NDArray[np.int64]
    row: int = 0


@dataclass(slots=True)
class Measured:
    """A batch of sources at absolute places [first, last) of the table, and the rows they will have."""

    first: int
    last: int
    rows: BlockRef
    nrows: int
    row: int
    waiting: list[Some] = field(default_factory=list)
    running: int = 0
    done: bool = False


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
        Absolute place in the table up to which rows are written.
    """

    def __init__(self, desk: Desk, table: SourceTable, final_row: Callable[[], int], ending: Callable[[], bool]) -> None:
        self.desk, self.table, self.grid, self.run = desk, table, desk.grid, desk.run
        self._final_row, self._ending = final_row, ending
        self._batches: deque[Measured] = deque()
        self._loading: set[TileKey] = set()
        self._loaded_for = -1
        self._row = 0
        self.written = 0

    @property
    def idle(self) -> bool:
        """Whether every source of the table has its row written."""
        return not self._batches and self.table.batched == self.table.count

    def submit(self) -> bool:
        """Submit the next batch, or what of an earlier one had to wait; False if there is nothing, or no room."""
        final = self._final_row()
        for m in self._batches:
            for k, some in enumerate(m.waiting):
                if some.row <= final:
                    if self._measure(m, some, final):
                        del m.waiting[k]
                        return True
                    return False
        t = self.table
        t.settle(final)
        rows = t.rows[t.batched : t.numbered]
        alive = np.flatnonzero(rows["number"] > 0)
        if not len(alive):
            t.batched = t.numbered
            self._write()
            return False
        late = np.flatnonzero(np.minimum(rows["spare"][alive], self.grid.height) > final)
        ready = int(late[0]) if len(late) else len(alive)
        if ready == 0 or (ready < SOURCES_PER_TASK and not self._ending() and self.desk.busy):
            return False
        n = min(ready, SOURCES_PER_TASK)
        chosen = rows[alive[:n]]
        if not self._have_tiles(t.base + t.batched, chosen):
            return False
        try:
            block = self.desk.alloc_for_task(n * self.run.plan.row.itemsize, "rows")
        except SlabFull:
            return False
        first, last = t.base + t.batched, t.base + t.batched + int(alive[n - 1]) + 1
        m = Measured(first, last, block, n, int(chosen["row"][-1]))
        if not self._measure(m, Some(chosen, np.arange(n)), final):
            self.desk.slab.free(block)
            return False
        t.batched = last - t.base
        self._batches.append(m)
        return True

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

    def _measure(self, m: Measured, some: Some, final: int) -> bool:
        """Submit sources of a batch; False if there is no room."""
        g, n, sources = self.grid, len(some.sources), some.sources
        eaten = self.table.eaten_by(m.first, m.last) if self.run.paints else np.empty(0, EATEN)
        y0, y1 = self._rows_of(sources)
        freed = self.table.freed_between(y0, y1)
        first, last = y0 // g.rows * g.across, ((y1 - 1) // g.rows + 1) * g.across
        try:
            ref = self.desk.alloc_for_task(n * (SOURCE.itemsize + 8) + eaten.nbytes + freed.nbytes, "sources")
        except SlabFull:
            return False
        try:
            runs = self.desk.store.pin(range(first, last))
        except SlabFull:
            self.desk.slab.free(ref)
            return False
        self.desk.view(ref, SOURCE, n)[:] = sources
        at = n * SOURCE.itemsize
        self.desk.view(ref, np.dtype(np.int64), n, at)[:] = some.place
        self.desk.view(ref, EATEN, len(eaten), at + 8 * n)[:] = eaten
        self.desk.view(ref, FRAGMENT, len(freed), at + 8 * n + eaten.nbytes)[:] = freed
        lease = self.desk.pin(y0, y1)
        head = pack(
            n, ref.offset, ref.offset + at, ref.offset + at + 8 * n + eaten.nbytes, len(freed), m.rows.offset, m.nrows,
            first // g.across * g.rows, min(final, last // g.across * g.rows), ref.offset + at + 8 * n, len(eaten),
            len(lease.refs), len(runs),
        )  # fmt: skip
        payload = head + self.desk.tile_pairs(lease) + pack([v for pair in runs.items() for v in pair])
        m.running += 1

        def give_back() -> None:
            self.desk.tiles.release(lease)
            self.desk.store.release(runs)
            self.desk.slab.free(ref)
            m.running -= 1

        def measured(reply: Reply) -> None:
            give_back()
            for i, row in reply.reshape(-1, 2).tolist():
                late = sources[i : i + 1].copy()
                late["spare"] = np.maximum(late["spare"], row)
                m.waiting.append(Some(late, some.place[i : i + 1], min(row, g.height)))
            self._next_step(m)

        def crashed(died: str) -> None:
            give_back()
            if n == 1:
                self._fill_row(m, some, died)
                self._next_step(m)
            else:
                m.waiting[:0] = [
                    Some(sources[: n // 2], some.place[: n // 2]), Some(sources[n // 2 :], some.place[n // 2 :])
                ]  # fmt: skip

        self.desk.submit(Kind.MEASURE, payload, measured, crashed=crashed)
        return True

    def _rows_of(self, sources: NDArray[Any]) -> tuple[int, int]:
        """Rows that these sources may look at: as far up as down, and a little more."""
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
        if m.running or m.waiting:
            return
        if self.run.plan.table:
            self.desk.submit(Kind.TABLE, pack(m.rows.offset, m.nrows), lambda reply: self._complete(m), affinity=0)
        else:
            self._complete(m)

    def _complete(self, m: Measured) -> None:
        m.done = True
        self._write()

    def _write(self) -> None:
        """Write the rows whose turn it is, and let go of what they needed."""
        while self._batches and self._batches[0].done:
            m = self._batches.popleft()
            self.run.write(self.desk.view(m.rows, self.run.plan.row, m.nrows))
            self.desk.slab.free(m.rows)
            self.run.progress.advance(MEASURE_SHARE * max(m.row - self._row, 0) / self.grid.height)
            self._row = max(m.row, self._row)
        self.written = self._batches[0].first if self._batches else self.table.base + self.table.batched
        if self.run.paints:
            # What a source has eaten is painted with it, which may be much later.
            self.written = self.table.kept_from(self.written)
        self.table.release(self.written)
