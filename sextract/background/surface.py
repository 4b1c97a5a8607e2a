"""The background of an image: maps of cells, the spline surface through them, and its values at sources.

The surface is evaluated from absolute coordinates, so that a pixel's value never depends on the box it is asked for:
per image row the spline in y gives the nodes of that row, the spline in x its pixels, all in float32 and in
SExtractor's order of operations, which gives the bits of its -BACKGROUND image.  The RMS surface is the same spline
through sigma.

* Nodes lie at the middle of cells, (k + ½)·size for all of them, the smaller last ones included.
* In y: place = y/size − ½ in float32; value = c·lo + d·hi + (c³ − c)·D_lo + (d³ − d)·D_hi, with D the second
  derivatives along a column of nodes, d the place between two of them and c = 1 − d.
* D follows the recurrence of a natural spline but is divided by 6 within the back-substitution, node by node, where a
  true spline divides once at the end: SExtractor's surface, not the textbook's.
* In x: the same recurrence along the row's nodes; the place of a pixel is summed up in float32 steps of 1/size from the
  middle of a cell on (in the first and last piece from the image's edge, or on to it).
* A single row of cells is joined by straight lines; a single column is constant along the row.

How cells get their values is in ``mesh.py`` and ``repair.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.background import _surface
from sextract.background.mesh import MeshGrid
from sextract.background.repair import mostly_constant, repair_and_filter, repair_scratch_bytes
from sextract.config.settings import BackgroundSettings
from sextract.records import Box

Floats = NDArray[np.float32]

# Entries of the head of the storage: background, rms, constant, whether the constant holds, whether rms is a makeshift.
HEAD = 16


class Background:
    """Background maps on storage that the caller owns, typically shared memory.

    The maps `back` and `sigma` are filled by `mesh.cell_statistics`; `complete` then repairs and filters them and
    prepares the spline.  Any process that attaches to the same bytes sees the finished background.

    Attributes
    ----------
    grid : MeshGrid
    back, sigma : float32 arrays (ny, nx)
        Maps of cells, ADU: MINIBACKGROUND and MINIBACK_RMS.
    """

    def __init__(self, buffer: NDArray[Any], grid: MeshGrid) -> None:
        floats = buffer[: self.storage_bytes(grid)].view(np.float32)
        cells, ends = grid.nx * grid.ny, np.cumsum([HEAD, *self._sizes(grid)])
        parts = [floats[a : a + n] for a, n in zip(ends[:-1], self._sizes(grid), strict=True)]
        self.grid = grid
        self._head = floats[:HEAD]
        self.back, self.sigma, self._back_bends, self._sigma_bends = (
            p[:cells].reshape(grid.ny, grid.nx) for p in parts[:4]
        )
        self._factors, self._steps = parts[4], parts[5]

    @staticmethod
    def _sizes(grid: MeshGrid) -> list[int]:
        cells = grid.nx * grid.ny
        return [cells, cells, cells, cells, max(grid.nx, grid.ny), 6 * grid.cell_width]

    @classmethod
    def storage_bytes(cls, grid: MeshGrid) -> int:
        """Bytes that a background on this grid needs."""
        return 4 * (HEAD + sum(cls._sizes(grid)))

    @classmethod
    def on(cls, buffer: NDArray[Any], grid: MeshGrid) -> Background:
        """Attach to storage, fresh or already filled.

        Parameters
        ----------
        buffer : uint8 array
            `storage_bytes` or more, aligned to 4.
        grid : MeshGrid
        """
        return cls(buffer, grid)

    @staticmethod
    def scratch_bytes(grid: MeshGrid) -> int:
        """Scratch that `subtract`, `evaluate` and `rms` need: values and bends at the nodes of some rows."""
        return 8 * _surface.ROWS_AT_ONCE * grid.nx

    @staticmethod
    def complete_scratch_bytes(grid: MeshGrid) -> int:
        """Scratch that `complete` needs."""
        return repair_scratch_bytes(grid)

    def complete(self, settings: BackgroundSettings, scratch: NDArray[np.uint8]) -> None:
        """Turn the raw maps into the finished background, once, in one process.

        Parameters
        ----------
        settings : BackgroundSettings
            BACK_FILTTHRESH, BACK_TYPE, BACK_VALUE.
        scratch : uint8 array
            `complete_scratch_bytes` or more, aligned to 8.

        Notes
        -----
        With BACK_TYPE MANUAL the constant is subtracted, and the RMS still comes from the map.
        """
        background, rms = repair_and_filter(self.back, self.sigma, self.grid, settings, scratch)
        manual = settings.type == "MANUAL"
        flat = mostly_constant(self.sigma, scratch)
        self._head[:5] = (background, rms, settings.value, manual, flat)
        _surface.tabulate(self.grid.cell_width, len(self._factors), self._factors, self._steps)
        _surface.differentiate(self.back, self._factors, self._back_bends)
        _surface.differentiate(self.sigma, self._factors, self._sigma_bends)

    def give_up(self) -> None:
        """Take 0 for the global background and 1 for the RMS, as SExtractor does where no cell is good."""
        self._head[:2] = 0.0, 1.0

    @property
    def mean(self) -> float:
        """Global background, ADU: the median of the map, or BACK_VALUE; NaN if no cell is good."""
        return float(self._head[2] if self.constant else self._head[0])

    @property
    def global_rms(self) -> float:
        """Global RMS, ADU; NaN if no cell is good, 1 if all of the image is constant."""
        return float(self._head[1])

    @property
    def constant(self) -> bool:
        """Whether BACK_TYPE is MANUAL."""
        return bool(self._head[3])

    @property
    def mostly_constant(self) -> bool:
        """Whether over half of the cells have sigma 0, of which SExtractor warns."""
        return bool(self._head[4])

    def _apply(
        self, maps: tuple[Floats, Floats], box: Box, pixels: Floats, scratch: NDArray[Any], subtract: bool
    ) -> None:
        rows = scratch[: self.scratch_bytes(self.grid)].view(np.float32)
        grid = self.grid
        _surface.apply(
            *maps, self._factors, self._steps, grid.cell_width, grid.cell_height, box.y0, box.x0, pixels, rows, subtract
        )

    def subtract(self, box: Box, pixels: Floats, scratch: NDArray[np.uint8]) -> None:
        """Subtract the background from pixels in place; a bad pixel stays ``records.BAD``.

        Parameters
        ----------
        box : Box
            Where the pixels are; inside the image.
        pixels : float32 array (rows, columns of the box)
            ADU; rows may be strided.
        scratch : uint8 array
            `scratch_bytes` or more, aligned to 4.
        """
        if self.constant:
            np.subtract(pixels, self._head[2], out=pixels)
        else:
            self._apply((self.back, self._back_bends), box, pixels, scratch, True)

    def evaluate(self, box: Box, out: Floats, scratch: NDArray[np.uint8]) -> None:
        """Write the background of a box, ADU; parameters as in `subtract` (check-image BACKGROUND)."""
        if self.constant:
            out[...] = self._head[2]
        else:
            self._apply((self.back, self._back_bends), box, out, scratch, False)

    def rms(self, box: Box, out: Floats, scratch: NDArray[np.uint8]) -> None:
        """Write the RMS of a box, ADU; parameters as in `subtract` (check-image BACKGROUND_RMS)."""
        self._apply((self.sigma, self._sigma_bends), box, out, scratch, False)

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Floats:
        """Background at sources, bilinear between cells at the nearest pixel: column BACKGROUND, not the surface.

        Parameters
        ----------
        x, y : float64 arrays (n,)
            0-based positions, pixels.

        Returns
        -------
        float32 array (n,)
            ADU; the map's value also with BACK_TYPE MANUAL, as in SExtractor.
        """
        out = np.empty(len(x), np.float32)
        x, y = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64)
        _surface.interpolate(self.back, self.grid.cell_width, self.grid.cell_height, x, y, out)
        return out
