"""Budget, slab, tiles and the store of runs driven together through random sequences, against a model in plain Python.

The model knows who holds what and who was used when, and works out from that alone where a block must lie, who has to go or
move for it, and which granules of memory must be there.  After each step it is compared with what the real ones say.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from sextract.errors import ConfigError
from sextract.memory.budget import GRANULE, PAGE_TABLE_SHARE, Budget
from sextract.memory.slab import Slab, SlabFull
from sextract.memory.tiles import Lease, TileKey, TileManager
from sextract.pipeline.runs import ENTRY_BYTES, Freed, RunStore
from sextract.records import FRAGMENT, BlockRef

KIB, MIB = 1 << 10, 1 << 20
LARGE = 64 * KIB
PAGE = 4096
# Numbers of the store: runs of tiles, then bands of freed fragments.
TILES_WITH_RUNS, BANDS, BAND_ROWS, HEIGHT = 8, 3, 10, 25
NUMBERS = TILES_WITH_RUNS + BANDS
KEYS = st.tuples(st.just(0), st.integers(0, 1), st.integers(0, 2))
SIZES = st.one_of(st.integers(0, 70_000), st.integers(LARGE, 200_000), st.integers(LARGE, 700_000))
TILES = st.sampled_from([150_000, 150_000, 70_000, 10_000, 220_000])
OWNERS = st.sampled_from(["rows", "sources", "giant"])
# At whose expense a block is asked for.
WAYS = st.sampled_from(["nobody", "tiles", "runs", "somewhere", "behind"])
PICK = st.integers(0, 1000)


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


def up(value: int, step: int) -> int:
    return -(-value // step) * step


def span(ref: BlockRef) -> tuple[int, int]:
    """First and last byte that a block of the slab takes: whole cache lines, whole pages from 64 KiB on."""
    return ref.offset, ref.offset + up(max(ref.nbytes, 1), PAGE if ref.nbytes >= LARGE else 64)


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
class Kept:
    """What the model knows of a block that the store keeps; fragments have no mark."""

    ref: BlockRef
    owner: str
    mark: int | None
    last_use: int


@dataclass
class Pinned:
    """A lease, and the tiles under it, which may be out of the table by now."""

    lease: Lease
    tiles: list[Tile] = field(default_factory=list)


@dataclass
class Expected:
    """Where a block must lie in the slab (None: nowhere), which tiles go and which numbers move for it."""

    place: int | None
    gone: list[TileKey] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Any order of reserving, filling, reading and giving back."""

    @initialize(
        processes=st.integers(1, 6),
        room=st.integers(500, 1100),
        low=st.floats(0, 1 / 3),
        disk=st.integers(0, 5),
        full=st.booleans(),
    )
    def start(self, processes: int, room: int, low: float, disk: int, full: bool) -> None:
        self.budget = Budget(10 * MIB + room * KIB, 10 * MIB - processes * 110_000, processes, 100_000, 10_000)
        # As a run does it: mapped before the base is known, cut to what is left then.
        self.slab = Slab(self.budget.limit, headroom=plenty, scratch_dir="" if disk else None)
        self.base = self.slab.capacity
        self.slab.restrict(self.budget.slab)
        self.capacity = self.ceiling = self.budget.slab
        self.low = self.slab.low = int(low * self.capacity)
        self.bytes = np.frombuffer(self.slab.bytes_view(0, self.slab.extent), np.uint8)
        self.manager = TileManager(self.slab)
        self.tiles: dict[TileKey, Tile] = {}  # least recently used first
        self.doomed: list[Tile] = []
        self.leases: list[Pinned] = []
        self.blocks: dict[BlockRef, tuple[int, str]] = {}  # mark, owner
        self.free_below: set[BlockRef] = set()  # of those, who may lie below `low`
        self.behind: dict[int, int] = {}  # offsets behind the slab, and the bytes each takes there
        self.reads: Counter[TileKey] = Counter()
        self.lost: Counter[TileKey] = Counter()
        self.last = self.fragments_made = 0
        self.kept: dict[int, Kept] = {}
        self.tables: dict[BlockRef, str] = {}
        self.open_store()
        # From an empty slab it would take long until room is short.
        self.add_runs(list(range(TILES_WITH_RUNS)), 30_000, "nobody")
        for y, x in itertools.product(range(2), range(3)):
            if self.expect(120_000, True, tiles=False).place is not None and not full:
                self.read([(0, y, x)], 120_000, 1)
        if full:
            for nbytes in (200_000, LARGE, 16_384):
                while self.expect(nbytes, True, tiles=False).place is not None:
                    self.alloc(nbytes, "rows", "nobody", True)

    def open_store(self) -> None:
        """A store, and the freed fragments in it, each with its table."""
        expected = self.expect(ENTRY_BYTES * NUMBERS, False)
        self.store = RunStore(self.slab, self.manager, "", NUMBERS)
        self.kept.clear()
        self.pins: Counter[int] = Counter()
        self.pinned: list[tuple[slice, dict[int, BlockRef]]] = []
        self.clock = 0
        self.happened(expected)
        table = BlockRef(self.store.offsets.offset, ENTRY_BYTES * NUMBERS)
        assert table.offset == expected.place
        self.tables = {table: "runs"}
        expected = self.expect(64, False, runs=True)
        self.freed = Freed(self.store, self.bytes, TILES_WITH_RUNS, BAND_ROWS, HEIGHT)
        self.fragments: list[NDArray[Any]] = [np.empty(0, FRAGMENT) for _ in range(BANDS)]
        self.happened(expected)
        self.lies(self.freed.kept, expected)
        self.tables[self.freed.kept] = "clean"

    # What the model works out

    def everything(self) -> Iterator[tuple[BlockRef, int | None, str]]:
        """Every block that is lent out, in the slab or behind it, its mark and its owner."""
        for tile in {id(t): t for t in [*self.tiles.values(), *self.doomed]}.values():
            yield tile.ref, tile.mark, "tiles"
        for ref, (mark, owner) in self.blocks.items():
            yield ref, mark, owner
        for kept in self.kept.values():
            yield kept.ref, kept.mark, kept.owner
        for ref, owner in self.tables.items():
            yield ref, None, owner

    def held(self) -> Iterator[tuple[BlockRef, int | None, str]]:
        """Those in the slab."""
        return (each for each in self.everything() if each[0].offset < self.base)

    def place(self, nbytes: int, low: bool, without: Iterable[BlockRef] = ()) -> int | None:
        """Where a block must lie if those others go: what may lie low in the smallest gap, others as far up as they can."""
        gone = set(without)
        taken = sorted(span(ref) for ref, _, _ in self.held() if ref not in gone)
        size = span(BlockRef(0, nbytes))[1]
        if sum(end - start for start, end in taken) + size > self.ceiling:
            return None
        starts, ends = [0, *(end for _, end in taken)], [*(start for start, _ in taken), self.capacity]
        gaps = [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
        if low:
            places = sorted((end - start, up(start, PAGE)) for start, end in gaps if up(start, PAGE) + size <= end)
            return places[0][1] if places else None
        step = PAGE if nbytes >= LARGE else 64
        tops = [(start, (end - size) // step * step) for start, end in gaps]
        return max((top for start, top in tops if top >= max(start, self.low)), default=None)

    def expect(self, nbytes: int, low: bool, *, tiles: bool = True, runs: bool = False) -> Expected:
        """What must come of a request, at the expense of idle tiles and of runs that nobody reads."""
        idle = self.idle() if tiles else []
        movable = self.movable() if runs else []
        for count in range(len(movable) + 1):
            moved = [self.kept[number].ref for number in movable[:count]]
            if self.place(nbytes, low, [*moved, *(self.tiles[key].ref for key in idle)]) is not None:
                gone = self.in_the_way(nbytes, low, idle, moved)
                refs = [*moved, *(self.tiles[key].ref for key in gone)]
                return Expected(self.place(nbytes, low, refs), gone, movable[:count])
        return Expected(None, [], movable)

    def in_the_way(self, nbytes: int, low: bool, idle: list[TileKey], moved: list[BlockRef]) -> list[TileKey]:
        """Idle tiles that go for a block, least recently used first; those that leave it bytes but no place go last."""
        floor = 0 if low else self.low
        useful = [key for key in idle if sum(self.tiles[key].ref) > floor]
        ordered = [*useful, *(key for key in idle if key not in useful)]
        for count in range(len(ordered)):
            if self.place(nbytes, low, [*moved, *(self.tiles[key].ref for key in ordered[:count])]) is not None:
                return ordered[:count]
        return ordered

    def idle(self) -> list[TileKey]:
        return [key for key, tile in self.tiles.items() if tile.idle]

    def movable(self) -> list[int]:
        """Numbers whose blocks may move behind the slab, least recently used first."""
        if self.slab.overflow is None:
            return []
        free = [n for n, kept in self.kept.items() if kept.ref.offset < self.base and not self.pins[n]]
        return sorted(free, key=lambda n: (self.kept[n].last_use, n))

    def mark(self, ref: BlockRef) -> int:
        """Fill a block with a pattern of its own."""
        self.last = self.last % 251 + 1
        self.slab.view(ref, np.uint8)[:] = self.last
        return self.last

    def happened(self, expected: Expected, replaced: int = -1) -> None:
        """Check who had to go and who moved, now that a request was answered, and learn where they are."""
        there = set(self.manager)
        gone = {key for key in self.tiles if key not in there}
        assert gone == set(expected.gone), "not the tiles that were used least recently, or one in vain"
        for key in gone:
            self.lost[key] += 1
            del self.tiles[key]
        moved = {n for n, kept in self.kept.items() if self.store.find(n) != kept.ref} - {replaced}
        assert moved == set(expected.moved) - {replaced}, "not the runs that were used least recently, or some in vain"
        for number in moved:
            ref = self.store.find(number)
            assert ref is not None and ref.nbytes == self.kept[number].ref.nbytes
            self.went_behind(ref)
            self.kept[number].ref = ref

    def went_behind(self, ref: BlockRef) -> None:
        """A block that was given out behind the slab; it overlaps none there."""
        first, last = ref.offset, ref.offset + up(max(ref.nbytes, 1), PAGE)
        assert self.base <= first and last <= self.slab.extent and (first - self.base) % PAGE == 0
        assert all(last <= other or other + taken <= first for other, taken in self.behind.items())
        self.behind[first] = last - first

    def lies(self, ref: BlockRef, expected: Expected) -> None:
        """Check where a block that may lie behind the slab lies."""
        if expected.place is None:
            self.went_behind(ref)
        else:
            assert ref.offset == expected.place

    def gone_from(self, ref: BlockRef) -> None:
        """A block was freed."""
        if ref.offset >= self.base:
            del self.behind[ref.offset]

    # Blocks

    def take(self, nbytes: int, owner: str, way: str, low: bool) -> BlockRef | None:
        """Ask for a block; None if it was refused, as it had to be."""
        if way == "behind":
            ref = self.slab.alloc_behind(nbytes)
            assert (ref is None) == (self.slab.overflow is None)
            if ref is not None:
                self.went_behind(ref)
            return ref
        low &= way != "somewhere"
        asked = max(nbytes, 64) if way in ("runs", "somewhere") else nbytes
        expected = self.expect(asked, low, tiles=way != "nobody", runs=way in ("runs", "somewhere"))
        try:
            if way == "nobody":
                ref = self.slab.alloc(nbytes, owner, low)
            elif way == "tiles":
                ref = self.manager.alloc(nbytes, owner, low)
            elif way == "runs":
                ref = self.store.alloc(nbytes, owner, low)
            else:
                ref = self.store.alloc_somewhere(nbytes, owner)
        except (SlabFull, ConfigError) as refusal:
            assert expected.place is None, "what can be given up makes room"
            assert way != "somewhere" or self.slab.overflow is None, "there is room behind the slab"
            assert isinstance(refusal, ConfigError) or refusal.free == self.slab.free_bytes
            self.happened(expected)
            return None
        self.happened(expected)
        if way == "somewhere":
            self.lies(ref, expected)
            assert ref.nbytes == (nbytes if expected.place is None else asked)
        else:
            assert ref == (expected.place, asked)
        return ref

    @rule(nbytes=SIZES, owner=OWNERS, way=WAYS, low=st.booleans())
    def alloc(self, nbytes: int, owner: str, way: str, low: bool) -> None:
        if way == "nobody":
            assert self.slab.fits(nbytes, low) == (self.expect(nbytes, low, tiles=False).place is not None)
        ref = self.take(nbytes, owner, way, low)
        if ref is not None:
            self.blocks[ref] = self.mark(ref), owner
            if low:
                self.free_below.add(ref)

    @rule(nbytes=st.integers(LARGE, 500_000), low=st.booleans(), smallest=st.sampled_from([8192, 16_384, 50_000]))
    def squeeze(self, nbytes: int, low: bool, smallest: int) -> None:
        """Take about all there is, whoever has to go or move."""
        while nbytes > smallest:
            self.alloc(nbytes, "sources", "runs", low)
            nbytes //= 2

    @rule(nbytes=st.integers(64, 150_000), count=st.integers(1, 5))
    def answers(self, nbytes: int, count: int) -> None:
        """What can't wait."""
        for _ in range(count):
            self.alloc(nbytes, "sources", "somewhere", False)

    def pick_block(self, pick: int) -> BlockRef:
        return list(self.blocks)[pick % len(self.blocks)]

    def forget(self, ref: BlockRef) -> tuple[int, str]:
        self.free_below.discard(ref)
        return self.blocks.pop(ref)

    @precondition(lambda self: self.blocks)
    @rule(pick=PICK, count=st.integers(1, 3))
    def free(self, pick: int, count: int) -> None:
        for _ in range(min(count, len(self.blocks))):
            ref = self.pick_block(pick)
            self.forget(ref)
            self.slab.free(ref)
            self.gone_from(ref)
            with pytest.raises(ValueError, match="isn't lent out"):
                self.slab.free(ref)

    @rule()
    def free_all(self) -> None:
        for ref in list(self.blocks):
            self.slab.free(ref)
            self.gone_from(ref)
            self.forget(ref)

    @precondition(lambda self: self.blocks)
    @rule(pick=PICK, part=st.floats(0, 1))
    def resize_down(self, pick: int, part: float) -> None:
        ref = self.pick_block(pick)
        below = ref in self.free_below
        held = self.forget(ref)
        kept = self.slab.resize_down(ref, int(ref.nbytes * part))
        assert kept == (ref.offset, int(ref.nbytes * part))
        self.blocks[kept] = held
        if below:
            self.free_below.add(kept)

    @precondition(lambda self: self.blocks)
    @rule(pick=PICK, part=st.floats(0, 1))
    def settle(self, pick: int, part: float) -> None:
        """The first bytes of a block in one of their own."""
        ref = self.pick_block(pick)
        nbytes = int(ref.nbytes * part)
        expected = self.expect(max(nbytes, 64), False, runs=True)
        try:
            small = self.store.settle(ref, nbytes, "rows")
        except (SlabFull, ConfigError):
            assert expected.place is None and self.slab.overflow is None
            self.happened(expected)
            return
        self.happened(expected)
        self.lies(small, expected)
        assert (self.slab.view(small, np.uint8, nbytes) == self.blocks[ref][0]).all()
        self.blocks[small] = self.mark(small), "rows"

    @precondition(lambda self: self.blocks)
    @rule(pick=PICK)
    def put_away(self, pick: int) -> None:
        ref = self.pick_block(pick)
        moved = self.store.put_away(ref)
        assert moved.nbytes == ref.nbytes
        if self.slab.overflow is None:
            assert moved == ref
            return
        held = self.forget(ref)
        if moved != ref:
            self.went_behind(moved)
            self.gone_from(ref)
        assert moved.offset >= self.base
        self.blocks[moved] = held

    @precondition(lambda self: self.slab.overflow is not None)
    @rule()
    def let_go(self) -> None:
        """As a process does after a piece of work; what is there stays."""
        self.slab.overflow.settle()

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
        expected = self.expect(nbytes, True)
        try:
            ref = self.manager.reserve(key, nbytes)
        except SlabFull:
            assert expected.place is None
            self.happened(expected)
            return
        assert ref == (expected.place, nbytes)
        assert key in list(self.manager) and key not in self.manager
        self.tiles[key] = Tile(ref, self.mark(ref))
        self.happened(expected)
        self.reads[key] += 1

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

    @rule(nbytes=SIZES, low=st.booleans())
    def make_room(self, nbytes: int, low: bool) -> None:
        expected = self.expect(nbytes, low)
        possible = expected.place is not None
        assert self.manager.make_room(nbytes, low) == possible
        self.happened(expected)
        assert self.slab.fits(nbytes, low) == possible

    @rule(nbytes=st.integers(0, 700_000))
    def evict(self, nbytes: int) -> None:
        idle = self.idle()
        sizes = [self.tiles[key].ref.nbytes for key in idle]
        freed = self.manager.evict(nbytes)
        enough = next((k for k, total in enumerate(itertools.accumulate(sizes, initial=0)) if total >= nbytes), len(sizes))
        assert freed == sum(sizes[:enough])
        self.happened(Expected(None, idle[:enough]))

    # Runs, and fragments that CLEAN freed

    @rule(
        numbers=st.lists(st.integers(0, TILES_WITH_RUNS - 1), min_size=1, max_size=4, unique=True),
        nbytes=st.integers(64, 120_000),
        way=st.sampled_from(["nobody", "tiles", "somewhere", "somewhere"]),
    )
    def add_runs(self, numbers: list[int], nbytes: int, way: str) -> None:
        """Keep blocks, in place of what is there and nobody reads."""
        for number in numbers:
            if number in self.kept and self.pins[number]:
                continue
            ref = self.take(nbytes, "runs", way, False)
            if ref is not None:
                self._keep(number, Kept(ref, "runs", self.mark(ref), 0))
                self.store.add(number, ref)

    def _keep(self, number: int, kept: Kept) -> None:
        if number in self.kept:
            self.gone_from(self.kept[number].ref)
        self.clock += 1
        kept.last_use = self.clock
        self.kept[number] = kept

    @rule(first=st.integers(0, TILES_WITH_RUNS), count=st.integers(0, 4))
    def pin_runs(self, first: int, count: int) -> None:
        last = min(first + count, TILES_WITH_RUNS)
        pinned = self.store.pin(first, last)
        there = {n: self.kept[n].ref for n in range(first, last) if n in self.kept}
        self.pins.update(range(first, last))
        self.pinned.append((pinned, there))

    @precondition(lambda self: self.pinned)
    @rule(pick=PICK)
    def release_runs(self, pick: int) -> None:
        pinned, there = self.pinned.pop(pick % len(self.pinned))
        assert there == {n: self.store.find(n) for n in there}, "runs moved under a reader"
        self.store.release(pinned)
        self.clock += 1
        for number in range(pinned.start, pinned.stop):
            self.pins[number] -= 1
            if number in self.kept:
                self.kept[number].last_use = self.clock

    @rule(rows=st.lists(st.integers(0, HEIGHT - 1), min_size=1, max_size=30), times=st.sampled_from([1, 1, 40, 400]))
    def add_freed(self, rows: list[int], times: int) -> None:
        new = np.zeros(len(rows) * times, FRAGMENT)
        new["y"] = rows * times
        # No two are the same.
        new["x0"] = np.arange(len(new)) + self.fragments_made
        self.fragments_made += len(new)
        parts = [(band, part) for band in range(BANDS) if len(part := new[new["y"] // BAND_ROWS == band])]
        if not any(self._outgrown(band, len(part)) for band, part in parts):
            self.freed.add(new)
            for band, part in parts:
                self.fragments[band] = np.concatenate([self.fragments[band], part])
            return
        for band, part in parts:
            self._add_to_band(band, part)

    def _outgrown(self, band: int, more: int) -> int:
        """Bytes of the larger block that so many more fragments of a band need; 0 if they have room."""
        have, kept = len(self.fragments[band]), self.kept.get(TILES_WITH_RUNS + band)
        if kept is not None and (have + more) * FRAGMENT.itemsize <= kept.ref.nbytes:
            return 0
        return max(2 * have, have + more, 16) * FRAGMENT.itemsize

    def _add_to_band(self, band: int, part: NDArray[Any]) -> None:
        number, nbytes = TILES_WITH_RUNS + band, self._outgrown(band, len(part))
        expected = self.expect(nbytes, False, runs=True) if nbytes else Expected(None)
        try:
            self.freed.add(part)
        except (SlabFull, ConfigError):
            assert nbytes and expected.place is None and self.slab.overflow is None
            self.happened(expected)
            return
        self.fragments[band] = np.concatenate([self.fragments[band], part])
        self.happened(expected, number if nbytes else -1)
        if nbytes:
            larger = self.store.find(number)
            assert larger is not None and larger.nbytes == nbytes
            self.lies(larger, expected)
            self._keep(number, Kept(larger, "clean", None, 0))

    @rule(first=st.integers(0, BANDS), last=st.integers(0, BANDS))
    def read_freed(self, first: int, last: int) -> None:
        expected = [self.fragments[band] for band in range(first, last)]
        out = np.zeros(self.freed.count(range(first, last)), FRAGMENT)
        assert len(out) == sum(map(len, expected))
        self.freed.copy(range(first, last), out)
        assert (np.diff(out["y"]) >= 0).all(), "not sorted by row"
        assert np.array_equal(np.sort(out, order="x0"), np.sort(np.concatenate([out[:0], *expected]), order="x0"))

    @precondition(lambda self: not self.pinned)
    @rule(really=st.integers(0, 3), part=st.floats(0.8, 1))
    def close_the_store(self, really: int, part: float) -> None:
        """As at the end of an extension; the slab may be cut before the next."""
        if really:
            return
        capacity = int(self.capacity * part) // GRANULE * GRANULE
        self.store.close()
        self.slab.free(self.freed.kept)
        for ref in [*self.tables, *(kept.ref for kept in self.kept.values())]:
            self.gone_from(ref)
        self.tables.clear()
        self.kept.clear()
        if self.capacity - self.low > 200 * KIB:
            self._restrict(capacity)
        if self.expect(ENTRY_BYTES * NUMBERS, False).place is None:
            # Too much is lent out, now that the ceiling is lower.
            self.free_all()
            for _ in list(self.leases):
                self.release(0)
            for key in list(self.tiles):
                self.discard(key)
        self.open_store()

    # The size of it all

    @rule(nbytes=st.integers(0, 150_000))
    def lower_ceiling(self, nbytes: int) -> None:
        lowered = self.slab.lower_ceiling(nbytes, floor=400_000)
        assert lowered == max(min(nbytes, self.ceiling - 400_000), 0)
        self.ceiling -= lowered
        assert self.slab.allocated == self.granules() * GRANULE, "what is free was kept"

    @rule(nbytes=st.integers(0, 150_000))
    def raise_ceiling(self, nbytes: int) -> None:
        self.slab.raise_ceiling(nbytes)
        self.ceiling = min(self.ceiling + nbytes, self.capacity)

    @rule()
    def shrink(self) -> None:
        before = self.slab.allocated
        assert before - self.slab.shrink() == self.slab.allocated == self.granules() * GRANULE

    @rule(part=st.floats(0.8, 1))
    def restrict(self, part: float) -> None:
        self._restrict(int(self.capacity * part) // GRANULE * GRANULE)

    def _restrict(self, capacity: int) -> None:
        if capacity == self.capacity:
            return
        if any(span(ref)[1] > capacity for ref, _, _ in self.held()) or not capacity:
            with pytest.raises(ValueError):
                self.slab.restrict(capacity)
        else:
            self.slab.restrict(capacity)
            self.capacity = self.ceiling = capacity

    def granules(self) -> int:
        """How many granules of memory the blocks touch."""
        spans = [span(ref) for ref, _, _ in self.held()]
        return len({g for start, end in spans for g in range(start // GRANULE, -(-end // GRANULE))})

    @invariant()
    def the_limit_holds(self) -> None:
        budget, slab = self.budget, self.slab
        assert slab.used <= slab.capacity == slab.ledger.capacity == self.capacity
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
        assert self.manager.used == sums["tiles"]
        assert self.manager.idle_bytes == sum(self.tiles[key].ref.nbytes for key in self.idle())

    @invariant()
    def what_lies_behind_is_counted_there(self) -> None:
        assert {ref.offset for ref, _, _ in self.everything() if ref.offset >= self.base} == set(self.behind)
        overflow = self.slab.overflow
        if overflow is None:
            assert self.slab.extent == self.base and not self.behind
        else:
            assert overflow.used == sum(self.behind.values()) <= overflow.peak
            assert all((ref in overflow) == (ref.offset in self.behind) for ref, _, _ in self.everything())

    @invariant()
    def blocks_and_free_extents_tile_the_slab(self) -> None:
        free = [(ref.offset, ref.offset + ref.nbytes) for ref in self.slab.free_extents()]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(free)), "free extents touch"
        everything = sorted([*free, *(span(ref) for ref, _, _ in self.held())])
        assert [start for start, _ in everything] == [0, *(end for _, end in everything[:-1])]
        assert everything[-1][1] == self.capacity

    @invariant()
    def only_who_may_lies_low(self) -> None:
        low = [ref for ref, _, owner in self.held() if ref.offset < self.low and owner != "tiles"]
        assert set(low) <= self.free_below

    @invariant()
    def nothing_changes_while_it_is_held(self) -> None:
        for ref, mark, _ in self.everything():
            assert mark is None or (self.slab.view(ref, np.uint8) == mark).all()
        for band, expected in enumerate(self.fragments):
            kept = self.kept.get(TILES_WITH_RUNS + band)
            assert kept is not None or not len(expected)
            if kept is not None:
                there = self.slab.view(kept.ref, FRAGMENT)[: len(expected)]
                assert np.array_equal(np.sort(there, order="x0"), np.sort(expected, order="x0"))

    @invariant()
    def the_table_is_the_models(self) -> None:
        assert list(self.manager) == list(self.tiles), "order of use"
        assert all((key in self.manager) == tile.sealed for key, tile in self.tiles.items())
        # One read for each time that a tile was missing, none for one that was there.
        assert self.reads == self.lost + Counter(self.tiles.keys())

    @invariant()
    def the_store_keeps_what_it_was_given(self) -> None:
        expected = [self.kept[n].ref if n in self.kept else None for n in range(NUMBERS)]
        assert [self.store.find(n) for n in range(NUMBERS)] == expected
        # What workers read.
        offsets = self.slab.view(self.store.offsets, np.int64)
        assert offsets.tolist() == [-1 if ref is None else ref.offset for ref in expected]

    def teardown(self) -> None:
        if not hasattr(self, "freed"):
            return
        for pinned in self.leases:
            self.manager.release(pinned.lease)
        for each, _ in self.pinned:
            self.store.release(each)
        for key in list(self.manager):
            self.manager.discard(key)
        for ref in self.blocks:
            self.slab.free(ref)
        self.slab.free(self.freed.kept)
        self.store.close()
        assert self.slab.used == 0
        assert not [name for name, account in self.slab.ledger.accounts().items() if account.now]
        assert self.slab.free_extents() == [BlockRef(0, self.capacity)]
        assert self.slab.overflow is None or self.slab.overflow.used == 0
        self.slab.shrink()
        assert self.slab.allocated == 0
        # Its address range is large: no view may hold the mapping.
        del self.freed, self.store, self.bytes
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
