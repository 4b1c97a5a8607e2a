"""Repair of bad cells, the median filter over the map, and the global background and RMS.

A bad cell takes the mean of all equally near good ones (float32, in raster order).  The filter replaces a cell by the
median of a box that shrinks on both sides at a border, if they differ by BACK_FILTTHRESH or more; sigma follows the
same decision.  The globals are the medians of the filtered maps.  Everything is in place and costs a time that is
linear in cells, however many are bad.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.background import _repair
from sextract.background.mesh import MeshGrid
from sextract.config.settings import BackgroundSettings


class Globals(NamedTuple):
    """Global background and RMS, ADU; NaN both if no cell of the image is good."""

    background: float
    rms: float


def repair_scratch_bytes(grid: MeshGrid) -> int:
    """Scratch that `repair_and_filter` needs."""
    saved = 2 * (grid.filter_height // 2 + 1) * grid.nx
    box = (2 * (grid.filter_width // 2) + 1) * (2 * (grid.filter_height // 2) + 1)
    return max(4 * 4 * grid.nx, 4 * (saved + box), 8 * _repair.MEDIAN_ENTRIES)


def repair_and_filter(
    back: NDArray[np.float32],
    sigma: NDArray[np.float32],
    grid: MeshGrid,
    settings: BackgroundSettings,
    scratch: NDArray[np.uint8],
) -> Globals:
    """Repair and filter both maps in place.

    Parameters
    ----------
    back, sigma : float32 arrays (ny, nx)
        As `mesh.cell_statistics` left them; a bad cell is ``records.BAD``.
    grid : MeshGrid
        Holds BACK_FILTERSIZE as it applies.
    settings : BackgroundSettings
        BACK_FILTTHRESH.
    scratch : uint8 array
        `repair_scratch_bytes` or more, aligned to 8.

    Returns
    -------
    Globals
        The RMS is the median of sigma; if that is not positive, of the positive ones; if there are none, 1.  Without
        any good cell both are NaN, and the maps are 0 and 1 as SExtractor has them.
    """
    found = _repair.repair_cells(back, sigma, scratch[: 16 * grid.nx].view(np.int32))
    half_height, half_width = grid.filter_height // 2, grid.filter_width // 2
    if half_height or half_width:
        saved = (half_height + 1) * grid.nx
        floats = scratch[: len(scratch) // 4 * 4].view(np.float32)
        _repair.filter_cells(
            back,
            sigma,
            half_height,
            half_width,
            settings.filter_thresh,
            floats[:saved],
            floats[saved : 2 * saved],
            floats[2 * saved :],
        )
    if not found:
        return Globals(float("nan"), float("nan"))
    counts = scratch[: 8 * _repair.MEDIAN_ENTRIES].view(np.int64)
    background, _ = _repair.median_over(back, -np.inf, counts)
    rms, _ = _repair.median_over(sigma, -np.inf, counts)
    if rms <= 0.0:
        rms, positive = _repair.median_over(sigma, 0.0, counts)
        rms = rms if positive else 1.0
    return Globals(background, rms)


def mostly_constant(sigma: NDArray[np.float32], scratch: NDArray[np.uint8]) -> bool:
    """Whether the median of the sigma map is 0, so that the RMS is a makeshift; SExtractor warns of it."""
    return bool(_repair.median_over(sigma, -np.inf, scratch[: 8 * _repair.MEDIAN_ENTRIES].view(np.int64))[0] <= 0.0)
