# Cell statistics over a row of cells.  What a cell's statistics are is in _cell.pxd.
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from sextract.background._cell cimport (
    MAX_LEVELS, TOGETHER, Cell, cut, find_mode, fold_histogram, fold_side_by_side, fold_usable, fold_within, open_cell,
    scale_levels
)

HISTOGRAM_ENTRIES = MAX_LEVELS + 1


cdef void find_ranges(
    const float[:, :] pixels,
    Py_ssize_t x,
    Py_ssize_t cell_width,
    Py_ssize_t first_line,
    Py_ssize_t line_step,
    Py_ssize_t lines,
    Cell *cells,
    Py_ssize_t count,
) noexcept nogil:
    # Stages 1 and 2 for one cell, or TOGETHER whole ones from x on.
    cdef Py_ssize_t i, y, k, stage, n = min(cell_width, pixels.shape[1] - x)
    for k in range(count):
        open_cell(&cells[k])
    for stage in range(2):
        for i in range(lines):
            y = first_line + i * line_step
            if count == TOGETHER:
                fold_side_by_side(cells, &pixels[y, x], n, stage == 1)
            elif stage == 0:
                fold_usable(cells, &pixels[y, x], n)
            else:
                fold_within(cells, &pixels[y, x], n)
        for k in range(count):
            if stage == 0:
                cut(&cells[k], (n * lines + 1) // 2)
            else:
                scale_levels(&cells[k])


cdef void read_cell(
    const float[:, :] pixels,
    Py_ssize_t x,
    Py_ssize_t n,
    const Cell *cell,
    double pearson,
    uint32_t *histogram,
    float *back,
    float *sigma,
) noexcept nogil:
    # Stage 3 and the mode.
    cdef Py_ssize_t y
    if not cell.bad:
        memset(histogram, 0, cell.levels * sizeof(uint32_t))
        for y in range(pixels.shape[0]):
            fold_histogram(cell, histogram, &pixels[y, x], n)
    find_mode(cell, histogram, pearson, back, sigma)


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
    cdef Py_ssize_t width = pixels.shape[1], k = 0, i, x, count
    cdef Cell cells[TOGETHER]
    with nogil:
        while k < back.shape[0]:
            count = TOGETHER if (k + TOGETHER) * cell_width <= width else 1
            find_ranges(pixels, k * cell_width, cell_width, first_line, line_step, lines, cells, count)
            for i in range(count):
                x = k * cell_width
                read_cell(
                    pixels, x, min(cell_width, width - x), &cells[i], pearson, &histogram[0], &back[k], &sigma[k]
                )
                k += 1


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
