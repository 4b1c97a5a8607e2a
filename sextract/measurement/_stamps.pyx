"""Marks, in a box, the pixels that a source may not see: what the scan found above the threshold, less its own.

Runs of a tile lie in the slab as ``row_start`` (int32, rows + 1) followed by ``RUN``s, sorted.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t

from sextract.memory._held cimport Held, held_copy
from sextract.records cimport Fragment, Run


def copy_held(
    const float[::1] slab, const int64_t[::1] tiles, int64_t height, int64_t width, int64_t tile_height, int64_t tile_width,
    int64_t halo_y, int64_t halo_x, int64_t y0, int64_t x0, float[:, ::1] out,
):
    """Copy a box out of held tiles (see ``memory/_held.pxd``); False if one of its tiles isn't held."""
    cdef Held h
    h.slab, h.offset = &slab[0], &tiles[0]
    h.height, h.width, h.th, h.tw = height, width, tile_height, tile_width
    h.ntx = (width + tile_width - 1) // tile_width
    h.hy, h.hx = halo_y, halo_x
    return held_copy(&h, y0, x0, y0 + out.shape[0], x0 + out.shape[1], &out[0, 0], out.shape[1])


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
