"""Writes pixels of a big-endian FITS image at absolute positions: boxes, labelled fragments, fragments with values.

Everything goes through a buffer of 64 KiB on the stack.  Functions return errno, or 0; who opens files and how large
they are is ``checkimage.py``'s.
"""

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t, uint32_t

cdef extern from "unistd.h" nogil:
    Py_ssize_t _pwrite "pwrite"(int fd, const void *buffer, size_t nbytes, long long offset)

cdef enum:
    CAPACITY = 16384


cdef inline uint32_t _swap(uint32_t v) noexcept nogil:
    return (v << 24) | ((v & <uint32_t>0xFF00) << 8) | ((v >> 8) & <uint32_t>0xFF00) | (v >> 24)


cdef int _flush(int fd, const uint32_t *buffer, int64_t n, int64_t offset) noexcept nogil:
    cdef const char *p = <const char *>buffer
    cdef int64_t left = 4 * n
    cdef Py_ssize_t done
    while left > 0:
        done = _pwrite(fd, p, <size_t>left, offset)
        if done < 0:
            if errno == EINTR:
                continue
            return errno
        if done == 0:
            return EIO
        p += done
        left -= done
        offset += done
    return 0


def put_box(int fd, int64_t base, int64_t width, int64_t y0, int64_t x0, const uint32_t[:, :] pixels):
    """Write a box whose first pixel is (y0, x0).

    Parameters
    ----------
    fd : int
    base : int
        Position of the image's first byte.
    width : int
        Pixels of an image row.
    y0, x0 : int
    pixels : uint32 array (h, w), any strides
        Bits of the pixels in native order.
    """
    cdef uint32_t buffer[CAPACITY]
    cdef int64_t h = pixels.shape[0], w = pixels.shape[1], i, j, n = 0, start = 0
    cdef bint whole = w == width
    cdef int bad = 0
    with nogil:
        for i in range(h):
            if not whole or n == 0:
                start = (y0 + i) * width + x0
            for j in range(w):
                buffer[n] = _swap(pixels[i, j])
                n += 1
                if n == CAPACITY:
                    bad = _flush(fd, buffer, n, base + 4 * start)
                    if bad:
                        break
                    start += n
                    n = 0
            if n and (not whole or i == h - 1) and not bad:
                bad = _flush(fd, buffer, n, base + 4 * start)
                n = 0
            if bad:
                break
    return bad


def put_labels(int fd, int64_t base, int64_t width, const int[:, :] fragments, const int[:] labels):
    """Write one label over each fragment (y, x0, x1)."""
    cdef uint32_t buffer[CAPACITY]
    cdef int64_t i, j, left, n, at
    cdef uint32_t label
    cdef int bad = 0
    with nogil:
        for i in range(fragments.shape[0]):
            label = _swap(<uint32_t>labels[i])
            left = <int64_t>fragments[i, 2] - fragments[i, 1]
            at = <int64_t>fragments[i, 0] * width + fragments[i, 1]
            for j in range(left if left < CAPACITY else CAPACITY):
                buffer[j] = label
            while left > 0 and not bad:
                n = left if left < CAPACITY else CAPACITY
                bad = _flush(fd, buffer, n, base + 4 * at)
                at += n
                left -= n
            if bad:
                break
    return bad


def put_values(int fd, int64_t base, int64_t width, const int[:, :] fragments, const uint32_t[:] values):
    """Write the pixels of each fragment (y, x0, x1) in turn; `values` holds their bits one after the other."""
    cdef uint32_t buffer[CAPACITY]
    cdef int64_t i, j, left, n, at, first = 0
    cdef int bad = 0
    with nogil:
        for i in range(fragments.shape[0]):
            left = <int64_t>fragments[i, 2] - fragments[i, 1]
            at = <int64_t>fragments[i, 0] * width + fragments[i, 1]
            while left > 0 and not bad:
                n = left if left < CAPACITY else CAPACITY
                for j in range(n):
                    buffer[j] = _swap(values[first + j])
                bad = _flush(fd, buffer, n, base + 4 * at)
                first += n
                at += n
                left -= n
            if bad:
                break
    return bad
