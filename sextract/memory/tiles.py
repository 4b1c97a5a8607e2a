"""Tiles cached in the slab: which are held, who reads them, which goes first when room is needed.

The life of a tile: ``reserve`` (a block, before anyone computes) → filled by a worker → ``seal`` (from now on nobody
writes) → ``pin`` and ``release`` by readers, any number at a time → evicted, or ``discard``-ed.  A tile is a cache over
what can be computed again, so an evicted one is forgotten, not written.  What is in it, and how it is filled, is the
pipeline's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from sextract.memory.slab import Slab, SlabFull
from sextract.records import BlockRef

# Extension, row and column of the tile.
TileKey = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class _Tile:
    ref: BlockRef
    sealed: bool = False
    pins: int = 0
    doomed: bool = False

    @property
    def idle(self) -> bool:
        return self.sealed and self.pins == 0


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """Tiles that stay where they are until the lease is released: key → block."""

    refs: dict[TileKey, BlockRef]
    _tiles: tuple[_Tile, ...] = ()


class TileManager:
    """Tiles by key, least recently used first.

    Invariants: a key is held at most once; a tile that is reserved or pinned is never evicted, moved or freed; a doomed
    tile (discarded while pinned) is out of the table and freed by its last reader; a block belongs to one tile; nothing
    is evicted for a request that can't be met; ``idle_bytes`` is the sum of what could be evicted.
    """

    def __init__(self, slab: Slab, owner: str = "tiles") -> None:
        self._slab = slab
        self._owner = owner
        self._tiles: OrderedDict[TileKey, _Tile] = OrderedDict()
        self._leases: set[Lease] = set()
        self.evictions = 0
        self.idle_bytes = 0

    def __contains__(self, key: TileKey) -> bool:
        tile = self._tiles.get(key)
        return tile is not None and tile.sealed

    def __iter__(self) -> Iterator[TileKey]:
        """Keys of all tiles held, least recently used first."""
        return iter(self._tiles)

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def used(self) -> int:
        """Bytes of the slab that tiles take."""
        return self._slab.ledger.account(self._owner).now

    def reserve(self, key: TileKey, nbytes: int) -> BlockRef:
        """A block for a tile about to be filled, at the expense of older tiles.

        Raises
        ------
        SlabFull
            If no eviction makes enough room; nothing was evicted then.
        """
        if key in self._tiles:
            raise ValueError(f"tile {key} is held already")
        ref = self.alloc(nbytes, self._owner, low=True)
        self._tiles[key] = _Tile(ref)
        return ref

    def alloc(self, nbytes: int, owner: str, low: bool = False) -> BlockRef:
        """A block for anything else, at the expense of older tiles; whoever gets it frees it in the slab."""
        with suppress(SlabFull):
            return self._slab.alloc(nbytes, owner, low)
        if not self.make_room(nbytes, low):
            self._slab.note_refusal(nbytes, [tile.ref for tile in self._tiles.values() if tile.idle], low)
            raise SlabFull(nbytes, self._slab.free_bytes, self._slab.largest_free())
        return self._slab.alloc(nbytes, owner, low)

    def seal(self, key: TileKey) -> None:
        """The tile is complete; readers may have it, nobody writes it any more."""
        tile = self._tiles[key]
        if tile.sealed:
            raise ValueError(f"tile {key} is sealed already")
        tile.sealed = True
        self.idle_bytes += tile.ref.nbytes
        self._tiles.move_to_end(key)

    def pin(self, keys: Iterable[TileKey]) -> Lease:
        """Hold those of `keys` that are there and sealed, and make them the most recently used."""
        found = {key: tile for key in keys if (tile := self._tiles.get(key)) is not None and tile.sealed}
        for key, tile in found.items():
            self.idle_bytes -= tile.ref.nbytes if tile.idle else 0
            tile.pins += 1
            self._tiles.move_to_end(key)
        lease = Lease({key: tile.ref for key, tile in found.items()}, tuple(found.values()))
        self._leases.add(lease)
        return lease

    def release(self, lease: Lease) -> None:
        """Give a lease back; ValueError if it was given back before."""
        if lease not in self._leases:
            raise ValueError("a lease is released twice")
        self._leases.remove(lease)
        for tile in lease._tiles:
            tile.pins -= 1
            if tile.doomed and tile.pins == 0:
                self._slab.free(tile.ref)
            elif tile.idle:
                self.idle_bytes += tile.ref.nbytes

    def discard(self, key: TileKey) -> None:
        """Forget a tile, sealed or not, if it is held; its block is freed when its last reader is done.

        An unsealed one must have no writer any more.
        """
        tile = self._tiles.pop(key, None)
        if tile is None:
            return
        self.idle_bytes -= tile.ref.nbytes if tile.idle else 0
        if tile.pins:
            tile.doomed = True
        else:
            self._slab.free(tile.ref)

    def clear(self) -> None:
        """Forget all tiles; nobody may read or write one."""
        for key in list(self._tiles):
            self.discard(key)

    def evict(self, nbytes: int) -> int:
        """Forget idle tiles, least recently used first, until that many bytes are free of them; how many were."""
        freed = 0
        for key in [key for key, tile in self._tiles.items() if tile.idle]:
            if freed >= nbytes:
                break
            freed += self._forget(key)
        return freed

    def forget(self, key: TileKey) -> bool:
        """Evict a tile if it is held and idle; whether it was."""
        tile = self._tiles.get(key)
        if tile is None or not tile.idle:
            return False
        self._forget(key)
        return True

    def make_room(self, nbytes: int, low: bool = False) -> bool:
        """Evict idle tiles, least recently used first, until `nbytes` fit; False, and none evicted, if they can't."""
        if self._slab.fits(nbytes, low):
            return True
        idle = [key for key, tile in self._tiles.items() if tile.idle]
        if low and idle and self._slab.could_replace(self._tiles[idle[0]].ref, nbytes):
            # Most often: a tile for a tile.
            self._forget(idle[0])
            return True
        # Those wholly where the block mustn't lie leave it no place, only bytes, if they lack under a lowered ceiling:
        # they go last.
        floor = 0 if low else self._slab.low
        idle.sort(key=lambda key: sum(self._tiles[key].ref) <= floor)
        if not self._slab.would_fit(nbytes, [self._tiles[key].ref for key in idle], low):
            return False
        for key in idle:
            self._forget(key)
            if self._slab.fits(nbytes, low):
                return True
        return self._slab.fits(nbytes, low)

    def _forget(self, key: TileKey) -> int:
        """Evict an idle tile; its bytes."""
        ref = self._tiles.pop(key).ref
        self._slab.free(ref)
        self.evictions += 1
        self.idle_bytes -= ref.nbytes
        return ref.nbytes

    def fragmentation(self, nbytes: int) -> float:
        """Fraction of what is free or could be evicted that blocks of one size can't use; see `Slab.fragmentation`."""
        return self._slab.fragmentation(nbytes, [tile.ref for tile in self._tiles.values() if tile.idle])
