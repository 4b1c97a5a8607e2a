# The filter as both the scan and the analysis of footprints apply it: the same bits wherever it is evaluated.
from libc.stdint cimport int64_t


cdef extern from *:
    """
    #include <stdint.h>

    /* For AVX2 too where the machine has it: without fused operations, so that the bits are the same. */
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define SX_FILTER_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define SX_FILTER_CLONES
    #endif
    typedef float sx_four __attribute__((vector_size(16)));
    typedef float sx_eight __attribute__((vector_size(32)));
    /* The same wherever floats lie. */
    typedef float sx_near __attribute__((vector_size(32), aligned(4), may_alias));

    /* Correlate with all taps, in kernel order for each pixel; `src` is under the first tap of the first pixel. */
    static inline __attribute__((always_inline)) void sx_correlate_taps(
        const float *src, int64_t stride, const float *taps, int64_t kh, int64_t kw, int64_t n, float *out) {
        int64_t x = 0;
        for (; x + 32 <= n; x += 32) {
            /* Four by name: an array of them would live in memory. */
            sx_eight a = {0}, b = {0}, c = {0}, d = {0};
            for (int64_t j = 0; j < kh; j++)
                for (int64_t i = 0; i < kw; i++) {
                    const float *at = src + j * stride + x + i, tap = taps[j * kw + i];
                    a += tap * *(const sx_near *) at;
                    b += tap * *(const sx_near *) (at + 8);
                    c += tap * *(const sx_near *) (at + 16);
                    d += tap * *(const sx_near *) (at + 24);
                }
            *(sx_near *) (out + x) = a;
            *(sx_near *) (out + x + 8) = b;
            *(sx_near *) (out + x + 16) = c;
            *(sx_near *) (out + x + 24) = d;
        }
        for (; x + 8 <= n; x += 8) {
            sx_eight sum = {0};
            for (int64_t j = 0; j < kh; j++)
                for (int64_t i = 0; i < kw; i++)
                    sum += taps[j * kw + i] * *(const sx_near *) (src + j * stride + x + i);
            *(sx_near *) (out + x) = sum;
        }
        /* The last four may do again what those before have done: the same bits. */
        for (; n >= 4 && x < n; x += 4) {
            sx_four sum = {0};
            x = x < n - 4 ? x : n - 4;
            for (int64_t j = 0; j < kh; j++)
                for (int64_t i = 0; i < kw; i++) {
                    sx_four v;
                    memcpy(&v, src + j * stride + x + i, sizeof v);
                    sum += taps[j * kw + i] * v;
                }
            memcpy(out + x, &sum, sizeof sum);
        }
        for (; x < n; x++) {
            float sum = 0;
            for (int64_t j = 0; j < kh; j++)
                for (int64_t i = 0; i < kw; i++)
                    sum += taps[j * kw + i] * src[j * stride + x + i];
            out[x] = sum;
        }
    }

    SX_FILTER_CLONES static void sx_correlate(
        const float *src, int64_t stride, const float *taps, int64_t kh, int64_t kw, int64_t n, float *out) {
        /* The usual size once more, for the compiler to unroll. */
        if (kh == 3 && kw == 3)
            sx_correlate_taps(src, stride, taps, 3, 3, n, out);
        else
            sx_correlate_taps(src, stride, taps, kh, kw, n, out);
    }

    SX_FILTER_CLONES static int sx_any_bad(const float *values, int64_t n) {
        int64_t x = 0;
        int bad = 0;
        for (; x + 32 <= n && !bad; x += 32)
            for (int i = 0; i < 32; i++)
                bad |= values[x + i] < -1e29f;
        for (; x < n; x++)
            bad |= values[x] < -1e29f;
        return bad;
    }
    """
    bint sx_any_bad(const float *values, int64_t n) noexcept nogil
    void sx_correlate(
        const float *src, int64_t stride, const float *taps, int64_t kh, int64_t kw, int64_t n, float *out
    ) noexcept nogil


cdef inline void correlate_edge(
    const float *block, int64_t stride, int64_t cols, const float *taps, int64_t kh, int64_t kw, int64_t x0, int64_t x1,
    float *out,
) noexcept nogil:
    # The same for pixels some of whose taps are outside the block; `block` is the row under the first row of taps.
    cdef int64_t x, i, j, at
    cdef float total
    for x in range(x0, x1):
        total = 0.0
        for j in range(kh):
            for i in range(kw):
                at = x + i - kw // 2
                if 0 <= at < cols:
                    total += taps[j * kw + i] * block[j * stride + at]
        out[x - x0] = total


cdef inline void filter_values(
    const float *block, int64_t stride, int64_t rows, int64_t cols, const float *taps, int64_t kh, int64_t kw,
    int64_t y, int64_t x0, int64_t x1, float *out, bint guard,
) noexcept nogil:
    # out[x - x0] for x0 <= x < x1 of row y, all relative to the block; what lies outside the block counts nothing.
    cdef int64_t i, j, x, yy, a, b
    cdef int64_t first = max(kh // 2 - y, 0), last = min(rows + kh // 2 - y, kh)
    cdef const float *top = block + (y + first - kh // 2) * stride
    cdef const float *src
    a = min(max(x0, kw // 2), x1)
    b = max(min(x1, cols + kw // 2 + 1 - kw), a)
    correlate_edge(top, stride, cols, taps + first * kw, last - first, kw, x0, a, out)
    sx_correlate(top + a - kw // 2, stride, taps + first * kw, last - first, kw, b - a, out + a - x0)
    correlate_edge(top, stride, cols, taps + first * kw, last - first, kw, b, x1, out + b - x0)
    if not guard:
        return
    for j in range(kh):
        yy = y + j - kh // 2
        if yy < 0 or yy >= rows:
            continue
        a = max(x0 - kw // 2, 0)
        if not sx_any_bad(block + yy * stride + a, min(x1 + kw, cols) - a):
            continue
        for i in range(kw):
            if taps[j * kw + i] == 0.0:
                continue
            a = max(x0, kw // 2 - i)
            b = min(x1, cols + kw // 2 - i)
            src = block + yy * stride + i - kw // 2
            for x in range(a, b):
                if src[x] < <float>-1e29:
                    out[x - x0] = <float>-1e30
