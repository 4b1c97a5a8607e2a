"""FLAGS: what detection, deblending and the Kron aperture have to say of a source.

Bits 1 and 16 are set by ``kron.py``, the others come with the source.  No other column that is requested changes them.
"""

from __future__ import annotations

import numpy as np

from sextract.measurement.measure import Batch, measurement
from sextract.records import Column

# What each bit of FLAGS says.
MEANINGS = {
    1: "crowded: neighbours or bad pixels make more than a tenth of either step of AUTO",
    2: "was blended with another source",
    4: "saturated: a pixel reaches SATUR_LEVEL (or the header's SATUR_KEY)",
    8: "touches the edge of the image",
    16: "truncated: AUTO's boxes, a circle of PHOT_APERTURES or the growth curve's circle leave the image",
    32: "pixels of the isophote are missing; never set, footprints are whole here",
    64: "too many branches to be deblended, kept as one",
    128: "footprint over FOOTPRINT_MAXPIX, measured but not deblended; or measuring crashed and the rest is NaN",
}

COLUMNS = (Column("FLAGS", "i2", "", "I3", "Extraction flags", "meta.code.qual"),)


@measurement("flags", columns=COLUMNS, needs=("kron",))
def flags(batch: Batch) -> None:
    """1 crowded, 2 blended, 4 saturated, 8 at the edge, 16 truncated, 32 incomplete, 64 and 128 over a cap."""
    batch["FLAGS"] = batch.sources["flags"].astype(np.int16)
