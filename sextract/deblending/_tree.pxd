# The multi-threshold tree of a footprint: branches level by level, and which of them become sources.
from libc.math cimport pow
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memmove

from sextract.deblending._basins cimport NOT_SMALL, basins, fits, stands_out
from sextract.deblending._work cimport MAX_BRANCHES, Branch, Level, Node, Sort, Work, lacks, sort_keys, take_bytes
from sextract.records cimport Footprint

# What `tree` answers if there are no leaves to share among.
cdef enum:
    OVERFLOW = -1       # too many branches
    NO_ROOM = -2        # too little scratch
    TOO_LARGE = -3      # more scratch than a footprint may use

cdef enum:
    SMALL = -2147483647 - 1     # in `up`: the root of what is too small for a branch


cdef inline int32_t find(int32_t *up, int32_t j) noexcept nogil:
    # The root of a run; roots have negative entries.
    while up[j] >= 0:
        if up[up[j]] >= 0:
            up[j] = up[up[j]]
        j = up[j]
    return j


cdef inline bint counts(Work *w, const Node *node, float value, float ratio) noexcept nogil:
    # Whether a branch is bright enough above its own level.
    cdef float t = w.facts.threshold * <float>pow(ratio, <double>node.level / w.nthresh)
    return stands_out(node.flux, node.npix, t, value)


cdef inline void count_peaks(Work *w, float t) noexcept nogil:
    # Maxima of rows above `t`.  A run of any level from there up holds one: so many runs there are at most.
    cdef int64_t k, n, x, a, row = 0
    cdef int32_t y = -1
    cdef const float *v
    w.npeaks = w.row_peaks = 0
    for k in range(w.nfragments):
        if w.raster[k].y != y:
            w.row_peaks = max(w.row_peaks, w.npeaks - row)
            row = w.npeaks
            y = w.raster[k].y
        v = w.filtered + w.raster[k].at
        n = w.raster[k].x1 - w.raster[k].x0
        x = 0
        while x < n:
            a = x
            while x + 1 < n and v[x + 1] == v[a]:
                x += 1
            if v[a] > t and (a == 0 or v[a - 1] < v[a]) and (x == n - 1 or v[x + 1] < v[x]):
                w.npeaks += 1
            x += 1
    w.row_peaks = max(w.row_peaks, w.npeaks - row)


cdef inline int64_t cut(Work *w, float t, int64_t k, int64_t nlevel) noexcept nogil:
    # Runs above `t`: of the whole footprint for the first level, then of the runs of the level below, in their place.
    # Those are moved to the end of the array: each holds a peak for each run that is made of it, so none is overtaken.
    cdef int64_t n = 0, j, a, x, first = w.npeaks - nlevel, count = w.nfragments if k == 1 else nlevel
    cdef int32_t y, x0, x1, at, node
    cdef Level *r
    if k > 1:
        memmove(w.level + first, w.level, nlevel * sizeof(Level))
    for j in range(count):
        if k == 1:
            y, x0, x1, at, node = w.raster[j].y, w.raster[j].x0, w.raster[j].x1, w.raster[j].at, -1
        else:
            r = &w.level[first + j]
            y, x0, x1, at, node = r.y, r.x0, r.x1, r.at, r.node
        x = x0
        while x < x1:
            if not w.filtered[at + x - x0] > t:
                x += 1
                continue
            a = x
            while x < x1 and w.filtered[at + x - x0] > t:
                x += 1
            # A run of the scan may lie in two fragments side by side.
            if n and w.level[n - 1].y == y and w.level[n - 1].x1 == a:
                w.level[n - 1].x1 = <int32_t>x
                continue
            r = &w.level[n]
            r.y = y
            r.x0 = <int32_t>a
            r.x1 = <int32_t>x
            r.at = <int32_t>(at + a - x0)
            r.node = node
            n += 1
    return n


cdef inline void connect(Work *w, int64_t n) noexcept nogil:
    # Union-find over the runs of a level (8-connected); the root is the first run, and has −1 less its pixels.
    cdef int64_t j, i = 0, k
    cdef int32_t a, b
    cdef Level *r
    for j in range(n):
        w.up[j] = -1
        r = &w.level[j]
        # `i` follows through the row above.
        while w.level[i].y < r.y - 1 or (w.level[i].y == r.y - 1 and w.level[i].x1 < r.x0):
            i += 1
        k = i
        while w.level[k].y == r.y - 1 and w.level[k].x0 <= r.x1:
            a = find(w.up, <int32_t>k)
            b = find(w.up, <int32_t>j)
            if a < b:
                w.up[b] = a
            elif b < a:
                w.up[a] = b
            k += 1
    for j in range(n):
        a = find(w.up, <int32_t>j)
        w.up[a] -= w.level[j].x1 - w.level[j].x0


cdef inline int64_t branch_out(Work *w, int64_t n, int64_t k, int64_t minarea) noexcept nogil:
    # The branches of a level become nodes, ordered by parent and by closing, and its runs learn theirs; how many, or MAX_BRANCHES.
    cdef int64_t j, x, count = 0, m = 0
    cdef int32_t root
    cdef Level *r
    cdef Branch *b
    cdef Node *node
    for j in range(n):
        if w.up[j] >= 0:
            continue
        if -1 - w.up[j] < minarea:
            w.up[j] = SMALL
            continue
        b = &w.branches[count]
        b.npix = -1 - w.up[j]
        b.flux = 0.0
        w.up[j] = <int32_t>(-1 - count)
        count += 1
        if count == MAX_BRANCHES:
            return count
    for j in range(n):
        root = find(w.up, <int32_t>j)
        if w.up[root] != SMALL:
            r = &w.level[j]
            b = &w.branches[-1 - w.up[root]]
            b.last = <int32_t>j
            for x in range(r.at, r.at + r.x1 - r.x0):
                b.flux += w.filtered[x]
    for j in range(count):
        w.sort[j].key = (<int64_t>w.level[w.branches[j].last].node << 32) | w.branches[j].last
        w.sort[j].index = <int32_t>j
    sort_keys(w.sort, count)
    for j in range(count):
        b = &w.branches[w.sort[j].index]
        r = &w.level[b.last]
        node = &w.nodes[w.nnodes]
        node.parent = r.node
        node.level = <int32_t>k
        node.npix = b.npix
        node.flux = b.flux
        node.last_y = r.y
        node.last_x1 = r.x1
        node.ok = 1
        node.chosen = -1
        b.node = <int32_t>w.nnodes
        w.nnodes += 1
    return count


cdef inline int64_t keep_branches(Work *w, int64_t n) noexcept nogil:
    # Runs of branches go on to the next level.
    cdef int64_t j, m = 0
    cdef int32_t root
    for j in range(n):
        root = find(w.up, <int32_t>j)
        if w.up[root] != SMALL:
            w.level[m] = w.level[j]
            w.level[m].node = w.branches[-1 - w.up[root]].node
            m += 1
    return m


cdef inline int64_t choose(Work *w, int64_t nodes, float value, float ratio) noexcept nogil:
    # Mark the leaves in order (level from the top, node, child); their number.
    cdef int64_t stop = nodes, start, j, i, m, chosen = 0
    cdef int32_t parent, level
    cdef int64_t lo, hi
    cdef bint root_ok = True
    # Children of one parent are neighbours in the list, and parents ascend: walk levels from the top.
    while stop > 0:
        level = w.nodes[stop - 1].level
        start = stop
        while start > 0 and w.nodes[start - 1].level == level:
            start -= 1
        lo = start
        while lo < stop:
            parent = w.nodes[lo].parent
            hi = lo
            m = 0
            while hi < stop and w.nodes[hi].parent == parent:
                m += counts(w, &w.nodes[hi], value, ratio)
                hi += 1
            for j in range(lo, hi):
                if not w.nodes[j].ok:
                    if parent >= 0:
                        w.nodes[parent].ok = 0
                    else:
                        root_ok = False
            if m > 1:
                for j in range(lo, hi):
                    if w.nodes[j].ok and counts(w, &w.nodes[j], value, ratio):
                        w.nodes[j].chosen = <int32_t>chosen
                        chosen += 1
                if parent >= 0:
                    w.nodes[parent].ok = 0
                else:
                    root_ok = False
            lo = hi
        stop = start
    return 0 if root_ok else chosen


cdef inline int64_t tree(Work *w, const Footprint *f, float peak) noexcept nogil:
    # Build the tree; the number of leaves to keep (their nodes' `chosen` set), 0 for none, or why there are none.
    cdef int64_t k, x, n, m, count, least, nlevel = 0, minarea = min(w.facts.minarea, <int64_t>3), used = w.used
    cdef float t, ratio, root = w.facts.threshold
    cdef double total = 0.0, value
    w.nnodes = 0
    if w.npix < 2 * minarea or w.nthresh < 2 or not peak > root or not root > 0.0:
        return 0
    ratio = peak / root
    if fits(w, f, peak):
        n = basins(w, f, peak, minarea)
        if n != NOT_SMALL:
            if n:
                count_peaks(w, root * <float>pow(ratio, 1.0 / w.nthresh))
            return n
        w.used = used
    count_peaks(w, root * <float>pow(ratio, 1.0 / w.nthresh))
    for x in range(w.npix):
        total += w.filtered[x]
    m = min(min(<int64_t>MAX_BRANCHES, w.npix // minarea), w.npeaks) + 1
    w.max_nodes = (w.nthresh - 1) * m
    least = w.max_nodes * sizeof(Node) + m * (sizeof(Branch) + sizeof(Sort)) + w.npeaks * (sizeof(Level) + 4) + 128
    if w.used + least > w.most:
        return TOO_LARGE
    if lacks(w, least):
        return NO_ROOM
    w.nodes = <Node *>take_bytes(w, w.max_nodes * sizeof(Node))
    w.branches = <Branch *>take_bytes(w, m * sizeof(Branch))
    w.sort = <Sort *>take_bytes(w, m * sizeof(Sort))
    w.level = <Level *>take_bytes(w, w.npeaks * sizeof(Level))
    w.up = <int32_t *>take_bytes(w, w.npeaks * 4)
    value = <float>(<float>total * w.mincont)
    for k in range(1, w.nthresh):
        t = root * <float>pow(ratio, <double>k / w.nthresh)
        n = cut(w, t, k, nlevel)
        if n == 0:
            break
        connect(w, n)
        count = branch_out(w, n, k, minarea)
        if count == MAX_BRANCHES:
            return OVERFLOW
        if count == 0:
            break
        nlevel = keep_branches(w, n)
    if w.nnodes < 2:
        return 0
    # From the top down: split a node whose children count twice or more.
    return choose(w, w.nnodes, <float>value, ratio)
