# The multi-threshold tree of a small footprint, found without looking at every level: a pixel belongs to the maximum that it climbs
# to (its basin), and what lies above a level is basins joined at the passes between them.  Each pixel is added once, from the top
# level down.  The answers are those of `_tree.tree`, to the bit: sums are exact, whatever their order (`fits`).
# Footprints with one maximum, most of them, need no tree at all.
from libc.math cimport pow
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy

from sextract.deblending._work cimport MAX_BRANCHES, Node, Sort, Work, sort_keys, take_bytes
from sextract.records cimport Footprint

cdef enum:
    # Padded boxes up to this are small: what is written here stays in a core's cache.
    MAX_CELLS = 65536
    MAX_LEVELS = 64
    NOT_SMALL = -4      # it is up to `tree`


cdef extern from *:
    """
    #include <stdint.h>

    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define SX_BASIN_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define SX_BASIN_CLONES
    #endif

    /* Maxima above `t`; of equal neighbours the last is higher.  `v` is a box `w` wide, padded all around. */
    SX_BASIN_CLONES static int64_t sx_maxima(const float *v, int64_t cells, int64_t w, float t) {
        int32_t n = 0;
        const float *up = v - w, *down = v + w;
        for (int64_t i = w + 1; i < cells - w - 1; i++)
            n += (v[i] > t) & (v[i] >= up[i - 1]) & (v[i] >= up[i]) & (v[i] >= up[i + 1]) & (v[i] >= v[i - 1])
                & (v[i] > v[i + 1]) & (v[i] > down[i - 1]) & (v[i] > down[i]) & (v[i] > down[i + 1]);
        return n;
    }
    """
    int64_t sx_maxima(const float *v, int64_t cells, int64_t w, float t) noexcept nogil


cdef struct Basin:
    # A maximum; if `up` is itself, also the branch that it has been joined to so far, as it was one level higher.
    double flux
    int32_t npix
    int32_t last        # its last pixel
    int32_t up
    int32_t also        # next of the branches joined at this level, -1
    int32_t also_last
    int32_t ok          # not split further up
    int32_t first       # leaves within, in order, -1 if there are none: the first, the last, and each one's next
    int32_t first_last
    int32_t next
    int32_t level       # of the leaf that it became: its level, its last pixel
    int32_t leaf_last

cdef struct Grid:
    # The box of a footprint with a cell of nothing all around.
    int64_t width
    int64_t cells
    float *value
    int32_t *basin      # −1 less the basin, 0 below the first level
    uint8_t *level      # the highest level that a pixel is above, 0
    int32_t *order      # pixels by level
    float t[MAX_LEVELS]
    float value_least   # what a branch must exceed


cdef inline bint stands_out(double flux, int32_t npix, float t, float value) noexcept nogil:
    # Whether a branch is bright enough above its own level.
    return <float>flux - t * <float>npix > value


cdef inline bint fits(const Work *w, const Footprint *f, float peak) noexcept nogil:
    # Whether it is small; sums of float32 between the threshold and the peak lose no bit of a double's 53.
    return (
        (f.xmax - f.xmin + <int64_t>3) * (f.ymax - f.ymin + <int64_t>3) <= MAX_CELLS and w.nthresh <= MAX_LEVELS
        and <double>peak * w.npix < 536870912.0 * w.facts.threshold
    )


cdef inline void draw_values(const Work *w, const Footprint *f, Grid *g) noexcept nogil:
    cdef int64_t i
    for i in range(g.cells):
        g.value[i] = <float>-3.4e38
    for i in range(w.nfragments):
        memcpy(
            g.value + (w.raster[i].y - f.ymin + 1) * g.width + w.raster[i].x0 - f.xmin + 1, w.filtered + w.raster[i].at,
            (w.raster[i].x1 - w.raster[i].x0) * 4,
        )


cdef inline void climb(Grid *g) noexcept nogil:
    # The highest neighbour of each pixel above the first level, the last of equal ones.
    cdef int64_t i, j
    cdef int32_t best
    cdef float v
    cdef const float *p = g.value
    for i in range(g.width + 1, g.cells - g.width - 1):
        if not p[i] > g.t[1]:
            continue
        best = <int32_t>(i - g.width - 1)
        v = p[best]
        for j in range(i - g.width, i - g.width + 2):
            if p[j] >= v:
                v = p[j]
                best = <int32_t>j
        for j in range(i - 1, i + 2):
            if p[j] >= v:
                v = p[j]
                best = <int32_t>j
        for j in range(i + g.width - 1, i + g.width + 2):
            if p[j] >= v:
                v = p[j]
                best = <int32_t>j
        g.basin[i] = best


cdef inline int32_t top_of(Grid *g, int64_t i, int32_t *n) noexcept nogil:
    # The basin of a pixel, as it is stored; all on the way learn it.
    cdef int64_t j = i, k
    cdef int32_t found
    while g.basin[j] >= 0 and g.basin[j] != j:
        j = g.basin[j]
    if g.basin[j] >= 0:
        n[0] += 1
        g.basin[j] = -n[0]
    found = g.basin[j]
    while i != j:
        k = g.basin[i]
        g.basin[i] = found
        i = k
    return found


cdef inline int32_t level_of(const Grid *g, int64_t nthresh, float v) noexcept nogil:
    # The highest level below a value that is above the first.
    cdef int64_t lo = 1, n = nthresh - 1, half
    while n > 1:
        half = n // 2
        lo += half if v > g.t[lo + half] else 0
        n -= half
    return <int32_t>lo


cdef inline int32_t joined(Basin *b, int32_t j) noexcept nogil:
    while b[j].up != j:
        b[j].up = b[b[j].up].up
        j = b[j].up
    return j


cdef inline int32_t join(Basin *b, int32_t i, int32_t j) noexcept nogil:
    # Two branches meet: the first takes the other; −1 if they had met.
    i = joined(b, i)
    j = joined(b, j)
    if i == j:
        return -1
    b[j].up = i
    b[b[i].also_last].also = j
    b[i].also_last = b[j].also_last
    return i


cdef inline void settle(Grid *g, Basin *b, Sort *sort, int32_t i, int64_t level, int64_t minarea) noexcept nogil:
    # Branches of `level` have met below it: those that count are leaves if they are several, and all become one.
    cdef int32_t j = i, m = 0, ok = 1, k
    cdef int64_t n = 0, x
    cdef Basin *o
    while j >= 0:
        o = &b[j]
        if o.npix >= minarea:
            m += stands_out(o.flux, o.npix, g.t[level], g.value_least)
            ok &= o.ok
        j = o.also
    j = i
    while j >= 0:
        o = &b[j]
        if m > 1 and o.ok and o.npix >= minarea and stands_out(o.flux, o.npix, g.t[level], g.value_least):
            o.level = <int32_t>level
            o.leaf_last = o.last
            o.first = o.first_last = j
            o.next = -1
        if o.first >= 0:
            # In the order in which their branches close.
            sort[n].key = o.last
            sort[n].index = o.first
            sort[n].value = o.first_last
            n += 1
        j = o.also
    sort_keys(sort, n)
    for x in range(n - 1):
        b[sort[x].value].next = sort[x + 1].index
    o = &b[i]
    if n:
        o.first = sort[0].index
        o.first_last = sort[n - 1].value
    o.ok = ok and m < 2
    j = o.also
    while j >= 0:
        o.flux += b[j].flux
        o.npix += b[j].npix
        o.last = max(o.last, b[j].last)
        k = b[j].also
        b[j].also = -1
        j = k
    o.also = -1
    o.also_last = i


cdef inline int32_t meet(const Grid *g, Basin *b, int64_t i, int32_t *met, int32_t n) noexcept nogil:
    # Join a pixel's branch with those beside it at its level; `met` notes which have taken others, for each that was taken.
    cdef int64_t j, y
    cdef int32_t one = g.basin[i], k
    for y in range(-1, 2):
        for j in range(i + y * g.width - 1, i + y * g.width + 2):
            if g.basin[j] != one and g.level[j] >= g.level[i]:
                k = join(b, -1 - one, -1 - g.basin[j])
                if k >= 0:
                    met[n] = k
                    n += 1
    return n


cdef inline int64_t number_leaves(Work *w, const Footprint *f, const Grid *g, const Basin *b, int32_t first) noexcept nogil:
    # From the top level down, within a level in order; they are all the nodes there are.
    cdef int64_t level, n = 0
    cdef int32_t j
    for level in range(w.nthresh - 1, 0, -1):
        j = first
        while j >= 0:
            if b[j].level == level:
                w.nodes[n].level = <int32_t>level
                w.nodes[n].last_y = <int32_t>(f.ymin - 1 + b[j].leaf_last // g.width)
                w.nodes[n].last_x1 = <int32_t>(f.xmin + b[j].leaf_last % g.width)
                w.nodes[n].chosen = <int32_t>n
                n += 1
            j = b[j].next
    w.nnodes = n
    return n


cdef inline bint lay_out_grid(Work *w, const Footprint *f, Grid *g, int64_t minarea) noexcept nogil:
    # Scratch for the nodes of leaves, which stay, and for the box; False if there isn't so much.
    cdef int64_t nodes = min(w.npix // minarea, <int64_t>MAX_BRANCHES) * <int64_t>sizeof(Node)
    g.width = f.xmax - f.xmin + 3
    g.cells = g.width * (f.ymax - f.ymin + 3)
    if w.used + nodes + g.cells * 9 + w.npix * 4 + 80 > w.room:
        return False
    w.nodes = <Node *>take_bytes(w, nodes)
    g.value = <float *>take_bytes(w, g.cells * 4)
    g.basin = <int32_t *>take_bytes(w, g.cells * 4)
    g.level = <uint8_t *>take_bytes(w, g.cells)
    g.order = <int32_t *>take_bytes(w, w.npix * 4)
    return True


cdef inline int64_t sort_levels(Grid *g, int64_t nthresh, int64_t *start) noexcept nogil:
    # Basins and levels of pixels above the first level, and these pixels level by level, each from start[k] on; how many basins.
    cdef int64_t i, k
    cdef int32_t n = 0
    for k in range(nthresh + 1):
        start[k] = 0
    for i in range(g.cells):
        g.level[i] = 0
        if not g.value[i] > g.t[1]:
            g.basin[i] = 0
        else:
            top_of(g, i, &n)
            g.level[i] = <uint8_t>level_of(g, nthresh, g.value[i])
            start[g.level[i] + 1] += 1
    for k in range(1, nthresh + 1):
        start[k] += start[k - 1]
    for i in range(g.cells):
        k = g.level[i]
        if k:
            g.order[start[k]] = <int32_t>i
            start[k] += 1
    # Each has moved on to where the next begins.
    for k in range(nthresh, 0, -1):
        start[k] = start[k - 1]
    return n


cdef inline int32_t grow(
    Grid *g, Basin *b, Sort *sort, int32_t *met, int64_t first, int64_t last, int64_t level, int64_t minarea
) noexcept nogil:
    # Go down to a level, whose pixels are order[first] to order[last - 1]; how many branches were taken by others.
    cdef int64_t i, j
    cdef int32_t n = 0
    cdef Basin *o
    for i in range(first, last):
        n = meet(g, b, g.order[i], met, n)
    for i in range(n):
        if b[met[i]].up == met[i] and b[met[i]].also >= 0:
            settle(g, b, sort, met[i], level + 1, minarea)
    for i in range(first, last):
        j = g.order[i]
        o = &b[joined(b, -1 - g.basin[j])]
        o.flux += g.value[j]
        o.npix += 1
        o.last = max(o.last, <int32_t>j)
    return n


cdef inline int64_t basins(Work *w, const Footprint *f, float peak, int64_t minarea) noexcept nogil:
    # The number of leaves (their nodes in `nodes`), 0 for none, NOT_SMALL if there is too little scratch or are many maxima.
    cdef Grid g
    cdef Basin *b
    cdef Sort *sort
    cdef int32_t *met
    cdef int64_t start[MAX_LEVELS + 2]
    cdef int64_t j, k, n, apart
    cdef float ratio = peak / w.facts.threshold
    cdef double total = 0.0
    w.nnodes = 0
    if not lay_out_grid(w, f, &g, minarea):
        return NOT_SMALL
    g.t[1] = w.facts.threshold * <float>pow(ratio, 1.0 / w.nthresh)
    draw_values(w, f, &g)
    n = sx_maxima(g.value, g.cells, g.width, g.t[1])
    if n < 2:
        return 0
    if n >= MAX_BRANCHES or w.used + n * <int64_t>(sizeof(Basin) + sizeof(Sort) + 4) + 48 > w.room:
        return NOT_SMALL
    b = <Basin *>take_bytes(w, n * sizeof(Basin))
    sort = <Sort *>take_bytes(w, n * sizeof(Sort))
    met = <int32_t *>take_bytes(w, n * 4)
    for k in range(2, w.nthresh):
        g.t[k] = w.facts.threshold * <float>pow(ratio, <double>k / w.nthresh)
    for j in range(w.npix):
        total += w.filtered[j]
    g.value_least = <float>(<float>total * w.mincont)
    for j in range(n):
        b[j] = Basin(0.0, 0, -1, <int32_t>j, -1, <int32_t>j, 1, -1, -1, -1, 0, -1)
    climb(&g)
    sort_levels(&g, w.nthresh, start)
    apart = n - 1
    for k in range(w.nthresh - 1, 0, -1):
        apart -= grow(&g, b, sort, met, start[k], start[k + 1], k, minarea)
        if not apart:
            # One branch is left, which nothing will split.
            break
    # What hasn't met above the first level does at the threshold.
    for j in range(1, n):
        join(b, 0, <int32_t>j)
    k = joined(b, 0)
    if apart:
        settle(&g, b, sort, <int32_t>k, 1, minarea)
    return number_leaves(w, f, &g, b, b[k].first)
