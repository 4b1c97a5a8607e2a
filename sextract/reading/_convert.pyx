"""Kernels over raw bytes of a data unit: pixels to float32 with bad ones marked, and FITS's 32-bit checksum.

No file is touched here (``fits.py``, ``compressed.py``) and nothing is allocated.  Which arithmetic holds for which
BITPIX is decided in ``scaling.py``; here are the loops.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #define SX_BAD (-1e30f)
    #define SX_LARGEST 3.402823466e+38f

    static inline uint8_t sx_swap8(uint8_t v) { return v; }
    static inline uint16_t sx_swap16(uint16_t v) { return (uint16_t) ((v >> 8) | (v << 8)); }
    static inline uint32_t sx_swap32(uint32_t v) { return __builtin_bswap32(v); }
    static inline uint64_t sx_swap64(uint64_t v) { return __builtin_bswap64(v); }

    /* One row, for AVX2 and AVX-512 too where the machine has it: it is elementwise, so the bits are the same.  The test on the
       result catches NaN, infinities, what overflows float32 and what is as low as the mark itself, without a branch. */
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
    #define SX_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
    #elif defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define SX_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define SX_CLONES
    #endif
    #define SX_ROW(NAME, UINT, TYPE, REAL, LOAD) \\
    SX_CLONES static int64_t NAME(const unsigned char *raw, int64_t n, double scale, double zero, int check, \\
                                  int64_t blank, float *out) { \\
        const REAL s = (REAL) scale, z = (REAL) zero; \\
        const TYPE b = (TYPE) blank; \\
        int32_t bad = 0; \\
        if (check) { \\
            for (int64_t i = 0; i < n; i++) { \\
                UINT u; TYPE t; \\
                memcpy(&u, raw + i * (int64_t) sizeof(UINT), sizeof(UINT)); \\
                u = LOAD(u); \\
                memcpy(&t, &u, sizeof t); \\
                float v = (float) ((REAL) t * s + z); \\
                int good = (t != b) & (v > SX_BAD * 0.1f) & (v <= SX_LARGEST); \\
                out[i] = good ? v : SX_BAD; \\
                bad += !good; \\
            } \\
        } else { \\
            for (int64_t i = 0; i < n; i++) { \\
                UINT u; TYPE t; \\
                memcpy(&u, raw + i * (int64_t) sizeof(UINT), sizeof(UINT)); \\
                u = LOAD(u); \\
                memcpy(&t, &u, sizeof t); \\
                float v = (float) ((REAL) t * s + z); \\
                int good = (v > SX_BAD * 0.1f) & (v <= SX_LARGEST); \\
                out[i] = good ? v : SX_BAD; \\
                bad += !good; \\
            } \\
        } \\
        return bad; \\
    }
    #define SX_SAME(v) (v)
    #define SX_PAIR(NAME, UINT, TYPE, REAL, SWAP) \\
    SX_ROW(sx_big_##NAME, UINT, TYPE, REAL, SWAP) \\
    SX_ROW(sx_own_##NAME, UINT, TYPE, REAL, SX_SAME)

    SX_PAIR(u8, uint8_t, uint8_t, float, sx_swap8)
    SX_PAIR(i16, uint16_t, int16_t, float, sx_swap16)
    SX_PAIR(i32, uint32_t, int32_t, float, sx_swap32)
    SX_PAIR(f32, uint32_t, float, float, sx_swap32)
    SX_PAIR(wide_u8, uint8_t, uint8_t, double, sx_swap8)
    SX_PAIR(wide_i16, uint16_t, int16_t, double, sx_swap16)
    SX_PAIR(wide_i32, uint32_t, int32_t, double, sx_swap32)
    SX_PAIR(wide_i64, uint64_t, int64_t, double, sx_swap64)
    SX_PAIR(wide_f32, uint32_t, float, double, sx_swap32)
    SX_PAIR(wide_f64, uint64_t, double, double, sx_swap64)

    typedef int64_t (*sx_row)(const unsigned char *, int64_t, double, double, int, int64_t, float *);
    static sx_row sx_pick(int bitpix, int wide, int big) {
        switch (bitpix) {
        case 8: return wide ? (big ? sx_big_wide_u8 : sx_own_wide_u8) : (big ? sx_big_u8 : sx_own_u8);
        case 16: return wide ? (big ? sx_big_wide_i16 : sx_own_wide_i16) : (big ? sx_big_i16 : sx_own_i16);
        case 32: return wide ? (big ? sx_big_wide_i32 : sx_own_wide_i32) : (big ? sx_big_i32 : sx_own_i32);
        case 64: return big ? sx_big_wide_i64 : sx_own_wide_i64;
        case -32: return wide ? (big ? sx_big_wide_f32 : sx_own_wide_f32) : (big ? sx_big_f32 : sx_own_f32);
        default: return big ? sx_big_wide_f64 : sx_own_wide_f64;
        }
    }
    """
    ctypedef int64_t (*sx_row)(const unsigned char*, int64_t, double, double, int, int64_t, float*) noexcept nogil
    sx_row sx_pick(int bitpix, int wide, int big) noexcept nogil
    uint32_t sx_swap32(uint32_t v) noexcept nogil


def convert(const unsigned char[::1] raw, int64_t start, int64_t stride, float[:, :] out, int bitpix, bint wide,
            bint big, double scale, double zero, bint has_blank, int64_t blank):
    """Rows of stored pixels to float32.

    Parameters
    ----------
    raw : uint8 array
        Stored pixels; row ``r`` begins at byte ``start + r·stride``.
    out : float32 array (h, w)
        Filled; its rows must be contiguous.
    bitpix : int
        FITS code of the stored type.
    wide : bool
        Scale in double instead of float.
    big : bool
        Big-endian as in a file; otherwise the machine's order.
    scale, zero : float
        BSCALE, BZERO.
    has_blank, blank : bool, int
        Stored value that means no data.

    Returns
    -------
    int
        Bad pixels, which are ``records.BAD`` in `out`.
    """
    cdef int64_t h = out.shape[0], w = out.shape[1], r, bad = 0
    cdef int64_t size = (bitpix if bitpix > 0 else -bitpix) // 8
    cdef sx_row row = sx_pick(bitpix, wide, big)
    if h == 0 or w == 0:
        return 0
    if start < 0 or stride < 0 or start + (h - 1) * stride + w * size > raw.shape[0]:
        raise ValueError("the raw bytes are fewer than the rows asked for")
    if w > 1 and out.strides[1] != sizeof(float):
        raise ValueError("rows of the output are not contiguous")
    with nogil:
        for r in range(h):
            bad += row(&raw[start + r * stride], w, scale, zero, has_blank, blank, &out[r, 0])
    return bad


def ones_complement(const unsigned char[::1] raw, uint64_t total):
    """FITS's 32-bit ones-complement sum, folded; `raw` must be a multiple of 4 bytes, `total` is the sum so far."""
    cdef int64_t n = raw.shape[0] // 4, i
    cdef uint64_t s = 0, low = 0xFFFFFFFFU
    cdef uint32_t v
    with nogil:
        for i in range(n):
            memcpy(&v, &raw[4 * i], 4)
            s += sx_swap32(v)
        # 2^31 words at most fit before the sum passes 2^63; a chunk is far smaller.
        s = (s & low) + (s >> 32)
        s += total
        while s >> 32:
            s = (s & low) + (s >> 32)
    return s
