"""Windowed positions, shapes, errors and fluxes: everything weighted by a Gaussian that follows the source.

The window's sigma is 2/2.35 of the half-light radius (``growth``) and stays; its centre moves by twice the weighted
mean offset, until that is below 1e-4 pixels, 16 times at most.  Moments and errors refer to the centre before the last
step.  Where they make no sense the isophotal values stand in and FLAGS_WIN says why; fluxes are never replaced.

Pixels are summed in ``_windowed.pyx``; sky positions are in ``sky.py``.  The LOCAL background isn't taken off, as in
SExtractor.

References
----------
SExtractor's manual, "Windowed positional parameters".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.config.settings import PhotometrySettings
from sextract.measurement import _windowed
from sextract.measurement.magnitudes import fill, photometry_columns
from sextract.measurement.measure import MARGIN, Batch, measurement
from sextract.measurement.position_errors import barycentre_covariance
from sextract.measurement.positions import fits_pixel
from sextract.measurement.shape import conic, ellipse, polarisation
from sextract.records import Column

Array = NDArray[Any]

MAX_ITERATIONS = 16
# The iteration ends when the mean offset is shorter than 1e-4 pixels.
STILL2 = 1e-8
# A mean offset under a Gaussian weight is about half the true one.
STEP = 2.0
SIGMA_PER_HALF_LIGHT = 2.0 / 2.35
HALF_LIGHT_PER_SIGMA = 1.1774
# Most centres move less than that: with it in the first stamp later iterations need no new one.
DRIFT_PX = 2.0
# Below the determinant of two pixels' own widths, (1/12)², moments get those widths added.
MIN_DETERMINANT = 0.00694
PIXEL_VARIANCE = 0.0833333
# An error this small is none: SNR_WIN is then 1e30.
NO_ERROR, HUGE_SNR = 1e-30, 1e30

# FLAGS_WIN
BAD_DETERMINANT, BAD_MOMENT, BAD_FLUX, STRAYED = 1, 2, 4, 8
# What each bit says.  With any of them the WIN position, shape and errors are the isophotal ones.
MEANINGS = {
    BAD_DETERMINANT: "the determinant of the second moments is negative",
    BAD_MOMENT: "a second moment is negative",
    BAD_FLUX: "the flux in the window isn't positive",
    STRAYED: "the centre left the isophotal ellipse, by more than a pixel in both axes",
}

COLUMNS = (
    Column("XWIN_IMAGE", "f8", "pixel", "F11.4", "Windowed position estimate along x", "pos.cartesian.x;instr.det"),
    Column("YWIN_IMAGE", "f8", "pixel", "F11.4", "Windowed position estimate along y", "pos.cartesian.y;instr.det"),
    Column("X2WIN_IMAGE", "f8", "pixel**2", "E18.10", "Windowed variance along x", "src.impactParam;instr.det"),
    Column("Y2WIN_IMAGE", "f8", "pixel**2", "E18.10", "Windowed variance along y", "src.impactParam;instr.det"),
    Column(
        "XYWIN_IMAGE",
        "f8",
        "pixel**2",
        "E18.10",
        "Windowed covariance between x and y",
        "src.impactParam;instr.det",
    ),
    Column(
        "CXXWIN_IMAGE",
        "f4",
        "pixel**(-2)",
        "E15.7",
        "Windowed Cxx object ellipse parameter",
        "src.impactParam;instr.det",
    ),
    Column(
        "CYYWIN_IMAGE",
        "f4",
        "pixel**(-2)",
        "E15.7",
        "Windowed Cyy object ellipse parameter",
        "src.impactParam;instr.det",
    ),
    Column(
        "CXYWIN_IMAGE",
        "f4",
        "pixel**(-2)",
        "E15.7",
        "Windowed Cxy object ellipse parameter",
        "src.impactParam;instr.det",
    ),
    Column(
        "AWIN_IMAGE",
        "f4",
        "pixel",
        "F9.3",
        "Windowed profile RMS along major axis",
        "phys.size.smajAxis;instr.det",
    ),
    Column(
        "BWIN_IMAGE",
        "f4",
        "pixel",
        "F9.3",
        "Windowed profile RMS along minor axis",
        "phys.size.sminAxis;instr.det",
    ),
    Column("THETAWIN_IMAGE", "f4", "deg", "F6.2", "Windowed position angle (CCW/x)", "pos.posAng;instr.det"),
    Column("POLARWIN_IMAGE", "f4", "", "F7.5", "(AWIN^2 - BWIN^2)/(AWIN^2 + BWIN^2)", "src.ellipticity;instr.det"),
    Column(
        "ERRX2WIN_IMAGE",
        "f8",
        "pixel**2",
        "E18.10",
        "Variance of windowed pos along x",
        "stat.variance;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRY2WIN_IMAGE",
        "f8",
        "pixel**2",
        "E18.10",
        "Variance of windowed pos along y",
        "stat.variance;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRXYWIN_IMAGE",
        "f8",
        "pixel**2",
        "E18.10",
        "Covariance of windowed pos between x and y",
        "stat.covariance;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRCXXWIN_IMAGE",
        "f4",
        "pixel**(-2)",
        "G12.7",
        "Cxx windowed error ellipse parameter",
        "src.impactParam;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRCYYWIN_IMAGE",
        "f4",
        "pixel**(-2)",
        "G12.7",
        "Cyy windowed error ellipse parameter",
        "src.impactParam;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRCXYWIN_IMAGE",
        "f4",
        "pixel**(-2)",
        "G12.7",
        "Cxy windowed error ellipse parameter",
        "src.impactParam;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRAWIN_IMAGE",
        "f4",
        "pixel",
        "F9.5",
        "RMS windowed pos error along major axis",
        "stat.stdev;stat.max;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRBWIN_IMAGE",
        "f4",
        "pixel",
        "F9.5",
        "RMS windowed pos error along minor axis",
        "stat.stdev;stat.min;pos.errorEllipse;instr.det",
    ),
    Column(
        "ERRTHETAWIN_IMAGE",
        "f4",
        "deg",
        "F6.2",
        "Windowed error ellipse pos angle (CCW/x)",
        "pos.posAng;pos.errorEllipse;instr.det",
    ),
    Column("FLAGS_WIN", "i2", "", "I3", "Flags for WINdowed parameters", "meta.code.qual"),
    Column("NITER_WIN", "i2", "", "I3", "Number of iterations for WIN centering", "meta.number"),
    *photometry_columns(
        "WIN",
        "Gaussian-weighted flux",
        "RMS error for WIN flux",
        "Gaussian-weighted magnitude",
        "RMS error for MAG_WIN",
    ),
    Column("SNR_WIN", "f4", "", "G10.4", "Gaussian-weighted SNR", "stat.snr"),
)


class Centring(NamedTuple):
    """Where the iterations ended.

    Attributes
    ----------
    x, y : float64 arrays (n,)
        Centres after the last step, 0-based.
    sums : float64 array (n, 10)
        Of the last iteration, about the centre before that step: weighted flux; its first moments x, y; second moments
        x2, y2, xy; variance of the flux; variance-weighted second moments x2, y2, xy.
    iterations : int16 array (n,)
        NITER_WIN, one more than the most there can be where the centre didn't settle.
    """

    x: Array
    y: Array
    sums: Array
    iterations: Array


def centre(batch: Batch, sigma: Array) -> Centring:
    """Move a Gaussian window from the barycentre of each source to its own centre.

    `sigma` is float64 (n,), in pixels; one that isn't finite leaves the source where it is, without flux.
    """
    frame, correct = batch.frame, batch.settings.photometry.mask_type == "CORRECT"
    x, y = batch.sources["x"].copy(), batch.sources["y"].copy()
    sums, iterations = batch.scratch((_windowed.SUMS,)), batch.scratch(dtype=np.int16)
    reach, drift = _windowed.RADIUS * sigma + 1.0, DRIFT_PX
    variance = float(frame.rms**2)
    bounds = frame.width, frame.height, MARGIN
    moving = np.isfinite(sigma).astype(np.uint8)
    while len(active := np.flatnonzero(moving)):
        giants: list[int] = []
        for v in batch.windows(reach + drift, reach + drift, x, y, index=active):
            if v.whole:
                _windowed.settle(
                    v.pixels, v.index, v.main, x, y, sigma, variance, frame.gain, correct,
                    STEP, STILL2, MAX_ITERATIONS, bounds, sums, iterations, moving,
                )  # fmt: skip
                continue
            i = int(v.index[0])
            if i not in giants:
                giants.append(i)
                sums[i] = 0.0
            pieces = v.pixels, v.index, v.main, v.mirror, v.rows
            _windowed.fold(*pieces, x, y, sigma, variance, frame.gain, correct, sums)
        drift = 0.0
        if giants:
            _step(np.array(giants, np.int64), sums, x, y, iterations, moving)
    return Centring(x, y, sums, iterations)


def _step(giants: Array, sums: Array, x: Array, y: Array, iterations: Array, moving: Array) -> None:
    """Move the centres of `giants`, as ``_windowed.settle`` does; `moving` says which are still on their way."""
    iterations[giants] += 1
    moving[giants] = 0
    giants = giants[sums[giants, 0] > 0]
    flux = sums[giants, 0]
    dx, dy = sums[giants, 1] / flux, sums[giants, 2] / flux
    x[giants] += STEP * dx
    y[giants] += STEP * dy
    giants = giants[dx * dx + dy * dy >= STILL2]
    moving[giants] = iterations[giants] < MAX_ITERATIONS
    iterations[giants] += moving[giants] == 0


class Moments(NamedTuple):
    """Second moments of the window's content and covariance of its centre, float64 (n,), and FLAGS_WIN (int16)."""

    x2: Array
    y2: Array
    xy: Array
    errx2: Array
    erry2: Array
    errxy: Array
    flags: Array


def moments(sources: Array, found: Centring) -> Moments:
    """Moments from the sums; those of flagged sources are the isophotal ones."""
    flux, mx, my = found.sums[:, 0], found.sums[:, 1], found.sums[:, 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        second, noise = found.sums[:, 3:6] / flux[:, None], found.sums[:, 7:10] * (STEP**2 / (flux * flux))[:, None]
        # Without flux SExtractor stops before it divides the first moments; only FLAGS_WIN can tell.
        whole = np.where(flux > 0, flux, 1.0)
        mx, my = mx / whole, my / whole
        x2, y2, xy = second[:, 0] - mx * mx, second[:, 1] - my * my, second[:, 2] - mx * my
        det = x2 * y2 - xy * xy
        flags = np.where(det < 0, BAD_DETERMINANT, 0) | np.where((x2 < 0) | (y2 < 0), BAD_MOMENT, 0)
    flags |= np.where(flux > 0, 0, BAD_FLUX) | np.where(_strayed(sources, found), STRAYED, 0)
    thin = np.where(det < MIN_DETERMINANT, PIXEL_VARIANCE, 0.0)
    mine = (x2 + thin, y2 + thin, xy, noise[:, 0], noise[:, 1], noise[:, 2])
    isophotal = (sources["x2"], sources["y2"], sources["xy"], *barycentre_covariance(sources))
    good = flags == 0
    x2, y2, xy, errx2, erry2, errxy = (np.where(good, w, i) for w, i in zip(mine, isophotal, strict=True))
    return Moments(x2, y2, xy, errx2, erry2, errxy, flags.astype(np.int16))


def _strayed(sources: Array, found: Centring) -> Array:
    """Whether the centre left the isophotal ellipse, by more than a pixel in both axes."""
    dx, dy = found.x - sources["x"], found.y - sources["y"]
    outside = sources["cxx"] * dx * dx + sources["cyy"] * dy * dy + sources["cxy"] * dx * dy > 1
    return np.asarray((np.abs(dx) > 1) & (np.abs(dy) > 1) & outside)


def reach(sources: Array, photometry: PhotometrySettings) -> tuple[Array, Array]:
    """Half-sizes for sources whose light is that of a Gaussian of the isophotal size."""
    sigma = SIGMA_PER_HALF_LIGHT * HALF_LIGHT_PER_SIGMA * sources["a"].astype(np.float64)
    half = _windowed.RADIUS * sigma + 1.0 + DRIFT_PX
    return half, half


@measurement("windowed", columns=COLUMNS, needs=("growth",), reach=reach)
def windowed(batch: Batch) -> None:
    """Fill all WIN columns: positions, moments and their variances in float64, the rest in float32, pixels and ADU."""
    s = batch.sources
    found = centre(batch, np.abs(batch["HALF_LIGHT_RADIUS"]).astype(np.float64) * SIGMA_PER_HALF_LIGHT)
    m = moments(s, found)
    batch["FLAGS_WIN"], batch["NITER_WIN"] = m.flags, found.iterations
    batch["XWIN_IMAGE"] = fits_pixel(np.where(m.flags == 0, found.x, s["x"]))
    batch["YWIN_IMAGE"] = fits_pixel(np.where(m.flags == 0, found.y, s["y"]))
    batch["X2WIN_IMAGE"], batch["Y2WIN_IMAGE"], batch["XYWIN_IMAGE"] = m.x2, m.y2, m.xy
    batch["ERRX2WIN_IMAGE"], batch["ERRY2WIN_IMAGE"], batch["ERRXYWIN_IMAGE"] = m.errx2, m.erry2, m.errxy
    _ellipses(batch, "", m.x2, m.y2, m.xy)
    _ellipses(batch, "ERR", m.errx2, m.erry2, m.errxy)
    batch["POLARWIN_IMAGE"] = polarisation(batch["AWIN_IMAGE"], batch["BWIN_IMAGE"])
    _fluxes(batch, found.sums[:, 0], np.sqrt(found.sums[:, 6]))


def _ellipses(batch: Batch, prefix: str, x2: Array, y2: Array, xy: Array) -> None:
    """Axes, angle and conic coefficients of moments."""
    for name, value in zip(("A", "B", "THETA"), ellipse(x2, y2, xy), strict=True):
        batch[f"{prefix}{name}WIN_IMAGE"] = value.astype(np.float32)
    for name, value in zip(("CXX", "CYY", "CXY"), conic(x2, y2, xy), strict=True):
        batch[f"{prefix}{name}WIN_IMAGE"] = value.astype(np.float32)


def _fluxes(batch: Batch, flux: Array, sigma: Array) -> None:
    """Flux, error, magnitudes and SNR_WIN."""
    fill(batch, "WIN", flux, sigma)
    some = sigma > NO_ERROR
    snr = np.divide(flux, sigma, out=np.full(len(flux), HUGE_SNR), where=some)
    batch["SNR_WIN"] = snr.astype(np.float32)
