# The tiles that a task may read in the slab: where each is, and a copy of any box out of them.
from libc.stdint cimport int64_t
from libc.string cimport memcpy

cdef struct Held:
    const float *slab
    const int64_t *offset   # per tile, row-major: index of its block's first float in the slab, -1 if it isn't held
    int64_t height          # of the frame
    int64_t width
    int64_t th              # rows and columns of a tile
    int64_t tw
    int64_t ntx             # tiles across
    int64_t hy              # halo of a tile's block
    int64_t hx

cdef struct Tile:
    # A tile with its halo, where it lies: its rows follow each other.
    const float *pixels
    int64_t y0
    int64_t x0
    int64_t rows
    int64_t cols


cdef inline bint held_whole(const Held *h, int64_t y0, int64_t x0, int64_t y1, int64_t x1, Tile *tile) noexcept nogil:
    # The tile that a box lies in; False if it lies in several, or the tile isn't held.
    cdef int64_t ty = y0 // h.th, tx = x0 // h.tw
    if (y1 - 1) // h.th != ty or (x1 - 1) // h.tw != tx or h.offset[ty * h.ntx + tx] < 0:
        return False
    tile.pixels = h.slab + h.offset[ty * h.ntx + tx]
    tile.y0 = max(ty * h.th - h.hy, 0)
    tile.x0 = max(tx * h.tw - h.hx, 0)
    tile.rows = min((ty + 1) * h.th + h.hy, h.height) - tile.y0
    tile.cols = min((tx + 1) * h.tw + h.hx, h.width) - tile.x0
    return True


cdef inline bint held_copy(
    const Held *h, int64_t y0, int64_t x0, int64_t y1, int64_t x1, float *out, int64_t stride
) noexcept nogil:
    # Pixels of a box inside the frame, row by row at `stride`; False if one of its tiles isn't held.
    cdef int64_t ty, tx, ya, yb, xa, xb, by, bx, bw, y, off
    for ty in range(y0 // h.th, (y1 - 1) // h.th + 1):
        ya = max(y0, ty * h.th)
        yb = min(y1, (ty + 1) * h.th)
        by = max(ty * h.th - h.hy, 0)
        for tx in range(x0 // h.tw, (x1 - 1) // h.tw + 1):
            off = h.offset[ty * h.ntx + tx]
            if off < 0:
                return False
            xa = max(x0, tx * h.tw)
            xb = min(x1, (tx + 1) * h.tw)
            bx = max(tx * h.tw - h.hx, 0)
            bw = min((tx + 1) * h.tw + h.hx, h.width) - bx
            for y in range(ya, yb):
                memcpy(out + (y - y0) * stride + xa - x0, h.slab + off + (y - by) * bw + xa - bx, (xb - xa) * 4)
    return True
