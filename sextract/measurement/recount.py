"""ISO0 to ISO7 and FWHM of sources whose background was measured locally, counted anew over their own pixels.

The isophotal analysis (``deblending``) runs before there is a local background.  Areas hold the pixels above levels
between threshold and peak, both less the local background; the pixels are taken as they are, a convention of
SExtractor.  The width is fitted to pixels less the local background.  What CLEAN merged into a source doesn't count, as
elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sextract.measurement import _recount
from sextract.measurement.measure import Batch
from sextract.records import BAD

# FWHM over the 1/e radius of a Gaussian, as SExtractor has it, and its correction for the pixel's size.
GAUSSIAN_FWHM = 1.6651
PIXEL = 0.25
# The steepest fit that is believed, in units of 1/(A·B).
LEAST_SLOPE = 1.0 / 13.0
# The fit takes what is above that share of the peak.
SHARE = np.float32(5.0)


def own_boxes(batch: Batch) -> NDArray[np.int64]:
    """xmin, xmax, ymin, ymax (n, 4) of each source before CLEAN merged others into it."""
    s = batch.sources
    out = np.column_stack([s[name] for name in ("xmin", "xmax", "ymin", "ymax")]).astype(np.int64)
    found = np.empty(5, np.int64)
    for i in range(len(batch)):
        found[0] = 0
        for part in batch.cutter.own_parts(i):
            _recount.extent(part, found)
        if 0 < found[0] < s["npix"][i]:
            out[i] = found[1:]
    return out


def recount(batch: Batch, local: NDArray[np.float32], index: NDArray[np.int64]) -> None:
    """Correct ``iso`` and ``fwhm`` of the sources `index` for their local background, ADU."""
    s, frame = batch.sources, batch.frame
    n = len(batch)
    box = np.column_stack([s[name] for name in ("xmin", "xmax", "ymin", "ymax")]).astype(np.float64)
    half = 0.5 * (box[:, 1] - box[:, 0]), 0.5 * (box[:, 3] - box[:, 2])
    around = *half, box[:, 0] + half[0], box[:, 2] + half[1], index
    peak = np.full(n, BAD, np.float32)
    for view in batch.windows(*around):
        for i, window, (ya, yb) in zip(view.index.tolist(), view.main, view.rows.tolist(), strict=True):
            peak[i] = max(peak[i], _recount.brightest(view.pixels, window, ya, yb, batch.cutter.own(i, (ya, yb))))
    index = index[peak[index] > BAD]
    peak, threshold = peak - local, s["thresh"] - local
    low = np.maximum(peak / SHARE, threshold)
    limits = np.empty((n, _recount.LEVELS), np.float32)
    for i in index.tolist():
        _recount.isophotes(threshold[i], peak[i], limits[i])
    areas, sums = np.zeros((n, _recount.LEVELS), np.int64), np.zeros((n, _recount.SUMS))
    rows = np.empty((_recount.ROWS, _recount.SUMS))
    for view in batch.windows(*around[:4], index):
        for i, window, (ya, yb) in zip(view.index.tolist(), view.main, view.rows.tolist(), strict=True):
            _recount.fold(
                view.pixels, window, ya, yb, batch.cutter.own(i, (ya, yb)), s["x"][i], s["y"][i],
                local[i], s["bkg"][i] + local[i], frame.saturation, low[i], limits[i], areas[i], sums[i], rows,
            )  # fmt: skip
    s["iso"][index] = areas[index]
    s["fwhm"][index] = width(sums[index], s["a"][index].astype(np.float64) * s["b"][index])


def width(sums: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.float32]:
    """FWHM (m,) in pixels of the Gaussians fitted to these sums (m, 5); 0 without a fit.

    Parameters
    ----------
    area : float64 array (m,)
        A·B, pixel**2.
    """
    weight, r2, light, r4, slope = sums.T
    det = weight * r4 - r2 * r2
    fitted = np.abs(det) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.fmax(-(weight * slope - r2 * light) / det, LEAST_SLOPE / area)
        fwhm = (GAUSSIAN_FWHM / np.sqrt(inverse)).astype(np.float32)
        corrected = fwhm - (PIXEL / fwhm.astype(np.float64)).astype(np.float32)
    return np.where(fitted, np.where(fwhm > 0, corrected, fwhm), np.float32(0)).astype(np.float32)
