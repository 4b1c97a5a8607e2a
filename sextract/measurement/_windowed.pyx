# Kernels of windowed.py: fold rows of windows into the sums of a Gaussian-weighted iteration, and iterate.
#
# A weight is the covered fraction of the pixel (11 × 11 sub-pixels near the rim) times a Gaussian of the distance of its
# centre.  The geometry is float32, the sums are double, as in SExtractor: its positions repeat to 1e-6 only that way.
#
# A disc is worked through in parts: `collect` lays its pixels down one after the other, `weigh` gives them their weights,
# and the sums run over that list.
from libc.math cimport floor, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset

from sextract.measurement._window cimport OFFSET, X0, X1, Y0, Y1, mirrored, span, usable

cdef enum:
    NSUMS = 10

# Layout of a row of sums, and the radius of the window in sigmas, for windowed.py.
SUMS = NSUMS
cdef double RADIUS_SIGMA = 4.0
RADIUS = RADIUS_SIGMA

cdef extern from *:
    """
    #include <math.h>
    #include <stdint.h>
    #include <string.h>
    #define SX_SIDE 11
    #define SX_CELLS 121
    #define SX_LANES 16 /* SX_SIDE, to whole vectors */
    #define SX_BLOCK 8  /* pixels, or rows, that are worked on together */
    #define SX_RUN 64
    #define SX_RUNS 32
    #define SX_COLUMNS 1024
    #define SX_ROOM (SX_RUNS * SX_RUN + SX_RUN)
    #define SX_BYTES 32
    /* Columns from the middle of a pattern to either end. */
    #define SX_REACH 128
    /* The outermost sub-pixel of a pixel is this far from its centre. */
    #define SX_CORNER (5.0 / 11.0)
    /* Offsets of sub-pixels are summed up in float32: their squares are off by less than this, relatively. */
    #define SX_SLACK 1e-5
    /* Variance of a position within a pixel, 1/12 to the digits that SExtractor has. */
    #define SX_PIXEL_ERROR 0.0833

    /* For AVX2 too where the machine has it: without fused operations, so that the bits are the same. */
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define SX_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define SX_CLONES
    #endif
    #define SX_INLINE static inline __attribute__((always_inline))

    /* GCC makes no good vectors of loops as short as these. */
    typedef float sx_floats __attribute__((vector_size(32)));
    typedef int32_t sx_ints __attribute__((vector_size(32)));
    typedef uint8_t sx_bytes __attribute__((vector_size(SX_BYTES)));
    typedef double sx_doubles __attribute__((vector_size(32)));
    typedef int64_t sx_longs __attribute__((vector_size(32)));
    typedef float sx_singles __attribute__((vector_size(16)));
    typedef int32_t sx_mask __attribute__((vector_size(16)));
    #define SX_FOUR 4
    #define SX_LOAD(to, from) memcpy(&(to), (from), sizeof(to))
    #define SX_STORE(to, from) memcpy((to), &(from), sizeof(from))
    #define SX_DOUBLES(v) ((sx_doubles) {(double) (v)[0], (double) (v)[1], (double) (v)[2], (double) (v)[3]})
    #define SX_SINGLES(v) ((sx_singles) {(float) (v)[0], (float) (v)[1], (float) (v)[2], (float) (v)[3]})

    typedef struct {
        double cx, cy;
        float radius, radius2;
        float inner2;  /* closer pixels are whole */
        float outer2;  /* farther ones are out */
        float inverse; /* 1 / (2 sigma^2) */
        int64_t first; /* the column its box begins with */
        int whole;     /* its columns, to whole blocks; 0 if they are more than SX_COLUMNS */
    } sx_disc;

    /* Pixels of a part of the disc one after the other, runs of a row each.  The ends are room for whole blocks. */
    typedef struct {
        int runs, n;
        int64_t x[SX_RUNS], y[SX_RUNS];
        int count[SX_RUNS];
        float weight[SX_ROOM], value[SX_ROOM], dx[SX_ROOM], dy[SX_ROOM];
        uint8_t cells[SX_ROOM]; /* sub-pixels in the disc, where the rim is near */
    } sx_part;

    /* Columns from `first` on: their offset, its square over 2 sigma^2, and the Gaussian of that. */
    typedef struct {
        int64_t first;
        float dx[SX_COLUMNS + SX_RUN];
        double far[SX_COLUMNS + SX_RUN], gauss[SX_COLUMNS + SX_RUN];
    } sx_columns;

    /* The same of a block of rows. */
    typedef struct {
        float dx[SX_BLOCK];
        double far[SX_BLOCK], gauss[SX_BLOCK];
    } sx_rows;

    /* Where rows of sub-pixels enter and leave the disc, for a block of rows: places in `sx_pattern`. */
    typedef struct {
        int32_t enter[SX_SIDE][SX_BLOCK], leave[SX_SIDE][SX_BLOCK];
        float doubt[SX_BLOCK]; /* how near to a sub-pixel's centre one of them is: 0.5 is on it */
    } sx_ends;

    /* How many sub-pixels of a pixel a row of them covers that ends after k sub-pixels of the middle pixel. */
    static uint8_t sx_pattern[SX_SIDE][2 * SX_REACH];
    /* The area of that many sub-pixels. */
    static float sx_fraction[SX_CELLS + 1];

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

    static void sx_tabulate(void) {
        const float step = (float) (1.0 / SX_SIDE);
        for (int k = 0; k < SX_SIDE; k++) {
            memset(sx_pattern[k], SX_SIDE, SX_REACH);
            sx_pattern[k][SX_REACH] = (uint8_t) k;
        }
        /* Areas are summed up one by one in float32, as SExtractor does: all of them aren't quite 1. */
        for (int k = 0; k < SX_CELLS; k++)
            sx_fraction[k + 1] = sx_fraction[k] + step * step;
    }

    /* Squared offsets of a pixel's sub-pixels along one axis; offsets are summed up, which decides ties. */
    SX_INLINE void sx_squares(float d, float *out) {
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
    SX_INLINE int sx_covered(float dx, float dy, float radius2, const float *y2) {
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

    /* Their number in each pixel near the rim of a run, one after the other. */
    SX_INLINE void sx_count_each(const sx_disc *d, const float *dx, float dy, int n, uint8_t *cells) {
        float y2[SX_LANES];
        sx_squares(dy, y2);
        memset(cells, 0, SX_RUN);
        for (int i = 0; i < n; i++) {
            const float r2 = dx[i] * dx[i] + dy * dy;
            if (r2 > d->inner2 && r2 <= d->outer2)
                cells[i] = (uint8_t) sx_covered(dx[i], dy, d->radius2, y2);
        }
    }

    /* The ends of rows of sub-pixels, from the root of what is left of the radius.  In units of sub-pixels all roundings,
       those of the offsets that `sx_covered` sums up too, are below 5e-5 (radius + 1), but where a row only grazes the disc. */
    SX_INLINE void sx_find_ends(const sx_disc *d, const float *dy, sx_ends *e) {
        const float step = (float) (1.0 / SX_SIDE), graze = 5e-4f * d->radius2, limit = d->radius2;
        const float centre = SX_SIDE * (float) (d->cx - (double) d->first) + 0.5f * SX_SIDE + 0.5f;
        float y[SX_BLOCK];
        for (int r = 0; r < SX_BLOCK; r++) {
            y[r] = dy[r] + (float) (0.5 * (step - 1.0));
            e->doubt[r] = 0;
        }
        for (int j = 0; j < SX_SIDE; j++)
            for (int r = 0; r < SX_BLOCK; r++) {
                const float left = limit - y[r] * y[r];
                const float half = SX_SIDE * sqrtf(left > 0 ? left : 0);
                const float a = centre - half, b = centre + half;
                const int32_t na = (int32_t) a, nb = (int32_t) b;
                const int32_t pa = (int32_t) (a * step), pb = (int32_t) (b * step);
                const float off_a = fabsf(a - (float) na - 0.5f), off_b = fabsf(b - (float) nb - 0.5f);
                const float off = off_a > off_b ? off_a : off_b;
                const float mine = fabsf(left - graze) <= graze * 1.002f ? 1.0f : off;
                e->doubt[r] = e->doubt[r] > mine ? e->doubt[r] : mine;
                e->enter[j][r] = (na - SX_SIDE * pa) * (2 * SX_REACH) + SX_REACH - pa;
                e->leave[j][r] = (nb - SX_SIDE * pb) * (2 * SX_REACH) + SX_REACH - pb;
                y[r] += step;
            }
    }

    /* How many sub-pixels are in the disc, for `whole` pixels from column `start` of its box on. */
    SX_INLINE void sx_count_between(const sx_ends *e, int r, int start, int whole, uint8_t *cells) {
        for (int i = 0; i < whole; i += SX_BYTES) {
            const uint8_t *pattern = &sx_pattern[0][0] + start + i;
            sx_bytes sum = {0}, one;
            for (int j = 0; j < SX_SIDE; j++) {
                memcpy(&one, pattern + e->leave[j][r], sizeof one);
                sum += one;
                memcpy(&one, pattern + e->enter[j][r], sizeof one);
                sum -= one;
            }
            memcpy(cells + i, &sum, sizeof sum);
        }
    }

    /* Offsets of four columns or rows, their squares over 2 sigma^2, and the Gaussian of that. */
    SX_INLINE void sx_set_four(const sx_disc *d, const sx_doubles *offset, float *dx, double *far, double *gauss) {
        const sx_singles rounded = SX_SINGLES(*offset);
        const sx_doubles exact = SX_DOUBLES(rounded), square = exact * exact * (double) d->inverse, x = -square;
        sx_doubles g;
        sx_gauss(&x, &g);
        SX_STORE(dx, rounded);
        SX_STORE(far, square);
        SX_STORE(gauss, g);
    }

    SX_CLONES static void sx_set_columns(const sx_disc *d, int64_t first, int whole, sx_columns *c) {
        const sx_doubles steps = {0, 1, 2, 3};
        /* Blocks may begin anywhere and so go on beyond the last column. */
        const int beyond = whole < SX_RUN ? whole : SX_RUN;
        c->first = first;
        memset(c->dx + whole, 0, beyond * sizeof *c->dx);
        memset(c->far + whole, 0, beyond * sizeof *c->far);
        memset(c->gauss + whole, 0, beyond * sizeof *c->gauss);
        for (int i = 0; i < whole; i += SX_FOUR) {
            const sx_doubles offset = (double) (first + i) + steps - d->cx;
            sx_set_four(d, &offset, c->dx + i, c->far + i, c->gauss + i);
        }
    }

    SX_INLINE void sx_set_rows(const sx_disc *d, const int64_t *y, sx_rows *c) {
        for (int i = 0; i < SX_BLOCK; i += SX_FOUR) {
            const sx_doubles row = {(double) y[i], (double) y[i + 1], (double) y[i + 2], (double) y[i + 3]};
            const sx_doubles offset = row - d->cy;
            sx_set_four(d, &offset, c->dx + i, c->far + i, c->gauss + i);
        }
    }

    /* Offsets and Gaussians of pixels of row r, from column `start` on.  The Gaussian of a float32 radius is the product of
       those of its row and column, times exp of what rounding changed. */
    SX_INLINE void sx_weigh_run(
        const sx_disc *d, const sx_columns *columns, int start, const sx_rows *rows, int r, int whole, sx_part *p, int at
    ) {
        const float dy = rows->dx[r], dy2 = dy * dy;
        const double far_y = rows->far[r], gauss_y = rows->gauss[r];
        for (int i = 0; i < whole; i += SX_FOUR) {
            sx_singles dx, y = {dy, dy, dy, dy}, w;
            sx_doubles far, gauss, rest;
            SX_LOAD(dx, columns->dx + start + i);
            SX_LOAD(far, columns->far + start + i);
            SX_LOAD(gauss, columns->gauss + start + i);
            rest = far + far_y - SX_DOUBLES((dx * dx + dy2) * d->inverse);
            w = SX_SINGLES(gauss * gauss_y * (1.0 + rest * (1.0 + 0.5 * rest)));
            SX_STORE(p->weight + at + i, w);
            SX_STORE(p->dx + at + i, dx);
            SX_STORE(p->dy + at + i, y);
        }
    }

    /* Weights near the rim are less by the part of the pixel that is out. */
    SX_INLINE void sx_trim(const sx_disc *d, sx_part *p) {
        const sx_singles one = {1, 1, 1, 1};
        for (int k = 0; k < p->n; k += SX_FOUR) {
            const uint8_t *c = p->cells + k;
            const sx_singles part = {sx_fraction[c[0]], sx_fraction[c[1]], sx_fraction[c[2]], sx_fraction[c[3]]};
            sx_singles dx, dy, weight;
            sx_mask rim;
            SX_LOAD(dx, p->dx + k);
            SX_LOAD(dy, p->dy + k);
            SX_LOAD(weight, p->weight + k);
            rim = dx * dx + dy * dy > d->inner2;
            weight *= (sx_singles) (((sx_mask) part & rim) | ((sx_mask) one & ~rim));
            SX_STORE(p->weight + k, weight);
        }
    }

    /* Offsets and weights of all pixels of a part. */
    SX_CLONES static void sx_weigh(const sx_disc *d, sx_columns *columns, sx_part *p) {
        const int narrow = d->whole > 0 && d->whole <= SX_RUN;
        const float sure = 0.5f - 5e-5f * (d->radius + 1.0f);
        int whole = d->whole, at = 0;
        sx_rows rows;
        sx_ends ends;
        for (int k = 0; k < p->runs; k++) {
            const int r = k % SX_BLOCK;
            if (r == 0) {
                sx_set_rows(d, p->y + k, &rows);
                if (narrow)
                    sx_find_ends(d, rows.dx, &ends);
            }
            if (!narrow)
                whole = (p->count[k] + SX_BLOCK - 1) / SX_BLOCK * SX_BLOCK;
            if (d->whole == 0)
                sx_set_columns(d, p->x[k], whole, columns);
            const int start = (int) (p->x[k] - columns->first);
            if (narrow && ends.doubt[r] < sure)
                sx_count_between(&ends, r, start, whole, p->cells + at);
            else
                sx_count_each(d, columns->dx + start, rows.dx[r], p->count[k], p->cells + at);
            sx_weigh_run(d, columns, start, &rows, r, whole, p, at);
            at += p->count[k];
        }
        for (int i = 0; i < SX_BLOCK; i++)
            p->weight[at + i] = p->dx[at + i] = p->dy[at + i] = p->cells[at + i] = 0;
        sx_trim(d, p);
    }

    /* Copy n values; up to `whole` where there are as many before `end`, which spares loops of many lengths. */
    SX_INLINE void sx_copy(const float *from, const float *end, int n, int whole, float *to) {
        if (end - from >= whole)
            for (int i = 0; i < whole; i += SX_BLOCK)
                memcpy(to + i, from + i, SX_BLOCK * sizeof *to);
        else
            memcpy(to, from, n * sizeof *to);
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
        RUN "SX_RUN"
        RUNS "SX_RUNS"
        BLOCK "SX_BLOCK"
        COLUMNS "SX_COLUMNS"
    ctypedef struct Disc "sx_disc":
        double cx
        double cy
        float radius
        float radius2
        float inner2
        float outer2
        float inverse
        int64_t first
        int whole
    ctypedef struct Part "sx_part":
        int runs
        int n
        int64_t *x
        int64_t *y
        int *count
        float *weight
        float *value
        float *dx
        float *dy
    void tabulate "sx_tabulate"() noexcept nogil
    ctypedef struct Columns "sx_columns":
        pass
    void set_columns "sx_set_columns"(const Disc *d, int64_t first, int whole, Columns *c) noexcept nogil
    void weigh "sx_weigh"(const Disc *d, Columns *c, Part *p) noexcept nogil
    void copy "sx_copy"(const float *source, const float *end, int n, int whole, float *to) noexcept nogil
    void add_centre "sx_add_centre"(const Part *p, double *sums) noexcept nogil
    void add_rest "sx_add_rest"(const Part *p, double variance, double gain, double *sums) noexcept nogil

tabulate()


cdef inline Disc disc(double cx, double cy, float sigma) noexcept nogil:
    cdef Disc d
    cdef float inner, outer
    cdef int64_t width
    d.cx, d.cy = cx, cy
    d.radius = <float>(4.0 * sigma)
    d.radius2 = d.radius * d.radius
    inner = <float>(d.radius - 0.5 * sqrt(2.0))
    outer = <float>(d.radius + 0.75)
    d.inner2 = inner * inner if inner > 0 else <float>0
    d.outer2 = outer * outer
    d.inverse = <float>(1.0 / (2.0 * sigma * sigma))
    d.first = <int64_t>floor(cx - d.radius + 0.499999)
    width = <int64_t>floor(cx + d.radius + 1.499999) - d.first
    d.whole = <int>(width + BLOCK - 1) // BLOCK * BLOCK if 0 < width <= COLUMNS - BLOCK else 0
    return d


# A window, and how far its disc has been gone through: the next pixel.
cdef struct Walk:
    const float *pixels
    const float *end
    const int64_t *main
    const int64_t *mirror
    bint correct
    int64_t left
    int64_t right
    int64_t x
    int64_t y
    int64_t last


cdef inline Walk walk(
    const float *pixels, int64_t size, const int64_t *main, const int64_t *mirror, int64_t ya, int64_t yb, bint correct,
    const Disc *d,
) noexcept nogil:
    cdef Walk w
    w.pixels, w.end, w.main, w.mirror, w.correct = pixels, pixels + size, main, mirror, correct
    w.left = max(<int64_t>(d.cx - d.radius + 0.499999), main[X0])
    w.right = min(<int64_t>(d.cx + d.radius + 1.499999), main[X1])
    w.x, w.y = 0, max(ya, <int64_t>(d.cy - d.radius + 0.499999))
    w.last = min(yb, <int64_t>(d.cy + d.radius + 1.499999))
    return w


cdef bint collect(Walk *w, const Disc *d, Part *p) noexcept nogil:
    # The next part of the disc: where its pixels are and what they count; False, and the last one stays, if there is none.
    cdef double dy, half
    cdef int64_t x, xb
    cdef int n
    if w.y >= w.last:
        return False
    p.runs = p.n = 0
    while w.y < w.last and p.runs < RUNS:
        dy = <float>(w.y - d.cy)
        # The disc's chord and a bit more at each end; a weight of 0 changes no sum.
        half = sqrt(max(d.outer2 - dy * dy, 0.0)) + 0.5
        x = max(w.left, w.x, <int64_t>max(d.cx - half, 0.0))
        xb = min(w.right, <int64_t>(d.cx + half) + 1)
        n = <int>max(min(xb - x, RUN), 0)
        if n > 0:
            p.x[p.runs], p.y[p.runs], p.count[p.runs] = x, w.y, n
            copy(w.pixels + place(w.main, x, w.y), w.end, n, d.whole if 0 < d.whole <= RUN else n, p.value + p.n)
            p.runs += 1
            p.n += n
        w.x = x + n
        if w.x >= xb:
            w.x, w.y = 0, w.y + 1
    if p.runs:
        settle_ends(p)
        mend(w, d, p)
    return p.runs > 0


cdef inline int64_t place(const int64_t *window, int64_t x, int64_t y) noexcept nogil:
    return window[OFFSET] + (y - window[Y0]) * (window[X1] - window[X0]) + x - window[X0]


cdef inline void settle_ends(Part *p) noexcept nogil:
    # Blocks go on beyond the last pixel and the last row: with what is harmless.
    cdef int i
    for i in range(p.runs, (p.runs + BLOCK - 1) // BLOCK * BLOCK):
        p.y[i] = p.y[p.runs - 1]
    for i in range(BLOCK):
        p.value[p.n + i] = 0


cdef inline void mend(const Walk *w, const Disc *d, Part *p) noexcept nogil:
    # What bad and masked pixels count.
    cdef int i, k, at = 0
    cdef bint good = True
    for i in range(p.n):
        good &= usable(p.value[i])
    if good:
        return
    for k in range(p.runs):
        for i in range(p.count[k]):
            if not usable(p.value[at + i]):
                p.value[at + i] = 0
                if w.correct:
                    p.value[at + i] = mirrored(w.pixels, w.mirror, d.cx, d.cy, p.x[k] + i, p.y[k])
        at += p.count[k]


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
                d = disc(cx[i], cy[i], <float>sigma[i])
                set_columns(&d, d.first, d.whole, &columns)
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
            d = disc(cx[i], cy[i], <float>sigma[i])
            set_columns(&d, d.first, d.whole, &columns)
            at = walk(&pixels[0], pixels.shape[0], &main[w, 0], &mirror[w, 0], rows[w, 0], rows[w, 1], correct, &d)
            while collect(&at, &d, &part):
                weigh(&d, &columns, &part)
                add_centre(&part, &sums[i, 0])
                add_rest(&part, variance, gain, &sums[i, 0])
