# Kernels of windowed.py: fold rows of windows into the sums of a Gaussian-weighted iteration, and iterate.
#
# A weight is the covered fraction of the pixel (11 × 11 sub-pixels near the rim) times a Gaussian of the distance of its
# centre.  The geometry is float32, the sums are double, as in SExtractor: its positions repeat to 1e-6 only that way.
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset

from sextract.measurement._window cimport OFFSET, X0, X1, Y0, Y1, mirrored, span, usable

cdef enum:
    NSUMS = 10

# Layout of a row of sums, and the radius of the window in sigmas, for windowed.py.
SUMS = NSUMS
cdef double RADIUS_SIGMA = 4.0
RADIUS = RADIUS_SIGMA

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

cdef extern from *:
    """
    #include <math.h>
    #include <stdint.h>
    #include <string.h>
    #define SX_SIDE 11
    #define SX_CELLS 121
    #define SX_LANES 16 /* SX_SIDE, to whole vectors */
    #define SX_CHUNK 64
    /* The outermost sub-pixel of a pixel is this far from its centre. */
    #define SX_CORNER (5.0 / 11.0)
    /* Offsets of sub-pixels are summed up in float32: their squares are off by less than this, relatively. */
    #define SX_SLACK 1e-5

    /* For AVX2 too where the machine has it: without fused operations, so that the bits are the same. */
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define SX_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define SX_CLONES
    #endif

    /* GCC makes no good vectors of loops as short as these. */
    typedef float sx_floats __attribute__((vector_size(32)));
    typedef int32_t sx_ints __attribute__((vector_size(32)));

    typedef struct {
        double cx, cy;
        float radius, radius2;
        float inner2;  /* closer pixels are whole */
        float outer2;  /* farther ones are out */
        float inverse; /* 1 / (2 sigma^2) */
    } sx_disc;

    /* A part of a row, small enough for the stack. */
    typedef struct {
        float dx[SX_CHUNK], r2[SX_CHUNK], weight[SX_CHUNK], value[SX_CHUNK];
    } sx_chunk;

    /* exp(x) for -30 < x <= 0 to 1e-10: the series at x/64, squared six times.  Any libm's differs with the machine. */
    static inline __attribute__((always_inline)) double sx_gauss(double x) {
        double r = x * (1.0 / 64.0);
        double p = 1.0 + r * (1.0 / 9.0);
        p = 1.0 + r * (1.0 / 8.0) * p;
        p = 1.0 + r * (1.0 / 7.0) * p;
        p = 1.0 + r * (1.0 / 6.0) * p;
        p = 1.0 + r * (1.0 / 5.0) * p;
        p = 1.0 + r * (1.0 / 4.0) * p;
        p = 1.0 + r * (1.0 / 3.0) * p;
        p = 1.0 + r * 0.5 * p;
        p = 1.0 + r * p;
        p *= p;
        p *= p;
        p *= p;
        p *= p;
        p *= p;
        return p * p;
    }

    /* Squared offsets of a pixel's sub-pixels along one axis; offsets are summed up, which decides ties. */
    static inline __attribute__((always_inline)) void sx_squares(float d, float *out) {
        const float step = (float) (1.0 / SX_SIDE);
        d += (float) (0.5 * (step - 1.0));
        for (int i = 0; i < SX_SIDE; i++) {
            out[i] = d * d;
            d += step;
        }
        for (int i = SX_SIDE; i < SX_LANES; i++)
            out[i] = 1e30f; /* never within */
    }

    /* How many sub-pixels of the pixel at (dx, dy) have their centre in the disc.  The corners decide for most pixels. */
    static inline __attribute__((always_inline)) int sx_covered(float dx, float dy, float radius2, const float *y2) {
        const double ax = fabs(dx), ay = fabs(dy);
        const double near_x = ax > SX_CORNER ? ax - SX_CORNER : 0.0, near_y = ay > SX_CORNER ? ay - SX_CORNER : 0.0;
        const float step = (float) (1.0 / SX_SIDE);
        const sx_floats limit = {radius2, radius2, radius2, radius2, radius2, radius2, radius2, radius2};
        sx_floats upper, lower;
        sx_ints count = {0};
        if ((ax + SX_CORNER) * (ax + SX_CORNER) + (ay + SX_CORNER) * (ay + SX_CORNER) < radius2 * (1.0 - SX_SLACK))
            return SX_CELLS;
        if (near_x * near_x + near_y * near_y > radius2 * (1.0 + SX_SLACK))
            return 0;
        memcpy(&upper, y2, sizeof upper);
        memcpy(&lower, y2 + 8, sizeof lower);
        dx += (float) (0.5 * (step - 1.0));
        for (int i = 0; i < SX_SIDE; i++) {
            count += upper + dx * dx <= limit;
            count += lower + dx * dx <= limit;
            dx += step;
        }
        return -(count[0] + count[1] + count[2] + count[3] + count[4] + count[5] + count[6] + count[7]);
    }

    /* Offsets and weights of n pixels from x on.  Whole vectors: loops beyond n cost less than their ends. */
    SX_CLONES static void sx_weigh(const sx_disc *d, double first, int n, float dy, const float *fractions, sx_chunk *c) {
        const int whole = (n + 7) / 8 * 8;
        const float far = dy * dy;
        float y2[SX_LANES];
        for (int i = 0; i < whole; i++) {
            c->dx[i] = (float) ((first + i) - d->cx);
            c->r2[i] = c->dx[i] * c->dx[i] + far;
        }
        for (int i = 0; i < whole; i++)
            c->weight[i] = (float) sx_gauss(-c->r2[i] * d->inverse);
        sx_squares(dy, y2);
        for (int i = 0; i < n; i++)
            if (c->r2[i] > d->inner2)
                c->weight[i] = c->r2[i] > d->outer2 ? 0 : c->weight[i] * fractions[sx_covered(c->dx[i], dy, d->radius2, y2)];
    }
    """
    enum:
        CHUNK "SX_CHUNK"
        SIDE "SX_SIDE"
        CELLS "SX_CELLS"
    ctypedef struct Disc "sx_disc":
        double cx
        double cy
        float radius
        float radius2
        float inner2
        float outer2
        float inverse
    ctypedef struct Chunk "sx_chunk":
        float *dx
        float *weight
        float *value
    void weigh "sx_weigh"(const Disc *d, double first, int n, float dy, const float *fractions, Chunk *c) noexcept nogil


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


cdef inline void add_light(Sums *t, const Chunk *c, int n, double dy) noexcept nogil:
    cdef double flux = t.flux, x = t.x, y = t.y, x2 = t.x2, y2 = t.y2, xy = t.xy, value, dx
    cdef int i
    for i in range(n):
        value, dx = <double>c.weight[i] * c.value[i], c.dx[i]
        flux += value
        x += value * dx
        y += value * dy
        x2 += value * (dx * dx)
        y2 += value * (dy * dy)
        xy += value * (dx * dy)
    t.flux, t.x, t.y, t.x2, t.y2, t.xy = flux, x, y, x2, y2, xy


cdef inline void add_noise(Sums *t, const Chunk *c, int n, double dy, double variance, double gain) noexcept nogil:
    cdef double total = t.flux_var, x2 = t.x2_var, y2 = t.y2_var, xy = t.xy_var, var, dx
    cdef int i
    for i in range(n):
        var, dx = variance, c.dx[i]
        if gain > 0 and c.value[i] > 0:
            var += c.value[i] / gain
        var *= <double>c.weight[i] * c.weight[i]
        total += var
        x2 += var * (dx * dx + PIXEL_ERROR)
        y2 += var * (dy * dy + PIXEL_ERROR)
        xy += var * (dx * dy)
    t.flux_var, t.x2_var, t.y2_var, t.xy_var = total, x2, y2, xy


cdef inline void add_centre(Sums *t, const Chunk *c, int n, double dy) noexcept nogil:
    # The part of add_light that moves the centre.
    cdef double flux = t.flux, x = t.x, y = t.y, value
    cdef int i
    for i in range(n):
        value = <double>c.weight[i] * c.value[i]
        flux += value
        x += value * c.dx[i]
        y += value * dy
    t.flux, t.x, t.y = flux, x, y


cdef void fold_one(
    const float *pixels, const int64_t *main, const int64_t *mirror, int64_t ya, int64_t yb, Disc d,
    const float *fractions, double variance, double gain, bint correct, bint whole, double *state,
) noexcept nogil:
    # All sums, or the first three.
    cdef Sums t = (<Sums *>state)[0]
    cdef Chunk c
    cdef int64_t left = max(<int64_t>(d.cx - d.radius + 0.499999), main[X0])
    cdef int64_t right = min(<int64_t>(d.cx + d.radius + 1.499999), main[X1])
    cdef int64_t x, y, xb
    cdef const float *line
    cdef double half
    cdef float dy
    cdef int i, n
    ya = max(ya, <int64_t>(d.cy - d.radius + 0.499999))
    yb = min(yb, <int64_t>(d.cy + d.radius + 1.499999))
    for y in range(ya, yb):
        line = pixels + main[OFFSET] + (y - main[Y0]) * (main[X1] - main[X0]) - main[X0]
        dy = <float>(y - d.cy)
        # The disc's chord and a bit more at each end; a weight of 0 changes no sum.
        half = sqrt(max(d.outer2 - <double>dy * dy, 0.0)) + 0.5
        x, xb = max(left, <int64_t>max(d.cx - half, 0.0)), min(right, <int64_t>(d.cx + half) + 1)
        while x < xb:
            n = <int>min(xb - x, CHUNK)
            weigh(&d, x, n, dy, fractions, &c)
            for i in range(n):
                c.value[i] = line[x + i]
                if not usable(c.value[i]):
                    c.value[i] = mirrored(pixels, mirror, d.cx, d.cy, x + i, y) if correct else <float>0
            if whole:
                add_light(&t, &c, n, dy)
                add_noise(&t, &c, n, dy, variance, gain)
            else:
                add_centre(&t, &c, n, dy)
            x += n
    (<Sums *>state)[0] = t


cdef void tabulate(float *fractions) noexcept nogil:
    # Areas are summed up one by one in float32, as SExtractor does: all of them aren't quite 1.
    cdef float step = <float>(1.0 / SIDE)
    cdef int k
    fractions[0] = 0
    for k in range(CELLS):
        fractions[k + 1] = fractions[k] + step * step


cdef inline bint inside(const int64_t *window, double cx, double cy, double reach, const int64_t *frame) noexcept nogil:
    # Whether the window holds all pixels within reach that the frame (width, height, margin) has.
    cdef int64_t x0, x1, y0, y1
    span(cx, reach, frame[0], frame[2], &x0, &x1)
    span(cy, reach, frame[1], frame[2], &y0, &y1)
    return window[X0] <= x0 and x1 <= window[X1] and window[Y0] <= y0 and y1 <= window[Y1]


def settle(
    const float[::1] pixels,
    const int64_t[::1] index,
    const int64_t[:, ::1] main,
    double[::1] cx,
    double[::1] cy,
    const double[::1] sigma,
    double variance,
    double gain,
    bint correct,
    double step,
    double still2,
    int most,
    tuple frame,
    double[:, ::1] sums,
    short[::1] iterations,
    unsigned char[::1] moving,
):
    # Iterate the sources of whole windows until they are still, or leave their window (`moving` stays 1), or have done
    # `most` iterations; a centre moves by `step` times its mean offset.  `frame`: width, height, margin of windows.  `sums` are those of the last iteration.
    cdef float fractions[122]
    cdef int64_t limits[3]
    cdef int64_t w, i, ya, yb
    cdef double dx, dy, flux
    cdef double *s
    cdef const int64_t *window
    cdef Disc d
    if sums.shape[1] != NSUMS:
        raise ValueError("sums must have as many columns as there are sums")
    limits[0], limits[1], limits[2] = frame
    with nogil:
        tabulate(fractions)
        for w in range(index.shape[0]):
            i = index[w]
            s, window = &sums[i, 0], &main[w, 0]
            ya, yb = window[Y0], window[Y1]
            while inside(window, cx[i], cy[i], RADIUS_SIGMA * sigma[i] + 1.0, limits):
                d = disc(cx[i], cy[i], <float>sigma[i])
                memset(s, 0, NSUMS * sizeof(double))
                fold_one(&pixels[0], window, window, ya, yb, d, fractions, variance, gain, correct, False, s)
                iterations[i] += 1
                flux = s[0]
                if flux > 0:
                    dx, dy = s[1] / flux, s[2] / flux
                    cx[i] += step * dx
                    cy[i] += step * dy
                    moving[i] = dx * dx + dy * dy >= still2 and iterations[i] < most
                    # NITER_WIN of a centre that doesn't settle.
                    iterations[i] += dx * dx + dy * dy >= still2 and iterations[i] >= most
                else:
                    moving[i] = 0
                if not moving[i]:
                    memset(s, 0, NSUMS * sizeof(double))
                    fold_one(&pixels[0], window, window, ya, yb, d, fractions, variance, gain, correct, True, s)
                    break


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
    cdef float fractions[122]
    cdef int64_t w, i
    if sums.shape[1] != NSUMS:
        raise ValueError("sums must have as many columns as there are sums")
    with nogil:
        tabulate(fractions)
        for w in range(index.shape[0]):
            i = index[w]
            fold_one(
                &pixels[0], &main[w, 0], &mirror[w, 0], rows[w, 0], rows[w, 1], disc(cx[i], cy[i], <float>sigma[i]),
                fractions, variance, gain, correct, True, &sums[i, 0],
            )
