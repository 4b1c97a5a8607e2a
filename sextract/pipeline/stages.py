"""The worker's side of a run: one handler per kind of task.

A task names blocks of the slab and says what to do; it writes into its own block alone and answers with a few integers, so
that it can be repeated.  Which task comes when is ``extraction.py``.  All integers are int64, little-endian, in the order
that each method unpacks.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.background.mesh import SCRATCH_BYTES, CellStream, MeshGrid, cell_statistics
from sextract.background.surface import Background
from sextract.checkimage.apertures import ApertureImage, circles, ellipses
from sextract.checkimage.checkimage import FRAGMENTS, CheckImages
from sextract.config.settings import Settings
from sextract.deblending import _deblend
from sextract.detection import _scan
from sextract.measurement.measure import MEASUREMENTS, Batch, NeedRows, reaches_of
from sextract.measurement.sky import needs_astropy
from sextract.measurement.stamps import OWN_AT_ONCE, StampCutter, TileGrid
from sextract.memory.heap import give_back
from sextract.memory.slab import Slab
from sextract.pipeline.warm import measure_star
from sextract.reading.source import ImageInfo, ImageSource
from sextract.records import FOOTPRINT, FRAGMENT, RUN, SOURCE, BlockRef, Box, Frame
from sextract.report.trace import Trace, Track

# A source that was eaten: where its fragments are, and the NUMBER of its eater.
EATEN = np.dtype([("fragments", "<i8"), ("nfragments", "<i8"), ("number", "<i8")])

APERTURE_COLUMNS = ("FLUX_APER", "FLUXERR_APER", "MAG_APER", "MAGERR_APER")

NO_TAPS = np.zeros((0, 0), np.float32)

# Part of a worker's scratch that reading and the background surface use, beside the rows of nodes.
READ_BYTES = 256 * 1024

# Of a tile, loaded and filtered at a time.
PORTION_BYTES = 512 * 1024

# How often putting a giant's fragments in order may jump before the pages go again.
JUMPS_AT_ONCE = 1024


class Kind(IntEnum):
    """Kinds of tasks."""

    SETUP = 0
    MESH = 1
    SCAN = 2
    DEBLEND = 3
    MEASURE = 4
    TABLE = 5
    WARM = 6


class Setup(NamedTuple):
    """What workers must know of an extension; sent again, with the frame less its header, when the background is known."""

    extension: int
    mesh: MeshGrid
    maps: BlockRef
    tiles: TileGrid
    scratch: tuple[BlockRef, ...]
    runs: BlockRef
    frame: Frame | None = None


class Plan(NamedTuple):
    """What families run, and the layout of a row on its way through the workers."""

    batch: tuple[str, ...]
    table: tuple[str, ...]
    row: np.dtype[Any]
    dims: Mapping[str, tuple[int, ...]]


def uses_sky(plan: Plan) -> bool:
    """Whether a column of sky positions is requested."""
    return any(MEASUREMENTS.get(name).run.__module__ == needs_astropy.__module__ for name in plan.table)


def imports_astropy(plan: Plan, infos: Sequence[ImageInfo]) -> bool:
    """Whether sky positions are requested for which the whole of astropy is imported.

    Raises
    ------
    InputError
        There is no sense in the WCS of one of the headers.
    """
    return uses_sky(plan) and any(needs_astropy(info.header) for info in infos)


def pack(*values: int) -> bytes:
    """Integers, one after the other."""
    return struct.pack(f"<{len(values)}q", *values)


def runs_block_bytes(rows: int, nruns: int) -> int:
    """Size of a tile's runs in the slab: row starts, runs."""
    return 4 * (rows + 1) + RUN.itemsize * nruns


def runs_views(slab: NDArray[np.uint8], offset: int, rows: int, nbytes: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Row starts and runs of a tile."""
    head = 4 * (rows + 1)
    room = (nbytes - head) // RUN.itemsize
    return slab[offset : offset + head].view(np.int32), slab[offset + head : offset + head + room * RUN.itemsize].view(RUN)


def reading_bytes(mesh: MeshGrid) -> int:
    """Part of a worker's scratch that reading and the background surface use."""
    return READ_BYTES + -(-Background.scratch_bytes(mesh) // 4096) * 4096


def held_bytes(tiles: TileGrid) -> int:
    """Part of a worker's scratch that says where tiles are held."""
    return -(-8 * tiles.across * tiles.down // 4096) * 4096


class Stages:
    """Does the tasks of one worker.

    Parameters
    ----------
    slot : int
        The worker's; its scratch goes by it.
    slab : Slab
    images : sequence of ImageSource
    settings : Settings
    plan : Plan
    checks : CheckImages
    trace : Trace
    """

    def __init__(
        self, slot: int, slab: Slab, images: Sequence[ImageSource], settings: Settings, plan: Plan, checks: CheckImages,
        trace: Trace,
    ) -> None:  # fmt: skip
        self.slot, self.slab, self.images, self.settings, self.plan, self.checks = slot, slab, images, settings, plan, checks
        self.bytes = np.frombuffer(slab.bytes_view(0, slab.extent), np.uint8)
        self.floats = self.bytes[: len(self.bytes) // 4 * 4].view(np.float32)
        kernel = settings.detection.kernel
        self.taps = NO_TAPS if kernel is None else kernel
        self.planes = checks.stage("tile")
        self.reaches = reaches_of(plan.batch)
        self.track = trace.track(slot + 1)
        # What imports astropy is counted apart, and is one worker's.
        alone = imports_astropy(plan, [image.info for image in images])
        self.at_once = () if alone else plan.table
        self.counts_rss = settings.resources.account == "rss"
        self.kept: tuple[BlockRef, ...] = ()
        self.handlers: dict[int, Callable[[bytes], bytes]] = {
            Kind.SETUP: self.setup,
            Kind.MESH: self.mesh,
            Kind.SCAN: self.scan,
            Kind.DEBLEND: self.deblend,
            Kind.MEASURE: self.measure,
            Kind.TABLE: self.table,
            Kind.WARM: self.warm,
        }

    def __call__(self, kind: int, payload: bytes) -> bytes:
        try:
            with self.track(Kind(kind).name.lower()):
                return self.handlers[kind](payload)
        finally:
            self.settle()
            self._unmap()
            self.track.flush()

    def settle(self) -> None:
        """Let go of what lies behind the slab."""
        if self.slab.overflow is not None:
            self.slab.overflow.drop()

    def _unmap(self) -> None:
        """Where the sum of Rss counts: have nothing of the slab in this process's map but its scratch."""
        if self.counts_rss:
            self.slab.unmap(*self.kept)

    def warm(self, payload: bytes) -> bytes:
        """Run every family once, so that what this process shares no longer with its template is known."""
        measure_star(self.plan.batch + self.at_once, self.settings, self.plan.dims, self.images[0].info.header)
        give_back()
        return b""

    def setup(self, payload: bytes) -> bytes:
        """Begin an extension, or learn its frame."""
        s: Setup = pickle.loads(payload)
        self.extension, self.tiles = s.extension, s.tiles
        self.image = self.images[s.extension]
        self.frame = None if s.frame is None else s.frame._replace(header=self.image.info.header)
        self.background = Background.on(self._bytes(s.maps), s.mesh)
        self.kept = (s.scratch[self.slot],)
        scratch = self._bytes(s.scratch[self.slot])
        reading = reading_bytes(s.mesh)
        table = held_bytes(s.tiles)
        self.reading, self.scratch = scratch[:reading], scratch[reading + table :]
        self.held = scratch[reading : reading + 8 * s.tiles.across * s.tiles.down].view(np.int64)
        self.runs = self._bytes(s.runs).view(np.int64)
        if self.frame is not None:
            self._start_deblending(self.frame)
        return b""

    def _bytes(self, ref: BlockRef) -> NDArray[np.uint8]:
        return self.bytes[ref[0] : ref[0] + ref[1]]

    def _start_deblending(self, frame: Frame) -> None:
        d, b, grid = self.settings.detection, self.settings.deblending, self.background.grid
        self.deblender = _deblend.Deblender(
            frame.ext_number, frame.width, frame.height, self.taps, b.nthresh, b.mincont, d.minarea, d.maxarea,
            frame.threshold, frame.analysis_threshold, frame.rms, frame.gain, frame.saturation,
            self.background.back, grid.cell_width, grid.cell_height, b.max_footprint_px,
        )  # fmt: skip

    def load(self, box: Box, out: NDArray[np.float32]) -> int:
        """Background-subtracted pixels of a box, from the file; the number of bad ones."""
        # Whoever looks farther than the tiles it was lent may touch the runs of many more.
        self._unmap()
        bad = self._read(box, out)
        with self.track("subtract"):
            self.background.subtract(box, out, self.reading)
        return bad

    def _read(self, box: Box, out: NDArray[np.float32]) -> int:
        with self.track("read", pixels=box.size):
            return self.image.read_into(box, out, self.reading)

    def mesh(self, payload: bytes) -> bytes:
        """Statistics of background cells [i0, i1) in rows of cells [j0, j1); the numbers of bad pixels and of cells."""
        j0, j1, i0, i1 = np.frombuffer(payload, np.int64).tolist()
        grid, bad = self.background.grid, 0
        x0, x1 = grid.columns(i0, i1)
        self.image.expect(Box(grid.rows(j0)[0], x0, grid.rows(j1 - 1)[1], x1))
        for j in range(j0, j1):
            y0, y1 = grid.rows(j)
            if SCRATCH_BYTES + 4 * (y1 - y0) * (x1 - x0) > len(self.scratch):
                bad += self._stream_cell(j, i0)
                continue
            shape = y1 - y0, x1 - x0
            pixels = self.scratch[SCRATCH_BYTES : SCRATCH_BYTES + 4 * shape[0] * shape[1]].view(np.float32).reshape(shape)
            bad += self._read(Box(y0, x0, y1, x1), pixels)
            out = self.background.back[j, i0:i1], self.background.sigma[j, i0:i1]
            with self.track("cells"):
                cell_statistics(pixels, grid, j, *out, self.scratch[:SCRATCH_BYTES])
        return pack(bad, (j1 - j0) * (i1 - i0))

    def _stream_cell(self, j: int, i: int) -> int:
        """Statistics of one background cell that the scratch doesn't hold, in strips, three times over; its bad pixels."""
        cell = CellStream(self.background.grid, j, i, self.scratch)
        (y0, y1), (x0, x1) = cell.rows, cell.columns
        strip = self.scratch[SCRATCH_BYTES:]
        step = len(strip) // (4 * (x1 - x0))
        bad = 0
        for stage in (1, 2, 3):
            bad = 0
            for ya in range(y0, y1, step):
                box = Box(ya, x0, min(ya + step, y1), x1)
                pixels = strip[: 4 * box.size].view(np.float32).reshape(box.shape)
                bad += self._read(box, pixels)
                cell.fold(stage, ya, pixels)
            cell.close(stage)
        self.background.back[j, i], self.background.sigma[j, i] = cell.mode()
        return bad

    def scan(self, payload: bytes) -> bytes:
        """Load a tile (unless `done` rows were scanned before, or only loading is asked for) and find its runs.

        Answers with the rows done and the runs found.
        """
        ty, tx, block_at, runs_at, runs_bytes, done, bad = np.frombuffer(payload, np.int64).tolist()
        tile, box = self.tiles.tile(ty, tx), self.tiles.block(ty, tx)
        block = self.floats[block_at // 4 : block_at // 4 + box.size].reshape(box.shape)
        if runs_bytes == 0:
            return pack(0, 0, self.load(box, block))
        rows, columns = tile.shape
        start, runs = runs_views(self.bytes, runs_at, self.tiles.rows, runs_bytes)
        line = self.scratch[: 4 * columns].view(np.float32)
        assert self.frame is not None
        y, x = tile.y0 - box.y0, tile.x0 - box.x0
        new, full, height = done == 0, False, len(block)
        # Pixels are filtered while a cache holds them; without room for more runs the rest is loaded all the same.
        for ya, yb in self._portions(box) if new else ((height, height),):
            if new:
                bad += self.load(Box(box.y0 + ya, box.x0, box.y0 + yb, box.x1), block[ya:yb])
            upto = rows if yb == height else max(yb - y - self.tiles.halo_y, 0)
            if upto > done and not full:
                with self.track("runs"):
                    done = _scan.scan(
                        block, self.taps, y, x, y + upto, x + columns, tile.x0, self.frame.threshold, bad > 0, line, start,
                        runs, done,
                    )  # fmt: skip
                full = done < upto
        if new and self.planes:
            self._write_planes(tile, block, y, x, bad > 0)
        return pack(done, int(start[done]), bad)

    def _portions(self, box: Box) -> Iterator[tuple[int, int]]:
        """Rows of a tile that are loaded at a time, relative to it; all of them where they are stored in blocks."""
        rows, columns = box.shape
        self.image.expect(box)
        step = max(PORTION_BYTES // (4 * columns), 1) if self.image.info.tile_rows <= 1 else rows
        for ya in range(0, rows, step):
            yb = min(ya + step, rows)
            yield ya, yb

    def _write_planes(self, tile: Box, block: NDArray[np.float32], y: int, x: int, guard: bool) -> None:
        """Check-images that are a function of the tile alone, a few rows at a time."""
        rows, columns = tile.shape
        step = max(len(self.scratch) // (4 * columns), 1)
        for first in range(0, rows, step):
            n = min(step, rows - first)
            out = self.scratch[: 4 * n * columns].view(np.float32).reshape(n, columns)
            box = Box(tile.y0 + first, tile.x0, tile.y0 + first + n, tile.x0 + columns)
            part = TilePlanes(self, box, block, y + first, x, guard)
            for kind, image in self.planes:
                assert kind.render is not None
                kind.render(part, out)
                image.write_box(self.extension, box, out)

    def _hold(self, pairs: NDArray[np.int64]) -> None:
        """Take note of the tiles that this task may read: index, byte offset."""
        self.held[:] = -1
        self.held[pairs[:, 0]] = pairs[:, 1] // 4

    def deblend(self, payload: bytes) -> bytes:
        """Split footprints `first` … into sources, or take each as a whole.

        Answers with the next footprint, why it stopped (`_deblend` codes), sources, fragments, and what is needed of scratch
        (bytes) or output (sources, fragments) to go on.
        """
        head = np.frombuffer(payload, np.int64)
        nfoot, foot_at, frag_at, nfrag, first, whole, out_at, most_pieces, most_sources, big_at, big_bytes = head[:11].tolist()
        self._hold(head[11:].reshape(-1, 2))
        footprints = self.bytes[foot_at : foot_at + nfoot * FOOTPRINT.itemsize].view(FOOTPRINT)
        fragments = self.bytes[frag_at : frag_at + nfrag * FRAGMENT.itemsize].view(FRAGMENT)
        sources_at = out_at + most_pieces * FRAGMENT.itemsize
        pieces = self.bytes[out_at:sources_at].view(FRAGMENT)
        sources = self.bytes[sources_at : sources_at + most_sources * SOURCE.itemsize].view(SOURCE)
        work = self.bytes[big_at : big_at + big_bytes] if big_bytes else self.scratch
        strip_bytes = self._strip_bytes()
        strip, work = work[:strip_bytes].view(np.float32), work[strip_bytes:]
        g, d = self.tiles, self.deblender
        d.begin(footprints, fragments, work, sources, pieces, self.floats, self.held, g.rows, g.columns, g.halo_y, g.halo_x)
        d.most_pixels = 0 if whole else self.settings.deblending.max_footprint_px
        done, why = d.run(first)
        while why in (_deblend.MISSING, _deblend.LARGE):
            why = self._split_by_strips(done, footprints[done], strip, why)
            if why != _deblend.DONE:
                break
            done, why = d.run(done + 1)
        if "OBJECTS" in self.checks:
            self._write_objects(sources[: d.nsources], pieces)
        return pack(done, why, d.nsources, d.npieces, d.needed + strip_bytes, d.needed_sources, d.needed_pieces)

    def _strip_bytes(self) -> int:
        """Room for as many full rows as the filter needs."""
        return -(-max(4 * self.tiles.width * (2 * self.tiles.halo_y + 1), READ_BYTES) // 64) * 64

    def _split_by_strips(self, i: int, f: Any, strip: NDArray[np.float32], why: int) -> int:
        """A footprint whose tiles aren't held, or that is too large to be split: its values strip by strip."""
        d = self.deblender
        if why == _deblend.LARGE:
            why = d.begin_large(i)
            if why != _deblend.DONE:
                return why
            for place in (False, True):
                done = 0
                while (done := d.order_large(i, place, done, OWN_AT_ONCE, JUMPS_AT_ONCE)) < f["nfragments"]:
                    self.settle()
            for second in (False, True):
                for ya, yb, box, block in self._strips(f, strip):
                    d.fold_large(i, second, ya, yb, block, box.y0, box.x0)
                    self.settle()
                if not second:
                    d.middle_large()
            d.end_large(i)
            return _deblend.DONE
        if not d.prepare(i):
            return _deblend.SCRATCH
        for ya, yb, box, block in self._strips(f, strip):
            d.strip(i, ya, yb, block, box.y0, box.x0)
        return d.finish(i)

    def _strips(self, f: Any, strip: NDArray[np.float32]) -> Iterator[tuple[int, int, Box, NDArray[np.float32]]]:
        """Rows of a footprint, and a block with their pixels and the filter's halo."""
        g = self.tiles
        x0, x1 = max(int(f["xmin"]) - g.halo_x, 0), min(int(f["xmax"]) + 1 + g.halo_x, g.width)
        step = len(strip) // (x1 - x0) - 2 * g.halo_y
        for ya in range(int(f["ymin"]), int(f["ymax"]) + 1, step):
            yb = min(ya + step, int(f["ymax"]) + 1)
            box = Box(max(ya - g.halo_y, 0), x0, min(yb + g.halo_y, g.height), x1)
            block = strip[: box.size].reshape(box.shape)
            self._pixels(box, block)
            yield ya, yb, box, block

    def _pixels(self, box: Box, out: NDArray[np.float32]) -> None:
        self._cutter(np.empty(0, SOURCE), np.empty(0, FRAGMENT)).pixels(box, out)

    def _cutter(self, sources: NDArray[Any], freed: NDArray[Any], ready: tuple[int, int] = (0, 0)) -> StampCutter:
        arena = self._arena_floats()
        return TracedCutter(
            track=self.track,
            grid=self.tiles,
            slab=self.bytes,
            floats=self.floats,
            tiles=self.held,
            runs=self.runs,
            sources=sources,
            freed=freed,
            load=self.load,
            mask=self.scratch[4 * arena : 5 * arena],
            first_row=ready[0],
            final_row=ready[1],
            masking=self.settings.photometry.mask_type != "NONE",
            settle=self.settle,
        )

    def _arena_floats(self) -> int:
        return len(self.scratch) // 5 // 16 * 16

    def _write_objects(self, sources: NDArray[Any], pieces: NDArray[Any]) -> None:
        """OBJECTS: the pixels of all sources found, eaten ones too."""
        out = self.scratch[: len(self.scratch) // 4 * 4].view(np.float32)
        for s in sources:
            own = pieces[int(s["fragments"]) : int(s["fragments"] + s["nfragments"])]
            for part, n in _portions(own, len(out)):
                at = 0
                for y, x0, x1 in part.tolist():
                    self._pixels(Box(y, x0, y + 1, x1), out[at : at + x1 - x0].reshape(1, -1))
                    at += x1 - x0
                self.checks["OBJECTS"].write_values(self.extension, part, out[:n])
                self.settle()

    def measure(self, payload: bytes) -> bytes:
        """Measure a batch of sources; answers with pairs of those that must wait: index, row that must be final."""
        head = np.frombuffer(payload, np.int64)
        n, source_at, copy_at, place_at, freed_at, nfreed, rows_at, nrows, first_row, final_row = head[:10].tolist()
        eaten_at, neaten = head[10:12].tolist()
        self._hold(head[12:].reshape(-1, 2))
        sources = self.bytes[source_at : source_at + n * SOURCE.itemsize].view(SOURCE)
        copies = self.bytes[copy_at : copy_at + n * SOURCE.itemsize].view(SOURCE)
        place = self.bytes[place_at : place_at + 8 * n].view(np.int64)
        freed = self.bytes[freed_at : freed_at + nfreed * FRAGMENT.itemsize].view(FRAGMENT)
        rows = self.bytes[rows_at : rows_at + nrows * self.plan.row.itemsize].view(self.plan.row)
        if "SEGMENTATION" in self.checks:
            self._paint(sources, self.bytes[eaten_at : eaten_at + neaten * EATEN.itemsize].view(EATEN))
        waiting: dict[int, int] = {}
        left = np.arange(n)
        while len(left):
            try:
                some = copies[: len(left)]
                np.take(sources, left, out=some, mode="clip")
                self._measure(some, freed, (first_row, final_row), rows, place[left])
                break
            except NeedRows as need:
                late = {int(left[i]): row for i, row in need.rows.items()}
                waiting.update(late)
                left = np.array([i for i in left if i not in late], np.int64)
        return pack(*(v for pair in waiting.items() for v in pair))

    def _paint(self, sources: NDArray[Any], eaten: NDArray[Any]) -> None:
        """SEGMENTATION: each source's own pixels, and those of what it ate."""
        image = self.checks["SEGMENTATION"]
        for labelled in (sources, eaten):
            columns = (labelled[name].tolist() for name in ("fragments", "nfragments", "number"))
            for first, n, number in zip(*columns, strict=True):
                own = self.bytes[first : first + n * FRAGMENT.itemsize].view(FRAGMENT)
                for part in range(0, n, OWN_AT_ONCE):
                    image.write_labels(self.extension, own[part : part + OWN_AT_ONCE], number)
                    self.settle()

    def _outline(self, batch: Batch) -> None:
        """APERTURES: outlines of what was measured."""
        s, image = batch.sources, self.checks["APERTURES"]
        assert isinstance(image, ApertureImage)
        apertures = self.settings.photometry.apertures if batch.wants(*APERTURE_COLUMNS) else ()
        radii = [
            batch[radius]
            for kind, radius in (("AUTO", "KRON_RADIUS"), ("PETRO", "PETRO_RADIUS"))
            if batch.wants(*(f"{q}_{kind}" for q in ("FLUX", "FLUXERR", "MAG", "MAGERR")))
        ]
        each = len(apertures) + len(radii)
        for i in range(len(s) if each else 0):
            one = s[i : i + 1]
            shape = one["x"], one["y"], one["a"], one["b"], one["theta"]
            parts = [circles(one["x"], one["y"], apertures), *(ellipses(*shape, r[i : i + 1], one["flags"]) for r in radii)]
            image.put_outlines((int(one["number"][0]) - 1) * each, np.concatenate(parts, axis=1))

    def _measure(
        self, sources: NDArray[Any], freed: NDArray[Any], ready: tuple[int, int], rows: NDArray[Any], place: NDArray[np.int64]
    ) -> None:
        """Run all families on some sources and put what they give in their rows."""
        assert self.frame is not None
        batch = Batch(
            sources, self.frame, self.settings, self.plan.dims, self._cutter(sources, freed, ready),
            self.scratch[: 4 * self._arena_floats()].view(np.float32), rows=rows, place=place, reaches=self.reaches,
        )  # fmt: skip
        for name in self.plan.batch + self.at_once:
            with self.track(name, sources=len(sources)):
                MEASUREMENTS.get(name).run(batch)
        for name in self.plan.row.names or ():
            if name in batch.values:
                rows[name][place] = batch[name]
        if "APERTURES" in self.checks:
            self._outline(batch)

    def table(self, payload: bytes) -> bytes:
        """Fill the columns of rows that follow from the row alone."""
        rows_at, n = np.frombuffer(payload, np.int64).tolist()
        assert self.frame is not None
        rows = self.bytes[rows_at : rows_at + n * self.plan.row.itemsize].view(self.plan.row)
        nothing = np.empty(0, FRAGMENT)
        batch = Batch(
            np.zeros(n, SOURCE), self.frame, self.settings, self.plan.dims, self._cutter(np.empty(0, SOURCE), nothing),
            self.scratch[:0].view(np.float32), values={name: rows[name] for name in self.plan.row.names or ()},
        )  # fmt: skip
        for name in self.plan.table:
            with self.track(name, sources=n):
                MEASUREMENTS.get(name).run(batch)
        for name in self.plan.row.names or ():
            if batch[name] is not rows[name]:
                rows[name] = batch[name]
        return b""


@dataclass(kw_only=True)
class TracedCutter(StampCutter):
    """Cuts stamps, and shows in the trace when."""

    track: Track

    def cut_many(
        self, index: NDArray[np.int64], boxes: NDArray[np.int64], offsets: NDArray[np.int64], arena: NDArray[np.float32]
    ) -> None:
        """See `measure.Cutter`."""
        with self.track("stamps", stamps=len(index)):
            StampCutter.cut_many(self, index, boxes, offsets, arena)


class TilePlanes:
    """What check-images may ask of some rows of a tile (`checkimage.Tile`)."""

    def __init__(self, stages: Stages, box: Box, block: NDArray[np.float32], y: int, x: int, guard: bool) -> None:
        self.stages, self.box, self.block, self.y, self.x, self.guard = stages, box, block, y, x, guard

    def background(self, out: NDArray[np.float32]) -> None:
        """The background map."""
        self.stages.background.evaluate(self.box, out, self.stages.reading)

    def rms(self, out: NDArray[np.float32]) -> None:
        """Its RMS."""
        self.stages.background.rms(self.box, out, self.stages.reading)

    def subtracted(self, out: NDArray[np.float32]) -> None:
        """The image less its background."""
        rows, columns = out.shape
        out[:] = self.block[self.y : self.y + rows, self.x : self.x + columns]

    def filtered(self, out: NDArray[np.float32]) -> None:
        """The same after the filter."""
        rows, columns = out.shape
        for k in range(rows):
            _scan.filter_row(self.block, self.stages.taps, self.y + k, self.x, self.x + columns, out[k], self.guard)


def _portions(fragments: NDArray[Any], room: int) -> Iterator[tuple[NDArray[Any], int]]:
    """Consecutive fragments, not very many, with at most `room` pixels together, and their pixels."""
    first = 0
    while first < len(fragments):
        some = fragments[first : first + FRAGMENTS]
        ends = np.cumsum(some["x1"] - some["x0"], dtype=np.int64)
        n = max(int(np.searchsorted(ends, room, side="right")), 1)
        yield some[:n], int(ends[n - 1])
        first += n
