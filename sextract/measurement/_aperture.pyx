"""Folds rows of windows into sums over circular apertures: whole pixels inside, 5 × 5 sub-pixels along the rim.

What a masked pixel counts is `correct`'s business (its mirror) or nothing's (0); errors and magnitudes are in
``aperture.py``.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t

from sextract.measurement._window cimport mirrored, usable, X0, X1, Y0, OFFSET

cdef enum:
    SIDE = 5

# A pixel whose centre is this near the rim is sampled: just above half a diagonal.
cdef double RIM = 0.75


# A row of sub-pixels padded to whole vectors.
cdef enum:
    WIDTH = 8

# The area of that many sub-pixels, summed up one by one in float32 as SExtractor does.
cdef float SHARE[SIDE * SIDE + 1]
SHARE[0] = 0
for count in range(SIDE * SIDE):
    SHARE[count + 1] = SHARE[count] + <float>(1.0 / SIDE) * <float>(1.0 / SIDE)


cdef inline int inside(float dx, float dy, float limit) noexcept nogil:
    # How many of a pixel's sub-pixels have their centre in the circle; offsets are summed up, which decides ties.
    cdef float step = <float>(1.0 / SIDE)
    cdef float offset = <float>(0.5 * (step - 1.0))
    cdef float x2[WIDTH]
    cdef float d, d2
    cdef int count = 0
    cdef int i, j
    d = dx + offset
    for i in range(SIDE):
        x2[i] = d * d
        d += step
    for i in range(SIDE, WIDTH):
        x2[i] = 1e30
    d = dy + offset
    for j in range(SIDE):
        d2 = d * d
        for i in range(WIDTH):
            count += x2[i] + d2 < limit
        d += step
    return count


cdef void fold_one(
    const float *pixels, const int64_t *main, const int64_t *mirror, int64_t ya, int64_t yb,
    float cx, float cy, double radius, bint correct, double *state,
) noexcept nogil:
    cdef double outer = (radius + RIM) * (radius + RIM)
    cdef double inner = (radius - RIM) * (radius - RIM) if radius > RIM else 0.0
    cdef double limit = radius * radius
    cdef int64_t xmin = max(<int64_t>(cx - radius + 0.499999), main[X0])
    cdef int64_t xmax = min(<int64_t>(cx + radius + 1.499999), main[X1])
    cdef int64_t ymin = max(<int64_t>(cy - radius + 0.499999), ya)
    cdef int64_t ymax = min(<int64_t>(cy + radius + 1.499999), yb)
    cdef int64_t x, y, xa, xb
    cdef float dx, dy
    cdef float r2, area
    cdef double half
    cdef float value
    cdef const float *row
    for y in range(ymin, ymax):
        dy = <float>y - cy
        if dy * dy > outer:
            continue
        # One pixel of slack: the test below decides.
        half = sqrt(outer - dy * dy) + 1.0
        xa = max(xmin, <int64_t>(cx - half))
        xb = min(xmax, <int64_t>(cx + half) + 1)
        row = pixels + main[OFFSET] + (y - main[Y0]) * (main[X1] - main[X0]) - main[X0]
        for x in range(xa, xb):
            dx = <float>x - cx
            r2 = dx * dx + dy * dy
            if r2 > outer:
                continue
            area = 1.0 if r2 <= inner else SHARE[inside(dx, dy, limit)]
            value = row[x]
            if not usable(value):
                value = mirrored(pixels, mirror, cx, cy, x, y) if correct else 0.0
            state[0] += <double>area * value
            state[1] += area


def fold(
    const float[::1] pixels, const int64_t[::1] index, const int64_t[:, ::1] main, const int64_t[:, ::1] mirror,
    const int64_t[:, ::1] rows, const float[::1] x, const float[::1] y, const double[::1] radii, bint correct,
    double[:, :, ::1] state,
):
    """Add the rows of these windows to ``state[source, aperture] = (flux, area)``.

    Parameters
    ----------
    pixels, index, main, mirror, rows
        See ``measure.Windows``.
    x, y : float32 arrays (n,)
        Centres, pixels, 0-based.
    radii : float64 array (k,)
        Aperture radii, pixels.
    correct : bool
        Masked pixels take the value of their mirror (MASK_TYPE CORRECT), else 0.
    state : float64 array (n, k, 2)
    """
    cdef Py_ssize_t m, k
    cdef int64_t i
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            for k in range(radii.shape[0]):
                fold_one(
                    &pixels[0], &main[m, 0], &mirror[m, 0], rows[m, 0], rows[m, 1],
                    x[i], y[i], radii[k], correct, &state[i, k, 0],
                )
