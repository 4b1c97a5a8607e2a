# Lists of fragments and the values of their pixels: raster order, where a pixel's values are, lists in small portions.
from libc.stdint cimport int32_t, int64_t, uint64_t

from sextract.deblending._shape cimport (
    Areas,
    Brightest,
    Pixels,
    Sums,
    add_areas,
    add_brightest,
    add_sums,
    area_correction,
    begin_areas,
    begin_sums,
    end_areas,
    end_sums,
    half_peak,
)
from sextract.deblending._work cimport CHUNK, Work
from sextract.detection._lutz cimport Piece
from sextract.records cimport Fragment, Source

cdef struct List:
    # Fragments in list order: an array, or a chain of pieces if `head` isn't −1.
    const Fragment *array
    const Piece *pieces
    int32_t head
    int64_t n

cdef struct Cursor:
    # How far a list was read; a list that fits in one portion is looked up once.
    int64_t done
    int64_t n
    int32_t piece
    bint held


cdef inline List list_of(const Fragment *array, int64_t n) noexcept nogil:
    cdef List l
    l.array = array
    l.pieces = NULL
    l.head = -1
    l.n = n
    return l


cdef inline List chain_of(const Piece *pieces, int32_t head, int64_t n) noexcept nogil:
    cdef List l
    l.array = NULL
    l.pieces = pieces
    l.head = head
    l.n = n
    return l


cdef inline int32_t index(const Work *w, int32_t y, int32_t x) noexcept nogil:
    # Where the values of a pixel are: fragments of one row are few, or searched by halves.
    cdef int32_t lo = w.row_start[y - w.ymin], hi = w.row_start[y - w.ymin + 1], mid
    while hi - lo > 1:
        mid = (lo + hi) // 2
        if w.raster[mid].x0 <= x:
            lo = mid
        else:
            hi = mid
    return w.raster[lo].at + x - w.raster[lo].x0


cdef inline void rewind(Cursor *c, const List *l) noexcept nogil:
    c.done = 0
    c.piece = l.head


cdef inline Cursor cursor(const List *l) noexcept nogil:
    cdef Cursor c
    c.held = False
    c.n = 0
    rewind(&c, l)
    return c


cdef inline bint more(Work *w, const List *l, Cursor *c) noexcept nogil:
    # The next entries of the list into `chunk`, `n` of them; False at its end.
    cdef int64_t i
    cdef Pixels *p
    if c.done == l.n:
        return False
    if c.held:
        c.done = l.n
        return True
    c.n = min(l.n - c.done, <int64_t>CHUNK)
    for i in range(c.n):
        p = &w.chunk[i]
        if c.piece < 0:
            p.y, p.x0, p.x1 = l.array[c.done + i].y, l.array[c.done + i].x0, l.array[c.done + i].x1
        else:
            p.y, p.x0, p.x1 = l.pieces[c.piece].y, l.pieces[c.piece].x0, l.pieces[c.piece].x1
            c.piece = l.pieces[c.piece].next
        p.at = index(w, p.y, p.x0)
    c.done += c.n
    c.held = c.done == c.n and c.done == l.n
    return True


cdef inline int32_t list_shape(Work *w, const List *l, Cursor *c, Source *s, bint keep_centre) noexcept nogil:
    # Shape of a list of pixels; FLAGS bit 8 if one is on the frame's edge.
    cdef Sums m
    cdef int64_t i
    cdef int32_t xmin = 2147483647, ymin = 2147483647, edge = 0
    while more(w, l, c):
        for i in range(c.n):
            xmin = min(xmin, w.chunk[i].x0)
            ymin = min(ymin, w.chunk[i].y)
            if on_edge(w, &w.chunk[i]):
                edge = 8
    begin_sums(&m, xmin, ymin)
    rewind(c, l)
    while more(w, l, c):
        add_sums(&m, w.chunk, c.n, w.filtered, w.image)
    end_sums(s, &m, keep_centre)
    return edge


cdef inline float list_correction(Work *w, const List *l, Cursor *c, const Source *s, float threshold) noexcept nogil:
    # The area correction of a list whose shape is known, at a threshold of its own.
    cdef int64_t i, k, above = 0, above_half = 0
    cdef float half = half_peak(threshold, s.peak)
    rewind(c, l)
    while more(w, l, c):
        for i in range(c.n):
            for k in range(w.chunk[i].at, w.chunk[i].at + w.chunk[i].x1 - w.chunk[i].x0):
                above += w.image[k] > threshold
                above_half += w.image[k] > half
    return area_correction(above, above_half, s, threshold)


cdef inline bint on_edge(const Work *w, const Pixels *p) noexcept nogil:
    return p.y == 0 or p.y == w.facts.height - 1 or p.x0 == 0 or p.x1 == w.facts.width


cdef inline void list_isophotal(Work *w, const List *l, Cursor *c, Source *s) noexcept nogil:
    # `mthresh`, photometry, areas and their correction, position errors and FWHM over the pixels of a list whose shape is known.
    cdef Areas t
    cdef Brightest b
    b.heap = w.heap
    b.m = w.facts.minarea
    b.seen = 0
    begin_areas(&t, s, &w.facts)
    rewind(c, l)
    while more(w, l, c):
        add_brightest(&b, w.chunk, c.n, w.filtered, w.facts.threshold)
        add_areas(&t, s, w.chunk, c.n, w.filtered, w.image, &w.facts)
    s.mthresh = b.heap[0] if b.seen >= b.m else <float>0.0
    end_areas(s, &t, &w.facts)


cdef inline void _sift(int32_t *p, int64_t stride, int64_t j, int64_t n) noexcept nogil:
    cdef int64_t c, k
    cdef int32_t t
    while 2 * j + 1 < n:
        c = 2 * j + 1
        if c + 1 < n and p[(c + 1) * stride + 1] > p[c * stride + 1]:
            c += 1
        if not p[c * stride + 1] > p[j * stride + 1]:
            break
        for k in range(stride):
            t = p[j * stride + k]
            p[j * stride + k] = p[c * stride + k]
            p[c * stride + k] = t
        j = c


cdef inline void sort_row(int32_t *p, int64_t stride, int64_t n) noexcept nogil:
    # Sort entries of `stride` integers, in place, by the second: Fragments (3) or Pixels (4) of one row by their x0.
    cdef int64_t i, j, k
    cdef int32_t t
    if n < 16:
        for i in range(1, n):
            j = i
            while j > 0 and p[(j - 1) * stride + 1] > p[j * stride + 1]:
                for k in range(stride):
                    t = p[j * stride + k]
                    p[j * stride + k] = p[(j - 1) * stride + k]
                    p[(j - 1) * stride + k] = t
                j -= 1
        return
    for i in range(n // 2 - 1, -1, -1):
        _sift(p, stride, i, n)
    for i in range(n - 1, 0, -1):
        for k in range(stride):
            t = p[k]
            p[k] = p[i * stride + k]
            p[i * stride + k] = t
        _sift(p, stride, 0, i)


# Fragments are sorted by row and column in four steps, the first and the third portion by portion, into entries of `stride`
# integers.  `row_start` (rows + 2, zeros at first) gets where each row begins.
cdef inline void count_rows(const Fragment *src, int64_t n, int32_t ymin, int32_t *row_start) noexcept nogil:
    # Two places on, so that after the shift by placing all are where they belong.
    cdef int64_t k
    for k in range(n):
        row_start[src[k].y - ymin + 2] += 1


cdef inline void sum_rows(int32_t *row_start, int64_t rows) noexcept nogil:
    cdef int64_t y
    for y in range(2, rows + 2):
        row_start[y] += row_start[y - 1]


cdef inline int64_t place_rows(
    const Fragment *src, int64_t n, int32_t ymin, int32_t *row_start, int32_t *out, int64_t stride, int64_t jumps
) noexcept nogil:
    # How many it came to place before it had jumped that often to another page.
    cdef int64_t k, y
    cdef uint64_t page, last = 0
    cdef int32_t *p
    for k in range(n):
        y = src[k].y - ymin + 1
        p = out + row_start[y] * stride
        page = <uint64_t>p >> 12
        if page != last:
            last = page
            jumps -= 1
            if jumps < 0:
                return k
        p[0], p[1], p[2] = src[k].y, src[k].x0, src[k].x1
        row_start[y] += 1
    return n


cdef inline void sort_rows(const int32_t *row_start, int64_t first, int64_t last, int32_t *out, int64_t stride) noexcept nogil:
    cdef int64_t y
    for y in range(first, last):
        if row_start[y + 1] - row_start[y] > 1:
            sort_row(out + row_start[y] * stride, stride, row_start[y + 1] - row_start[y])


cdef inline void raster_order(
    const Fragment *src, int64_t n, int32_t ymin, int64_t rows, int32_t *row_start, int32_t *out, int64_t stride
) noexcept nogil:
    # All at once.
    cdef int64_t y
    for y in range(rows + 2):
        row_start[y] = 0
    count_rows(src, n, ymin, row_start)
    sum_rows(row_start, rows)
    place_rows(src, n, ymin, row_start, out, stride, n + 1)
    sort_rows(row_start, 0, rows, out, stride)
