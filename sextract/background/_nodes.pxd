# The map of cells between its nodes, bilinear: SExtractor's BACKGROUND of a source, not the spline surface.
from libc.stdint cimport int64_t


cdef inline double between(int64_t at, int64_t cell, int64_t n, int64_t *node) noexcept nogil:
    # The lower of two nodes, and the place between them.
    cdef double place = <double>at / cell - 0.5
    node[0] = <int64_t>place
    place = place - node[0]
    if place < 0.0:
        node[0] = 0
    elif node[0] == n - 1:
        node[0] = 0 if n < 2 else n - 2
        place = place + 1.0
    return place


cdef inline float node_value(
    const float[:, ::1] nodes, int64_t cell_width, int64_t cell_height, int64_t x, int64_t y
) noexcept nogil:
    # At pixel (x, y).
    cdef int64_t ny = nodes.shape[0], nx = nodes.shape[1], i, j, right, below
    cdef double fx = between(x, cell_width, nx, &i), fy = between(y, cell_height, ny, &j)
    right = i + 1 if nx > 1 else i
    below = j + 1 if ny > 1 else j
    return <float>(
        (1.0 - fy) * ((1.0 - fx) * nodes[j, i] + fx * nodes[j, right])
        + fy * ((1.0 - fx) * nodes[below, i] + fx * nodes[below, right])
    )
