# Isophotal analysis of a list of pixels: moments and areas on the filtered values, photometry on the unfiltered ones.
# Sums run in list order.  Definitions: the SExtractor conventions that docs/compatibility.md lists.
from libc.math cimport M_PI, atan2, exp, fabs, log, pow, sqrt
from libc.stdint cimport int32_t, int64_t

from sextract.records cimport Source

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    typedef float sx_areas_f __attribute__((vector_size(16)));
    typedef int32_t sx_areas_i __attribute__((vector_size(16)));

    /* Counts a value in each of the areas whose limit it is above. */
    static inline void sx_count_areas(int32_t *counts, const float *limits, float v) {
        for (int k = 0; k < 12; k += 4) {
            sx_areas_f l;
            sx_areas_i n;
            memcpy(&l, limits + k, sizeof l);
            memcpy(&n, counts + k, sizeof n);
            n -= v > l;
            memcpy(counts + k, &n, sizeof n);
        }
    }
    """
    void sx_count_areas(int32_t *counts, const float *limits, float v) noexcept nogil

cdef enum:
    # Areas: eight isophotes, that above the analysis threshold, and two for the area correction, whose number is whole fours.
    ISOPHOTES = 8
    ANALYSIS = 8
    ABOVE = 9
    ABOVE_HALF = 10
    AREAS = 12

cdef struct Pixels:
    # A piece of a list: row y, columns x0 <= x < x1, whose values begin at index `at`.
    int32_t y
    int32_t x0
    int32_t x1
    int32_t at

cdef struct Facts:
    # What the analysis knows of the frame and the settings.
    int64_t width
    int64_t height
    int64_t minarea
    double rms2
    double gain
    float threshold         # detection
    float analysis          # analysis threshold
    float saturation        # in background-subtracted units it is compared with value + background


cdef struct Sums:
    # First pass over the pixels: sums relative to (x0, y0).
    int32_t x0
    int32_t y0
    int32_t xmin
    int32_t xmax
    int32_t ymin
    int32_t ymax
    int32_t xpeak
    int32_t ypeak
    int64_t npix
    float peak              # filtered, unfiltered
    float top
    double flux
    double sx
    double sy
    double sxx
    double syy
    double sxy

cdef struct Areas:
    # Second pass: counts, errors, the fit of the width.
    int32_t counts[AREAS]   # unfiltered pixels above limits
    float limits[AREAS]
    float low
    double flux
    double total
    double esum
    double exx
    double eyy
    double exy
    double sw
    double sr
    double sl
    double srr
    double srl


cdef inline void begin_sums(Sums *m, int32_t x0, int32_t y0) noexcept nogil:
    m.x0 = x0
    m.y0 = y0
    m.xmin = m.ymin = 2147483647
    m.xmax = m.ymax = -1
    m.xpeak = m.ypeak = 0
    m.npix = 0
    m.peak = m.top = -1e30
    m.flux = m.sx = m.sy = m.sxx = m.syy = m.sxy = 0.0


cdef inline void add_sums(Sums *m, const Pixels *p, int64_t n, const float *filtered, const float *image) noexcept nogil:
    cdef int64_t i, k
    cdef int32_t x
    cdef double v, dx, dy
    for i in range(n):
        m.xmin = min(m.xmin, p[i].x0)
        m.xmax = max(m.xmax, p[i].x1 - 1)
        m.ymin = min(m.ymin, p[i].y)
        m.ymax = max(m.ymax, p[i].y)
        m.npix += p[i].x1 - p[i].x0
        k = p[i].at
        dy = p[i].y - m.y0
        for x in range(p[i].x0, p[i].x1):
            v = filtered[k]
            dx = x - m.x0
            if filtered[k] > m.peak:
                m.peak = filtered[k]
                m.xpeak = x
                m.ypeak = p[i].y
            if image[k] > m.top:
                m.top = image[k]
            m.flux += v
            m.sx += v * dx
            m.sy += v * dy
            m.sxx += v * dx * dx
            m.syy += v * dy * dy
            m.sxy += v * dx * dy
            k += 1


cdef inline void end_sums(Source *s, const Sums *m, bint keep_centre) noexcept nogil:
    # Extents, barycentre, second moments and ellipse.
    # keep_centre: moments about the centre that `s` already has (merged objects keep the one from before).
    cdef double xm = m.sx / m.flux, ym = m.sy / m.flux, xn, yn, x2, y2, xy, det, diff, root, mean
    if keep_centre:
        xn = s.x - m.x0
        yn = s.y - m.y0
        x2 = m.sxx / m.flux + xn * xn - 2 * xm * xn
        y2 = m.syy / m.flux + yn * yn - 2 * ym * yn
        xy = m.sxy / m.flux + xn * yn - xm * yn - xn * ym
    else:
        s.x = xm + m.x0
        s.y = ym + m.y0
        x2 = m.sxx / m.flux - xm * xm
        y2 = m.syy / m.flux - ym * ym
        xy = m.sxy / m.flux - xm * ym
    s.singular = 0
    det = x2 * y2 - xy * xy
    # A line of pixels has no width: give it that of a pixel (1/12), as below this determinant ((1/12)²).
    if det < 0.00694:
        x2 += 0.0833333
        y2 += 0.0833333
        det = x2 * y2 - xy * xy
        s.singular = 1
    diff = x2 - y2
    s.theta = <float>((atan2(2.0 * xy, diff) / 2.0 if fabs(diff) > 0.0 else M_PI / 4.0) * 180.0 / M_PI)
    root = sqrt(diff * diff / 4.0 + xy * xy)
    mean = 0.5 * (x2 + y2)
    s.a = <float>sqrt(mean + root)
    s.b = <float>sqrt(mean - root)
    s.cxx = <float>(y2 / det)
    s.cyy = <float>(x2 / det)
    s.cxy = <float>(-2.0 * xy / det)
    s.x2 = x2
    s.y2 = y2
    s.xy = xy
    s.fdflux = <float>m.flux
    s.fdpeak = m.peak
    s.peak = m.top
    s.npix = m.npix
    s.xmin = m.xmin
    s.xmax = m.xmax
    s.ymin = m.ymin
    s.ymax = m.ymax
    s.xpeak = m.xpeak
    s.ypeak = m.ypeak


cdef inline void begin_areas(Areas *t, const Source *s, const Facts *f) noexcept nogil:
    cdef int32_t j
    t.flux = t.total = t.esum = t.exx = t.eyy = t.exy = t.sw = t.sr = t.sl = t.srr = t.srl = 0.0
    for j in range(AREAS):
        t.counts[j] = 0
        t.limits[j] = 0.0
    for j in range(ISOPHOTES):
        if s.peak > 0.0 and f.analysis > 0.0:
            # Ascending, or out of reach.
            t.limits[j] = f.analysis * <float>pow(s.peak / f.analysis, <float>j / 8) if s.peak > f.analysis else s.peak
    t.limits[ANALYSIS], t.limits[ABOVE], t.limits[ABOVE_HALF] = f.analysis, f.threshold, half_peak(f.threshold, s.peak)
    t.low = s.peak / <float>5.0
    if t.low < f.analysis:
        t.low = f.analysis


cdef inline float half_peak(float threshold, float peak) noexcept nogil:
    return (threshold + peak) / 2


cdef inline float area_correction(int64_t above, int64_t above_half, const Source *s, float threshold) noexcept nogil:
    # Area of the footprint over that of a Gaussian with its moments, from two isophotes (the threshold and half way up to the
    # peak) and how many unfiltered pixels are above each; at most 1.
    cdef float half = half_peak(threshold, s.peak)
    cdef double d
    if not (threshold > 0.0 and half > 0.0):
        return 1.0
    d = <double>(above_half - above)
    if d >= 0.0:
        d = -1.0
    d /= 2.0 * M_PI * s.a * s.b * log(threshold / half if threshold < half else 0.99)
    return <float>(d if d < 1.0 else 1.0)


cdef inline void add_areas(
    Areas *t, const Source *s, const Pixels *p, int64_t n, const float *filtered, const float *image, const Facts *f
) noexcept nogil:
    cdef int64_t i, k
    cdef int32_t x
    cdef float pix
    cdef double dx, dy, e, w, r2, lv
    for i in range(n):
        k = p[i].at
        dy = p[i].y - s.y
        for x in range(p[i].x0, p[i].x1):
            pix = image[k]
            dx = x - s.x
            t.flux += pix
            e = f.rms2
            if f.gain > 0.0 and filtered[k] > 0.0:
                e += filtered[k] / f.gain
            t.total += filtered[k]
            t.esum += e
            t.exx += e * dx * dx
            t.eyy += e * dy * dy
            t.exy += e * dx * dy
            sx_count_areas(t.counts, t.limits, pix)
            if pix > t.low and pix + s.bkg < f.saturation:
                r2 = dx * dx + dy * dy
                lv = log(pix)
                w = <double>pix * pix
                t.sw += w
                t.sr += r2 * w
                t.sl += lv * w
                t.srr += r2 * r2 * w
                t.srl += r2 * lv * w
            k += 1


cdef inline void end_areas(Source *s, Areas *t, const Facts *f) noexcept nogil:
    # Photometry, areas and their correction, position errors and FWHM.
    cdef double total, d, b, bmin
    cdef int32_t j
    s.dthresh = f.threshold
    s.thresh = f.analysis
    s.flux_iso = t.flux
    s.var_iso = s.npix * f.rms2
    s.abcor = area_correction(t.counts[ABOVE], t.counts[ABOVE_HALF], s, f.threshold)
    s.isoarea = t.counts[ANALYSIS]
    for j in range(ISOPHOTES):
        s.iso[j] = t.counts[j]
    t.esum *= 0.08333
    if s.singular and t.exx * t.eyy - t.exy * t.exy < t.esum * t.esum:
        t.exx += t.esum
        t.eyy += t.esum
    total = t.total * t.total
    s.errx2 = t.exx / total
    s.erry2 = t.eyy / total
    s.errxy = t.exy / total
    d = t.sw * t.srr - t.sr * t.sr
    s.fwhm = 0.0
    if fabs(d) > 0.0:
        b = -(t.sw * t.srl - t.sr * t.sl) / d
        bmin = 1.0 / (13.0 * s.a * s.b)
        s.fwhm = <float>(1.6651 / sqrt(b if b > bmin else bmin))
        if s.fwhm > 0.0:
            s.fwhm -= <float>(1.0 / (4.0 * s.fwhm))
    if s.peak + s.bkg >= f.saturation:
        s.flags |= 4


cdef struct Brightest:
    # SExtractor's `mthresh`: nearly the m-th brightest value above the threshold, by a heap whose sift skips an entry.
    float *heap
    int64_t m
    int64_t seen            # m + 1: that many or more


cdef inline void replace_least(float *heap, int64_t m, float v) noexcept nogil:
    cdef int64_t j = 0, c
    heap[0] = v
    while 2 * j + 1 < m:
        c = 2 * j + 1
        if c + 1 < m and heap[c + 1] < heap[c]:
            c += 1
        if not heap[j] > heap[c]:
            break
        heap[j], heap[c] = heap[c], heap[j]
        j = c + 1


cdef inline void add_brightest(Brightest *h, const Pixels *p, int64_t n, const float *filtered, float threshold) noexcept nogil:
    # The order of the list matters: the first m values fill the heap, the next only sorts it, later ones may replace its least.
    cdef int64_t i, k, j, a
    cdef float v, t
    cdef float *heap = h.heap
    for i in range(n):
        for k in range(p[i].at, p[i].at + p[i].x1 - p[i].x0):
            v = filtered[k] - threshold
            if h.seen > h.m:
                if v > heap[0]:
                    replace_least(heap, h.m, v)
                continue
            if h.seen < h.m:
                heap[h.seen] = v
            else:
                for j in range(1, h.m):
                    t = heap[j]
                    a = j - 1
                    while a >= 0 and heap[a] > t:
                        heap[a + 1] = heap[a]
                        a -= 1
                    heap[a + 1] = t
            h.seen += 1
