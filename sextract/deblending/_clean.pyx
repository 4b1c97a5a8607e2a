"""CLEAN: sources that a neighbour's wings explain are merged into it, in the order in which sources close.

The newcomer is compared with the members of the window: sources whose first row is within CLEAN's reach of the line on which
the newcomer closes.  The wing of the brighter one is a Moffat profile of exponent CLEAN_PARAM; if it exceeds the fainter one's
`mthresh`, the fainter one is eaten: flux, footprint area, box, peaks and flags go to the eater.  A source taller than the
reach takes no part.  Sources are found by a grid for each size class, so the cost is linear in sources.
"""

from libc.math cimport M_PI, pow
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from sextract.deblending._order cimport first_gap, order_indices
from sextract.records cimport Fragment, Source

# Neighbours are compared within this many times the sum of their major axes.
cdef double ZONE = 10.0
# Size classes: class k holds major axes up to 4·2^k, in cells of 64·2^k pixels; 131,072 pixels are enough for the last.
# Newcomers above LARGE look at the whole window instead of at the many cells of their zone.
cdef enum:
    CLASSES = 16
cdef double LARGE = 200.0


cdef inline bint _placed(const Source *s) noexcept nogil:
    # Pixels near the end of the range of float32 may leave a source without position or size.
    return s.x - s.x == 0.0 and s.y - s.y == 0.0 and s.a - s.a == 0.0


cdef inline double _wing(const Source *s, double beta, double dx, double dy) noexcept nogil:
    # The Moffat wing of a source at an offset; negative where it has no meaning.
    cdef double area = M_PI * s.a * s.b
    cdef double amplitude = s.fdflux / (2.0 * area * s.abcor)
    cdef double alpha = (pow(amplitude / s.dthresh, 1.0 / beta) - 1.0) * area / s.npix
    cdef double val = 1.0 + alpha * (s.cxx * dx * dx + s.cyy * dy * dy + s.cxy * dx * dy)
    if val > 1.0 and val < 1e10:
        return amplitude * pow(val, -beta)
    return -1e300 if not val > 1.0 else 0.0


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
        Scratch: neighbours of one newcomer.  One that has more is compared with the whole window.
    """

    cdef double beta
    cdef bint enabled
    cdef int64_t reach, lag
    cdef double width, height
    cdef int32_t[::1] heads, follow, found
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

    def attach(self, Source[::1] table, int32_t[::1] follow, int64_t count):
        """Use this table, whose first `count` rows are taken; `index` them next."""
        self.table, self.follow, self.count = table, follow, count
        self.heads[:] = -1

    def index(self, int64_t first, int64_t last):
        """Enter rows first <= i < last of a table just attached, in ascending order."""
        cdef int64_t i
        for i in range(first, last):
            if self.table[i].number == 0:
                self._insert(i)

    cdef int64_t _bucket(self, int64_t k, int64_t cx, int64_t cy) noexcept nogil:
        cdef uint64_t z = <uint64_t>k * <uint64_t>0x9E3779B97F4A7C15
        z ^= <uint64_t>cx * <uint64_t>0xC2B2AE3D27D4EB4F
        z ^= <uint64_t>cy * <uint64_t>0x165667B19E3779F9
        z = (z ^ (z >> 29)) * <uint64_t>0xBF58476D1CE4E5B9
        return <int64_t>((z >> 20) & <uint64_t>(self.heads.shape[0] - 1))

    cdef int64_t _class(self, double a) noexcept nogil:
        cdef int64_t k = 0
        while k < CLASSES - 1 and a > 4.0 * (1 << k):
            k += 1
        return k

    cdef void _insert(self, int64_t i) noexcept nogil:
        cdef Source *s = &self.table[i]
        cdef int64_t k = self._class(s.a), b
        if not _placed(s):
            return
        b = self._bucket(k, <int64_t>(s.x / (64 << k)), <int64_t>(s.y / (64 << k)))
        self.follow[i] = self.heads[b]
        self.heads[b] = <int32_t>i

    cdef int64_t _neighbours(self, const Source *s) noexcept nogil:
        # Rows of the window within the zone, ascending; −1 if it had better look at all of it.
        cdef int64_t k, cx, cy, n = 0, first = s.row - self.reach
        cdef double r, size
        cdef int32_t i
        cdef int32_t *link
        cdef Source *o
        if s.a > LARGE:
            # Its zone holds more cells than the window has members.
            return -1
        for k in range(CLASSES):
            size = 64 << k
            r = ZONE * (s.a + 4.0 * (1 << k))
            for cy in range(<int64_t>(max(s.y - r, 0.0) / size), <int64_t>(min(s.y + r, self.height) / size) + 1):
                for cx in range(<int64_t>(max(s.x - r, 0.0) / size), <int64_t>(min(s.x + r, self.width) / size) + 1):
                    link = &self.heads[self._bucket(k, cx, cy)]
                    while link[0] >= 0:
                        i = link[0]
                        o = &self.table[i]
                        # Eaten, numbered, or out of reach for good: drop it from the chain.
                        if o.number != 0 or o.ymin < first:
                            link[0] = self.follow[i]
                            continue
                        link = &self.follow[i]
                        # Other cells may share the bucket.
                        if self._class(o.a) != k or <int64_t>(o.x / size) != cx or <int64_t>(o.y / size) != cy:
                            continue
                        if not self._near(s, o):
                            continue
                        if n == self.found.shape[0]:
                            return -1
                        self.found[n] = i
                        n += 1
        order_indices(&self.found[0], n)
        return n

    cdef bint _near(self, const Source *s, const Source *o) noexcept nogil:
        cdef double dx = s.x - o.x, dy = s.y - o.y, zone = ZONE * (s.a + o.a)
        return dx * dx + dy * dy < zone * zone

    cdef int64_t _candidate(self, const Source *s, int64_t k, bint listed) noexcept nogil:
        # The k-th member of the window to compare with, −1 if it is none.
        cdef const Source *o = &self.table[k]
        if listed:
            return self.found[k]
        return k if o.number == 0 and o.ymin >= s.row - self.reach and _placed(o) and self._near(s, o) else -1

    cdef bint _eats(self, const Source *s, const Source *o) noexcept nogil:
        # Whether the wing of a brighter source explains a fainter one.
        return <float>_wing(s, self.beta, s.x - o.x, s.y - o.y) > o.mthresh

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
        cdef Source *o
        cdef bint listed
        while self.count < upto:
            i = self.count
            s = &self.table[i]
            if not self.enabled or s.ymin < s.row - self.reach or not _placed(s):
                self.count += 1
                continue
            found = self._neighbours(s)
            listed = found >= 0
            if not listed:
                found = i
            eater = -1
            room = s.nfragments
            for k in range(found):
                j = self._candidate(s, k, listed)
                if j < 0:
                    continue
                o = &self.table[j]
                if not o.fdflux < s.fdflux:
                    if self._eats(o, s):
                        eater = j
                        break
                elif self._eats(s, o):
                    room += o.nfragments
            if n + room > freed.shape[0]:
                return n, room
            if eater >= 0:
                self._merge(i, eater)
                n = self._free(i, s.row, slab, freed, n)
            else:
                n = self._eat(i, found, listed, slab, freed, n)
                self._insert(i)
            self.count += 1
        return n, 0

    cdef int64_t _eat(
        self, int64_t i, int64_t found, bint listed, const uint8_t[::1] slab, Fragment[::1] freed, int64_t n
    ) noexcept nogil:
        # Merge what newcomer `i` explains, the last first.  All are marked before one is merged, which changes the newcomer.
        cdef int64_t j, k, last = -1
        cdef Source *s = &self.table[i]
        for k in range(found):
            j = self._candidate(s, k, listed)
            if j >= 0 and self.table[j].fdflux < s.fdflux and self._eats(s, &self.table[j]):
                self.table[j].number = -1 - i
                last = k
        for k in range(last, -1, -1):
            j = self.found[k] if listed else k
            if self.table[j].number == -1 - i:
                self._merge(j, i)
                n = self._free(j, s.row, slab, freed, n)
        return n

    def number(self, int64_t first, int64_t final_row, int64_t number):
        """Number the survivors from row `first` on, as far as all are final: first row above `final_row`, or eaten.

        Returns the first row that isn't final, and the last NUMBER given.
        """
        cdef int64_t i = first
        cdef Source *s
        while i < self.count:
            s = &self.table[i]
            if s.number == 0:
                if s.ymin >= final_row:
                    break
                number += 1
                s.number = number
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
