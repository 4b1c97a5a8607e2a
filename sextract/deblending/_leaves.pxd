# The pixels of chosen branches, in the list order of a scan at their own levels.
from libc.math cimport pow
from libc.stdint cimport int32_t, int64_t, uint16_t

from sextract.deblending._lists cimport index
from sextract.deblending._shape cimport Pixels
from sextract.deblending._work cimport Sort, Work, closing_key, sort_keys
from sextract.detection._lutz cimport Lutz, Piece, lutz_add_pieces, lutz_drop, lutz_init, lutz_row
from sextract.records cimport Footprint


cdef inline int64_t level_runs(Work *w, int64_t y, float t) noexcept nogil:
    # Runs of a row above a level, but for those of leaves that lower levels have given.
    cdef int64_t j, n = 0
    cdef int32_t x
    cdef Pixels *p
    for j in range(w.row_start[y - w.ymin], w.row_start[y - w.ymin + 1]):
        p = &w.raster[j]
        for x in range(p.x0, p.x1):
            if w.filtered[p.at + x - p.x0] > t and not w.owner[p.at + x - p.x0]:
                if n and w.runs[n - 1].x1 == x:
                    w.runs[n - 1].x1 = x + 1
                else:
                    w.runs[n].x0 = x
                    w.runs[n].x1 = x + 1
                    n += 1
    return n


cdef inline void keep(Work *w, Lutz *lutz, int32_t comp, int32_t leaf, float t) noexcept nogil:
    # A closed component is a leaf: its pieces stay where they are, its pixels have an owner.
    cdef int32_t piece = lutz.components[comp].head
    cdef int64_t at, x
    cdef Piece *p
    w.leaves[leaf].head = piece
    w.leaves[leaf].npieces = lutz.components[comp].npieces
    w.leaves[leaf].threshold = t
    lutz.components[comp].head = -1
    while piece >= 0:
        p = &w.pieces[piece]
        at = index(w, p.y, p.x0)
        for x in range(at, at + p.x1 - p.x0):
            w.owner[x] = <uint16_t>(2 * leaf + 1)
        piece = p.next


cdef inline void collect(Work *w, const Footprint *f, float peak, int64_t leaves, int64_t npieces, int64_t ncomponents) noexcept nogil:
    # Scan the footprint again at each level that has chosen nodes, from the lowest up.
    cdef Lutz lutz
    cdef int64_t i, y, n, next_leaf = 0
    cdef int32_t level, comp
    cdef float t
    # Chosen nodes in the order in which the scans will close them: by level, then by the end of their last run.
    for i in range(w.nnodes):
        if w.nodes[i].chosen >= 0:
            w.sort[next_leaf].key = closing_key(w.nodes[i].level, w.nodes[i].last_y, w.nodes[i].last_x1)
            w.sort[next_leaf].index = w.nodes[i].chosen
            w.sort[next_leaf].value = w.nodes[i].level
            next_leaf += 1
    sort_keys(w.sort, leaves)
    next_leaf = 0
    lutz.components = w.components
    lutz.above, lutz.here = w.labels, w.labels + w.row_peaks
    lutz_init(&lutz, <int32_t>min(w.facts.minarea, <int64_t>3))
    lutz_add_pieces(&lutz, w.pieces, <int32_t>npieces)
    lutz.ncomponents_free = <int32_t>ncomponents
    while next_leaf < leaves:
        level = w.sort[next_leaf].value
        t = w.facts.threshold * <float>pow(peak / w.facts.threshold, <double>level / w.nthresh)
        for y in range(f.ymin, f.ymax + 2):
            n = level_runs(w, y, t) if y <= f.ymax else 0
            lutz_row(&lutz, <int32_t>y, w.runs, <int32_t>n)
            while lutz.closed >= 0:
                comp = lutz.closed
                lutz.closed = lutz.components[comp].next
                lutz.nclosed -= 1
                if next_leaf < leaves and w.sort[next_leaf].key == closing_key(level, y - 1, lutz.components[comp].last_x1):
                    keep(w, &lutz, comp, w.sort[next_leaf].index, t)
                    next_leaf += 1
                lutz_drop(&lutz, comp)
