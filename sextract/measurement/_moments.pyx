# Kernel of shape.py: ellipses from second moments.  libm's atan2, because NumPy's may differ with length and stride.
from libc.math cimport atan2, sqrt

cdef double DEG = 57.29577951308232


def ellipses(
    const double[::1] x2, const double[::1] y2, const double[::1] xy, double[::1] a, double[::1] b, double[::1] theta
):
    """Axes (RMS) and angle (degrees) of each moment matrix."""
    cdef Py_ssize_t i
    cdef double mean, diff, root
    with nogil:
        for i in range(x2.shape[0]):
            mean, diff = 0.5 * (x2[i] + y2[i]), x2[i] - y2[i]
            root = sqrt(0.25 * diff * diff + xy[i] * xy[i])
            a[i] = sqrt(mean + root)
            b[i] = sqrt(mean - root) if not mean < root else 0.0
            theta[i] = 0.5 * atan2(2.0 * xy[i], diff) * DEG if diff != 0 else 45.0
