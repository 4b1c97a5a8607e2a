# The filter as both the scan and the analysis of footprints apply it: the same bits wherever it is evaluated.
from libc.stdint cimport int64_t


cdef inline void filter_values(
    const float *block, int64_t stride, int64_t rows, int64_t cols, const float *taps, int64_t kh, int64_t kw,
    int64_t y, int64_t x0, int64_t x1, float *out, bint guard,
) noexcept nogil:
    # out[x - x0] for x0 <= x < x1 of row y, all relative to the block; what lies outside the block counts nothing.
    cdef int64_t i, j, x, yy, a, b, n = x1 - x0
    cdef float tap
    cdef const float *src
    for x in range(n):
        out[x] = 0.0
    for j in range(kh):
        yy = y + j - kh // 2
        if yy < 0 or yy >= rows:
            continue
        for i in range(kw):
            tap = taps[j * kw + i]
            a = max(x0, kw // 2 - i)
            b = min(x1, cols + kw // 2 - i)
            src = block + yy * stride + i - kw // 2
            for x in range(a, b):
                out[x - x0] += tap * src[x]
    if not guard:
        return
    for j in range(kh):
        yy = y + j - kh // 2
        if yy < 0 or yy >= rows:
            continue
        for i in range(kw):
            if taps[j * kw + i] == 0.0:
                continue
            a = max(x0, kw // 2 - i)
            b = min(x1, cols + kw // 2 - i)
            src = block + yy * stride + i - kw // 2
            for x in range(a, b):
                if src[x] < <float>-1e29:
                    out[x - x0] = <float>-1e30
