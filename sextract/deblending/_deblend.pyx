"""Splits footprints into sources: multi-threshold tree, sharing of what is left, isophotal analysis.

A footprint is a sparse list of pixels; nothing here is ever as large as its bounding box but a strip of rows from which its
values are taken.  Storage is the caller's: a scratch block, and the blocks for sources and fragments.

The tree: levels T_k = T·(peak/T)^(k/N), k = 1 … N−1, on filtered values; branches of at least min(MINAREA, 3) pixels; a branch
counts if Σf − T_k·n > MINCONT·Σf of the footprint; where two or more children of a node count, those that aren't split
further up are sources.  Pixels in none of them go to one of them at random with SExtractor's probabilities, the draw being a
hash of extension, x and y (`shared`), so that it depends on the pixel alone.
"""

from libc.math cimport M_PI, exp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from sextract.background._nodes cimport node_value
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
    count_areas,
    end_areas,
    end_sums,
    isophotal,
    nth_brightest,
    shape,
)
from sextract.deblending._leaves cimport collect
from sextract.deblending._order cimport Sort, order
from sextract.deblending._tree cimport tree
from sextract.deblending._work cimport Level, Node, Work, take_bytes
from sextract.detection._filter cimport filter_values
from sextract.detection._lutz cimport Component, Label, Piece
from sextract.memory._held cimport Held, held_copy
from sextract.records cimport Footprint, Fragment, Run, Source

# What stopped `Deblender.run`.
DONE, MISSING, SCRATCH, OUTPUT, LARGE = 0, 1, 2, 3, 4


cdef inline double shared(int64_t extension, int32_t x, int32_t y) noexcept nogil:
    # A number in [0, 1) for a pixel (splitmix64 of its position).
    cdef uint64_t z = (<uint64_t>y << 32) ^ <uint64_t>x ^ (<uint64_t>extension * <uint64_t>0x9E3779B97F4A7C15)
    z += <uint64_t>0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    z = z ^ (z >> 31)
    return <double>(z >> 11) * (1.0 / 9007199254740992.0)


def share_draw(extension, x, y):
    """The draw of a pixel in [0, 1), for tests."""
    return shared(extension, x, y)


cdef class Deblender:
    """Works through a batch of footprints.

    Parameters
    ----------
    extension : int
        EXT_NUMBER, part of the draw of shared pixels.
    width, height : int
        Frame.
    taps : float32 array (kh, kw)
        The filter, (0, 0) for none.
    nthresh, mincont, minarea, maxarea : int, float, int, int
        DEBLEND_NTHRESH, DEBLEND_MINCONT, DETECT_MINAREA, DETECT_MAXAREA.
    threshold, analysis : float
        Detection and analysis thresholds, ADU.
    rms, gain, saturation : float
        ADU, e-/ADU, ADU.
    back : float32 array (ny, nx)
        Background mesh; cell_width, cell_height its cells in pixels.
    most_pixels : int
        Footprints with more are analysed as a whole, without being split, and get FLAGS bit 128.
    """

    cdef const float[:, ::1] taps
    cdef const float[:, ::1] back
    cdef int64_t extension, cell_width, cell_height, maxarea
    cdef public int64_t most_pixels
    cdef Sums sums
    cdef Areas areas
    cdef Brightest brightest
    cdef Source large
    cdef Work w
    cdef Held held
    cdef object _keep
    cdef const Footprint[::1] footprints
    cdef const Fragment[::1] fragments
    cdef uint8_t[::1] scratch
    cdef Source[::1] sources
    cdef Fragment[::1] pieces
    cdef readonly int64_t nsources, npieces

    def __init__(
        self, int64_t extension, int64_t width, int64_t height, const float[:, ::1] taps, int64_t nthresh, double mincont,
        int64_t minarea, int64_t maxarea, float threshold, float analysis, double rms, double gain, float saturation,
        const float[:, ::1] back, int64_t cell_width, int64_t cell_height, int64_t most_pixels,
    ):
        self.most_pixels = most_pixels
        self.extension = extension
        self.taps = taps
        self.back = back
        self.cell_width, self.cell_height = cell_width, cell_height
        self.w.nthresh, self.w.mincont, self.maxarea = nthresh, mincont, maxarea
        self.w.facts.width, self.w.facts.height = width, height
        self.w.facts.minarea = minarea
        self.w.facts.rms2 = rms * rms
        self.w.facts.gain = gain
        self.w.facts.threshold, self.w.facts.analysis, self.w.facts.saturation = threshold, analysis, saturation

    def begin(
        self, const Footprint[::1] footprints, const Fragment[::1] fragments, uint8_t[::1] scratch, Source[::1] sources,
        Fragment[::1] pieces, const float[::1] slab, const int64_t[::1] tiles, int64_t tile_height, int64_t tile_width,
        int64_t halo_y, int64_t halo_x,
    ):
        """Set the batch, the storage, and the tiles held in the slab (see ``memory/_held.pxd``)."""
        self.footprints, self.fragments, self.scratch = footprints, fragments, scratch
        self.sources, self.pieces = sources, pieces
        self.w.scratch, self.w.room = &scratch[0], scratch.shape[0]
        self.nsources = self.npieces = self.w.needed = 0
        self._keep = (slab, tiles)
        self.held.slab, self.held.offset = &slab[0], &tiles[0]
        self.held.height, self.held.width = self.w.facts.height, self.w.facts.width
        self.held.th, self.held.tw = tile_height, tile_width
        self.held.ntx = (self.w.facts.width + tile_width - 1) // tile_width
        self.held.hy, self.held.hx = halo_y, halo_x

    @property
    def needed(self):
        """Scratch that would have been enough, bytes, after SCRATCH."""
        return self.w.needed

    def run(self, int64_t first):
        """Do footprints `first` …; how far it came, and why it stopped there.

        Returns
        -------
        tuple of int
            Index of the next footprint, and DONE, MISSING (tiles of it aren't held: give its values by `strip`, then
            call `finish`), SCRATCH (it needs `needed` bytes of scratch), OUTPUT (the output is full) or LARGE (it has too
            many pixels: `begin_large`, `fold_large` over its rows twice, `end_large`).
        """
        cdef int64_t i = first
        cdef int32_t why = 0
        with nogil:
            while i < self.footprints.shape[0]:
                why = 4 if self.footprints[i].npix > self.most_pixels else self._prepare(i)
                if why == 0 and not self._values(i):
                    why = 1
                if why == 0:
                    why = self._split(i)
                if why:
                    break
                i += 1
        return i, why

    def prepare(self, int64_t i):
        """Lay out the scratch of footprint `i`; False if it is too small."""
        return self._prepare(i) == 0

    def strip(self, int64_t i, int64_t ya, int64_t yb, const float[:, ::1] block, int64_t y0, int64_t x0):
        """Take the values of rows ya <= y < yb from a block of pixels whose first pixel is (y0, x0).

        The block holds the rows and columns of the footprint and the filter's halo, cut to the frame.
        """
        self._take(&block[0, 0], y0, x0, block.shape[0], block.shape[1], self.footprints[i].ymin, ya, yb)

    def finish(self, int64_t i):
        """Split footprint `i`, all of whose values are known: DONE, SCRATCH or OUTPUT."""
        return self._split(i)

    cdef int32_t _prepare(self, int64_t i) noexcept nogil:
        # Lay out the first part of the scratch, and sort.
        cdef const Footprint *f = &self.footprints[i]
        cdef Work *w = &self.w
        cdef int64_t need = f.nfragments * <int64_t>(sizeof(Sort) + sizeof(Pixels) + 4) + f.npix * 12 + 512
        need += (f.ymax - f.ymin + 2) * 4
        if need > self.w.room:
            self.w.needed = need + f.npix * 16
            return 2
        w.used = 0
        w.filtered = <float *>take_bytes(&self.w, f.npix * 4)
        w.image = <float *>take_bytes(&self.w, f.npix * 4)
        w.owner = <int32_t *>take_bytes(&self.w, f.npix * 4)
        self._sort_fragments(f)
        return 0

    cdef void _sort_fragments(self, const Footprint *f) noexcept nogil:
        # The fragments in raster order, where each list entry is in it, and where each row begins.
        cdef const Fragment *src = &self.fragments[f.fragments]
        cdef int64_t n = f.nfragments, k, at = 0, rows = f.ymax - f.ymin + 1, y = 0
        cdef Work *w = &self.w
        w.npix, w.nfragments = f.npix, n
        w.raster = <Pixels *>take_bytes(&self.w, n * sizeof(Pixels))
        w.order = <int32_t *>take_bytes(&self.w, n * 4)
        w.row_start = <int32_t *>take_bytes(&self.w, (rows + 1) * 4)
        w.sort = <Sort *>take_bytes(&self.w, n * sizeof(Sort))
        for k in range(n):
            w.sort[k].key = (<int64_t>src[k].y << 32) | src[k].x0
            w.sort[k].index = <int32_t>k
        order(w.sort, n)
        for k in range(n):
            w.order[w.sort[k].index] = <int32_t>k
            w.raster[k].y = src[w.sort[k].index].y
            w.raster[k].x0 = src[w.sort[k].index].x0
            w.raster[k].x1 = src[w.sort[k].index].x1
            w.raster[k].at = <int32_t>at
            at += w.raster[k].x1 - w.raster[k].x0
            while y <= w.raster[k].y - f.ymin:
                w.row_start[y] = <int32_t>k
                y += 1
        w.row_start[rows] = <int32_t>n
        # What was sorted is no longer needed.
        w.used = <uint8_t *>w.sort - self.w.scratch

    def begin_large(self, int64_t i):
        """Begin a footprint that is too large to be split; False if its scratch or the output is too small (`needed`)."""
        cdef const Footprint *f = &self.footprints[i]
        cdef int64_t need = f.nfragments * <int64_t>(sizeof(Sort) + sizeof(Pixels) + 4) + (f.ymax - f.ymin + 2) * 4 + 512
        need += (f.xmax - f.xmin + 1) * 8 + self.w.facts.minarea * 4
        if need > self.w.room:
            self.w.needed = need
            return False
        self.w.used = 0
        self.w.filtered = <float *>take_bytes(&self.w, (f.xmax - f.xmin + 1) * 4)
        self.w.image = <float *>take_bytes(&self.w, (f.xmax - f.xmin + 1) * 4)
        self.brightest.heap = <float *>take_bytes(&self.w, self.w.facts.minarea * 4)
        self.brightest.m, self.brightest.seen = self.w.facts.minarea, 0
        self._sort_fragments(f)
        begin_sums(&self.sums, f.xmin, f.ymin)
        return True

    def fold_large(self, int64_t i, bint second, int64_t ya, int64_t yb, const float[:, ::1] block, int64_t y0, int64_t x0):
        """Fold rows ya <= y < yb, top first, from a block as in `strip`; all rows once, then all again with `second`."""
        cdef int64_t k, x
        cdef const Footprint *f = &self.footprints[i]
        cdef Work *w = &self.w
        cdef Pixels p
        for k in range(w.row_start[ya - f.ymin], w.row_start[yb - f.ymin]):
            p = w.raster[k]
            p.at = 0
            for x in range(p.x0, p.x1):
                w.image[x - p.x0] = w.filtered[x - p.x0] = block[p.y - y0, x - x0]
            if self.taps.shape[0]:
                filter_values(&block[0, 0], block.shape[1], block.shape[0], block.shape[1], &self.taps[0, 0],
                              self.taps.shape[0], self.taps.shape[1], p.y - y0, p.x0 - x0, p.x1 - x0, w.filtered, False)
            if second:
                count_areas(&self.areas, &p, 1, w.image, self.w.facts.threshold, self.large.peak)
                add_areas(&self.areas, &self.large, &p, 1, w.filtered, w.image, &self.w.facts)
            else:
                add_sums(&self.sums, &p, 1, w.filtered, w.image)
                add_brightest(&self.brightest, &p, 1, w.filtered, self.w.facts.threshold)

    def middle_large(self):
        """Between the two passes of `fold_large`."""
        end_sums(&self.large, &self.sums, False)
        self.large.flags = 128
        self.large.bkg = self._background(<int64_t>(self.large.x + 0.5), <int64_t>(self.large.y + 0.5))
        begin_areas(&self.areas, &self.large, &self.w.facts)

    def end_large(self, int64_t i):
        """Finish; True, or False if the output is full."""
        cdef const Footprint *f = &self.footprints[i]
        cdef Source *s = &self.large
        cdef int64_t k
        if self.nsources + 1 > self.sources.shape[0] or self.npieces + f.nfragments > self.pieces.shape[0]:
            return False
        end_areas(s, &self.areas, &self.w.facts)
        s.abcor = area_correction(&self.areas, s, self.w.facts.threshold)
        s.flags |= self._edge(self.w.raster, f.nfragments)
        s.mthresh = self.brightest.heap[0] if self.brightest.seen >= self.brightest.m else <float>0.0
        s.parent, s.number, s.row, s.dbkg, s.spare = f.parent, 0, f.row, 0.0, 0
        if not self.maxarea or s.npix <= self.maxarea:
            self.sources[self.nsources] = s[0]
            self._write(self.w.raster, f.nfragments)
        return True

    cdef bint _values(self, int64_t i) noexcept nogil:
        # Values out of held tiles, strip by strip of what is left of the scratch; False if a tile isn't held.
        cdef const Footprint *f = &self.footprints[i]
        cdef int64_t hy = self.taps.shape[0] // 2, hx = self.taps.shape[1] // 2
        cdef int64_t xa = max(f.xmin - hx, 0), xb = min(f.xmax + 1 + hx, self.w.facts.width), width = xb - xa
        cdef int64_t room = (self.w.room - self.w.used) // 4 // width - 2 * hy, y = f.ymin, ye, ya, yb
        cdef float *block = <float *>(self.w.scratch + self.w.used)
        if room < 1:
            return False
        while y <= f.ymax:
            ye = min(y + room, f.ymax + 1)
            ya = max(y - hy, 0)
            yb = min(ye + hy, self.w.facts.height)
            if not held_copy(&self.held, ya, xa, yb, xb, block, width):
                return False
            self._take(block, ya, xa, yb - ya, width, f.ymin, y, ye)
            y = ye
        return True

    cdef void _take(
        self, const float *block, int64_t y0, int64_t x0, int64_t rows, int64_t cols, int64_t ymin, int64_t ya, int64_t yb
    ) noexcept nogil:
        # Filtered and unfiltered values of the footprint's pixels in rows ya <= y < yb.
        cdef Work *w = &self.w
        cdef Pixels *p
        cdef int64_t k, x
        cdef const float *src
        for k in range(w.row_start[ya - ymin], w.row_start[yb - ymin]):
            p = &w.raster[k]
            src = block + (p.y - y0) * cols - x0
            for x in range(p.x0, p.x1):
                w.image[p.at + x - p.x0] = src[x]
                w.filtered[p.at + x - p.x0] = src[x]
            if self.taps.shape[0]:
                filter_values(block, cols, rows, cols, &self.taps[0, 0], self.taps.shape[0], self.taps.shape[1],
                              p.y - y0, p.x0 - x0, p.x1 - x0, &w.filtered[p.at], False)

    cdef int32_t _split(self, int64_t i) noexcept nogil:
        # The tree, then the sources; 0, SCRATCH or OUTPUT.
        cdef const Footprint *f = &self.footprints[i]
        cdef Work *w = &self.w
        cdef int64_t k, n = w.nfragments, leaves, used = w.used
        cdef int32_t flags = 0
        cdef float peak = -1e30
        cdef Pixels *whole
        for k in range(w.npix):
            if w.filtered[k] > peak:
                peak = w.filtered[k]
        leaves = tree(&self.w, f, peak)
        if leaves == -2:
            return 2
        if leaves == -1:
            flags = 64
        if leaves >= 2:
            k = self._share(f, peak, leaves)
            w.used = used
            return <int32_t>k
        w.used = used
        if (n * <int64_t>sizeof(Pixels) + self.w.facts.minarea * 4 + 64) > self.w.room - w.used:
            self.w.needed = self.w.room + n * sizeof(Pixels) + self.w.facts.minarea * 4 + 64
            return 2
        whole = <Pixels *>take_bytes(&self.w, n * sizeof(Pixels))
        w.heap = <float *>take_bytes(&self.w, self.w.facts.minarea * 4)
        for k in range(n):
            whole[k] = w.raster[w.order[k]]
        if self.nsources + 1 > self.sources.shape[0] or self.npieces + n > self.pieces.shape[0]:
            w.used = used
            return 3
        if self._accept(f, whole, n, &self.sources[self.nsources], flags | self._edge(whole, n), False):
            self._write(whole, n)
        w.used = used
        return 0

    cdef int32_t _edge(self, const Pixels *p, int64_t n) noexcept nogil:
        # FLAGS bit 8: a pixel on the frame's edge.
        cdef int64_t k
        for k in range(n):
            if p[k].y == 0 or p[k].y == self.w.facts.height - 1 or p[k].x0 == 0 or p[k].x1 == self.w.facts.width:
                return 8
        return 0

    cdef bint _accept(
        self, const Footprint *f, const Pixels *p, int64_t n, Source *s, int32_t flags, bint keep_centre
    ) noexcept nogil:
        # Analyse one source; False if DETECT_MAXAREA rejects it.
        shape(s, p, n, self.w.filtered, self.w.image, self.w.facts.threshold, keep_centre)
        if self.maxarea and s.npix > self.maxarea:
            return False
        s.parent = f.parent
        s.number = 0
        s.row = f.row
        s.flags = flags
        s.dbkg = 0.0
        s.spare = 0
        s.bkg = self._background(<int64_t>(s.x + 0.5), <int64_t>(s.y + 0.5))
        s.mthresh = nth_brightest(p, n, self.w.filtered, self.w.facts.threshold, self.w.facts.minarea, self.w.heap)
        isophotal(s, p, n, self.w.filtered, self.w.image, &self.w.facts)
        return True

    cdef void _write(self, const Pixels *p, int64_t n) noexcept nogil:
        # The fragments of the source just accepted.
        cdef int64_t k
        cdef Source *s = &self.sources[self.nsources]
        s.fragments = self.npieces
        s.nfragments = n
        for k in range(n):
            self.pieces[self.npieces].y = p[k].y
            self.pieces[self.npieces].x0 = p[k].x0
            self.pieces[self.npieces].x1 = p[k].x1
            self.npieces += 1
        self.nsources += 1

    cdef float _background(self, int64_t x, int64_t y) noexcept nogil:
        return node_value(self.back, self.cell_width, self.cell_height, x, y)

    cdef int64_t _share(self, const Footprint *f, float peak, int64_t leaves) noexcept nogil:
        # Leaves in list order at their own levels, what is left given to them, and their analysis; 0, 2 or 3.
        cdef Work *w = &self.w
        cdef int64_t k, j, n, c, npieces, total, start, x, width, need, last
        cdef Source *s
        cdef Pixels *p
        cdef Pixels *all_
        cdef double d, sum_, draw, near, dx, dy
        cdef int32_t flags
        cdef int64_t *counts
        # The tree's runs are no longer needed, its nodes are.
        w.used = <uint8_t *>w.level - self.w.scratch if w.level < w.next_level else <uint8_t *>w.next_level - self.w.scratch
        width = f.xmax - f.xmin + 3
        npieces = 2 * w.npeaks + 2 * width
        need = (
            npieces * sizeof(Piece) + (width + 2) * (sizeof(Component) + 2 * sizeof(Label) + sizeof(Run))
            + (2 * w.npeaks + leaves) * sizeof(Pixels) + leaves * (sizeof(Source) + sizeof(Sort) + 5 * 8)
            + self.w.facts.minarea * 4 + 512
        )
        if need > self.w.room - w.used:
            self.w.needed = w.used + need + w.npix * 8
            return 2
        w.leaves = <Source *>take_bytes(&self.w, leaves * sizeof(Source))
        w.leaf_start = <int64_t *>take_bytes(&self.w, leaves * 8)
        w.leaf_stop = <int64_t *>take_bytes(&self.w, leaves * 8)
        counts = <int64_t *>take_bytes(&self.w, leaves * 8)
        w.amplitude = <double *>take_bytes(&self.w, leaves * 8)
        w.chance = <double *>take_bytes(&self.w, leaves * 8)
        w.heap = <float *>take_bytes(&self.w, self.w.facts.minarea * 4)
        w.sort = <Sort *>take_bytes(&self.w, leaves * sizeof(Sort))
        w.leaf = <Pixels *>take_bytes(&self.w, (2 * w.npeaks + leaves) * sizeof(Pixels))
        start = w.used
        w.pieces = <Piece *>take_bytes(&self.w, npieces * sizeof(Piece))
        w.components = <Component *>take_bytes(&self.w, (width + 2) * sizeof(Component))
        w.labels = <Label *>take_bytes(&self.w, (width + 2) * 2 * sizeof(Label))
        w.runs = <Run *>take_bytes(&self.w, (width + 2) * sizeof(Run))
        collect(&self.w, f, peak, npieces, width, leaves)
        w.used = start
        for k in range(w.npix):
            w.owner[k] = -1
        for c in range(leaves):
            s = &w.leaves[c]
            p = w.leaf + w.leaf_start[c]
            n = w.leaf_stop[c] - w.leaf_start[c]
            shape(s, p, n, w.filtered, w.image, s.dthresh, False)
            s.flags = 2 | self._edge(p, n)
            d = s.npix / (2.0 * M_PI * s.abcor * s.a * s.b)
            w.amplitude[c] = self.w.facts.threshold * exp(d) if d < 70.0 else 4.0 * s.fdpeak
            if w.amplitude[c] > 4.0 * s.fdpeak:
                w.amplitude[c] = 4.0 * s.fdpeak
            counts[c] = n
            for j in range(n):
                for x in range(p[j].at, p[j].at + p[j].x1 - p[j].x0):
                    w.owner[x] = <int32_t>c
        # Draw an owner for each pixel that is left, in the order of the footprint's list; count the fragments it makes.
        for k in range(w.nfragments):
            p = &w.raster[w.order[k]]
            last = -1
            for x in range(p.x0, p.x1):
                j = p.at + x - p.x0
                if w.owner[j] >= 0:
                    last = -1
                    continue
                sum_ = 0.0
                near = 1e300
                n = 0
                for c in range(leaves):
                    s = &w.leaves[c]
                    dx = x - s.x
                    dy = p.y - s.y
                    d = 0.5 * (s.cxx * dx * dx + s.cyy * dy * dy + s.cxy * dx * dy) / s.abcor
                    if d < near:
                        near = d
                        n = c
                    sum_ += w.amplitude[c] * exp(-d) if d < 70.0 else 0.0
                    w.chance[c] = sum_
                if sum_ > 1.0e-31:
                    draw = sum_ * shared(self.extension, <int32_t>x, p.y)
                    for c in range(leaves):
                        if w.chance[c] >= draw:
                            n = c
                            break
                w.owner[j] = <int32_t>(-2 - n)
                if n != last:
                    counts[n] += 1
                    last = n
        # Lay the lists of all sources out one after the other: the leaf, then what it was given.
        total = 0
        for c in range(leaves):
            total += counts[c]
        if self.nsources + leaves > self.sources.shape[0] or self.npieces + total > self.pieces.shape[0]:
            return 3
        if total * <int64_t>sizeof(Pixels) + 64 > self.w.room - w.used:
            self.w.needed = w.used + total * sizeof(Pixels) + 64 + w.npix * 8
            return 2
        all_ = <Pixels *>take_bytes(&self.w, total * sizeof(Pixels))
        total = 0
        for c in range(leaves):
            n = w.leaf_stop[c] - w.leaf_start[c]
            for j in range(n):
                all_[total + j] = w.leaf[w.leaf_start[c] + j]
            w.leaf_start[c] = total
            w.leaf_stop[c] = total + n
            total += counts[c]
        for k in range(w.nfragments):
            p = &w.raster[w.order[k]]
            last = -1
            for x in range(p.x0, p.x1):
                j = p.at + x - p.x0
                if w.owner[j] >= 0:
                    last = -1
                    continue
                n = -2 - w.owner[j]
                if n != last:
                    all_[w.leaf_stop[n]].y = p.y
                    all_[w.leaf_stop[n]].x0 = <int32_t>x
                    all_[w.leaf_stop[n]].at = <int32_t>j
                    w.leaf_stop[n] += 1
                    last = n
                all_[w.leaf_stop[n] - 1].x1 = <int32_t>(x + 1)
        for c in range(leaves):
            self.sources[self.nsources] = w.leaves[c]
            n = w.leaf_stop[c] - w.leaf_start[c]
            flags = w.leaves[c].flags
            if self._accept(f, all_ + w.leaf_start[c], n, &self.sources[self.nsources], flags, True):
                self._write(all_ + w.leaf_start[c], n)
        return 0
