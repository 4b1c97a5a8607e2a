"""The runs of all tiles, which masks are made of: in the slab, and the oldest in a scratch file when room is short.

Eight bytes a run; a pixel is never here.  Runs are written once, by the scan, and read by measurements for as long as a source
may look at their rows.
"""

from __future__ import annotations

import numpy as np

from sextract.memory.slab import Slab, SlabFull
from sextract.memory.spill import Spill
from sextract.memory.tiles import TileManager
from sextract.records import BlockRef

# Of the table, for each tile: offset and bytes of its runs, place in the scratch file, pins, when it was last used.
TILE_BYTES = 5 * 8

# Last use of what can't be put away: it isn't there, or someone reads it.
_NEVER = 1 << 62


class RunStore:
    """Blocks of runs by tile index; the least recently used is put away first.

    Parameters
    ----------
    slab : Slab
    tiles : TileManager
        Whose idle tiles go first when room is needed.
    scratch_dir : str
        Folder of the scratch file, which is made when it is first needed.
    ntiles : int
        How many tiles there will be.

    Attributes
    ----------
    offsets : BlockRef
        An int64 per tile, for workers: the byte offset of its runs in the slab, −1 if they aren't there.
    """

    def __init__(self, slab: Slab, tiles: TileManager, scratch_dir: str, ntiles: int) -> None:
        self._slab, self._tiles, self._folder = slab, tiles, scratch_dir
        self._table = tiles.alloc(TILE_BYTES * ntiles, "runs")
        table = slab.view(self._table, np.int64, (5, ntiles))
        table[:4], table[4] = -1, _NEVER
        self._offset, self._nbytes, self._spilled, self._pins, self._turn = table
        self.offsets = BlockRef(self._table.offset, 8 * ntiles)
        self._count = self._clock = 0
        self._spill: Spill | None = None

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
                if not self._spill_one():
                    raise

    def alloc_somewhere(self, nbytes: int, owner: str) -> BlockRef:
        """The same for what can't wait: where there is no room, behind the slab.

        Raises
        ------
        SlabFull
            There is no room there either.
        OutputError
            The disk is full.
        """
        try:
            return self.alloc(nbytes, owner)
        except SlabFull:
            ref = self._slab.alloc_behind(nbytes)
            if ref is None:
                raise
            return ref

    def settle(self, ref: BlockRef, nbytes: int, owner: str) -> BlockRef:
        """The first bytes of a block in one of their size, which lies where it doesn't cut the room for large ones.

        The block itself is still the caller's to free.
        """
        small = self.alloc_somewhere(nbytes, owner)
        self._slab.bytes_view(small.offset, nbytes)[:] = self._slab.bytes_view(ref.offset, nbytes)
        return small

    def put_away(self, ref: BlockRef) -> int:
        """Copy a block to the scratch file, for `bring_back`; the block is the caller's to free."""
        return self._scratch().put(self._slab.bytes_view(ref.offset, ref.nbytes))[0]

    def bring_back(self, place: int, nbytes: int, owner: str) -> BlockRef:
        """A block with what was put away."""
        ref = self.alloc_somewhere(nbytes, owner)
        self._scratch().get(place, nbytes, self._slab.bytes_view(ref.offset, nbytes))
        return ref

    def _scratch(self) -> Spill:
        if self._spill is None:
            self._spill = Spill(self._folder)
        return self._spill

    def add(self, index: int, ref: BlockRef) -> None:
        """Keep the runs of the next tile."""
        if index != self._count:
            raise ValueError(f"runs of tile {index} come before those of tile {self._count}")
        self._count += 1
        self._offset[index], self._nbytes[index], self._pins[index] = ref.offset, ref.nbytes, 0
        self._used(index)

    def _used(self, index: int) -> None:
        self._clock += 1
        self._turn[index] = self._clock

    def pin(self, first: int, last: int) -> range:
        """Have the runs of the tiles first <= index < last in the slab until `release`; those that there are.

        Raises
        ------
        SlabFull
            Nothing is pinned then.
        """
        last = min(last, self._count)
        for index in range(first, last):
            if self._offset[index] < 0:
                try:
                    ref = self.bring_back(int(self._spilled[index]), int(self._nbytes[index]), "runs")
                except SlabFull:
                    self.release(range(first, index))
                    raise
                self._offset[index] = ref.offset
            self._pins[index] += 1
            self._turn[index] = _NEVER
        return range(first, last)

    def release(self, pinned: range) -> None:
        """Give pinned runs back."""
        for index in pinned:
            self._pins[index] -= 1
            if self._pins[index] == 0:
                self._used(index)

    def _spill_one(self) -> bool:
        """Move the least recently used block that nobody reads to the scratch file."""
        index = int(self._turn.argmin())
        if self._turn[index] == _NEVER:
            return False
        ref = BlockRef(int(self._offset[index]), int(self._nbytes[index]))
        if self._spilled[index] < 0:
            self._spilled[index] = self.put_away(ref)
        self._slab.free(ref)
        self._offset[index], self._turn[index] = -1, _NEVER
        return True

    def close(self) -> None:
        """Let go of everything."""
        for index in range(self._count):
            if self._offset[index] >= 0:
                self._slab.free(BlockRef(int(self._offset[index]), int(self._nbytes[index])))
        self._count = 0
        self._slab.free(self._table)
        if self._spill is not None:
            self._spill.close()
