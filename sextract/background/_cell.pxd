# Statistics of one cell of pixels as three folds over rows, then the mode of its histogram.
#
# A cell is any set of pixels: a mesh of the background map, or the rectangle around a source.  Fold 1 takes every
# usable pixel, `cut` turns its sums into limits at 2 sigma; fold 2 takes what lies within, `scale_levels` turns that
# into a histogram's range; fold 3 fills the histogram, `find_mode` reads the background and its sigma from it.
# Sums run pixel by pixel in double precision, in the order given; what is kept in float32 decides bits of the answer.
from libc.math cimport INFINITY, fabs, sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* For AVX2 too where the machine has it: without fused operations, so that the bits are the same. */
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define SX_CELL_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define SX_CELL_CLONES
    #endif
    #define SX_MAX_LEVELS 4096
    /* Levels whose sums are taken together. */
    #define SX_BLOCK 64
    #define SX_BLOCKS (SX_MAX_LEVELS / SX_BLOCK)

    static inline int32_t sx_level(float value, float width, float offset, float levels) {
        /* Truncation puts (-1, 0) into level 0, as SExtractor does; what is outside goes to a level never read. */
        float place = value / width + offset;
        return (place > -1.0f) & (place < levels) ? (int32_t) place : SX_MAX_LEVELS;
    }

    /* Counts pixels into levels.  Some are placed while those before them are counted: the one waits for divisions, the other
       for memory. */
    SX_CELL_CLONES static void sx_count_levels(
        const float *first, int64_t stride, int64_t lines, int64_t n, float width, float offset, float levels,
        uint32_t *histogram) {
        enum { PIECE = 16 };
        int32_t pieces[2][PIECE];
        int now = 0;
        for (int i = 0; i < PIECE; i++)
            pieces[1][i] = SX_MAX_LEVELS;
        for (int64_t y = 0; y < lines; y++) {
            const float *row = first + y * stride;
            int64_t x = 0;
            for (; x + PIECE <= n; x += PIECE) {
                for (int i = 0; i < PIECE; i++)
                    pieces[now][i] = sx_level(row[x + i], width, offset, levels);
                now = !now;
                for (int i = 0; i < PIECE; i++)
                    histogram[pieces[now][i]]++;
            }
            for (; x < n; x++)
                histogram[sx_level(row[x], width, offset, levels)]++;
        }
        for (int i = 0; i < PIECE; i++)
            histogram[pieces[!now][i]]++;
    }

    /* The pixels in a range of levels, the sum of their levels, and of the squares. */
    typedef struct { int64_t count, first, second; } sx_levels;

    static inline void sx_add(sx_levels *to, const uint32_t *histogram, int64_t a, int64_t b) {
        for (int64_t i = a; i < b; i++) {
            int64_t c = histogram[i];
            to->count += c;
            to->first += c * i;
            to->second += c * i * i;
        }
    }

    /* below[b]: of all levels before block b.  In a block, sums of sums from its end give the moments without a product. */
    SX_CELL_CLONES static void sx_sum_blocks(const uint32_t *histogram, int64_t blocks, sx_levels *below) {
        typedef uint32_t sx_narrow __attribute__((vector_size(16)));
        typedef int64_t sx_wide __attribute__((vector_size(32)));
        memset(below, 0, sizeof *below);
        for (int64_t b = 0; b < blocks; b++) {
            sx_wide s0 = {0}, s1 = {0}, s2 = {0};
            for (int64_t k = SX_BLOCK / 4 - 1; k >= 0; k--) {
                sx_narrow v;
                memcpy(&v, histogram + b * SX_BLOCK + 4 * k, sizeof v);
                s0 += __builtin_convertvector(v, sx_wide);
                s1 += s0;
                s2 += s1;
            }
            /* Of k and k², then of 4·k + lane. */
            s2 = 2 * s2 - 3 * s1 + s0;
            s1 -= s0;
            int64_t at = b * SX_BLOCK, count = 0, first = 0, second = 0;
            for (int lane = 0; lane < 4; lane++) {
                count += s0[lane];
                first += 4 * s1[lane] + lane * s0[lane];
                second += 16 * s2[lane] + 8 * lane * s1[lane] + lane * lane * s0[lane];
            }
            below[b + 1].count = below[b].count + count;
            below[b + 1].first = below[b].first + first + at * count;
            below[b + 1].second = below[b].second + second + 2 * at * first + at * at * count;
        }
    }
    """
    enum:
        MAX_LEVELS "SX_MAX_LEVELS"
        BLOCK "SX_BLOCK"
        BLOCKS "SX_BLOCKS"
    ctypedef struct sx_levels:
        int64_t count
        int64_t first
        int64_t second
    void sx_count_levels(
        const float *first, int64_t stride, int64_t lines, int64_t n, float width, float offset, float levels,
        uint32_t *histogram,
    ) noexcept nogil
    void sx_add(sx_levels *to, const uint32_t *histogram, int64_t a, int64_t b) noexcept nogil
    void sx_sum_blocks(const uint32_t *histogram, int64_t blocks, sx_levels *below) noexcept nogil

cdef struct Cell:
    double total
    double squares
    double mean
    int64_t count
    float low
    float high
    float width
    float zero
    float offset
    int32_t levels
    int32_t bad

cdef inline void open_cell(Cell *cell) noexcept nogil:
    cell.total = 0.0
    cell.squares = 0.0
    cell.count = 0
    cell.bad = 0
    cell.levels = 0
    cell.low = 0.0
    cell.high = 0.0

cdef inline void fold_between(Cell *cell, const float *row, Py_ssize_t n, float low, float high) noexcept nogil:
    # What lies outside is added as 0, which changes no bit and costs no mispredicted branch.
    cdef Py_ssize_t i
    cdef double value, total = cell.total, squares = cell.squares
    cdef int64_t count = cell.count
    cdef bint within
    for i in range(n):
        within = (row[i] >= low) & (row[i] <= high)
        value = row[i] if within else <float>0.0
        total = total + value
        squares = squares + value * value
        count += within
    cell.total = total
    cell.squares = squares
    cell.count = count

cdef inline float least_usable() noexcept nogil:
    # records.BAD / 10.
    return <float>-1e29

cdef inline void fold_usable(Cell *cell, const float *row, Py_ssize_t n) noexcept nogil:
    fold_between(cell, row, n, least_usable(), <float>INFINITY)

cdef inline void fold_within(Cell *cell, const float *row, Py_ssize_t n) noexcept nogil:
    fold_between(cell, row, n, cell.low, cell.high)

cdef inline double moments(const Cell *cell, double *mean) noexcept nogil:
    # Mean and standard deviation of what was folded.
    cdef double variance
    mean[0] = cell.total / cell.count
    variance = cell.squares / cell.count - mean[0] * mean[0]
    return sqrt(variance) if variance > 0.0 else 0.0

cdef inline void cut(Cell *cell, int64_t least) noexcept nogil:
    # After fold 1: limits at 2 sigma; a cell with fewer than `least` usable pixels is bad.
    cdef double mean = 0.0, sigma
    if cell.count < least or cell.count == 0:
        cell.bad = 1
        return
    sigma = moments(cell, &mean)
    cell.low = max(<float>(mean - 2.0 * sigma), least_usable())
    cell.high = <float>(mean + 2.0 * sigma)
    cell.mean = mean
    cell.total = 0.0
    cell.squares = 0.0
    cell.count = 0

cdef inline void scale_levels(Cell *cell) noexcept nogil:
    # After fold 2: levels of about 4/5 of the pixels' number, over 5 sigma to either side of the mean.
    cdef double sigma = 0.0, levels
    if cell.bad:
        return
    # No pixel between limits that coincide: all are equal to rounding, and the mean of fold 1 stands.
    if cell.count > 0:
        sigma = moments(cell, &cell.mean)
    levels = 0.79788456080286535588 * 5.0 / 4.0 * cell.count + 1.0
    cell.levels = MAX_LEVELS if levels > MAX_LEVELS else <int32_t>levels
    cell.width = <float>(2.0 * 5.0 * sigma / cell.levels) if sigma > 0.0 else <float>1.0
    cell.zero = <float>(cell.mean - 5.0 * sigma)
    cell.offset = <float>(0.499999 - cell.zero / cell.width)

cdef inline void fold_histogram(
    const Cell *cell, uint32_t *histogram, const float *first, int64_t stride, int64_t lines, int64_t n
) noexcept nogil:
    # Rows of n pixels, `stride` apart.
    sx_count_levels(first, stride, lines, n, cell.width, cell.offset, cell.levels, histogram)

cdef inline void clear_histogram(const Cell *cell, uint32_t *histogram) noexcept nogil:
    # Whole blocks, as they are summed.
    memset(histogram, 0, (cell.levels + BLOCK - 1) // BLOCK * BLOCK * sizeof(uint32_t))

cdef inline sx_levels levels_below(const uint32_t *histogram, const sx_levels *below, int64_t level) noexcept nogil:
    cdef int64_t block = level // BLOCK
    cdef sx_levels sums = below[block]
    sx_add(&sums, histogram, block * BLOCK, level)
    return sums

cdef inline void find_mode(const Cell *cell, const uint32_t *h, double pearson, float *back, float *sigma) noexcept nogil:
    # Median and spread of the histogram, clipped at 3 sigma about the median until they settle.
    #
    # Sums over levels low <= i < high are exact integers, those below `high` less those below `low`.  The median is where a
    # count from below and one from above meet: the first level m for which (pixels below m) + (pixels up to m) reaches the
    # total, all within the limits.  `under` pixels lie below `middle`, from level 0 on.
    cdef int32_t last = cell.levels - 1, low = 0, high = cell.levels, middle = 0, new_low, new_high, block = 0
    cdef int64_t under = 0, both, c, s0
    cdef double mean = cell.mean, median = cell.mean, spread = 10.0 * last, before = 1.0, x
    cdef sx_levels below[BLOCKS + 1]
    cdef sx_levels bottom, top
    cdef int turns = 0
    if cell.bad:
        back[0] = <float>-1e30
        sigma[0] = <float>-1e30
        return
    sx_sum_blocks(h, last // BLOCK + 1, below)
    bottom = below[0]
    top = below[last // BLOCK + 1]
    while 2 * below[block + 1].count < top.count:
        block += 1
    middle = block * BLOCK
    under = below[block].count
    while turns < 100 and spread >= 0.1 and fabs(spread / before - 1.0) > 1e-4:
        turns += 1
        before = spread
        both = bottom.count + top.count
        if middle < low:
            middle = low
            under = bottom.count
        while middle > low and 2 * under - <int64_t>h[middle - 1] >= both:
            middle -= 1
            under -= h[middle]
        while 2 * under + <int64_t>h[middle] < both:
            under += h[middle]
            middle += 1
        s0 = top.count - bottom.count
        if middle > 0:
            c = h[middle] if h[middle] > h[middle - 1] else h[middle - 1]
            median = (middle - 1) + 0.5 + <double>(both - 2 * under) / (2.0 * c) if c else <double>middle
        else:
            median = 0.0
        mean = 0.0
        spread = 0.0
        if s0:
            mean = <double>(top.first - bottom.first) / s0
            spread = <double>(top.second - bottom.second) / s0 - mean * mean
        spread = sqrt(spread) if spread > 0.0 else 0.0
        x = median - 3.0 * spread
        new_low = <int32_t>(x + 0.5) if x > 0.0 else 0
        x = median + 3.0 * spread
        new_high = 1 + <int32_t>(x + 0.5 if x > 0.0 else x - 0.5) if x < last else last + 1
        if new_low != low:
            low = new_low
            bottom = levels_below(h, below, low)
        if new_high != high:
            high = new_high
            top = levels_below(h, below, high)
    if spread > 0.0:
        if fabs((mean - median) / spread) < 0.3:
            back[0] = <float>(cell.zero + (pearson * median - (pearson - 1.0) * mean) * cell.width)
        else:
            back[0] = <float>(cell.zero + median * cell.width)
    else:
        back[0] = <float>(cell.zero + mean * cell.width)
    sigma[0] = <float>(spread * cell.width)
