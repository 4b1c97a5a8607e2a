# The spline surface through the cells, evaluated by rows.
#
# Along each axis the spline is a cubic with nodes at the middle of cells of unit width and second derivatives D by the
# tridiagonal recurrence of a natural spline.  SExtractor divides by 6 within the back-substitution and so uses derivatives
# that are off by a little; its surface is what "background" means here, so the same is done, in float32 and in its order.
from libc.stdint cimport int64_t
from libc.string cimport memset

from sextract.background._nodes cimport node_value

cdef extern from *:
    """
    #include <stdint.h>

    /* For AVX2 too where the machine has it: without fused operations, so that the bits are the same. */
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define SX_SURFACE_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define SX_SURFACE_CLONES
    #endif

    /* The spline between two nodes, at `place` from the left one, written or subtracted. */
    SX_SURFACE_CLONES static void sx_blend(
        const float *places, float left, float bend_left, float right, float bend_right, int64_t n, int subtract, float *out) {
        for (int64_t i = 0; i < n; i++) {
            float place = places[i], other = 1.0f - place;
            float value = other * (left + (other * other - 1.0f) * bend_left)
                + place * (right + (place * place - 1.0f) * bend_right);
            out[i] = subtract ? out[i] - value : value;
        }
    }
    """
    void sx_blend(
        const float *places, float left, float bend_left, float right, float bend_right, int64_t n, bint subtract, float *out
    ) noexcept nogil

cdef enum:
    LANES = 4

ROWS_AT_ONCE = LANES


def tabulate(int64_t cell_width, int64_t n, float[::1] factors, float[::1] steps):
    # `factors`: the data-independent half of the recurrence, for n nodes or fewer.  `steps`: the place of a pixel
    # between two nodes; 3·cell_width entries from the first pixel on, then 3·cell_width from the middle of a cell on.
    cdef int64_t i
    cdef float step = <float>(1.0 / cell_width), place
    factors[0] = 0.0
    for i in range(1, n):
        factors[i] = <float>-1.0 / (factors[i - 1] + <float>4.0)
    place = (step - <float>1.0) / <float>2.0
    for i in range(3 * cell_width):
        steps[i] = place
        place = place + step
    place = <float>((cell_width + 1) % 2) * step / <float>2.0
    for i in range(3 * cell_width):
        steps[3 * cell_width + i] = place
        place = place + step


def differentiate(const float[:, ::1] nodes, const float[::1] factors, float[:, ::1] out):
    # Second derivatives of each column of nodes, all columns of a row at a time.
    cdef Py_ssize_t ny = nodes.shape[0], nx = nodes.shape[1], i, k
    with nogil:
        for k in range(nx):
            out[0, k] = 0.0
            out[ny - 1, k] = 0.0
        for i in range(1, ny - 1):
            for k in range(nx):
                out[i, k] = factors[i] * (
                    out[i - 1, k] - <float>6.0 * (nodes[i + 1, k] + nodes[i - 1, k] - <float>2.0 * nodes[i, k])
                )
        for i in range(ny - 2, 0, -1):
            for k in range(nx):
                out[i, k] = (factors[i] * out[i + 1, k] + out[i, k]) / <float>6.0


cdef void cross_rows(
    const float[:, ::1] nodes,
    const float[:, ::1] bends,
    const float *factors,
    int64_t y,
    int64_t cell_height,
    float *value,
    float *bend,
) noexcept nogil:
    # The spline in y at LANES image rows from y on: values and second derivatives (in x) at the nodes of those rows.
    #
    # Rows are interleaved, because the recurrence along a row is a chain that the processor has to wait for.
    cdef int64_t ny = nodes.shape[0], nx = nodes.shape[1], k, j, lane
    cdef float place, up, down, bend_up, bend_down, factor
    cdef float *v
    cdef float *d
    for lane in range(LANES):
        if ny == 1:
            for k in range(nx):
                value[k * LANES + lane] = nodes[0, k]
            continue
        # In float32 before the node is taken off, which costs bits far from the image's first row.
        place = <float>(y + lane) / <float>cell_height - <float>0.5
        j = <int64_t>place
        up = place - <float>j
        if j >= ny - 1:
            # Rows from the last node on, and lanes that hang over the image's edge.
            j = ny - 2
            up = up + <float>1.0
        down = <float>1.0 - up
        bend_up = up * up * up - up
        bend_down = down * down * down - down
        for k in range(nx):
            value[k * LANES + lane] = (
                down * nodes[j, k] + up * nodes[j + 1, k] + bend_down * bends[j, k] + bend_up * bends[j + 1, k]
            )
    memset(bend, 0, nx * LANES * sizeof(float))
    if ny == 1:
        # A single row of cells is joined by straight lines.
        return
    for k in range(1, nx - 1):
        v = &value[k * LANES]
        d = &bend[k * LANES]
        factor = factors[k]
        for lane in range(LANES):
            d[lane] = factor * (
                d[lane - LANES] - <float>6.0 * (v[lane + LANES] + v[lane - LANES] - <float>2.0 * v[lane])
            )
    for k in range(nx - 2, 0, -1):
        d = &bend[k * LANES]
        factor = factors[k]
        for lane in range(LANES):
            d[lane] = (factor * d[lane + LANES] + d[lane]) / <float>6.0


cdef void apply_row(
    const float *value,
    const float *bend,
    int64_t nx,
    const float *steps,
    int64_t cell_width,
    int64_t x0,
    int64_t width,
    float *pixels,
    bint subtract,
) noexcept nogil:
    # Piece p lies between nodes p and p + 1; the first and the last go on to the image's edge.
    cdef int64_t x1 = x0 + width, half = cell_width // 2, x = x0, stop, piece, i, n
    cdef const float *step
    cdef float *out
    cdef float left, right, bend_left, bend_right
    if nx == 1:
        left = value[0]
        for i in range(width):
            pixels[i] = pixels[i] - left if subtract else left
        return
    while x < x1:
        piece = (x - half) // cell_width if x >= half else 0
        if piece > nx - 2:
            piece = nx - 2
        stop = x1
        if piece < nx - 2 and (piece + 1) * cell_width + half < x1:
            stop = (piece + 1) * cell_width + half
        step = &steps[x] if piece == 0 else &steps[3 * cell_width + x - piece * cell_width - half]
        out = pixels + (x - x0)
        n = stop - x
        left = value[piece * LANES]
        right = value[(piece + 1) * LANES]
        bend_left = bend[piece * LANES]
        bend_right = bend[(piece + 1) * LANES]
        sx_blend(step, left, bend_left, right, bend_right, n, subtract, out)
        x = stop


def apply(
    const float[:, ::1] nodes,
    const float[:, ::1] bends,
    const float[::1] factors,
    const float[::1] steps,
    int64_t cell_width,
    int64_t cell_height,
    int64_t y0,
    int64_t x0,
    float[:, :] pixels,
    float[::1] scratch,
    bint subtract,
):
    # Subtract the surface from pixels, or write it there.  `scratch`: 2·LANES·nx entries.
    cdef int64_t nx = nodes.shape[1], rows = pixels.shape[0], width = pixels.shape[1], r, lane
    cdef float *value = &scratch[0]
    cdef float *bend = &scratch[nx * LANES]
    if width == 0:
        return
    with nogil:
        for r in range(rows):
            lane = r % LANES
            if lane == 0:
                cross_rows(nodes, bends, &factors[0], y0 + r, cell_height, value, bend)
            apply_row(value + lane, bend + lane, nx, &steps[0], cell_width, x0, width, &pixels[r, 0], subtract)


def interpolate(
    const float[:, ::1] nodes,
    int64_t cell_width,
    int64_t cell_height,
    const double[::1] xs,
    const double[::1] ys,
    float[::1] out,
):
    # Bilinear between nodes, at the pixel nearest to (x, y).
    cdef int64_t k
    with nogil:
        for k in range(out.shape[0]):
            out[k] = node_value(nodes, cell_width, cell_height, <int64_t>(xs[k] + 0.5), <int64_t>(ys[k] + 0.5))
