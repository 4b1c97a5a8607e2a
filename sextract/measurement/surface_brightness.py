"""MU_MAX and MU_THRESHOLD: the peak and the analysis threshold in magnitudes per square arcsecond."""

from __future__ import annotations

import numpy as np

from sextract.measurement.magnitudes import magnitude
from sextract.measurement.measure import Batch, measurement
from sextract.records import Column

UNIT = "mag * arcsec**(-2)"

COLUMNS = (
    Column("MU_MAX", "f4", UNIT, "F8.4", "Peak surface brightness above background", "phot.mag.sb;stat.max"),
    Column("MU_THRESHOLD", "f4", UNIT, "F8.4", "Analysis threshold above background", "instr.sensitivity;phot.mag.sb"),
)


@measurement("surface_brightness", columns=COLUMNS, needs=("local",))
def surface_brightness(batch: Batch) -> None:
    """Above the local background (BACKPHOTO_TYPE LOCAL), per square arcsecond by PIXEL_SCALE; 99 if not positive."""
    s, zeropoint = batch.sources, batch.settings.photometry.mag_zeropoint
    area = float(np.float32(batch.frame.pixel_scale)) ** 2
    for name, value in (("MU_MAX", s["peak"]), ("MU_THRESHOLD", s["thresh"])):
        batch[name] = magnitude((value - s["dbkg"]).astype(np.float64) / area, zeropoint)
