"""What a stage of an extension needs to give work away: blocks of the slab, tiles, tasks and their answers.

What the work is, is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.errors import WorkerError
from sextract.execution.backend import Result, Task
from sextract.memory.slab import SlabFull
from sextract.memory.tiles import Lease, TileKey
from sextract.pipeline.layout import Layout, first_runs
from sextract.pipeline.plan import Run
from sextract.pipeline.runs import RunStore
from sextract.pipeline.stages import Kind, pack, runs_block_bytes, runs_views
from sextract.records import BlockRef

# Free room that a new task leaves for what its answer may need.
SPARE_BYTES = 1 << 20

Reply = NDArray[np.int64]
# What becomes of a tile's runs: its key, their block, how many.
Found = Callable[[TileKey, BlockRef, int], None]


@dataclass(slots=True)
class Gathering:
    """Tiles that somebody is about to look at: those held already, and those that are being loaded."""

    owner: str
    rows: tuple[int, int]
    leases: list[Lease]
    missing: set[TileKey]


class Desk:
    """One extension's blocks and tasks.

    Parameters
    ----------
    run : Run
        What all extensions share.
    extension : int
        Index among the images.
    layout : Layout

    Attributes
    ----------
    resumed : int
        Row of tiles in which the scan was resumed from a checkpoint: none above it has runs yet; −1: it wasn't.
    """

    def __init__(self, run: Run, extension: int, layout: Layout) -> None:
        self.run, self.layout, self.extension = run, layout, extension
        self.slab, self.tiles, self.backend, self.settings = run.slab, run.tiles, run.backend, run.settings
        self.info = run.images[extension].info
        self.grid = layout.tiles
        self.bytes = np.frombuffer(self.slab.bytes_view(0, self.slab.extent), np.uint8)
        numbers = (self.grid.across + 1) * self.grid.down
        self.store = RunStore(self.slab, self.tiles, self.settings.resources.scratch_dir, numbers)
        self._callbacks: dict[int, tuple[Callable[[Reply], None], Callable[[str], None]]] = {}
        self._kept: list[BlockRef] = []
        self._loading: set[TileKey] = set()
        self._gathering: Gathering | None = None
        self.resumed = -1
        # Of the image, in tiles that can be held at the same time.
        self.held_rows = (self.slab.capacity - layout.need_bytes + layout.low_bytes) // (4 * self.grid.width)

    def alloc(self, nbytes: int, owner: str) -> BlockRef:
        """A block for an answer, which can't wait: behind the slab if there is no room in it."""
        return self.store.alloc_somewhere(nbytes, owner)

    def alloc_for_task(self, nbytes: int, owner: str, low: bool = False) -> BlockRef:
        """A block for a new task, which leaves room for the answers of those that run; SlabFull if it had better wait.

        If none runs there is nothing to wait for.
        """
        if not self.busy and not low:
            return self.alloc(nbytes, owner)
        ref = self.store.alloc(nbytes, owner, low)
        if self.busy and not self.tiles.make_room(SPARE_BYTES):
            self.slab.free(ref)
            raise SlabFull(nbytes, self.slab.free_bytes, self.slab.largest_free())
        return ref

    def keep(self, nbytes: int, owner: str) -> BlockRef:
        """A block for as long as the extension lasts."""
        ref = self.store.alloc(nbytes, owner)
        self._kept.append(ref)
        return ref

    def view(self, ref: BlockRef, dtype: np.dtype[Any], n: int, offset: int = 0) -> NDArray[Any]:
        """`n` items from a byte offset of a block."""
        first = ref.offset + offset
        return self.bytes[first : first + n * dtype.itemsize].view(dtype)

    @property
    def busy(self) -> bool:
        """Whether tasks are outstanding."""
        return bool(self._callbacks)

    def submit(
        self, kind: Kind, payload: bytes, then: Callable[[Reply], None], *, affinity: int | None = None,
        crashed: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        """Have a worker do something; `then` takes the answer, `crashed` the signal if it crashes two workers."""
        self._callbacks[self.backend.submit(Task(int(kind), payload, affinity))] = then, crashed or self.give_up

    def give_up(self, died: str, what: str = "a task") -> None:
        """End the run over a task that crashes workers; `what` says what it was about."""
        raise WorkerError(f"{self.info.spec}: {what} crashed two workers one after the other ({died})")

    def wait(self) -> None:
        """Take the answers that are there, or wait for one."""
        with self.run.track("wait"):
            results = self.backend.wait(0.2)
        for result in results:
            self._answer(result)
        # In this order, so that the gauge sees what lies behind the slab and is held all the same.
        self.run.sample()
        self.settle()

    def drop(self) -> None:
        """Let go of what this process has touched behind the slab; it is written by the next `settle`."""
        if self.slab.overflow is not None and self.slab.overflow.used:
            self.slab.overflow.drop()

    def settle(self) -> None:
        """Let go of what this process has touched behind the slab."""
        if self.slab.overflow is not None:
            self.slab.overflow.settle()

    def _answer(self, result: Result) -> None:
        then, crashed = self._callbacks.pop(result.ticket)
        if result.error is not None:
            raise result.error
        if result.reply is None:
            crashed(result.died or "")
        else:
            then(np.frombuffer(result.reply, np.int64))

    def pin(self, y0: int, y1: int) -> Lease:
        """Hold the tiles of these rows that are there."""
        keys = self._keys(y0, y1)
        # Each with its runs, which take as much at most.
        most = max(self.run.lent_bytes // (2 * self.layout.tile_bytes), 1)
        if len(keys) > most:
            # What a task isn't lent it reads itself; most of what it looks at is in the middle.
            held = [key for key in keys if key in self.tiles]
            keys = held[max(len(held) - most, 0) // 2 :][:most]
        return self.tiles.pin(keys)

    def tile_pairs(self, lease: Lease) -> bytes:
        """Index and place of the tiles of a lease, for a task."""
        across = self.grid.across
        return pack(*(v for (_, ty, tx), ref in lease.refs.items() for v in (ty * across + tx, ref.offset)))

    def reserve_tile(self, key: TileKey) -> BlockRef | None:
        """A block for a tile about to be loaded; None if there is no room."""
        try:
            ref = self.tiles.reserve(key, self.grid.block(*key[1:]).size * 4)
        except SlabFull:
            return None
        if self.busy and not self.tiles.make_room(SPARE_BYTES):
            self.tiles.discard(key)
            return None
        return ref

    def gathers(self, owner: str) -> bool:
        """Whether tiles for `owner` are still on their way."""
        found = self._gathering
        return found is not None and found.owner == owner and not self._loading.isdisjoint(found.missing)

    def have_tiles(self, owner: str, y0: int, y1: int) -> bool:
        """Whether a task may go that looks at these rows: tiles that were given up are loaded again first, if there is room.

        One `owner` at a time gathers tiles, and holds what it has of them meanwhile: those who took them from each other would
        load them again and again.
        """
        if y1 - y0 > self.held_rows // 2:
            return True
        mine = self._gathering if self._gathering is not None and self._gathering.owner == owner else None
        if mine is not None and mine.rows != (y0, y1):
            self._let_go()
            mine = None
        keys = self._keys(y0, y1)
        missing = [key for key in keys if key not in self.tiles]
        if missing and self._gathering is None:
            mine = self._gathering = Gathering(owner, (y0, y1), [self.tiles.pin(keys)], set(missing))
        if missing and mine is None:
            return False
        for key in missing:
            if key not in self._loading:
                block = self.reserve_tile(key)
                if block is None and self.busy:
                    # Those that run give theirs back.
                    return False
                if block is None:
                    missing = []
                    break
                self._loading.add(key)
                self.load_tile(key, block, BlockRef(0, 0), partial(self._loaded, key))
        if not missing and mine is not None:
            self._let_go()
        return not missing

    def _keys(self, y0: int, y1: int) -> list[TileKey]:
        """Tiles of some rows."""
        g = self.grid
        first, last = max(y0, 0) // g.rows, (min(max(y1, 1), g.height) - 1) // g.rows
        return [(self.extension, ty, tx) for ty in range(first, last + 1) for tx in range(g.across)]

    def _loaded(self, key: TileKey, reply: Reply) -> None:
        self.tiles.seal(key)
        self._arrived(key)

    def _arrived(self, key: TileKey) -> None:
        """A tile is there for those who gather tiles."""
        self._loading.discard(key)
        if self._gathering is not None and key in self._gathering.missing:
            self._gathering.leases.append(self.tiles.pin([key]))

    def _let_go(self) -> None:
        assert self._gathering is not None
        for lease in self._gathering.leases:
            self.tiles.release(lease)
        self._gathering = None

    def load_tile(self, key: TileKey, block: BlockRef, runs: BlockRef, then: Callable[[Reply], None], *state: int) -> None:
        """Have a tile loaded and, if `runs` isn't empty, scanned from where `state` (rows done, bad pixels) says."""
        done, bad = state or (0, 0)
        payload = pack(*key[1:], block.offset, runs.offset, runs.nbytes, done, bad)
        t = self.grid.tile(*key[1:])
        what = f"scanning rows {t.y0 + 1} to {t.y1}, columns {t.x0 + 1} to {t.x1}"
        self.submit(Kind.SCAN, payload, then, crashed=lambda died: self.give_up(died, what))

    def scanned(self, key: TileKey, block: BlockRef, runs: BlockRef, then: Found, reply: Reply) -> None:
        """A tile was scanned, maybe in part: `then` gets its runs when they are whole."""
        done, nruns, bad = reply.tolist()
        g = self.grid
        rows, columns = g.tile(*key[1:]).shape
        if done < rows:
            # Many more runs than usual: go on with room for any number.
            more = self.alloc(runs_block_bytes(g.rows, nruns + (rows - done) * (columns // 2 + 1)), "runs")
            self.bytes[more.offset : more.offset + runs.nbytes] = self.bytes[runs.offset : runs.offset + runs.nbytes]
            self.slab.free(runs)
            self.load_tile(key, block, more, partial(self.scanned, key, block, more, then), done, bad)
            return
        self.tiles.seal(key)
        small = self.store.settle(runs, runs_block_bytes(g.rows, nruns), "runs")
        self.slab.free(runs)
        start, _ = runs_views(self.bytes, small.offset, g.rows, small.nbytes)
        start[rows:] = nruns
        then(key, small, nruns)

    def have_runs(self, y0: int, y1: int) -> bool:
        """Whether the runs of these rows are there.

        Those of rows of tiles above the place where a run was resumed are found again when somebody looks at them: no
        checkpoint holds runs, because whoever needs them needs pixels, which it doesn't hold either.
        """
        if y0 // self.grid.rows > self.resumed:
            return True
        missing = [key for key in self._keys(y0, y1) if key[1] <= self.resumed and self.store.find(self._number(key)) is None]
        for key in missing:
            # That of the resumed scan itself brings its own.
            again = key[1] < self.resumed and key not in self._loading
            if again and (self.backend.idle_slots() <= 0 or not self._find_runs(key)):
                break
        return not missing

    def _find_runs(self, key: TileKey) -> bool:
        """Have a tile above the resumed scan scanned again; False if there is no room."""
        rows, columns = self.grid.tile(*key[1:]).shape
        try:
            runs = self.alloc_for_task(runs_block_bytes(self.grid.rows, first_runs(rows, columns)), "runs")
        except SlabFull:
            return False
        # It may be held without its runs.
        self.tiles.discard(key)
        block = self.reserve_tile(key)
        if block is None:
            self.slab.free(runs)
            return False
        self._loading.add(key)
        self.load_tile(key, block, runs, partial(self.scanned, key, block, runs, self._found_again))
        return True

    def _found_again(self, key: TileKey, runs: BlockRef, nruns: int) -> None:
        self.store.add(self._number(key), runs)
        self._arrived(key)

    def _number(self, key: TileKey) -> int:
        return key[1] * self.grid.across + key[2]

    def close(self) -> None:
        """Free everything but what the stages hold."""
        for ref in self._kept:
            self.slab.free(ref)
        self.store.close()
        self.tiles.clear()
