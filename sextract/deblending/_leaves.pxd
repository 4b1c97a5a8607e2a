# The pixels of chosen branches, in the list order of a scan at their own levels.
from libc.math cimport pow
from libc.stdint cimport int32_t, int64_t

from sextract.deblending._order cimport order
from sextract.deblending._shape cimport Pixels
from sextract.deblending._work cimport Work, closing_key
from sextract.detection._lutz cimport Lutz, lutz_drop, lutz_init, lutz_row
from sextract.records cimport Footprint


cdef inline int32_t index(Work *w, const Footprint *f, int32_t y, int32_t x) noexcept nogil:
    # Index of a pixel of the footprint: fragments of one row are few, or searched by halves.
    cdef int32_t lo = w.row_start[y - f.ymin], hi = w.row_start[y - f.ymin + 1], mid
    while hi - lo > 1:
        mid = (lo + hi) // 2
        if w.raster[mid].x0 <= x:
            lo = mid
        else:
            hi = mid
    return w.raster[lo].at + x - w.raster[lo].x0


cdef inline void collect(
    Work *w, const Footprint *f, float peak, int64_t npieces, int64_t width, int64_t leaves
) noexcept nogil:
    # Scan the footprint again at each level that has chosen nodes; their fragments in list order into `leaf`.
    cdef Lutz lutz
    cdef int64_t i, n, m = 0, y, x, j, key, next_leaf = 0
    cdef int32_t level, piece, comp, c
    cdef float t
    cdef Pixels *p
    # Chosen nodes in the order in which the scans will close them: by level, then by the end of their last run.
    for i in range(w.max_nodes):
        if w.nodes[i].chosen >= 0:
            w.sort[next_leaf].key = closing_key(w.nodes[i].level, w.nodes[i].last_y, w.nodes[i].last_x1)
            w.sort[next_leaf].index = w.nodes[i].chosen
            w.sort[next_leaf].value = w.nodes[i].level
            next_leaf += 1
    order(w.sort, leaves)
    next_leaf = 0
    lutz.pieces, lutz.components = w.pieces, w.components
    while next_leaf < leaves:
        level = w.sort[next_leaf].value
        t = w.facts.threshold * <float>pow(peak / w.facts.threshold, <double>level / w.nthresh)
        lutz.above, lutz.here = w.labels, w.labels + width + 2
        lutz_init(&lutz, <int32_t>npieces, <int32_t>(width + 2), <int32_t>min(w.facts.minarea, <int64_t>3))
        for y in range(f.ymin, f.ymax + 2):
            n = 0
            if y <= f.ymax:
                for j in range(w.row_start[y - f.ymin], w.row_start[y - f.ymin + 1]):
                    p = &w.raster[j]
                    for x in range(p.x0, p.x1):
                        if w.filtered[p.at + x - p.x0] > t:
                            if n and w.runs[n - 1].x1 == x:
                                w.runs[n - 1].x1 = <int32_t>(x + 1)
                            else:
                                w.runs[n].x0 = <int32_t>x
                                w.runs[n].x1 = <int32_t>(x + 1)
                                n += 1
            lutz_row(&lutz, <int32_t>y, w.runs, <int32_t>n)
            while lutz.closed >= 0:
                comp = lutz.closed
                lutz.closed = w.components[comp].next
                lutz.nclosed -= 1
                key = closing_key(level, <int32_t>(y - 1), w.components[comp].last_x1)
                if next_leaf < leaves and w.sort[next_leaf].key == key:
                    c = w.sort[next_leaf].index
                    next_leaf += 1
                    w.leaf_start[c] = m
                    w.leaves[c].dthresh = t
                    piece = w.components[comp].head
                    while piece >= 0:
                        w.leaf[m].y = w.pieces[piece].y
                        w.leaf[m].x0 = w.pieces[piece].x0
                        w.leaf[m].x1 = w.pieces[piece].x1
                        w.leaf[m].at = index(w, f, w.pieces[piece].y, w.pieces[piece].x0)
                        m += 1
                        piece = w.pieces[piece].next
                    w.leaf_stop[c] = m
                lutz_drop(&lutz, comp)
