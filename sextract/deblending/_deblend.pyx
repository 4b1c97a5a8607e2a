"""Splits footprints into sources: multi-threshold tree, sharing of what is left, isophotal analysis.

A footprint is a sparse list of pixels; nothing here is ever as large as its bounding box but a strip of rows from which its
values are taken.  Storage is the caller's: a scratch block, and the blocks for sources and fragments.

The tree: levels T_k = T·(peak/T)^(k/N), k = 1 … N−1, on filtered values; branches of at least min(MINAREA, 3) pixels; a branch
counts if Σf − T_k·n > MINCONT·Σf of the footprint; where two or more children of a node count, those that aren't split
further up are sources.  Pixels in none of them go to one of them at random with SExtractor's probabilities, the draw being a
hash of extension, x and y (``_share.pxd``), so that it depends on the pixel alone.
"""

cimport cython
from libc.math cimport M_PI, exp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memmove

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
)
from sextract.deblending._leaves cimport collect
from sextract.deblending._share cimport draw_owners, set_reach, shared
from sextract.deblending._lists cimport (
    Cursor,
    List,
    chain_of,
    cursor,
    index,
    list_isophotal,
    list_of,
    list_shape,
    on_edge,
    count_rows,
    place_rows,
    raster_order,
    sort_rows,
    sum_rows,
)
from sextract.deblending._tree cimport NO_ROOM, OVERFLOW, TOO_LARGE, tree
from sextract.deblending._work cimport (
    CHUNK,
    MAX_LEAVES,
    Leaf,
    Node,
    Sort,
    Work,
    fixed_bytes,
    lacks,
    take_bytes,
)
from sextract.detection._filter cimport filter_values
from sextract.detection._lutz cimport Component, Label, Piece
from sextract.memory._held cimport Held, Tile, held_copy, held_whole
from sextract.records cimport Footprint, Fragment, Run, Source

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define sx_fetch(p) __builtin_prefetch(p)
    #else
    #define sx_fetch(p)
    #endif
    """
    void sx_fetch(const float *p) noexcept nogil

# What stopped `Deblender.run`.
DONE, MISSING, SCRATCH, OUTPUT, LARGE = 0, 1, 2, 3, 4

# Scratch that a pixel of a footprint may take.  Smooth ones take 13 to 15 bytes, filtered noise that hangs together 22.  Unfiltered
# noise (34) and chessboards (58), of single pixels that are all fragments and peaks, are split up to half of the cap or so.
cpdef enum:
    PIXEL_BYTES = 24


def most_scratch(int64_t pixels, int64_t width, int64_t height, int64_t nthresh, int64_t minarea):
    """Bytes of scratch that are enough for any footprint of an image.

    Parameters
    ----------
    pixels : int
        The smaller of FOOTPRINT_MAXPIX and the pixels of the image.
    width, height, nthresh, minarea : int
        Frame, DEBLEND_NTHRESH, DETECT_MINAREA.
    """
    return PIXEL_BYTES * pixels + fixed_bytes(width, height, nthresh, minarea)


def share_draw(extension, x, y):
    """The draw of a pixel in [0, 1), for tests."""
    return shared(extension, x, y)


@cython.final
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
        Footprints with more are analysed as a whole, without being split, and get FLAGS bit 128; those too of fewer pixels
        that would need more than `most_scratch` to be split, for their many fragments and peaks.
    """

    cdef const float[:, ::1] taps
    cdef const float[:, ::1] back
    cdef int64_t extension, cell_width, cell_height, maxarea
    cdef public int64_t most_pixels
    cdef Sums sums
    cdef Areas areas
    cdef Brightest brightest
    cdef Source large
    cdef int32_t large_edge
    cdef Work w
    cdef Held held
    cdef object _keep
    cdef const Footprint[::1] footprints
    cdef const Fragment[::1] fragments
    cdef uint8_t[::1] scratch
    cdef Source[::1] sources
    cdef Fragment[::1] pieces
    cdef readonly int64_t nsources, npieces, needed_sources, needed_pieces

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
        self.w.most = PIXEL_BYTES * min(most_pixels, width * height) + fixed_bytes(width, height, nthresh, minarea)

    def begin(
        self, const Footprint[::1] footprints, const Fragment[::1] fragments, uint8_t[::1] scratch, Source[::1] sources,
        Fragment[::1] pieces, const float[::1] slab, const int64_t[::1] tiles, int64_t tile_height, int64_t tile_width,
        int64_t halo_y, int64_t halo_x,
    ):
        """Set the batch, the storage, and the tiles held in the slab (see ``memory/_held.pxd``)."""
        self.footprints, self.fragments, self.scratch = footprints, fragments, scratch
        self.sources, self.pieces = sources, pieces
        self.w.scratch, self.w.room = &scratch[0], scratch.shape[0]
        self.nsources = self.npieces = self.w.needed = self.needed_sources = self.needed_pieces = 0
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
            many pixels or fragments: `begin_large`, `order_large`, `fold_large` over its rows, `middle_large`, `fold_large` again,
            `end_large`).  `needed_sources` and
            `needed_pieces` are what would have been enough after OUTPUT.
        """
        cdef int64_t i = first
        cdef int32_t why = 0
        with nogil:
            while i < self.footprints.shape[0]:
                self._fetch(i + 1)
                why = 4 if self._large(i) else self._prepare(i)
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

    cdef bint _large(self, int64_t i) noexcept nogil:
        return self.footprints[i].npix > self.most_pixels or self._list_bytes(&self.footprints[i]) > self.w.most

    cdef int64_t _list_bytes(self, const Footprint *f) noexcept nogil:
        # Its fragments, the values of its pixels, and what is needed to walk through lists.
        cdef int64_t rows = f.ymax - f.ymin + 3
        return (
            f.nfragments * <int64_t>sizeof(Pixels) + f.npix * 8 + rows * 4
            + min(f.npix, <int64_t>CHUNK) * <int64_t>sizeof(Pixels) + self.w.facts.minarea * 4 + 128
        )

    cdef int32_t _prepare(self, int64_t i) noexcept nogil:
        # Lay out the first part of the scratch, and sort.
        cdef const Footprint *f = &self.footprints[i]
        cdef Work *w = &self.w
        cdef int64_t k, at = 0, rows = f.ymax - f.ymin + 1
        w.used = 0
        if lacks(w, self._list_bytes(f)):
            # What follows is known when the values are; this is about enough.
            w.needed = min(w.most, w.needed + f.npix * 8 + w.nthresh * <int64_t>(32 * sizeof(Node)))
            return 2
        w.npix, w.nfragments, w.ymin, w.list = f.npix, f.nfragments, f.ymin, &self.fragments[f.fragments]
        w.raster = <Pixels *>take_bytes(w, w.nfragments * sizeof(Pixels))
        w.filtered = <float *>take_bytes(w, w.npix * 4)
        w.image = <float *>take_bytes(w, w.npix * 4)
        w.row_start = <int32_t *>take_bytes(w, (rows + 2) * 4)
        w.chunk = <Pixels *>take_bytes(w, min(w.npix, <int64_t>CHUNK) * sizeof(Pixels))
        w.heap = <float *>take_bytes(w, w.facts.minarea * 4)
        raster_order(w.list, w.nfragments, w.ymin, rows, w.row_start, <int32_t *>w.raster, sizeof(Pixels) // 4)
        for k in range(w.nfragments):
            w.raster[k].at = <int32_t>at
            at += w.raster[k].x1 - w.raster[k].x0
        return 0

    cdef bint _full(self, int64_t sources, int64_t pieces) noexcept nogil:
        # Whether the output has no room for so many more.
        if self.nsources + sources <= self.sources.shape[0] and self.npieces + pieces <= self.pieces.shape[0]:
            return False
        self.needed_sources = self.nsources + sources
        self.needed_pieces = self.npieces + pieces
        return True

    def begin_large(self, int64_t i):
        """Begin a footprint that is too large to be split: DONE, SCRATCH or OUTPUT."""
        cdef const Footprint *f = &self.footprints[i]
        cdef Work *w = &self.w
        cdef int64_t k, rows = f.ymax - f.ymin + 1, columns = f.xmax - f.xmin + 1
        if self._full(1, f.nfragments):
            return 3
        w.used = 0
        if lacks(w, (rows + 2) * 4 + columns * 8 + w.facts.minarea * 4 + 128):
            return 2
        w.filtered = <float *>take_bytes(w, columns * 4)
        w.image = <float *>take_bytes(w, columns * 4)
        w.row_start = <int32_t *>take_bytes(w, (rows + 2) * 4)
        self.brightest.heap = <float *>take_bytes(w, w.facts.minarea * 4)
        self.brightest.m, self.brightest.seen = w.facts.minarea, 0
        w.ymin, w.nfragments = f.ymin, f.nfragments
        for k in range(rows + 2):
            w.row_start[k] = 0
        begin_sums(&self.sums, f.xmin, f.ymin)
        self.large_edge = 0
        return 0

    def order_large(self, int64_t i, bint place, int64_t first, int64_t most, int64_t jumps):
        """Take fragments `first` …: all once, then all again with `place`; the next one.

        Its list is that of the raster, made where it is wanted, in the output.  Fragments come in any order: a call ends after
        `most` of them, or when it has jumped that often to another page of the output.
        """
        cdef const Footprint *f = &self.footprints[i]
        cdef Work *w = &self.w
        cdef const Fragment *src = &self.fragments[f.fragments]
        cdef int64_t last = min(first + most, w.nfragments)
        with nogil:
            if not place:
                count_rows(src + first, last - first, w.ymin, w.row_start)
                if last == w.nfragments:
                    sum_rows(w.row_start, f.ymax - f.ymin + 1)
            else:
                last = first + place_rows(
                    src + first, last - first, w.ymin, w.row_start, <int32_t *>&self.pieces[self.npieces],
                    sizeof(Fragment) // 4, jumps,
                )
        return last

    def fold_large(self, int64_t i, bint second, int64_t ya, int64_t yb, const float[:, ::1] block, int64_t y0, int64_t x0):
        """Fold rows ya <= y < yb, top first, from a block as in `strip`; all rows once, then all again with `second`."""
        cdef int64_t k, x
        cdef Work *w = &self.w
        cdef const Fragment *f
        cdef Pixels p
        if not second:
            sort_rows(w.row_start, ya - w.ymin, yb - w.ymin, <int32_t *>&self.pieces[self.npieces], sizeof(Fragment) // 4)
        for k in range(w.row_start[ya - w.ymin], w.row_start[yb - w.ymin]):
            f = &self.pieces[self.npieces + k]
            p.y, p.x0, p.x1, p.at = f.y, f.x0, f.x1, 0
            for x in range(p.x0, p.x1):
                w.image[x - p.x0] = w.filtered[x - p.x0] = block[p.y - y0, x - x0]
            if self.taps.shape[0]:
                filter_values(&block[0, 0], block.shape[1], block.shape[0], block.shape[1], &self.taps[0, 0],
                              self.taps.shape[0], self.taps.shape[1], p.y - y0, p.x0 - x0, p.x1 - x0, w.filtered, False)
            if second:
                count_areas(&self.areas, &p, 1, w.image, w.facts.threshold, self.large.peak)
                add_areas(&self.areas, &self.large, &p, 1, w.filtered, w.image, &w.facts)
            else:
                if on_edge(w, &p):
                    self.large_edge = 8
                add_sums(&self.sums, &p, 1, w.filtered, w.image)
                add_brightest(&self.brightest, &p, 1, w.filtered, w.facts.threshold)

    def middle_large(self):
        """Between the two passes of `fold_large`."""
        end_sums(&self.large, &self.sums, False)
        self.large.flags = 128 | self.large_edge
        self.large.bkg = self._background(<int64_t>(self.large.x + 0.5), <int64_t>(self.large.y + 0.5))
        begin_areas(&self.areas, &self.large, &self.w.facts)

    def end_large(self, int64_t i):
        """Finish: it has its source, unless DETECT_MAXAREA rejects it."""
        cdef const Footprint *f = &self.footprints[i]
        cdef Source *s = &self.large
        end_areas(s, &self.areas, &self.w.facts)
        s.abcor = area_correction(&self.areas, s, self.w.facts.threshold)
        s.mthresh = self.brightest.heap[0] if self.brightest.seen >= self.brightest.m else <float>0.0
        if not self.maxarea or s.npix <= self.maxarea:
            self._book(f, s)
            s.sorted = 1
            self.sources[self.nsources] = s[0]
            self._keep_pieces(self.npieces, f.nfragments)

    cdef void _fetch(self, int64_t i) noexcept nogil:
        # Have the first pixels of the next footprint's rows on their way from memory.
        cdef const Footprint *f
        cdef Tile tile
        cdef int64_t y
        if i >= self.footprints.shape[0]:
            return
        f = &self.footprints[i]
        if held_whole(&self.held, f.ymin, f.xmin, f.ymax + 1, f.xmax + 1, &tile):
            for y in range(f.ymin, min(f.ymax + 1, f.ymin + 32)):
                sx_fetch(tile.pixels + (y - tile.y0) * tile.cols + f.xmin - tile.x0)
                sx_fetch(tile.pixels + (y - tile.y0) * tile.cols + f.xmax - tile.x0)

    cdef bint _values(self, int64_t i) noexcept nogil:
        # Values out of the tile that has it all, or, strip by strip of what is left of the scratch, out of those that are held;
        # False if one isn't.
        cdef const Footprint *f = &self.footprints[i]
        cdef int64_t hy = self.taps.shape[0] // 2, hx = self.taps.shape[1] // 2
        cdef int64_t xa = max(f.xmin - hx, 0), xb = min(f.xmax + 1 + hx, self.w.facts.width), width = xb - xa
        cdef int64_t room = (self.w.room - self.w.used) // 4 // width - 2 * hy, y = f.ymin, ye, ya, yb
        cdef float *block = <float *>(self.w.scratch + self.w.used)
        cdef Tile tile
        if held_whole(&self.held, f.ymin, f.xmin, f.ymax + 1, f.xmax + 1, &tile):
            self._take(tile.pixels, tile.y0, tile.x0, tile.rows, tile.cols, f.ymin, f.ymin, f.ymax + 1)
            return True
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
        cdef int64_t k
        cdef const float *src
        for k in range(w.row_start[ya - ymin], w.row_start[yb - ymin]):
            p = &w.raster[k]
            src = block + (p.y - y0) * cols + p.x0 - x0
            memcpy(w.image + p.at, src, (p.x1 - p.x0) * 4)
            if not self.taps.shape[0]:
                memcpy(w.filtered + p.at, src, (p.x1 - p.x0) * 4)
            else:
                filter_values(block, cols, rows, cols, &self.taps[0, 0], self.taps.shape[0], self.taps.shape[1],
                              p.y - y0, p.x0 - x0, p.x1 - x0, &w.filtered[p.at], False)

    cdef int32_t _split(self, int64_t i) noexcept nogil:
        # The tree, then the sources; 0, SCRATCH or OUTPUT.
        cdef const Footprint *f = &self.footprints[i]
        cdef Work *w = &self.w
        cdef int64_t k, leaves, used = w.used
        cdef int32_t why, flags = 0
        cdef float peak = -1e30
        for k in range(w.npix):
            if w.filtered[k] > peak:
                peak = w.filtered[k]
        leaves = tree(w, f, peak)
        if leaves == NO_ROOM:
            w.needed = max(w.needed, min(w.most, used + w.nnodes * <int64_t>sizeof(Node) + self._share_bytes(64)))
            return 2
        if leaves == OVERFLOW or leaves > MAX_LEAVES:
            flags = 64
        elif leaves == TOO_LARGE:
            flags = 128
        elif leaves >= 2:
            # The nodes are still needed, the tree's runs are not.
            w.used = used + (w.nnodes * <int64_t>sizeof(Node) + 15) // 16 * 16
            if w.used + self._share_bytes(leaves) > w.most:
                flags = 128
            else:
                why = 2 if lacks(w, self._share_bytes(leaves)) else self._share(f, peak, leaves)
                w.used = used
                return why
        w.used = used
        return self._whole(f, flags)

    cdef int32_t _whole(self, const Footprint *f, int32_t flags) noexcept nogil:
        # One source, of all pixels.
        cdef List l = list_of(self.w.list, self.w.nfragments)
        if self._full(1, l.n):
            return 3
        if self._accept(f, &l, &self.sources[self.nsources], flags, False):
            memcpy(&self.pieces[self.npieces], l.array, l.n * sizeof(Fragment))
            self._keep_pieces(self.npieces, l.n)
        return 0

    cdef bint _accept(self, const Footprint *f, const List *l, Source *s, int32_t flags, bint part) noexcept nogil:
        # Analyse one source; False if DETECT_MAXAREA rejects it.  A part keeps the centre and the edge of its leaf.
        cdef Cursor c = cursor(l)
        cdef int32_t edge = list_shape(&self.w, l, &c, s, self.w.facts.threshold, part)
        if self.maxarea and s.npix > self.maxarea:
            return False
        s.flags = flags if part else flags | edge
        s.bkg = self._background(<int64_t>(s.x + 0.5), <int64_t>(s.y + 0.5))
        list_isophotal(&self.w, l, &c, s)
        self._book(f, s)
        return True

    cdef void _book(self, const Footprint *f, Source *s) noexcept nogil:
        # What isn't measured.
        s.parent, s.number, s.row, s.dbkg, s.spare, s.sorted = f.parent, 0, f.row, 0.0, 0, 0

    cdef void _keep_pieces(self, int64_t first, int64_t n) noexcept nogil:
        # The fragments of the source just accepted, which may have to close up to those before them.
        cdef Source *s = &self.sources[self.nsources]
        if first != self.npieces:
            memmove(&self.pieces[self.npieces], &self.pieces[first], n * sizeof(Fragment))
        s.fragments = self.npieces
        s.nfragments = n
        self.npieces += n
        self.nsources += 1

    cdef float _background(self, int64_t x, int64_t y) noexcept nogil:
        return node_value(self.back, self.cell_width, self.cell_height, x, y)

    cdef int64_t _share_bytes(self, int64_t leaves) noexcept nogil:
        # Scratch to find the pixels of leaves and share what is left.
        cdef Work *w = &self.w
        return (
            leaves * <int64_t>(sizeof(Leaf) + sizeof(Sort) + 8) + w.npix * 2 + (2 * w.npeaks + w.row_peaks + 2) * <int64_t>sizeof(Piece)
            + (2 * w.row_peaks + 2) * <int64_t>(sizeof(Component) + sizeof(Label)) + w.row_peaks * <int64_t>sizeof(Run) + 256
        )

    cdef int32_t _share(self, const Footprint *f, float peak, int64_t leaves) noexcept nogil:
        # Leaves in list order at their own levels, what is left given to them, and their analysis; 0 or OUTPUT.
        cdef Work *w = &self.w
        cdef int64_t k, c, first, npieces = 2 * w.npeaks + w.row_peaks + 2, ncomponents = 2 * w.row_peaks + 2, total = 0
        cdef List l
        cdef Source *s
        w.leaves = <Leaf *>take_bytes(w, leaves * sizeof(Leaf))
        w.sort = <Sort *>take_bytes(w, leaves * sizeof(Sort))
        w.chance = <double *>take_bytes(w, leaves * 8)
        w.owner = <uint16_t *>take_bytes(w, w.npix * 2)
        w.pieces = <Piece *>take_bytes(w, npieces * sizeof(Piece))
        w.components = <Component *>take_bytes(w, ncomponents * sizeof(Component))
        w.labels = <Label *>take_bytes(w, 2 * w.row_peaks * sizeof(Label))
        w.runs = <Run *>take_bytes(w, w.row_peaks * sizeof(Run))
        for k in range(w.npix):
            w.owner[k] = 0
        collect(w, f, peak, leaves, npieces, ncomponents)
        for c in range(leaves):
            self._leaf_shape(&w.leaves[c])
        draw_owners(w, self.extension, leaves)
        for c in range(leaves):
            total += w.leaves[c].count
        if self._full(leaves, total):
            return 3
        self._lay_out(leaves)
        first = self.npieces
        for c in range(leaves):
            s = &self.sources[self.nsources]
            s.x, s.y = w.leaves[c].x, w.leaves[c].y
            l = list_of(&self.pieces[first], w.leaves[c].count)
            if self._accept(f, &l, s, w.leaves[c].flags, True):
                self._keep_pieces(first, l.n)
            first += l.n
        return 0

    cdef void _leaf_shape(self, Leaf *leaf) noexcept nogil:
        # Where a leaf is, and its profile.
        cdef Source s
        cdef List l = chain_of(self.w.pieces, leaf.head, leaf.npieces)
        cdef Cursor c = cursor(&l)
        cdef double d
        leaf.flags = 2 | list_shape(&self.w, &l, &c, &s, leaf.threshold, False)
        leaf.x, leaf.y, leaf.cxx, leaf.cyy, leaf.cxy, leaf.abcor = s.x, s.y, s.cxx, s.cyy, s.cxy, s.abcor
        d = s.npix / (2.0 * M_PI * s.abcor * s.a * s.b)
        leaf.amplitude = self.w.facts.threshold * exp(d) if d < 70.0 else 4.0 * s.fdpeak
        if leaf.amplitude > 4.0 * s.fdpeak:
            leaf.amplitude = 4.0 * s.fdpeak
        leaf.count = leaf.npieces
        set_reach(leaf)

    cdef void _lay_out(self, int64_t leaves) noexcept nogil:
        # The lists of all sources one after the other in the output: the leaf, then what it was given.
        cdef Work *w = &self.w
        cdef int64_t c, k, j, n, last, at = self.npieces
        cdef int32_t piece, x
        cdef Leaf *leaf
        cdef Fragment *p
        for c in range(leaves):
            leaf = &w.leaves[c]
            leaf.start = at
            at += leaf.count
            piece = leaf.head
            while piece >= 0:
                p = &self.pieces[leaf.start]
                p.y, p.x0, p.x1 = w.pieces[piece].y, w.pieces[piece].x0, w.pieces[piece].x1
                leaf.start += 1
                piece = w.pieces[piece].next
        for k in range(w.nfragments):
            j = index(w, w.list[k].y, w.list[k].x0)
            last = -1
            for x in range(w.list[k].x0, w.list[k].x1):
                if w.owner[j] & 1:
                    last = -1
                else:
                    n = w.owner[j] // 2 - 1
                    leaf = &w.leaves[n]
                    if n != last:
                        p = &self.pieces[leaf.start]
                        p.y, p.x0 = w.list[k].y, x
                        leaf.start += 1
                        last = n
                    self.pieces[leaf.start - 1].x1 = x + 1
                j += 1
