# Joins the runs of successive rows to components, keeping each component's pixels in the list order of the Lutz scan
# (Lutz 1980, Comp. J. 23, 262), which `mthresh` and the sharing of blends depend on:
#   a run that meets the first run of an open component puts what it has so far before that component's list;
#   a run that meets a later run of one appends; joining two is left list, then right list.
# Streaming, no allocation: the caller gives the arrays.  Rows must come one after the other.
# Pieces lie in any number of blocks, and none is touched before it is used, since there may be more of them than memory.
from libc.stdint cimport int32_t, int64_t

from sextract.records cimport Run

cdef enum:
    SEGMENT_BITS = 19       # a block of pieces takes a whole number of segments of that many
    SEGMENTS = 4096

cdef struct Piece:
    int32_t y
    int32_t x0
    int32_t x1
    int32_t next        # the next piece of the list, -1 at its end

cdef struct Component:
    int64_t npix
    int32_t head        # its pieces, in list order
    int32_t tail
    int32_t npieces
    int32_t xmin
    int32_t xmax
    int32_t ymin
    int32_t ymax
    int32_t up          # union-find; itself if it is a root
    int32_t seen        # last row that has a run of it
    int32_t last_x1     # end of its last run on that row
    int32_t mark        # last row for which its first run was marked
    int32_t next        # free list, retired list or queue of closed ones

cdef struct Label:
    int32_t x0
    int32_t x1
    int32_t component
    int32_t first       # first run of its component on that row

cdef struct Lutz:
    Piece *segments[SEGMENTS]
    int32_t nsegments
    Component *components
    Label *above        # runs of the row above, and of this row
    Label *here
    int32_t nabove
    int32_t free_piece  # heads of free lists, −1 if empty
    int32_t free_component
    int32_t fresh_piece     # what has never been used, up to the end
    int32_t fresh_piece_end
    int32_t fresh_component
    int32_t npieces_free    # how many are free
    int32_t ncomponents_free
    int32_t closed      # queue of closed components, oldest first
    int32_t closed_last
    int32_t nclosed
    int64_t closed_pieces
    int64_t closed_npix
    int32_t minarea


cdef inline void lutz_init(Lutz *s, int32_t minarea) noexcept nogil:
    # Without room yet.
    s.nsegments = 0
    s.free_piece = s.free_component = -1
    s.fresh_piece = s.fresh_piece_end = s.fresh_component = 0
    s.npieces_free = s.ncomponents_free = 0
    s.nabove = 0
    s.closed = s.closed_last = -1
    s.nclosed = 0
    s.closed_pieces = 0
    s.closed_npix = 0
    s.minarea = minarea


cdef inline Piece *lutz_piece(const Lutz *s, int32_t p) noexcept nogil:
    return s.segments[p >> SEGMENT_BITS] + (p & ((1 << SEGMENT_BITS) - 1))


cdef inline bint lutz_add_pieces(Lutz *s, Piece *block, int32_t n) noexcept nogil:
    # Room for more pieces; False if there are too many blocks.
    cdef int32_t p, k, segments = ((n - 1) >> SEGMENT_BITS) + 1
    if s.nsegments + segments > SEGMENTS:
        return False
    for p in range(s.fresh_piece, s.fresh_piece_end):
        lutz_piece(s, p).next = s.free_piece
        s.free_piece = p
    s.fresh_piece = s.nsegments << SEGMENT_BITS
    s.fresh_piece_end = s.fresh_piece + n
    for k in range(segments):
        s.segments[s.nsegments] = block + (<int64_t>k << SEGMENT_BITS)
        s.nsegments += 1
    s.npieces_free += n
    return True


cdef inline int32_t _root(Lutz *s, int32_t c) noexcept nogil:
    while s.components[c].up != c:
        s.components[c].up = s.components[s.components[c].up].up
        c = s.components[c].up
    return c


cdef extern from *:
    """
    /* A file's page that is written first is mapped alone, one that is read first with its 64 KiB. */
    static inline int32_t write_then_read(volatile int32_t *out, int32_t value, volatile const int32_t *in) {
        *out = value;
        return *in;
    }
    """
    int32_t write_then_read(int32_t *out, int32_t value, const int32_t *in_) noexcept nogil


cdef inline int32_t _piece(Lutz *s, int32_t y, int32_t x0, int32_t x1) noexcept nogil:
    cdef int32_t p = s.free_piece
    cdef Piece *one
    if p < 0:
        p = s.fresh_piece
        s.fresh_piece += 1
        one = lutz_piece(s, p)
    else:
        one = lutz_piece(s, p)
        s.free_piece = write_then_read(&one.y, y, &one.next)
    s.npieces_free -= 1
    one.y = y
    one.x0 = x0
    one.x1 = x1
    one.next = -1
    return p


cdef inline int32_t lutz_component(Lutz *s) noexcept nogil:
    cdef int32_t c = s.free_component
    if c < 0:
        c = s.fresh_component
        s.fresh_component += 1
    else:
        s.free_component = s.components[c].next
    s.ncomponents_free -= 1
    return c


cdef inline void lutz_append(Lutz *s, int32_t c, int32_t y, int32_t x0, int32_t x1) noexcept nogil:
    cdef int32_t p = _piece(s, y, x0, x1)
    if s.components[c].head < 0:
        s.components[c].head = p
    else:
        lutz_piece(s, s.components[c].tail).next = p
    s.components[c].tail = p
    s.components[c].npieces += 1


cdef inline void _prepend(Lutz *s, int32_t c, int32_t y, int32_t x0, int32_t x1) noexcept nogil:
    cdef int32_t p = _piece(s, y, x0, x1)
    lutz_piece(s, p).next = s.components[c].head
    s.components[c].head = p
    s.components[c].npieces += 1


cdef inline void _join(Lutz *s, int32_t left, int32_t right, int32_t *retired) noexcept nogil:
    # left list, then right list; right becomes part of left.
    cdef Component *a = &s.components[left]
    cdef Component *b = &s.components[right]
    lutz_piece(s, a.tail).next = b.head
    a.tail = b.tail
    a.npieces += b.npieces
    a.npix += b.npix
    a.xmin = min(a.xmin, b.xmin)
    a.xmax = max(a.xmax, b.xmax)
    a.ymin = min(a.ymin, b.ymin)
    a.ymax = max(a.ymax, b.ymax)
    if b.seen > a.seen:
        a.seen = b.seen
        a.last_x1 = b.last_x1
    elif b.seen == a.seen:
        a.last_x1 = max(a.last_x1, b.last_x1)
    b.up = left
    b.next = retired[0]
    retired[0] = right


cdef inline void lutz_drop_pieces(Lutz *s, int32_t c) noexcept nogil:
    # Give the pieces of a component back.
    if s.components[c].head >= 0:
        lutz_piece(s, s.components[c].tail).next = s.free_piece
        s.free_piece = s.components[c].head
        s.npieces_free += s.components[c].npieces
    s.components[c].head = -1


cdef inline void lutz_drop(Lutz *s, int32_t c) noexcept nogil:
    # Give a component and its pieces back.
    lutz_drop_pieces(s, c)
    s.components[c].next = s.free_component
    s.free_component = c
    s.ncomponents_free += 1


cdef inline bint lutz_row(Lutz *s, int32_t y, const Run *runs, int32_t n) noexcept nogil:
    # Take the runs of row y, sorted, none touching another.  False, with nothing done, if there is too little room.
    cdef int32_t i, j = 0, k, r0, r1, pos, end, top, c, retired = -1
    cdef Label *above = s.above
    cdef Label *here = s.here
    cdef Component *comp
    # A run is cut once for each run above that it touches; each run above is touched by its own and the next run's ends.
    # A row without runs only closes, which takes no room.
    if n > 0 and (s.npieces_free < 2 * n + s.nabove + 1 or s.ncomponents_free < n):
        return False
    for i in range(n):
        r0 = runs[i].x0
        r1 = runs[i].x1
        pos = r0
        top = -1
        while j < s.nabove and above[j].x1 < r0:
            j += 1
        k = j
        while k < s.nabove and above[k].x0 <= r1:
            c = _root(s, above[k].component)
            if top < 0:
                if above[k].first and r0 < above[k].x0:
                    pos = min(above[k].x0, r1)
                    _prepend(s, c, y, r0, pos)
                top = c
            elif c != top:
                end = min(above[k].x0, r1)
                if end > pos:
                    lutz_append(s, top, y, pos, end)
                    pos = end
                if above[k].first:
                    _join(s, top, c, &retired)
                else:
                    _join(s, c, top, &retired)
                    top = c
            k += 1
        if top < 0:
            top = lutz_component(s)
            comp = &s.components[top]
            comp.npix = 0
            comp.head = comp.tail = -1
            comp.npieces = 0
            comp.xmin = r0
            comp.xmax = r1 - 1
            comp.ymin = comp.ymax = y
            comp.up = top
            comp.mark = -1
        if pos < r1:
            lutz_append(s, top, y, pos, r1)
        comp = &s.components[top]
        comp.npix += r1 - r0
        comp.xmin = min(comp.xmin, r0)
        comp.xmax = max(comp.xmax, r1 - 1)
        comp.ymax = y
        comp.seen = y
        comp.last_x1 = r1
        here[i].x0 = r0
        here[i].x1 = r1
        here[i].component = top
    # What no run of this row touched is closed, in the order in which its last run ended.
    for k in range(s.nabove):
        c = _root(s, above[k].component)
        comp = &s.components[c]
        if comp.seen < y and above[k].x1 == comp.last_x1:
            if comp.npix < s.minarea:
                lutz_drop(s, c)
            else:
                comp.next = -1
                if s.closed < 0:
                    s.closed = c
                else:
                    s.components[s.closed_last].next = c
                s.closed_last = c
                s.nclosed += 1
                s.closed_pieces += comp.npieces
                s.closed_npix += comp.npix
    for i in range(n):
        c = _root(s, here[i].component)
        here[i].component = c
        here[i].first = s.components[c].mark != y
        s.components[c].mark = y
    while retired >= 0:
        c = s.components[retired].next
        s.components[retired].next = s.free_component
        s.free_component = retired
        s.ncomponents_free += 1
        retired = c
    s.above = here
    s.here = above
    s.nabove = n
    return True
