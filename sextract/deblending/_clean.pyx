"""CLEAN: sources that a neighbour's wings explain are merged into it, in the order in which sources close.

The newcomer is compared with the members of the window: sources whose first row is within CLEAN's reach of the line on which
the newcomer closes.  The wing of the brighter one is a Moffat profile of exponent CLEAN_PARAM; if it exceeds the fainter one's
`mthresh`, the fainter one is eaten: flux, footprint area, box, peaks and flags go to the eater.  A source taller than the
reach takes no part.  Sources are found by a grid for each size class, so the cost is linear in sources; the grid has what it
needs of each in a short entry of its own.
"""

cimport cython
from libc.math cimport M_PI, pow
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from sextract.deblending._order cimport first_gap, order_indices
from sextract.records cimport Fragment, Source

# Neighbours are compared within this many times the sum of their major axes.
cdef double ZONE = 10.0
# Size classes: class k holds major axes up to 2·2^k, in cells of 32·2^k pixels; 131,072 pixels are enough for the last.
# Newcomers above LARGE look at the whole window instead of at the many cells of their zone.
cdef enum:
    CLASSES = 17
    CELL_BITS = 5
cdef double LARGE = 200.0


cdef struct Entry:
    # What the grid knows of a row of the table.
    double x
    double y
    float a
    int32_t ymin        # OUT if it takes no part (any more)
    int32_t follow      # the next in its bucket
    int32_t size_class

cdef int32_t OUT = -2147483647 - 1

ENTRY_BYTES = sizeof(Entry)


cdef struct Wing:
    # A source's Moffat profile.
    double amplitude
    double alpha
    double cxx
    double cyy
    double cxy


cdef inline bint _placed(const Source *s) noexcept nogil:
    # Pixels near the end of the range of float32 may leave a source without position or size.
    return s.x - s.x == 0.0 and s.y - s.y == 0.0 and s.a - s.a == 0.0


cdef inline Wing _wing(const Source *s, double beta) noexcept nogil:
    cdef Wing w
    cdef double area = M_PI * s.a * s.b, ratio
    w.amplitude = s.fdflux / (2.0 * area * s.abcor)
    ratio = w.amplitude / s.dthresh
    w.alpha = ((ratio if beta == 1.0 else pow(ratio, 1.0 / beta)) - 1.0) * area / s.npix
    w.cxx, w.cyy, w.cxy = s.cxx, s.cyy, s.cxy
    return w


cdef inline bint _explains(const Wing *w, double beta, double dx, double dy, float mthresh) noexcept nogil:
    # Whether a wing exceeds a source's `mthresh` at an offset.
    cdef double val
    if not w.amplitude > mthresh:
        # It falls from there.
        return False
    val = 1.0 + w.alpha * (w.cxx * dx * dx + w.cyy * dy * dy + w.cxy * dx * dy)
    if not (val > 1.0 and val < 1e10):
        return False
    return <float>(w.amplitude * (1.0 / val if beta == 1.0 else pow(val, -beta))) > mthresh


@cython.final
cdef class Cleaner:
    """Window of sources and the grids over it; all arrays are the caller's.

    Parameters
    ----------
    beta : float
        CLEAN_PARAM.
    enabled : bool
        CLEAN; without it sources are only taken in.
    reach : int
        Rows.
    lag : int
        Rows behind the scan line within which the pixels of an eaten source stay masked; −1: none do.
    width, height : int
        Frame.
    heads : int32 array
        Hash table; a power of two entries.
    found : int32 array
        Scratch: who would eat a newcomer, or be eaten by it.  One that has more is compared with the whole window.
    """

    cdef double beta
    cdef bint enabled
    cdef int64_t reach, lag, top_class
    cdef double width, height
    cdef int32_t[::1] heads, found
    cdef uint8_t[::1] _entries
    cdef Entry *entries
    cdef Source[::1] table
    cdef readonly int64_t count

    def __init__(
        self, double beta, bint enabled, int64_t reach, int64_t lag, int64_t width, int64_t height, int32_t[::1] heads,
        int32_t[::1] found,
    ):
        self.width, self.height = width, height
        self.beta, self.enabled, self.reach, self.lag, self.heads = beta, enabled, reach, lag, heads
        self.found = found
        self.count = 0

    def attach(self, Source[::1] table, uint8_t[::1] entries, int64_t count):
        """Use this table, whose first `count` rows are taken, and as many entries; `index` those rows next."""
        self.table, self._entries, self.entries, self.count = table, entries, <Entry *>&entries[0], count
        self.heads[:] = -1
        self.top_class = -1

    def index(self, int64_t first, int64_t last):
        """Enter rows first <= i < last of a table just attached, in ascending order."""
        cdef int64_t i
        for i in range(first, last):
            self._insert(i)

    cdef int64_t _row(self, int64_t k, int64_t cy) noexcept nogil:
        # Where the buckets of a row of cells begin: they follow each other.
        cdef uint64_t z = <uint64_t>k * <uint64_t>0x9E3779B97F4A7C15 ^ <uint64_t>cy * <uint64_t>0xC2B2AE3D27D4EB4F
        z = (z ^ (z >> 29)) * <uint64_t>0xBF58476D1CE4E5B9
        return <int64_t>(z >> 20)

    cdef int32_t *_bucket(self, int64_t row, int64_t cx) noexcept nogil:
        return &self.heads[(row + cx) & (self.heads.shape[0] - 1)]

    cdef int64_t _class(self, double a) noexcept nogil:
        cdef int64_t k = 0
        while k < CLASSES - 1 and a > 2.0 * (1 << k):
            k += 1
        return k

    cdef void _insert(self, int64_t i) noexcept nogil:
        cdef Source *s = &self.table[i]
        cdef Entry *e = &self.entries[i]
        cdef int64_t k
        cdef int32_t *head
        e.ymin = OUT
        if s.number != 0 or not _placed(s):
            return
        k = self._class(s.a)
        head = self._bucket(self._row(k, <int64_t>s.y >> (CELL_BITS + k)), <int64_t>s.x >> (CELL_BITS + k))
        e.x, e.y, e.a, e.ymin, e.size_class = s.x, s.y, s.a, s.ymin, <int32_t>k
        e.follow = head[0]
        head[0] = <int32_t>i
        self.top_class = max(self.top_class, k)

    cdef int64_t _neighbours(self, const Source *s, const Wing *wing) noexcept nogil:
        # Rows of the window that would eat a newcomer or be eaten by it, ascending; −1 if it had better look at all of it.
        cdef int64_t k, cx, cy, n = 0, shift, row, left, right
        cdef double r
        if s.a > LARGE:
            # Its zone holds more cells than the window has members.
            return -1
        for k in range(self.top_class + 1):
            shift = CELL_BITS + k
            r = ZONE * (s.a + 2.0 * (1 << k))
            left, right = <int64_t>max(s.x - r, 0.0) >> shift, <int64_t>min(s.x + r, self.width) >> shift
            for cy in range(<int64_t>max(s.y - r, 0.0) >> shift, (<int64_t>min(s.y + r, self.height) >> shift) + 1):
                row = self._row(k, cy)
                for cx in range(left, right + 1):
                    if self._bucket(row, cx)[0] >= 0:
                        n = self._search(s, wing, self._bucket(row, cx), k, cx, cy, n)
                        if n < 0:
                            return n
        order_indices(&self.found[0], n)
        return n

    cdef int64_t _search(
        self, const Source *s, const Wing *wing, int32_t *link, int64_t k, int64_t cx, int64_t cy, int64_t n
    ) noexcept nogil:
        # Those of a cell, added to `n` found before.
        cdef int64_t shift = CELL_BITS + k, first = s.row - self.reach
        cdef int32_t i
        cdef const Entry *e
        while link[0] >= 0:
            i = link[0]
            e = &self.entries[i]
            # Eaten, numbered, or out of reach for good: drop it from the chain.
            if e.ymin < first:
                link[0] = e.follow
                continue
            link = &self.entries[i].follow
            # Other cells may share the bucket.
            if (
                self._near(s, e) and e.size_class == k and <int64_t>e.x >> shift == cx and <int64_t>e.y >> shift == cy
                and self._meets(s, wing, &self.table[i])
            ):
                if n == self.found.shape[0]:
                    return -1
                self.found[n] = i
                n += 1
        return n

    cdef bint _near(self, const Source *s, const Entry *e) noexcept nogil:
        cdef double dx = s.x - e.x, dy = s.y - e.y, zone = ZONE * (s.a + e.a)
        return dx * dx + dy * dy < zone * zone

    cdef bint _meets(self, const Source *s, const Wing *wing, const Source *o) noexcept nogil:
        # Whether the wing of the brighter one explains the fainter one.
        cdef Wing other
        if o.fdflux < s.fdflux:
            return _explains(wing, self.beta, s.x - o.x, s.y - o.y, o.mthresh)
        other = _wing(o, self.beta)
        return _explains(&other, self.beta, s.x - o.x, s.y - o.y, s.mthresh)

    cdef int64_t _candidate(self, const Source *s, const Wing *wing, int64_t k, bint listed) noexcept nogil:
        # The k-th that meets the newcomer, or −1 if the k-th of the window doesn't.
        cdef const Entry *e = &self.entries[k]
        if listed:
            return self.found[k]
        return k if e.ymin >= s.row - self.reach and self._near(s, e) and self._meets(s, wing, &self.table[k]) else -1

    cdef void _merge(self, int64_t victim, int64_t eater) noexcept nogil:
        cdef Source *v = &self.table[victim]
        cdef Source *e = &self.table[eater]
        e.fdflux += v.fdflux
        e.npix += v.npix
        e.flux_iso += v.flux_iso
        e.var_iso += v.var_iso
        if v.fdpeak > e.fdpeak:
            e.fdpeak = v.fdpeak
            e.xpeak = v.xpeak
            e.ypeak = v.ypeak
        e.peak = max(e.peak, v.peak)
        e.xmin = min(e.xmin, v.xmin)
        e.xmax = max(e.xmax, v.xmax)
        e.ymin = min(e.ymin, v.ymin)
        e.ymax = max(e.ymax, v.ymax)
        e.flags |= v.flags & ~3
        v.number = -1 - eater
        self.entries[victim].ymin = OUT
        self.entries[eater].ymin = e.ymin

    cdef int64_t _free(self, int64_t victim, int64_t line, const uint8_t[::1] slab, Fragment[::1] freed, int64_t n) noexcept nogil:
        # Fragments of an eaten source that are no longer masked.
        cdef const Fragment *f = <const Fragment *>&slab[self.table[victim].fragments]
        cdef int64_t k
        for k in range(self.table[victim].nfragments):
            if self.lag < 0 or f[k].y < line - self.lag:
                freed[n] = f[k]
                n += 1
        return n

    def add(self, int64_t upto, const uint8_t[::1] slab, Fragment[::1] freed):
        """Clean rows ``count`` … `upto` − 1 of the table, which hold newcomers in their order.

        Returns
        -------
        tuple of int
            Fragments written to `freed`, and fragments that it must have room for to go on (0: all done).  `fragments`
            of each source is the byte offset of its fragments in `slab`.
        """
        cdef int64_t n = 0, i, j, k, found, room, eater
        cdef Source *s
        cdef Wing wing
        cdef bint listed
        while self.count < upto:
            i = self.count
            s = &self.table[i]
            self.entries[i].ymin = OUT
            if not self.enabled or s.ymin < s.row - self.reach or not _placed(s):
                self.count += 1
                continue
            wing = _wing(s, self.beta)
            found = self._neighbours(s, &wing)
            listed = found >= 0
            if not listed:
                found = i
            eater = -1
            room = s.nfragments
            for k in range(found):
                j = self._candidate(s, &wing, k, listed)
                if j < 0:
                    continue
                if not self.table[j].fdflux < s.fdflux:
                    eater = j
                    break
                room += self.table[j].nfragments
            if n + room > freed.shape[0]:
                return n, room
            if eater >= 0:
                self._merge(i, eater)
                n = self._free(i, s.row, slab, freed, n)
            else:
                n = self._eat(i, &wing, found, listed, slab, freed, n)
                self._insert(i)
            self.count += 1
        return n, 0

    cdef int64_t _eat(
        self, int64_t i, const Wing *wing, int64_t found, bint listed, const uint8_t[::1] slab, Fragment[::1] freed, int64_t n
    ) noexcept nogil:
        # Merge what newcomer `i` explains, the last first.  All are marked before one is merged, which changes the newcomer.
        cdef int64_t j, k, last = -1
        cdef Source *s = &self.table[i]
        for k in range(found):
            j = self._candidate(s, wing, k, listed)
            if j >= 0:
                self.table[j].number = -1 - i
                last = k
        for k in range(last, -1, -1):
            j = self.found[k] if listed else k
            if self.table[j].number == -1 - i:
                self._merge(j, i)
                n = self._free(j, s.row, slab, freed, n)
        return n

    def number(self, int64_t first, int64_t last, int64_t final_row, int64_t number):
        """Number the survivors in rows [first, last), as far as all are final: first row above `final_row`, or eaten.

        Returns the first row that isn't final, and the last NUMBER given.
        """
        cdef int64_t i = first
        cdef Source *s
        while i < min(last, self.count):
            s = &self.table[i]
            if s.number == 0:
                if s.ymin >= final_row:
                    break
                number += 1
                s.number = number
                self.entries[i].ymin = OUT
            i += 1
        return i, number


# Marks an eaten source that has been painted, or whose eater is gone.
cdef int64_t GONE = -(<int64_t>1 << 62)


cdef int64_t _eater(const Source[::1] table, int64_t i) noexcept nogil:
    # Who has an eaten source in the end; −1 if it wasn't eaten, or the eater is gone.
    if table[i].number >= 0:
        return -1
    while GONE < table[i].number < 0:
        i = -1 - table[i].number
    return i if table[i].number >= 0 else -1


def eaten_by(const Source[::1] table, int64_t first, int64_t last, int64_t[:, ::1] out):
    """What the sources in rows [first, last) have eaten: ``fragments, nfragments, number`` of the eater.

    Returns how many there are; `out` is filled as far as it goes.
    """
    cdef int64_t i, eater, n = 0
    for i in range(table.shape[0]):
        eater = _eater(table, i)
        if first <= eater < last:
            if n < out.shape[0]:
                out[n, 0], out[n, 1], out[n, 2] = table[i].fragments, table[i].nfragments, table[eater].number
            n += 1
    return n


def first_eaten_later(const Source[::1] table, int64_t upto):
    """The first row below `upto` whose eater is in `upto` or behind; `upto` if there is none."""
    cdef int64_t i
    for i in range(upto):
        if _eater(table, i) >= upto:
            return i
    return upto


def drop(Source[::1] table, int64_t n, int64_t first, int64_t last):
    """Rows from `n` on move to the front, to first <= i < last now; who was eaten by a row that goes is marked as gone.

    Portions must come one after the other.
    """
    cdef int64_t i, eater
    for i in range(first, last):
        table[i] = table[i + n]
        if GONE < table[i].number < 0:
            eater = -1 - table[i].number - n
            table[i].number = -1 - eater if eater >= 0 else GONE


def sort_rows(Fragment[::1] fragments):
    """Sort by row, in place."""
    cdef int64_t n = fragments.shape[0], gap = first_gap(n), i, j
    cdef Fragment one
    while gap > 0:
        for i in range(gap, n):
            one = fragments[i]
            j = i
            while j >= gap and fragments[j - gap].y > one.y:
                fragments[j] = fragments[j - gap]
                j -= gap
            fragments[j] = one
        gap //= 3
