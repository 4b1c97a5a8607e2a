# Kernel of vignet.py: folds rows of windows into cutouts.
from libc.stdint cimport int64_t

from sextract.measurement._window cimport OFFSET, X0, X1, Y0, usable


def fold(
    const float[::1] pixels,
    const int64_t[::1] index,
    const int64_t[:, ::1] main,
    const int64_t[:, ::1] rows,
    const int64_t[::1] left,
    const int64_t[::1] top,
    float[:, :, ::1] out,
):
    """Copy the usable pixels of each window into ``out[index]``, whose first pixel is (`left`, `top`) of the image."""
    cdef int64_t w, i, x, y
    cdef const float *line
    with nogil:
        for w in range(index.shape[0]):
            i = index[w]
            for y in range(max(rows[w, 0], top[i]), min(rows[w, 1], top[i] + out.shape[1])):
                line = &pixels[0] + main[w, OFFSET] + (y - main[w, Y0]) * (main[w, X1] - main[w, X0]) - main[w, X0]
                for x in range(max(main[w, X0], left[i]), min(main[w, X1], left[i] + out.shape[2])):
                    if usable(line[x]):
                        out[i, y - top[i], x - left[i]] = line[x]
