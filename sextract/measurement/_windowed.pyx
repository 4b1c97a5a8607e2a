# Kernel of windowed.py: folds rows of windows into the sums of one Gaussian-weighted iteration.
#
# A weight is the covered fraction of the pixel (11 × 11 sub-pixels near the rim) times a Gaussian of the distance of its
# centre.  The geometry is float32, the sums are double, as in SExtractor: its positions repeat to 1e-6 only that way.
from libc.math cimport expf, fabs, sqrt
from libc.stdint cimport int64_t

from sextract.measurement._window cimport OFFSET, X0, X1, Y0, mirrored, usable

cdef enum:
    SIDE = 11
    CELLS = 121  # SIDE²
    NSUMS = 10

# Layout of a row of sums, and the radius of the window in sigmas, for windowed.py.
SUMS = NSUMS
RADIUS = 4.0

# The outermost sub-pixel of a pixel is this far from its centre.
cdef double CORNER = 5.0 / 11.0
# Offsets of sub-pixels are summed up in float32: their squares are off by less than this, relatively.
cdef double SLACK = 1e-5
# Variance of a position within a pixel, 1/12 to the digits that SExtractor has.
cdef double PIXEL_ERROR = 0.0833

cdef struct Sums:
    double flux
    double x
    double y
    double x2
    double y2
    double xy
    double flux_var
    double x2_var
    double y2_var
    double xy_var

cdef struct Disc:
    double cx
    double cy
    float radius
    float radius2
    float inner2  # closer pixels are whole
    float outer2  # farther ones are out
    float inverse  # 1 / (2 sigma²)


cdef inline Disc disc(double cx, double cy, float sigma) noexcept nogil:
    cdef Disc d
    cdef float inner, outer
    d.cx, d.cy = cx, cy
    d.radius = <float>(4.0 * sigma)
    d.radius2 = d.radius * d.radius
    inner = <float>(d.radius - 0.5 * sqrt(2.0))
    outer = <float>(d.radius + 0.75)
    d.inner2 = inner * inner if inner > 0 else <float>0
    d.outer2 = outer * outer
    d.inverse = <float>(1.0 / (2.0 * sigma * sigma))
    return d


cdef inline int covered(float dx, float dy, float radius2) noexcept nogil:
    # How many sub-pixels of the pixel at (dx, dy) have their centre in the disc.  Far corners decide most pixels.
    cdef double ax = fabs(dx), ay = fabs(dy), near_x = max(ax - CORNER, 0.0), near_y = max(ay - CORNER, 0.0)
    if (ax + CORNER) * (ax + CORNER) + (ay + CORNER) * (ay + CORNER) < radius2 * (1.0 - SLACK):
        return CELLS
    if near_x * near_x + near_y * near_y > radius2 * (1.0 + SLACK):
        return 0
    return sampled(dx, dy, radius2)


cdef inline int sampled(float dx, float dy, float radius2) noexcept nogil:
    # The same, one by one; offsets are summed up, which decides ties.
    cdef float step = <float>(1.0 / SIDE), offset = <float>(0.5 * (step - 1.0))
    cdef float x2[12]
    cdef float d = dx + offset, d2
    cdef int i, j, count = 0
    for i in range(SIDE):
        x2[i] = d * d
        d += step
    x2[SIDE] = <float>1e30  # a twelfth that never counts: whole vectors
    d = dy + offset
    for j in range(SIDE):
        d2 = d * d
        for i in range(12):
            count += x2[i] + d2 <= radius2
        d += step
    return count


cdef inline void add(Sums *t, float dx, float dy, float weight, float value, double noise) noexcept nogil:
    cdef double amplitude = weight * value, var = noise * weight * weight, x2 = dx * dx, y2 = dy * dy, xy = dx * dy
    t.flux += amplitude
    t.x += amplitude * dx
    t.y += amplitude * dy
    t.x2 += amplitude * x2
    t.y2 += amplitude * y2
    t.xy += amplitude * xy
    t.flux_var += var
    t.x2_var += var * (x2 + PIXEL_ERROR)
    t.y2_var += var * (y2 + PIXEL_ERROR)
    t.xy_var += var * xy


cdef void fold_one(
    const float *pixels, const int64_t *main, const int64_t *mirror, int64_t ya, int64_t yb,
    Disc d, const float *fractions, double variance, double gain, bint correct, double *state,
) noexcept nogil:
    cdef Sums t = (<Sums *>state)[0]
    cdef int64_t xa = max(<int64_t>(d.cx - d.radius + 0.499999), main[X0])
    cdef int64_t xb = min(<int64_t>(d.cx + d.radius + 1.499999), main[X1])
    cdef int64_t x, y
    cdef const float *line
    cdef float dx, dy, r2, weight, value
    ya = max(ya, <int64_t>(d.cy - d.radius + 0.499999))
    yb = min(yb, <int64_t>(d.cy + d.radius + 1.499999))
    for y in range(ya, yb):
        line = pixels + main[OFFSET] + (y - main[Y0]) * (main[X1] - main[X0]) - main[X0]
        dy = <float>(y - d.cy)
        for x in range(xa, xb):
            dx = <float>(x - d.cx)
            r2 = dx * dx + dy * dy
            if r2 > d.outer2:
                continue
            weight = expf(-r2 * d.inverse)
            if r2 > d.inner2:
                weight = weight * fractions[covered(dx, dy, d.radius2)]
            value = line[x]
            if not usable(value):
                value = mirrored(pixels, mirror, d.cx, d.cy, x, y) if correct else <float>0
            add(&t, dx, dy, weight, value, variance + value / gain if gain > 0 and value > 0 else variance)
    (<Sums *>state)[0] = t


def fold(
    const float[::1] pixels,
    const int64_t[::1] index,
    const int64_t[:, ::1] main,
    const int64_t[:, ::1] mirror,
    const int64_t[:, ::1] rows,
    const double[::1] cx,
    const double[::1] cy,
    const double[::1] sigma,
    double variance,
    double gain,
    bint correct,
    double[:, ::1] sums,
):
    """Add the rows of each window to ``sums[index]``; `cx`, `cy`, `sigma` are those of all sources."""
    cdef float fractions[CELLS + 1]
    cdef float step = <float>(1.0 / SIDE)
    cdef int64_t w, i
    cdef int k
    if sums.shape[1] != NSUMS:
        raise ValueError("sums must have as many columns as there are sums")
    with nogil:
        # Areas are summed up one by one in float32, as SExtractor does: all of them aren't quite 1.
        fractions[0] = 0
        for k in range(CELLS):
            fractions[k + 1] = fractions[k] + step * step
        for w in range(index.shape[0]):
            i = index[w]
            fold_one(
                &pixels[0], &main[w, 0], &mirror[w, 0], rows[w, 0], rows[w, 1], disc(cx[i], cy[i], <float>sigma[i]),
                fractions, variance, gain, correct, &sums[i, 0],
            )
