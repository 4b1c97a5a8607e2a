# Cell statistics over a row of cells.  What a cell's statistics are is in _cell.pxd.
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from sextract.background._cell cimport (
    MAX_LEVELS, Cell, cut, find_mode, fold_histogram, fold_usable, fold_within, open_cell, scale_levels
)

HISTOGRAM_ENTRIES = MAX_LEVELS + 1


def measure_row(
    const float[:, :] pixels,
    Py_ssize_t cell_width,
    Py_ssize_t first_line,
    Py_ssize_t line_step,
    Py_ssize_t lines,
    double pearson,
    uint32_t[::1] histogram,
    float[::1] back,
    float[::1] sigma,
):
    # All cells of one row of cells; the limits come from `lines` lines, first_line + k·line_step.
    cdef Py_ssize_t width = pixels.shape[1], height = pixels.shape[0], k, y, x, n
    cdef Cell cell
    cdef uint32_t *h = &histogram[0]
    with nogil:
        for k in range(back.shape[0]):
            x = k * cell_width
            n = width - x if width - x < cell_width else cell_width
            open_cell(&cell)
            for y in range(lines):
                fold_usable(&cell, &pixels[first_line + y * line_step, x], n)
            cut(&cell, (n * lines + 1) // 2)
            if not cell.bad:
                for y in range(lines):
                    fold_within(&cell, &pixels[first_line + y * line_step, x], n)
                scale_levels(&cell)
                memset(h, 0, cell.levels * sizeof(uint32_t))
                for y in range(height):
                    fold_histogram(&cell, h, &pixels[y, x], n)
            find_mode(&cell, h, pearson, &back[k], &sigma[k])


cdef class Stream:
    """The statistics of one cell whose rows come in blocks, three times over."""

    cdef Cell cell

    def __cinit__(self):
        open_cell(&self.cell)

    def fold(self, const float[:, :] pixels, int stage, uint32_t[::1] histogram):
        """Fold rows: stage 1 all usable pixels, 2 those within the limits, 3 the histogram."""
        cdef Py_ssize_t y, n = pixels.shape[1]
        if self.cell.bad or n == 0:
            return
        with nogil:
            for y in range(pixels.shape[0]):
                if stage == 1:
                    fold_usable(&self.cell, &pixels[y, 0], n)
                elif stage == 2:
                    fold_within(&self.cell, &pixels[y, 0], n)
                else:
                    fold_histogram(&self.cell, &histogram[0], &pixels[y, 0], n)

    def close(self, int stage, int64_t least, uint32_t[::1] histogram):
        """After stage 1: limits, or bad with fewer than `least` usable pixels; after stage 2: an empty histogram."""
        if stage == 1:
            cut(&self.cell, least)
        elif stage == 2:
            scale_levels(&self.cell)
            memset(&histogram[0], 0, histogram.shape[0] * sizeof(uint32_t))

    def mode(self, double pearson, uint32_t[::1] histogram):
        """Background and sigma, after stage 3."""
        cdef float back, sigma
        find_mode(&self.cell, &histogram[0], pearson, &back, &sigma)
        return back, sigma
