"""Folds rows of windows into growth curves, flux in 64 rings about the barycentre, and reads light radii off them.

A pixel near the edge of a ring is split into 5 × 5 sub-pixels.  Which sources, how far and what for is in ``growth.py``.
"""

from libc.math cimport fabs, fmod, sqrt, sqrtf
from libc.stdint cimport int64_t, uint64_t

from sextract.measurement._window cimport mirrored, usable, X0, X1, Y0, OFFSET

cdef enum:
    SIDE = 5
    CELLS = 25
    BINS = 64
    # CELLS padded to whole vectors.
    PADDED = 28
    # Counts of sub-pixels in neighbouring rings, a byte each, are held in two registers.
    LANES = 16

# A pixel whose centre is this near the edge of a ring is sampled.
cdef double EDGE = 0.75


cdef inline bint near_edge(double r, double step, double density) noexcept nogil:
    # Whether the remainder of r is below EDGE or above step - EDGE: fmod only where rounding could matter.
    cdef double d
    if step < 2 * EDGE:
        return True
    d = r - step * <int>(r * density)
    if fabs(d - EDGE) < 1e-6 or fabs(step - d - EDGE) < 1e-6:
        d = fmod(r, step)
    return d < EDGE or step - d < EDGE


# A sub-pixel's centre is nearer to its pixel's than this.
cdef double SPREAD = 0.567
# Where rings come from float32 radii, one that near to an edge is found again in float64; the error is below 5e-5.
cdef float DOUBT = 1e-4
cdef double TRUSTED = 200.0

cdef uint64_t LOW[LANES]
cdef uint64_t HIGH[LANES]
for lane in range(LANES):
    LOW[lane] = 1 << (8 * lane) if lane < 8 else 0
    HIGH[lane] = 1 << (8 * (lane - 8)) if lane >= 8 else 0


cdef inline void sample(double dx, double dy, double r, double density, double part, double *curve) noexcept nogil:
    # Spread a pixel's 25 sub-pixels over the rings; those beyond the last are dropped.
    cdef double unit = 1.0 / SIDE
    cdef double sx[SIDE]
    cdef double sy[SIDE]
    cdef float fx[SIDE]
    cdef float q[PADDED]
    cdef int ring[PADDED]
    cdef double d, e
    cdef float t, rest, fy
    cdef float scale = <float>density
    cdef uint64_t low = 0, high = 0
    cdef int u, v, j, doubtful = 0
    cdef int first = <int>((r - SPREAD) * density) if r > SPREAD else 0
    cdef double top = (r + SPREAD) * density
    d = dx + 0.5 * (unit - 1.0)
    e = dy + 0.5 * (unit - 1.0)
    for u in range(SIDE):
        sx[u] = d * d
        sy[u] = e * e
        fx[u] = <float>sx[u]
        d += unit
        e += unit
    if top >= first + LANES or top > TRUSTED:
        for v in range(SIDE):
            for u in range(SIDE):
                j = <int>(sqrt(sx[u] + sy[v]) * density)
                if j < BINS:
                    curve[j] += part
        return
    for v in range(SIDE):
        fy = <float>sy[v]
        for u in range(SIDE):
            q[SIDE * v + u] = fx[u] + fy
    for u in range(CELLS, PADDED):
        q[u] = q[CELLS - 1]
    for u in range(PADDED):
        t = sqrtf(q[u]) * scale
        ring[u] = <int>t
        rest = t - <float>ring[u]
        doubtful |= (rest < DOUBT) | (rest > 1 - DOUBT)
    if doubtful:
        for v in range(SIDE):
            for u in range(SIDE):
                ring[SIDE * v + u] = <int>(sqrt(sx[u] + sy[v]) * density)
    for u in range(CELLS):
        low += LOW[ring[u] - first]
        high += HIGH[ring[u] - first]
    j = first
    while low and j < BINS:
        curve[j] += part * <double><int>(low & 255)
        low >>= 8
        j += 1
    j = first + LANES // 2
    while high and j < BINS:
        curve[j] += part * <double><int>(high & 255)
        high >>= 8
        j += 1


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
    cdef int64_t i, px, py, xmin, xmax, xa, xb
    cdef int j
    cdef double cx, cy, step, density, outer, dx, dy, r, r2, half
    cdef float value
    cdef double unit = (1.0 / SIDE) * (1.0 / SIDE)
    cdef double *c
    cdef const float *row
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            cx, cy = x[i], y[i]
            c = &curve[i - start, 0]
            step = limit[i] / BINS
            density = 1.0 / step
            outer = radius[i] * radius[i]
            xmin = max(<int64_t>(cx - radius[i] + 0.499999), main[m, X0])
            xmax = min(<int64_t>(cx + radius[i] + 1.499999), main[m, X1])
            for py in range(
                max(<int64_t>(cy - radius[i] + 0.499999), rows[m, 0]),
                min(<int64_t>(cy + radius[i] + 1.499999), rows[m, 1]),
            ):
                dy = py - cy
                if dy * dy > outer:
                    continue
                # A pixel of slack: the test below decides.
                half = sqrt(outer - dy * dy) + 1.0
                xa = max(xmin, <int64_t>(cx - half))
                xb = min(xmax, <int64_t>(cx + half) + 1)
                row = &pixels[0] + main[m, OFFSET] + (py - main[m, Y0]) * (main[m, X1] - main[m, X0]) - main[m, X0]
                for px in range(xa, xb):
                    dx = px - cx
                    r2 = dx * dx + dy * dy
                    if r2 > outer:
                        continue
                    value = row[px]
                    if not usable(value):
                        value = mirrored(&pixels[0], &mirror[m, 0], cx, cy, px, py) if correct else 0.0
                    r = sqrt(r2)
                    if near_edge(r, step, density):
                        sample(dx, dy, r, density, value * unit, c)
                    else:
                        j = <int>(r * density)
                        if j < BINS:
                            c[j] += value


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
