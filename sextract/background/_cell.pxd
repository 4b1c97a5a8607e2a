# Statistics of one cell of pixels as three folds over rows, then the mode of its histogram.
#
# A cell is any set of pixels: a mesh of the background map, or the rectangle around a source.  Fold 1 takes every
# usable pixel, `cut` turns its sums into limits at 2 sigma; fold 2 takes what lies within, `scale_levels` turns that
# into a histogram's range; fold 3 fills the histogram, `find_mode` reads the background and its sigma from it.
# Sums run pixel by pixel in double precision, in the order given; what is kept in float32 decides bits of the answer.
from libc.math cimport INFINITY, fabs, sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef enum:
    MAX_LEVELS = 4096
    # Levels whose pixels are counted together, to find the median's neighbourhood.
    BLOCK = 64
    BLOCKS = 64
    TOGETHER = 4

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

cdef inline void fold_side_by_side(Cell *cells, const float *row, Py_ssize_t n, bint clipped) noexcept nogil:
    # What `fold_usable` or, if clipped, `fold_within` does, for TOGETHER neighbouring cells at once: the sums of one
    # cell are a chain that the processor waits for, those of several fill the gaps.
    cdef Py_ssize_t i, k
    cdef double total[TOGETHER]
    cdef double squares[TOGETHER]
    cdef int64_t count[TOGETHER]
    cdef float low[TOGETHER]
    cdef float high[TOGETHER]
    cdef double value
    cdef bint within
    for k in range(TOGETHER):
        total[k] = cells[k].total
        squares[k] = cells[k].squares
        count[k] = cells[k].count
        low[k] = cells[k].low if clipped else least_usable()
        high[k] = cells[k].high if clipped else <float>INFINITY
    for i in range(n):
        for k in range(TOGETHER):
            within = (row[k * n + i] >= low[k]) & (row[k * n + i] <= high[k])
            value = row[k * n + i] if within else <float>0.0
            total[k] = total[k] + value
            squares[k] = squares[k] + value * value
            count[k] += within
    for k in range(TOGETHER):
        cells[k].total = total[k]
        cells[k].squares = squares[k]
        cells[k].count = count[k]

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

cdef inline void fold_histogram(const Cell *cell, uint32_t *histogram, const float *row, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, j, m
    cdef float width = cell.width, levels = cell.levels, offset = cell.offset, place
    cdef int32_t bins[64]
    i = 0
    while i < n:
        m = n - i if n - i < 64 else 64
        for j in range(m):
            # Truncation puts (-1, 0) into level 0, as SExtractor does; what is outside goes to a level never read.
            place = row[i + j] / width + offset
            bins[j] = <int32_t>place if place > <float>-1.0 and place < levels else MAX_LEVELS
        for j in range(m):
            histogram[bins[j]] += 1
        i += m

cdef inline void find_mode(const Cell *cell, const uint32_t *h, double pearson, float *back, float *sigma) noexcept nogil:
    # Median and spread of the histogram, clipped at 3 sigma about the median until they settle.
    #
    # Sums over levels low..high are exact integers and follow the limits as they move.  The median is where a count
    # from below and one from above meet: `below` pixels lie in levels low..middle-1, and middle is the first level m
    # for which (pixels below m) + (pixels up to m) reaches the total.
    cdef int32_t low = 0, high = cell.levels - 1, last = cell.levels - 1, i, middle = 0, new_low, new_high
    cdef int64_t s0 = 0, s1 = 0, s2 = 0, below = 0, c
    cdef double mean = cell.mean, median = cell.mean, spread = 10.0 * last, before = 1.0, x
    cdef int64_t tail[BLOCKS]
    cdef int turns = 0
    if cell.bad:
        back[0] = <float>-1e30
        sigma[0] = <float>-1e30
        return
    # Sums of sums from the top give the moments without a product: s1 = sum of s0(i), s1 + s2 = 2·sum of s1(i), i >= 1.
    i = last
    while i > 0:
        s0 += h[i]
        s1 += s0
        s2 += s1
        if i % BLOCK == 0:
            tail[i // BLOCK] = s0
        i -= 1
    s0 += h[0]
    s2 = 2 * s2 - s1
    i = 1
    while i * BLOCK <= last and 2 * (s0 - tail[i]) < s0:
        middle = i * BLOCK
        below = s0 - tail[i]
        i += 1
    while turns < 100 and spread >= 0.1 and fabs(spread / before - 1.0) > 1e-4:
        turns += 1
        before = spread
        while middle > low and 2 * below - <int64_t>h[middle - 1] >= s0:
            middle -= 1
            below -= h[middle]
        while middle < high and 2 * below + <int64_t>h[middle] < s0:
            below += h[middle]
            middle += 1
        if middle > 0:
            c = h[middle] if h[middle] > h[middle - 1] else h[middle - 1]
            median = (middle - 1) + 0.5 + <double>(s0 - 2 * below) / (2.0 * c) if c else <double>middle
        else:
            median = 0.0
        mean = 0.0
        spread = 0.0
        if s0:
            mean = <double>s1 / s0
            spread = <double>s2 / s0 - mean * mean
        spread = sqrt(spread) if spread > 0.0 else 0.0
        x = median - 3.0 * spread
        new_low = <int32_t>(x + 0.5) if x > 0.0 else 0
        x = median + 3.0 * spread
        new_high = <int32_t>(x + 0.5 if x > 0.0 else x - 0.5) if x < last else last
        while low < new_low:
            c = h[low]
            s0 -= c
            s1 -= c * low
            s2 -= c * low * low
            if low < middle:
                below -= c
            else:
                middle = low + 1
            low += 1
        while low > new_low:
            low -= 1
            c = h[low]
            s0 += c
            s1 += c * low
            s2 += c * low * low
            below += c
        while high > new_high:
            c = h[high]
            s0 -= c
            s1 -= c * high
            s2 -= c * high * high
            if middle > high - 1 and high > low:
                middle = high - 1
                below -= h[middle]
            high -= 1
        while high < new_high:
            high += 1
            c = h[high]
            s0 += c
            s1 += c * high
            s2 += c * high * high
    if spread > 0.0:
        if fabs((mean - median) / spread) < 0.3:
            back[0] = <float>(cell.zero + (pearson * median - (pearson - 1.0) * mean) * cell.width)
        else:
            back[0] = <float>(cell.zero + median * cell.width)
    else:
        back[0] = <float>(cell.zero + mean * cell.width)
    sigma[0] = <float>(spread * cell.width)
