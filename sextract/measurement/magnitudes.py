"""Magnitudes of fluxes and of their errors, as every photometric family declares and fills them.

Nothing here sees a pixel; SExtractor's MAG_ZEROPOINT is the only setting it uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.measurement.measure import Batch
from sextract.records import Column, Frame

# What stands for "no magnitude" in SExtractor's catalogues.
NONE = 99.0

FLUX_UCD = "phot.flux"
MAG_UCD = "phot.mag"
ERROR_UCD = "stat.stdev;"


def photometry_columns(
    suffix: str, flux: str, flux_error: str, mag: str, mag_error: str, *, meta: str = "", vector: str = ""
) -> tuple[Column, Column, Column, Column]:
    """The columns FLUX_, FLUXERR_, MAG_ and MAGERR_ of one kind of flux, from their four comments.

    Parameters
    ----------
    suffix : str
        ``AUTO`` and so on.
    flux, flux_error, mag, mag_error : str
        Comments.
    meta : str
        End of the UCDs, such as ``;meta.main``.
    vector : str
        See `records.Column`.
    """
    return (
        Column(f"FLUX_{suffix}", "f4", "count", "G12.7", flux, FLUX_UCD + meta, vector),
        Column(f"FLUXERR_{suffix}", "f4", "count", "G12.7", flux_error, ERROR_UCD + FLUX_UCD + meta, vector),
        Column(f"MAG_{suffix}", "f4", "mag", "F8.4", mag, MAG_UCD + meta, vector),
        Column(f"MAGERR_{suffix}", "f4", "mag", "F8.4", mag_error, ERROR_UCD + MAG_UCD + meta, vector),
    )


def magnitude(flux: Any, zeropoint: float) -> NDArray[np.float32]:
    """``zeropoint − 2.5 log10 flux``, 99 where the flux isn't positive (NaN included); the zero-point is a float32."""
    value = np.asarray(flux, np.float64)
    good = value > 0
    mag = float(np.float32(zeropoint)) - 2.5 * np.log10(np.where(good, value, 1.0))
    return np.where(good, mag, NONE).astype(np.float32)


def magnitude_error(flux: Any, error: Any) -> NDArray[np.float32]:
    """``1.086 · error / flux``, 99 where the flux isn't positive (NaN included)."""
    value, sigma = np.asarray(flux, np.float64), np.asarray(error, np.float64)
    good = value > 0
    return np.where(good, 1.086 * sigma / np.where(good, value, 1.0), NONE).astype(np.float32)


def error(flux: Any, area: Any, frame: Frame) -> NDArray[np.float64]:
    """Error of a sum over `area` pixels: the background's noise in each, and the photons of a positive flux once."""
    # The noise, its square and the gain are float32 in SExtractor.
    variance = area * np.float64(np.float32(frame.rms) * np.float32(frame.rms))
    if frame.gain > 0:
        variance = variance + np.where(np.asarray(flux) > 0, flux, 0.0) / np.float64(np.float32(frame.gain))
    return np.asarray(np.sqrt(variance), np.float64)


def fill(batch: Batch, suffix: str, flux: Any, sigma: Any) -> None:
    """Put flux, error and, as far as they are wanted, magnitudes into the batch, as float32."""
    batch[f"FLUX_{suffix}"] = np.asarray(flux, np.float32)
    batch[f"FLUXERR_{suffix}"] = np.asarray(sigma, np.float32)
    if batch.wants(f"MAG_{suffix}"):
        batch[f"MAG_{suffix}"] = magnitude(batch[f"FLUX_{suffix}"], batch.settings.photometry.mag_zeropoint)
    if batch.wants(f"MAGERR_{suffix}"):
        batch[f"MAGERR_{suffix}"] = magnitude_error(batch[f"FLUX_{suffix}"], batch[f"FLUXERR_{suffix}"])
