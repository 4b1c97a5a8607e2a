"""The mesh of background cells, and the statistics of each cell.

A cell's background is the mode of its clipped histogram, its sigma the clipped histogram's spread:

1. mean and standard deviation of the usable pixels, in double precision, pixel by pixel; a cell with less than half of
   its pixels usable is bad;
2. the same for what lies within 2 sigma (limits rounded to float32);
3. a histogram of at most 4096 levels over 5 sigma to either side of the new mean (level width and zero rounded to
   float32, each pixel placed in float32), whose median and spread are clipped at 3 sigma about the median until the
   spread falls below 0.1 level or changes by less than 1e-4;
4. mode = P·median − (P − 1)·mean with P = BACK_PEARSON if mean and median differ by less than 0.3 sigma, else the
   median.

These are SExtractor's definitions down to the bit, with two of its conventions: a row of cells of more than 2²⁰ pixels
takes the limits of steps 1 and 2 from evenly spaced lines only, and a cell of a single pixel gets twice its value (its
mean counts as a level).

Repair of bad cells and the median filter are in ``repair.py``, the surface through the cells in ``surface.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.background import _mesh
from sextract.config.settings import BackgroundSettings
from sextract.errors import ConfigError

# Pixels of a row of cells beyond which SExtractor looks at some lines only.
WHOLE_ROW_PIXELS = 1_048_576

# What `cell_statistics` needs as scratch: the histogram.
SCRATCH_BYTES: int = 4 * _mesh.HISTOGRAM_ENTRIES


class MeshGrid(NamedTuple):
    """Where the cells are.

    Attributes
    ----------
    width, height : int
        The image, pixels.
    cell_width, cell_height : int
        BACK_SIZE, cut to the image.
    nx, ny : int
        Number of cells; the last ones may be smaller.
    filter_width, filter_height : int
        BACK_FILTERSIZE, 1 if there is only one cell.
    pearson : float
        BACK_PEARSON.
    """

    width: int
    height: int
    cell_width: int
    cell_height: int
    nx: int
    ny: int
    filter_width: int
    filter_height: int
    pearson: float

    def rows(self, row_of_cells: int) -> tuple[int, int]:
        """First and last + 1 image row of a row of cells."""
        return row_of_cells * self.cell_height, min((row_of_cells + 1) * self.cell_height, self.height)

    def columns(self, i0: int, i1: int) -> tuple[int, int]:
        """First and last + 1 image column of the cells i0 <= i < i1 of a row."""
        return i0 * self.cell_width, min(i1 * self.cell_width, self.width)

    def limit_lines(self, row_of_cells: int) -> tuple[int, int, int]:
        """First line, step and number of lines, within a row of cells, that steps 1 and 2 of its statistics use."""
        y0, y1 = self.rows(row_of_cells)
        if self.width * (y1 - y0) <= WHOLE_ROW_PIXELS:
            return 0, 1, y1 - y0
        most = max(WHOLE_ROW_PIXELS // self.width, 1)
        step = -(-(y1 - y0) // most)
        return step // 2, step, (y1 - y0) // step


def mesh_grid(width: int, height: int, settings: BackgroundSettings) -> MeshGrid:
    """The grid of cells of an image.

    Parameters
    ----------
    width, height : int
        Size of the image, pixels.
    settings : BackgroundSettings
        BACK_SIZE, BACK_FILTERSIZE, BACK_PEARSON.

    Raises
    ------
    ConfigError
        A cell would hold 2³² pixels or more, beyond what the histogram counts.
    """
    cell_width, cell_height = min(settings.size[0], width), min(settings.size[1], height)
    if cell_width * cell_height >= 2**32:
        raise ConfigError(f"BACK_SIZE {settings.size[0]},{settings.size[1]}: a mesh may hold at most 4294967295 pixels")
    nx, ny = (width - 1) // cell_width + 1, (height - 1) // cell_height + 1
    filter_width, filter_height = settings.filter_size if nx * ny > 1 else (1, 1)
    return MeshGrid(
        width=width,
        height=height,
        cell_width=cell_width,
        cell_height=cell_height,
        nx=nx,
        ny=ny,
        filter_width=filter_width,
        filter_height=filter_height,
        pearson=settings.pearson,
    )


def cell_statistics(
    pixels: NDArray[np.float32],
    grid: MeshGrid,
    row_of_cells: int,
    out_back: NDArray[np.float32],
    out_sigma: NDArray[np.float32],
    scratch: NDArray[np.uint8],
) -> None:
    """Background and sigma of the cells of one row of cells, or of some neighbouring ones.

    Parameters
    ----------
    pixels : float32 array (rows, columns)
        All rows of that row of cells, ADU, bad pixels ``records.BAD``; the columns of the cells wanted, which begin
        where a cell begins.  Rows may be strided.
    grid : MeshGrid
    row_of_cells : int
    out_back, out_sigma : float32 arrays (cells,)
        Filled; a bad cell has ``records.BAD`` in both.
    scratch : uint8 array
        `SCRATCH_BYTES` or more, aligned to 4.
    """
    y0, y1 = grid.rows(row_of_cells)
    if pixels.shape[0] != y1 - y0 or -(-pixels.shape[1] // grid.cell_width) != len(out_back):
        raise ValueError(f"pixels {pixels.shape} are not the {len(out_back)} cells of row {row_of_cells}")
    first, step, lines = grid.limit_lines(row_of_cells)
    histogram = scratch[:SCRATCH_BYTES].view(np.uint32)
    _mesh.measure_row(pixels, grid.cell_width, first, step, lines, grid.pearson, histogram, out_back, out_sigma)


class CellStream:
    """One cell that is too large to be held: its rows come in blocks, from the top, three times over.

    Gives the bits of `cell_statistics`.  For each of the stages 1, 2, 3: `fold` all rows, then `close`; then `mode`.

    Parameters
    ----------
    grid : MeshGrid
    row_of_cells, cell : int
        Which one: row, and number within the row.
    scratch : uint8 array
        `SCRATCH_BYTES` or more, aligned to 4; the cell's own until `mode`.
    """

    def __init__(self, grid: MeshGrid, row_of_cells: int, cell: int, scratch: NDArray[np.uint8]) -> None:
        self.rows = grid.rows(row_of_cells)
        self.columns = grid.columns(cell, cell + 1)
        self._lines = grid.limit_lines(row_of_cells)
        self._pearson = grid.pearson
        self._histogram = scratch[:SCRATCH_BYTES].view(np.uint32)
        self._stream = _mesh.Stream()

    def fold(self, stage: int, y0: int, pixels: NDArray[np.float32]) -> None:
        """Fold the image rows from `y0` on: float32 array (rows, `columns` of the cell)."""
        if stage < 3:
            first, step, lines = self._lines
            start = max(self.rows[0] + first, y0 + (self.rows[0] + first - y0) % step)
            stop = min(self.rows[0] + first + (lines - 1) * step + 1, y0 + len(pixels))
            pixels = pixels[start - y0 : max(stop - y0, 0) : step]
        self._stream.fold(pixels, stage, self._histogram)

    def close(self, stage: int) -> None:
        """End a stage, after all of its rows."""
        pixels = self._lines[2] * (self.columns[1] - self.columns[0])
        self._stream.close(stage, (pixels + 1) // 2, self._histogram)

    def mode(self) -> tuple[float, float]:
        """Background and sigma, ADU; ``records.BAD`` both if less than half of the pixels are usable."""
        return self._stream.mode(self._pearson, self._histogram)
