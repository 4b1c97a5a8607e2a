"""Deblending and isophotal analysis once more, on lists of pixels in plain Python.

Levels are labelled by the Lutz twin over the whole footprint, sums run pixel by pixel.  Values that the kernels keep in
float32 are rounded to it here too, so that a comparison with a threshold comes out the same; nothing else is shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from lutz_twin import Pixel, lutz_twin

f4 = np.float32
# Its parent on the level below, its threshold, its pixels.
Node = tuple[int, Any, list[Pixel]]
MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class Settings:
    """What deblending knows of the frame and the configuration."""

    threshold: float = 1.0
    analysis: float = 1.0
    rms: float = 1.0
    gain: float = 0.0
    saturation: float = 1e5
    nthresh: int = 32
    mincont: float = 0.005
    minarea: int = 5
    maxarea: int = 0
    extension: int = 1
    most_pixels: int = 10**6
    cell: tuple[int, int] = (16, 16)


def draw_twin(extension: int, x: int, y: int) -> float:
    """The draw of a pixel in [0, 1): splitmix64 of y·2³² xor x xor extension·golden ratio."""
    golden = 0x9E3779B97F4A7C15
    z = ((y << 32) ^ x ^ (extension * golden)) & MASK64
    z = (z + golden) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return ((z ^ (z >> 31)) >> 11) / 2.0**53


def mthresh_twin(values: list[Any], m: int) -> float:
    """What a wing must exceed: about the m-th brightest value, by a heap whose sift skips an entry."""
    if len(values) < m:
        return 0.0
    heap = values[:m]
    if len(values) > m:
        heap.sort()
    for v in values[m + 1 :]:
        if not v > heap[0]:
            continue
        heap[0] = v
        j = 0
        while 2 * j + 1 < m:
            child = min(range(2 * j + 1, min(2 * j + 3, m)), key=lambda c: heap[c])
            if not heap[j] > heap[child]:
                break
            heap[j], heap[child] = heap[child], heap[j]
            j = child + 1
    return float(heap[0])


def background_twin(back: Any, cell: tuple[int, int], x: float, y: float) -> float:
    """The mesh between its nodes at the centres of cells, bilinear, beyond the outer nodes as between the last two."""

    def place(value: float, size: int, n: int) -> tuple[int, int, float]:
        u = int(value + 0.5) / size - 0.5
        i = min(max(math.floor(u), 0), max(n - 2, 0))
        return i, min(i + 1, n - 1), u - i

    (i, ii, dx), (j, jj, dy) = place(x, cell[1], back.shape[1]), place(y, cell[0], back.shape[0])
    low = back[j, i] + dx * (back[j, ii] - back[j, i])
    high = back[jj, i] + dx * (back[jj, ii] - back[jj, i])
    return float(low + dy * (high - low))


class Twin:
    """Sources of one footprint.

    Parameters
    ----------
    image, filtered : float32 arrays
        The whole frame.
    back : float32 array
        Background mesh.
    """

    def __init__(self, s: Settings, image: Any, filtered: Any, back: Any) -> None:
        self.s, self.image, self.filtered, self.back = s, image, filtered, back
        self.t = f4(s.threshold)

    # Analysis

    def shape(self, pixels: list[Pixel], threshold: Any, centre: tuple[float, float] | None) -> dict[str, Any]:
        """Moments, ellipse, peaks, area correction."""
        x0, y0 = min(x for _, x in pixels), min(y for y, _ in pixels)
        flux = sx = sy = sxx = syy = sxy = 0.0
        fdpeak = peak = f4(-1e30)
        where = (0, 0)
        for y, x in pixels:
            v, dx, dy = float(self.filtered[y, x]), x - x0, y - y0
            flux, sx, sy = flux + v, sx + v * dx, sy + v * dy
            sxx, syy, sxy = sxx + v * dx * dx, syy + v * dy * dy, sxy + v * dx * dy
            if self.filtered[y, x] > fdpeak:
                fdpeak, where = self.filtered[y, x], (y, x)
            peak = max(peak, self.image[y, x])
        mx, my = sx / flux, sy / flux
        cx, cy = (mx, my) if centre is None else (centre[0] - x0, centre[1] - y0)
        x2, y2 = sxx / flux + cx * cx - 2 * mx * cx, syy / flux + cy * cy - 2 * my * cy
        xy = sxy / flux + cx * cy - mx * cy - cx * my
        singular = x2 * y2 - xy * xy < 0.00694
        if singular:
            x2, y2 = x2 + 0.0833333, y2 + 0.0833333
        det, root = x2 * y2 - xy * xy, math.sqrt((x2 - y2) ** 2 / 4 + xy * xy)
        a, b = f4(math.sqrt((x2 + y2) / 2 + root)), f4(math.sqrt((x2 + y2) / 2 - root))
        out = {
            "x": cx + x0, "y": cy + y0, "x2": x2, "y2": y2, "xy": xy, "a": a, "b": b, "singular": int(singular),
            "theta": 45.0 if x2 == y2 else math.degrees(math.atan2(2 * xy, x2 - y2) / 2),
            "cxx": f4(y2 / det), "cyy": f4(x2 / det), "cxy": f4(-2 * xy / det), "fdflux": f4(flux), "fdpeak": fdpeak,
            "peak": peak, "npix": len(pixels), "xmin": x0, "ymin": y0, "xmax": max(x for _, x in pixels),
            "ymax": max(y for y, _ in pixels), "ypeak": where[0], "xpeak": where[1],
        }  # fmt: skip
        out["abcor"] = self._area_correction(pixels, f4(threshold), peak, float(a) * float(b))
        return out

    def _area_correction(self, pixels: list[Pixel], t: Any, peak: Any, ab: float) -> Any:
        half = (t + peak) / f4(2)
        if half <= 0 or t / half <= 0:
            return f4(1)
        values = [self.image[p] for p in pixels]
        d = sum(v > half for v in values) - sum(v > t for v in values)
        q = float(t / half) if t < half else 0.99
        return f4(min((d if d < 0 else -1) / (2 * math.pi * ab * math.log(q)), 1.0))

    def isophotal(self, o: dict[str, Any], pixels: list[Pixel]) -> None:
        """Photometry, areas, errors, FWHM, all added to `o`."""
        s, analysis, bkg = self.s, f4(self.s.analysis), f4(o["bkg"])
        limits = [f4(0)] * 8
        if o["peak"] > 0 and analysis > 0:
            limits = [analysis * f4(float(o["peak"] / analysis) ** (j / 8)) for j in range(8)]
        iso, isoarea, flux, total = [0] * 8, 0, 0.0, 0.0
        esum = exx = eyy = exy = 0.0
        w0 = wr = wl = wrr = wrl = 0.0
        for p in pixels:
            v, f = self.image[p], float(self.filtered[p])
            dy, dx = p[0] - o["y"], p[1] - o["x"]
            flux, total, isoarea = flux + float(v), total + f, isoarea + int(v > analysis)
            for j in range(8):
                if not v > limits[j]:
                    break
                iso[j] += 1
            e = s.rms**2 + (f / s.gain if s.gain > 0 and f > 0 else 0.0)
            esum, exx, eyy, exy = esum + e, exx + e * dx * dx, eyy + e * dy * dy, exy + e * dx * dy
            if v > max(o["peak"] / f4(5), analysis) and v + bkg < f4(s.saturation):
                r2, lv, w = dx * dx + dy * dy, math.log(v), float(v) ** 2
                w0, wr, wl, wrr, wrl = w0 + w, wr + r2 * w, wl + lv * w, wrr + r2 * r2 * w, wrl + r2 * lv * w
        extra = 0.08333 * esum
        if o["singular"] and exx * eyy - exy * exy < extra * extra:
            exx, eyy = exx + extra, eyy + extra
        o |= {"errx2": exx / total**2, "erry2": eyy / total**2, "errxy": exy / total**2, "isoarea": isoarea, "iso": iso}
        o |= {"flux_iso": flux, "var_iso": len(pixels) * s.rms**2, "thresh": analysis, "fwhm": 0.0}
        d = w0 * wrr - wr * wr
        if d != 0:
            slope = max(-(w0 * wrl - wr * wl) / d, 1 / (13 * float(o["a"]) * float(o["b"])))
            fwhm = 1.6651 / math.sqrt(slope)
            o["fwhm"] = fwhm - 1 / (4 * fwhm)
        o["flags"] |= 4 if o["peak"] + bkg >= f4(s.saturation) else 0

    def edge(self, pixels: list[Pixel]) -> int:
        """FLAGS bit 8."""
        height, width = self.image.shape
        return 8 if any(y in (0, height - 1) or x in (0, width - 1) for y, x in pixels) else 0

    def source(self, pixels: list[Pixel], flags: int, centre: tuple[float, float] | None = None) -> dict[str, Any]:
        """All that is known of a list of pixels."""
        o = self.shape(pixels, self.t, centre)
        o |= {"flags": flags, "dthresh": self.t, "number": 0, "dbkg": 0.0, "spare": 0}
        o["bkg"] = background_twin(self.back, self.s.cell, o["x"], o["y"])
        o["mthresh"] = mthresh_twin([self.filtered[p] - self.t for p in pixels], self.s.minarea)
        self.isophotal(o, pixels)
        return o

    # The tree

    def deblend(self, pixels: list[Pixel]) -> list[tuple[dict[str, Any], list[Pixel]]]:
        """Sources of a footprint, each with its pixels in list order."""
        if len(pixels) > self.s.most_pixels:
            found = [(self.source(pixels, 128 | self.edge(pixels)), pixels)]
        else:
            leaves = self.leaves(pixels)
            if len(leaves) < 2:
                flags = 64 if self.overflow else 0
                found = [(self.source(pixels, flags | self.edge(pixels)), pixels)]
            else:
                found = self.share(pixels, leaves)
        return [(o, p) for o, p in found if not self.s.maxarea or len(p) <= self.s.maxarea]

    def leaves(self, pixels: list[Pixel]) -> list[tuple[Any, list[Pixel]]]:
        """What the footprint splits into: threshold and pixels of each, in the order of the sources."""
        s, self.overflow = self.s, False
        ymin, xmin = min(y for y, _ in pixels), min(x for _, x in pixels)
        shape = max(y for y, _ in pixels) - ymin + 1, max(x for _, x in pixels) - xmin + 1
        values = np.full(shape, -np.inf, f4)
        for y, x in pixels:
            values[y - ymin, x - xmin] = self.filtered[y, x]
        peak = values.max()
        if not peak > self.t or not self.t > 0:
            return []
        ratio = peak / self.t
        least = f4(f4(sum(float(self.filtered[p]) for p in pixels)) * s.mincont)
        levels: list[list[Node]] = []
        parents = np.full(shape, -1)
        for k in range(1, s.nthresh):
            t = self.t * f4(float(ratio) ** (k / s.nthresh))
            parts = lutz_twin(values > t, min(s.minarea, 3))
            if len(parts) >= 1024:
                self.overflow = True
                return []
            nodes = sorted(((int(parents[p[0]]), t, p) for p in parts), key=lambda node: node[0])
            for i, (_, _, p) in enumerate(nodes):
                for y, x in p:
                    parents[y, x] = i
            levels.append(nodes)
        found = self._choose(levels, values, least)
        return [(t, [(y + ymin, x + xmin) for y, x in p]) for t, p in found]

    @staticmethod
    def _choose(levels: list[list[Node]], values: Any, least: Any) -> list[tuple[Any, list[Pixel]]]:
        found = []
        split: set[tuple[int, int]] = set()
        for k in range(len(levels) - 1, -1, -1):
            for parent in sorted({node[0] for node in levels[k]}):
                children = [(i, *node) for i, node in enumerate(levels[k]) if node[0] == parent]
                bright = [c for c in children if f4(sum(float(values[q]) for q in c[3])) - c[2] * f4(len(c[3])) > least]
                if len(bright) >= 2:
                    found += [(t, p) for i, _, t, p in bright if (k, i) not in split]
                if len(bright) >= 2 or any((k, c[0]) in split for c in children):
                    split.add((k - 1, parent))
        return found

    def share(
        self, pixels: list[Pixel], leaves: list[tuple[Any, list[Pixel]]]
    ) -> list[tuple[dict[str, Any], list[Pixel]]]:
        """Give what is in no leaf to one of them, and analyse the sums."""
        shapes = [self.shape(p, t, None) for t, p in leaves]
        lists = [list(p) for _, p in leaves]
        owned = {q for p in lists for q in p}
        amplitudes = []
        for o in shapes:
            exponent = o["npix"] / (2 * math.pi * float(o["abcor"]) * float(o["a"]) * float(o["b"]))
            high = 4 * float(o["fdpeak"])
            amplitudes.append(min(float(self.t) * math.exp(exponent), high) if exponent < 70 else high)
        for y, x in pixels:
            if (y, x) in owned:
                continue
            far = []
            for o in shapes:
                dx, dy = x - o["x"], y - o["y"]
                r2 = float(o["cxx"]) * dx * dx + float(o["cyy"]) * dy * dy + float(o["cxy"]) * dx * dy
                far.append(0.5 * r2 / float(o["abcor"]))
            chances = np.cumsum([a * math.exp(-d) if d < 70 else 0.0 for a, d in zip(amplitudes, far, strict=True)])
            if chances[-1] > 1e-31:
                owner = int(np.searchsorted(chances, chances[-1] * draw_twin(self.s.extension, x, y)))
            else:
                owner = int(np.argmin(far))
            lists[owner].append((y, x))
        return [
            (self.source(p, 2 | self.edge(leaf), (o["x"], o["y"])), p)
            for p, o, (_, leaf) in zip(lists, shapes, leaves, strict=True)
        ]
