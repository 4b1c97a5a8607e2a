"""The runs of all tiles, which masks are made of: in the slab, and the oldest in a scratch file when room is short.

Eight bytes a run; a pixel is never here.  Runs are written once, by the scan, and read by measurements for as long as a source
may look at their rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from sextract.memory.slab import Slab, SlabFull
from sextract.memory.spill import Spill
from sextract.memory.tiles import TileManager
from sextract.records import BlockRef


@dataclass(slots=True)
class _Block:
    ref: BlockRef | None
    nbytes: int
    spilled: int = -1
    pins: int = 0


class RunStore:
    """Blocks of runs by tile index, least recently used first.

    Parameters
    ----------
    slab : Slab
    tiles : TileManager
        Whose idle tiles go first when room is needed.
    scratch_dir : str
        Folder of the scratch file, which is made when it is first needed.
    """

    def __init__(self, slab: Slab, tiles: TileManager, scratch_dir: str) -> None:
        self._slab, self._tiles, self._folder = slab, tiles, scratch_dir
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
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
        """Keep the runs of a tile."""
        self._blocks[index] = _Block(ref, ref.nbytes)

    def pin(self, indices: Iterable[int]) -> dict[int, int]:
        """Have the runs of these tiles in the slab until `release`: tile → byte offset.

        Raises
        ------
        SlabFull
            Nothing is pinned then.
        """
        out: dict[int, int] = {}
        try:
            for index in indices:
                block = self._blocks.get(index)
                if block is None:
                    continue
                if block.ref is None:
                    block.ref = self.bring_back(block.spilled, block.nbytes, "runs")
                block.pins += 1
                self._blocks.move_to_end(index)
                out[index] = block.ref.offset
        except SlabFull:
            self.release(out)
            raise
        return out

    def release(self, indices: Iterable[int]) -> None:
        """Give pinned runs back."""
        for index in indices:
            self._blocks[index].pins -= 1

    def _spill_one(self) -> bool:
        """Move the least recently used block that nobody reads to the scratch file."""
        for block in self._blocks.values():
            if block.ref is None or block.pins:
                continue
            if block.spilled < 0:
                block.spilled = self.put_away(block.ref)
            self._slab.free(block.ref)
            block.ref = None
            return True
        return False

    def close(self) -> None:
        """Let go of everything."""
        for block in self._blocks.values():
            if block.ref is not None:
                self._slab.free(block.ref)
        self._blocks.clear()
        if self._spill is not None:
            self._spill.close()
