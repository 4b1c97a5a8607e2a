"""FLAGS: what detection, deblending and the Kron aperture have to say of a source.

Bits 1 and 16 are set by ``kron.py``, the others come with the source.  No other column that is requested changes them.
"""

from __future__ import annotations

import numpy as np

from sextract.measurement.measure import Batch, measurement
from sextract.records import Column

COLUMNS = (Column("FLAGS", "i2", "", "I3", "Extraction flags", "meta.code.qual"),)


@measurement("flags", columns=COLUMNS, needs=("kron",))
def flags(batch: Batch) -> None:
    """1 crowded, 2 blended, 4 saturated, 8 at the edge, 16 truncated, 32 incomplete, 64 and 128 over a cap."""
    batch["FLAGS"] = batch.sources["flags"].astype(np.int16)
