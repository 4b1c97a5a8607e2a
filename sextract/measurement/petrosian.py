"""FLUX_PETRO, its error and magnitudes, and PETRO_RADIUS.

Petrosian's radius (1976, ApJ 209, L1) is where the light in an annulus falls below a fifth of the mean inside;
PHOT_PETROPARAMS scales it, and the flux is summed in the ellipse of that size.  The ellipses are ``kron.py``'s.
"""

from __future__ import annotations

import numpy as np

from sextract.measurement import _petrosian, magnitudes
from sextract.measurement.kron import FIRST, Ellipses, ellipses, reach, sum_flux
from sextract.measurement.measure import Array, Batch, measurement
from sextract.records import Column

INSIDE = 1.1
ANNULUS = 1.2
# The annulus' share of the mean surface brightness inside, at Petrosian's radius.
SHARE = 0.2
# Trial radii in units of A and B, added up in float32 as SExtractor does; 1.2 times the last is within the first ellipse.
TRIALS = np.cumsum(np.full(16, 0.3, np.float32), dtype=np.float32).astype(np.float64)

COLUMNS = (
    *magnitudes.photometry_columns(
        "PETRO",
        "Flux within a Petrosian-like elliptical aperture",
        "RMS error for PETROsian flux",
        "Petrosian-like elliptical aperture magnitude",
        "RMS error for PETROsian magnitude",
    ),
    Column("PETRO_RADIUS", "f4", "", "F5.2", "Petrosian apertures in units of A or B", "arith.factor;arith.ratio"),
)


@measurement("petrosian", columns=COLUMNS, reach=reach)
def petrosian(batch: Batch) -> None:
    """Petrosian's radius and the flux inside."""
    photometry, s = batch.settings.photometry, batch.sources
    size = np.sqrt(s["a"].astype(np.float64) * s["b"])
    factor, least = photometry.petroparams
    first_px, second_px = (0.5 * v for v in photometry.autoapers)
    shapes = ellipses(batch, np.full(len(batch), FIRST), FIRST * size <= first_px, first_px)
    radius = trial_radius(batch, shapes)
    radius = np.where(radius > 0, np.maximum(factor * INSIDE * radius, least), least).astype(np.float32)
    circle = radius * size <= second_px
    total = sum_flux(batch, ellipses(batch, radius, circle, second_px))
    radius[circle | ~(total[:, 0] > 0)] = 0
    magnitudes.fill(batch, "PETRO", total[:, 0], magnitudes.error(total[:, 0], total[:, 1], batch.frame))
    batch["PETRO_RADIUS"] = radius


def trial_radius(batch: Batch, shapes: Ellipses) -> Array:
    """The first trial radius whose annulus is faint enough, the last if none is, 0 where nothing was summed (n,)."""
    edges = np.column_stack([(f * TRIALS) ** 2 for f in (INSIDE, 1.0, ANNULUS)])
    state = batch.scratch((len(TRIALS), 4))
    local = batch.sources["dbkg"].astype(np.float64)
    for view in batch.windows(shapes.half[:, 0], shapes.half[:, 1]):
        _petrosian.fold(
            view.pixels, view.index, view.main, view.rows, shapes.shape, shapes.box, local, edges, state
        )
    for k in range(1, len(TRIALS)):
        state[:, k, :2] += state[:, k - 1, :2]
    inside, ninside, annulus, nannulus = (state[:, :, k] for k in range(4))
    full = (ninside > 0) & (nannulus > 0)
    stop = annulus / np.maximum(nannulus, 1) < SHARE * inside / np.maximum(ninside, 1)
    stop &= full
    k = np.where(stop.any(axis=1), np.argmax(stop, axis=1), len(TRIALS) - 1)
    n = np.arange(len(batch))
    good = full[n, k] & (inside[n, k] != 0) & (annulus[n, k] != 0)
    return np.where(good, TRIALS[k], 0.0)
