"""Folds rows of windows into sums over ellipses: the first moment of the radius (Kron) and the flux.

Pixels count whole, by their centre.  The centre and the ellipse are float32, as in SExtractor: the test decides which
pixels count.  Which ellipse, and what the sums mean, is in ``kron.py`` and ``petrosian.py``.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t

from sextract.measurement._window cimport mirrored, usable, X0, X1, Y0, OFFSET


def fold_moment(
    const float[::1] pixels, const int64_t[::1] index, const int64_t[:, ::1] main, const int64_t[:, ::1] rows,
    const float[:, ::1] ellipse, const int64_t[:, ::1] box, double[:, ::1] state,
):
    """Add the rows of these windows to ``state[source] = (Σ r·I, Σ I, pixels, masked pixels)``.

    Parameters
    ----------
    pixels, index, main, rows
        See ``measure.Windows``.
    ellipse : float32 array (n, 6)
        Centre x, y (0-based), cxx, cyy, cxy, and the square of the limiting radius.
    box : int64 array (n, 4)
        ``xmin, ymin, xmax, ymax`` of the pixels to look at, half-open.
    state : float64 array (n, 4)
    """
    cdef Py_ssize_t m
    cdef int64_t i, x, y, xa, xb
    cdef float cx, cy, cxx, cyy, cxy, limit, dx, dy, r2, value
    cdef double *s
    cdef const float *row
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            cx, cy, cxx, cyy = ellipse[i, 0], ellipse[i, 1], ellipse[i, 2], ellipse[i, 3]
            cxy, limit = ellipse[i, 4], ellipse[i, 5]
            s = &state[i, 0]
            for y in range(max(box[i, 1], rows[m, 0]), min(box[i, 3], rows[m, 1])):
                dy = <float>y - cy
                row = &pixels[0] + main[m, OFFSET] + (y - main[m, Y0]) * (main[m, X1] - main[m, X0]) - main[m, X0]
                xa, xb = max(box[i, 0], main[m, X0]), min(box[i, 2], main[m, X1])
                for x in range(xa, xb):
                    dx = <float>x - cx
                    r2 = cxx * dx * dx + cyy * dy * dy + cxy * dx * dy
                    if r2 > limit:
                        continue
                    value = row[x]
                    if usable(value):
                        s[0] += sqrt(<double>r2) * value
                        s[1] += value
                        s[2] += 1
                    else:
                        s[3] += 1


def fold_flux(
    const float[::1] pixels, const int64_t[::1] index, const int64_t[:, ::1] main, const int64_t[:, ::1] mirror,
    const int64_t[:, ::1] rows, const float[:, ::1] ellipse, const int64_t[:, ::1] box, bint correct,
    double[:, ::1] state,
):
    """Add the rows of these windows to ``state[source] = (flux, pixels, masked pixels)``.

    Parameters
    ----------
    pixels, index, main, mirror, rows
        See ``measure.Windows``.
    ellipse, box
        As in `fold_moment`.
    correct : bool
        Masked pixels take the value of their mirror (MASK_TYPE CORRECT), else 0; they count as pixels either way.
    state : float64 array (n, 3)
    """
    cdef Py_ssize_t m
    cdef int64_t i, x, y, xa, xb
    cdef float cx, cy, cxx, cyy, cxy, limit, dx, dy, r2, value
    cdef double *s
    cdef const float *row
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            cx, cy, cxx, cyy = ellipse[i, 0], ellipse[i, 1], ellipse[i, 2], ellipse[i, 3]
            cxy, limit = ellipse[i, 4], ellipse[i, 5]
            s = &state[i, 0]
            for y in range(max(box[i, 1], rows[m, 0]), min(box[i, 3], rows[m, 1])):
                dy = <float>y - cy
                row = &pixels[0] + main[m, OFFSET] + (y - main[m, Y0]) * (main[m, X1] - main[m, X0]) - main[m, X0]
                xa, xb = max(box[i, 0], main[m, X0]), min(box[i, 2], main[m, X1])
                for x in range(xa, xb):
                    dx = <float>x - cx
                    r2 = cxx * dx * dx + cyy * dy * dy + cxy * dx * dy
                    if r2 > limit:
                        continue
                    value = row[x]
                    if not usable(value):
                        value = mirrored(&pixels[0], &mirror[m, 0], cx, cy, x, y) if correct else 0.0
                        s[2] += 1
                    s[0] += value
                    s[1] += 1
