# Kernel of vignet.py: folds rows of windows into cutouts, float32 values that may lie at any byte of the rows.
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from sextract.measurement._window cimport OFFSET, X0, X1, Y0, usable


def clear(uint8_t[::1] out, const int64_t[::1] first, int64_t count, float value):
    """Set `count` values from each of the bytes `first` on."""
    cdef Py_ssize_t i
    cdef int64_t k
    with nogil:
        for i in range(first.shape[0]):
            for k in range(count):
                memcpy(&out[first[i] + 4 * k], &value, 4)


def fold(
    const float[::1] pixels, const int64_t[::1] index, const int64_t[:, ::1] main, const int64_t[:, ::1] rows,
    const int64_t[::1] left, const int64_t[::1] top, int64_t width, int64_t height, uint8_t[::1] out,
    const int64_t[::1] first,
):
    """Copy the usable pixels of each window into the cutout of its source, which begins at byte ``first[index]``.

    Its first pixel is (`left`, `top`) of the image.
    """
    cdef int64_t w, i, x, y, at
    cdef const float *line
    with nogil:
        for w in range(index.shape[0]):
            i = index[w]
            for y in range(max(rows[w, 0], top[i]), min(rows[w, 1], top[i] + height)):
                line = &pixels[0] + main[w, OFFSET] + (y - main[w, Y0]) * (main[w, X1] - main[w, X0]) - main[w, X0]
                at = first[i] + 4 * ((y - top[i]) * width - left[i])
                for x in range(max(main[w, X0], left[i]), min(main[w, X1], left[i] + width)):
                    if usable(line[x]):
                        memcpy(&out[at + 4 * x], &line[x], 4)
