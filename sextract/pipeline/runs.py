"""What masks are made of: runs of all tiles, and fragments that CLEAN freed; the oldest lie on disk when room is short.

Eight bytes a run, twelve a fragment; a pixel is never here.  Runs are written once, by the scan, and read by measurements
for as long as a source may look at their rows.  A block that has moved behind the slab (``memory/overflow.py``) is read where
it lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.deblending import _clean
from sextract.memory.slab import Slab, SlabFull
from sextract.memory.spill import scratch_folder
from sextract.memory.tiles import TileManager
from sextract.pipeline.statefile import StateReader, StateWriter
from sextract.records import FRAGMENT, BlockRef

# Of the table, for each number: offset and bytes of its block, pins, when it was last used.
ENTRY_BYTES = 4 * 8

# What is copied, a giant's fragments or many blocks, is let go of after so many bytes; of a small block the kernel maps more.
COPY_BYTES, MAPPED_BYTES = 1 << 20, 64 << 10

# Last use of what can't be moved: it isn't there, someone reads it, or it has moved already.
_NEVER = 1 << 62


class RunStore:
    """Blocks by number; the least recently used moves behind the slab first.

    Parameters
    ----------
    slab : Slab
    tiles : TileManager
        Whose idle tiles go first when room is needed.
    scratch_dir : str
        Folder that was chosen for scratch, for messages.
    numbers : int
        How many numbers there are: tiles, then what else is kept.

    Attributes
    ----------
    offsets : BlockRef
        An int64 per number, for workers: the byte offset of its block, −1 if there is none.
    """

    def __init__(self, slab: Slab, tiles: TileManager, scratch_dir: str, numbers: int) -> None:
        self._slab, self._tiles, self._folder = slab, tiles, scratch_dir
        self._table = tiles.alloc(ENTRY_BYTES * numbers, "runs")
        table = slab.view(self._table, np.int64, (4, numbers))
        table[:] = np.array([[-1], [0], [0], [_NEVER]])
        self._offset, self._nbytes, self._pins, self._turn = table
        self.offsets = BlockRef(self._table.offset, 8 * numbers)
        self._clock = 0
        self._copied = 0

    def alloc(self, nbytes: int, owner: str, low: bool = False) -> BlockRef:
        """A block for anything, at the expense of idle tiles, then of runs that nobody reads.

        Raises
        ------
        SlabFull
        """
        nbytes = max(nbytes, 64)
        while True:
            try:
                return self._tiles.alloc(nbytes, owner, low)
            except SlabFull:
                if not self._move_one():
                    raise

    def alloc_somewhere(self, nbytes: int, owner: str) -> BlockRef:
        """The same for what can't wait: where there is no room, behind the slab.

        Raises
        ------
        SlabFull
            There is no room there either.
        ConfigError, OutputError
            There is no folder for scratch, or its disk is full.
        """
        try:
            return self.alloc(nbytes, owner)
        except SlabFull:
            if self._slab.overflow is None:
                scratch_folder(self._folder)
            ref = self._slab.alloc_behind(nbytes)
            if ref is None:
                raise
            return ref

    def settle(self, ref: BlockRef, nbytes: int, owner: str) -> BlockRef:
        """The first bytes of a block in one of their size, which lies where it doesn't cut the room for large ones.

        The block itself is still the caller's to free.
        """
        small = self.alloc_somewhere(nbytes, owner)
        self.copy(ref.offset, small.offset, nbytes)
        return small

    def put_away(self, ref: BlockRef) -> BlockRef:
        """Move a block that only waits behind the slab; its new place, or the old one if it is there or there is none."""
        if self._slab.overflow is not None and ref in self._slab.overflow:
            return ref
        moved = self._slab.alloc_behind(ref.nbytes)
        if moved is None:
            return ref
        self.copy(ref.offset, moved.offset, ref.nbytes)
        self._slab.free(ref)
        return moved

    def copy(self, old: int, new: int, nbytes: int) -> None:
        """Copy bytes from one offset to another, letting go of what lies behind the slab on the way.

        Many small blocks that make way for a large one are as much as a large one.
        """
        for first in range(0, nbytes, COPY_BYTES):
            n = min(COPY_BYTES, nbytes - first)
            self._slab.bytes_view(new + first, n)[:] = self._slab.bytes_view(old + first, n)
            self.gone_through(n)

    def gone_through(self, nbytes: int) -> None:
        """Count bytes that were read or written in one place, and let go of what lies behind the slab now and then."""
        self._copied += max(nbytes, MAPPED_BYTES)
        if self._copied >= COPY_BYTES:
            self._copied = 0
            self.let_go()

    def save(self, out: StateWriter, offset: int, nbytes: int) -> None:
        """Put bytes from an offset on into a checkpoint."""
        for first in range(offset, offset + nbytes, COPY_BYTES):
            out.put(np.frombuffer(self._slab.bytes_view(first, min(COPY_BYTES, offset + nbytes - first)), np.uint8))
            self.let_go()

    def restore(self, saved: StateReader, nbytes: int, owner: str) -> BlockRef:
        """A block with the next bytes of a checkpoint."""
        ref = self.alloc_somewhere(nbytes, owner)
        for first in range(ref.offset, ref.offset + nbytes, COPY_BYTES):
            saved.get(np.frombuffer(self._slab.bytes_view(first, min(COPY_BYTES, ref.offset + nbytes - first)), np.uint8))
            self.let_go()
        return ref

    def let_go(self) -> None:
        """Between portions of what is worked through: let go of what lies behind the slab."""
        if self._slab.overflow is not None:
            self._slab.overflow.settle()

    def add(self, number: int, ref: BlockRef) -> None:
        """Keep a block, in place of what was kept under that number and nobody reads."""
        self._drop(number)
        self._offset[number], self._nbytes[number] = ref
        self._used(slice(number, number + 1))

    def find(self, number: int) -> BlockRef | None:
        """Where a block is, until the next one is asked for; None if there is none."""
        offset = int(self._offset[number])
        return None if offset < 0 else BlockRef(offset, int(self._nbytes[number]))

    def _drop(self, number: int) -> None:
        ref = self.find(number)
        if ref is not None:
            self._slab.free(ref)
            self._offset[number], self._turn[number] = -1, _NEVER

    def _used(self, numbers: slice) -> None:
        """Those that can be moved are the last to be."""
        self._clock += 1
        offset = self._offset[numbers]
        movable = (offset >= 0) & (offset < self._slab.capacity) & (self._pins[numbers] == 0)
        self._turn[numbers] = np.where(movable, self._clock, _NEVER)

    def pin(self, first: int, last: int) -> slice:
        """Have the blocks first <= number < last stay where they are until `release`."""
        pinned = slice(first, last)
        self._pins[pinned] += 1
        self._turn[pinned] = _NEVER
        return pinned

    def release(self, pinned: slice) -> None:
        """Give pinned blocks back."""
        self._pins[pinned] -= 1
        self._used(pinned)

    def _move_one(self) -> bool:
        """Move the least recently used block that nobody reads behind the slab."""
        return self.retire(int(self._turn.argmin()))

    def retire(self, number: int) -> bool:
        """Move a block behind the slab, if it is there, nobody reads it and there is a place; whether it was moved."""
        if self._turn[number] == _NEVER:
            return False
        ref = BlockRef(int(self._offset[number]), int(self._nbytes[number]))
        moved = self.put_away(ref)
        if moved == ref:
            return False
        self._offset[number], self._turn[number] = moved.offset, _NEVER
        return True

    def close(self) -> None:
        """Let go of everything."""
        for first in range(0, len(self._offset), 1024):
            for number in np.flatnonzero(self._offset[first : first + 1024] >= 0).tolist():
                self._drop(first + number)
        self._slab.free(self._table)


class Freed:
    """Fragments that CLEAN freed, by band (a row of tiles), those of a band sorted by row when they are read.

    Parameters
    ----------
    store : RunStore
        Keeps the blocks, under numbers from `first` on.
    slab_bytes : uint8 array
        The whole range of offsets.
    first, band_rows, height : int
    """

    def __init__(self, store: RunStore, slab_bytes: NDArray[np.uint8], first: int, band_rows: int, height: int) -> None:
        self._store, self._bytes, self._first, self._rows = store, slab_bytes, first, band_rows
        bands = -(-height // band_rows)
        self._table = store.alloc_somewhere(16 * bands, "clean")
        table = slab_bytes[self._table.offset : self._table.offset + 16 * bands].view(np.int64)
        table[:] = 0
        self._counts, self._sorted = table[:bands], table[bands:]

    def add(self, fragments: NDArray[Any]) -> None:
        """Add fragments (FRAGMENT array) in any order; they are sorted in place."""
        _clean.sort_rows(fragments)
        at = 0
        while at < len(fragments):
            band = int(fragments["y"][at]) // self._rows
            last = int(np.searchsorted(fragments["y"], (band + 1) * self._rows))
            self._append(band, fragments[at:last].view(np.uint8))
            at = last

    def _append(self, band: int, new: NDArray[np.uint8]) -> None:
        """Add fragments, as bytes: numpy would copy field by field."""
        number, n = self._first + band, int(self._counts[band]) * FRAGMENT.itemsize
        upto = n + len(new)
        ref = self._store.find(number)
        if ref is None or upto > ref.nbytes:
            larger = self._store.alloc_somewhere(max(2 * n, upto, 16 * FRAGMENT.itemsize), "clean")
            # Room for it may have been made by moving the old one.
            old = self._store.find(number)
            if old is not None:
                self._store.copy(old.offset, larger.offset, n)
            self._store.add(number, larger)
            ref = larger
        self._bytes[ref.offset + n : ref.offset + upto] = new
        self._counts[band] = upto // FRAGMENT.itemsize

    def _view(self, ref: BlockRef, n: int) -> NDArray[Any]:
        return self._bytes[ref.offset : ref.offset + n * FRAGMENT.itemsize].view(FRAGMENT)

    def count(self, bands: range) -> int:
        """Fragments in these bands."""
        return int(self._counts[bands.start : bands.stop].sum())

    def copy(self, bands: Iterable[int], out: NDArray[Any]) -> None:
        """Those of ascending bands, sorted by row."""
        at = 0
        for band in bands:
            n = int(self._counts[band])
            ref = self._store.find(self._first + band)
            if ref is None or n == 0:
                continue
            mine = self._view(ref, n)
            if self._sorted[band] != n:
                _clean.sort_rows(mine)
                self._sorted[band] = n
            # As bytes: numpy would copy field by field.
            out[at : at + n].view(np.uint8)[:] = mine.view(np.uint8)
            at += n
            self._store.gone_through(mine.nbytes)

    def save(self, out: StateWriter) -> int:
        """Put all fragments into a checkpoint, whatever their bands; how many there are."""
        for band in range(len(self._counts)):
            ref, n = self._store.find(self._first + band), int(self._counts[band])
            if ref is not None and n:
                self._store.save(out, ref.offset, n * FRAGMENT.itemsize)
        return int(self._counts.sum())

    @property
    def kept(self) -> BlockRef:
        """The table, for whoever closes; the blocks are the store's."""
        return self._table
