"""Folds rows of windows into the sums of Petrosian's radius: light inside, and in an annulus about, a row of ellipses.

The centre and the ellipses are float32, as in SExtractor; masked pixels aren't counted.  The choice of the radius, and the
flux, are in ``petrosian.py``.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t

from sextract.measurement._window cimport usable, X0, X1, Y0, OFFSET


def fold(
    const float[::1] pixels, const int64_t[::1] index, const int64_t[:, ::1] main, const int64_t[:, ::1] rows,
    const float[:, ::1] ellipse, const int64_t[:, ::1] box, const double[:, ::1] edges,
    int64_t start, double[:, :, ::1] state,
):
    """Add the rows of these windows to ``state[source - start, step] = (Σ inside, pixels, Σ annulus, pixels)``.

    Parameters
    ----------
    pixels, index, main, rows
        See ``measure.Windows``.
    ellipse, box
        As in ``_ellipse.fold_moment``.
    edges : float64 array (steps, 3)
        Squared radii, each growing with the step: inside is below the first, an annulus from the second to the third.
    start : int
        The source of the first row of `state`.
    state : float64 array (m, steps, 4)
        The inside sums hold only what a step adds to the one before.
    """
    cdef Py_ssize_t m
    cdef int64_t i, x, y
    cdef int steps = <int>edges.shape[0]
    cdef int j, k
    cdef float cx, cy, cxx, cyy, cxy, limit, dx, dy, r2, value
    cdef double r
    cdef double inside = 1.0 / sqrt(edges[0, 0])
    cdef double annulus = 1.0 / sqrt(edges[0, 2])
    cdef double *s
    cdef const float *row
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            cx, cy, cxx, cyy = ellipse[i, 0], ellipse[i, 1], ellipse[i, 2], ellipse[i, 3]
            cxy, limit = ellipse[i, 4], ellipse[i, 5]
            s = &state[i - start, 0, 0]
            for y in range(max(box[i, 1], rows[m, 0]), min(box[i, 3], rows[m, 1])):
                dy = <float>y - cy
                row = &pixels[0] + main[m, OFFSET] + (y - main[m, Y0]) * (main[m, X1] - main[m, X0]) - main[m, X0]
                for x in range(max(box[i, 0], main[m, X0]), min(box[i, 2], main[m, X1])):
                    dx = <float>x - cx
                    r2 = cxx * dx * dx + cyy * dy * dy + cxy * dx * dy
                    value = row[x]
                    if r2 > limit or not usable(value):
                        continue
                    r = sqrt(<double>r2)
                    # The steps are even, so a division finds the first one but for rounding; the tests decide.
                    j = max(<int>(r * inside) - 1, 0)
                    while j < steps and not r2 < edges[j, 0]:
                        j += 1
                    if j < steps:
                        s[4 * j] += value
                        s[4 * j + 1] += 1
                    k = max(<int>(r * annulus) - 1, 0)
                    while k < steps and r2 > edges[k, 2]:
                        k += 1
                    while k < steps and r2 >= edges[k, 1]:
                        s[4 * k + 2] += value
                        s[4 * k + 3] += 1
                        k += 1
