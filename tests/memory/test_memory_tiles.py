"""Tiles: their life, and a state machine that drives ledger, slab and tiles together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from sextract.memory.slab import Slab, SlabFull
from sextract.memory.tiles import Lease, TileKey, TileManager
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


KEYS = st.tuples(st.just(0), st.integers(0, 3), st.integers(0, 3))
SIZES = st.one_of(st.integers(0, 70_000), st.integers(65_536, 400_000), st.integers(500_000, 1_100_000))


class Memory(RuleBasedStateMachine):
    """Any order of lending, caching, pinning and giving back, against a plain model."""

    blocks = Bundle("blocks")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.slab = Slab(MIB, headroom=plenty)
        self.tiles = TileManager(self.slab)
        self.lent: dict[BlockRef, int] = {}  # blocks of ours → the byte they are filled with
        self.marks: dict[BlockRef, int] = {}  # blocks of tiles → the same
        self.pinned: list[Lease] = []
        self.next = 0

    def fill(self, ref: BlockRef) -> int:
        self.next = self.next % 250 + 1
        self.slab.view(ref, np.uint8)[:] = self.next
        return self.next

    @rule(target=blocks, nbytes=SIZES)
    def alloc(self, nbytes: int) -> object:
        fits = self.slab.fits(nbytes)
        try:
            ref = self.slab.alloc(nbytes, "ours")
        except SlabFull as full:
            assert not fits
            assert full.free == self.slab.free_bytes
            return multiple()
        assert fits
        self.lent[ref] = self.fill(ref)
        return ref

    @rule(block=blocks)
    def free(self, block: BlockRef) -> None:
        if self.lent.pop(block, None) is not None:
            self.slab.free(block)
        else:
            self._refused(block)

    def _refused(self, block: BlockRef) -> None:
        if block not in self.marks:
            with pytest.raises(ValueError):
                self.slab.free(block)

    @rule(target=blocks, block=blocks, part=st.floats(0, 1))
    def resize_down(self, block: BlockRef, part: float) -> object:
        if block not in self.lent:
            return multiple()
        mark = self.lent.pop(block)
        kept = self.slab.resize_down(block, int(block.nbytes * part))
        self.lent[kept] = mark
        return kept

    @rule(key=KEYS, nbytes=SIZES)
    def reserve(self, key: TileKey, nbytes: int) -> None:
        known = set(self.tiles)
        if key in known:
            with pytest.raises(ValueError):
                self.tiles.reserve(key, nbytes)
            return
        try:
            ref = self.tiles.reserve(key, nbytes)
        except SlabFull:
            assert set(self.tiles) == known
            return
        self.marks[ref] = self.fill(ref)

    @rule(key=KEYS)
    def seal(self, key: TileKey) -> None:
        if key in set(self.tiles) and key not in self.tiles:
            self.tiles.seal(key)

    @rule(target=leases, keys=st.lists(KEYS, max_size=5))
    def pin(self, keys: list[TileKey]) -> Lease:
        lease = self.tiles.pin(keys)
        assert set(lease.refs) == {key for key in keys if key in self.tiles}
        self.pinned.append(lease)
        return lease

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        if lease in self.pinned:
            self.pinned.remove(lease)
            self.tiles.release(lease)
        else:
            with pytest.raises(ValueError):
                self.tiles.release(lease)

    @rule(key=KEYS)
    def discard(self, key: TileKey) -> None:
        self.tiles.discard(key)

    @rule(nbytes=SIZES)
    def make_room(self, nbytes: int) -> None:
        count = len(self.tiles)
        if self.tiles.make_room(nbytes):
            assert self.slab.fits(nbytes)
        else:
            assert len(self.tiles) == count
            assert not self.slab.fits(nbytes)

    @rule()
    def shrink(self) -> None:
        self.slab.shrink()

    @rule(nbytes=st.integers(0, 200_000))
    def lower_ceiling(self, nbytes: int) -> None:
        before = self.slab.ceiling
        assert self.slab.lower_ceiling(nbytes, floor=300_000) == before - self.slab.ceiling
        assert self.slab.ceiling >= min(before, 300_000)

    @rule(nbytes=st.integers(0, 500_000))
    def evict(self, nbytes: int) -> None:
        used = self.slab.used
        idle = [tile.ref.nbytes for tile in self.tiles._tiles.values() if tile.idle]
        freed = self.tiles.evict(nbytes)
        assert freed == sum(idle) or freed >= nbytes
        assert self.slab.used <= used - freed

    def _used_refs(self) -> list[BlockRef]:
        """Every block that somebody may look at."""
        pinned = {ref for lease in self.pinned for ref in lease.refs.values()}
        cached = {tile.ref for tile in self.tiles._tiles.values()}
        return sorted({*self.lent, *pinned, *cached})

    @invariant()
    def blocks_and_extents_tile_the_slab(self) -> None:
        spans = [(ref.offset, ref.offset + ref.nbytes) for ref in self._used_refs()]
        free = [(ref.offset, ref.offset + ref.nbytes) for ref in self.slab.free_extents()]
        for (_, end), (start, _) in itertools.pairwise(free):
            assert end < start, "free extents touch"
        everything = sorted([*spans, *free])
        for (_, end), (start, _) in itertools.pairwise(everything):
            assert end <= start, "two of them overlap"
        assert sum(end - start for start, end in free) == self.slab.capacity - self.slab.used
        assert self.slab.free_bytes == max(self.slab.ceiling - self.slab.used, 0)

    @invariant()
    def the_ledger_agrees(self) -> None:
        ledger = self.slab.ledger
        assert ledger.total == sum(account.now for account in ledger.accounts().values())
        assert ledger.total <= ledger.peak <= self.slab.capacity
        asked = sum(ref.nbytes for ref in self._used_refs())
        assert asked <= ledger.total <= asked + 4096 * len(self._used_refs())

    @invariant()
    def what_could_be_evicted_is_known(self) -> None:
        idle = [tile for tile in self.tiles._tiles.values() if tile.idle]
        assert self.tiles.idle_bytes == sum(tile.ref.nbytes for tile in idle)

    @invariant()
    def nobody_wrote_into_anothers_block(self) -> None:
        self.marks = {ref: mark for ref, mark in self.marks.items() if ref in set(self._used_refs())}
        for ref, mark in [*self.lent.items(), *self.marks.items()]:
            view = self.slab.view(ref, np.uint8)
            if ref.nbytes:
                assert view[0] == view[-1] == mark

    @invariant()
    def lent_pages_are_reserved(self) -> None:
        assert self.slab.used <= self.slab.allocated <= self.slab.capacity

    def teardown(self) -> None:
        for lease in self.pinned:
            self.tiles.release(lease)
        for key in list(self.tiles):
            self.tiles.discard(key)
        for ref in self.lent:
            self.slab.free(ref)
        assert self.slab.used == 0
        self.slab.shrink()
        assert self.slab.allocated == 0
        self.slab.close()


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
