# Sorting in place (Shell 1959, CACM 2, 30).  The C library's qsort takes memory of its own, as much as what it sorts.
from libc.stdint cimport int32_t, int64_t


cdef inline int64_t first_gap(int64_t n) noexcept nogil:
    cdef int64_t gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    return gap


cdef inline void order_indices(int32_t *a, int64_t n) noexcept nogil:
    # Ascending.
    cdef int64_t gap = first_gap(n), i, j
    cdef int32_t one
    while gap > 0:
        for i in range(gap, n):
            one = a[i]
            j = i
            while j >= gap and a[j - gap] > one:
                a[j] = a[j - gap]
                j -= gap
            a[j] = one
        gap //= 3
