"""Growth curves: FLUX_RADIUS, FLUX_GROWTH, MAG_GROWTH and their steps, and the windowed family's half-light radius.

A curve has 64 rings up to 6 A (PHOT_AUTOAPERS' first, if larger).  A light radius depends only on the rings up to it,
so curves are first folded over a small circle, and over a larger one for the sources whose light wasn't reached: a
ring that is complete has the same bits in both.  The folds are in ``_growth.pyx``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sextract.config.settings import PhotometrySettings
from sextract.measurement import _growth, magnitudes
from sextract.measurement.aperture import shaped
from sextract.measurement.kron import GROWTH_MARGIN, growth_limit
from sextract.measurement.measure import Array, Batch, measurement
from sextract.records import Column

BINS = 64
# The half-light radius is at least this, pixels.
LEAST_HALF_LIGHT = 0.5
# The first circle: what holds a fraction of a Gaussian's light, larger by this factor and these pixels; then it grows.
SLACK, SLACK_PX = 1.15, 1.25
GROWING = 1.5
# Sub-pixels of a ring are in pixels whose centre is at most that far beyond it.
SPILL = 0.75
# Curves of that many sources are held at a time, so that they stay small.
CHUNK = 128

COLUMNS = (
    Column("FLUX_RADIUS", "f4", "pixel", "F10.3", "Fraction-of-light radii", "phys.size.radius;instr.det", "param"),
    Column("FLUX_GROWTH", "f4", "count", "G12.7", "Cumulated growth-curve", "phot.count", "param"),
    Column("FLUX_GROWTHSTEP", "f4", "pixel", "F10.3", "Step for growth-curves", "pos.distance"),
    Column("MAG_GROWTH", "f4", "mag", "F8.4", "Cumulated magnitude growth-curve", "phot.mag", "param"),
    Column("MAG_GROWTHSTEP", "f4", "pixel", "F10.3", "Step for growth-curves", "pos.distance"),
)


def reach(sources: Array, photometry: PhotometrySettings) -> tuple[Array, Array]:
    """Half-sizes of the stamps: the first circle."""
    half = first_circle(sources, photometry) + 1.0
    return half, half


def first_circle(sources: Array, photometry: PhotometrySettings) -> Array:
    """Radius of the circle that is tried first (n,), pixels."""
    fraction = min(max(0.5, *photometry.fluxfrac), 0.99)
    radius = SLACK * np.sqrt(-2.0 * np.log(1.0 - fraction)) * sources["a"].astype(np.float64) + SLACK_PX
    return np.asarray(np.fmin(radius, growth_limit(sources, photometry) + GROWTH_MARGIN))


class Search(NamedTuple):
    """What the curves of a batch are folded with (n sources, k fractions).

    Attributes
    ----------
    x, y : float64 arrays (n,)
        Centres, pixels, 0-based.
    limit : float64 array (n,)
        Where the curves end, pixels.
    first : float64 array (n,)
        Radius of the circle that is tried first, pixels.
    target : float64 array (n, k)
        Fluxes whose radii are sought.
    radii : float64 array (n, k)
        Those radii, filled chunk by chunk.
    """

    x: Array
    y: Array
    limit: Array
    first: Array
    target: Array
    radii: Array


@measurement("growth", columns=COLUMNS, needs=("kron",), reach=reach)
def growth(batch: Batch) -> None:
    """Light radii, growth curves, and ``HALF_LIGHT_RADIUS`` (float32, pixels)."""
    photometry, s = batch.settings.photometry, batch.sources
    limit = growth_limit(s, photometry)
    # Fractions are float32 in SExtractor.
    fractions = np.array([0.5, *photometry.fluxfrac], np.float32).astype(np.float64)
    whole = [n for n in ("FLUX_GROWTH", "MAG_GROWTH") if batch.wants(n)]
    first = limit + GROWTH_MARGIN if whole else first_circle(s, photometry)
    target = batch["FLUX_AUTO"].astype(np.float64)[:, None] * fractions
    radii = batch.scratch((len(fractions),))
    search = Search(np.ascontiguousarray(s["x"]), np.ascontiguousarray(s["y"]), limit, first, target, radii)
    fluxes = {n: batch.scratch((int(np.prod(batch.dims[n])),)) for n in whole}
    for start in range(0, len(batch), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(batch)), dtype=np.int64)
        curve = light_radii(batch, search, index)
        for flux in fluxes.values():
            flux[index] = resampled(curve, flux.shape[1])
    half = np.abs(radii[:, 0])
    batch["HALF_LIGHT_RADIUS"] = np.maximum(np.minimum(half, limit), LEAST_HALF_LIGHT).astype(np.float32)
    if batch.wants("FLUX_RADIUS"):
        batch["FLUX_RADIUS"] = shaped(radii[:, 1:], batch.dims["FLUX_RADIUS"])
    for name, flux in fluxes.items():
        values = flux if name == "FLUX_GROWTH" else magnitudes.magnitude(flux, photometry.mag_zeropoint)
        batch[name] = shaped(values, batch.dims[name])
    for name in ("FLUX_GROWTH", "MAG_GROWTH"):
        # As in SExtractor the step of curves that aren't asked for is 0.
        step = limit / fluxes[name].shape[1] if name in fluxes else np.zeros(len(batch))
        batch[f"{name}STEP"] = step.astype(np.float32)


def light_radii(batch: Batch, search: Search, index: Array) -> Array:
    """Fill the radii of the sources `index` (a range) from growing circles; their cumulated curves as last folded."""
    start, limit = int(index[0]), search.limit
    correct = batch.settings.photometry.mask_type == "CORRECT"
    largest, radius = limit + GROWTH_MARGIN, search.first.copy()
    missing = np.zeros(len(batch), np.uint8)
    curve = np.zeros((len(index), BINS))
    while len(index):
        curve[index - start] = 0
        for view in batch.windows(radius, radius, index=index):
            window = view.pixels, view.index, view.main, view.mirror, view.rows
            _growth.fold(*window, search.x, search.y, limit, radius, correct, start, curve)
        _growth.light_radii(curve, index, start, radius, largest, SPILL, limit, search.target, search.radii, missing)
        index = index[missing[index] != 0]
        radius[index] = np.minimum(GROWING * radius[index], largest[index])
    return curve


def resampled(curve: Array, count: int) -> Array:
    """A cumulated curve (m, 64) at `count` equal steps (m, count)."""
    place = BINS * np.arange(1, count + 1) / count - 0.99999
    ring = np.maximum(place, 0.0).astype(np.int64)
    # SExtractor reads past its last ring here, with a weight of 1e-5.
    following = np.minimum(ring + 1, BINS - 1)
    between = curve[:, ring] + (curve[:, following] - curve[:, ring]) * (place - ring)
    return np.asarray(np.where(place < 0, curve[:, :1] * (0.99999 + place), between))
