"""The table of sources between deblending and the catalogue: CLEAN's window, numbers, masks that CLEAN freed.

Rows are in closing order.  A row's place is absolute (`base` + its index in the table), because rows that are done with are
dropped from the front.  All of it lies in the slab and is worked on by kernels or whole columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.config.settings import Settings
from sextract.deblending import _clean
from sextract.pipeline.runs import Freed, RunStore
from sextract.pipeline.stages import EATEN
from sextract.pipeline.statefile import StateReader, StateWriter
from sextract.records import FRAGMENT, SOURCE, BlockRef

# Entries of the hash table over the window, and sources that one eats of which a list is made.
HEADS = 16384
FOUND = 4096

# Fragments that are freed at a time, unless one source has more.
PORTION = 4096

# Sources that are told their reach at a time: no array made of them is large.
NUMBERED = 512

Reach = Callable[[NDArray[Any]], NDArray[np.int64]]

# What a checkpoint holds of a table beside its rows.
_COUNTERS = ("base", "numbered", "batched", "number", "detected", "beyond")

NO_EATEN = np.empty(0, EATEN)


class SourceTable:
    """Sources of one extension.

    Parameters
    ----------
    store : RunStore
        Allocates.
    slab_bytes : uint8 array
        The whole slab.
    settings : Settings
    width, height, band_rows, first_band : int
        Frame, rows of a tile, and the number of the first band of freed fragments in the store.
    reach : callable
        Rows to which sources will look (`plan.Run.reach_rows`).

    Attributes
    ----------
    numbered, batched : int
        Rows of the table that have their final state, and those that were given to a batch.
    beyond : int
        Those that weren't split for FOOTPRINT_MAXPIX.
    detected, number : int
        Sources before CLEAN, and the last NUMBER given.
    freed : Freed
        Fragments that CLEAN freed.
    """

    def __init__(
        self,
        store: RunStore,
        slab: Any,
        slab_bytes: NDArray[np.uint8],
        settings: Settings,
        width: int,
        height: int,
        band_rows: int,
        first_band: int,
        reach: Reach,
    ) -> None:
        self.store, self.slab, self.bytes, self.reach = store, slab, slab_bytes, reach
        detection, deblending = settings.detection, settings.deblending
        self._kept = [store.alloc_somewhere(4 * HEADS, "clean"), store.alloc_somewhere(4 * FOUND, "clean")]
        heads, found = (self._view(ref, np.dtype(np.int32), n) for ref, n in zip(self._kept, (HEADS, FOUND), strict=True))
        lag = detection.kernel.shape[0] // 2 if detection.kernel is not None else -1
        self.cleaner = _clean.Cleaner(
            deblending.clean_param, deblending.clean, deblending.clean_reach_rows, lag, width, height, heads, found
        )
        self._table: NDArray[Any] = np.empty(0, SOURCE)
        self._table_ref: BlockRef | None = None
        self._entries_ref: BlockRef | None = None
        self.base = 0
        self._grow(2048)
        self._freed_ref = store.alloc_somewhere(FRAGMENT.itemsize * PORTION, "clean")
        self.freed = Freed(store, slab_bytes, first_band, band_rows, height)
        self.numbered = self.batched = 0
        self.number = self.detected = self.beyond = 0
        self._outputs: deque[tuple[int, BlockRef]] = deque()

    def _view(self, ref: BlockRef, dtype: np.dtype[Any], n: int, offset: int = 0) -> NDArray[Any]:
        first = ref.offset + offset
        return self.bytes[first : first + n * dtype.itemsize].view(dtype)

    @property
    def count(self) -> int:
        """Rows in the table."""
        return int(self.cleaner.count)

    @property
    def rows(self) -> NDArray[Any]:
        """The table."""
        return self._table

    def _grow(self, capacity: int) -> None:
        count = self.count
        table = self.store.alloc_somewhere(capacity * SOURCE.itemsize, "sources")
        entries = self.store.alloc_somewhere(_clean.ENTRY_BYTES * capacity, "sources")
        new = self._view(table, SOURCE, capacity)
        if self._table_ref is not None and self._entries_ref is not None:
            self.store.copy(self._table_ref.offset, table.offset, count * SOURCE.itemsize)
            self.slab.free(self._table_ref)
            self.slab.free(self._entries_ref)
        self._table_ref, self._entries_ref, self._table = table, entries, new
        self._attach(count)

    def _attach(self, count: int) -> None:
        assert self._entries_ref is not None
        entries = self._view(self._entries_ref, np.dtype(np.uint8), self._entries_ref.nbytes)
        self.cleaner.attach(self._table, entries, count)
        for first in range(0, count, PORTION):
            self.cleaner.index(first, min(first + PORTION, count))
            self.store.let_go()

    def take(self, out: BlockRef, nsources: int, nfragments: int, room: int, written: int) -> None:
        """Take the sources of a block into the window, and merge what CLEAN merges.

        Parameters
        ----------
        out : BlockRef
            `room` FRAGMENTs, of which `nfragments` are used, then SOURCEs.  What is used moves to a block of its size.
        written : int
            Absolute place up to which rows are done with.
        """
        kept = self.store.settle(out, nfragments * FRAGMENT.itemsize, "sources")
        if self.count + nsources > len(self._table) and written - self.base > len(self._table) // 8:
            self._compact(written)
        if self.count + nsources > len(self._table):
            self._grow(2 * (self.count + nsources))
        assert self._table_ref is not None
        upto = self.count + nsources
        # As bytes: numpy would copy field by field.
        old, new = out.offset + room * FRAGMENT.itemsize, self._table_ref.offset + self.count * SOURCE.itemsize
        self.store.copy(old, new, nsources * SOURCE.itemsize)
        sources = self._table[self.count : upto]
        sources["fragments"] = sources["fragments"] * FRAGMENT.itemsize + kept.offset
        self.detected += nsources
        self.beyond += int(np.count_nonzero(sources["flags"] & 128))
        self._outputs.append((self.base + upto, kept))
        self.slab.free(out)
        while True:
            room = self._freed_ref.nbytes // FRAGMENT.itemsize
            freed = self._view(self._freed_ref, FRAGMENT, room)
            n, more = self.cleaner.add(upto, self.bytes, freed)
            for first in range(0, n, PORTION):
                self.freed.add(freed[first : min(first + PORTION, n)])
            if more == 0:
                return
            if more > room:
                self.slab.free(self._freed_ref)
                self._freed_ref = self.store.alloc_somewhere(more * FRAGMENT.itemsize, "clean")

    def _compact(self, written: int) -> None:
        """Drop rows that are done with from the front."""
        n = written - self.base
        if n <= 0:
            return
        left = self.count - n
        for first in range(0, left, PORTION):
            _clean.drop(self._table[: self.count], n, first, min(first + PORTION, left))
            self.store.let_go()
        self.base += n
        self.numbered -= n
        self.batched -= n
        self._attach(left)

    def settle(self, final_row: int) -> None:
        """Number what can't change any more, and note in ``spare`` down to which row each will look."""
        going = True
        while going:
            first, last = self.numbered, min(self.numbered + PORTION, self.count)
            self.numbered, self.number = self.cleaner.number(first, last, final_row, self.number)
            for start in range(first, self.numbered, NUMBERED):
                new = self._table[start : min(start + NUMBERED, self.numbered)]
                new["spare"] = self.reach(new)
            going = first < self.numbered == last < self.count
            if going:
                self.store.let_go()

    def kept_from(self, written: int) -> int:
        """Absolute place up to which rows are done with: all but those whose eater isn't written, if pixels are painted."""
        return self.base + int(_clean.first_eaten_later(self._table[: self.count], written - self.base))

    def eaten_by(self, first: int, last: int, out: NDArray[Any] = NO_EATEN) -> int:
        """How many the sources at absolute places [first, last) have eaten; what, with their NUMBERs, goes to `out` (EATEN)."""
        rows = self._table[: self.count]
        return int(_clean.eaten_by(rows, first - self.base, last - self.base, out.view(np.int64).reshape(-1, 3)))

    def save(self, out: StateWriter, written: int) -> dict[str, Any]:
        """Put into a checkpoint what is not done with: rows, their fragments, and what CLEAN freed; numbers that go with it."""
        self._compact(written)
        assert self._table_ref is not None
        self.store.save(out, self._table_ref.offset, self.count * SOURCE.itemsize)
        for _, ref in self._outputs:
            self.store.save(out, ref.offset, ref.nbytes)
        return {
            **{name: getattr(self, name) for name in _COUNTERS},
            "rows": self.count,
            "outputs": [(upto, *ref) for upto, ref in self._outputs],
            "freed": self.freed.save(out),
        }

    def restore(self, saved: StateReader, numbers: Mapping[str, Any]) -> None:
        """Take what a checkpoint holds into a new table."""
        for name in _COUNTERS:
            setattr(self, name, numbers[name])
        n = numbers["rows"]
        self._grow(max(2 * n, len(self._table)))
        assert self._table_ref is not None
        for first in range(0, n, NUMBERED):
            saved.get(self._table[first : min(first + NUMBERED, n)])
            self.store.let_go()
        first = 0
        for upto, old, nbytes in numbers["outputs"]:
            ref = self.store.restore(saved, nbytes, "sources")
            self._table["fragments"][first : upto - self.base] += ref.offset - old
            self._outputs.append((upto, ref))
            first = upto - self.base
        self._attach(n)
        for first in range(0, numbers["freed"], PORTION):
            freed = self._view(self._freed_ref, FRAGMENT, min(PORTION, numbers["freed"] - first))
            self.freed.add(saved.get(freed))
            self.store.let_go()

    def release(self, written: int) -> None:
        """Free the fragments of rows before an absolute place."""
        while self._outputs and self._outputs[0][0] <= written:
            self.slab.free(self._outputs.popleft()[1])

    def close(self) -> None:
        """Free everything."""
        tables = *self._kept, self._table_ref, self._entries_ref, self._freed_ref, self.freed.kept
        for ref in (*tables, *(r for _, r in self._outputs)):
            if ref is not None:
                self.slab.free(ref)
