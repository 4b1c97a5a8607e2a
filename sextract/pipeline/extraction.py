"""One image extension, from its first pixel to its last row: what is asked of workers when, and what becomes of the answers.

The parent's side.  It handles runs, footprints and sources as arrays in the slab, by kernels, and never a pixel.
Footprints come and go in closing order; whatever workers finish early waits for its turn.  A task takes all it needs when it
is submitted; what can't be had then is asked for again when others have given theirs back.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.background.surface import Background
from sextract.catalogue.writer import ExtensionFacts
from sextract.deblending import _deblend
from sextract.detection import _components
from sextract.errors import InputError, LimitError, WorkerError
from sextract.execution.backend import Result, Task
from sextract.memory.slab import SlabFull
from sextract.memory.tiles import Lease, TileKey
from sextract.pipeline.layout import Layout
from sextract.pipeline.plan import Run
from sextract.pipeline.runs import RunStore
from sextract.pipeline.sources import SourceTable
from sextract.pipeline.stages import EATEN, Kind, Setup, pack, runs_block_bytes, runs_views, with_frame
from sextract.records import FOOTPRINT, FRAGMENT, RUN, SOURCE, BlockRef, Frame

# A task of about ten milliseconds: footprints and pixels of a DEBLEND, sources of a MEASURE.
FOOTPRINTS_PER_TASK = 192
PIXELS_PER_TASK = 60_000
SOURCES_PER_TASK = 192

# Free room that a new task leaves for what its answer may need.
SPARE_BYTES = 1 << 20

# Shares of the work, for the progress bar.
MESH_SHARE, SCAN_SHARE, MEASURE_SHARE = 0.1, 0.3, 0.6

Reply = NDArray[np.int64]


@dataclass(slots=True)
class Band:
    """A row of tiles on its way from the scan to the components."""

    runs: list[BlockRef | None]
    counts: list[int]
    missing: int


@dataclass(slots=True)
class Part:
    """Footprints [first, last) of a batch, to be deblended by one task."""

    first: int
    last: int
    whole: bool = False  # no deblending: it crashed
    growth: int = 1
    scratch_bytes: int = 0


@dataclass(slots=True)
class Blend:
    """A batch of footprints, and what came of them so far: blocks with sources, by first footprint."""

    ref: BlockRef
    nfoot: int
    nfrag: int
    npix: int
    rows: tuple[int, int]
    first_row: int
    todo: int
    found: dict[int, tuple[BlockRef, int, int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Some:
    """Sources of a batch that one task measures: copies, their rows, and the row that must be final before."""

    sources: NDArray[Any]
    place: NDArray[np.int64]
    row: int = 0


@dataclass(slots=True)
class Measured:
    """A batch of sources at absolute places [first, last) of the table, and the rows they will have."""

    first: int
    last: int
    rows: BlockRef
    nrows: int
    row: int
    waiting: list[Some] = field(default_factory=list)
    running: int = 0
    done: bool = False


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
        self.store = RunStore(self.slab, self.tiles, self.settings.resources.scratch_dir)
        self.callbacks: dict[int, tuple[Callable[[Reply], None], Callable[[str], None]]] = {}
        self.held: list[BlockRef] = []
        self.bad = 0

    # Blocks and tasks

    def _alloc(self, nbytes: int, owner: str) -> BlockRef:
        return self.store.alloc(nbytes, owner)

    def _alloc_for_task(self, nbytes: int, owner: str) -> BlockRef:
        """A block for a new task, which leaves room for the answers of those that run."""
        ref = self._alloc(nbytes, owner)
        if self.callbacks and not self.tiles.make_room(SPARE_BYTES):
            self.slab.free(ref)
            raise SlabFull(nbytes, self.slab.free_bytes, self.slab.largest_free())
        return ref

    def _keep(self, nbytes: int, owner: str) -> BlockRef:
        """A block for as long as the extension lasts."""
        ref = self._alloc(nbytes, owner)
        self.held.append(ref)
        return ref

    def _view(self, ref: BlockRef, dtype: np.dtype[Any], n: int, offset: int = 0) -> NDArray[Any]:
        first = ref.offset + offset
        return self.bytes[first : first + n * dtype.itemsize].view(dtype)

    def _submit(
        self, kind: Kind, payload: bytes, then: Callable[[Reply], None], *, affinity: int | None = None,
        crashed: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.callbacks[self.backend.submit(Task(int(kind), payload, affinity))] = then, crashed or self._give_up

    def _give_up(self, died: str) -> None:
        raise WorkerError(f"{self.info.spec}: a task crashed two workers one after the other ({died})")

    def _wait(self) -> None:
        """Take the answers that are there, or wait for one."""
        for result in self.backend.wait(0.2):
            self._answer(result)
        self.run.sample()

    def _answer(self, result: Result) -> None:
        then, crashed = self.callbacks.pop(result.ticket)
        if result.error is not None:
            raise result.error
        if result.reply is None:
            crashed(result.died or "")
        else:
            then(np.frombuffer(result.reply, np.int64))

    # Background

    def measure_background(self) -> Frame:
        """Pass 1: the background, and what follows from it."""
        layout, grid = self.layout, self.layout.mesh
        maps = self._keep(layout.mesh_bytes, "background")
        self.setup = Setup(self.extension, grid, maps, self.grid, self.run.scratch)
        self.backend.broadcast(Kind.SETUP, pickle.dumps(self.setup))
        cells = layout.mesh_cells
        across = range(0, grid.nx, cells[1])
        down = range(0, grid.ny, cells[0])
        todo = deque((j, min(j + cells[0], grid.ny), i, min(i + cells[1], grid.nx)) for j in down for i in across)
        while todo or self.callbacks:
            while todo and self.backend.idle_slots() > 0:
                self._submit(Kind.MESH, pack(*todo.popleft()), self._meshed)
            self._wait()
        background = self.run.attach_background(maps, grid)
        scratch = self._alloc(layout.complete_bytes, "background")
        background.complete(self.settings.background, self._view(scratch, np.dtype(np.uint8), layout.complete_bytes))
        self.slab.free(scratch)
        if not np.isfinite(background.mean) or not np.isfinite(background.global_rms):
            self._without_background(background)
        elif background.mostly_constant:
            self.run.reporter.warning(f"{self.info.spec}: the image is mostly constant, its noise a makeshift")
        if self.bad:
            self.run.reporter.warning(f"{self.bad} bad pixels (NaN, infinite or BLANK) are masked")
        frame = self.run.frame(self.info, background)
        self.setup = with_frame(self.setup, frame)
        self.backend.broadcast(Kind.SETUP, pickle.dumps(self.setup))
        return frame

    def _without_background(self, background: Background) -> None:
        """A dead CCD doesn't cost the others their catalogue; a file of nothing else is refused."""
        text = (
            f"{self.info.spec} (extension {self.info.ext_number}): no background can be measured, "
            f"{self.bad} of {self.info.width * self.info.height} pixels are bad"
        )
        self.run.barren += 1
        if self.run.barren == len(self.run.images):
            raise InputError(text)
        self.run.reporter.warning(text)
        background.give_up()

    def _meshed(self, reply: Reply) -> None:
        bad, cells = reply.tolist()
        self.bad += bad
        self.run.progress.advance(MESH_SHARE * cells / (self.layout.mesh.nx * self.layout.mesh.ny))

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
                    f"{self.info.spec}: {self.slab.capacity >> 20} MiB of buffers can't hold what must be kept at the same "
                    f"time at row {self.fed_row}; raise --mem-limit or DETECT_THRESH"
                )
        self._end()
        return ExtensionFacts(detected=self.table.detected, extracted=self.table.number)

    def _begin(self) -> None:
        g = self.grid
        self.bands: dict[int, Band] = {}
        self.next_tile = self.next_band = 0
        labels = self._keep(2 * (g.width // 2 + 2) * _components.LABEL_BYTES, "components")
        self.pool = self._pool(4 * g.width + 4096, g.width + 1024)
        u1, minarea = np.dtype(np.uint8), self.settings.detection.minarea
        self.components = _components.Components(*self._pool_views(), self._view(labels, u1, labels.nbytes), minarea)
        self.components.parents = self.run.parents
        self.fed_row = 0
        self.scanned = False
        self.blends: deque[Blend] = deque()
        self.parts: deque[tuple[Blend, Part]] = deque()
        self.giant: BlockRef | None = None
        self.giant_busy = False
        self.table = SourceTable(
            self.store, self.slab, self.bytes, self.settings, g.width, g.height, lambda s: self.run.reach_rows(s, g.height)
        )
        self.batches: deque[Measured] = deque()
        self.written = 0
        self.loading: set[TileKey] = set()
        self.loaded_for = -1
        self.progress_row = 0

    def _pool(self, pieces: int, components: int) -> tuple[BlockRef, BlockRef]:
        return (
            self._alloc(pieces * _components.PIECE_BYTES, "components"),
            self._alloc(components * _components.COMPONENT_BYTES, "components"),
        )

    def _pool_views(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Storage of pieces and components."""
        u1 = np.dtype(np.uint8)
        return self._view(self.pool[0], u1, self.pool[0].nbytes), self._view(self.pool[1], u1, self.pool[1].nbytes)

    def _finished(self) -> bool:
        t = self.table
        return self.scanned and not self.blends and not self.batches and t.batched == t.count and not self.callbacks

    def _end(self) -> None:
        self.run.parents = self.components.parents
        self.table.close()
        for ref in (*self.pool, *self.held, *([self.giant] if self.giant is not None else [])):
            self.slab.free(ref)
        self.store.close()
        for key in list(self.tiles):
            self.tiles.discard(key)

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
        ty, tx = divmod(self.next_tile, g.across)
        rows, columns = g.tile(ty, tx).shape
        key: TileKey = (self.extension, ty, tx)
        try:
            runs = self._alloc(runs_block_bytes(g.rows, rows * (columns // 24 + 1) + columns // 2 + 1), "runs")
        except SlabFull:
            return False
        if not self._load(key, runs):
            self.slab.free(runs)
            return False
        self.next_tile += 1
        self.bands.setdefault(ty, Band([None] * g.across, [0] * g.across, g.across))
        return True

    def _load(self, key: TileKey, runs: BlockRef | None) -> bool:
        """Have a tile loaded, and its runs found if there is a block for them; False if there is no room."""
        _, ty, tx = key
        try:
            ref = self.tiles.reserve(key, self.grid.block(ty, tx).size * 4)
        except SlabFull:
            return False
        if self.callbacks and not self.tiles.make_room(SPARE_BYTES):
            self.tiles.discard(key)
            return False
        self._scan(key, ref, runs or BlockRef(0, 0), 0, 0)
        return True

    def _scan(self, key: TileKey, ref: BlockRef, runs: BlockRef, done: int, bad: int) -> None:
        _, ty, tx = key
        payload = pack(ty, tx, ref.offset, runs.offset, runs.nbytes, done, bad)
        if runs.nbytes:
            self._submit(Kind.SCAN, payload, lambda reply: self._scanned(key, ref, runs, reply))
        else:
            self._submit(Kind.SCAN, payload, lambda reply: self._reloaded(key))

    def _reloaded(self, key: TileKey) -> None:
        self.tiles.seal(key)
        self.loading.discard(key)

    def _scanned(self, key: TileKey, ref: BlockRef, runs: BlockRef, reply: Reply) -> None:
        done, nruns, bad = reply.tolist()
        _, ty, tx = key
        g = self.grid
        rows, columns = g.tile(ty, tx).shape
        if done < rows:
            # Many more runs than usual: go on with room for any number.
            more = self._alloc(runs_block_bytes(g.rows, nruns + (rows - done) * (columns // 2 + 1)), "runs")
            self.bytes[more.offset : more.offset + runs.nbytes] = self.bytes[runs.offset : runs.offset + runs.nbytes]
            self.slab.free(runs)
            self._scan(key, ref, more, done, bad)
            return
        self.tiles.seal(key)
        runs = self.slab.resize_down(runs, runs_block_bytes(g.rows, nruns))
        start, _ = runs_views(self.bytes, runs.offset, g.rows, runs.nbytes)
        start[rows:] = nruns
        band = self.bands[ty]
        band.runs[tx], band.counts[tx] = runs, nruns
        band.missing -= 1
        self.run.progress.advance(SCAN_SHARE * rows * columns / (g.width * g.height))
        while (band := self.bands.get(self.next_band)) is not None and band.missing == 0:
            self._feed(self.next_band, band)
            for tx, found in enumerate(band.runs):
                assert found is not None
                self.store.add(self.next_band * g.across + tx, found)
            del self.bands[self.next_band]
            self.next_band += 1
        if self.next_band == g.down and not self.scanned:
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
        self.components.grow(*self._pool_views())
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
            blend = Blend(ref, n, pieces, pixels, rows, int(footprints["row"][0]), todo=n)
            self.blends.append(blend)
            self.parts.append((blend, Part(0, n)))

    def _submit_blend(self) -> bool:
        if not self.parts and self.components.waiting[0] and not self.callbacks:
            self._drain(True)
        if not self.parts:
            return False
        b, part = self.parts[0]
        if part.scratch_bytes and self.giant_busy:
            return False
        pieces = part.growth * (2 * b.nfrag + b.npix // 6 + 64) // 2 * 2
        sources = part.growth * (2 * (part.last - part.first) + b.npix // 64 + 16)
        try:
            out = self._alloc_for_task(pieces * FRAGMENT.itemsize + sources * SOURCE.itemsize, "sources")
        except SlabFull:
            return False
        try:
            scratch = self._lease_giant(part.scratch_bytes) if part.scratch_bytes else BlockRef(0, 0)
        except SlabFull:
            self.slab.free(out)
            return False
        self.parts.popleft()
        lease = self._pin(b.rows[0] - self.grid.halo_y, b.rows[1] + self.grid.halo_y)
        head = pack(
            part.last, b.ref.offset, b.ref.offset + b.nfoot * FOOTPRINT.itemsize, b.nfrag, part.first, part.whole,
            out.offset, pieces, sources, scratch.offset, scratch.nbytes,
        )  # fmt: skip
        self._submit(
            Kind.DEBLEND, head + self._tile_pairs(lease), lambda reply: self._blended(b, part, out, pieces, lease, reply),
            crashed=lambda died: self._blend_crashed(b, part, out, lease, died),
        )  # fmt: skip
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

    def _blended(self, b: Blend, part: Part, out: BlockRef, pieces: int, lease: Lease, reply: Reply) -> None:
        self.tiles.release(lease)
        done, why, nsources, npieces, needed = reply.tolist()
        if part.scratch_bytes:
            self.giant_busy = False
        if done > part.first:
            b.found[part.first] = out, nsources, npieces, pieces
        else:
            self.slab.free(out)
        b.todo -= done - part.first
        if done < part.last:
            full = why == _deblend.OUTPUT
            growth = 4 * part.growth if full and done == part.first else part.growth
            self.parts.appendleft((b, Part(done, part.last, part.whole, growth, 0 if full else needed)))
        while self.blends and self.blends[0].todo == 0:
            self._clean(self.blends.popleft())
        self.table.settle(self._final_row())

    def _blend_crashed(self, b: Blend, part: Part, out: BlockRef, lease: Lease, died: str) -> None:
        """Find the one footprint that crashes a worker, and take that one as a whole."""
        self.tiles.release(lease)
        self.slab.free(out)
        if part.scratch_bytes:
            self.giant_busy = False
        if part.last - part.first == 1:
            if part.whole:
                self._give_up(died)
            f = self._view(b.ref, FOOTPRINT, b.nfoot)[part.first]
            self.run.reporter.warning(
                f"the footprint of {f['npix']} pixels about ({f['xmin'] + 1}, {f['ymin'] + 1}) crashed two workers ({died}): "
                "it is not deblended, FLAGS 128"
            )
            self.parts.appendleft((b, Part(part.first, part.last, whole=True)))
            return
        middle = (part.first + part.last) // 2
        self.parts.appendleft((b, Part(middle, part.last, part.whole)))
        self.parts.appendleft((b, Part(part.first, middle, part.whole)))

    def _clean(self, b: Blend) -> None:
        """Give the sources of a batch to CLEAN, in the order of their footprints."""
        self.slab.free(b.ref)
        for first in sorted(b.found):
            self.table.take(*b.found[first], self.written)

    def _final_row(self) -> int:
        """Rows below this one have final masks: no source to come can free a pixel of theirs."""
        line = self.fed_row
        if self.blends:
            line = self.blends[0].first_row
        elif self.components.waiting[0]:
            line = self.components.first_closed_row
        elif self.scanned:
            return self.grid.height
        deblending = self.settings.deblending
        return max(line - (deblending.clean_reach_rows if deblending.clean else 0), 0)

    # Measurement

    def _submit_measure(self) -> bool:
        final = self._final_row()
        for m in self.batches:
            for k, some in enumerate(m.waiting):
                if some.row <= final:
                    if self._measure(m, some, final):
                        del m.waiting[k]
                        return True
                    return False
        t = self.table
        t.settle(final)
        rows = t.rows[t.batched : t.numbered]
        alive = np.flatnonzero(rows["number"] > 0)
        if not len(alive):
            t.batched = t.numbered
            self._write()
            return False
        late = np.flatnonzero(np.minimum(rows["spare"][alive], self.grid.height) > final)
        ready = int(late[0]) if len(late) else len(alive)
        ending = self.scanned and not self.blends
        if ready == 0 or (ready < SOURCES_PER_TASK and not ending and self.callbacks):
            return False
        n = min(ready, SOURCES_PER_TASK)
        chosen = rows[alive[:n]]
        if not self._have_tiles(t.base + t.batched, chosen):
            return False
        try:
            block = self._alloc_for_task(n * self.run.plan.row.itemsize, "rows")
        except SlabFull:
            return False
        first, last = t.base + t.batched, t.base + t.batched + int(alive[n - 1]) + 1
        m = Measured(first, last, block, n, int(chosen["row"][-1]))
        if not self._measure(m, Some(chosen, np.arange(n)), final):
            self.slab.free(block)
            return False
        t.batched = last - t.base
        self.batches.append(m)
        return True

    def _have_tiles(self, first: int, sources: NDArray[Any]) -> bool:
        """Whether a batch may go: tiles it looks at that were given up are loaded again first, once, if there is room."""
        if self.loading:
            return False
        if self.loaded_for == first:
            return True
        self.loaded_for = first
        y0, y1 = self._rows_of(sources)
        g = self.grid
        for ty in range(y0 // g.rows, (y1 - 1) // g.rows + 1):
            for tx in range(g.across):
                key = (self.extension, ty, tx)
                if key not in self.tiles and self._load(key, None):
                    self.loading.add(key)
        return not self.loading

    def _measure(self, m: Measured, some: Some, final: int) -> bool:
        """Submit sources of a batch; False if there is no room."""
        g, n, sources = self.grid, len(some.sources), some.sources
        eaten = self.table.eaten_by(m.first, m.last) if self.run.paints else np.empty(0, EATEN)
        y0, y1 = self._rows_of(sources)
        freed = self.table.freed_between(y0, y1)
        first, last = y0 // g.rows * g.across, ((y1 - 1) // g.rows + 1) * g.across
        try:
            ref = self._alloc_for_task(n * (SOURCE.itemsize + 8) + eaten.nbytes + freed.nbytes, "sources")
        except SlabFull:
            return False
        try:
            runs = self.store.pin(range(first, last))
        except SlabFull:
            self.slab.free(ref)
            return False
        self._view(ref, SOURCE, n)[:] = sources
        at = n * SOURCE.itemsize
        self._view(ref, np.dtype(np.int64), n, at)[:] = some.place
        self._view(ref, EATEN, len(eaten), at + 8 * n)[:] = eaten
        self._view(ref, FRAGMENT, len(freed), at + 8 * n + eaten.nbytes)[:] = freed
        lease = self._pin(y0, y1)
        head = pack(
            n, ref.offset, ref.offset + at, ref.offset + at + 8 * n + eaten.nbytes, len(freed), m.rows.offset, m.nrows,
            first // g.across * g.rows, min(final, last // g.across * g.rows), ref.offset + at + 8 * n, len(eaten),
            len(lease.refs), len(runs),
        )  # fmt: skip
        payload = head + self._tile_pairs(lease) + pack([v for pair in runs.items() for v in pair])
        m.running += 1

        def give_back() -> None:
            self.tiles.release(lease)
            self.store.release(runs)
            self.slab.free(ref)
            m.running -= 1

        def measured(reply: Reply) -> None:
            give_back()
            for i, row in reply.reshape(-1, 2).tolist():
                late = sources[i : i + 1].copy()
                late["spare"] = np.maximum(late["spare"], row)
                m.waiting.append(Some(late, some.place[i : i + 1], min(row, g.height)))
            self._next_step(m)

        def crashed(died: str) -> None:
            give_back()
            if n == 1:
                self._fill_row(m, some, died)
                self._next_step(m)
            else:
                m.waiting[:0] = [
                    Some(sources[: n // 2], some.place[: n // 2]), Some(sources[n // 2 :], some.place[n // 2 :])
                ]  # fmt: skip

        self._submit(Kind.MEASURE, payload, measured, crashed=crashed)
        return True

    def _rows_of(self, sources: NDArray[Any]) -> tuple[int, int]:
        """Rows that these sources may look at: as far up as down, and a little more."""
        half = sources["spare"] - sources["y"]
        y0 = int(np.clip(np.floor((sources["y"] - half).min()) - 4, 0, self.grid.height - 1))
        return y0, int(min(sources["spare"].max(), self.grid.height))

    def _fill_row(self, m: Measured, some: Some, died: str) -> None:
        """The row of a source that crashes workers: what is known without looking at it, and a flag."""
        s = some.sources[0]
        self.run.reporter.warning(
            f"measuring source {s['number']} at ({s['x'] + 1:.1f}, {s['y'] + 1:.1f}) crashed two workers ({died}): "
            "its measurements are NaN, FLAGS 128"
        )
        row = self._view(m.rows, self.run.plan.row, m.nrows)[some.place[0] : some.place[0] + 1]
        known = {
            "NUMBER": s["number"], "ID_PARENT": s["parent"], "EXT_NUMBER": self.info.ext_number, "X_IMAGE": s["x"] + 1,
            "Y_IMAGE": s["y"] + 1, "X_IMAGE_DBL": s["x"] + 1, "Y_IMAGE_DBL": s["y"] + 1, "FLAGS": s["flags"] | 128,
        }  # fmt: skip
        for name in row.dtype.names or ():
            row[name] = known.get(name, np.nan if row.dtype[name].base.kind == "f" else 0)

    def _next_step(self, m: Measured) -> None:
        """When all sources of a batch are measured: the columns that follow from the row."""
        if m.running or m.waiting:
            return
        if self.run.plan.table:
            self._submit(Kind.TABLE, pack(m.rows.offset, m.nrows), lambda reply: self._complete(m), affinity=0)
        else:
            self._complete(m)

    def _complete(self, m: Measured) -> None:
        m.done = True
        self._write()

    def _write(self) -> None:
        """Write the rows whose turn it is, and let go of what they needed."""
        while self.batches and self.batches[0].done:
            m = self.batches.popleft()
            self.run.write(self._view(m.rows, self.run.plan.row, m.nrows))
            self.slab.free(m.rows)
            self.run.progress.advance(MEASURE_SHARE * max(m.row - self.progress_row, 0) / self.grid.height)
            self.progress_row = max(m.row, self.progress_row)
        self.written = self.batches[0].first if self.batches else self.table.base + self.table.batched
        self.table.release(self.written)
