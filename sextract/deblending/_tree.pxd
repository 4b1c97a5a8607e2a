# The multi-threshold tree of a footprint: branches level by level, and which of them become sources.
from libc.math cimport pow
from libc.stdint cimport int32_t, int64_t

from sextract.deblending._shape cimport Pixels
from sextract.deblending._order cimport Sort, order
from sextract.deblending._work cimport MAX_BRANCHES, Blob, Level, Node, Work, find, take_bytes, unite
from sextract.records cimport Footprint


cdef inline bint counts(Work *w, const Node *node, float value, float ratio) noexcept nogil:
    # Whether a branch is bright enough above its own level.
    cdef float t = w.facts.threshold * <float>pow(ratio, <double>node.level / w.nthresh)
    return <float>node.flux - t * <float>node.npix > value


cdef inline int64_t cut(Work *w, float t, int64_t k, int64_t nlevel) noexcept nogil:
    # Runs above `t`: of the whole footprint for the first level, then of the runs of the level below.
    cdef int64_t n = 0, j, a, x, count = w.nfragments if k == 1 else nlevel
    cdef int32_t y, x0, x1, at, node
    cdef Level *r
    for j in range(count):
        if k == 1:
            y, x0, x1, at, node = w.raster[j].y, w.raster[j].x0, w.raster[j].x1, w.raster[j].at, -1
        else:
            y, x0, x1, at, node = w.level[j].y, w.level[j].x0, w.level[j].x1, w.level[j].at, w.level[j].node
        x = x0
        while x < x1:
            if not w.filtered[at + x - x0] > t:
                x += 1
                continue
            a = x
            while x < x1 and w.filtered[at + x - x0] > t:
                x += 1
            # A run of the scan may lie in two fragments side by side.
            if n and w.next_level[n - 1].y == y and w.next_level[n - 1].x1 == a:
                w.next_level[n - 1].x1 = <int32_t>x
                continue
            r = &w.next_level[n]
            r.y = y
            r.x0 = <int32_t>a
            r.x1 = <int32_t>x
            r.at = <int32_t>(at + a - x0)
            r.node = node
            n += 1
    return n


cdef inline void connect(Work *w, int64_t n) noexcept nogil:
    # Union-find over the runs of a level (8-connected); the root is the first run.
    cdef int64_t j, i = 0
    cdef int32_t a, b
    cdef Level *r
    for j in range(n):
        w.blobs[j].up = <int32_t>j
        r = &w.next_level[j]
        # `i` follows through the row above.
        while w.next_level[i].y < r.y - 1 or (w.next_level[i].y == r.y - 1 and w.next_level[i].x1 < r.x0):
            i += 1
        a = <int32_t>i
        while w.next_level[a].y == r.y - 1 and w.next_level[a].x0 <= r.x1:
            b = find(w.blobs, a)
            unite(w.blobs, b, find(w.blobs, <int32_t>j))
            a += 1


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
    if root_ok:
        return 0
    w.max_nodes = nodes
    return chosen


cdef inline int64_t tree(Work *w, const Footprint *f, float peak) noexcept nogil:
    # Build the tree; the number of leaves to keep (their nodes' `chosen` set), 0 for none, −1 overflow, −2 scratch.
    cdef int64_t k, j, n, m, nlevel, nodes = 0, minarea = min(w.facts.minarea, <int64_t>3)
    cdef int64_t least, count, x, a
    cdef float t, ratio, root = w.facts.threshold
    cdef double total = 0.0, value
    cdef Level *swap
    cdef Pixels *p
    cdef Level *r
    cdef Blob *b
    cdef Node *node
    cdef int32_t c
    if w.npix < 2 * minarea or w.nthresh < 2 or not peak > root or not root > 0.0:
        return 0
    # A run of any level holds a local maximum of its row, above the first level: so many there are at most.
    ratio = peak / root
    t = root * <float>pow(ratio, 1.0 / w.nthresh)
    w.npeaks = 0
    for k in range(w.nfragments):
        p = &w.raster[k]
        n = p.x1 - p.x0
        x = 0
        while x < n:
            a = x
            while x + 1 < n and w.filtered[p.at + x + 1] == w.filtered[p.at + a]:
                x += 1
            if w.filtered[p.at + a] > t and (a == 0 or w.filtered[p.at + a - 1] < w.filtered[p.at + a]) and (
                x == n - 1 or w.filtered[p.at + x + 1] < w.filtered[p.at + x]
            ):
                w.npeaks += 1
            x += 1
        for x in range(p.at, p.at + n):
            total += w.filtered[x]
    m = min(min(<int64_t>MAX_BRANCHES, w.npix // minarea), w.npeaks) + 1
    w.max_nodes = (w.nthresh - 1) * m
    least = w.npeaks * (2 * sizeof(Level) + sizeof(Blob)) + w.max_nodes * sizeof(Node) + m * sizeof(Sort) + 128
    if least > w.room - w.used:
        w.needed = w.used + least + w.npix * 8
        return -2
    w.nodes = <Node *>take_bytes(w, w.max_nodes * sizeof(Node))
    w.level = <Level *>take_bytes(w, w.npeaks * sizeof(Level))
    w.next_level = <Level *>take_bytes(w, w.npeaks * sizeof(Level))
    w.blobs = <Blob *>take_bytes(w, w.npeaks * sizeof(Blob))
    w.sort = <Sort *>take_bytes(w, m * sizeof(Sort))
    value = <float>(<float>total * w.mincont)
    nlevel = 0
    for k in range(1, w.nthresh):
        t = root * <float>pow(ratio, <double>k / w.nthresh)
        n = cut(w, t, k, nlevel)
        if n == 0:
            break
        connect(w, n)
        # Sums of each blob, at its root run; then branches, ordered by parent and by closing.
        for j in range(n):
            w.blobs[j].npix = 0
            w.blobs[j].flux = 0.0
            w.blobs[j].node = -1
        for j in range(n):
            r = &w.next_level[j]
            b = &w.blobs[find(w.blobs, <int32_t>j)]
            b.npix += r.x1 - r.x0
            b.last = <int32_t>j
            for x in range(r.at, r.at + r.x1 - r.x0):
                b.flux += w.filtered[x]
        count = 0
        for j in range(n):
            if w.blobs[j].up == j and w.blobs[j].npix >= minarea:
                if count == MAX_BRANCHES:
                    return -1
                r = &w.next_level[w.blobs[j].last]
                w.sort[count].key = (<int64_t>r.node << 32) | w.blobs[j].last
                w.sort[count].index = <int32_t>j
                count += 1
        if count >= MAX_BRANCHES:
            return -1
        if count == 0:
            break
        order(w.sort, count)
        for j in range(count):
            b = &w.blobs[w.sort[j].index]
            r = &w.next_level[b.last]
            node = &w.nodes[nodes]
            node.parent = r.node
            node.level = <int32_t>k
            node.npix = b.npix
            node.flux = b.flux
            node.last_y = r.y
            node.last_x1 = r.x1
            node.ok = 1
            node.chosen = -1
            b.node = <int32_t>nodes
            nodes += 1
        # Runs of branches go on to the next level.
        m = 0
        for j in range(n):
            c = w.blobs[find(w.blobs, <int32_t>j)].node
            if c >= 0:
                w.next_level[m] = w.next_level[j]
                w.next_level[m].node = c
                m += 1
        nlevel = m
        swap = w.level
        w.level = w.next_level
        w.next_level = swap
    if nodes < 2:
        return 0
    # From the top down: split a node whose children count twice or more.
    return choose(w, nodes, <float>value, ratio)
