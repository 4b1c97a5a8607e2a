"""Isophotal shape of a source: second moments, ellipse, FWHM.

The moments and the ellipse come from the isophotal analysis (``deblending``); here are the numbers that follow from
them, and `ellipse`, which other families use for theirs.  Windowed shapes are in ``windowed.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.measurement import _moments
from sextract.measurement.measure import Batch, measurement
from sextract.records import Column

Array = NDArray[Any]

# FWHM_WORLD is in degrees, PIXEL_SCALE in arcsec.
ARCSEC_PER_DEG = 3600.0

COLUMNS = (
    Column("X2_IMAGE", "f8", "pixel**2", "E18.10", "Variance along x", "src.impactParam;instr.det"),
    Column("Y2_IMAGE", "f8", "pixel**2", "E18.10", "Variance along y", "src.impactParam;instr.det"),
    Column("XY_IMAGE", "f8", "pixel**2", "E18.10", "Covariance between x and y", "src.impactParam;instr.det"),
    Column("CXX_IMAGE", "f4", "pixel**(-2)", "E15.7", "Cxx object ellipse parameter", "src.impactParam;instr.det"),
    Column("CYY_IMAGE", "f4", "pixel**(-2)", "E15.7", "Cyy object ellipse parameter", "src.impactParam;instr.det"),
    Column("CXY_IMAGE", "f4", "pixel**(-2)", "E15.7", "Cxy object ellipse parameter", "src.impactParam;instr.det"),
    Column("A_IMAGE", "f4", "pixel", "F9.3", "Profile RMS along major axis", "phys.size.smajAxis;instr.det;meta.main"),
    Column("B_IMAGE", "f4", "pixel", "F9.3", "Profile RMS along minor axis", "phys.size.sminAxis;instr.det;meta.main"),
    Column("THETA_IMAGE", "f4", "deg", "F6.2", "Position angle (CCW/x)", "pos.posAng;instr.det;meta.main"),
    Column("ELONGATION", "f4", "", "F8.3", "A_IMAGE/B_IMAGE", "src.ellipticity;arith.ratio;instr.det"),
    Column("ELLIPTICITY", "f4", "", "F8.3", "1 - B_IMAGE/A_IMAGE", "src.ellipticity;instr.det"),
    Column(
        "POLAR_IMAGE",
        "f4",
        "",
        "F7.5",
        "(A_IMAGE^2 - B_IMAGE^2)/(A_IMAGE^2 + B_IMAGE^2)",
        "src.ellipticity;instr.det",
    ),
    Column("FWHM_IMAGE", "f4", "pixel", "F8.2", "FWHM assuming a gaussian core", "phys.size.diameter;instr.det.psf"),
    Column("FWHM_WORLD", "f4", "deg", "G12.7", "FWHM assuming a gaussian core", "phys.angSize;instr.det.psf"),
)


def ellipse(x2: Array, y2: Array, xy: Array) -> tuple[Array, Array, Array]:
    """Ellipse with the given second moments.

    Parameters
    ----------
    x2, y2, xy : float64 arrays (n,)
        Variances and covariance, pixel**2.

    Returns
    -------
    a, b, theta : float64 arrays (n,)
        RMS along the major and minor axes (pixel; `b` is 0 where rounding would make its square negative, NaN only for
        NaN), and the angle from x towards y (degrees, 45 where ``x2 == y2``).
    """
    n = len(x2)
    a, b, theta = np.empty(n), np.empty(n), np.empty(n)
    x2, y2, xy = (np.ascontiguousarray(m, np.float64) for m in (x2, y2, xy))
    _moments.ellipses(x2, y2, xy, a, b, theta)
    return a, b, theta


def conic(x2: Array, y2: Array, xy: Array) -> tuple[Array, Array, Array]:
    """Coefficients of the ellipse ``cxx·x² + cyy·y² + cxy·x·y = 1`` of these moments, float64 (n,), pixel**(-2).

    Infinite or NaN where the moments are those of a line or a point.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        det = x2 * y2 - xy * xy
        return y2 / det, x2 / det, -2.0 * xy / det


def polarisation(a: Array, b: Array) -> Array:
    """(a² − b²)/(a² + b²) as float32; 0 for a point."""
    a2, b2 = np.square(a, dtype=np.float64), np.square(b, dtype=np.float64)
    both = a2 + b2
    ratio: Array = np.divide(a2 - b2, both, out=np.zeros(len(both)), where=both > 0)
    return ratio.astype(np.float32)


@measurement("shape", columns=COLUMNS, needs=("local",))
def shape(batch: Batch) -> None:
    """Fill moments (float64, pixel**2), ellipse and FWHM (float32).

    ELONGATION of a source without a minor axis is infinite, its ELLIPTICITY 1.
    """
    s = batch.sources
    for name in ("x2", "y2", "xy", "cxx", "cyy", "cxy", "a", "b", "theta", "fwhm"):
        batch[f"{name.upper()}_IMAGE"] = s[name].copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        batch["ELONGATION"] = s["a"] / s["b"]
        batch["ELLIPTICITY"] = np.float32(1.0) - s["b"] / s["a"]
    batch["POLAR_IMAGE"] = polarisation(s["a"], s["b"])
    batch["FWHM_WORLD"] = (s["fwhm"] * (batch.frame.pixel_scale / ARCSEC_PER_DEG)).astype(np.float32)
