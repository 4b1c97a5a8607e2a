"""One image extension, from its first pixel to its last row: what is asked of workers when, and what becomes of the answers.

The parent's side.  It handles runs, footprints and sources as arrays in the slab, by kernels, and never a pixel.
Footprints come and go in closing order; whatever workers finish early waits for its turn.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.catalogue.writer import ExtensionFacts
from sextract.deblending import _clean, _deblend
from sextract.detection import _components
from sextract.errors import InputError, LimitError, SextractError, WorkerError
from sextract.execution.backend import Task
from sextract.memory.slab import SlabFull
from sextract.memory.tiles import Lease, TileKey
from sextract.pipeline.plan import Layout, Run
from sextract.pipeline.stages import (
    EATEN,
    Kind,
    Setup,
    pack,
    runs_block_bytes,
    runs_views,
    with_frame,
)
from sextract.records import FOOTPRINT, FRAGMENT, RUN, SOURCE, BlockRef, Frame

# A task of about ten milliseconds: footprints and pixels of a DEBLEND, sources of a MEASURE.
FOOTPRINTS_PER_TASK = 192
PIXELS_PER_TASK = 60_000
SOURCES_PER_TASK = 192

# Marks an eaten source that has been painted, or whose eater is gone.
GONE = -(1 << 62)

Reply = NDArray[np.int64]


@dataclass(slots=True)
class Band:
    """A row of tiles on its way from the scan to the components."""

    runs: list[BlockRef | None]
    counts: list[int]
    missing: int


@dataclass(slots=True)
class Blend:
    """A batch of footprints, and what came of them so far."""

    ref: BlockRef
    nfoot: int
    nfrag: int
    npix: int
    rows: tuple[int, int]
    first_row: int
    done: int = 0
    growth: int = 1
    big_bytes: int = 0
    parts: list[tuple[BlockRef, int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Measured:
    """A batch of sources, and the rows they will have."""

    first: int
    last: int
    rows: BlockRef
    nrows: int
    waiting: list[tuple[NDArray[Any], NDArray[np.int64], int]] = field(default_factory=list)
    running: int = 0
    state: str = "new"


class Extraction:
    """Runs one extension.

    Parameters
    ----------
    run : Run
        What all extensions share.
    extension : int
        Index among the images.
    layout : Layout
    """

    def __init__(self, run: Run, extension: int, layout: Layout) -> None:
        self.run, self.layout, self.extension = run, layout, extension
        self.slab, self.tiles, self.backend, self.settings = run.slab, run.tiles, run.backend, run.settings
        self.info = run.images[extension].info
        self.grid = layout.tiles
        self.bytes = np.frombuffer(self.slab.bytes_view(0, self.slab.capacity), np.uint8)
        self.callbacks: dict[int, Callable[[Reply], None]] = {}
        self.held: list[BlockRef] = []
        self.bad = 0

    # Blocks and tasks

    def _alloc(self, nbytes: int, owner: str) -> BlockRef:
        return self.tiles.alloc(max(nbytes, 64), owner)

    def _keep(self, nbytes: int, owner: str) -> BlockRef:
        """A block for as long as the extension lasts."""
        ref = self._alloc(nbytes, owner)
        self.held.append(ref)
        return ref

    def _view(self, ref: BlockRef, dtype: np.dtype[Any], n: int, offset: int = 0) -> NDArray[Any]:
        first = ref.offset + offset
        return self.bytes[first : first + n * dtype.itemsize].view(dtype)

    def _submit(self, kind: Kind, payload: bytes, then: Callable[[Reply], None], affinity: int | None = None) -> None:
        self.callbacks[self.backend.submit(Task(int(kind), payload, affinity))] = then

    def _wait(self) -> None:
        """Take the answers that are there, or wait for one."""
        for result in self.backend.wait(0.2):
            then = self.callbacks.pop(result.ticket)
            if result.error is not None:
                raise result.error
            if result.reply is None:
                raise WorkerError(f"a task crashed two workers ({result.died}) in {self.info.spec}")
            then(np.frombuffer(result.reply, np.int64))
        self.run.sample()

    def _drain_tasks(self) -> None:
        while self.callbacks:
            self._wait()

    # Background

    def measure_background(self) -> Frame:
        """Pass 1: the background, and what follows from it."""
        layout, grid = self.layout, self.layout.mesh
        maps = self._keep(layout.mesh_bytes, "background")
        self.setup = Setup(self.extension, grid, maps, self.grid, self.run.scratch)
        self.backend.broadcast(Kind.SETUP, pickle.dumps(self.setup))
        cells = layout.mesh_cells
        across = range(0, grid.nx, cells[1])
        todo = deque((j, min(j + cells[0], grid.ny), i, min(i + cells[1], grid.nx)) for j in range(0, grid.ny, cells[0]) for i in across)
        while todo or self.callbacks:
            while todo and self.backend.idle_slots() > 0:
                j0, j1, i0, i1 = todo.popleft()
                self._submit(Kind.MESH, pack(j0, j1, i0, i1), lambda reply, n=(j1 - j0) / grid.ny * (i1 - i0) / grid.nx: self._meshed(reply, n))
            self._wait()
        background = self.run.attach_background(maps, grid)
        scratch = self._alloc(layout.complete_bytes, "background")
        background.complete(self.settings.background, self._view(scratch, np.dtype(np.uint8), layout.complete_bytes))
        self.slab.free(scratch)
        if not np.isfinite(background.mean) or not np.isfinite(background.global_rms):
            raise InputError(
                f"{self.info.spec} (extension {self.info.ext_number}): no background can be measured, "
                f"{self.bad} of {self.info.width * self.info.height} pixels are bad"
            )
        if self.bad:
            self.run.reporter.warning(f"{self.bad} bad pixels (NaN, infinite or BLANK) are masked")
        frame = self.run.frame(self.info, background)
        self.setup = with_frame(self.setup, frame)
        self.backend.broadcast(Kind.SETUP, pickle.dumps(self.setup))
        return frame

    def _meshed(self, reply: Reply, share: float) -> None:
        self.bad += int(reply[0])
        self.run.progress.advance(0.15 * share)

    # Detection

    def extract(self, frame: Frame) -> ExtensionFacts:
        """Pass 2: detect, deblend, clean, measure and write."""
        self.frame = frame
        self._begin()
        while not self._finished():
            moved = self._advance()
            if self.callbacks:
                self._wait()
            elif not moved:
                raise LimitError(
                    f"{self.info.spec}: {self.slab.capacity >> 20} MiB of buffers can't hold the sources that must be kept "
                    f"at the same time; raise --mem-limit, or DETECT_THRESH"
                )
        self._end()
        return ExtensionFacts(detected=self.detected, extracted=self.number)

    def _begin(self) -> None:
        g, deb, det = self.grid, self.settings.deblending, self.settings.detection
        self.runs_at = np.full(g.across * g.down, -1, np.int64)
        self.bands: dict[int, Band] = {}
        self.next_tile = self.next_band = 0
        labels = self._keep(2 * (g.width // 2 + 2) * _components.LABEL_BYTES, "components")
        self.pool = self._pool(4 * g.width + 4096, g.width + 1024)
        self.components = _components.Components(*self.pool_views(), self._view(labels, np.dtype(np.uint8), labels.nbytes), det.minarea)
        self.components.parents = self.run.parents
        self.fed_row = 0
        self.scanned = False
        self.blends: deque[Blend] = deque()
        self.waiting_blends: deque[Blend] = deque()
        self.giant: BlockRef | None = None
        self.giant_busy = False
        lag = det.kernel.shape[0] // 2 if det.kernel is not None else -1
        heads = self._keep(4 * 16384, "clean")
        found = self._keep(4 * 65536, "clean")
        i4 = np.dtype(np.int32)
        self.cleaner = _clean.Cleaner(
            deb.clean_param, deb.clean, deb.clean_reach_rows, lag, g.width, g.height, self._view(heads, i4, 16384),
            self._view(found, i4, 65536),
        )  # fmt: skip
        self.table_ref: BlockRef | None = None
        self.follow_ref: BlockRef | None = None
        self.capacity = 0
        self.base = 0
        self._grow_table(4096)
        self.freed_ref = self._alloc(FRAGMENT.itemsize * 8192, "clean")
        self.nfreed = 0
        self.number = self.detected = 0
        self.numbered = self.batched = 0
        self.outputs: deque[tuple[int, BlockRef]] = deque()
        self.batches: deque[Measured] = deque()
        self.written_upto = 0

    def _pool(self, pieces: int, components: int) -> tuple[BlockRef, BlockRef]:
        return (
            self._alloc(pieces * _components.PIECE_BYTES, "components"),
            self._alloc(components * _components.COMPONENT_BYTES, "components"),
        )

    def pool_views(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Storage of pieces and components."""
        u1 = np.dtype(np.uint8)
        return self._view(self.pool[0], u1, self.pool[0].nbytes), self._view(self.pool[1], u1, self.pool[1].nbytes)

    def _finished(self) -> bool:
        return (
            self.scanned and not self.blends and not self.batches and self.batched == self.cleaner.count
            and self.numbered == self.cleaner.count and not self.callbacks
        )  # fmt: skip

    def _end(self) -> None:
        self.run.parents = self.components.parents
        if self.giant is not None:
            self.slab.free(self.giant)
        for ref in (*self.pool, self.table_ref, self.follow_ref, self.freed_ref, *(r for _, r in self.outputs)):
            if ref is not None:
                self.slab.free(ref)
        for ref in self.run_blocks:
            self.slab.free(ref)
        for ref in self.held:
            self.slab.free(ref)
        for key in list(self.tiles):
            self.tiles.discard(key)

    run_blocks: list[BlockRef]

    def _advance(self) -> bool:
        """Submit what can be; whether anything moved."""
        moved = False
        while self.backend.idle_slots() > 0:
            if not (self._submit_measure() or self._submit_blend() or self._submit_scan()):
                break
            moved = True
        return moved

    def _submit_scan(self) -> bool:
        g = self.grid
        if self.next_tile == g.across * g.down:
            return False
        if self.next_tile == 0:
            self.run_blocks = []
        ty, tx = divmod(self.next_tile, g.across)
        tile, block = g.tile(ty, tx), g.block(ty, tx)
        rows, columns = tile.shape
        runs_bytes = runs_block_bytes(g.rows, rows * (columns // 24 + 1) + columns // 2 + 1)
        key: TileKey = (self.extension, ty, tx)
        try:
            ref = self.tiles.reserve(key, block.size * 4)
        except SlabFull:
            return False
        try:
            runs = self._alloc(runs_bytes, "runs")
        except SlabFull:
            self.tiles.discard(key)
            return False
        self.next_tile += 1
        self.bands.setdefault(ty, Band([None] * g.across, [0] * g.across, g.across))
        self._scan(key, ref, runs, 0, 0)
        return True

    def _scan(self, key: TileKey, ref: BlockRef, runs: BlockRef, done: int, bad: int) -> None:
        _, ty, tx = key
        payload = pack(ty, tx, ref.offset, runs.offset, runs.nbytes, done, bad)
        self._submit(Kind.SCAN, payload, lambda reply: self._scanned(key, ref, runs, reply))

    def _scanned(self, key: TileKey, ref: BlockRef, runs: BlockRef, reply: Reply) -> None:
        done, nruns, bad = reply.tolist()
        _, ty, tx = key
        g = self.grid
        rows, columns = g.tile(ty, tx).shape
        if done < rows:
            # Many more runs than usual: the same again with room for any number.
            more = self._alloc(runs_block_bytes(g.rows, nruns + (rows - done) * (columns // 2 + 1)), "runs")
            self.bytes[more.offset : more.offset + runs.nbytes] = self.bytes[runs.offset : runs.offset + runs.nbytes]
            self.slab.free(runs)
            self._scan(key, ref, more, done, bad)
            return
        self.tiles.seal(key)
        runs = self.slab.resize_down(runs, runs_block_bytes(g.rows, nruns))
        start, _ = runs_views(self.bytes, runs.offset, g.rows, runs.nbytes)
        start[rows:] = nruns
        self.run_blocks.append(runs)
        self.runs_at[ty * g.across + tx] = runs.offset
        band = self.bands[ty]
        band.runs[tx], band.counts[tx] = runs, nruns
        band.missing -= 1
        self.run.progress.advance(0.35 * rows * columns / (g.width * g.height))
        while (band := self.bands.get(self.next_band)) is not None and band.missing == 0:
            self._feed(self.next_band, band)
            del self.bands[self.next_band]
            self.next_band += 1
        if self.next_band == g.down:
            self.components.finish(g.height)
            self.scanned = True
        self._drain(self.scanned)

    def _feed(self, ty: int, band: Band) -> None:
        """Join the runs of a row of tiles to the components."""
        g = self.grid
        y0, rows = ty * g.rows, min(g.rows, g.height - ty * g.rows)
        views = [runs_views(self.bytes, r.offset, g.rows, r.nbytes) for r in band.runs if r is not None]
        joined: BlockRef | None = None
        if len(views) == 1:
            start, runs = views[0]
        else:
            joined = self._alloc(runs_block_bytes(g.rows, sum(band.counts) + 1), "runs")
            start, runs = runs_views(self.bytes, joined.offset, g.rows, joined.nbytes)
            _components.join_tiles([v[0] for v in views], [v[1] for v in views], rows, start, runs)
        done = 0
        start = start[: rows + 1]
        if len(runs) == 0:
            runs = np.zeros(1, RUN)
        while (done := self.components.feed(start, runs, y0, done)) < rows:
            if self.components.waiting[0]:
                self._drain(True)
            else:
                self._grow_pool()
        self.fed_row = y0 + rows
        if joined is not None:
            self.slab.free(joined)

    def _grow_pool(self) -> None:
        free_pieces, free_components = self.components.free
        pieces, components = self.components.npieces, self.components.ncomponents
        old = self.pool
        self.pool = self._pool(
            pieces * (2 if free_pieces < pieces // 2 else 1) + self.grid.width,
            components * (2 if free_components < components // 2 else 1) + self.grid.width,
        )
        self.components.grow(*self.pool_views())
        for ref in old:
            self.slab.free(ref)

    # Deblending

    def _drain(self, everything: bool) -> None:
        """Make batches of closed footprints."""
        while self.components.waiting[0] and (everything or self.components.waiting[0] >= FOOTPRINTS_PER_TASK):
            n, pieces, pixels = self.components.next_closed(PIXELS_PER_TASK, FOOTPRINTS_PER_TASK, 1 << 20)
            ref = self._alloc(n * FOOTPRINT.itemsize + pieces * FRAGMENT.itemsize, "footprints")
            footprints = self._view(ref, FOOTPRINT, n)
            self.components.drain(footprints, self._view(ref, FRAGMENT, pieces, n * FOOTPRINT.itemsize))
            rows = int(footprints["ymin"].min()), int(footprints["ymax"].max()) + 1
            blend = Blend(ref, n, pieces, pixels, rows, int(footprints["row"][0]))
            self.blends.append(blend)
            self.waiting_blends.append(blend)

    def _submit_blend(self) -> bool:
        if not self.waiting_blends and self.components.waiting[0] and not self.callbacks:
            self._drain(True)
        if not self.waiting_blends:
            return False
        b = self.waiting_blends[0]
        if b.big_bytes and self.giant_busy:
            return False
        left, pixels = b.nfoot - b.done, b.npix
        pieces = b.growth * (2 * b.nfrag + pixels // 6 + 64) // 2 * 2
        sources = b.growth * (2 * left + pixels // 64 + 16)
        try:
            out = self._alloc(pieces * FRAGMENT.itemsize + sources * SOURCE.itemsize, "sources")
        except SlabFull:
            return False
        try:
            big = self._lease_giant(b.big_bytes) if b.big_bytes else BlockRef(0, 0)
        except SlabFull:
            self.slab.free(out)
            return False
        self.waiting_blends.popleft()
        lease = self._pin(b.rows[0] - self.grid.halo_y, b.rows[1] + self.grid.halo_y)
        head = pack(
            b.nfoot, b.ref.offset, b.ref.offset + b.nfoot * FOOTPRINT.itemsize, b.nfrag, b.done, out.offset, pieces, sources,
            big.offset, big.nbytes,
        )  # fmt: skip
        self._submit(Kind.DEBLEND, head + self._tile_pairs(lease), lambda reply: self._blended(b, out, pieces, lease, reply))
        return True

    def _lease_giant(self, nbytes: int) -> BlockRef:
        if self.giant is not None and self.giant.nbytes < nbytes:
            self.slab.free(self.giant)
            self.giant = None
        if self.giant is None:
            self.giant = self._alloc(nbytes, "giant")
        self.giant_busy = True
        return self.giant

    def _pin(self, y0: int, y1: int) -> Lease:
        """Hold the tiles of these rows that are there."""
        g = self.grid
        first, last = max(y0, 0) // g.rows, min(max(y1, 1), g.height) - 1
        return self.tiles.pin((self.extension, ty, tx) for ty in range(first, last // g.rows + 1) for tx in range(g.across))

    def _tile_pairs(self, lease: Lease) -> bytes:
        across = self.grid.across
        return pack([v for (_, ty, tx), ref in lease.refs.items() for v in (ty * across + tx, ref.offset)])

    def _blended(self, b: Blend, out: BlockRef, pieces: int, lease: Lease, reply: Reply) -> None:
        self.tiles.release(lease)
        done, why, nsources, npieces, needed = reply.tolist()
        if b.big_bytes:
            self.giant_busy = False
        b.parts.append((out, nsources, npieces, pieces))
        b.done = done
        b.big_bytes = 0
        if done < b.nfoot:
            if why == _deblend.SCRATCH:
                b.big_bytes = needed
            else:
                b.growth *= 4
            self.waiting_blends.appendleft(b)
            return
        while self.blends and self.blends[0].done == self.blends[0].nfoot:
            self._clean(self.blends.popleft())
        self._number()

    # CLEAN

    def _grow_table(self, capacity: int) -> None:
        """Move the table of sources to a larger block."""
        count = self.cleaner.count
        table, follow = self._alloc(capacity * SOURCE.itemsize, "sources"), self._alloc(4 * capacity, "sources")
        new = self._view(table, SOURCE, capacity)
        if self.table_ref is not None and self.follow_ref is not None:
            new[:count] = self.table[:count]
            self.slab.free(self.table_ref)
            self.slab.free(self.follow_ref)
        self.table_ref, self.follow_ref, self.capacity, self.table = table, follow, capacity, new
        self.cleaner.attach(new, self._view(follow, np.dtype(np.int32), capacity), count)

    def _clean(self, b: Blend) -> None:
        """Take the sources of a batch into the window, and merge what CLEAN merges."""
        self.slab.free(b.ref)
        for out, nsources, npieces, room in b.parts:
            sources = self._view(out, SOURCE, nsources, room * FRAGMENT.itemsize)
            sources["fragments"] = sources["fragments"] * FRAGMENT.itemsize + out.offset
            count = self.cleaner.count
            if count + nsources > self.capacity:
                self._compact()
                count = self.cleaner.count
            if count + nsources > self.capacity:
                self._grow_table(2 * (count + nsources))
            self.table[count : count + nsources] = sources
            self.detected += nsources
            out = self.slab.resize_down(out, max(npieces * FRAGMENT.itemsize, 64))
            self.outputs.append((self.base + count + nsources, out))
            while True:
                room = self.freed_ref.nbytes // FRAGMENT.itemsize
                freed = self._view(self.freed_ref, FRAGMENT, room)
                n, more = self.cleaner.add(count + nsources, self.bytes, freed[self.nfreed :])
                self.nfreed += n
                if more == 0:
                    break
                if more < 0:
                    raise SextractError("CLEAN: too many neighbours of one source; lower CLEAN_REACH")
                self._grow_freed(max(2 * room, self.nfreed + more))

    def _grow_freed(self, room: int) -> None:
        new = self._alloc(room * FRAGMENT.itemsize, "clean")
        n = self.nfreed * FRAGMENT.itemsize
        self.bytes[new.offset : new.offset + n] = self.bytes[self.freed_ref.offset : self.freed_ref.offset + n]
        self.slab.free(self.freed_ref)
        self.freed_ref = new

    def _compact(self) -> None:
        """Drop the rows of the table that are done with."""
        n = self.written_upto - self.base
        if n <= 0:
            return
        count = self.cleaner.count
        moved = self.table[: count - n]
        for first in range(0, count - n, 4096):
            last = min(first + 4096, count - n)
            moved[first:last] = self.table[first + n : last + n]
        eaten = moved["number"] < 0
        eaters = -1 - moved["number"][eaten] - n
        moved["number"][eaten] = np.where(eaters >= 0, -1 - eaters, GONE)
        self.base += n
        self.numbered -= n
        self.batched -= n
        assert self.follow_ref is not None
        self.cleaner.attach(self.table, self._view(self.follow_ref, np.dtype(np.int32), self.capacity), count - n)

    def _final_row(self) -> int:
        """Rows below this one have final masks."""
        if self.scanned and not self.blends and not self.components.waiting[0]:
            return self.grid.height
        line = self.fed_row
        if self.components.waiting[0]:
            line = self.components.first_closed_row
        if self.blends:
            line = self.blends[0].first_row
        deb = self.settings.deblending
        return max(line - (deb.clean_reach_rows if deb.clean else 0), 0)

    def _number(self) -> None:
        """Number what is final, and note down to which row each new source will look."""
        first = self.numbered
        self.numbered, self.number = self.cleaner.number(first, self._final_row(), self.number)
        new = self.table[first : self.numbered]
        if len(new):
            new["spare"] = self.run.reach_rows(new, self.grid.height)

    # Measurement

    def _submit_measure(self) -> bool:
        final = self._final_row()
        for m in self.batches:
            for k, (sources, place, row) in enumerate(m.waiting):
                if row <= final and self._measure(m, sources, place, final):
                    del m.waiting[k]
                    return True
        if self.numbered < self.cleaner.count:
            self._number()
        table = self.table[self.batched : self.numbered]
        alive = np.flatnonzero(table["number"] > 0)
        if not len(alive):
            self.batched = self.numbered
            self._write()
            return False
        late = np.flatnonzero(table["spare"][alive] > final)
        ready = int(late[0]) if len(late) else len(alive)
        ending = self.scanned and not self.blends
        if ready == 0 or (ready < SOURCES_PER_TASK and not ending and not len(late) and self.next_tile < self.grid.across * self.grid.down):
            return False
        if ready < SOURCES_PER_TASK // 4 and not ending:
            return False
        n = min(ready, SOURCES_PER_TASK)
        last = int(alive[n - 1]) + 1
        chosen = table[alive[:n]]
        try:
            rows = self._alloc(n * self.run.plan.row.itemsize, "rows")
        except SlabFull:
            return False
        m = Measured(self.batched, self.batched + last, rows, n)
        m.first, m.last = self.base + self.batched, self.base + self.batched + last
        if not self._measure(m, chosen, np.arange(n), final):
            self.slab.free(rows)
            return False
        self.batched += last
        self.batches.append(m)
        return True

    def _measure(self, m: Measured, sources: NDArray[Any], place: NDArray[np.int64], final: int) -> bool:
        """Submit sources of a batch; False if there is no room."""
        g, n = self.grid, len(sources)
        eaten = self._eaten(m) if self.run.paints else np.empty(0, EATEN)
        y0, y1 = self._rows_of(sources)
        freed = self._freed_between(y0, y1)
        try:
            ref = self._alloc(n * (SOURCE.itemsize + 8) + eaten.nbytes + freed.nbytes, "sources")
        except SlabFull:
            return False
        self._view(ref, SOURCE, n)[:] = sources
        at = n * SOURCE.itemsize
        self._view(ref, np.dtype(np.int64), n, at)[:] = place
        self._view(ref, EATEN, len(eaten), at + 8 * n)[:] = eaten
        self._view(ref, FRAGMENT, len(freed), at + 8 * n + eaten.nbytes)[:] = freed
        lease = self._pin(y0, y1)
        first, last = y0 // g.rows, (max(y1, y0 + 1) - 1) // g.rows + 1
        index = np.arange(first * g.across, min(last, g.down) * g.across)
        index = index[self.runs_at[index] >= 0]
        head = pack(
            n, ref.offset, ref.offset + at, ref.offset + at + 8 * n + eaten.nbytes, len(freed), m.rows.offset, m.nrows, final,
            ref.offset + at + 8 * n, len(eaten), len(lease.refs), len(index),
        )  # fmt: skip
        payload = head + self._tile_pairs(lease) + np.column_stack([index, self.runs_at[index]]).astype(np.int64).tobytes()
        m.running += 1
        self._submit(Kind.MEASURE, payload, lambda reply: self._measured(m, ref, sources, place, lease, reply))
        return True

    def _rows_of(self, sources: NDArray[Any]) -> tuple[int, int]:
        """Rows that these sources may look at."""
        half = sources["spare"] - sources["y"]
        y0 = int(max(np.floor((sources["y"] - half).min()) - 4, 0))
        return y0, int(min(sources["spare"].max() + 64, self.grid.height))

    def _freed_between(self, y0: int, y1: int) -> NDArray[Any]:
        freed = self._view(self.freed_ref, FRAGMENT, self.nfreed)
        some = freed[(freed["y"] >= y0) & (freed["y"] < y1)]
        return some[np.argsort(some["y"], kind="stable")]

    def _eaten(self, m: Measured) -> NDArray[Any]:
        """What the sources of a batch have eaten, with their NUMBERs, once."""
        numbers = self.table["number"][: self.cleaner.count]
        index = np.flatnonzero((numbers < 0) & (numbers > GONE))
        root = -1 - numbers[index]
        while (deeper := numbers[root] < 0).any():
            root[deeper] = -1 - numbers[root[deeper]]
        mine = (root >= m.first - self.base) & (root < m.last - self.base)
        out = np.empty(int(mine.sum()), EATEN)
        for name in ("fragments", "nfragments"):
            out[name] = self.table[name][index[mine]]
        out["number"] = numbers[root[mine]]
        return out

    def _measured(
        self, m: Measured, ref: BlockRef, sources: NDArray[Any], place: NDArray[np.int64], lease: Lease, reply: Reply
    ) -> None:
        self.tiles.release(lease)
        self.slab.free(ref)
        m.running -= 1
        for i, row in reply.reshape(-1, 2).tolist():
            late = sources[i : i + 1].copy()
            late["spare"] = row
            m.waiting.append((late, place[i : i + 1], row))
        if m.running == 0 and not m.waiting:
            if self.run.plan.table:
                m.state = "table"
                self._submit(Kind.TABLE, pack(m.rows.offset, m.nrows), lambda reply: self._tabled(m), affinity=0)
            else:
                self._tabled(m)

    def _tabled(self, m: Measured) -> None:
        m.state = "done"
        self._write()

    def _write(self) -> None:
        """Write the rows whose turn it is, and let go of what they needed."""
        while self.batches and self.batches[0].state == "done":
            m = self.batches.popleft()
            self.run.write(self._view(m.rows, self.run.plan.row, m.nrows))
            self.slab.free(m.rows)
        self.written_upto = self.batches[0].first if self.batches else self.base + self.batched
        while self.outputs and self.outputs[0][0] <= self.written_upto:
            self.slab.free(self.outputs.popleft()[1])
