# Repair of bad cells, the median filter over cells, and exact medians of a whole map.
from libc.math cimport fabs
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcpy, memset

cdef enum:
    DIGITS = 2048

MEDIAN_ENTRIES = DIGITS


cdef inline bint good(float value) noexcept nogil:
    return value > <float>-1e29


cdef inline int64_t square(int64_t v) noexcept nogil:
    return v * v


cdef inline int64_t gain(const int32_t *gap, int64_t p, int64_t q) noexcept nogil:
    # Column q is at least as near as column p < q from x = gain / (2 (q - p)) on.
    return square(q) + square(gap[q]) - square(p) - square(gap[p])


cdef inline void add_site(
    const float[:, ::1] back, const float[:, ::1] sigma, int64_t y, int64_t x, float *sums, int64_t *n
) noexcept nogil:
    sums[0] = sums[0] + back[y, x]
    sums[1] = sums[1] + sigma[y, x]
    n[0] += 1


cdef void fill_cell(
    float[:, ::1] back,
    float[:, ::1] sigma,
    int64_t y,
    int64_t x,
    const int32_t *above,
    const int32_t *below,
    const int32_t *gap,
    const int32_t *nearest,
    int64_t n,
) noexcept nogil:
    # Mean of the good cells at equal distance in `n` columns (ascending), added in raster order.
    #
    # On a circle the upper sites come top first from x outwards, the lower ones from the far ends inwards.
    cdef float sums[2]
    cdef int64_t count = 0, left, right, c, middle = 0, ny = back.shape[0]
    sums[0] = 0.0
    sums[1] = 0.0
    while middle < n and nearest[middle] <= x:
        middle += 1
    left = middle - 1
    right = middle
    while left >= 0 or right < n:
        if right >= n or (left >= 0 and x - nearest[left] <= nearest[right] - x):
            c = nearest[left]
            left -= 1
        else:
            c = nearest[right]
            right += 1
        if above[c] >= 0 and y - above[c] == gap[c]:
            add_site(back, sigma, above[c], c, sums, &count)
    left = 0
    right = n - 1
    while left < middle or right >= middle:
        if right < middle or (left < middle and x - nearest[left] >= nearest[right] - x):
            c = nearest[left]
            left += 1
        else:
            c = nearest[right]
            right -= 1
        if gap[c] > 0 and below[c] < ny and below[c] - y == gap[c]:
            add_site(back, sigma, below[c], c, sums, &count)
    back[y, x] = sums[0] / count if count else <float>0.0
    sigma[y, x] = sums[1] / count if count else <float>1.0


def repair_cells(float[:, ::1] back, float[:, ::1] sigma, int32_t[::1] scratch):
    # Give every bad cell the mean of all equally near good ones; scratch holds 4 entries a column.  Returns the good.
    #
    # Along a row the squared distance to the nearest good cell is the lower envelope of one parabola a column, of
    # height gap²: built once a row, it is exact and costs nx, however far the good cells are.  Parabolas that touch the
    # envelope in one point stay in it, because they are the ties.
    cdef int64_t ny = back.shape[0], nx = back.shape[1], y, x, row, size, k, last, found = 0, s, t
    cdef int32_t *above = &scratch[0]
    cdef int32_t *below = &scratch[nx]
    cdef int32_t *gap = &scratch[2 * nx]
    cdef int32_t *stack = &scratch[3 * nx]
    cdef bint any_bad
    with nogil:
        for x in range(nx):
            above[x] = -1
            below[x] = -1
        for y in range(ny):
            any_bad = False
            for x in range(nx):
                if good(back[y, x]):
                    above[x] = <int32_t>y
                    found += 1
                else:
                    any_bad = True
            if not any_bad:
                continue
            size = 0
            for x in range(nx):
                if below[x] < y:
                    row = y
                    while row < ny and not good(back[row, x]):
                        row += 1
                    below[x] = <int32_t>row
                if below[x] < ny:
                    gap[x] = below[x] - <int32_t>y
                elif above[x] >= 0:
                    gap[x] = <int32_t>y - above[x]
                else:
                    continue
                if above[x] >= 0 and y - above[x] < gap[x]:
                    gap[x] = <int32_t>y - above[x]
                while size >= 2:
                    s = stack[size - 2]
                    t = stack[size - 1]
                    if gain(gap, s, t) * (x - t) <= gain(gap, t, x) * (t - s):
                        break
                    size -= 1
                stack[size] = <int32_t>x
                size += 1
            k = 0
            for x in range(nx):
                if above[x] == y:
                    continue
                while k + 1 < size and gain(gap, stack[k], stack[k + 1]) < 2 * x * (stack[k + 1] - stack[k]):
                    k += 1
                last = k
                while last + 1 < size and (
                    gain(gap, stack[last], stack[last + 1]) == 2 * x * (stack[last + 1] - stack[last])
                ):
                    last += 1
                fill_cell(back, sigma, y, x, above, below, gap, &stack[k], last + 1 - k if size else 0)
    return found


cdef float middle_value(float *values, int64_t n) noexcept nogil:
    # Median of an odd number of values, which are permuted.
    cdef int64_t low = 0, high = n - 1, k = n // 2, i, j
    cdef float pivot, v
    while high - low > 16:
        # Median of three as the pivot, so that sorted values cost no more than others.
        i = (low + high) // 2
        if values[i] < values[low]:
            values[i], values[low] = values[low], values[i]
        if values[high] < values[low]:
            values[high], values[low] = values[low], values[high]
        if values[high] < values[i]:
            values[high], values[i] = values[i], values[high]
        pivot = values[i]
        i = low
        j = high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            return values[k]
    for i in range(low + 1, high + 1):
        v = values[i]
        j = i
        while j > low and v < values[j - 1]:
            values[j] = values[j - 1]
            j -= 1
        values[j] = v
    return values[k]


cdef inline float box_median(
    const float *saved, const float[:, ::1] cells, int64_t y, int64_t x, int64_t ry, int64_t rx, int64_t held, float *values
) noexcept nogil:
    # Median of the box about (x, y); rows up to y as they were before filtering are in `saved`, modulo `held`.
    cdef int64_t nx = cells.shape[1], row, column, n = 0
    for row in range(y - ry, y + ry + 1):
        for column in range(x - rx, x + rx + 1):
            values[n] = saved[(row % held) * nx + column] if row <= y else cells[row, column]
            n += 1
    return middle_value(values, n)


def filter_cells(
    float[:, ::1] back,
    float[:, ::1] sigma,
    int64_t half_height,
    int64_t half_width,
    float threshold,
    float[::1] saved_back,
    float[::1] saved_sigma,
    float[::1] values,
):
    # Median filter in place; the box shrinks on both sides at a border.  saved_*: (half_height + 1) rows each.
    cdef int64_t ny = back.shape[0], nx = back.shape[1], held = half_height + 1, y, x, ry, rx
    cdef float median
    with nogil:
        for y in range(ny):
            memcpy(&saved_back[(y % held) * nx], &back[y, 0], nx * sizeof(float))
            memcpy(&saved_sigma[(y % held) * nx], &sigma[y, 0], nx * sizeof(float))
            ry = min(half_height, y, ny - 1 - y)
            for x in range(nx):
                rx = min(half_width, x, nx - 1 - x)
                median = box_median(&saved_back[0], back, y, x, ry, rx, held, &values[0])
                if fabs(median - back[y, x]) >= threshold:
                    back[y, x] = median
                    sigma[y, x] = box_median(&saved_sigma[0], sigma, y, x, ry, rx, held, &values[0])


cdef inline uint32_t rank_key(float value) noexcept nogil:
    # Bits that sort as the values do.
    cdef uint32_t bits
    memcpy(&bits, &value, sizeof(bits))
    return ~bits if bits >> 31 else bits | <uint32_t>0x80000000


cdef float ranked(const float *values, int64_t n, float above, int64_t rank, int64_t *counts) noexcept nogil:
    # The value of that rank (0-based) among those over `above`, digit by digit, so that nothing is copied or sorted.
    cdef int shift[3]
    cdef int digit_bits[3]
    cdef int turn
    cdef int64_t i, digit
    cdef uint32_t key, prefix = 0, mask = 0
    cdef float value
    shift[0], shift[1], shift[2] = 21, 10, 0
    digit_bits[0], digit_bits[1], digit_bits[2] = 11, 11, 10
    for turn in range(3):
        memset(counts, 0, DIGITS * sizeof(int64_t))
        for i in range(n):
            if values[i] > above:
                key = rank_key(values[i])
                if (key & mask) == prefix:
                    counts[(key >> shift[turn]) & ((1 << digit_bits[turn]) - 1)] += 1
        digit = 0
        while rank >= counts[digit]:
            rank -= counts[digit]
            digit += 1
        prefix |= <uint32_t>digit << shift[turn]
        mask |= <uint32_t>((1 << digit_bits[turn]) - 1) << shift[turn]
    key = prefix & <uint32_t>0x7FFFFFFF if prefix >> 31 else ~prefix
    memcpy(&value, &key, sizeof(value))
    return value


def median_over(const float[:, ::1] cells, float above, int64_t[::1] counts):
    # Median of the cells over `above` (the mean of the middle two of an even number), and how many there are.
    cdef int64_t n = cells.shape[0] * cells.shape[1], i, m = 0
    cdef const float *values = &cells[0, 0]
    cdef float low, high
    with nogil:
        for i in range(n):
            if values[i] > above:
                m += 1
        if m == 0:
            low = 0.0
        else:
            low = ranked(values, n, above, (m - 1) // 2, &counts[0])
            if m % 2 == 0:
                high = ranked(values, n, above, m // 2, &counts[0])
                low = <float>((low + high) / 2.0)
    return low, m
