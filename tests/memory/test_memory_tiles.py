"""Tiles: their life.  Random sequences of it are ``test_memory_machine.py``'s."""

from __future__ import annotations

import pytest

from sextract.memory.slab import Slab, SlabFull
from sextract.memory.tiles import TileKey, TileManager
from sextract.records import BlockRef

MIB = 1 << 20


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


def held(tiles: TileManager, slab: Slab, key: TileKey, nbytes: int = MIB) -> BlockRef:
    """A sealed tile."""
    ref = tiles.reserve(key, nbytes)
    tiles.seal(key)
    return ref


def test_oldest_goes_first_and_a_hit_makes_young() -> None:
    slab = Slab(3 * MIB, headroom=plenty)
    tiles = TileManager(slab)
    for x in range(3):
        held(tiles, slab, (0, 0, x))
    tiles.release(tiles.pin([(0, 0, 0)]))
    held(tiles, slab, (0, 0, 3))
    assert list(tiles) == [(0, 0, 2), (0, 0, 0), (0, 0, 3)]
    assert tiles.evictions == 1


def test_reserved_and_pinned_tiles_stay() -> None:
    slab = Slab(2 * MIB, headroom=plenty)
    tiles = TileManager(slab)
    tiles.reserve((0, 0, 0), MIB)
    held(tiles, slab, (0, 0, 1))
    lease = tiles.pin([(0, 0, 0), (0, 0, 1), (0, 0, 2)])
    assert list(lease.refs) == [(0, 0, 1)]
    assert not tiles.make_room(100)
    with pytest.raises(SlabFull):
        tiles.reserve((0, 0, 2), MIB)
    tiles.release(lease)
    assert tiles.make_room(100)
    with pytest.raises(ValueError):
        tiles.release(lease)
    assert (0, 0, 0) not in tiles
    assert len(tiles) == 1


def test_nothing_is_evicted_in_vain() -> None:
    slab = Slab(3 * MIB, headroom=plenty)
    tiles = TileManager(slab)
    held(tiles, slab, (0, 0, 0))
    held(tiles, slab, (0, 0, 1))
    held(tiles, slab, (0, 0, 2))
    lease = tiles.pin([(0, 0, 1)])
    assert not tiles.make_room(2 * MIB)
    assert len(tiles) == 3
    tiles.release(lease)
    assert tiles.make_room(2 * MIB)


def test_a_small_block_that_may_lie_low_begins_on_a_page_or_nobody_goes() -> None:
    slab = Slab(MIB, headroom=plenty)
    tiles = TileManager(slab)
    slab.alloc(64, "x", low=True)
    held(tiles, slab, (0, 0, 0), 8192)
    slab.alloc(slab.largest_free(), "x", low=True)
    # With the tile, 12224 bytes would be free in one piece, of which 64 are before the page.
    assert not tiles.make_room(12_000, low=True)
    assert (0, 0, 0) in tiles
    assert tiles.make_room(12_000)
    slab.close()


def test_where_bytes_lack_tiles_go_that_leave_no_place() -> None:
    slab = Slab(6 * MIB, headroom=plenty)
    slab.low = 3 * MIB
    tiles = TileManager(slab)
    for x in range(4):
        held(tiles, slab, (0, 0, x))
    # Only who reaches above `low` leaves a place.
    assert tiles.make_room(3 * MIB)
    assert list(tiles) == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    slab.lower_ceiling(4 * MIB)
    assert tiles.make_room(MIB)
    assert list(tiles) == [(0, 0, 2)]
    slab.close()


def test_a_tile_discarded_under_a_reader_lives_until_he_is_done() -> None:
    slab = Slab(2 * MIB, headroom=plenty)
    tiles = TileManager(slab)
    held(tiles, slab, (0, 0, 0))
    first, second = tiles.pin([(0, 0, 0)]), tiles.pin([(0, 0, 0)])
    tiles.discard((0, 0, 0))
    assert (0, 0, 0) not in tiles
    assert held(tiles, slab, (0, 0, 0)) != first.refs[0, 0, 0]
    tiles.release(first)
    assert slab.used == 2 * MIB
    tiles.release(second)
    assert slab.used == MIB


def test_misuse_is_refused() -> None:
    slab = Slab(2 * MIB, headroom=plenty)
    tiles = TileManager(slab)
    held(tiles, slab, (0, 0, 0))
    with pytest.raises(ValueError):
        tiles.reserve((0, 0, 0), MIB)
    with pytest.raises(ValueError):
        tiles.seal((0, 0, 0))
    with pytest.raises(KeyError):
        tiles.seal((9, 9, 9))
    tiles.discard((9, 9, 9))


def test_what_could_be_evicted_is_known() -> None:
    slab = Slab(4 * MIB, headroom=plenty)
    tiles = TileManager(slab)
    keys = [(0, 0, k) for k in range(4)]
    tiles.reserve(keys[0], MIB)
    assert tiles.idle_bytes == 0
    tiles.seal(keys[0])
    for key in keys[1:]:
        held(tiles, slab, key)
    assert tiles.idle_bytes == 4 * MIB
    first, second = tiles.pin(keys[:2]), tiles.pin(keys[1:3])
    assert tiles.idle_bytes == MIB
    tiles.release(first)
    assert tiles.idle_bytes == 2 * MIB
    # Doomed while it is read: it is freed, and never idle again.
    tiles.discard(keys[1])
    tiles.release(second)
    assert tiles.idle_bytes == 3 * MIB
    tiles.discard(keys[2])
    assert tiles.idle_bytes == 2 * MIB
    assert tiles.evict(1) == MIB
    assert tiles.idle_bytes == MIB
    assert tiles.make_room(4 * MIB)
    assert tiles.idle_bytes == 0
    slab.close()
