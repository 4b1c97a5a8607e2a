"""Folds rows of windows into the statistics of the rectangular frame around each source.

What is folded, and how a background comes of it, is ``background/_cell.pxd``; the frames are ``local.py``'s.
"""

from libc.stdint cimport int64_t, uint32_t

from sextract.background._cell cimport (
    MAX_LEVELS, Cell, clear_histogram, cut, find_mode, fold_histogram, fold_usable, fold_within, open_cell, scale_levels
)
from sextract.measurement._window cimport OFFSET, X0, X1, Y0

cdef enum:
    # A frame: the outer rectangle, then the inner one, half-open.
    LEFT = 0
    BOTTOM = 1
    RIGHT = 2
    TOP = 3
    INNER = 4

HISTOGRAM_ENTRIES = MAX_LEVELS + 1


cdef inline void fold_piece(Cell *cell, uint32_t *histogram, const float *row, int64_t n, int stage) noexcept nogil:
    if n <= 0:
        return
    if stage == 1:
        fold_usable(cell, row, n)
    elif stage == 2:
        fold_within(cell, row, n)
    else:
        fold_histogram(cell, histogram, row, 0, 1, n)


cdef void fold_frame(
    Cell *cell,
    uint32_t *histogram,
    const float *pixels,
    const int64_t *window,
    const int64_t *frame,
    int64_t ya,
    int64_t yb,
    int stage,
) noexcept nogil:
    # The rows ya <= y < yb of a frame, each from the left.
    cdef int64_t y
    cdef const float *row
    if cell.bad:
        return
    for y in range(max(ya, frame[BOTTOM]), min(yb, frame[TOP])):
        # Where x = 0 would be.
        row = pixels + window[OFFSET] + (y - window[Y0]) * (window[X1] - window[X0]) - window[X0]
        if frame[INNER + BOTTOM] <= y < frame[INNER + TOP]:
            fold_piece(cell, histogram, row + frame[LEFT], frame[INNER + LEFT] - frame[LEFT], stage)
            fold_piece(cell, histogram, row + frame[INNER + RIGHT], frame[RIGHT] - frame[INNER + RIGHT], stage)
        else:
            fold_piece(cell, histogram, row + frame[LEFT], frame[RIGHT] - frame[LEFT], stage)


cdef inline void close_stage(Cell *cell, uint32_t *histogram, int stage) noexcept nogil:
    # A frame needs one usable pixel, not half of them.
    if stage == 1:
        cut(cell, 1)
    elif stage == 2:
        scale_levels(cell)
        clear_histogram(cell, histogram)


cdef inline float background(const Cell *cell, const uint32_t *histogram, double pearson) noexcept nogil:
    cdef float back, sigma
    if cell.bad:
        return 0.0
    find_mode(cell, histogram, pearson, &back, &sigma)
    return back


def fold_whole(
    const float[::1] pixels,
    const int64_t[::1] index,
    const int64_t[:, ::1] main,
    const int64_t[:, ::1] rows,
    const int64_t[:, ::1] frames,
    double pearson,
    uint32_t[::1] histogram,
    float[::1] out,
):
    # Background of each source of a view that holds all rows of their frames.
    cdef Py_ssize_t k
    cdef int64_t i
    cdef int stage
    cdef Cell cell
    with nogil:
        for k in range(index.shape[0]):
            i = index[k]
            open_cell(&cell)
            for stage in range(1, 4):
                fold_frame(
                    &cell, &histogram[0], &pixels[0], &main[k, 0], &frames[i, 0], rows[k, 0], rows[k, 1], stage
                )
                close_stage(&cell, &histogram[0], stage)
            out[i] = background(&cell, &histogram[0], pearson)


cdef class Giant:
    """The statistics of one frame whose rows come in several views, three times over."""

    cdef Cell cell

    def __cinit__(self):
        open_cell(&self.cell)

    def fold(
        self,
        const float[::1] pixels,
        const int64_t[::1] window,
        const int64_t[::1] frame,
        int64_t ya,
        int64_t yb,
        int stage,
        uint32_t[::1] histogram,
    ):
        """Fold the rows ya <= y < yb of a window."""
        with nogil:
            fold_frame(&self.cell, &histogram[0], &pixels[0], &window[0], &frame[0], ya, yb, stage)

    def close(self, int stage, uint32_t[::1] histogram):
        """End a stage, after all of its rows."""
        close_stage(&self.cell, &histogram[0], stage)

    def background(self, double pearson, uint32_t[::1] histogram):
        """The background, ADU; 0 without a usable pixel."""
        return background(&self.cell, &histogram[0], pearson)
