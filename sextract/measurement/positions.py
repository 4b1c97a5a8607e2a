"""Isophotal positions and extents in pixels, and the one place where FITS's +1 is added.

It computes no position: the barycentre and the peak come from detection and deblending.  Positions on the sky are in
``sky.py``, windowed ones in ``windowed.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sextract.measurement.measure import Batch, measurement
from sextract.records import Column

COLUMNS = (
    Column(
        "X_IMAGE",
        "f4",
        "pixel",
        "F11.4",
        "Object position along x",
        "pos.cartesian.x;pos.barycenter;instr.det;meta.main",
    ),
    Column(
        "Y_IMAGE",
        "f4",
        "pixel",
        "F11.4",
        "Object position along y",
        "pos.cartesian.y;pos.barycenter;instr.det;meta.main",
    ),
    Column(
        "X_IMAGE_DBL",
        "f8",
        "pixel",
        "F11.4",
        "Object position along x (double precision)",
        "pos.cartesian.x;pos.barycenter;instr.det",
    ),
    Column(
        "Y_IMAGE_DBL",
        "f8",
        "pixel",
        "F11.4",
        "Object position along y (double precision)",
        "pos.cartesian.x;pos.barycenter;instr.det",
    ),
    Column(
        "XMIN_IMAGE",
        "i4",
        "pixel",
        "I10",
        "Minimum x-coordinate among detected pixels",
        "pos.cartesian.x;stat.min",
    ),
    Column(
        "YMIN_IMAGE",
        "i4",
        "pixel",
        "I10",
        "Minimum y-coordinate among detected pixels",
        "pos.cartesian.y;stat.min",
    ),
    Column(
        "XMAX_IMAGE",
        "i4",
        "pixel",
        "I10",
        "Maximum x-coordinate among detected pixels",
        "pos.cartesian.x;stat.max",
    ),
    Column(
        "YMAX_IMAGE",
        "i4",
        "pixel",
        "I10",
        "Maximum y-coordinate among detected pixels",
        "pos.cartesian.y;stat.max",
    ),
    Column("XPEAK_IMAGE", "i4", "pixel", "I10", "x-coordinate of the brightest pixel", "pos.cartesian.x"),
    Column("YPEAK_IMAGE", "i4", "pixel", "I10", "y-coordinate of the brightest pixel", "pos.cartesian.y"),
)

EXTENTS = ("XMIN", "YMIN", "XMAX", "YMAX", "XPEAK", "YPEAK")


def fits_pixel(position: NDArray[Any], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """A 0-based pixel position or index as FITS counts it: the centre of the first pixel is 1."""
    return (position + 1).astype(dtype)


@measurement("positions", columns=COLUMNS)
def positions(batch: Batch) -> None:
    """Fill the barycentre (X_IMAGE float32, X_IMAGE_DBL float64) and, int32, the box and the filtered peak."""
    s = batch.sources
    for axis in "xy":
        batch[f"{axis.upper()}_IMAGE_DBL"] = fits_pixel(s[axis])
        batch[f"{axis.upper()}_IMAGE"] = fits_pixel(s[axis], np.float32)
    for name in EXTENTS:
        batch[f"{name}_IMAGE"] = fits_pixel(s[name.lower()], np.int32)
