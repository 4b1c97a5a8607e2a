"""Folds rows of a window into the isophotal areas of one source, and into the fit of its width, above a local background.

What the numbers mean is ``recount.py``'s.  Own pixels are fragments in any order; rows are added up from the top, so that
windows may come in pieces.
"""

from libc.math cimport log, pow
from libc.stdint cimport int64_t

from sextract.measurement._window cimport OFFSET, X0, X1, Y0
from sextract.records cimport Fragment

cdef enum:
    NLEVELS = 8
    NSUMS = 5

LEVELS = NLEVELS
SUMS = NSUMS
# Rows folded at a time: one line of `rows` each.
ROWS = 512


cdef inline const float *row_of(const float *pixels, const int64_t *window, int64_t y) noexcept nogil:
    # Where x = 0 of a row would be.
    return pixels + window[OFFSET] + (y - window[Y0]) * (window[X1] - window[X0]) - window[X0]


def extent(const Fragment[::1] own, int64_t[::1] out):
    """Add fragments to their pixels, 0 at first, and their box: xmin, xmax, ymin, ymax, inclusive."""
    cdef Py_ssize_t k
    if own.shape[0] == 0:
        return
    if out[0] == 0:
        out[1], out[2], out[3], out[4] = own[0].x0, own[0].x1 - 1, own[0].y, own[0].y
    for k in range(own.shape[0]):
        out[0] += own[k].x1 - own[k].x0
        out[1] = min(out[1], <int64_t>own[k].x0)
        out[2] = max(out[2], <int64_t>own[k].x1 - 1)
        out[3] = min(out[3], <int64_t>own[k].y)
        out[4] = max(out[4], <int64_t>own[k].y)


def brightest(const float[::1] pixels, const int64_t[::1] window, int64_t ya, int64_t yb, const Fragment[::1] own):
    """Largest own pixel in the rows ya <= y < yb; records.BAD without any."""
    cdef Py_ssize_t k
    cdef int64_t x
    cdef const float *row
    cdef float top = <float>-1e30
    with nogil:
        for k in range(own.shape[0]):
            if not ya <= own[k].y < yb:
                continue
            row = row_of(&pixels[0], &window[0], own[k].y)
            for x in range(own[k].x0, own[k].x1):
                if row[x] > top:
                    top = row[x]
    return top


def isophotes(float threshold, float peak, float[::1] out):
    """The levels of ISO0 to ISO7 (ADU): a geometric series from the threshold towards the peak; 0 if one isn't positive."""
    cdef int j
    for j in range(NLEVELS):
        out[j] = 0.0
        if threshold > 0.0 and peak > 0.0:
            out[j] = threshold * <float>pow(peak / threshold, <float>j / NLEVELS)


def fold(
    const float[::1] pixels, const int64_t[::1] window, int64_t ya, int64_t yb, const Fragment[::1] own, double xc, double yc,
    float local, float back, float saturation, float low, const float[::1] limits, int64_t[::1] areas, double[::1] sums,
    double[:, ::1] rows,
):
    """Add the own pixels in the rows ya <= y < yb.

    Parameters
    ----------
    xc, yc : float
        Centre from which the fit measures.
    local, back : float
        Local background, and all of the background, ADU.
    low : float
        What a pixel less `local` must exceed to enter the fit.
    limits : float32 array (8,)
        What a pixel must exceed to be counted in `areas`.
    areas : int64 array (8,)
    sums : float64 array (5,)
        Of w, w·r², w·ln v, w·r⁴ and w·r²·ln v with w = v².
    rows : float64 array (ROWS, 5)
        Scratch.
    """
    cdef Py_ssize_t k, j
    cdef int64_t first, last, x, y
    cdef const float *row
    cdef double *line
    cdef float v
    cdef double w, r2, lv, dx, dy
    with nogil:
        first = ya
        while first < yb:
            last = min(first + <int64_t>rows.shape[0], yb)
            for y in range(last - first):
                for j in range(NSUMS):
                    rows[y, j] = 0.0
            for k in range(own.shape[0]):
                y = own[k].y
                if not first <= y < last:
                    continue
                row = row_of(&pixels[0], &window[0], y)
                line = &rows[y - first, 0]
                dy = y - yc
                for x in range(own[k].x0, own[k].x1):
                    for j in range(NLEVELS):
                        if not row[x] > limits[j]:
                            break
                        areas[j] += 1
                    v = row[x] - local
                    if v > low and v + back < saturation:
                        dx = x - xc
                        r2 = dx * dx + dy * dy
                        lv = log(v)
                        w = <double>v * v
                        line[0] += w
                        line[1] += r2 * w
                        line[2] += lv * w
                        line[3] += r2 * r2 * w
                        line[4] += r2 * lv * w
            for y in range(last - first):
                for j in range(NSUMS):
                    sums[j] += rows[y, j]
            first = last
