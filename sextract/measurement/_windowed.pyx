# Kernels of windowed.py: fold rows of windows into the sums of a Gaussian-weighted iteration, and iterate.
#
# A weight is the covered fraction of the pixel (11 × 11 sub-pixels near the rim) times a Gaussian of the distance of its
# centre.  The geometry is float32, the sums are double, as in SExtractor: its positions repeat to 1e-6 only that way.
#
# A disc is worked through in parts: `collect` lays its pixels down one after the other, `weigh` gives them their weights,
# and the sums run over that list.
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset

from sextract.measurement._disc cimport Disc, Part, Walk, collect, set_box, tabulate, walk
from sextract.measurement._window cimport X0, X1, Y0, Y1, span

cdef enum:
    NSUMS = 10

# Layout of a row of sums, and the radius of the window in sigmas, for windowed.py.
SUMS = NSUMS
cdef double RADIUS_SIGMA = 4.0
RADIUS = RADIUS_SIGMA

cdef extern from *:
    """
    #define SX_SIDE 11
    #define SX_COLUMNS 1024
    /* Variance of a position within a pixel, 1/12 to the digits that SExtractor has. */
    #define SX_PIXEL_ERROR 0.0833

    /* Columns from `first` on: the square of their offset over 2 sigma^2, and the Gaussian of that. */
    typedef struct {
        float inverse; /* 1 / (2 sigma^2) */
        int64_t first;
        double far[SX_COLUMNS + SX_RUN], gauss[SX_COLUMNS + SX_RUN];
    } sx_columns;

    /* exp(x) for -30 < x <= 0 to 1e-10: the series at x/64, squared six times.  Any libm's differs with the machine. */
    SX_INLINE void sx_gauss(const sx_doubles *x, sx_doubles *out) {
        const sx_doubles r = *x * (1.0 / 64.0);
        sx_doubles p = 1.0 + r * (1.0 / 9.0);
        for (int k = 8; k >= 1; k--)
            p = 1.0 + r * (1.0 / k) * p;
        for (int k = 0; k < 6; k++)
            p *= p;
        *out = p;
    }

    /* For four offsets, rounded to float32: their squares over 2 sigma^2, and the Gaussian of that. */
    SX_INLINE void sx_set_four(float inverse, const sx_doubles *offset, double *far, double *gauss) {
        const sx_singles rounded = SX_SINGLES(*offset);
        const sx_doubles exact = SX_DOUBLES(rounded), square = exact * exact * (double) inverse, x = -square;
        sx_doubles g;
        sx_gauss(&x, &g);
        SX_STORE(far, square);
        SX_STORE(gauss, g);
    }

    SX_CLONES static void sx_set_columns(const sx_disc *d, int64_t first, int whole, sx_columns *c) {
        const sx_doubles steps = {0, 1, 2, 3};
        /* Blocks may begin anywhere and so go on beyond the last column. */
        const int beyond = whole < SX_RUN ? whole : SX_RUN;
        c->first = first;
        memset(c->far + whole, 0, beyond * sizeof *c->far);
        memset(c->gauss + whole, 0, beyond * sizeof *c->gauss);
        for (int i = 0; i < whole; i += SX_FOUR) {
            const sx_doubles offset = (double) (first + i) + steps - d->cx;
            sx_set_four(c->inverse, &offset, c->far + i, c->gauss + i);
        }
    }

    /* The columns of the whole disc, if there is room for so many. */
    static inline void sx_begin(const sx_disc *d, float inverse, sx_columns *c) {
        c->inverse = inverse;
        if (d->width > 0 && d->width <= SX_COLUMNS - SX_BLOCK)
            sx_set_columns(d, d->first, (int) (d->width + SX_BLOCK - 1) / SX_BLOCK * SX_BLOCK, c);
    }

    /* Gaussians of the pixels of a run, from column `start` on.  That of a float32 radius is the product of those of its row
       and column, times exp of what rounding changed. */
    SX_INLINE void sx_weigh_run(const sx_columns *c, int start, double far_y, double gauss_y, int whole, sx_part *p, int at) {
        for (int i = 0; i < whole; i += SX_FOUR) {
            sx_singles dx, dy, w;
            sx_doubles far, gauss, rest;
            SX_LOAD(dx, p->dx + at + i);
            SX_LOAD(dy, p->dy + at + i);
            SX_LOAD(far, c->far + start + i);
            SX_LOAD(gauss, c->gauss + start + i);
            rest = far + far_y - SX_DOUBLES((dx * dx + dy * dy) * c->inverse);
            w = SX_SINGLES(gauss * gauss_y * (1.0 + rest * (1.0 + 0.5 * rest)));
            SX_STORE(p->weight + at + i, w);
        }
    }

    /* Weights of all pixels of a part. */
    SX_CLONES static void sx_weigh(const sx_disc *d, sx_columns *c, sx_part *p) {
        sx_cover(SX_SIDE, 1, d, p);
        double far[SX_BLOCK], gauss[SX_BLOCK];
        int at = 0;
        for (int k = 0; k < p->runs; k++) {
            const int r = k % SX_BLOCK, whole = sx_whole(d, p, k);
            for (int i = 0; r == 0 && i < SX_BLOCK; i += SX_FOUR) {
                const int64_t *y = p->y + k + i;
                const sx_doubles row = {(double) y[0], (double) y[1], (double) y[2], (double) y[3]}, offset = row - d->cy;
                sx_set_four(c->inverse, &offset, far + i, gauss + i);
            }
            if (d->width > SX_COLUMNS - SX_BLOCK)
                sx_set_columns(d, p->x[k], whole, c);
            sx_weigh_run(c, (int) (p->x[k] - c->first), far[r], gauss[r], whole, p, at);
            at += p->count[k];
        }
        /* Blocks go on beyond the last pixel: there is nothing. */
        memset(p->weight + p->n, 0, SX_BLOCK * sizeof *p->weight);
        for (int k = 0; k < p->n; k += SX_FOUR) {
            sx_singles weight, share;
            SX_LOAD(weight, p->weight + k);
            sx_share(d, p, k, &share);
            weight *= share;
            SX_STORE(p->weight + k, weight);
        }
    }

    /* What four pixels hold, and where. */
    typedef struct {
        sx_doubles weight, value, dx, dy;
    } sx_pixels;

    SX_INLINE void sx_load_pixels(const sx_part *p, int k, sx_pixels *four) {
        sx_singles weight, value, dx, dy;
        SX_LOAD(weight, p->weight + k);
        SX_LOAD(value, p->value + k);
        SX_LOAD(dx, p->dx + k);
        SX_LOAD(dy, p->dy + k);
        four->weight = SX_DOUBLES(weight);
        four->value = SX_DOUBLES(value);
        four->dx = SX_DOUBLES(dx);
        four->dy = SX_DOUBLES(dy);
    }

    /* Sums are in the order of the pixels, whatever vectors the products are made with.  Here those that move the centre: flux,
       x, y. */
    SX_CLONES static void sx_add_centre(const sx_part *p, double *sums) {
        double flux = sums[0], x = sums[1], y = sums[2];
        for (int k = 0; k < p->n; k += SX_FOUR) {
            sx_pixels f;
            double v[SX_FOUR], vx[SX_FOUR], vy[SX_FOUR];
            sx_load_pixels(p, k, &f);
            f.value *= f.weight;
            f.dx *= f.value;
            f.dy *= f.value;
            SX_STORE(v, f.value);
            SX_STORE(vx, f.dx);
            SX_STORE(vy, f.dy);
            for (int i = 0; i < SX_FOUR; i++) {
                flux += v[i];
                x += vx[i];
                y += vy[i];
            }
        }
        sums[0] = flux;
        sums[1] = x;
        sums[2] = y;
    }

    /* The other seven: second moments of the light; the noise and its second moments. */
    SX_CLONES static void sx_add_rest(const sx_part *p, double variance, double gain, double *sums) {
        const double pixel_error = SX_PIXEL_ERROR;
        double total[7];
        memcpy(total, sums + 3, sizeof total);
        for (int k = 0; k < p->n; k += SX_FOUR) {
            sx_pixels f;
            sx_doubles light, var = {variance, variance, variance, variance}, x2, y2, xy, products[7];
            double one[7][SX_FOUR];
            sx_load_pixels(p, k, &f);
            if (gain > 0) {
                const sx_doubles photons = f.value / gain;
                var += (sx_doubles) ((sx_longs) photons & (f.value > 0.0));
            }
            light = f.weight * f.value;
            var *= f.weight * f.weight;
            x2 = f.dx * f.dx;
            y2 = f.dy * f.dy;
            xy = f.dx * f.dy;
            products[0] = light * x2;
            products[1] = light * y2;
            products[2] = light * xy;
            products[3] = var;
            products[4] = var * (x2 + pixel_error);
            products[5] = var * (y2 + pixel_error);
            products[6] = var * xy;
            memcpy(one, products, sizeof one);
            for (int i = 0; i < SX_FOUR; i++)
                for (int m = 0; m < 7; m++)
                    total[m] += one[m][i];
        }
        memcpy(sums + 3, total, sizeof total);
    }
    """
    enum:
        SIDE "SX_SIDE"
    ctypedef struct Columns "sx_columns":
        pass
    void begin "sx_begin"(const Disc *d, float inverse, Columns *c) noexcept nogil
    void weigh "sx_weigh"(const Disc *d, Columns *c, Part *p) noexcept nogil
    void add_centre "sx_add_centre"(const Part *p, double *sums) noexcept nogil
    void add_rest "sx_add_rest"(const Part *p, double variance, double gain, double *sums) noexcept nogil

tabulate(SIDE)


cdef inline Disc start(double cx, double cy, float sigma, Columns *c) noexcept nogil:
    # The disc of this window, and the Gaussians of its columns.
    cdef Disc d
    cdef float radius = <float>(RADIUS_SIGMA * sigma)
    cdef float inner = <float>(radius - 0.5 * sqrt(2.0))
    cdef float outer = <float>(radius + 0.75)
    d.cx, d.cy, d.radius, d.radius2 = cx, cy, radius, radius * radius
    d.inner2 = inner * inner if inner > 0 else <float>0
    d.outer2 = outer * outer
    set_box(&d)
    begin(&d, <float>(1.0 / (2.0 * sigma * sigma)), c)
    return d


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
    # `most` iterations; a centre moves by `step` times its mean offset.  `frame`: width, height, margin of windows.  `sums`
    # are those of the last iteration.
    cdef int64_t limits[3]
    cdef int64_t w, i
    cdef int parts
    cdef double dx, dy, flux
    cdef double *s
    cdef const int64_t *window
    cdef Disc d
    cdef Walk at
    cdef Part part
    cdef Columns columns
    if sums.shape[1] != NSUMS:
        raise ValueError("sums must have as many columns as there are sums")
    limits[0], limits[1], limits[2] = frame
    with nogil:
        for w in range(index.shape[0]):
            i = index[w]
            s, window = &sums[i, 0], &main[w, 0]
            while inside(window, cx[i], cy[i], RADIUS_SIGMA * sigma[i] + 1.0, limits):
                d = start(cx[i], cy[i], <float>sigma[i], &columns)
                memset(s, 0, NSUMS * sizeof(double))
                at = walk(&pixels[0], pixels.shape[0], window, window, window[Y0], window[Y1], correct, &d)
                parts = 0
                while collect(&at, &d, &part):
                    weigh(&d, &columns, &part)
                    add_centre(&part, s)
                    parts += 1
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
                    if parts == 1 and part.n > 0:
                        # It is still there.
                        add_rest(&part, variance, gain, s)
                        break
                    at = walk(&pixels[0], pixels.shape[0], window, window, window[Y0], window[Y1], correct, &d)
                    while collect(&at, &d, &part):
                        weigh(&d, &columns, &part)
                        add_rest(&part, variance, gain, s)
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
    cdef int64_t w, i
    cdef Disc d
    cdef Walk at
    cdef Part part
    cdef Columns columns
    if sums.shape[1] != NSUMS:
        raise ValueError("sums must have as many columns as there are sums")
    with nogil:
        for w in range(index.shape[0]):
            i = index[w]
            d = start(cx[i], cy[i], <float>sigma[i], &columns)
            at = walk(&pixels[0], pixels.shape[0], &main[w, 0], &mirror[w, 0], rows[w, 0], rows[w, 1], correct, &d)
            while collect(&at, &d, &part):
                weigh(&d, &columns, &part)
                add_centre(&part, &sums[i, 0])
                add_rest(&part, variance, gain, &sums[i, 0])
