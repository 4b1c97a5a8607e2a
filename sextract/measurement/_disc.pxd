# Discs on pixels, for kernels that sum over one: its pixels in parts, one after the other, and how much of each is covered.
#
# Pixels near the rim are split into side x side sub-pixels; the covered part is the number of those whose centre is in the
# disc.  What the sums are is the business of `_windowed.pyx` and `_aperture.pyx`.
from libc.math cimport floor, sqrt
from libc.stdint cimport int64_t

from sextract.measurement._window cimport OFFSET, X0, X1, Y0, mirrored, usable

cdef extern from *:
    """
    #include <math.h>
    #include <stdint.h>
    #include <string.h>
    #define SX_BLOCK 8 /* pixels, or rows, that are worked on together */
    #define SX_FOUR 4
    #define SX_RUN 64
    #define SX_RUNS 32
    #define SX_ROOM (SX_RUNS * SX_RUN + SX_RUN)
    #define SX_BYTES 32
    #define SX_MOST_SIDE 11
    #define SX_LANES 16 /* SX_MOST_SIDE, to whole vectors */
    /* Columns from the middle of a pattern to either end. */
    #define SX_REACH 128
    /* Offsets of sub-pixels are summed up in float32: their squares are off by less than this, relatively. */
    #define SX_SLACK 1e-5

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
    #define SX_LOAD(to, from) memcpy(&(to), (from), sizeof(to))
    #define SX_STORE(to, from) memcpy((to), &(from), sizeof(from))
    #define SX_DOUBLES(v) ((sx_doubles) {(double) (v)[0], (double) (v)[1], (double) (v)[2], (double) (v)[3]})
    #define SX_SINGLES(v) ((sx_singles) {(float) (v)[0], (float) (v)[1], (float) (v)[2], (float) (v)[3]})

    typedef struct {
        double cx, cy;
        float radius2;
        float inner2;  /* closer pixels are whole */
        float outer2;  /* farther ones are out */
        double radius;
        int64_t first; /* the column its box begins with */
        int64_t width; /* its columns */
        int whole;     /* the same to whole blocks; 0 if they are more than a run */
    } sx_disc;

    /* Pixels of a part of the disc one after the other, runs of a row each.  The ends are room for whole blocks. */
    typedef struct {
        int runs, n;
        int64_t x[SX_RUNS], y[SX_RUNS];
        int count[SX_RUNS];
        float weight[SX_ROOM], value[SX_ROOM], dx[SX_ROOM], dy[SX_ROOM];
        uint8_t cells[SX_ROOM]; /* sub-pixels in the disc, where the rim is near */
    } sx_part;

    /* Where rows of sub-pixels enter and leave the disc, for a block of rows: places in `sx_pattern`. */
    typedef struct {
        int32_t enter[SX_MOST_SIDE][SX_BLOCK], leave[SX_MOST_SIDE][SX_BLOCK];
        float doubt[SX_BLOCK]; /* how near to a sub-pixel's centre one of them is: 0.5 is on it */
    } sx_ends;

    /* How many sub-pixels of a pixel a row of them covers that ends after k sub-pixels of the middle pixel. */
    static uint8_t sx_pattern[SX_MOST_SIDE][2 * SX_REACH];
    /* The area of that many sub-pixels. */
    static float sx_fraction[SX_MOST_SIDE * SX_MOST_SIDE + 1];

    static inline void sx_tabulate(int side) {
        const float step = (float) (1.0 / side);
        for (int k = 0; k < side; k++) {
            memset(sx_pattern[k], side, SX_REACH);
            sx_pattern[k][SX_REACH] = (uint8_t) k;
        }
        /* Areas are summed up one by one in float32, as SExtractor does: all of them aren't quite 1. */
        for (int k = 0; k < side * side; k++)
            sx_fraction[k + 1] = sx_fraction[k] + step * step;
    }

    /* Squared offsets of a pixel's sub-pixels along one axis; offsets are summed up, which decides ties. */
    SX_INLINE void sx_squares(int side, float d, float *out) {
        const float step = (float) (1.0 / side);
        d += (float) (0.5 * (step - 1.0));
        for (int i = 0; i < side; i++) {
            out[i] = d * d;
            d += step;
        }
        for (int i = side; i < SX_LANES; i++)
            out[i] = 1e30f; /* never within */
    }

    /* How many sub-pixels of the pixel at (dx, dy) have their centre in the disc, or on its edge if that is part of it.  The
       corners decide for most pixels. */
    SX_INLINE int sx_covered(int side, int closed, float dx, float dy, float radius2, const float *y2) {
        const double corner = 0.5 * (side - 1) / side, ax = fabs(dx), ay = fabs(dy);
        const double near_x = ax > corner ? ax - corner : 0.0, near_y = ay > corner ? ay - corner : 0.0;
        const float step = (float) (1.0 / side);
        const sx_floats limit = {radius2, radius2, radius2, radius2, radius2, radius2, radius2, radius2};
        sx_floats y;
        sx_ints count = {0};
        if ((ax + corner) * (ax + corner) + (ay + corner) * (ay + corner) < radius2 * (1.0 - SX_SLACK))
            return side * side;
        if (near_x * near_x + near_y * near_y > radius2 * (1.0 + SX_SLACK))
            return 0;
        dx += (float) (0.5 * (step - 1.0));
        for (int i = 0; i < side; i++) {
            for (int j = 0; j < side; j += 8) {
                SX_LOAD(y, y2 + j);
                count += closed ? y + dx * dx <= limit : y + dx * dx < limit;
            }
            dx += step;
        }
        return -(count[0] + count[1] + count[2] + count[3] + count[4] + count[5] + count[6] + count[7]);
    }

    /* Their number in each pixel near the rim of a run, one after the other. */
    SX_INLINE void sx_count_each(
        int side, int closed, const sx_disc *d, const float *dx, float dy, int n, uint8_t *cells
    ) {
        const float most = dx[0] * dx[0] > dx[n - 1] * dx[n - 1] ? dx[0] * dx[0] : dx[n - 1] * dx[n - 1];
        float y2[SX_LANES];
        memset(cells, 0, SX_RUN);
        if (most + dy * dy <= d->inner2)
            return;
        sx_squares(side, dy, y2);
        for (int i = 0; i < n; i++) {
            const float r2 = dx[i] * dx[i] + dy * dy;
            if (r2 > d->inner2 && r2 <= d->outer2)
                cells[i] = (uint8_t) sx_covered(side, closed, dx[i], dy, d->radius2, y2);
        }
    }

    /* The ends of rows of sub-pixels, from the root of what is left of the radius.  In units of sub-pixels all roundings,
       those of the offsets that `sx_covered` sums up too, are below 5e-5 (radius + 1), but where a row only grazes the disc. */
    SX_INLINE void sx_find_ends(int side, const sx_disc *d, const float *dy, sx_ends *e) {
        const float step = (float) (1.0 / side), graze = 5e-4f * d->radius2, limit = d->radius2;
        const float centre = side * (float) (d->cx - (double) d->first) + 0.5f * side + 0.5f;
        float y[SX_BLOCK];
        for (int r = 0; r < SX_BLOCK; r++) {
            y[r] = dy[r] + (float) (0.5 * (step - 1.0));
            e->doubt[r] = 0;
        }
        for (int j = 0; j < side; j++)
            for (int r = 0; r < SX_BLOCK; r++) {
                const float left = limit - y[r] * y[r];
                const float half = side * sqrtf(left > 0 ? left : 0);
                const float a = centre - half, b = centre + half;
                const int32_t na = (int32_t) a, nb = (int32_t) b;
                const int32_t pa = (int32_t) (a * step), pb = (int32_t) (b * step);
                const float off_a = fabsf(a - (float) na - 0.5f), off_b = fabsf(b - (float) nb - 0.5f);
                const float off = off_a > off_b ? off_a : off_b;
                const float mine = fabsf(left - graze) <= graze * 1.002f ? 1.0f : off;
                e->doubt[r] = e->doubt[r] > mine ? e->doubt[r] : mine;
                e->enter[j][r] = (na - side * pa) * (2 * SX_REACH) + SX_REACH - pa;
                e->leave[j][r] = (nb - side * pb) * (2 * SX_REACH) + SX_REACH - pb;
                y[r] += step;
            }
    }

    /* How many sub-pixels are in the disc, for `whole` pixels from column `start` of its box on. */
    SX_INLINE void sx_count_between(int side, const sx_ends *e, int r, int start, int whole, uint8_t *cells) {
        for (int i = 0; i < whole; i += SX_BYTES) {
            const uint8_t *pattern = &sx_pattern[0][0] + start + i;
            sx_bytes sum = {0}, one;
            for (int j = 0; j < side; j++) {
                SX_LOAD(one, pattern + e->leave[j][r]);
                sum += one;
                SX_LOAD(one, pattern + e->enter[j][r]);
                sum -= one;
            }
            SX_STORE(cells + i, sum);
        }
    }

    /* How many pixels of run k are worked on: some more than it has, which the next run writes over. */
    SX_INLINE int sx_whole(const sx_disc *d, const sx_part *p, int k) {
        return d->whole ? d->whole : (p->count[k] + SX_BLOCK - 1) / SX_BLOCK * SX_BLOCK;
    }

    /* Offsets of all pixels of a part, and their sub-pixels in the disc. */
    SX_INLINE void sx_cover(int side, int closed, const sx_disc *d, sx_part *p) {
        const float sure = 0.5f - 5e-5f * ((float) d->radius + 1.0f);
        const sx_doubles steps = {0, 1, 2, 3};
        sx_doubles column;
        int at = 0;
        sx_ends ends;
        float dy[SX_BLOCK];
        for (int k = 0; k < p->runs; k++) {
            const int r = k % SX_BLOCK, whole = sx_whole(d, p, k);
            if (r == 0) {
                for (int i = 0; i < SX_BLOCK; i++)
                    dy[i] = (float) ((double) p->y[k + i] - d->cy);
                if (d->whole)
                    sx_find_ends(side, d, dy, &ends);
            }
            column = (double) p->x[k] + steps;
            for (int i = 0; i < whole; i += SX_FOUR) {
                const sx_doubles exact = column - d->cx;
                const sx_singles x = SX_SINGLES(exact), y = {dy[r], dy[r], dy[r], dy[r]};
                SX_STORE(p->dx + at + i, x);
                SX_STORE(p->dy + at + i, y);
                column += SX_FOUR;
            }
            if (d->whole && ends.doubt[r] < sure)
                sx_count_between(side, &ends, r, (int) (p->x[k] - d->first), whole, p->cells + at);
            else
                sx_count_each(side, closed, d, p->dx + at, dy[r], p->count[k], p->cells + at);
            at += p->count[k];
        }
        /* Blocks go on beyond the last pixel. */
        for (int i = 0; i < SX_BLOCK; i++)
            p->dx[at + i] = p->dy[at + i] = p->cells[at + i] = 0;
    }

    /* How much of four pixels is in the disc. */
    SX_INLINE void sx_share(const sx_disc *d, const sx_part *p, int k, sx_singles *share) {
        const sx_singles one = {1, 1, 1, 1};
        const uint8_t *c = p->cells + k;
        const sx_singles part = {sx_fraction[c[0]], sx_fraction[c[1]], sx_fraction[c[2]], sx_fraction[c[3]]};
        sx_singles dx, dy;
        sx_mask rim;
        SX_LOAD(dx, p->dx + k);
        SX_LOAD(dy, p->dy + k);
        rim = dx * dx + dy * dy > d->inner2;
        *share = (sx_singles) (((sx_mask) part & rim) | ((sx_mask) one & ~rim));
    }

    /* Copy n values; up to `whole` where there are as many before `end`, which spares loops of many lengths. */
    SX_INLINE void sx_copy(const float *from, const float *end, int n, int whole, float *to) {
        if (end - from >= whole)
            for (int i = 0; i < whole; i += SX_BLOCK)
                memcpy(to + i, from + i, SX_BLOCK * sizeof *to);
        else
            memcpy(to, from, n * sizeof *to);
    }
    """
    enum:
        RUN "SX_RUN"
        RUNS "SX_RUNS"
        BLOCK "SX_BLOCK"
    ctypedef struct Disc "sx_disc":
        double cx
        double cy
        float radius2
        float inner2
        float outer2
        double radius
        int64_t first
        int64_t width
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
    void tabulate "sx_tabulate"(int side) noexcept nogil
    void copy "sx_copy"(const float *source, const float *end, int n, int whole, float *to) noexcept nogil


cdef inline void set_box(Disc *d) noexcept nogil:
    # The columns that the disc may have pixels in, from its centre and radius.
    d.first = <int64_t>floor(d.cx - d.radius + 0.499999)
    d.width = <int64_t>floor(d.cx + d.radius + 1.499999) - d.first
    d.whole = <int>(d.width + BLOCK - 1) // BLOCK * BLOCK if 0 < d.width <= RUN else 0


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


cdef inline bint collect(Walk *w, const Disc *d, Part *p) noexcept nogil:
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
            copy(w.pixels + place(w.main, x, w.y), w.end, n, d.whole if d.whole else n, p.value + p.n)
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
