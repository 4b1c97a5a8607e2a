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
# Trial radii are twentieths of the first ellipse's, as long as the annulus is within it.
TWENTIETH, TRIALS = 0.05, 16
# Sums of that many sources are held at a time, so that they stay small.
CHUNK = 128

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


@measurement("petrosian", columns=COLUMNS, needs=("local",), reach=reach)
def petrosian(batch: Batch) -> None:
    """Petrosian's radius and the flux inside."""
    photometry, s = batch.settings.photometry, batch.sources
    size = np.sqrt(s["a"].astype(np.float64) * s["b"])
    factor, least = photometry.petroparams
    first_px, second_px = (0.5 * v for v in photometry.autoapers)
    round_first = FIRST * size <= first_px
    shapes = ellipses(batch, np.full(len(batch), FIRST), round_first, first_px)
    radius = np.zeros(len(batch))
    for group, limit in ((~round_first, FIRST), (round_first, first_px)):
        for start in range(0, len(batch), CHUNK):
            index = start + np.flatnonzero(group[start : start + CHUNK])
            if len(index):
                radius[index] = trial_radius(batch, shapes, start, index, limit)
    radius = np.where(radius > 0, np.maximum(factor * INSIDE * radius, least), least).astype(np.float32)
    circle = radius * size <= second_px
    total = sum_flux(batch, ellipses(batch, radius, circle, second_px))
    radius[circle | ~(total[:, 0] > 0)] = 0
    magnitudes.fill(batch, "PETRO", total[:, 0], magnitudes.error(total[:, 0], total[:, 1], batch.frame))
    batch["PETRO_RADIUS"] = radius


def trial_radius(batch: Batch, shapes: Ellipses, start: int, index: Array, limit: float) -> Array:
    """The first trial radius of these sources whose annulus is faint enough, the last if none is, 0 for no light.

    `index` are some of the CHUNK sources from `start` on.
    """
    # Added up in float32, as in SExtractor.
    trials = np.cumsum(np.full(TRIALS, TWENTIETH * limit, np.float32), dtype=np.float32).astype(np.float64)
    edges = np.column_stack([(f * trials) ** 2 for f in (INSIDE, 1.0, ANNULUS)])
    state = np.zeros((CHUNK, TRIALS, 4))
    for view in batch.windows(shapes.half[:, 0], shapes.half[:, 1], index=index):
        _petrosian.fold(view.pixels, view.index, view.main, view.rows, shapes.shape, shapes.box, edges, start, state)
    for k in range(1, TRIALS):
        state[:, k, :2] += state[:, k - 1, :2]
    inside, ninside, annulus, nannulus = (state[index - start, :, k] for k in range(4))
    full = (ninside > 0) & (nannulus > 0)
    faint = full & (annulus / np.maximum(nannulus, 1) < SHARE * inside / np.maximum(ninside, 1))
    chosen = np.where(faint.any(axis=1), np.argmax(faint, axis=1), TRIALS - 1)
    at = np.arange(len(index)), chosen
    good = full[at] & (inside[at] != 0) & (annulus[at] != 0)
    return np.where(good, trials[chosen], 0.0)
