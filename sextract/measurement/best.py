"""FLUX_BEST with its error and magnitudes: FLUX_AUTO, or FLUX_ISOCOR where FLAGS has bit 1, a crowded source.

Both fluxes are measured elsewhere (``kron.py``, ``isophotal_flux.py``).
"""

from __future__ import annotations

import numpy as np

from sextract.measurement import magnitudes
from sextract.measurement.kron import CROWDED
from sextract.measurement.measure import Batch, measurement

COLUMNS = magnitudes.photometry_columns(
    "BEST",
    "Best of FLUX_AUTO and FLUX_ISOCOR",
    "RMS error for BEST flux",
    "Best of MAG_AUTO and MAG_ISOCOR",
    "RMS error for MAG_BEST",
)


@measurement("best", columns=COLUMNS, needs=("kron", "isophotal_flux"))
def best(batch: Batch) -> None:
    """Choose between the two fluxes."""
    crowded = (batch.sources["flags"] & CROWDED) != 0
    flux, error = (np.where(crowded, batch[f"{k}_ISOCOR"], batch[f"{k}_AUTO"]) for k in ("FLUX", "FLUXERR"))
    magnitudes.fill(batch, "BEST", flux, error)
