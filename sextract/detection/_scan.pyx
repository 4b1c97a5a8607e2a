"""Filters and thresholds the pixels of a tile: rows of float32 in, runs above the threshold out.

The filter is a correlation accumulated in float32 in kernel order, tap after tap (SExtractor's FILTER); pixels outside
the frame count nothing.  A pixel with a bad pixel under a tap that isn't zero is never above the threshold.
"""

from libc.stdint cimport int32_t, int64_t

from sextract.detection._filter cimport filter_values
from sextract.records cimport Run

cdef extern from *:
    """
    /* How many of the next values aren't above the threshold. */
    SX_FILTER_CLONES static int64_t sx_below(const float *values, int64_t n, float threshold) {
        int64_t x = 0;
        for (; x + 32 <= n; x += 32) {
            int above = 0;
            for (int i = 0; i < 32; i++)
                above |= values[x + i] > threshold;
            if (above)
                break;
        }
        while (x < n && !(values[x] > threshold))
            x++;
        return x;
    }
    """
    int64_t sx_below(const float *values, int64_t n, float threshold) noexcept nogil


def filter_row(
    const float[:, ::1] block, const float[:, ::1] taps, int64_t y, int64_t x0, int64_t x1, float[::1] out, bint guard
):
    """Filtered values of row `y`, columns x0 <= x < x1 of a block (float32), into `out` (x1 − x0,).

    `guard` says that the block has bad pixels: what is under a non-zero tap of them becomes bad.  Without taps
    (shape (0, 0)) the values are copied.
    """
    cdef int64_t x
    if taps.shape[0] == 0:
        for x in range(x0, x1):
            out[x - x0] = block[y, x]
        return
    filter_values(&block[0, 0], block.shape[1], block.shape[0], block.shape[1], &taps[0, 0], taps.shape[0], taps.shape[1],
                y, x0, x1, &out[0], guard)


def scan(
    const float[:, ::1] block, const float[:, ::1] taps, int64_t y0, int64_t x0, int64_t y1, int64_t x1,
    int64_t column, float threshold, bint guard, float[::1] line, int32_t[::1] row_start, Run[::1] runs, int64_t first_row,
):
    """Runs of pixels above the threshold in rows y0 <= y < y1, columns x0 <= x < x1 of a block with its halo.

    Parameters
    ----------
    block : float32 array
        Background-subtracted pixels of the tile and its halo, cut to the frame.
    taps : float32 array (kh, kw)
        The kernel; shape (0, 0) for no filter.
    y0, x0, y1, x1 : int
        The tile, relative to the block.
    column : int
        Absolute column of the tile's first pixel, added to what is written.
    threshold : float
        ADU; the test is strictly greater.
    guard : bool
        The block has bad pixels.
    line : float32 array (x1 − x0,)
        Scratch.
    row_start : int32 array (y1 − y0 + 1,)
        Index of each row's first run, written.
    runs : RUN array
        Written, columns absolute.
    first_row : int
        Row of the tile to begin with (0 unless a call had too little room).

    Returns
    -------
    int
        Rows done; less than y1 − y0 if `runs` has no room for the next row.
    """
    cdef int64_t y, x, n, w = x1 - x0, kh = taps.shape[0], kw = taps.shape[1]
    cdef const float *values
    cdef float *buffer = &line[0]
    cdef int32_t r
    with nogil:
        if first_row == 0:
            row_start[0] = 0
        y = first_row
        while y < y1 - y0:
            r = row_start[y]
            if r + (w + 1) // 2 > runs.shape[0]:
                break
            if kh:
                filter_values(&block[0, 0], block.shape[1], block.shape[0], block.shape[1], &taps[0, 0], kh, kw,
                            y0 + y, x0, x1, buffer, guard)
                values = buffer
            else:
                values = &block[y0 + y, x0]
            x = 0
            while x < w:
                x += sx_below(values + x, w - x, threshold)
                if x == w:
                    break
                n = x + 1
                while n < w and values[n] > threshold:
                    n += 1
                runs[r].x0 = <int32_t>(column + x)
                runs[r].x1 = <int32_t>(column + n)
                r += 1
                x = n + 1
            row_start[y + 1] = r
            y += 1
    return y
