"""FLUX_ISO, FLUX_ISOCOR, their errors and magnitudes: the footprint's light, and that with a Gaussian's wings added.

The sums themselves come with the source from the isophotal analysis (``deblending``); no pixel is seen here.
"""

from __future__ import annotations

import numpy as np

from sextract.measurement import magnitudes
from sextract.measurement.measure import Array, Batch, measurement

# Share of the light that a footprint of isophotal level η (threshold × area / flux) misses (Maddox et al. 1990).
LINEAR, SQUARE = 0.196099, 0.751208

COLUMNS = (
    *magnitudes.photometry_columns(
        "ISO",
        "Isophotal flux",
        "RMS error for isophotal flux",
        "Isophotal magnitude",
        "RMS error for isophotal magnitude",
    ),
    *magnitudes.photometry_columns(
        "ISOCOR",
        "Corrected isophotal flux",
        "RMS error for corrected isophotal flux",
        "Corrected isophotal magnitude",
        "RMS error for corrected isophotal magnitude",
    ),
)


@measurement("isophotal_flux", columns=COLUMNS, needs=("local",))
def isophotal_flux(batch: Batch) -> None:
    """The footprint's flux, and the corrected one."""
    s, gain = batch.sources, float(np.float32(batch.frame.gain))
    npix = s["npix"].astype(np.float64)
    flux = s["flux_iso"] - npix * s["dbkg"]
    photons = np.maximum(flux, 0.0) / gain if gain > 0 else 0.0
    variance = s["var_iso"] + photons
    magnitudes.fill(batch, "ISO", flux, np.sqrt(variance))
    magnitudes.fill(batch, "ISOCOR", *corrected(flux, variance, npix, s["dthresh"].astype(np.float64)))


def corrected(flux: Array, variance: Array, npix: Array, threshold: Array) -> tuple[Array, Array]:
    """Flux with its wings and the error of that; a flux that isn't positive stays as it is."""
    positive = flux > 0
    safe = np.where(positive, flux, 1.0)
    level = np.where(positive, np.clip(npix * threshold / safe, 0.0, 1.0), 0.0)
    relative = np.where(positive, variance / safe**2, 0.0)
    slope = (LINEAR + 2.0 * SQUARE * level) * level * np.sqrt(relative + 1.0 / np.maximum(npix, 1.0))
    error = np.where(positive, np.sqrt(relative + slope**2) * safe, np.sqrt(variance))
    return flux / (1.0 - LINEAR * level - SQUARE * level**2), error
