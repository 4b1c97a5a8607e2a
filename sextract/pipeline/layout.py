"""How an image is cut up for a memory limit: tiles, buffers, number of workers; and which limit is too small.

Arithmetic on headers and settings; nothing is allocated or read.  What processes take before the first buffer is predicted
by constants, so that the same limit is accepted or refused every time; a run checks them against what it measures.
Answers never depend on any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sextract.background.mesh import SCRATCH_BYTES, MeshGrid, mesh_grid
from sextract.background.surface import Background
from sextract.config.machine import UNLIMITED
from sextract.config.settings import Settings
from sextract.deblending import _deblend
from sextract.detection import _components
from sextract.errors import LimitError
from sextract.measurement.stamps import TileGrid
from sextract.memory.budget import MIB, Budget, size_text
from sextract.memory.timeline import VALUES, timeline_bytes
from sextract.pipeline.runs import ENTRY_BYTES
from sextract.pipeline.stages import READ_BYTES, Plan, held_bytes, imports_astropy, reading_bytes, runs_block_bytes, uses_sky
from sextract.reading.source import ImageInfo

# A tile: some milliseconds of work.
TILE_BYTES = 4 * MIB
LEAST_TILES, LEAST_TILE_BYTES = 4, MIB
# Stamps of a batch, or a footprint's pixels with its tree: more is lent when one is larger.
SCRATCH_TARGET = 8 * MIB
# A background cell up to this size is held, a larger one is read three times.
CELL_TARGET = MIB
# The answers of tasks on the way, CLEAN's tables, the first tables of sources and fragments.  What crowding needs beyond that
# is found when it comes, on disk if need be.
TASK_BYTES, TABLE_BYTES = MIB, 3 * MIB // 2
# Rows of a giant's window that are walked through at a time, mirrored ones included: few where room is short.
FEW_ROWS, MANY_ROWS = 16, 64

# What the processes hold after their imports and a first task each, measured with CPython 3.11 and numpy 2.4 and rounded up:
# this process and its template together, each worker, one process alone; and the pages of programs and libraries that they
# share, as if nobody else on the machine had them open.
PARENT_BYTES, WORKER_BYTES, SERIAL_BYTES, LIBRARY_BYTES = (round(x * MIB) for x in (23.0, 4.2, 20.5, 10.5))
# What one of several processes that take images in turn holds of its own (`ResourceSettings.hosted`).
HOSTED_BYTES = 14 * MIB
# Of each check-image, what may be on its way to the disk (``memory/writeback.py``).
CHECKIMAGE_PAGES = 4 * MIB
# The slab while sky positions are worked out late: some rows at a time.
LATE_BYTES = 2 * MIB
# The same as the sum of Rss, which counts what they share in each of them: parent and template, each worker, one alone.
PARENT_RSS, WORKER_RSS, SERIAL_RSS = (round(x * MIB) for x in (63.5, 28.5, 39.0))
# Where the sum of Rss counts, this process takes pages of the slab out of its map when there are so many in it, and may touch
# as many more until it looks again.
PARENT_MAPPED_BYTES = 4 * MIB
# What sky positions take: astropy.wcs in the one worker that imports it, measured with astropy 8; its wcslib alone in each
# worker, and as much twice for what they share of it.
ASTROPY_BYTES, WCSLIB_BYTES = 42 * MIB, MIB // 4
# What images on servers take: the client and its certificates, once; in each process that reads, a connection, with what the
# kernel keeps of an answer.  Measured with Python 3.11 and OpenSSL 3.0.
NETWORK_BYTES, CONNECTION_BYTES = 8 * MIB, 5 * MIB // 2


class Layout(NamedTuple):
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
    low_bytes : int
        Of the slab, for that footprint and for tiles alone.
    tile_bytes : int
        A tile with its halo.
    pool : tuple of int
        Pieces and components to begin with.
    need_bytes : int
        The smallest slab that can do the work.
    map_bytes : int
        What processes have mapped of it at the same time, added up, if each task is lent one tile.
    """

    mesh: MeshGrid
    tiles: TileGrid
    mesh_cells: tuple[int, int]
    mesh_bytes: int
    complete_bytes: int
    scratch_bytes: int
    giant_bytes: int
    low_bytes: int
    tile_bytes: int
    pool: tuple[int, int]
    need_bytes: int
    map_bytes: int


class Fit(NamedTuple):
    """A limit, split, and all extensions laid out in what it leaves for the slab.

    Attributes
    ----------
    budget : Budget
    workers : int
        0: everything in one process.
    layouts : tuple of Layout
    late : Budget or None
        Where the limit has no room for astropy beside pixels: how it is split when sky positions are worked out in the end, by
        one worker with a slab of almost nothing.
    """

    budget: Budget
    workers: int
    layouts: tuple[Layout, ...]
    late: Budget | None = None

    @property
    def need_bytes(self) -> int:
        """The smallest slab that can do the work."""
        return max(layout.need_bytes for layout in self.layouts)

    @property
    def spare_map_bytes(self) -> int:
        """What processes may have mapped beyond what they must; negative if not even that fits."""
        return self.budget.mappable - max(layout.map_bytes for layout in self.layouts)

    @property
    def lent_bytes(self) -> int:
        """Bytes of tiles that a task may be lent, with their runs; a task reads what it isn't lent."""
        if not self.budget.base_rss:
            return UNLIMITED
        return 2 * max(layout.tile_bytes for layout in self.layouts) + self.spare_map_bytes // max(self.workers, 1)

    @property
    def fits(self) -> bool:
        """Whether the slab is large enough, and can be mapped as far as needed, also while sky positions come late."""
        late = self.late is None or self.late.holds(LATE_BYTES, LATE_BYTES)
        return late and self.budget.holds(self.need_bytes, max(layout.map_bytes for layout in self.layouts))


class Base(NamedTuple):
    """What processes hold after their start: file pages once, and as the sum of Rss, both without the slab; 0: unknown."""

    pss: int = 0
    rss: int = 0


UNKNOWN = Base()


def lay_out(info: ImageInfo, settings: Settings, workers: int, slab_bytes: int) -> Layout:
    """Cut an image into tiles for a slab of that size."""
    workers = max(workers, 1)
    mesh = mesh_grid(info.width, info.height, settings.background)
    kernel = settings.detection.kernel
    halo_y, halo_x = (0, 0) if kernel is None else (kernel.shape[0] // 2, kernel.shape[1] // 2)
    tiles = TileGrid(info.width, info.height, *_tile_shape(info, settings, workers, slab_bytes), halo_y, halo_x)
    reading = reading_bytes(mesh) + held_bytes(tiles)
    strip = max(4 * info.width * (2 * halo_y + 1), READ_BYTES)
    cell = 4 * mesh.cell_height * mesh.cell_width
    held_cell = min(cell, max(CELL_TARGET, slab_bytes // (16 * workers)))
    window_rows = min(max(slab_bytes // (320 * workers * info.width), FEW_ROWS), MANY_ROWS, info.height)
    walked = 5 * window_rows * info.width
    least = reading + strip + MIB + max(SCRATCH_BYTES + max(held_cell, 4 * info.width), 4 * tiles.columns, walked)
    scratch = max(least, min(SCRATCH_TARGET + strip + reading, slab_bytes // (12 * workers)))
    tile_bytes = 4 * (tiles.rows + 2 * halo_y) * min(tiles.columns + 2 * halo_x, info.width)
    runs = runs_block_bytes(tiles.rows, first_runs(tiles.rows, tiles.columns))
    pool = info.width // 4 + 4096, info.width // 8 + 1024
    joining = pool[0] * _components.PIECE_BYTES + pool[1] * _components.COMPONENT_BYTES
    joining += (info.width + 4) * _components.LABEL_BYTES
    giant = strip + giant_bytes(info, settings)
    low = max(workers * tile_bytes, giant if giant > scratch else 0)
    if settings.resources.mem_report:
        # It is there before all else.
        low += timeline_bytes(len(VALUES) + workers + 2)
    passing = low + workers * (runs + TASK_BYTES) + joining + TABLE_BYTES
    maps, complete = Background.storage_bytes(mesh), Background.complete_scratch_bytes(mesh)
    entries = (tiles.across + 1) * tiles.down * ENTRY_BYTES + 16 * tiles.down
    need = maps + entries + workers * scratch + max(complete, passing)
    # A tile with the most runs that it can have, which take about as much.
    mapped = workers * (scratch + maps + entries + 2 * tile_bytes + TASK_BYTES) + (giant if giant > scratch else 0)
    mapped = max(mapped + joining + 2 * PARENT_MAPPED_BYTES, workers * scratch + maps + complete)
    cells = _cells_at_once(mesh, scratch - reading, workers)
    return Layout(mesh, tiles, cells, maps, complete, scratch, giant, low, tile_bytes, pool, need, mapped)


def first_runs(rows: int, columns: int) -> int:
    """Runs that a tile gets room for at first; a crowded one gets more."""
    return rows * (columns // 24 + 1) + columns // 2 + 1


def giant_bytes(info: ImageInfo, settings: Settings) -> int:
    """What the largest footprint that is split may need beside a strip of rows."""
    deblending = settings.deblending
    pixels = min(deblending.max_footprint_px, info.width * info.height)
    return _deblend.most_scratch(pixels, info.width, info.height, deblending.nthresh, settings.detection.minarea)


def _cells_at_once(mesh: MeshGrid, room: int, workers: int) -> tuple[int, int]:
    """Rows and columns of background cells in a task: full rows of cells if they fit, at least one cell."""
    room -= SCRATCH_BYTES
    across = max(1, min(mesh.nx, room // (4 * mesh.cell_height * mesh.cell_width)))
    if across < mesh.nx:
        return 1, across
    return max(1, min(mesh.ny, -(-mesh.ny // (4 * workers)), room // (4 * mesh.cell_height * mesh.width))), across


def _tile_shape(info: ImageInfo, settings: Settings, workers: int, slab_bytes: int) -> tuple[int, int]:
    """Rows and columns of a tile: bands of rows that suit the storage, cut in x only where a band is too large."""
    forced = settings.resources.tile_shape
    if forced is not None:
        rows, columns = (n if n > 0 else side for n, side in zip(forced, (info.height, info.width), strict=True))
        return min(rows, info.height), min(columns, info.width)
    # Each worker gets several, of a small image as well.
    share = max(4 * info.width * info.height // (LEAST_TILES * workers), LEAST_TILE_BYTES)
    most = min(TILE_BYTES, share, max(slab_bytes // (24 * workers), 64 * 1024))
    columns = info.width
    rows = max(most // (4 * columns), 1)
    if rows < 16:
        # Twice as large before they are cut.
        rows = max(2 * most // (4 * columns), 1)
    if rows < 16:
        # Rows of 64 KiB and more are still read at full speed.
        columns = min(columns, max(most // (4 * 16), 16384))
        rows = max(most // (4 * columns), 1)
    if info.tile_rows > 1:
        rows = max(rows // info.tile_rows, 1) * info.tile_rows
    return min(rows, info.height), columns


def base_bytes(workers: int, infos: Sequence[ImageInfo], hosted: bool = False) -> int:
    """What the processes of a run hold before the first buffer, with what libraries will add, astropy apart; predicted.

    Parameters
    ----------
    workers : int
        0: everything in one process.
    infos : sequence of ImageInfo
    hosted : bool
        See `ResourceSettings.hosted`.
    """
    if hosted and not workers:
        processes = HOSTED_BYTES
    else:
        processes = (PARENT_BYTES + workers * WORKER_BYTES if workers else SERIAL_BYTES) + LIBRARY_BYTES
    return processes + decoding_bytes(workers, infos) + NETWORK_BYTES * uses_network(infos)


def base_rss(workers: int, infos: Sequence[ImageInfo]) -> int:
    """The same as the sum of Rss without shared memory."""
    network = NETWORK_BYTES * uses_network(infos) * (workers + 2 if workers else 1)
    return (PARENT_RSS + workers * WORKER_RSS if workers else SERIAL_RSS) + decoding_bytes(workers, infos) + network


def decoding_bytes(workers: int, infos: Sequence[ImageInfo]) -> int:
    """What workers hold once they read: cfitsio's heap where it decodes, a connection where the image is on a server."""
    return max(workers, 1) * (max(info.library_bytes for info in infos) + CONNECTION_BYTES * uses_network(infos))


def uses_network(infos: Sequence[ImageInfo]) -> bool:
    """Whether an image is read over a network."""
    return any(info.remote for info in infos)


def checkimage_pages(settings: Settings, infos: Sequence[ImageInfo]) -> int:
    """Pages of check-images that are on their way to the disk."""
    largest = 4 * max(info.width * info.height for info in infos)
    return sum(min(CHECKIMAGE_PAGES, largest) for kind, _ in settings.output.checkimages if kind != "NONE")


def try_fit(
    limit: int, workers: int, infos: Sequence[ImageInfo], settings: Settings, plan: Plan, measured: Base = UNKNOWN
) -> Fit:
    """Split a limit for a number of workers and lay all extensions out; see `Fit.fits`.

    If astropy has no room beside pixels, or would leave tiles less than it takes, sky positions come late; but not where one
    process does everything, which can't get rid of astropy before the next extension.

    Parameters
    ----------
    limit, workers, infos, settings, plan
    measured : Base
        As measured, if it was; what is predicted counts if it is more.
    """
    astropy = ASTROPY_BYTES * imports_astropy(plan, infos)
    wcslib = WCSLIB_BYTES * (workers + 2) * (uses_sky(plan) and not astropy)
    decoding = decoding_bytes(workers, infos)
    base = max(base_bytes(workers, infos, settings.resources.hosted) + wcslib, measured.pss + decoding if measured.pss else 0)
    rss = max(base_rss(workers, infos) + wcslib, measured.rss + decoding) if settings.resources.account == "rss" else 0
    others = max(workers - 1, 0)

    pages = checkimage_pages(settings, infos)

    def budget(processes: int, fewer: int = 0, more: int = 0) -> Budget:
        counted = rss - fewer * WORKER_RSS + more if rss else 0
        return Budget(limit, base - fewer * WORKER_BYTES + more, processes, pages=pages, base_rss=counted)

    def split(whole: Budget, late: Budget | None = None) -> Fit:
        return Fit(whole, workers, tuple(lay_out(info, settings, workers, whole.slab) for info in infos), late)

    processes = workers + 2 if workers else 1
    fitted = split(budget(processes, more=astropy))
    tiles = min(ASTROPY_BYTES, 4 * max(info.width * info.height for info in infos))
    roomy = fitted.fits and fitted.budget.slab - fitted.need_bytes >= tiles
    if roomy or not astropy or (workers == 0 and len(infos) > 1):
        return fitted
    late = split(budget(processes), budget(min(processes, 3), others, astropy))
    return late if late.fits else fitted


def smallest_limit(
    infos: Sequence[ImageInfo], settings: Settings, plan: Plan, workers: int = 0, measured: Base = UNKNOWN
) -> int:
    """The smallest limit, in whole MiB, that fits with that many workers, by default none, and is enough to open images."""
    low, high = 0, 64
    while not try_fit(high * MIB, workers, infos, settings, plan, measured).fits:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if try_fit(middle * MIB, workers, infos, settings, plan, measured).fits:
            high = middle
        else:
            low = middle
    return max(high * MIB, *(info.opening_bytes for info in infos))


def fit(
    limit: int, workers: int, infos: Sequence[ImageInfo], settings: Settings, plan: Plan, measured: Base = UNKNOWN
) -> Fit:
    """The most workers, at most `workers`, with which a limit holds the work; 0 means all in one process.

    Parameters
    ----------
    limit, workers, infos, settings, plan, measured
        See `try_fit`.

    Raises
    ------
    LimitError
        Not even one process fits.
    """
    for n in range(workers, -1, -1):
        if n == 0 or base_bytes(n, infos) < limit:
            found = try_fit(limit, n, infos, settings, plan, measured)
            if found.fits:
                return found
    raise _refusal(limit, infos, settings, plan, measured)


def _refusal(limit: int, infos: Sequence[ImageInfo], settings: Settings, plan: Plan, measured: Base) -> LimitError:
    """What the smallest limit is, and the other way out."""
    found = try_fit(limit, 0, infos, settings, plan, measured)
    smallest = smallest_limit(infos, settings, plan, measured=measured)
    largest = max(infos, key=lambda info: lay_out(info, settings, 0, found.budget.slab).need_bytes)
    text = (
        f"--mem-limit {size_text(limit)} is too small for {largest.spec} ({largest.width} × {largest.height}): a process takes "
        f"{size_text(max(found.budget.fixed, found.budget.base_rss))}, its buffers {size_text(found.need_bytes)}; the smallest "
        f"limit that works is "
        f"{size_text(smallest)}"
    )
    capped = min(settings.deblending.max_footprint_px, largest.width * largest.height)
    short = max(found.need_bytes - found.budget.slab, -found.spare_map_bytes if found.budget.base_rss else 0)
    pixels = (capped - -(-short // _deblend.PIXEL_BYTES)) // 1000 * 1000
    if pixels >= 1000:
        text += f", or -FOOTPRINT_MAXPIX {pixels}, beyond which a detection isn't deblended"
    return LimitError(text)
