"""Background, threshold, peak and isophotal areas of a source, as detection and deblending left them.

It measures nothing: the areas are counted by the isophotal analysis (``deblending``), surface brightnesses are
magnitudes (``magnitudes.py``).
"""

from __future__ import annotations

import numpy as np

from sextract.measurement.measure import Batch, measurement
from sextract.records import Column

ISO_LEVELS = 8

COLUMNS = (
    Column("BACKGROUND", "f4", "count", "G12.7", "Background at centroid position", "instr.skyLevel"),
    Column(
        "THRESHOLD",
        "f4",
        "count",
        "G12.7",
        "Detection threshold above background",
        "instr.sensitivity;phot.flux.sb",
    ),
    Column("THRESHOLDMAX", "f4", "count", "G12.7", "Maximum threshold possible for detection", "phot.flux.sb;stat.max"),
    Column("FLUX_MAX", "f4", "count", "G12.7", "Peak flux above background", "phot.flux.sb;stat.max"),
    Column("ISOAREA_IMAGE", "i4", "pixel**2", "I9", "Isophotal area above Analysis threshold", "phys.area"),
    Column(
        "ISOAREAF_IMAGE",
        "i4",
        "pixel**2",
        "I9",
        "Isophotal area (filtered) above Detection threshold",
        "phys.area",
    ),
    *(
        Column(f"ISO{level}", "i4", "pixel**2", "I8", f"Isophotal area at level {level}", "phys.area;instr.det")
        for level in range(ISO_LEVELS)
    ),
)


@measurement("background_columns", columns=COLUMNS, needs=("local",))
def background_columns(batch: Batch) -> None:
    """Fill BACKGROUND, THRESHOLD, THRESHOLDMAX, FLUX_MAX (float32, ADU) and the areas (int32, pixels).

    BACKGROUND holds the LOCAL correction (BACKPHOTO_TYPE), FLUX_MAX is above it, the thresholds aren't moved by it.
    """
    s = batch.sources
    batch["BACKGROUND"] = s["bkg"] + s["dbkg"]
    batch["THRESHOLD"] = batch["THRESHOLDMAX"] = s["dthresh"].copy()
    batch["FLUX_MAX"] = s["peak"] - s["dbkg"]
    batch["ISOAREA_IMAGE"] = s["isoarea"].copy()
    batch["ISOAREAF_IMAGE"] = s["npix"].astype(np.int32)
    for level in range(ISO_LEVELS):
        batch[f"ISO{level}"] = s["iso"][:, level].copy()
