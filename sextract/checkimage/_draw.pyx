"""Pixels under the outline of an ellipse, drawn as 36 straight strokes, clipped to the frame.

It says which pixels; who adds to them is ``apertures.py``.  Between two corners the longer axis is walked pixel by pixel
and the other interpolated; a corner belongs to the stroke that ends in it; positions round half up.  On a diagonal y is walked.
A crowded source has every other stroke.
"""

from libc.math cimport M_PI, cos, fabs, floor, isfinite, sin
from libc.stdint cimport int64_t

cdef enum:
    STROKES = 36

# Beyond this no outline is drawn: far outside any frame, and safe to convert to integers.
cdef double REACH = 1e15


cdef inline void _corner(
    int k, double x, double y, double a, double b, double ct, double st, double *px, double *py
) noexcept nogil:
    cdef double angle = 2.0 * M_PI * k / STROKES
    cdef double u = a * cos(angle), v = b * sin(angle)
    px[0] = x + u * ct - v * st
    py[0] = y + u * st + v * ct


def draw(
    const double[:] x,
    const double[:] y,
    const double[:] a,
    const double[:] b,
    const double[:] theta,
    const long long[:] dotted,
    int64_t width,
    int64_t height,
    int64_t[:] state,
    int64_t[:] out,
):
    """Fill `out` with the positions ``y * width + x`` of outlines, in the order they are drawn.

    Parameters
    ----------
    x, y, a, b : float64 arrays (n,)
        Centres and semi-axes in pixels; nothing is drawn for a <= 0 or where anything isn't finite.
    theta : float64 array (n,)
        Angle of the major axis in radians.
    dotted : int64 array (n,)
        Draw every other stroke only.
    width, height : int
        The frame.
    state : int64 array (3,)
        Where to go on: outline, stroke, step.  Zeros at first; the outline is n when everything is drawn.
    out : int64 array (m,)

    Returns
    -------
    int
        How many positions were filled in.
    """
    cdef int64_t s, j, last, count = 0, capacity = out.shape[0], n = x.shape[0], p, q, along, limit
    cdef int k, step
    cdef double x0, y0, x1, y1, ct, st, slope, t
    cdef bint steep
    with nogil:
        s, k, j = state[0], <int>state[1], state[2]
        while s < n:
            if not (a[s] > 0 and isfinite(x[s] + y[s] + a[s] + b[s] + theta[s])) or (
                fabs(x[s]) + fabs(y[s]) + a[s] + fabs(b[s]) > REACH
            ):
                k = STROKES
            ct, st = cos(theta[s]), sin(theta[s])
            while k < STROKES:
                if dotted[s] and k & 1:
                    k += 1
                    continue
                _corner(k, x[s], y[s], a[s], b[s], ct, st, &x0, &y0)
                _corner(k + 1, x[s], y[s], a[s], b[s], ct, st, &x1, &y1)
                steep = not (fabs(x1 - x0) > fabs(y1 - y0))
                limit = width
                if steep:
                    t = x0; x0 = y0; y0 = t
                    t = x1; x1 = y1; y1 = t
                    limit = height
                slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
                p, q = <int64_t>floor(x0 + 0.5), <int64_t>floor(x1 + 0.5)
                step = 1 if q > p else -1
                last = q - p if q > p else p - q
                # The part of the walk within the frame: a stroke may begin and end far outside.
                if j == 0:
                    j = 1
                    if step > 0 and p + j < 0:
                        j = -p
                    if step < 0 and p - j > limit - 1:
                        j = p - limit + 1
                if step > 0 and p + last > limit - 1:
                    last = limit - 1 - p
                if step < 0 and p - last < 0:
                    last = p
                while j <= last and count < capacity:
                    along = p + step * j
                    q = <int64_t>floor(y0 + (along - x0) * slope + 0.5)
                    if steep:
                        if 0 <= q < width:
                            out[count] = along * width + q
                            count += 1
                    elif 0 <= q < height:
                        out[count] = q * width + along
                        count += 1
                    j += 1
                if j <= last:
                    break
                j = 0
                k += 1
            if k < STROKES:
                break
            s += 1
            k = 0
            j = 0
        state[0], state[1], state[2] = s, k, j
    return count
