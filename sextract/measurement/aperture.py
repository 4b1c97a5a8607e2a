"""FLUX_APER and its error and magnitudes: fluxes in fixed circular apertures (PHOT_APERTURES).

The sums are folded in ``_aperture.pyx``; that a circle leaves the frame is ``kron.py``'s flag, since FLAGS don't depend
on the columns requested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sextract.config.settings import PhotometrySettings
from sextract.measurement import _aperture, magnitudes
from sextract.measurement.measure import Array, Batch, measurement

COLUMNS = magnitudes.photometry_columns(
    "APER",
    "Flux vector within fixed circular aperture(s)",
    "RMS error vector for aperture flux(es)",
    "Fixed aperture magnitude vector",
    "RMS error vector for fixed aperture mag.",
    vector="param",
)


def reach(sources: Array, photometry: PhotometrySettings) -> tuple[Array, Array]:
    """Half-sizes of the stamps: the largest aperture."""
    half = np.full(len(sources), 0.5 * max(photometry.apertures, default=0.0) + 1.0)
    return half, half


@measurement("aperture", columns=COLUMNS, needs=("local",), reach=reach)
def aperture(batch: Batch) -> None:
    """Fluxes in the apertures asked for; elements beyond PHOT_APERTURES are 0."""
    photometry, s = batch.settings.photometry, batch.sources
    wanted = max((int(np.prod(batch.dims[c.name])) if c.name in batch.dims else 0) for c in COLUMNS)
    radii = 0.5 * np.array(photometry.apertures[:wanted], np.float64)
    state = batch.scratch((len(radii), 2))
    half = np.full(len(batch), max(radii, default=0.0) + 1.0)
    x, y = s["x"].astype(np.float32), s["y"].astype(np.float32)
    correct = photometry.mask_type == "CORRECT"
    for view in batch.windows(half, half):
        _aperture.fold(view.pixels, view.index, view.main, view.mirror, view.rows, x, y, radii, correct, state)
    flux = state[:, :, 0] - state[:, :, 1] * s["dbkg"][:, None].astype(np.float64)
    sigma = magnitudes.error(flux, state[:, :, 1], batch.frame)
    zeropoint = photometry.mag_zeropoint
    results: dict[str, Callable[[], Array]] = {
        "FLUX_APER": lambda: flux,
        "FLUXERR_APER": lambda: sigma,
        "MAG_APER": lambda: magnitudes.magnitude(flux, zeropoint),
        "MAGERR_APER": lambda: magnitudes.magnitude_error(flux, sigma),
    }
    for name, result in results.items():
        if batch.wants(name):
            batch[name] = shaped(result(), batch.dims[name])


def shaped(values: Array, dims: tuple[int, ...]) -> Any:
    """A matrix (n, k) as a column with these dims: its first elements, and 0 where it has none."""
    count = int(np.prod(dims))
    out = np.zeros((len(values), count), np.float32)
    out[:, : values.shape[1]] = values[:, :count]
    return out.reshape(len(values), *dims)
