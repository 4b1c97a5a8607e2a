"""Budget, slab, tiles and the store of runs driven together through random sequences, against a model in plain Python.

The model knows who holds what and who was used when, and works out from that alone whether a request can be met, who has to
go for it, and which granules of memory must be there.  After each step it is compared with what the real ones say.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sextract.memory.budget import GRANULE, PAGE_TABLE_SHARE, Budget
from sextract.memory.slab import Slab, SlabFull
from sextract.memory.tiles import Lease, TileKey, TileManager
from sextract.pipeline.runs import RunStore
from sextract.records import BlockRef

KIB, MIB = 1 << 10, 1 << 20
LARGE = 64 * KIB
KEYS = st.tuples(st.just(0), st.integers(0, 1), st.integers(0, 2))
SIZES = st.one_of(st.integers(0, 70_000), st.integers(LARGE, 200_000), st.integers(LARGE, 700_000))
TILES = st.sampled_from([150_000, 150_000, 70_000, 10_000, 220_000])
OWNERS = st.sampled_from(["rows", "sources", "giant"])
PICK = st.integers(0, 1000)


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


def span(ref: BlockRef) -> tuple[int, int]:
    """First and last byte that a block takes: whole cache lines, whole pages from 64 KiB on."""
    step = 4096 if ref.nbytes >= LARGE else 64
    return ref.offset, ref.offset + -(-max(ref.nbytes, 1) // step) * step


@dataclass
class Tile:
    """What the model knows of a tile."""

    ref: BlockRef
    mark: int
    sealed: bool = False
    pins: int = 0

    @property
    def idle(self) -> bool:
        return self.sealed and not self.pins


@dataclass
class Runs:
    """What the model knows of the runs of a tile."""

    nbytes: int
    mark: int
    pins: int = 0


@dataclass
class Pinned:
    """A lease, and the tiles under it, which may be out of the table by now."""

    lease: Lease
    tiles: list[Tile] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Any order of reserving, filling, reading and giving back."""

    @initialize(processes=st.integers(1, 6), room=st.integers(500, 1100))
    def start(self, processes: int, room: int) -> None:
        self.budget = Budget(10 * MIB + room * KIB, 10 * MIB - processes * 110_000, processes, 100_000, 10_000)
        # As a run does it: mapped before the base is known, cut to what is left then.
        self.slab = Slab(self.budget.limit, headroom=plenty)
        self.slab.restrict(self.budget.slab)
        self.ceiling = self.budget.slab
        self.manager = TileManager(self.slab)
        self.store = RunStore(self.slab, self.manager, "")
        self.tiles: dict[TileKey, Tile] = {}  # least recently used first
        self.doomed: list[Tile] = []
        self.leases: list[Pinned] = []
        self.blocks: dict[BlockRef, tuple[int, str]] = {}  # mark, owner
        self.runs: dict[int, Runs] = {}  # least recently used first
        self.away: list[tuple[int, int, int]] = []  # place in the scratch file, bytes, mark
        self.pinned_runs: list[dict[int, int]] = []
        self.reads: Counter[TileKey] = Counter()
        self.lost: Counter[TileKey] = Counter()
        self.last = 0
        # From an empty slab it would take long until room is short.
        for y, x in itertools.product(range(2), range(3)):
            if self.can_hold(120_000):
                self.read([(0, y, x)], 120_000, 1)
        self.add_runs([0, 1, 2, 3], 50_000)

    # What the model works out

    def resident(self) -> dict[int, BlockRef]:
        """Runs that the store has in the slab: the one thing that is taken from it, and checked by `ledger`."""
        return {index: block.ref for index, block in self.store._blocks.items() if block.ref is not None}

    def held(self) -> Iterator[tuple[BlockRef, int, str]]:
        """Every block that is lent out, its mark and its owner."""
        for tile in {id(t): t for t in [*self.tiles.values(), *self.doomed]}.values():
            yield tile.ref, tile.mark, "tiles"
        for ref, (mark, owner) in self.blocks.items():
            yield ref, mark, owner
        for index, ref in self.resident().items():
            yield ref, self.runs[index].mark, "runs"

    def can_hold(self, nbytes: int, without: Iterable[BlockRef] = ()) -> bool:
        """Whether a block has a place if those others go."""
        gone = set(without)
        taken = sorted(span(ref) for ref, _, _ in self.held() if ref not in gone)
        first, last = span(BlockRef(0, nbytes))
        size = last - first
        if sum(end - start for start, end in taken) + size > self.ceiling:
            return False
        gaps = zip([0, *(end for _, end in taken)], [*(start for start, _ in taken), self.slab.capacity], strict=True)
        step = 4096 if nbytes >= LARGE else 64
        return any(-(-start // step) * step + size <= end for start, end in gaps)

    def idle(self) -> list[TileKey]:
        return [key for key, tile in self.tiles.items() if tile.idle]

    def mark(self, ref: BlockRef) -> int:
        """Fill a block with a pattern of its own."""
        self.last = self.last % 251 + 1
        self.slab.view(ref, np.uint8)[:] = self.last
        return self.last

    def evicted(self, before: list[TileKey], needed: int | None) -> None:
        """Check who had to go, now that a request for `needed` bytes was met, and forget them."""
        gone = [key for key in before if key not in set(self.manager)]
        assert gone == before[: len(gone)], "somebody else than the least recently used had to go"
        if gone and needed is not None:
            spared = [self.tiles[key].ref for key in gone[:-1]]
            assert not self.can_hold(needed, spared), "one was evicted in vain"
        for key in gone:
            self.lost[key] += 1
            del self.tiles[key]

    # Blocks

    @rule(nbytes=SIZES, owner=OWNERS, expense=st.sampled_from(["nobody", "tiles", "runs"]))
    def alloc(self, nbytes: int, owner: str, expense: str) -> None:
        {"nobody": self._from_slab, "tiles": self._from_tiles, "runs": self._from_runs}[expense](nbytes, owner)

    def _from_slab(self, nbytes: int, owner: str) -> None:
        possible = self.can_hold(nbytes)
        assert self.slab.fits(nbytes) == possible
        try:
            ref = self.slab.alloc(nbytes, owner)
        except SlabFull as full:
            assert not possible
            assert full.free == self.slab.free_bytes
            return
        assert possible
        self.blocks[ref] = self.mark(ref), owner

    def _from_tiles(self, nbytes: int, owner: str) -> None:
        idle = self.idle()
        possible = self.can_hold(nbytes, [self.tiles[key].ref for key in idle])
        try:
            ref = self.manager.alloc(nbytes, owner)
        except SlabFull:
            assert not possible
            assert self.idle() == [key for key in self.manager if key in set(idle)], "a refusal cost a tile"
            return
        assert possible
        self.evicted(idle, nbytes)
        self.blocks[ref] = self.mark(ref), owner

    def _from_runs(self, nbytes: int, owner: str) -> None:
        nbytes = max(nbytes, 64)
        idle, resident = self.idle(), self.resident()
        free = [index for index in self.runs if index in resident and not self.runs[index].pins]
        refs = [*(self.tiles[key].ref for key in idle), *(resident[index] for index in free)]
        possible = self.can_hold(nbytes, refs)
        with_tiles_alone = self.can_hold(nbytes, refs[: len(idle)])
        try:
            ref = self.store.alloc(nbytes, owner)
        except SlabFull:
            assert not possible, "no deadlock: what can be given up makes room"
            assert len(self.idle()) == len(idle)
            return
        assert possible
        spilled = [index for index in free if index not in self.resident()]
        assert spilled == free[: len(spilled)], "not the runs that were used least recently"
        assert not (spilled and with_tiles_alone), "runs went to the disk in vain"
        self.evicted(idle, None if spilled else nbytes)
        self.blocks[ref] = self.mark(ref), owner

    @rule(nbytes=st.integers(LARGE, 500_000))
    def squeeze(self, nbytes: int) -> None:
        """Take about all there is, whoever has to go."""
        while nbytes > 8192:
            self._from_runs(nbytes, "sources")
            nbytes //= 2

    @precondition(lambda self: self.blocks)
    @rule(pick=PICK)
    def free(self, pick: int) -> None:
        ref = list(self.blocks)[pick % len(self.blocks)]
        del self.blocks[ref]
        self.slab.free(ref)
        with pytest.raises(ValueError, match="isn't lent out"):
            self.slab.free(ref)

    @rule()
    def free_all(self) -> None:
        for ref in self.blocks:
            self.slab.free(ref)
        self.blocks.clear()

    @precondition(lambda self: self.blocks)
    @rule(pick=PICK, part=st.floats(0, 1))
    def resize_down(self, pick: int, part: float) -> None:
        ref = list(self.blocks)[pick % len(self.blocks)]
        held = self.blocks.pop(ref)
        self.blocks[self.slab.resize_down(ref, int(ref.nbytes * part))] = held

    # Tiles

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4, unique=True), nbytes=TILES, done=st.integers(0, 3))
    def read(self, keys: list[TileKey], nbytes: int, done: int) -> None:
        for key in keys:
            self._reserve(key, nbytes)
            if done and key in self.tiles and not self.tiles[key].sealed:
                self._seal(key)

    def _reserve(self, key: TileKey, nbytes: int) -> None:
        if key in self.tiles:
            with pytest.raises(ValueError, match="held already"):
                self.manager.reserve(key, nbytes)
            return
        idle = self.idle()
        possible = self.can_hold(nbytes, [self.tiles[each].ref for each in idle])
        try:
            ref = self.manager.reserve(key, nbytes)
        except SlabFull:
            assert not possible
            assert set(self.manager) == set(self.tiles), "a refusal cost a tile"
            return
        assert possible
        self.evicted(idle, nbytes)
        self.reads[key] += 1
        self.tiles[key] = Tile(ref, self.mark(ref))

    def _seal(self, key: TileKey) -> None:
        self.manager.seal(key)
        self.tiles[key].sealed = True
        self.tiles[key] = self.tiles.pop(key)
        with pytest.raises(ValueError, match="sealed already"):
            self.manager.seal(key)

    @precondition(lambda self: any(not tile.sealed for tile in self.tiles.values()))
    @rule(pick=PICK)
    def seal(self, pick: int) -> None:
        filling = [key for key, tile in self.tiles.items() if not tile.sealed]
        self._seal(filling[pick % len(filling)])

    @rule(keys=st.lists(KEYS, max_size=5, unique=True))
    def pin(self, keys: list[TileKey]) -> None:
        lease = self.manager.pin(keys)
        there = [key for key in keys if key in self.tiles and self.tiles[key].sealed]
        assert lease.refs == {key: self.tiles[key].ref for key in there}
        for key in there:
            self.tiles[key].pins += 1
            self.tiles[key] = self.tiles.pop(key)
        self.leases.append(Pinned(lease, [self.tiles[key] for key in there]))

    @precondition(lambda self: self.leases)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        pinned = self.leases.pop(pick % len(self.leases))
        self.manager.release(pinned.lease)
        for tile in pinned.tiles:
            tile.pins -= 1
        self.doomed = [tile for tile in self.doomed if tile.pins]
        with pytest.raises(ValueError, match="twice"):
            self.manager.release(pinned.lease)

    @rule(key=KEYS)
    def discard(self, key: TileKey) -> None:
        self.manager.discard(key)
        tile = self.tiles.pop(key, None)
        if tile is not None:
            self.lost[key] += 1
            if tile.pins:
                self.doomed.append(tile)

    @rule(nbytes=SIZES)
    def make_room(self, nbytes: int) -> None:
        idle = self.idle()
        possible = self.can_hold(nbytes, [self.tiles[key].ref for key in idle])
        assert self.manager.make_room(nbytes) == possible
        self.evicted(idle, nbytes)
        assert self.slab.fits(nbytes) == possible

    @rule(nbytes=st.integers(0, 700_000))
    def evict(self, nbytes: int) -> None:
        idle = self.idle()
        sizes = [self.tiles[key].ref.nbytes for key in idle]
        freed = self.manager.evict(nbytes)
        enough = next((k for k, total in enumerate(itertools.accumulate(sizes, initial=0)) if total >= nbytes), len(sizes))
        assert freed == sum(sizes[:enough])
        self.evicted(idle, None)
        assert self.idle() == idle[enough:]

    # Runs

    @rule(indices=st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True), nbytes=st.integers(64, 120_000))
    def add_runs(self, indices: list[int], nbytes: int) -> None:
        for index in indices:
            if index not in self.runs and self.can_hold(nbytes):
                ref = self.slab.alloc(nbytes, "runs")
                self.runs[index] = Runs(nbytes, self.mark(ref))
                self.store.add(index, ref)

    @rule(indices=st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True))
    def pin_runs(self, indices: list[int]) -> None:
        known = [index for index in indices if index in self.runs]
        idle = self.idle()
        pins = {index: each.pins for index, each in self.runs.items()}
        try:
            places = self.store.pin(indices)
        except SlabFull:
            # All or nothing: those that came back lie there, but nobody keeps them.
            assert {index: block.pins for index, block in self.store._blocks.items()} == pins
            resident = self.resident()
            failed = next(index for index in known if index not in resident)
            before = known[: known.index(failed)]
            free = [resident[index] for index in resident if not pins[index] and index not in before]
            self.evicted(idle, None)
            assert not self.can_hold(self.runs[failed].nbytes, [*(self.tiles[key].ref for key in self.idle()), *free])
            for index in before:
                self.runs[index] = self.runs.pop(index)
            return
        assert list(places) == known
        self.evicted(idle, None)
        resident = self.resident()
        for index in known:
            assert resident[index].offset == places[index]
            self.runs[index].pins += 1
            self.runs[index] = self.runs.pop(index)
        self.pinned_runs.append(places)

    @precondition(lambda self: self.pinned_runs)
    @rule(pick=PICK)
    def release_runs(self, pick: int) -> None:
        places = self.pinned_runs.pop(pick % len(self.pinned_runs))
        resident = self.resident()
        assert places == {index: resident[index].offset for index in places}, "runs moved under a reader"
        self.store.release(places)
        for index in places:
            self.runs[index].pins -= 1

    @precondition(lambda self: self.blocks)
    @rule(pick=PICK)
    def put_away(self, pick: int) -> None:
        ref = list(self.blocks)[pick % len(self.blocks)]
        if ref.nbytes < 64:
            return
        mark, _ = self.blocks.pop(ref)
        self.away.append((self.store.put_away(ref), ref.nbytes, mark))
        self.slab.free(ref)

    @precondition(lambda self: self.away)
    @rule(pick=PICK)
    def bring_back(self, pick: int) -> None:
        place, nbytes, mark = self.away[pick % len(self.away)]
        if not self.can_hold(nbytes):
            return
        ref = self.store.bring_back(place, nbytes, "rows")
        self.away.remove((place, nbytes, mark))
        self.blocks[ref] = mark, "rows"

    @precondition(lambda self: not self.pinned_runs)
    @rule(really=st.integers(0, 3))
    def close_the_store(self, really: int) -> None:
        if really:
            return
        self.store.close()
        self.runs.clear()
        self.away.clear()
        self.store = RunStore(self.slab, self.manager, "")

    # The size of it all

    @rule(nbytes=st.integers(0, 150_000))
    def lower_ceiling(self, nbytes: int) -> None:
        lowered = self.slab.lower_ceiling(nbytes, floor=400_000)
        assert lowered == max(min(nbytes, self.ceiling - 400_000), 0)
        self.ceiling -= lowered
        assert self.slab.allocated == self.granules() * GRANULE, "what is free was kept"

    @rule()
    def shrink(self) -> None:
        before = self.slab.allocated
        assert before - self.slab.shrink() == self.slab.allocated == self.granules() * GRANULE

    @rule(part=st.floats(0.8, 1))
    def restrict(self, part: float) -> None:
        capacity = int(self.slab.capacity * part) // GRANULE * GRANULE
        if capacity == self.slab.capacity:
            return
        if any(span(ref)[1] > capacity for ref, _, _ in self.held()) or not capacity:
            with pytest.raises(ValueError):
                self.slab.restrict(capacity)
        else:
            self.slab.restrict(capacity)
            self.ceiling = capacity

    def granules(self) -> int:
        """How many granules of memory the blocks touch."""
        spans = [span(ref) for ref, _, _ in self.held()]
        return len({g for start, end in spans for g in range(start // GRANULE, -(-end // GRANULE))})

    @invariant()
    def the_limit_holds(self) -> None:
        budget, slab = self.budget, self.slab
        assert slab.used <= slab.capacity == slab.ledger.capacity
        assert slab.used <= slab.ledger.peak <= budget.slab
        tables = budget.processes * slab.allocated // PAGE_TABLE_SHARE
        assert budget.fixed + slab.allocated + tables <= budget.limit
        # Under a lowered ceiling what is free isn't kept beyond it.
        assert slab.allocated <= max(self.ceiling, self.granules() * GRANULE)
        assert self.granules() * GRANULE <= slab.allocated
        assert slab.ceiling == self.ceiling
        assert slab.free_bytes == max(slab.ceiling - slab.used, 0)

    @invariant()
    def the_ledger_agrees(self) -> None:
        sums: Counter[str] = Counter()
        for ref, _, owner in self.held():
            start, end = span(ref)
            sums[owner] += end - start
        accounts = {name: account.now for name, account in self.slab.ledger.accounts().items() if account.now}
        assert accounts == {name: total for name, total in sums.items() if total}
        assert self.slab.used == self.slab.ledger.total == sums.total()

    @invariant()
    def blocks_and_free_extents_tile_the_slab(self) -> None:
        free = [(ref.offset, ref.offset + ref.nbytes) for ref in self.slab.free_extents()]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(free)), "free extents touch"
        everything = sorted([*free, *(span(ref) for ref, _, _ in self.held())])
        assert [start for start, _ in everything] == [0, *(end for _, end in everything[:-1])]
        assert everything[-1][1] == self.slab.capacity
        assert all(ref.offset % (4096 if ref.nbytes >= LARGE else 64) == 0 for ref, _, owner in self.held() if owner == "tiles")

    @invariant()
    def nothing_changes_while_it_is_held(self) -> None:
        for ref, mark, _ in self.held():
            assert (self.slab.view(ref, np.uint8) == mark).all()

    @invariant()
    def the_table_is_the_models(self) -> None:
        assert list(self.manager) == list(self.tiles), "order of use"
        assert all((key in self.manager) == tile.sealed for key, tile in self.tiles.items())
        # One read for each time that a tile was missing, none for one that was there.
        assert self.reads == self.lost + Counter(self.tiles.keys())

    def teardown(self) -> None:
        if not hasattr(self, "slab"):
            return
        for pinned in self.leases:
            self.manager.release(pinned.lease)
        for places in self.pinned_runs:
            self.store.release(places)
        for key in list(self.manager):
            self.manager.discard(key)
        for ref in self.blocks:
            self.slab.free(ref)
        self.store.close()
        assert self.slab.used == 0
        assert not [name for name, account in self.slab.ledger.accounts().items() if account.now]
        assert self.slab.free_extents() == [BlockRef(0, self.slab.capacity)]
        self.slab.shrink()
        assert self.slab.allocated == 0
        self.slab.close()


SLOWLY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


class Quick(Machine):
    """The normal run."""


class Deep(Machine):
    """Longer sequences, and many more."""


TestQuick = Quick.TestCase
TestQuick.settings = settings(max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=SLOWLY)

TestDeep = pytest.mark.slow(Deep.TestCase)
TestDeep.settings = settings(max_examples=3000, stateful_step_count=100, deadline=None, suppress_health_check=SLOWLY)
