# C mirror of the layouts in records.py.  A memoryview `Source[::1]` checks itself against the NumPy dtype.
from libc.stdint cimport int32_t, int64_t

cdef struct Run:
    int32_t x0
    int32_t x1

cdef struct Fragment:
    int32_t y
    int32_t x0
    int32_t x1

cdef struct Source:
    int64_t parent
    int64_t number
    int64_t fragments
    int64_t nfragments
    int64_t npix
    double x
    double y
    double x2
    double y2
    double xy
    double errx2
    double erry2
    double errxy
    double flux_iso
    double var_iso
    float a
    float b
    float theta
    float cxx
    float cyy
    float cxy
    float abcor
    float fdflux
    float fdpeak
    float peak
    float dthresh
    float thresh
    float mthresh
    float fwhm
    float bkg
    float dbkg
    int32_t xmin
    int32_t xmax
    int32_t ymin
    int32_t ymax
    int32_t xpeak
    int32_t ypeak
    int32_t isoarea
    int32_t iso[8]
    int32_t flags
    int32_t singular
    int32_t row
    int32_t spare
    int32_t sorted

cdef struct Footprint:
    int64_t parent
    int64_t npix
    int64_t fragments
    int32_t nfragments
    int32_t row
    int32_t xmin
    int32_t xmax
    int32_t ymin
    int32_t ymax
