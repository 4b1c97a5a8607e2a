# Who gets the pixels of a blend that are in none of its leaves: one of them at random, with SExtractor's probabilities.
from libc.math cimport exp, sqrt
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t

from sextract.deblending._lists cimport index
from sextract.deblending._shape cimport Pixels
from sextract.deblending._work cimport Leaf, Work

# A leaf's profile counts as nothing from here on.
cdef enum:
    FAR = 70


cdef inline double shared(int64_t extension, int32_t x, int32_t y) noexcept nogil:
    # A number in [0, 1) for a pixel (splitmix64 of its position).
    cdef uint64_t z = (<uint64_t>y << 32) ^ <uint64_t>x ^ (<uint64_t>extension * <uint64_t>0x9E3779B97F4A7C15)
    z += <uint64_t>0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    z = z ^ (z >> 31)
    return <double>(z >> 11) * (1.0 / 9007199254740992.0)


cdef inline double depth(const Leaf *s, int32_t x, int32_t y) noexcept nogil:
    # A leaf's profile at a pixel is amplitude·exp(−depth).
    cdef double dx = x - s.x, dy = y - s.y
    return 0.5 * (s.cxx * dx * dx + s.cyy * dy * dy + s.cxy * dx * dy) / s.abcor


cdef inline void set_reach(Leaf *s) noexcept nogil:
    # Half the box around the ellipse at FAR, and a little more; all of the frame if it is hardly an ellipse.
    cdef double cxx = s.cxx, cyy = s.cyy, det = cxx * cyy - 0.25 * s.cxy * s.cxy, size = 2.0 * FAR * s.abcor
    s.reach_x = s.reach_y = <float>1e30
    if det > 1e-3 * cxx * cyy and det > 0.0 and size > 0.0:
        s.reach_x = <float>(1.01 * sqrt(size * cyy / det) + 1.0)
        s.reach_y = <float>(1.01 * sqrt(size * cxx / det) + 1.0)


cdef inline int64_t near_row(Work *w, int64_t leaves, int32_t y) noexcept nogil:
    # Those that reach a row, in order, into `sort`; how many.
    cdef int64_t c, n = 0
    for c in range(leaves):
        if not (y - w.leaves[c].y > w.leaves[c].reach_y or w.leaves[c].y - y > w.leaves[c].reach_y):
            w.sort[n].index = <int32_t>c
            n += 1
    return n


cdef inline int64_t nearest(const Work *w, int64_t leaves, int32_t x, int32_t y) noexcept nogil:
    cdef int64_t c, n = 0
    cdef double near = 1e300, d
    for c in range(leaves):
        d = depth(&w.leaves[c], x, y)
        if d < near:
            near = d
            n = c
    return n


cdef inline int64_t draw_leaf(Work *w, int64_t extension, int64_t leaves, int64_t n, int32_t x, int32_t y) noexcept nogil:
    # The leaf that gets a pixel, `n` of them being near its row.
    cdef int64_t i
    cdef double total = 0.0, d, draw
    cdef const Leaf *s
    for i in range(n):
        s = &w.leaves[w.sort[i].index]
        if not (x - s.x > s.reach_x or s.x - x > s.reach_x):
            d = depth(s, x, y)
            total += s.amplitude * exp(-d) if d < FAR else 0.0
        w.chance[i] = total
    if not total > 1.0e-31:
        return nearest(w, leaves, x, y)
    draw = total * shared(extension, x, y)
    # Nothing is drawn but by a pixel in 2**53, which the first leaf gets.
    for i in range(n if draw > 0.0 else 0):
        if w.chance[i] >= draw:
            return w.sort[i].index
    return 0


cdef inline void draw_owners(Work *w, int64_t extension, int64_t leaves) noexcept nogil:
    # An owner for each pixel that is left; count the fragments that it makes in the order of the footprint's list.
    cdef int64_t k, j, n
    cdef int32_t x, y = -1, last
    cdef Pixels *p
    n = 0
    for k in range(w.nfragments):
        p = &w.raster[k]
        if p.y != y:
            y = p.y
            n = near_row(w, leaves, y)
        for x in range(p.x0, p.x1):
            j = p.at + x - p.x0
            if not w.owner[j]:
                w.owner[j] = <uint16_t>(2 * draw_leaf(w, extension, leaves, n, x, y) + 2)
    for k in range(w.nfragments):
        j = index(w, w.list[k].y, w.list[k].x0)
        last = 1
        for x in range(w.list[k].x1 - w.list[k].x0):
            if w.owner[j + x] != last and not w.owner[j + x] & 1:
                w.leaves[w.owner[j + x] // 2 - 1].count += 1
            last = w.owner[j + x]
