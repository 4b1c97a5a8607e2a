"""The photometric definitions written out pixel by pixel in plain Python, on a whole image: oracles for the kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sextract.records import BAD

F = np.float32


def pixel(image: Any, x: int, y: int, cx: float, cy: float, correct: bool) -> float:
    """What a pixel counts: its value, its mirror's if it is masked, or 0."""
    h, w = image.shape
    if image[y, x] > BAD / 10:
        return float(image[y, x])
    u, v = int(2 * cx + 0.49999 - x), int(2 * cy + 0.49999 - y)
    if correct and 0 <= u < w and 0 <= v < h and image[v, u] > BAD / 10:
        return float(image[v, u])
    return 0.0


def aperture(image: Any, cx: float, cy: float, radius: float, correct: bool) -> tuple[float, float]:
    """Flux and area of a circle."""
    h, w = image.shape
    cx, cy, step = F(cx), F(cy), F(0.2)
    limit, outer = F(radius * radius), (radius + 0.75) ** 2
    inner = (radius - 0.75) ** 2 if radius > 0.75 else 0.0
    share = np.concatenate([[F(0)], np.cumsum(np.full(25, step * step, F))])
    flux = area = 0.0
    for y in range(max(int(cy - radius + 0.499999), 0), min(int(cy + radius + 1.499999), h)):
        for x in range(max(int(cx - radius + 0.499999), 0), min(int(cx + radius + 1.499999), w)):
            dx, dy = F(x) - cx, F(y) - cy
            r2 = dx * dx + dy * dy
            if float(r2) > outer:
                continue
            part = 1.0
            if float(r2) > inner:
                subx, suby = (np.cumsum(np.array([d + F(-0.4)] + [step] * 4, F)) ** 2 for d in (dx, dy))
                part = float(share[int((subx[None, :] + suby[:, None] < limit).sum())])
            flux += part * pixel(image, x, y, float(cx), float(cy), correct)
            area += part
    return flux, area


def inside(image: Any, s: Any, radius: float) -> list[tuple[int, int, np.float32]]:
    """Pixels x, y in an ellipse of that radius, with their squared radius."""
    h, w = image.shape
    cx, cy, limit = F(s["x"]), F(s["y"]), F(radius * radius)
    found = []
    for y in range(h):
        for x in range(w):
            dx, dy = F(x) - cx, F(y) - cy
            r2 = s["cxx"] * dx * dx + s["cyy"] * dy * dy + s["cxy"] * dx * dy
            if r2 <= limit:
                found.append((x, y, r2))
    return found


def ellipse(image: Any, s: Any, radius: float, correct: bool) -> tuple[float, int]:
    """Flux and pixels of an ellipse."""
    pixels = inside(image, s, radius)
    return sum(pixel(image, x, y, float(F(s["x"])), float(F(s["y"])), correct) for x, y, _ in pixels), len(pixels)


def kron_radius(image: Any, s: Any, factor: float, least: float) -> float:
    """Kron's radius times `factor`, at least `least`."""
    light = [(math.sqrt(r2), float(image[y, x])) for x, y, r2 in inside(image, s, 6.0) if image[y, x] > BAD / 10]
    first, total = sum(r * v for r, v in light), sum(v for _, v in light)
    return float(F(max(factor * first / total, least))) if first > 0 and total > 0 else least


def petrosian_radius(image: Any, s: Any, factor: float, least: float) -> float:
    """1.1 times Petrosian's radius times `factor`, at least `least`."""
    light = [(float(r2), float(image[y, x])) for x, y, r2 in inside(image, s, 6.0) if image[y, x] > BAD / 10]
    k = F(0.3)
    while True:
        trial = float(k)
        within = [v for r2, v in light if r2 < (1.1 * trial) ** 2]
        around = [v for r2, v in light if trial**2 <= r2 <= (1.2 * trial) ** 2]
        k = k + F(0.3)
        if within and around and sum(around) / len(around) < 0.2 * sum(within) / len(within):
            break
        if 1.2 * float(k) >= 6:
            break
    good = within and around and sum(within) != 0 and sum(around) != 0
    return float(F(max(factor * 1.1 * trial, least))) if good else least


def growth_curve(image: Any, cx: float, cy: float, limit: float, correct: bool) -> Any:
    """Cumulated flux in 64 rings."""
    h, w = image.shape
    step = limit / 64
    density, radius = 1.0 / step, limit + 1.5
    curve = np.zeros(64)
    for y in range(max(int(cy - radius + 0.499999), 0), min(int(cy + radius + 1.499999), h)):
        for x in range(max(int(cx - radius + 0.499999), 0), min(int(cx + radius + 1.499999), w)):
            dx, dy = x - cx, y - cy
            value = pixel(image, x, y, cx, cy, correct)
            if value == 0 or dx * dx + dy * dy > radius * radius:
                continue
            r = math.sqrt(dx * dx + dy * dy)
            rest = math.fmod(r, step)
            if rest < 0.75 or step - rest < 0.75:
                subx, suby = (np.cumsum([d - 0.4, 0.2, 0.2, 0.2, 0.2]) for d in (dx, dy))
                rings = (np.sqrt(subx[None, :] ** 2 + suby[:, None] ** 2) * density).astype(int).ravel()
                np.add.at(curve, rings[rings < 64], value / 25)
            elif int(r * density) < 64:
                curve[int(r * density)] += value
    return np.cumsum(curve)


def light_radius(curve: Any, target: float, limit: float) -> float:
    """Where a cumulated curve first holds `target`."""
    n = next((k for k in range(63) if curve[k] >= target), 63)
    upper = min(n, 62)
    below = curve[upper - 1] if upper else 0.0
    return min((n + (target - below) / (curve[upper] - below)) * limit / 64, limit)
