"""What a run will do, worked out before a pixel is read: families, layout of rows; and what its extensions share.

How images are cut up for a memory limit is ``layout.py``'s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.background.mesh import MeshGrid
from sextract.background.surface import Background
from sextract.catalogue.writer import CatalogueWriter, OutputColumn, row_dtype
from sextract.checkimage.checkimage import CheckImages
from sextract.config.settings import Requested, Settings
from sextract.execution.backend import Backend
from sextract.log import Progress, Reporter
from sextract.measurement.measure import MARGIN, MEASUREMENTS, family_of, reaches_of
from sextract.memory.budget import MIB, size_text
from sextract.memory.gauge import Gauge
from sextract.memory.slab import Slab
from sextract.memory.tiles import TileManager
from sextract.memory.timeline import Recorder
from sextract.pipeline.checkpoint import Checkpoint
from sextract.pipeline.facts import ExtensionSummary
from sextract.pipeline.layout import PARENT_MAPPED_BYTES, Fit
from sextract.pipeline.shelf import Shelf
from sextract.pipeline.stages import Plan
from sextract.reading.header import gain_and_saturation, pixel_scale_from
from sextract.reading.source import ImageInfo, ImageSource
from sextract.records import BlockRef, Frame
from sextract.report.trace import Track

# A task of some ten milliseconds; scratch for each of its sources, whose arrays on the heap grow with their number as well;
# and what rows of a task, and arrays of the elements of a vector, may take.
SOURCES_PER_TASK = 768
SCRATCH_PER_SOURCE = 16 * 1024
ROWS_BYTES, VECTOR_BYTES = MIB, 64 * 1024
# Rows given to a writer at a time.
PIECE_BYTES = 64 * 1024


def families(settings: Settings) -> Plan:
    """The families that the requested columns need, and the layout of rows between workers and the writer."""
    requested = {c.name: c.dims for c in _requested(settings)}
    wanted = list(dict.fromkeys(m.name for name in requested if (m := family_of(name)) is not None))
    ordered = MEASUREMENTS.ordered(wanted, lambda m: m.needs)
    stages = {name: MEASUREMENTS.get(name).stage for name in ordered}
    table = tuple(name for name in ordered if stages[name] == "table")
    dims = dict(requested)
    fields = [_field(name, dims) for name in requested]
    # What a table family reads travels with the row.
    needed = {need for name in table for need in MEASUREMENTS.get(name).needs}
    for need in sorted(needed):
        fields += [_field(c.name, dims) for c in MEASUREMENTS.get(need).columns if c.name not in requested and not c.vector]
    row = np.dtype(list(dict.fromkeys(fields)))
    return Plan(tuple(name for name in ordered if stages[name] == "batch"), table, row, dims)


def _requested(settings: Settings) -> tuple[Requested, ...]:
    """Columns of the catalogue; rows have one also where there is none to write (CATALOG_TYPE NONE)."""
    return settings.output.columns or (Requested("NUMBER"),)


def _field(name: str, dims: dict[str, tuple[int, ...]]) -> tuple[str, str, tuple[int, ...]]:
    family = family_of(name)
    assert family is not None
    column = next(c for c in family.columns if c.name == name)
    return name, column.dtype, dims.get(name, ())[::-1]


def output_columns(settings: Settings) -> list[OutputColumn]:
    """Columns of the catalogue in the order requested."""
    out = []
    for requested in _requested(settings):
        family = family_of(requested.name)
        assert family is not None
        out.append(OutputColumn(next(c for c in family.columns if c.name == requested.name), requested.dims))
    return out


class Run:
    """What all extensions of a run share.

    Attributes
    ----------
    images, settings, plan, checks, writer, slab, tiles, backend, gauge, reporter, progress
        See their classes.
    parents : int
        Last ID_PARENT given; it goes on through extensions.
    shelf : Shelf or None
        Where rows wait for sky positions, if these come late.
    beyond : int
        Detections so far that weren't split for FOOTPRINT_MAXPIX.
    detected : int
        Sources of finished extensions before CLEAN.
    barren : int
        Extensions so far in which no background could be measured.
    extensions : list of ExtensionSummary
        Those that are done.
    flagged : int64 array (8,)
        Rows written that have each bit of FLAGS, if that is among their columns.
    sources_per_task : int
        Fewer where columns are long vectors, or scratch is small.
    lent_bytes : int
        Of tiles and their runs that a task may have mapped; see `layout.Fit`.
    recorder : Recorder
    track : Track
        This process's, in the trace.
    checkpoint : Checkpoint
    """

    def __init__(
        self, images: Sequence[ImageSource], settings: Settings, plan: Plan, slab: Slab, backend: Backend, gauge: Gauge,
        writer: CatalogueWriter, checks: CheckImages, reporter: Reporter, fit: Fit, catalogue_in_memory: bool,
        recorder: Recorder, track: Track, checkpoint: Checkpoint,
    ) -> None:  # fmt: skip
        self.images, self.settings, self.plan, self.slab, self.backend = images, settings, plan, slab, backend
        self.gauge, self.writer, self.checks, self.reporter = gauge, writer, checks, reporter
        self.tiles = TileManager(slab)
        self.recorder, self.track = recorder, track
        recorder.cached = lambda: self.tiles.idle_bytes
        self.parents = 0
        self.barren = self.beyond = self.detected = 0
        self.checkpoint = checkpoint
        self.paints = "SEGMENTATION" in checks
        self.written = 0
        self.extensions: list[ExtensionSummary] = []
        self.flagged = np.zeros(8, np.int64)
        self._looked = 0.0
        self._catalogue_in_memory = catalogue_in_memory
        self._need = fit.need_bytes
        self.shelf = Shelf(plan.row, fit.late.slab, settings.resources.scratch_dir) if fit.late is not None else None
        self._gave_back = False
        self.lent_bytes = fit.lent_bytes
        self._rss_limit = fit.budget.limit if fit.budget.base_rss else 0
        # The kernel's share is in no process's memory.  Between two looks there is time to grow, too.
        self.gauge_limit = fit.budget.limit - max(dict(fit.budget.lines())["kernel"], MIB)
        self._reaches = reaches_of(plan.batch)
        self._catalogue_row = row_dtype(output_columns(settings))
        self.progress: Progress
        # Families make float64 arrays with two entries for each element of a vector, unless they write into rows.
        elements = max((math.prod(d) for name, d in plan.dims.items() if name not in self._direct(plan)), default=1)
        scratch = min(layout.scratch_bytes for layout in fit.layouts)
        most = min(
            ROWS_BYTES // plan.row.itemsize, VECTOR_BYTES // (16 * elements), SOURCES_PER_TASK, scratch // SCRATCH_PER_SOURCE
        )
        self.sources_per_task = max(most, 1)

    @staticmethod
    def _direct(plan: Plan) -> set[str]:
        """Columns that are written where the rows lie."""
        return {c.name for name in plan.batch if (m := MEASUREMENTS.get(name)).direct for c in m.columns}

    def sample(self) -> None:
        """Look at what is held, now and then."""
        if self._rss_limit and self.gauge.mapped() > PARENT_MAPPED_BYTES:
            self.slab.unmap()
        now = time.monotonic()
        if now - self._looked > 0.1:
            self._looked = now
            room = self.gauge_limit - self._written_to_memory()
            # What processes no longer share shows in an exact look alone.
            excess = (self.gauge.exact() if self.gauge.sample() > room - MIB else self.gauge.last.total) - room
            if excess > 0:
                self._give_back(excess)
            if 0 < self._rss_limit < self.gauge.last.rss:
                self._lend_less(self.gauge.last.rss - self._rss_limit)

    def _give_back(self, nbytes: int) -> None:
        """The heaps hold more than their allowance: less slab for the rest of the run, so that the limit holds."""
        # A little more at once than asked for, lest every look ends here.
        freed = self.tiles.evict(nbytes + MIB)
        lowered = self.slab.lower_ceiling(nbytes + MIB, self._need)
        text = f"the processes hold {size_text(nbytes)} more outside the buffers than was set aside for that; "
        if lowered >= nbytes:
            text += f"{size_text(lowered)} of buffers are given up for the rest of the run, so that the limit holds"
        else:
            text += f"{size_text(freed)} of cached pixels are given up; all else is needed, so the limit may be passed"
        self._say(text)

    def _lend_less(self, nbytes: int) -> None:
        """The sum of Rss is too large: tasks that begin from now on map less."""
        self.slab.unmap()
        self.lent_bytes //= 2
        self._say(f"the sum of Rss is {size_text(nbytes)} over the limit; tasks get fewer cached pixels from now on")

    def _say(self, text: str) -> None:
        """What the governor did: once in the normal log, and each time in the detailed one and in the report."""
        self.recorder.note(text)
        (self.reporter.detail if self._gave_back else self.reporter.info)(f"Memory: {text}")
        self._gave_back = True

    def mark(self, stage: str, index: int) -> None:
        """A stage of an extension begins."""
        self.recorder.mark(stage if len(self.images) == 1 else f"{stage} {index + 1}")

    def _written_to_memory(self) -> int:
        """Bytes of a catalogue whose folder is in memory."""
        return self.written * self._catalogue_row.itemsize if self._catalogue_in_memory else 0

    def attach_background(self, maps: BlockRef, grid: MeshGrid) -> Background:
        """The background on its block."""
        return Background.on(np.frombuffer(self.slab.bytes_view(*maps), np.uint8), grid)

    def frame(self, info: ImageInfo, background: Background) -> Frame:
        """What measurements may know of an extension; levels and where they come from go to the log."""
        photometry, detection = self.settings.photometry, self.settings.detection
        levels = gain_and_saturation(info, photometry)
        for warning in levels.warnings:
            self.reporter.warning(warning)
        scale = photometry.pixel_scale or pixel_scale_from(info.header) or 1.0
        rms = float(np.float32(background.global_rms))
        threshold = _threshold(detection.detect_thresh, detection.thresh_type, rms, scale)
        analysis = _threshold(detection.analysis_thresh, detection.thresh_type, rms, scale)
        self.reporter.detail(
            f"GAIN {levels.gain:g} ({levels.gain_origin}), saturation {levels.saturation:g} ({levels.saturation_origin}), "
            f"pixel scale {scale:g} arcsec"
        )
        self.reporter.info(f"Background: {background.mean:<10g} RMS: {rms:<10g} / Threshold: {threshold:<10g}")
        return Frame(
            info.width, info.height, info.ext_number, background.mean, rms, threshold, analysis, levels.gain,
            levels.saturation, scale, info.header,
        )  # fmt: skip

    def reach_rows(self, sources: NDArray[Any], height: int) -> NDArray[np.int64]:
        """The row below which all pixels lie that these sources are expected to ask for, be it beyond the frame.

        They may ask for as many rows above their barycentres.
        """
        half = np.maximum(sources["ymax"] - sources["y"], sources["y"] - sources["ymin"])
        for reach in self._reaches:
            half = np.maximum(half, reach(sources, self.settings.photometry)[1])
        half = np.where(np.isfinite(half), np.minimum(half, height), height) + 2 * MARGIN + 2
        rows: NDArray[np.int64] = np.ceil(np.nan_to_num(sources["y"], nan=0.0) + half).astype(np.int64)
        return rows

    def take(self, rows: NDArray[Any]) -> None:
        """Measured rows, in order: to the catalogue, or to where they wait for sky positions."""
        if self.shelf is None:
            self.write(rows)
        else:
            self.shelf.put(rows)

    def write(self, rows: NDArray[Any]) -> None:
        """Give rows to the catalogue: the columns requested come first in each."""
        size = self._catalogue_row.itemsize
        if "FLAGS" in (rows.dtype.names or ()):
            self.flagged += [np.count_nonzero(rows["FLAGS"] & (1 << bit)) for bit in range(len(self.flagged))]
        step = max(PIECE_BYTES // size, 1)
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            packed = some.view(np.uint8).reshape(len(some), -1)[:, :size]
            self.writer.write(np.ascontiguousarray(packed).view(self._catalogue_row).reshape(-1))
        self.written += len(rows)


def _threshold(values: tuple[float, ...], kind: str, rms: float, scale: float) -> float:
    """A threshold in ADU: DETECT_THRESH or ANALYSIS_THRESH, THRESH_TYPE; two values are mag/arcsec² and a zero-point."""
    if len(values) == 2:
        return float(np.float32(scale * scale * 10.0 ** (-0.4 * (values[0] - values[1]))))
    return float(np.float32(values[0]) * np.float32(rms if kind == "RELATIVE" else 1.0))
