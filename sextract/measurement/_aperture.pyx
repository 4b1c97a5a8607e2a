"""Folds rows of windows into sums over circular apertures: whole pixels inside, 5 × 5 sub-pixels along the rim.

What a masked pixel counts is `correct`'s business (its mirror) or nothing's (0); errors and magnitudes are in
``aperture.py``.
"""

from libc.math cimport nextafterf, sqrt
from libc.stdint cimport int64_t

from sextract.measurement._disc cimport Disc, Part, Walk, collect, set_box, tabulate, walk

cdef extern from *:
    """
    #define SX_SIDE 5

    /* Add flux and area of a part, in the order of the pixels. */
    SX_CLONES static void sx_add_covered(const sx_disc *d, sx_part *p, double *state) {
        double flux = state[0], area = state[1];
        sx_cover(SX_SIDE, 0, d, p);
        for (int k = 0; k < p->n; k += SX_FOUR) {
            const int left = p->n - k < SX_FOUR ? p->n - k : SX_FOUR;
            sx_singles value, share;
            sx_doubles covered, light;
            double v[SX_FOUR], part[SX_FOUR];
            SX_LOAD(value, p->value + k);
            sx_share(d, p, k, &share);
            covered = SX_DOUBLES(share);
            light = covered * SX_DOUBLES(value);
            SX_STORE(part, covered);
            SX_STORE(v, light);
            for (int i = 0; i < left; i++) {
                flux += v[i];
                area += part[i];
            }
        }
        state[0] = flux;
        state[1] = area;
    }
    """
    enum:
        SIDE "SX_SIDE"
    void add_covered "sx_add_covered"(const Disc *d, Part *p, double *state) noexcept nogil

# A pixel whose centre is this near the rim is sampled: just above half a diagonal.
cdef double RIM = 0.75

tabulate(SIDE)


cdef inline Disc circle(double cx, double cy, double radius) noexcept nogil:
    cdef Disc d
    cdef double inner = (radius - RIM) * (radius - RIM) if radius > RIM else 0.0
    d.cx, d.cy, d.radius, d.radius2 = cx, cy, radius, <float>(radius * radius)
    d.inner2 = <float>inner
    if d.inner2 > inner:
        d.inner2 = nextafterf(d.inner2, 0)
    d.outer2 = <float>((radius + RIM) * (radius + RIM))
    set_box(&d)
    return d


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
    cdef Disc d
    cdef Walk at
    cdef Part part
    with nogil:
        for m in range(index.shape[0]):
            i = index[m]
            for k in range(radii.shape[0]):
                d = circle(x[i], y[i], radii[k])
                at = walk(&pixels[0], pixels.shape[0], &main[m, 0], &mirror[m, 0], rows[m, 0], rows[m, 1], correct, &d)
                while collect(&at, &d, &part):
                    add_covered(&d, &part, &state[i, k, 0])
