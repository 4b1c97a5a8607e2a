"""Stamps of a batch: where they lie, what is there already, and the pixels of those that aren't.

A stamp is cut out of held tiles; what the scan found above the threshold is blanked in it by the tile's runs, and the
source's own pixels and those that CLEAN freed are copied again.  Runs of a tile lie in the slab as ``row_start`` (int32,
rows + 1) followed by ``RUN``s, sorted.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t

from sextract.measurement._window cimport span
from sextract.memory._held cimport Held, held_copy
from sextract.records cimport Fragment, Run, Source

cdef struct Masks:
    const uint8_t *slab
    const int64_t *runs
    const Fragment *freed
    int64_t nfreed


def boxes(
    const int64_t[::1] index, const double[:] cx, const double[:] cy, const double[:] hx, const double[:] hy,
    int64_t width, int64_t height, int64_t margin, const int64_t[:, ::1] have, const int64_t[::1] offset,
    int64_t[:, ::1] need, uint8_t[::1] covers,
):
    """Boxes about some centres, cut to the frame, and whether the stamps that are there cover them.

    Parameters
    ----------
    index : int64 array (m,)
        Sources.
    cx, cy, hx, hy : float64 arrays (n,)
        Centres and half-sizes of all sources, pixels.
    width, height, margin : int
        The frame, and what is added to half-sizes.
    have : int64 array (n, 4)
        ``x0, y0, x1, y1`` of the stamps that are there.
    offset : int64 array (n,)
        Where they are; −1: there is none.
    need : int64 array (m, 4)
        Filled: the boxes.
    covers : uint8 array (m,)
        Filled: 1 where the stamp holds all of the box.

    Returns
    -------
    tuple of int
        The first row of all boxes, and their last row + 1.
    """
    cdef Py_ssize_t k
    cdef int64_t i, top = height, bottom = 0
    with nogil:
        for k in range(index.shape[0]):
            i = index[k]
            span(cx[i], hx[i], width, margin, &need[k, 0], &need[k, 2])
            span(cy[i], hy[i], height, margin, &need[k, 1], &need[k, 3])
            top, bottom = min(top, need[k, 1]), max(bottom, need[k, 3])
            covers[k] = (
                offset[i] >= 0 and have[i, 0] <= need[k, 0] and have[i, 1] <= need[k, 1] and have[i, 2] >= need[k, 2]
                and have[i, 3] >= need[k, 3]
            )
    return top, bottom


def copy_held(
    const float[::1] slab, const int64_t[::1] tiles, int64_t height, int64_t width, int64_t tile_height, int64_t tile_width,
    int64_t halo_y, int64_t halo_x, int64_t y0, int64_t x0, float[:, ::1] out,
):
    """Copy a box out of held tiles (see ``memory/_held.pxd``); False if one of its tiles isn't held."""
    cdef Held h = _held(&slab[0], &tiles[0], height, width, tile_height, tile_width, halo_y, halo_x)
    return held_copy(&h, y0, x0, y0 + out.shape[0], x0 + out.shape[1], &out[0, 0], out.shape[1])


def cut(
    const float[::1] floats, const int64_t[::1] tiles, int64_t height, int64_t width, int64_t tile_height,
    int64_t tile_width, int64_t halo_y, int64_t halo_x, const uint8_t[::1] slab, const int64_t[::1] runs,
    const Source[::1] sources, const Fragment[::1] freed, bint masking, const int64_t[::1] index,
    const int64_t[:, ::1] box, const int64_t[::1] offset, float[::1] arena, Py_ssize_t first, int64_t most,
):
    """Cut the stamps of a batch, from number `first` on, as far as their tiles are held.

    Parameters
    ----------
    floats, tiles, height, width, tile_height, tile_width, halo_y, halo_x
        The slab, and the tiles held there (see ``memory/_held.pxd``).
    slab : uint8 array
        The same slab.
    runs : int64 array
        Byte offset in the slab of each tile's runs (row-major); −1 where there are none to hide.
    sources : SOURCE array (n,)
        ``fragments`` is the byte offset of the source's own pixels in the slab.
    freed : FRAGMENT array
        Pixels that all sources see, sorted by row.
    masking : bool
        Whether anything is hidden.
    index : int64 array (m,)
        Whose stamps.
    box : int64 array (m, 4)
        ``x0, y0, x1, y1``.
    offset : int64 array (m,)
        Where each goes in `arena`, row by row.
    arena : float32 array
    first : int
    most : int
        Pixels of a stamp: none with more is cut here.

    Returns
    -------
    int
        The stamp that couldn't be cut, or is too large, or m.
    """
    cdef Held h = _held(&floats[0], &tiles[0], height, width, tile_height, tile_width, halo_y, halo_x)
    cdef Masks m
    cdef Py_ssize_t k = first, count = index.shape[0]
    cdef const Source *s
    cdef int64_t w
    cdef float *out
    m.slab, m.runs, m.freed, m.nfreed = &slab[0], &runs[0], NULL, freed.shape[0]
    if m.nfreed:
        m.freed = &freed[0]
    with nogil:
        while k < count:
            w = box[k, 2] - box[k, 0]
            if w > 0 and box[k, 3] > box[k, 1]:
                if w * (box[k, 3] - box[k, 1]) > most:
                    break
                out = &arena[offset[k]]
                if not held_copy(&h, box[k, 1], box[k, 0], box[k, 3], box[k, 2], out, w):
                    break
                if masking:
                    blank(&h, &m, &box[k, 0], out)
                    s = &sources[index[k]]
                    show_rows(&h, <const Fragment *>&slab[s.fragments], s.nfragments, s.sorted, &box[k, 0], out)
                    show_rows(&h, m.freed, m.nfreed, True, &box[k, 0], out)
            k += 1
    return k


def hide(
    float[:, ::1] out, int64_t y0, int64_t x0, const uint8_t[::1] slab, const int64_t[::1] runs, int64_t width,
    int64_t tile_height, int64_t tile_width, const Fragment[::1] own, const Fragment[::1] freed, uint8_t[::1] mask,
):
    """Set the pixels of other detections in a box to BAD.

    Parameters
    ----------
    out : float32 array (h, w)
        The box, whose first pixel is (y0, x0); changed in place.
    slab : uint8 array
    runs : int64 array
        Byte offset in the slab of each tile's runs (row-major); −1 where there are none to hide.
    own, freed : FRAGMENT arrays
        The source's own pixels, and those of sources that CLEAN removed: seen.
    mask : uint8 array
        Scratch, h·w or more.
    """
    cdef int64_t h = out.shape[0], w = out.shape[1], ntx = (width + tile_width - 1) // tile_width
    cdef int64_t y, x, tx, off, k, lo, hi, mid, rows, n = h * w, a, b
    cdef const int32_t *start
    cdef const Run *run
    with nogil:
        for k in range(n):
            mask[k] = 0
        for y in range(y0, y0 + h):
            for tx in range(x0 // tile_width, (x0 + w - 1) // tile_width + 1):
                off = runs[y // tile_height * ntx + tx]
                if off < 0:
                    continue
                start = <const int32_t *>&slab[off]
                rows = tile_height + 1
                run = <const Run *>(start + rows)
                lo = start[y % tile_height]
                hi = start[y % tile_height + 1]
                b = hi
                # First run that ends right of the box's left side.
                while lo < hi:
                    mid = (lo + hi) // 2
                    if run[mid].x1 <= x0:
                        lo = mid + 1
                    else:
                        hi = mid
                while lo < b and run[lo].x0 < x0 + w:
                    for x in range(max(<int64_t>run[lo].x0, x0), min(<int64_t>run[lo].x1, x0 + w)):
                        mask[(y - y0) * w + x - x0] = 1
                    lo += 1
        for k in range(own.shape[0]):
            _show(&own[k], y0, x0, h, w, &mask[0])
        for k in range(freed.shape[0]):
            _show(&freed[k], y0, x0, h, w, &mask[0])
        for y in range(h):
            for x in range(w):
                if mask[y * w + x]:
                    out[y, x] = <float>-1e30


cdef inline void _show(const Fragment *f, int64_t y0, int64_t x0, int64_t h, int64_t w, uint8_t *mask) noexcept nogil:
    cdef int64_t x
    if f.y < y0 or f.y >= y0 + h:
        return
    for x in range(max(<int64_t>f.x0, x0), min(<int64_t>f.x1, x0 + w)):
        mask[(f.y - y0) * w + x - x0] = 0


cdef inline Held _held(
    const float *slab, const int64_t *tiles, int64_t height, int64_t width, int64_t tile_height, int64_t tile_width,
    int64_t halo_y, int64_t halo_x,
) noexcept nogil:
    cdef Held h
    h.slab, h.offset = slab, tiles
    h.height, h.width, h.th, h.tw = height, width, tile_height, tile_width
    h.ntx = (width + tile_width - 1) // tile_width
    h.hy, h.hx = halo_y, halo_x
    return h


cdef void blank(const Held *h, const Masks *m, const int64_t *box, float *out) noexcept nogil:
    # Every pixel of the box that the scan found above the threshold.
    cdef int64_t x0 = box[0], x1 = box[2], y, tx, off, lo, hi, mid, x
    cdef const int32_t *start
    cdef const Run *run
    cdef const Run *end
    cdef float *row
    for y in range(box[1], box[3]):
        row = out + (y - box[1]) * (x1 - x0) - x0
        for tx in range(x0 // h.tw, (x1 - 1) // h.tw + 1):
            off = m.runs[y // h.th * h.ntx + tx]
            if off < 0:
                continue
            start = <const int32_t *>(m.slab + off)
            run = <const Run *>(start + h.th + 1)
            lo, hi = start[y % h.th], start[y % h.th + 1]
            end = run + hi
            # First run that ends right of the box's left side.
            while lo < hi:
                mid = (lo + hi) // 2
                if run[mid].x1 <= x0:
                    lo = mid + 1
                else:
                    hi = mid
            run += lo
            while run < end and run.x0 < x1:
                for x in range(max(<int64_t>run.x0, x0), min(<int64_t>run.x1, x1)):
                    row[x] = <float>-1e30
                run += 1


cdef void show(const Held *h, const Fragment *f, int64_t n, const int64_t *box, float *out) noexcept nogil:
    # Copy these pixels again.
    cdef int64_t k, xa, xb, w = box[2] - box[0]
    for k in range(n):
        if box[1] <= f[k].y < box[3]:
            xa, xb = max(<int64_t>f[k].x0, box[0]), min(<int64_t>f[k].x1, box[2])
            if xa < xb:
                held_copy(h, f[k].y, xa, f[k].y + 1, xb, out + (f[k].y - box[1]) * w + xa - box[0], w)


cdef inline void show_rows(
    const Held *h, const Fragment *f, int64_t n, bint sorted_, const int64_t *box, float *out
) noexcept nogil:
    # The same without looking at those of other rows, if they are sorted.
    cdef int64_t a = 0, b = n
    if sorted_:
        a, b = _first_from(f, n, box[1]), _first_from(f, n, box[3])
    show(h, f + a, b - a, box, out)


cdef inline int64_t _first_from(const Fragment *f, int64_t n, int64_t y) noexcept nogil:
    # The first fragment in row y or below.
    cdef int64_t lo = 0, hi = n, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if f[mid].y < y:
            lo = mid + 1
        else:
            hi = mid
    return lo
