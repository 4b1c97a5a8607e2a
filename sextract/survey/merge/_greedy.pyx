"""Which sources are primaries and which duplicates, best first, among those of a piece of the sky.

Only what was not found to be a duplicate is put into a grid of cubes over the unit sphere, so that the work is linear in the
sources however many images overlap.  Which source is better is the caller's; here they come in that order.
"""

from libc.math cimport floor
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

PRIMARY, DUPLICATE, UNKNOWN = 0, 1, 2

cdef enum:
    C_PRIMARY = 0
    C_DUPLICATE = 1
    C_UNKNOWN = 2


def hash_size(int64_t n):
    """Entries that the grid's table needs for `n` sources, a power of two."""
    cdef int64_t size = 1024
    while size < n:
        size *= 2
    return size


cdef inline int64_t bucket(int64_t i, int64_t j, int64_t k, int64_t mask) noexcept nogil:
    """Place of a cube in the table; cubes that share one are told apart by their distances."""
    cdef uint64_t h = <uint64_t>i * 0x9E3779B97F4A7C15ULL
    h += <uint64_t>j * 0xC2B2AE3D27D4EB4FULL
    h += <uint64_t>k * 0x165667B19E3779F9ULL
    h ^= h >> 32
    return <int64_t>(h & <uint64_t>mask)


cdef inline double apart(const double[::1] x, const double[::1] y, const double[::1] z, int64_t a, int64_t b) noexcept nogil:
    """Squared length of the chord between two sources."""
    cdef double dx = x[a] - x[b], dy = y[a] - y[b], dz = z[a] - z[b]
    return dx * dx + dy * dy + dz * dz


def decide(
    const double[::1] x, const double[::1] y, const double[::1] z, const int64_t[::1] frame, const uint8_t[::1] whole,
    double radius, int32_t[::1] heads, int32_t[::1] following, uint8_t[::1] state, int64_t[::1] primary,
):
    """Decide on sources that come best first.

    Parameters
    ----------
    x, y, z : float64 arrays (n,)
        Unit vectors.
    frame : int64 array (n,)
        Image and extension; sources of one are never each other's duplicates.
    whole : uint8 array (n,)
        1 where every source within the radius is here.  Elsewhere it is only known what those here make certain.
    radius : float
        Length of the chord within which two sources are one object.
    heads : int32 array (hash_size(n),)
        Scratch.
    following : int32 array (n,)
        Scratch.
    state : uint8 array (n,)
        Written: PRIMARY, DUPLICATE, or UNKNOWN where it depends on sources that are not here.
    primary : int64 array (n,)
        Written: the source itself; for a duplicate the nearest primary of another frame, of equally near ones the best.
    """
    cdef int64_t n = x.shape[0], mask = heads.shape[0] - 1, s, t, i, j, k, ci, cj, ck, at, nearest
    cdef double reach = radius * radius, d, least, unsure
    cdef bint found, unknown
    with nogil:
        for at in range(heads.shape[0]):
            heads[at] = -1
        for s in range(n):
            ci, cj, ck = <int64_t>floor(x[s] / radius), <int64_t>floor(y[s] / radius), <int64_t>floor(z[s] / radius)
            found = False
            unknown = not whole[s]
            for i in range(ci - 1, ci + 2):
                for j in range(cj - 1, cj + 2):
                    for k in range(ck - 1, ck + 2):
                        t = heads[bucket(i, j, k, mask)]
                        while t >= 0 and not found:
                            if frame[t] != frame[s] and apart(x, y, z, s, t) <= reach:
                                if state[t] == C_PRIMARY:
                                    found = True
                                else:
                                    unknown = True
                            t = following[t]
            primary[s] = s
            if found:
                state[s] = C_DUPLICATE
                continue
            state[s] = C_UNKNOWN if unknown else C_PRIMARY
            at = bucket(ci, cj, ck, mask)
            following[s] = heads[at]
            heads[at] = <int32_t>s
        for s in range(n):
            if state[s] != C_DUPLICATE:
                continue
            ci, cj, ck = <int64_t>floor(x[s] / radius), <int64_t>floor(y[s] / radius), <int64_t>floor(z[s] / radius)
            nearest, least, unsure = -1, reach, 2 * reach
            for i in range(ci - 1, ci + 2):
                for j in range(cj - 1, cj + 2):
                    for k in range(ck - 1, ck + 2):
                        t = heads[bucket(i, j, k, mask)]
                        while t >= 0:
                            if frame[t] != frame[s]:
                                d = apart(x, y, z, s, t)
                                if state[t] != C_PRIMARY:
                                    unsure = min(unsure, d)
                                elif d < least or (d == least and (nearest < 0 or t < nearest)):
                                    nearest, least = t, d
                            t = following[t]
            primary[s] = nearest
            if unsure <= least:
                state[s] = C_UNKNOWN
