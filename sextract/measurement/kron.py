"""FLUX_AUTO, its error and magnitudes, KRON_RADIUS, and bits 1 and 16 of FLAGS.

A first ellipse of six times A and B gives the mean radius of the light (Kron 1980, ApJS 43, 305), PHOT_AUTOPARAMS
scales it, and the flux is summed in the ellipse of that size; PHOT_AUTOAPERS makes either step a circle for small
sources.  The folds are in ``_ellipse.pyx``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sextract.config.settings import PhotometrySettings
from sextract.measurement import _ellipse, magnitudes
from sextract.measurement.measure import Array, Batch, measurement
from sextract.records import Column

# The first ellipse, in units of A and B.
FIRST = 6.0
# Beyond any frame, and still exact as an integer, pixels.
FARTHEST = 2.0**40
# Share of masked pixels above which a source counts as crowded.
CROWDED_SHARE = 0.1
# A growth curve looks at pixels that far beyond its end.
GROWTH_MARGIN = 1.5
# What a growth curve of a source without size ends at, pixels, so that its rings have a width.
LEAST_LIMIT = 0.01
CROWDED = 1
TRUNCATED = 16

COLUMNS = (
    *magnitudes.photometry_columns(
        "AUTO",
        "Flux within a Kron-like elliptical aperture",
        "RMS error for AUTO flux",
        "Kron-like elliptical aperture magnitude",
        "RMS error for AUTO magnitude",
        meta=";meta.main",
    ),
    Column("KRON_RADIUS", "f4", "", "F5.2", "Kron apertures in units of A or B", "arith.factor;arith.ratio"),
)


@dataclass(frozen=True, slots=True)
class Ellipses:
    """Ellipses of a batch as the kernels take them.

    Attributes
    ----------
    shape : float32 array (n, 6)
        Centre x, y, cxx, cyy, cxy, square of the radius.
    box : int64 array (n, 4)
        Pixels to look at: ``xmin, ymin, xmax, ymax``, half-open.
    half : float64 array (n, 2)
        Half-sizes in x and y.
    outside : bool array (n,)
        The box leaves the frame.
    """

    shape: Array
    box: Array
    half: Array
    outside: Array


def ellipses(batch: Batch, radius: Array, circle: Array | None = None, circle_radius: float = 0.0) -> Ellipses:
    """Ellipses of `radius` times A and B; where `circle` is set, circles of `circle_radius` pixels."""
    s, n = batch.sources, len(batch)
    circle = np.zeros(n, bool) if circle is None else circle
    shape = np.empty((n, 6), np.float32)
    shape[:, 0], shape[:, 1] = s["x"], s["y"]
    for k, name in enumerate(("cxx", "cyy", "cxy"), start=2):
        shape[:, k] = np.where(circle, 0.0 if name == "cxy" else 1.0, s[name])
    r = np.where(circle, circle_radius, np.asarray(radius, np.float64))
    shape[:, 5] = r * r
    cxx, cyy, cxy = (shape[:, k].astype(np.float64) for k in (2, 3, 4))
    half = np.empty((n, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        for k, (own, other) in enumerate(((cxx, cyy), (cyy, cxx))):
            d = own - cxy * cxy / (4.0 * other)
            # As far as anything matters; a NaN shape has no pixels.
            half[:, k] = np.where(d > 0, np.fmin(r / np.sqrt(np.where(d > 0, d, 1.0)), FARTHEST), 0.0)
    lo = np.trunc(shape[:, :2] - half + 0.499999).astype(np.int64)
    hi = np.trunc(shape[:, :2] + half + 1.499999).astype(np.int64)
    size = np.array([batch.frame.width, batch.frame.height])
    outside = np.any((lo < 0) | (hi > size), axis=1)
    return Ellipses(shape, np.hstack([np.clip(lo, 0, size), np.clip(hi, 0, size)]), half, outside)


def crowded(pixels: Array, masked: Array, kind: type[np.floating]) -> Array:
    """Whether over a tenth of the pixels are masked, the share rounded to `kind`: in float32 a tenth is above 0.1."""
    share = (masked / np.maximum(pixels, 1.0)).astype(kind)
    return np.asarray(share.astype(np.float64) > CROWDED_SHARE)


def growth_limit(sources: Array, photometry: PhotometrySettings) -> Array:
    """Where growth curves end (n,), pixels: 6 A, but at least PHOT_AUTOAPERS' first."""
    limit = np.fmax(FIRST * sources["a"].astype(np.float64), max(photometry.autoapers[0], LEAST_LIMIT))
    return np.asarray(np.fmin(limit, FARTHEST))


def circle_leaves_frame(batch: Batch, radius: Array | float) -> Array:
    """Whether the box of a circle about the barycentre leaves the frame (n,)."""
    outside = np.zeros(len(batch), bool)
    for centre, size in ((batch.sources["x"], batch.frame.width), (batch.sources["y"], batch.frame.height)):
        c = centre.astype(np.float32).astype(np.float64)
        outside |= np.trunc(c - radius + 0.499999) < 0
        outside |= np.trunc(c + radius + 1.499999) > size
    return outside


def sum_flux(batch: Batch, shapes: Ellipses) -> Array:
    """Flux less the local background, pixels, masked pixels (n, 3) inside these ellipses."""
    state = batch.scratch((3,))
    correct = batch.settings.photometry.mask_type == "CORRECT"
    for view in batch.windows(shapes.half[:, 0], shapes.half[:, 1]):
        _ellipse.fold_flux(
            view.pixels, view.index, view.main, view.mirror, view.rows, shapes.shape, shapes.box, correct, state
        )
    state[:, 0] -= state[:, 1] * batch.sources["dbkg"]
    return state


def sum_moment(batch: Batch, shapes: Ellipses) -> Array:
    """Σ r·I, Σ I, pixels, masked pixels (n, 4) inside these ellipses, the local background not taken off."""
    state = batch.scratch((4,))
    for view in batch.windows(shapes.half[:, 0], shapes.half[:, 1]):
        _ellipse.fold_moment(view.pixels, view.index, view.main, view.rows, shapes.shape, shapes.box, state)
    return state


def reach(sources: Array, photometry: PhotometrySettings) -> tuple[Array, Array]:
    """Half-sizes of the stamps: the first ellipse."""
    least = 0.5 * max(photometry.autoapers)
    return tuple(np.maximum(FIRST * np.sqrt(np.maximum(sources[name], 0.0)), least) for name in ("x2", "y2"))


@measurement("kron", columns=COLUMNS, needs=("local",), reach=reach)
def kron(batch: Batch) -> None:
    """Kron's radius, the flux inside, and what it says of the neighbours and the frame."""
    photometry, s = batch.settings.photometry, batch.sources
    size = np.sqrt(s["a"].astype(np.float64) * s["b"])
    factor, least = photometry.autoparams
    first_px, second_px = (0.5 * v for v in photometry.autoapers)

    first = ellipses(batch, np.full(len(batch), FIRST), FIRST * size <= first_px, first_px)
    moment = sum_moment(batch, first)
    flagged = crowded(moment[:, 2] + moment[:, 3], moment[:, 3], np.float32)
    good = (moment[:, 0] > 0) & (moment[:, 1] > 0)
    mean = moment[:, 0] / np.where(good, moment[:, 1], 1.0)
    radius = np.where(good, np.maximum(factor * mean, least), least).astype(np.float32)

    circle = radius * size <= second_px
    second = ellipses(batch, radius, circle, second_px)
    total = sum_flux(batch, second)
    flagged |= crowded(total[:, 1], total[:, 2], np.float64)
    radius[circle | ~(total[:, 0] > 0)] = 0
    flux = total[:, 0]
    magnitudes.fill(batch, "AUTO", flux, magnitudes.error(flux, total[:, 1], batch.frame))
    batch["KRON_RADIUS"] = radius
    s["flags"] |= np.where(flagged, CROWDED, 0).astype(np.int32)
    # Of all circles about a source the largest leaves the frame first.
    farthest = np.maximum(growth_limit(s, photometry) + GROWTH_MARGIN, 0.5 * max(photometry.apertures, default=0.0))
    outside = first.outside | second.outside | circle_leaves_frame(batch, farthest)
    s["flags"] |= np.where(outside, TRUNCATED, 0).astype(np.int32)
