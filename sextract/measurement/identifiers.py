"""NUMBER, ID_PARENT and EXT_NUMBER: which source a row is.

It hands on numbers given elsewhere: ID_PARENT when a footprint closes, NUMBER after CLEAN.
"""

from __future__ import annotations

import numpy as np

from sextract.measurement.measure import Batch, measurement
from sextract.records import Column

COLUMNS = (
    Column("NUMBER", "i4", "", "I10", "Running object number", "meta.record"),
    Column("ID_PARENT", "i4", "", "I10", "Parent ID (before deblending)", "meta.id.parent"),
    Column("EXT_NUMBER", "i2", "", "I3", "FITS extension number", "meta.id;meta.dataset"),
)


@measurement("identifiers", columns=COLUMNS)
def identifiers(batch: Batch) -> None:
    """Fill NUMBER, ID_PARENT (int32) and EXT_NUMBER (int16)."""
    batch["NUMBER"] = batch.sources["number"].astype(np.int32)
    batch["ID_PARENT"] = batch.sources["parent"].astype(np.int32)
    batch["EXT_NUMBER"] = np.full(len(batch), batch.frame.ext_number, np.int16)
