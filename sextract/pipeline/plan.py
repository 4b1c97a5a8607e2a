"""What a run will do and hold, worked out before a pixel is read: families, rows, tiles, buffers; and what extensions share.

Sizes follow from the image, the configuration and the memory limit; answers don't follow from sizes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.background.mesh import SCRATCH_BYTES, MeshGrid, mesh_grid
from sextract.background.surface import Background
from sextract.catalogue.writer import CatalogueWriter, OutputColumn, row_dtype
from sextract.checkimage.checkimage import CheckImages
from sextract.config.settings import Requested, Settings
from sextract.detection import _components
from sextract.execution.backend import Backend
from sextract.log import Progress, Reporter
from sextract.measurement.measure import MARGIN, MEASUREMENTS, family_of
from sextract.measurement.stamps import TileGrid
from sextract.memory.gauge import Gauge
from sextract.memory.slab import Slab
from sextract.memory.tiles import TileManager
from sextract.pipeline.stages import READ_BYTES, Plan, runs_block_bytes
from sextract.reading.header import gain_and_saturation, pixel_scale_from
from sextract.reading.source import ImageInfo, ImageSource
from sextract.records import SOURCE, BlockRef, Frame

MIB = 1 << 20

# A tile is read in one go and stays in a core's cache while it is filtered.
TILE_BYTES = 2 * MIB
# Stamps of a batch, or a footprint's pixels with its tree: more is lent when one is larger.
SCRATCH_TARGET = 4 * MIB
# What a pixel of a footprint needs while it is split: values, owner, fragments, tree.
FOOTPRINT_PIXEL_BYTES = 24


@dataclass(frozen=True, slots=True)
class Layout:
    """Tiles and buffers of one extension.

    Attributes
    ----------
    mesh : MeshGrid
    tiles : TileGrid
    mesh_cells : tuple of int
        Rows and columns of background cells in a task.
    mesh_bytes, complete_bytes : int
        The background's maps, and scratch to finish them.
    scratch_bytes : int
        Of each worker.
    giant_bytes : int
        What the largest footprint that is split may need.
    need_bytes : int
        The smallest slab that can do the work.
    """

    mesh: MeshGrid
    tiles: TileGrid
    mesh_cells: tuple[int, int]
    mesh_bytes: int
    complete_bytes: int
    scratch_bytes: int
    giant_bytes: int
    need_bytes: int


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


def lay_out(info: ImageInfo, settings: Settings, workers: int, slab_bytes: int) -> Layout:
    """Cut an image into tiles for a slab of that size."""
    mesh = mesh_grid(info.width, info.height, settings.background)
    kernel = settings.detection.kernel
    halo_y, halo_x = (0, 0) if kernel is None else (kernel.shape[0] // 2, kernel.shape[1] // 2)
    tiles = TileGrid(info.width, info.height, *_tile_shape(info, settings, workers, slab_bytes), halo_y, halo_x)
    block = 4 * (tiles.rows + 2 * halo_y) * (min(tiles.columns + 2 * halo_x, info.width))
    strip = max(4 * info.width * (2 * halo_y + 1), READ_BYTES)
    nodes = READ_BYTES + -(-Background.scratch_bytes(mesh) // 4096) * 4096
    least = nodes + strip + MIB + max(
        SCRATCH_BYTES + 4 * mesh.cell_height * mesh.cell_width, 4 * tiles.columns, 5 * 4 * info.width * 4 * MARGIN
    )
    scratch = max(least, min(SCRATCH_TARGET + strip + nodes, slab_bytes // (4 * workers)))
    room = scratch - nodes - SCRATCH_BYTES
    across = max(1, min(mesh.nx, room // (4 * mesh.cell_height * mesh.cell_width)))
    down = 1 if across < mesh.nx else max(1, min(mesh.ny, -(-mesh.ny // (4 * workers)), room // (4 * mesh.cell_height * info.width)))
    pixels = min(settings.deblending.max_footprint_px, info.width * info.height)
    giant = FOOTPRINT_PIXEL_BYTES * pixels
    mesh_bytes = Background.storage_bytes(mesh)
    joining = 2 * info.width * (_components.PIECE_BYTES + _components.COMPONENT_BYTES + _components.LABEL_BYTES)
    need = (
        mesh_bytes + Background.complete_scratch_bytes(mesh)
        + workers * (scratch + 2 * block + 2 * runs_block_bytes(tiles.rows, tiles.rows * (tiles.columns // 24 + 1)) + 512 * 1024)
        + max(giant - scratch, 0) + joining + 4096 * SOURCE.itemsize + MIB
    )  # fmt: skip
    return Layout(mesh, tiles, (down, across), mesh_bytes, Background.complete_scratch_bytes(mesh), scratch, giant, need)


def _tile_shape(info: ImageInfo, settings: Settings, workers: int, slab_bytes: int) -> tuple[int, int]:
    """Rows and columns of a tile: bands of rows that suit the storage, cut in x only where a band is too large."""
    forced = settings.resources.tile_shape
    if forced is not None:
        rows, columns = (n if n > 0 else side for n, side in zip(forced, (info.height, info.width), strict=True))
        return min(rows, info.height), min(columns, info.width)
    most = min(TILE_BYTES, max(slab_bytes // (16 * workers), 64 * 1024))
    columns = info.width
    rows = max(most // (4 * columns), 1)
    if rows < 16:
        # Rows of 64 KiB and more are still read at full speed.
        columns = min(columns, max(most // (4 * 16), 16384))
        rows = max(most // (4 * columns), 1)
    if info.tile_rows > 1:
        rows = max(rows // info.tile_rows, 1) * info.tile_rows
    return min(rows, info.height), columns


class Run:
    """What all extensions of a run share.

    Attributes
    ----------
    images, settings, plan, checks, writer, slab, tiles, backend, gauge, reporter, progress
        See their classes.
    scratch : tuple of BlockRef
        Of each worker.
    parents : int
        Last ID_PARENT given; it goes on through extensions.
    barren : int
        Extensions so far in which no background could be measured.
    """

    def __init__(
        self, images: Sequence[ImageSource], settings: Settings, plan: Plan, slab: Slab, backend: Backend, gauge: Gauge,
        writer: CatalogueWriter, checks: CheckImages, reporter: Reporter,
    ) -> None:  # fmt: skip
        self.images, self.settings, self.plan, self.slab, self.backend = images, settings, plan, slab, backend
        self.gauge, self.writer, self.checks, self.reporter = gauge, writer, checks, reporter
        self.tiles = TileManager(slab)
        self.scratch: tuple[BlockRef, ...] = ()
        self.parents = 0
        self.barren = 0
        self.paints = "SEGMENTATION" in checks
        self.written = 0
        self._looked = 0.0
        # A little below the limit: between two looks there is time to grow.
        self.gauge_limit = settings.resources.mem_limit_bytes - MIB
        self._reaches = [m.reach for name in plan.batch if (m := MEASUREMENTS.get(name)).reach is not None]
        self._catalogue_row = row_dtype(output_columns(settings))
        self.progress: Progress

    def sample(self) -> None:
        """Look at what is held, now and then."""
        now = time.monotonic()
        if now - self._looked > 0.05:
            self._looked = now
            excess = self.gauge.sample() - self.gauge_limit
            if excess > 0:
                self._give_back(excess)

    def _give_back(self, nbytes: int) -> None:
        """The heaps hold more than their allowance: let go of tiles nobody reads, so that the limit holds."""
        freed = self.tiles.evict(2 * nbytes)
        self.slab.shrink()
        self.reporter.detail(f"heaps are {nbytes >> 10} KiB over their allowance: {freed >> 10} KiB of tiles given back")

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
            assert reach is not None
            half = np.maximum(half, reach(sources, self.settings.photometry)[1])
        half = np.where(np.isfinite(half), np.minimum(half, height), height) + 2 * MARGIN + 2
        return np.ceil(np.nan_to_num(sources["y"], nan=0.0) + half).astype(np.int64)

    def write(self, rows: NDArray[Any]) -> None:
        """Give rows to the catalogue: the columns requested come first in each."""
        packed = rows.view(np.uint8).reshape(len(rows), -1)[:, : self._catalogue_row.itemsize]
        self.writer.write(np.ascontiguousarray(packed).view(self._catalogue_row).reshape(-1))
        self.written += len(rows)


def _threshold(values: tuple[float, ...], kind: str, rms: float, scale: float) -> float:
    """A threshold in ADU: DETECT_THRESH or ANALYSIS_THRESH, THRESH_TYPE; two values are mag/arcsec² and a zero-point."""
    if len(values) == 2:
        return float(np.float32(scale * scale * 10.0 ** (-0.4 * (values[0] - values[1]))))
    return float(np.float32(values[0]) * np.float32(rms if kind == "RELATIVE" else 1.0))
