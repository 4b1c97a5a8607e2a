# Kernel of classify.py: the inputs of SExtractor's star/galaxy network, and a layered network of sigmoids.
from libc.math cimport exp, log10
from libc.stdint cimport int32_t

cdef enum:
    AREAS = 8

# What stands for an empty area and for a peak that isn't positive.
cdef double NO_AREA = 0.01
cdef double NO_PEAK = 0.1


def inputs(
    const int32_t[:, ::1] areas,
    const float[::1] peak,
    double threshold,
    double seeing_px,
    double seeing_arcsec,
    double[:, ::1] out,
):
    """Logarithms of the first area, the peak over the threshold, the other areas (in seeing discs), and the seeing."""
    cdef Py_ssize_t i
    cdef int k
    cdef double disc = seeing_px * seeing_px
    with nogil:
        for i in range(areas.shape[0]):
            for k in range(AREAS):
                out[i, k + (k > 0)] = log10(areas[i, k] / disc if areas[i, k] > 0 else NO_AREA)
            out[i, 1] = log10(peak[i] / threshold if peak[i] > 0 else NO_PEAK)
            out[i, AREAS + 1] = log10(seeing_arcsec)


def layer(const double[:, ::1] values, const double[:, ::1] weights, double[:, ::1] out):
    """Sigmoids of weighted sums: a row of weights per neuron, its bias last."""
    cdef Py_ssize_t i, j, k, width = values.shape[1]
    cdef double total
    with nogil:
        for i in range(values.shape[0]):
            for j in range(weights.shape[0]):
                total = weights[j, width]
                for k in range(width):
                    total += weights[j, k] * values[i, k]
                out[i, j] = 1.0 / (1.0 + exp(-total))
