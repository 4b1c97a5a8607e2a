# Isophotal analysis of a list of pixels: moments and areas on the filtered values, photometry on the unfiltered ones.
# Sums run in list order.  Definitions: the SExtractor conventions that docs/compatibility.md lists.
from libc.math cimport M_PI, atan2, exp, fabs, log, pow, sqrt
from libc.stdint cimport int32_t, int64_t

from sextract.records cimport Source

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


cdef inline void shape(
    Source *s, const Pixels *p, int64_t n, const float *filtered, const float *image, float threshold, bint keep_centre
) noexcept nogil:
    # Extents, barycentre, second moments, ellipse and area correction at a threshold.
    # keep_centre: moments about the centre that `s` already has (merged objects keep the one from before).
    cdef int64_t i, k, npix = 0, above = 0, above_half = 0
    cdef int32_t x, xmin = 2147483647, xmax = -1, ymin = 2147483647, ymax = -1
    cdef double v, dx, dy, flux = 0.0, sx = 0.0, sy = 0.0, sxx = 0.0, syy = 0.0, sxy = 0.0
    cdef double xm, ym, xn, yn, x2, y2, xy, det, diff, root, mean, d
    cdef float peak = -1e30, top = -1e30, half
    cdef int32_t xpeak = 0, ypeak = 0
    for i in range(n):
        xmin = min(xmin, p[i].x0)
        xmax = max(xmax, p[i].x1 - 1)
        ymin = min(ymin, p[i].y)
        ymax = max(ymax, p[i].y)
    for i in range(n):
        k = p[i].at
        dy = p[i].y - ymin
        for x in range(p[i].x0, p[i].x1):
            v = filtered[k]
            dx = x - xmin
            if filtered[k] > peak:
                peak = filtered[k]
                xpeak = x
                ypeak = p[i].y
            if image[k] > top:
                top = image[k]
            flux += v
            sx += v * dx
            sy += v * dy
            sxx += v * dx * dx
            syy += v * dy * dy
            sxy += v * dx * dy
            k += 1
        npix += p[i].x1 - p[i].x0
    half = (threshold + top) / 2
    for i in range(n):
        for k in range(p[i].at, p[i].at + p[i].x1 - p[i].x0):
            above += image[k] > threshold
            above_half += image[k] > half
    xm = sx / flux
    ym = sy / flux
    if keep_centre:
        xn = s.x - xmin
        yn = s.y - ymin
        x2 = sxx / flux + xn * xn - 2 * xm * xn
        y2 = syy / flux + yn * yn - 2 * ym * yn
        xy = sxy / flux + xn * yn - xm * yn - xn * ym
    else:
        s.x = xm + xmin
        s.y = ym + ymin
        x2 = sxx / flux - xm * xm
        y2 = syy / flux - ym * ym
        xy = sxy / flux - xm * ym
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
    if threshold > 0.0 and half > 0.0:
        d = <double>(above_half - above)
        if d >= 0.0:
            d = -1.0
        d /= 2.0 * M_PI * s.a * s.b * log(threshold / half if threshold < half else 0.99)
        s.abcor = <float>(d if d < 1.0 else 1.0)
    else:
        s.abcor = 1.0
    s.fdflux = <float>flux
    s.fdpeak = peak
    s.peak = top
    s.npix = npix
    s.xmin = xmin
    s.xmax = xmax
    s.ymin = ymin
    s.ymax = ymax
    s.xpeak = xpeak
    s.ypeak = ypeak


cdef inline float nth_brightest(
    const Pixels *p, int64_t n, const float *filtered, float threshold, int64_t m, float *heap
) noexcept nogil:
    # SExtractor's `mthresh`: nearly the m-th brightest value above the threshold, by a heap whose sift skips an entry.
    # The order of the list matters: the first m values fill it, the next only sorts it, later ones may replace its least.
    cdef int64_t i, k, seen = 0, j, c, a
    cdef float v, t
    for i in range(n):
        for k in range(p[i].at, p[i].at + p[i].x1 - p[i].x0):
            v = filtered[k] - threshold
            if seen < m:
                heap[seen] = v
            elif seen == m:
                for j in range(1, m):
                    t = heap[j]
                    a = j - 1
                    while a >= 0 and heap[a] > t:
                        heap[a + 1] = heap[a]
                        a -= 1
                    heap[a + 1] = t
            elif v > heap[0]:
                heap[0] = v
                j = 0
                while 2 * j + 1 < m:
                    c = 2 * j + 1
                    if c + 1 < m and heap[c + 1] < heap[c]:
                        c += 1
                    if not heap[j] > heap[c]:
                        break
                    t = heap[j]
                    heap[j] = heap[c]
                    heap[c] = t
                    j = c + 1
            seen += 1
    return heap[0] if seen >= m else <float>0.0


cdef inline void isophotal(
    Source *s, const Pixels *p, int64_t n, const float *filtered, const float *image, const Facts *f
) noexcept nogil:
    # Photometry, areas, position errors and FWHM over the pixels of a list whose shape is known.
    cdef int64_t i, k, area = 0
    cdef int32_t x, j
    cdef int32_t iso[8]
    cdef float limits[8]
    cdef float pix, low
    cdef double flux = 0.0, dx, dy, e, esum = 0.0, exx = 0.0, eyy = 0.0, exy = 0.0, total = 0.0
    cdef double w, r2, lv, sw = 0.0, sr = 0.0, sl = 0.0, srr = 0.0, srl = 0.0, d, b, bmin
    s.dthresh = f.threshold
    s.thresh = f.analysis
    for j in range(8):
        iso[j] = 0
        limits[j] = 0.0
        if s.peak > 0.0 and s.thresh > 0.0:
            limits[j] = s.thresh * <float>pow(s.peak / s.thresh, <float>j / 8)
    low = s.peak / <float>5.0
    if low < s.thresh:
        low = s.thresh
    for i in range(n):
        k = p[i].at
        dy = p[i].y - s.y
        for x in range(p[i].x0, p[i].x1):
            pix = image[k]
            dx = x - s.x
            flux += pix
            area += pix > s.thresh
            e = f.rms2
            if f.gain > 0.0 and filtered[k] > 0.0:
                e += filtered[k] / f.gain
            total += filtered[k]
            esum += e
            exx += e * dx * dx
            eyy += e * dy * dy
            exy += e * dx * dy
            for j in range(8):
                if not pix > limits[j]:
                    break
                iso[j] += 1
            if pix > low and pix + s.bkg < f.saturation:
                r2 = dx * dx + dy * dy
                lv = log(pix)
                w = <double>pix * pix
                sw += w
                sr += r2 * w
                sl += lv * w
                srr += r2 * r2 * w
                srl += r2 * lv * w
            k += 1
    s.flux_iso = flux
    s.var_iso = s.npix * f.rms2
    s.isoarea = <int32_t>area
    for j in range(8):
        s.iso[j] = iso[j]
    esum *= 0.08333
    if s.singular and exx * eyy - exy * exy < esum * esum:
        exx += esum
        eyy += esum
    total *= total
    s.errx2 = exx / total
    s.erry2 = eyy / total
    s.errxy = exy / total
    d = sw * srr - sr * sr
    s.fwhm = 0.0
    if fabs(d) > 0.0:
        b = -(sw * srl - sr * sl) / d
        bmin = 1.0 / (13.0 * s.a * s.b)
        s.fwhm = <float>(1.6651 / sqrt(b if b > bmin else bmin))
        if s.fwhm > 0.0:
            s.fwhm -= <float>(1.0 / (4.0 * s.fwhm))
    if s.peak + s.bkg >= f.saturation:
        s.flags |= 4
