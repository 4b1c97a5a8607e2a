# Access to the pixels of a window (see measure.Windows), shared by all measurement kernels.
from libc.math cimport ceil, floor, isfinite
from libc.stdint cimport int64_t

cdef enum:
    OFFSET = 0
    X0 = 1
    Y0 = 2
    X1 = 3
    Y1 = 4

cdef inline bint usable(float value) noexcept nogil:
    # Neither bad nor masked: records.BAD is -1e30.
    return value > <float>-1e29

cdef inline float at(const float *pixels, const int64_t *window, int64_t x, int64_t y) noexcept nogil:
    # Pixel (x, y), or BAD outside the window.
    if x < window[X0] or x >= window[X1] or y < window[Y0] or y >= window[Y1]:
        return <float>-1e30
    return pixels[window[OFFSET] + (y - window[Y0]) * (window[X1] - window[X0]) + x - window[X0]]

cdef inline float mirrored(
    const float *pixels, const int64_t *window, double cx, double cy, int64_t x, int64_t y
) noexcept nogil:
    # The pixel opposite (x, y) about the centre, or 0: truncated toward zero, so that -0.3 is column 0.
    cdef float value = at(pixels, window, <int64_t>(2 * cx + 0.49999 - x), <int64_t>(2 * cy + 0.49999 - y))
    return value if usable(value) else <float>0


cdef inline void span(double centre, double half, int64_t size, int64_t margin, int64_t *lo, int64_t *hi) noexcept nogil:
    # One axis of a box; a huge or NaN half-size is the frame, a centre that is nowhere has no pixels.
    if centre != centre:
        lo[0] = hi[0] = 0
        return
    if not isfinite(half):
        half = size
    half = min(max(half, 0.0), <double>size)
    lo[0] = <int64_t>min(max(floor(centre - half) - margin, 0.0), <double>size)
    hi[0] = <int64_t>min(max(ceil(centre + half) + margin + 1, <double>lo[0]), <double>size)
