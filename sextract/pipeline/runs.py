"""What masks are made of: runs of all tiles, and fragments that CLEAN freed; the oldest lie on disk when room is short.

Eight bytes a run, twelve a fragment; a pixel is never here.  Runs are written once, by the scan, and read by measurements
for as long as a source may look at their rows.  A block that has moved behind the slab (``memory/overflow.py``) is read where
it lies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.memory.slab import Slab, SlabFull
from sextract.memory.spill import scratch_folder
from sextract.memory.tiles import TileManager
from sextract.records import FRAGMENT, BlockRef


@dataclass(slots=True)
class _Block:
    ref: BlockRef
    pins: int = 0
    behind: bool = False


class RunStore:
    """Blocks by number, least recently used first.

    Parameters
    ----------
    slab : Slab
    tiles : TileManager
        Whose idle tiles go first when room is needed.
    scratch_dir : str
        Folder that was chosen for scratch, for messages.
    """

    def __init__(self, slab: Slab, tiles: TileManager, scratch_dir: str) -> None:
        self._slab, self._tiles, self._folder = slab, tiles, scratch_dir
        # Those in the slab, and those behind it.
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._behind: dict[int, _Block] = {}

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
        self._copy(ref, small, nbytes)
        return small

    def put_away(self, ref: BlockRef) -> BlockRef:
        """Move a block that only waits behind the slab; its new place, or the old one if there is none behind."""
        moved = self._slab.alloc_behind(ref.nbytes)
        if moved is None:
            return ref
        self._copy(ref, moved, ref.nbytes)
        self._slab.free(ref)
        return moved

    def _copy(self, old: BlockRef, new: BlockRef, nbytes: int) -> None:
        self._slab.bytes_view(new.offset, nbytes)[:] = self._slab.bytes_view(old.offset, nbytes)

    def add(self, number: int, ref: BlockRef) -> None:
        """Keep a block, in place of what was kept under that number."""
        self.drop(number)
        self._blocks[number] = _Block(ref)

    def drop(self, number: int) -> None:
        """Free a block, if there is one."""
        block = self._blocks.pop(number, None) or self._behind.pop(number, None)
        if block is not None:
            self._slab.free(block.ref)

    def find(self, number: int) -> BlockRef | None:
        """Where a block is, until the next one is asked for; None if there is none."""
        block = self._blocks.get(number) or self._behind.get(number)
        return None if block is None else block.ref

    def pin(self, numbers: Iterable[int]) -> dict[int, int]:
        """Have these blocks stay where they are until `release`: number → byte offset."""
        out: dict[int, int] = {}
        for number in numbers:
            block = self._blocks.get(number)
            if block is not None:
                self._blocks.move_to_end(number)
            else:
                block = self._behind.get(number)
            if block is not None:
                block.pins += 1
                out[number] = block.ref.offset
        return out

    def release(self, numbers: Iterable[int]) -> None:
        """Give pinned blocks back."""
        for number in numbers:
            (self._blocks.get(number) or self._behind[number]).pins -= 1

    def _move_one(self) -> bool:
        """Move the least recently used block that nobody reads behind the slab."""
        for number, block in self._blocks.items():
            if not block.pins:
                moved = self.put_away(block.ref)
                if moved == block.ref:
                    return False
                block.ref = moved
                self._behind[number] = self._blocks.pop(number)
                return True
        return False

    def close(self) -> None:
        """Let go of everything."""
        for number in [*self._blocks, *self._behind]:
            self.drop(number)


class Freed:
    """Fragments that CLEAN freed, by band (a row of tiles), those of a band sorted by row when they are read.

    Parameters
    ----------
    store : RunStore
        Where the blocks are kept, under numbers below 0.
    slab_bytes : uint8 array
        The whole range of offsets.
    band_rows : int
    """

    def __init__(self, store: RunStore, slab_bytes: NDArray[np.uint8], band_rows: int) -> None:
        self._store, self._bytes, self._rows = store, slab_bytes, band_rows
        self._counts: dict[int, int] = {}
        self._unsorted: set[int] = set()

    def add(self, fragments: NDArray[Any]) -> None:
        """Add fragments (FRAGMENT array) in any order."""
        bands = fragments["y"] // self._rows
        for band in np.unique(bands).tolist():
            self._append(band, fragments[bands == band])

    def _append(self, band: int, new: NDArray[Any]) -> None:
        n = self._counts.get(band, 0)
        ref = self._store.find(-1 - band)
        if ref is None or (n + len(new)) * FRAGMENT.itemsize > ref.nbytes:
            larger = self._store.alloc_somewhere(max(2 * n, n + len(new), 16) * FRAGMENT.itemsize, "clean")
            # Room for it may have been made by moving the old one.
            old = self._store.find(-1 - band)
            if old is not None:
                self._view(larger, n)[:] = self._view(old, n)
            self._store.add(-1 - band, larger)
            ref = larger
        self._view(ref, n + len(new))[n:] = new
        self._counts[band] = n + len(new)
        self._unsorted.add(band)

    def _view(self, ref: BlockRef, n: int) -> NDArray[Any]:
        return self._bytes[ref.offset : ref.offset + n * FRAGMENT.itemsize].view(FRAGMENT)

    def count(self, bands: Iterable[int]) -> int:
        """Fragments in these bands."""
        return sum(self._counts.get(band, 0) for band in bands)

    def copy(self, bands: Iterable[int], out: NDArray[Any]) -> None:
        """Those of ascending bands, sorted by row."""
        at = 0
        for band in bands:
            ref = self._store.find(-1 - band)
            if ref is None:
                continue
            mine = self._view(ref, self._counts[band])
            if band in self._unsorted:
                mine[:] = mine[np.argsort(mine["y"], kind="stable")]
                self._unsorted.discard(band)
            out[at : at + len(mine)] = mine
            at += len(mine)
