"""Folds rows of windows into growth curves, flux in 64 rings about the barycentre, and reads light radii off them.

A pixel near the edge of a ring is split into 5 × 5 sub-pixels.  Which sources, how far and what for is in ``growth.py``.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from sextract.measurement._disc cimport Disc, Part, Walk, collect, set_box, walk

cdef extern from *:
    """
    #define SX_SIDE 5
    #define SX_BINS 64
    /* Neighbouring rings that are counted together, a byte each. */
    #define SX_RINGS 16
    /* A pixel whose centre is this near the edge of a ring is sampled. */
    #define SX_EDGE 0.75
    /* A sub-pixel's centre is nearer to its pixel's than this. */
    #define SX_SPREAD 0.567
    /* Where rings come from float32 radii, one that near to an edge is found again in float64; the error is below 5e-5. */
    #define SX_DOUBT 1e-4f
    #define SX_TRUSTED 200.0

    typedef uint8_t sx_counts __attribute__((vector_size(SX_RINGS)));

    /* One sub-pixel in a ring. */
    static uint8_t sx_unit[SX_RINGS][SX_RINGS];

    static void sx_tabulate_units(void) {
        for (int k = 0; k < SX_RINGS; k++)
            sx_unit[k][k] = 1;
    }

    /* Whether the remainder of r is below SX_EDGE or above step - SX_EDGE: fmod only where rounding could matter. */
    static inline int sx_near_edge(double r, double step, double density) {
        double d;
        if (step < 2 * SX_EDGE)
            return 1;
        d = r - step * (int) (r * density);
        if (fabs(d - SX_EDGE) < 1e-6 || fabs(step - d - SX_EDGE) < 1e-6)
            d = fmod(r, step);
        return d < SX_EDGE || step - d < SX_EDGE;
    }

    /* Squared offsets of a pixel's sub-pixels along one axis. */
    SX_INLINE void sx_axis(double d, double *out) {
        d += 0.5 * (1.0 / SX_SIDE - 1.0);
        for (int i = 0; i < SX_SIDE; i++) {
            out[i] = d * d;
            d += 1.0 / SX_SIDE;
        }
    }

    /* Rings of a pixel's sub-pixels, from float32 radii; whether one of them is in doubt. */
    SX_INLINE int sx_find_rings(const double *x2, const double *y2, double density, int32_t *ring) {
        const float scale = (float) density, last = (float) x2[SX_SIDE - 1];
        const sx_floats row = {(float) x2[0], (float) x2[1], (float) x2[2], (float) x2[3], last, last, last, last};
        float q[SX_SIDE * SX_BLOCK];
        int32_t doubt = 0;
        for (int v = 0; v < SX_SIDE; v++) {
            const sx_floats sum = row + (float) y2[v];
            SX_STORE(q + SX_BLOCK * v, sum);
        }
        for (int u = 0; u < SX_SIDE * SX_BLOCK; u++) {
            const float t = sqrtf(q[u]) * scale, rest = t - (float) (int32_t) t;
            ring[u] = (int32_t) t;
            doubt |= (rest < SX_DOUBT) | (rest > 1 - SX_DOUBT);
        }
        return doubt;
    }

    /* Spread a pixel's sub-pixels over the rings; what is beyond the last goes where nobody looks. */
    SX_INLINE void sx_sample(const double *x2, const double *y2, double r, double density, double part, double *curve) {
        const int first = r > SX_SPREAD ? (int) ((r - SX_SPREAD) * density) : 0;
        const double top = (r + SX_SPREAD) * density;
        int32_t ring[SX_SIDE * SX_BLOCK];
        uint8_t counts[SX_RINGS];
        sx_counts sum = {0}, one;
        if (first >= SX_BINS)
            return;
        if (top >= first + SX_RINGS || top > SX_TRUSTED) {
            for (int v = 0; v < SX_SIDE; v++)
                for (int u = 0; u < SX_SIDE; u++) {
                    const double j = sqrt(x2[u] + y2[v]) * density;
                    if (j < SX_BINS)
                        curve[(int) j] += part;
                }
            return;
        }
        if (sx_find_rings(x2, y2, density, ring))
            for (int v = 0; v < SX_SIDE; v++)
                for (int u = 0; u < SX_SIDE; u++)
                    ring[SX_BLOCK * v + u] = (int32_t) (sqrt(x2[u] + y2[v]) * density);
        for (int v = 0; v < SX_SIDE; v++)
            for (int u = 0; u < SX_SIDE; u++) {
                SX_LOAD(one, sx_unit[ring[SX_BLOCK * v + u] - first]);
                sum += one;
            }
        SX_STORE(counts, sum);
        for (int j = 0; j < SX_RINGS && first + j <= top; j += SX_FOUR) {
            const sx_mask number = {counts[j], counts[j + 1], counts[j + 2], counts[j + 3]};
            sx_doubles four;
            SX_LOAD(four, curve + first + j);
            four += part * SX_DOUBLES(number);
            SX_STORE(curve + first + j, four);
        }
    }

    /* Add a part of the disc to a curve that goes on beyond its last ring. */
    SX_CLONES static void sx_add_rings(const sx_disc *d, const sx_part *p, double outer, double step, double *curve) {
        const double density = 1.0 / step, unit = (1.0 / SX_SIDE) * (1.0 / SX_SIDE);
        int at = 0;
        for (int k = 0; k < p->runs; k++) {
            const double dy = (double) p->y[k] - d->cy;
            double x2[SX_SIDE], y2[SX_SIDE];
            sx_axis(dy, y2);
            for (int i = 0; i < p->count[k]; i++) {
                const double dx = (double) (p->x[k] + i) - d->cx, r2 = dx * dx + dy * dy, r = sqrt(r2);
                const double value = p->value[at + i];
                if (r2 > outer)
                    continue;
                if (sx_near_edge(r, step, density)) {
                    sx_axis(dx, x2);
                    sx_sample(x2, y2, r, density, value * unit, curve);
                } else if (r * density < SX_BINS)
                    curve[(int) (r * density)] += value;
            }
            at += p->count[k];
        }
    }
    """
    enum:
        BINS "SX_BINS"
        RINGS "SX_RINGS"
    void tabulate_units "sx_tabulate_units"() noexcept nogil
    void add_rings "sx_add_rings"(const Disc *d, const Part *p, double outer, double step, double *curve) noexcept nogil

tabulate_units()


cdef inline Disc circle(double cx, double cy, double radius) noexcept nogil:
    # Only where it is: its pixels aren't split along its own rim.
    cdef Disc d
    d.cx, d.cy, d.radius = cx, cy, radius
    d.radius2 = d.inner2 = d.outer2 = <float>(radius * radius)
    set_box(&d)
    return d


def fold(
    const float[::1] pixels, const int64_t[::1] index, const int64_t[:, ::1] main, const int64_t[:, ::1] mirror,
    const int64_t[:, ::1] rows, const double[::1] x, const double[::1] y, const double[::1] limit,
    const double[::1] radius, bint correct, int64_t start, double[:, ::1] curve,
):
    """Add the rows of these windows to ``curve[source - start, ring]``.

    Parameters
    ----------
    pixels, index, main, mirror, rows
        See ``measure.Windows``.
    x, y : float64 arrays (n,)
        Centres, pixels, 0-based.
    limit : float64 array (n,)
        Radius where the last ring ends, pixels.
    radius : float64 array (n,)
        Only pixels whose centre is within this radius are looked at.
    correct : bool
        Masked pixels take the value of their mirror (MASK_TYPE CORRECT), else 0.
    start : int
        The source of the first row of `curve`.
    curve : float64 array (m, 64)
    """
    cdef Py_ssize_t m
    cdef int64_t i
    cdef double *c
    cdef double rings[BINS + RINGS]
    cdef Disc d
    cdef Walk at
    cdef Part part
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            c = &curve[i - start, 0]
            memcpy(rings, c, BINS * sizeof(double))
            memset(rings + BINS, 0, RINGS * sizeof(double))
            d = circle(x[i], y[i], radius[i])
            at = walk(&pixels[0], pixels.shape[0], &main[m, 0], &mirror[m, 0], rows[m, 0], rows[m, 1], correct, &d)
            while collect(&at, &d, &part):
                add_rings(&d, &part, radius[i] * radius[i], limit[i] / BINS, rings)
            memcpy(c, rings, BINS * sizeof(double))


def light_radii(
    const double[:, ::1] curve, const int64_t[::1] index, int64_t start, const int64_t[::1] complete,
    const double[::1] limit, const double[:, ::1] target, double[:, ::1] radii, unsigned char[::1] missing,
):
    """Radii in which a cumulated curve first holds the target fluxes, linear between the rings, capped at the last one.

    Parameters
    ----------
    curve : float64 array (m, 64)
        Cumulated.
    index : int64 array
        Sources to do.
    start : int
        The source of the first row of `curve`.
    complete : int64 array (n,)
        Rings that saw all their pixels.
    limit : float64 array (n,)
        Radius where the last ring ends, pixels.
    target : float64 array (n, k)
    radii : float64 array (n, k)
        Filled, pixels; negative where a falling curve is extrapolated, as in SExtractor.
    missing : uint8 array (n,)
        Set to 1 if a target is beyond the complete rings (that radius isn't set), else 0.
    """
    cdef Py_ssize_t m, k
    cdef int64_t i, bins
    cdef int n, upper
    cdef double t, rise, below, value
    cdef const double *g
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            g = &curve[i - start, 0]
            bins = min(complete[i], BINS - 1)
            missing[i] = 0
            for k in range(target.shape[1]):
                t = target[i, k]
                n = 0
                while n < bins and g[n] < t:
                    n += 1
                if n == bins and bins < BINS - 1:
                    missing[i] = 1
                    break
                # Unreached before the last ring, the slope of the two rings before it is drawn out from that one.
                upper = n if n < BINS - 1 else BINS - 2
                below = g[upper - 1] if upper > 0 else 0.0
                rise = g[upper] - below
                value = n + ((t - below) / rise if rise != 0 else 0.0)
                radii[i, k] = min(value * (limit[i] / BINS), limit[i])
