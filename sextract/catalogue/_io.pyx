"""The 32-bit sum of FITS, for checksums of what is streamed out."""

from libc.stdint cimport uint32_t, uint64_t


cdef uint64_t _sum(const unsigned char *p, Py_ssize_t n, uint64_t total, int phase) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef uint64_t part = 0
    cdef uint64_t low = <uint64_t>0xFFFFFFFFu
    while i < n and phase:
        total += (<uint64_t>p[i]) << (8 * (3 - phase))
        phase = (phase + 1) & 3
        i += 1
    # Words of a chunk are below 2^32 each: 64 bits hold four thousand million of them.
    while i + 4 <= n:
        part += (
            ((<uint32_t>p[i]) << 24) | ((<uint32_t>p[i + 1]) << 16) | ((<uint32_t>p[i + 2]) << 8) | <uint32_t>p[i + 3]
        )
        i += 4
    total += (part & low) + (part >> 32)
    while i < n:
        total += (<uint64_t>p[i]) << (8 * (3 - phase))
        phase = (phase + 1) & 3
        i += 1
    while total >> 32:
        total = (total & low) + (total >> 32)
    return total


def sum32(const unsigned char[::1] data, uint64_t total, int phase):
    """Ones' complement sum of big-endian 32-bit words, as FITS's DATASUM.

    Parameters
    ----------
    data : bytes-like
        The next bytes.
    total : int
        Sum of what came before.
    phase : int
        Position of the first byte within its word: 0 to 3.
    """
    cdef uint64_t result
    if data.shape[0] == 0:
        return total
    with nogil:
        result = _sum(&data[0], data.shape[0], total, phase)
    return result
