# Cell statistics over a row of cells.  What a cell's statistics are is in _cell.pxd.
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memset

from sextract.background._cell cimport (
    MAX_LEVELS, Cell, clear_histogram, cut, find_mode, fold_histogram, fold_usable, fold_within, least_usable, open_cell,
    scale_levels
)

cdef extern from *:
    """
    #define SX_TOGETHER 8

    /* Sums of some neighbouring cells, one in each lane, and the limits of what is summed. */
    typedef struct {
        double total[SX_TOGETHER], squares[SX_TOGETHER];
        int32_t count[SX_TOGETHER];
        float low[SX_TOGETHER], high[SX_TOGETHER];
    } sx_sums;

    /* Four lanes: what SSE2 and others have as well. */
    typedef float sx_f4 __attribute__((vector_size(16)));
    typedef int32_t sx_i4 __attribute__((vector_size(16)));
    typedef double sx_d4 __attribute__((vector_size(32)));
    #if defined(__clang__) || __GNUC__ >= 12
    #define SX_MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
    #else
    #define SX_MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, (sx_i4) {i, j, k, l})
    #endif

    /* Four pixels of each of four cells to four cells' first, second ... pixel. */
    static inline void sx_transpose(sx_f4 *v) {
        sx_f4 a = SX_MIX(v[0], v[1], 0, 4, 1, 5), b = SX_MIX(v[0], v[1], 2, 6, 3, 7);
        sx_f4 c = SX_MIX(v[2], v[3], 0, 4, 1, 5), d = SX_MIX(v[2], v[3], 2, 6, 3, 7);
        v[0] = SX_MIX(a, c, 0, 1, 4, 5);
        v[1] = SX_MIX(a, c, 2, 3, 6, 7);
        v[2] = SX_MIX(b, d, 0, 1, 4, 5);
        v[3] = SX_MIX(b, d, 2, 3, 6, 7);
    }

    #define SX_TAKE(k, v) do { \\
        sx_i4 within = ((v) >= low[k]) & ((v) <= high[k]); \\
        sx_d4 value = __builtin_convertvector((sx_f4) ((sx_i4) (v) & within), sx_d4); \\
        count[k] -= within; \\
        total[k] += value; \\
        squares[k] += value * value; \\
    } while (0)

    /* Adds lines of n pixels of each cell, whose first pixels are `at[lane]` behind `first`: each cell's from the left, as one
       alone would be.  What is outside its limits is added as 0. */
    SX_CELL_CLONES static void sx_add_lines(
        const float *first, int64_t stride, int64_t lines, const int64_t *at, int64_t n, sx_sums *sums) {
        sx_d4 total[2], squares[2];
        sx_i4 count[2];
        sx_f4 low[2], high[2], v[SX_TOGETHER] = {{0}};
        memcpy(total, sums->total, sizeof total);
        memcpy(squares, sums->squares, sizeof squares);
        memcpy(count, sums->count, sizeof count);
        memcpy(low, sums->low, sizeof low);
        memcpy(high, sums->high, sizeof high);
        for (int64_t y = 0; y < lines; y++) {
            const float *row = first + y * stride;
            int64_t x = 0;
            for (; x + 4 <= n; x += 4) {
                /* Lines of a wide image are far apart: the next ones are asked for in time. */
                if (x % 16 == 0)
                    for (int k = 0; k < SX_TOGETHER; k++)
                        __builtin_prefetch(row + 4 * stride + at[k] + x);
                for (int k = 0; k < SX_TOGETHER; k++)
                    memcpy(&v[k], row + at[k] + x, sizeof *v);
                sx_transpose(v);
                sx_transpose(v + 4);
                for (int i = 0; i < 4; i++) {
                    SX_TAKE(0, v[i]);
                    SX_TAKE(1, v[4 + i]);
                }
            }
            for (; x < n; x++) {
                for (int k = 0; k < SX_TOGETHER; k++)
                    v[k / 4][k % 4] = row[at[k] + x];
                SX_TAKE(0, v[0]);
                SX_TAKE(1, v[1]);
            }
        }
        memcpy(sums->total, total, sizeof total);
        memcpy(sums->squares, squares, sizeof squares);
        memcpy(sums->count, count, sizeof count);
    }
    """
    enum:
        TOGETHER "SX_TOGETHER"
    ctypedef struct sx_sums:
        double *total
        double *squares
        int32_t *count
        float *low
        float *high
    void sx_add_lines(
        const float *first, int64_t stride, int64_t lines, const int64_t *at, int64_t n, sx_sums *sums
    ) noexcept nogil

HISTOGRAM_ENTRIES = MAX_LEVELS + 1


cdef void fold_together(
    Cell *cells, Py_ssize_t count, const float *first, int64_t stride, int64_t lines, int64_t n, bint clipped
) noexcept nogil:
    # What `fold_usable` or, if clipped, `fold_within` does, for neighbouring cells at once.  Lanes to spare repeat the last one.
    cdef sx_sums sums
    cdef int64_t at[TOGETHER]
    cdef Py_ssize_t k
    cdef Cell *cell
    memset(&sums, 0, sizeof(sums))
    for k in range(TOGETHER):
        at[k] = min(k, count - 1) * n
        cell = &cells[min(k, count - 1)]
        sums.low[k] = cell.low if clipped else least_usable()
        sums.high[k] = cell.high if clipped else <float>INFINITY
    sx_add_lines(first, stride, lines, at, n, &sums)
    for k in range(count):
        cells[k].total = sums.total[k]
        cells[k].squares = sums.squares[k]
        cells[k].count = sums.count[k]


cdef void find_ranges(
    Cell *cells, Py_ssize_t count, const float *first, int64_t stride, int64_t lines, int64_t n
) noexcept nogil:
    # Stages 1 and 2 of neighbouring cells of n columns, from lines that are `stride` pixels apart.
    cdef Py_ssize_t k, y
    cdef int stage
    for k in range(count):
        open_cell(&cells[k])
    for stage in range(2):
        if count > 1:
            fold_together(cells, count, first, stride, lines, n, stage == 1)
        else:
            for y in range(lines):
                if stage == 0:
                    fold_usable(cells, first + y * stride, n)
                else:
                    fold_within(cells, first + y * stride, n)
        for k in range(count):
            if stage == 0:
                cut(&cells[k], (n * lines + 1) // 2)
            else:
                scale_levels(&cells[k])


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
    cdef Py_ssize_t width = pixels.shape[1], whole = width // cell_width, k = 0, i, n, count
    cdef Py_ssize_t stride = pixels.strides[0] // <Py_ssize_t>sizeof(float)
    cdef const float *first
    cdef Cell cells[TOGETHER]
    with nogil:
        while k < back.shape[0]:
            count = max(min(whole - k, TOGETHER), 1)
            n = min(cell_width, width - k * cell_width)
            first = &pixels[0, k * cell_width]
            find_ranges(cells, count, first + first_line * stride, line_step * stride, lines, n)
            for i in range(count):
                if not cells[i].bad:
                    clear_histogram(&cells[i], &histogram[0])
                    fold_histogram(&cells[i], &histogram[0], first + i * n, stride, pixels.shape[0], n)
                find_mode(&cells[i], &histogram[0], pearson, &back[k], &sigma[k])
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
                    fold_histogram(&self.cell, &histogram[0], &pixels[y, 0], 0, 1, n)

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
