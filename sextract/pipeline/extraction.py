"""One image extension, from its first pixel to its last row: what is asked of workers when, and what becomes of the answers.

The parent's side.  It handles runs, footprints and sources as arrays in the slab, by kernels, and never a pixel.
Footprints come and go in closing order; whatever workers finish early waits for its turn.  A task takes all it needs when it
is submitted; what can't be had then is asked for again when others have given theirs back.
"""

from __future__ import annotations

import pickle
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.background.surface import Background
from sextract.catalogue.writer import ExtensionFacts
from sextract.deblending import _deblend
from sextract.detection import _components
from sextract.errors import InputError, LimitError
from sextract.memory.slab import SlabFull
from sextract.memory.tiles import Lease, TileKey
from sextract.pipeline.layout import SCRATCH_TARGET, Layout, first_runs
from sextract.pipeline.measuring import LAST_SHARES, Measuring
from sextract.pipeline.plan import Run
from sextract.pipeline.sources import SourceTable
from sextract.pipeline.stages import Kind, Setup, pack, runs_block_bytes, runs_views
from sextract.pipeline.statefile import StateReader, StateWriter
from sextract.pipeline.tasks import Desk, Reply
from sextract.records import FOOTPRINT, FRAGMENT, RUN, SOURCE, BlockRef, Frame

# A task of some ten milliseconds, where scratch has its usual size, and the least where it is smaller.
FOOTPRINTS_PER_TASK, FEWEST_FOOTPRINTS = 1024, 192
PIXELS_PER_TASK, FEWEST_PIXELS = 320_000, 60_000

# Of a giant that lies on disk.
FRAGMENTS_AT_ONCE = 65536

# Runs joined, each to pieces that lie anywhere, before pages behind the slab go again.
RUNS_AT_ONCE = 512

# How often a list of its pieces may jump before the pages go again, 64 KiB each time.
JUMPS_AT_ONCE = 64

# Rows above the batch that is measured for which tiles are kept, be there room for more or not.
BEHIND_ROWS = 512

# Runs and pieces that go into a checkpoint at a time: 48 KiB.
RUNS_SAVED, PIECES_SAVED = 512, 4096

# Shares of the work, for the progress bar.
MESH_SHARE, SCAN_SHARE = 0.1, 0.3


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
    pieces: int = 0  # at least so much room for what comes of them
    sources: int = 0
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
        self.run, self.layout, self.grid, self.settings = run, layout, layout.tiles, run.settings
        self.desk = Desk(run, extension, layout)
        self.slab, self.tiles, self.info = run.slab, run.tiles, self.desk.info
        self.bad = 0
        self.begun = False
        share = min(layout.scratch_bytes / SCRATCH_TARGET, 1.0)
        self.most_footprints = max(int(share * FOOTPRINTS_PER_TASK), FEWEST_FOOTPRINTS)
        self.most_pixels = max(int(share * PIXELS_PER_TASK), FEWEST_PIXELS)

    # Background

    def measure_background(self) -> Frame:
        """Pass 1: the background, and what follows from it."""
        layout, grid = self.layout, self.layout.mesh
        self._set_up()
        cells = layout.mesh_cells
        across = range(0, grid.nx, cells[1])
        down = range(0, grid.ny, cells[0])
        todo = ((j, min(j + cells[0], grid.ny), i, min(i + cells[1], grid.nx)) for j in down for i in across)
        cells_left = next(todo, None)
        while cells_left or self.desk.busy:
            while cells_left and self.desk.backend.idle_slots() > 0:
                self._submit_mesh(*cells_left)
                cells_left = next(todo, None)
            self.desk.wait()
        background = self.run.attach_background(self.setup.maps, grid)
        work = self.desk.store.alloc(layout.complete_bytes, "background")
        with self.run.track("complete"):
            background.complete(self.settings.background, self.desk.view(work, np.dtype(np.uint8), layout.complete_bytes))
        self.slab.free(work)
        if not np.isfinite(background.mean) or not np.isfinite(background.global_rms):
            self._without_background(background)
        elif background.mostly_constant:
            self.run.reporter.warning(f"{self.info.spec}: the image is mostly constant, its noise a makeshift")
        if self.bad:
            self.run.reporter.warning(f"{self.bad} bad pixels (NaN, infinite or BLANK) are masked")
        return self._framed(background)

    def restore_background(self, saved: StateReader) -> Frame:
        """The same from a checkpoint."""
        self._set_up()
        saved.get(self._storage(self.setup.maps))
        self.run.progress.advance(MESH_SHARE)
        return self._framed(self.run.attach_background(self.setup.maps, self.layout.mesh))

    def _set_up(self) -> None:
        """Blocks for as long as the extension lasts; workers learn where they are."""
        layout = self.layout
        self.slab.low = layout.low_bytes
        scratch = tuple(self.desk.keep(layout.scratch_bytes, "scratch") for _ in range(self.desk.backend.workers))
        maps = self.desk.keep(layout.mesh_bytes, "background")
        self.setup = Setup(self.desk.extension, layout.mesh, maps, self.grid, scratch, self.desk.store.offsets)
        self.desk.backend.broadcast(Kind.SETUP, pickle.dumps(self.setup))

    def _framed(self, background: Background) -> Frame:
        """What follows from the background; workers learn it."""
        frame = self.run.frame(self.info, background)
        # Workers have the header from the file.
        self.setup = self.setup._replace(frame=frame._replace(header=""))
        self.desk.backend.broadcast(Kind.SETUP, pickle.dumps(self.setup))
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

    def _submit_mesh(self, j0: int, j1: int, i0: int, i1: int) -> None:
        """Background cells [i0, i1) in rows of cells [j0, j1)."""
        what = f"the background of rows {self.layout.mesh.rows(j0)[0] + 1} to {self.layout.mesh.rows(j1 - 1)[1]}"
        crashed = partial(self.desk.give_up, what=what)
        self.desk.submit(Kind.MESH, pack(j0, j1, i0, i1), self._meshed, crashed=crashed)

    def _meshed(self, reply: Reply) -> None:
        bad, cells = reply.tolist()
        self.bad += bad
        self.run.progress.advance(MESH_SHARE * cells / (self.layout.mesh.nx * self.layout.mesh.ny))

    # Detection

    def extract(self, saved: StateReader | None = None) -> ExtensionFacts:
        """Pass 2: detect, deblend, clean, measure and write; from where `saved` says on."""
        self._begin()
        if saved is not None and saved.meta["inside"]:
            self._restore(saved, saved.meta["inside"])
        self._scan_to_pause()
        while not self._finished():
            rests = self._rests()
            if rests and not self.desk.busy:
                self.run.checkpoint.take(self.run, self)
                self._scan_to_pause()
                continue
            moved = not rests and self._advance()
            if self.desk.busy:
                self.desk.wait()
            elif not moved:
                raise self._stuck()
        self._end()
        return ExtensionFacts(detected=self.table.detected, extracted=self.table.number)

    def _begin(self) -> None:
        g = self.grid
        self.bands: dict[int, Band] = {}
        self.next_tile = self.next_band = self.passed_tiles = 0
        labels = self.desk.keep(2 * (g.width // 2 + 2) * _components.LABEL_BYTES, "components")
        npieces, ncomponents = self.layout.pool
        self.pieces = [self.desk.alloc(npieces * _components.PIECE_BYTES, "components")]
        self.pool = self.desk.alloc(ncomponents * _components.COMPONENT_BYTES, "components")
        pieces, components, rows = (self._storage(ref) for ref in (self.pieces[0], self.pool, labels))
        self.components = _components.Components(pieces, components, rows, self.settings.detection.minarea)
        self.components.parents = self.run.parents
        self.fed_row = 0
        self.scanned = False
        self.begun = True
        self.blends: deque[Blend] = deque()
        self.parts: deque[tuple[Blend, Part]] = deque()
        self.giant: BlockRef | None = None
        self.table = SourceTable(
            self.desk.store,
            self.slab,
            self.desk.bytes,
            self.settings,
            g.width,
            g.height,
            g.rows,
            g.across * g.down,
            lambda s: self.run.reach_rows(s, g.height),
        )
        # What is lent out while nothing waits for its turn.
        self.idle = self.slab.used - self.tiles.used
        self.measuring = Measuring(self.desk, self.table, self._final_row, lambda: self.scanned and not self.blends)

    def _stuck(self) -> LimitError:
        return LimitError(
            f"{self.info.spec}: {self.slab.capacity >> 20} MiB of buffers can't hold what must be kept at the same "
            f"time at row {self.fed_row}; raise --mem-limit or DETECT_THRESH"
        )

    # Checkpoints: the scan pauses, what was begun comes to its end, and what is left is in few places.

    def _scan_to_pause(self) -> None:
        """Have the scan go on to the row of tiles before which the next checkpoint is due, or to the end."""
        every, down = self.run.checkpoint.every, self.grid.down
        self.pause = min(self.next_band + every, down) if every else down

    def _rests(self) -> bool:
        """Whether a checkpoint is due and every footprint that is closed has been through CLEAN: nothing new is begun then."""
        return self.next_band == self.pause and not self.scanned and not self.components.waiting[0] and not self.blends

    def save(self, out: StateWriter) -> dict[str, Any]:
        """Put this extension into a checkpoint: its background, open components, sources, rows that wait; what goes with it."""
        maps = self.setup.maps
        self.desk.store.save(out, *maps)
        if not self.begun:
            return {}
        return {
            "row": self.fed_row,
            "parents": self.components.parents,
            "runs": self.components.runs_above,
            "pieces": self._save_components(out),
            "sources": self.table.save(out, self.measuring.written),
            "measuring": self.measuring.save(out),
        }

    def _save_components(self, out: StateWriter) -> int:
        """The runs of the row above with their components, then the pieces of each; how many pieces there are."""
        some, total, first = np.empty((RUNS_SAVED, _components.SAVED), np.int64), 0, 0
        while n := self.components.save(some, first):
            out.put(some[:n])
            total += int(some[:n, 5][some[:n, 3] != 0].sum())
            first += n
        pieces, begin = np.empty(PIECES_SAVED, FRAGMENT), True
        jumps = JUMPS_AT_ONCE if self._behind(*self.pieces) else total + 1
        while n := self.components.save_pieces(pieces, begin, jumps):
            out.put(pieces[:n])
            begin = False
            self.desk.drop()
        return total

    def _behind(self, *refs: BlockRef) -> bool:
        """Whether one of these blocks lies behind the slab: then it has pages to let go of."""
        return self.slab.overflow is not None and any(ref in self.slab.overflow for ref in refs)

    def _restore(self, saved: StateReader, numbers: dict[str, Any]) -> None:
        """Go on where a checkpoint was taken, whatever its tiles were: the row of tiles in which that is is scanned again."""
        g, self.fed_row = self.grid, numbers["row"]
        self.next_band = self.desk.resumed = self.fed_row // g.rows
        self.next_tile = self.next_band * g.across
        self._restore_components(saved, numbers["runs"], numbers["pieces"])
        self.components.parents = numbers["parents"]
        self.table.restore(saved, numbers["sources"])
        self.measuring.restore(saved, numbers["measuring"])
        self.run.progress.advance((1.0 - MESH_SHARE) * self.fed_row / g.height)
        self.measuring.progressed(self.fed_row)
        if self.run.checkpoint.drawn(self.desk.extension):
            # Pixels with outlines on them are made anew.
            while not self.desk.have_runs(0, self.next_band * g.rows):
                if not self.desk.busy:
                    raise self._stuck()
                self.desk.wait()

    def _restore_components(self, saved: StateReader, runs: int, pieces: int) -> None:
        if pieces > self.components.free[0]:
            self.pieces.append(self.desk.alloc(pieces * _components.PIECE_BYTES, "components"))
            self.components.add_pieces(self._storage(self.pieces[-1]))
        if runs > self.components.free[1]:
            self._move_components(runs + self.grid.width // 2 + 1)
        some = np.empty((RUNS_SAVED, _components.SAVED), np.int64)
        for first in range(0, runs, RUNS_SAVED):
            self.components.restore(saved.get(some[: min(RUNS_SAVED, runs - first)]))
        fragments = np.empty(PIECES_SAVED, FRAGMENT)
        for first in range(0, pieces, PIECES_SAVED):
            self.components.restore_pieces(saved.get(fragments[: min(PIECES_SAVED, pieces - first)]))
            self.desk.settle()

    def _move_components(self, ncomponents: int) -> None:
        old, self.pool = self.pool, self.desk.alloc(ncomponents * _components.COMPONENT_BYTES, "components")
        self.components.move_components(self._storage(self.pool))
        self.slab.free(old)

    def _storage(self, ref: BlockRef) -> NDArray[np.uint8]:
        return self.desk.view(ref, np.dtype(np.uint8), ref.nbytes)

    def _finished(self) -> bool:
        return self.scanned and not self.blends and self.measuring.idle and not self.desk.busy

    def _end(self) -> None:
        self.run.parents = self.components.parents
        self.run.beyond += self.table.beyond
        if self.table.beyond:
            are = "detections are" if self.table.beyond > 1 else "detection is"
            self.run.reporter.warning(
                f"{self.table.beyond} {are} larger than FOOTPRINT_MAXPIX allows: measured whole, FLAGS 128"
            )
        self.table.close()
        for ref in (*self.pieces, self.pool):
            self.slab.free(ref)
        self.desk.close()

    def _advance(self) -> bool:
        """Submit what can be; whether anything moved."""
        moved = False
        for submit in (self._submit_large, self.measuring.submit, self._submit_blend, self._submit_scan):
            while self.desk.backend.idle_slots() > 0 and submit():
                moved = True
        return moved or (not self.desk.busy and self.measuring.submit(few_too=True))

    def _submit_scan(self) -> bool:
        g = self.grid
        # What waits for its tiles would lose more of them; giants wait for each other.
        waiting = any(not part.scratch_bytes for _, part in self.parts)
        behind = self.measuring.behind or waiting or self._crowded()
        if self.next_tile == g.across * self.pause or (self.desk.busy and behind):
            return False
        ty, tx = divmod(self.next_tile, g.across)
        rows, columns = g.tile(ty, tx).shape
        key: TileKey = (self.desk.extension, ty, tx)
        try:
            runs = self.desk.alloc_for_task(runs_block_bytes(g.rows, first_runs(rows, columns)), "runs")
        except SlabFull:
            return False
        self._forget_passed()
        block = self.desk.reserve_tile(key)
        if block is None:
            self.slab.free(runs)
            return False
        self.desk.load_tile(key, block, runs, partial(self.desk.scanned, key, block, runs, self._scanned))
        self.next_tile += 1
        self.bands.setdefault(ty, Band([None] * g.across, [0] * g.across, g.across))
        return True

    def _forget_passed(self) -> None:
        """Give up a tile that is hardly looked at any more: pages that were touched before cost less than fresh ones.

        Where not all tiles can be held, runs of passed tiles would take the place of those that are needed.
        """
        scarce = self.slab.capacity < 4 * self.grid.width * self.grid.height
        while self.passed_tiles < self.next_tile:
            ty, tx = divmod(self.passed_tiles, self.grid.across)
            if self.grid.tile(ty, tx).y1 > self.measuring.first_row - min(BEHIND_ROWS, 2 * self.measuring.far_rows):
                return
            if scarce:
                self.desk.store.retire(self.passed_tiles)
            self.passed_tiles += 1
            if self.tiles.forget((self.desk.extension, ty, tx)):
                return

    def _crowded(self) -> bool:
        """Whether what waits for its turn fills half of the slab, so that the scan had better wait as well."""
        return self.slab.used - self.tiles.used - self.idle > (self.slab.capacity - self.layout.low_bytes - self.idle) // 2

    def _scanned(self, key: TileKey, runs: BlockRef, nruns: int) -> None:
        _, ty, tx = key
        g = self.grid
        band = self.bands[ty]
        band.runs[tx], band.counts[tx] = runs, nruns
        band.missing -= 1
        self.run.progress.advance(SCAN_SHARE * g.tile(ty, tx).size / (g.width * g.height))
        while self.next_band in self.bands and self.bands[self.next_band].missing == 0:
            complete = self.bands.pop(self.next_band)
            with self.run.track("join"):
                self._feed(self.next_band, complete)
            for tx, found in enumerate(complete.runs):
                assert found is not None
                self.desk.store.add(self.next_band * g.across + tx, found)
            self.next_band += 1
        if self.next_band == g.down and not self.scanned:
            self.components.finish(g.height)
            self.scanned = True
            self.run.mark("measuring", self.desk.extension)
        self._drain(self.next_band == self.pause)

    def _feed(self, ty: int, band: Band) -> None:
        """Join the runs of a row of tiles to the components."""
        g = self.grid
        y0, rows = ty * g.rows, min(g.rows, g.height - ty * g.rows)
        views = [runs_views(self.desk.bytes, r.offset, g.rows, r.nbytes) for r in band.runs if r is not None]
        joined: BlockRef | None = None
        if len(views) == 1:
            start, runs = views[0]
        else:
            joined = self.desk.alloc(runs_block_bytes(g.rows, sum(band.counts) + 1), "runs")
            start, runs = runs_views(self.desk.bytes, joined.offset, g.rows, joined.nbytes)
            _components.join_tiles([v[0] for v in views], [v[1] for v in views], rows, start, runs)
        # Rows above a checkpoint were taken in before it.
        done = self.fed_row - y0
        start = start[: rows + 1]
        if len(runs) == 0:
            runs = np.zeros(1, RUN)
        while done < rows:
            taken = self.components.feed(start, runs, y0, done, RUNS_AT_ONCE if self._behind(*self.pieces) else len(runs) + 1)
            if taken > done:
                self.desk.drop()
            elif self.components.waiting[0]:
                self._drain(True)
            else:
                self._grow_pool()
            done = taken
        self.fed_row = y0 + rows
        self.desk.settle()
        if joined is not None:
            self.slab.free(joined)

    def _grow_pool(self) -> None:
        """Room for another row of whatever runs: a block more of pieces, a larger one of components."""
        free_pieces, free_components = self.components.free
        width = self.grid.width
        if free_pieces < 2 * width + 64:
            more = max(self.components.npieces // 8, 2 * width + 64)
            self.pieces.append(self.desk.alloc(more * _components.PIECE_BYTES, "components"))
            self.components.add_pieces(self._storage(self.pieces[-1]))
        if free_components <= width // 2:
            self._move_components(2 * self.components.ncomponents + width)

    # Deblending

    def _drain(self, everything: bool) -> None:
        """Make batches of closed footprints."""
        most = self.most_footprints
        if self.scanned:
            most = min(max(self.components.waiting[0] // (LAST_SHARES * self.desk.backend.workers), FEWEST_FOOTPRINTS), most)
        while self.components.waiting[0] and (everything or self.components.waiting[0] >= most):
            n, pieces, pixels = self.components.next_closed(self.most_pixels, most, 1 << 20)
            ref = self.desk.alloc(n * FOOTPRINT.itemsize + pieces * FRAGMENT.itemsize, "footprints")
            footprints = self.desk.view(ref, FOOTPRINT, n)
            fragments, done = self.desk.view(ref, FRAGMENT, pieces, n * FOOTPRINT.itemsize), 0
            # Only what lies behind the slab has pages to let go of.
            jumps = JUMPS_AT_ONCE if self._behind(ref, *self.pieces) else pieces + 1
            while (done := self.components.drain(footprints, fragments, done, FRAGMENTS_AT_ONCE, jumps)) < pieces:
                self.desk.drop()
            # Workers have pages of their own while this process waits for them.
            self.desk.drop()
            rows = int(footprints["ymin"].min()), int(footprints["ymax"].max()) + 1
            blend = Blend(ref, n, pieces, pixels, rows, int(footprints["row"][0]), todo=n)
            self.blends.append(blend)
            if pixels > self.most_pixels:
                # One large footprint takes long, and CLEAN waits for it: it goes first.
                self.parts.appendleft((blend, Part(0, n)))
            else:
                self.parts.append((blend, Part(0, n)))

    def _submit_large(self) -> bool:
        return bool(self.parts) and self.parts[0][0].npix > self.most_pixels and self._submit_blend()

    def _submit_blend(self) -> bool:
        if not self.parts and self.components.waiting[0] and not self.desk.busy:
            self._drain(True)
        if self.desk.gathers("deblend"):
            return False
        # Giants are taken one at a time, and nobody else waits for them.
        giants_wait = self.giant is not None
        place = next((k for k, (_, part) in enumerate(self.parts) if not (giants_wait and part.scratch_bytes)), -1)
        if place < 0:
            return False
        b, part = self.parts[place]
        # What is taller than its neighbours reads for itself what lies above them.
        if not self.desk.have_tiles("deblend", max(b.rows[0], b.first_row - self.measuring.far_rows), b.rows[1]):
            return False
        # Twice a fragment is what blends of usual fields come to; of a giant it would be much.
        usual = min(2 * b.nfrag + b.npix // 6, b.nfrag + FRAGMENTS_AT_ONCE) + 64
        pieces = max(usual, part.pieces) // 2 * 2 + 2
        sources = max(2 * (part.last - part.first) + min(b.npix // 64, FRAGMENTS_AT_ONCE // 16) + 16, part.sources)
        try:
            out = self.desk.alloc_for_task(pieces * FRAGMENT.itemsize + sources * SOURCE.itemsize, "sources")
        except SlabFull:
            return False
        try:
            scratch = self.desk.alloc_for_task(part.scratch_bytes, "giant", low=True) if part.scratch_bytes else BlockRef(0, 0)
        except SlabFull:
            self.slab.free(out)
            return False
        del self.parts[place]
        self.giant = scratch if part.scratch_bytes else self.giant
        lease = self.desk.pin(b.rows[0] - self.grid.halo_y, b.rows[1] + self.grid.halo_y)
        head = pack(
            part.last, b.ref.offset, b.ref.offset + b.nfoot * FOOTPRINT.itemsize, b.nfrag, part.first, part.whole,
            out.offset, pieces, sources, scratch.offset, scratch.nbytes,
        )  # fmt: skip
        self.desk.submit(
            Kind.DEBLEND, head + self.desk.tile_pairs(lease), lambda reply: self._blended(b, part, out, pieces, lease, reply),
            crashed=lambda died: self._blend_crashed(b, part, out, lease, died),
        )  # fmt: skip
        return True

    def _release_giant(self, part: Part) -> None:
        if part.scratch_bytes and self.giant is not None:
            self.slab.free(self.giant)
            self.giant = None

    def _blended(self, b: Blend, part: Part, out: BlockRef, pieces: int, lease: Lease, reply: Reply) -> None:
        self.tiles.release(lease)
        done, why, nsources, npieces, needed, more_sources, more_pieces = reply.tolist()
        self._release_giant(part)
        if done > part.first:
            # It may wait long for its turn: without the room for sources that it doesn't need.
            out = self.slab.resize_down(out, pieces * FRAGMENT.itemsize + nsources * SOURCE.itemsize)
            b.found[part.first] = out, nsources, npieces, pieces
        else:
            self.slab.free(out)
        b.todo -= done - part.first
        if done < part.last:
            # Where something came of it there may be room the next time.
            full = why == _deblend.OUTPUT and done == part.first
            left = Part(done, part.last, part.whole, scratch_bytes=0 if why == _deblend.OUTPUT else needed)
            if full:
                left.pieces, left.sources = more_pieces, more_sources
            self.parts.appendleft((b, left))
        while self.blends and self.blends[0].todo == 0:
            self._clean(self.blends.popleft())

    def _blend_crashed(self, b: Blend, part: Part, out: BlockRef, lease: Lease, died: str) -> None:
        """Find the one footprint that crashes a worker, and take that one as a whole."""
        self.tiles.release(lease)
        self.slab.free(out)
        self._release_giant(part)
        if part.last - part.first == 1:
            f = self.desk.view(b.ref, FOOTPRINT, b.nfoot)[part.first]
            what = f"the footprint of {f['npix']} pixels about ({f['xmin'] + 1}, {f['ymin'] + 1})"
            if part.whole:
                self.desk.give_up(died, f"{what}, not deblended,")
            self.run.reporter.warning(
                f"{what} crashed two workers ({died}): it is not deblended, FLAGS 128"
            )
            self.parts.appendleft((b, Part(part.first, part.last, whole=True)))
            return
        middle = (part.first + part.last) // 2
        self.parts.appendleft((b, Part(middle, part.last, part.whole)))
        self.parts.appendleft((b, Part(part.first, middle, part.whole)))

    def _clean(self, b: Blend) -> None:
        """Give the sources of a batch to CLEAN, in the order of their footprints."""
        self.slab.free(b.ref)
        with self.run.track("clean"):
            for first in sorted(b.found):
                self.table.take(*b.found[first], self.measuring.written)

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
