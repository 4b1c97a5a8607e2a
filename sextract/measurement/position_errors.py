"""Errors of the isophotal position: covariance of the barycentre and its ellipse.

The variances are summed by the isophotal analysis (``deblending``), which adds a pixel's own width for singular
sources; here is the ellipse that follows from them.  Errors of windowed positions are in ``windowed.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.measurement.measure import Batch, measurement
from sextract.measurement.shape import conic, ellipse
from sextract.records import Column

Array = NDArray[Any]

COLUMNS = (
    Column(
        "ERRX2_IMAGE",
        "f8",
        "pixel**2",
        "E18.10",
        "Variance of position along x",
        "stat.variance;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRY2_IMAGE",
        "f8",
        "pixel**2",
        "E18.10",
        "Variance of position along y",
        "stat.variance;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRXY_IMAGE",
        "f8",
        "pixel**2",
        "E18.10",
        "Covariance of position between x and y",
        "stat.covariance;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRCXX_IMAGE",
        "f4",
        "pixel**(-2)",
        "G12.7",
        "Cxx error ellipse parameter",
        "src.impactParam;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRCYY_IMAGE",
        "f4",
        "pixel**(-2)",
        "G12.7",
        "Cyy error ellipse parameter",
        "src.impactParam;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRCXY_IMAGE",
        "f4",
        "pixel**(-2)",
        "G12.7",
        "Cxy error ellipse parameter",
        "src.impactParam;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRA_IMAGE",
        "f4",
        "pixel",
        "F9.5",
        "RMS position error along major axis",
        "stat.stdev;stat.max;pos.errorEllipse;instr.det;meta.main",
    ),
    Column(
        "ERRB_IMAGE",
        "f4",
        "pixel",
        "F9.5",
        "RMS position error along minor axis",
        "stat.stdev;stat.min;pos.errorEllipse;instr.det;meta.main",
    ),
    Column(
        "ERRTHETA_IMAGE",
        "f4",
        "deg",
        "F6.2",
        "Error ellipse position angle (CCW/x)",
        "pos.posAng;pos.errorEllipse;instr.det;meta.main",
    ),
)


def barycentre_covariance(sources: Array) -> tuple[Array, Array, Array]:
    """Variances and covariance of the barycentre (pixel**2), float64 (n,), as the isophotal analysis left them."""
    return sources["errx2"].copy(), sources["erry2"].copy(), sources["errxy"].copy()


@measurement("position_errors", columns=COLUMNS)
def position_errors(batch: Batch) -> None:
    """Fill variances (float64, pixel**2) and the error ellipse (float32)."""
    x2, y2, xy = barycentre_covariance(batch.sources)
    batch["ERRX2_IMAGE"], batch["ERRY2_IMAGE"], batch["ERRXY_IMAGE"] = x2, y2, xy
    for name, value in zip(("A", "B", "THETA"), ellipse(x2, y2, xy), strict=True):
        batch[f"ERR{name}_IMAGE"] = value.astype(np.float32)
    for name, value in zip(("CXX", "CYY", "CXY"), conic(x2, y2, xy), strict=True):
        batch[f"ERR{name}_IMAGE"] = value.astype(np.float32)
