"""The background's definitions a second time, in NumPy: slow, plain, and in the same precision where that matters."""

from __future__ import annotations

from typing import Any

import numpy as np

from sextract.background.mesh import SCRATCH_BYTES, MeshGrid, cell_statistics, mesh_grid
from sextract.background.repair import repair_scratch_bytes
from sextract.background.surface import Background
from sextract.config.settings import BackgroundSettings
from sextract.records import BAD

F = np.float32


def settings(size: Any = 64, filter_size: Any = 3, **others: Any) -> BackgroundSettings:
    """Settings with one number or two for the sizes."""
    pair = [v if isinstance(v, tuple) else (v, v) for v in (size, filter_size)]
    return BackgroundSettings(size=pair[0], filter_size=pair[1], **others)


def raw_maps(image: Any, grid: MeshGrid) -> tuple[Any, Any]:
    """Maps before repair, from the kernel."""
    back, sigma = np.empty((grid.ny, grid.nx), F), np.empty((grid.ny, grid.nx), F)
    scratch = np.zeros(SCRATCH_BYTES, np.uint8)
    for j in range(grid.ny):
        y0, y1 = grid.rows(j)
        cell_statistics(image[y0:y1], grid, j, back[j], sigma[j], scratch)
    return back, sigma


def finished(image: Any, chosen: BackgroundSettings) -> tuple[Background, Any]:
    """The background of an image, and scratch for its methods."""
    height, width = image.shape
    grid = mesh_grid(width, height, chosen)
    background = Background.on(np.zeros(Background.storage_bytes(grid), np.uint8), grid)
    background.back[...], background.sigma[...] = raw_maps(image, grid)
    scratch = np.zeros(max(repair_scratch_bytes(grid), Background.scratch_bytes(grid)), np.uint8)
    background.complete(chosen, scratch)
    return background, scratch


def clipped_mode(values: Any, bins: int, mean: float, pearson: float) -> tuple[float, float]:
    """Background and sigma of a histogram, in levels: its moments taken anew in each turn."""
    low, high, last = 0, bins - 1, bins - 1
    median, spread, before = mean, 10.0 * last, 1.0
    level, total = np.arange(bins), np.concatenate([[0], np.cumsum(values.astype(np.int64))])
    for _ in range(100):
        if not (spread >= 0.1 and abs(spread / before - 1) > 1e-4):
            break
        before = spread
        part, count = values[low : high + 1].astype(np.int64), int(total[high + 1] - total[low])
        # Two counts run towards each other, the smaller one first.
        from_below, from_above, i, j = 0, 0, low, high
        for _ in range(high - low + 1):
            if from_below < from_above:
                from_below += int(values[i])
                i += 1
            else:
                from_above += int(values[j])
                j -= 1
        median = j + 0.5 + (from_above - from_below) / (2.0 * max(values[i], values[j])) if j >= 0 else 0.0
        mean = float((part * level[low : high + 1]).sum()) / count if count else 0.0
        square = float((part * level[low : high + 1] ** 2).sum()) / count - mean * mean if count else 0.0
        spread = float(np.sqrt(max(square, 0.0)))
        low = max(int(median - 3 * spread + 0.5), 0)
        high = min(int(median + 3 * spread + 0.5), last)
    if spread <= 0:
        return mean, spread
    near = abs((mean - median) / spread) < 0.3
    return (pearson * median - (pearson - 1) * mean if near else median), spread


def moments(values: Any) -> tuple[float, float]:
    """Mean and standard deviation, added one by one: far from zero the order decides digits."""
    n = len(values)
    mean = np.cumsum(values)[-1] / n
    return mean, np.sqrt(max(np.cumsum(values * values)[-1] / n - mean * mean, 0.0))


def cell(pixels: Any, limit_rows: Any = slice(None), pearson: float = 2.5) -> tuple[np.float32, np.float32]:
    """Background and sigma of one cell, with the limits from some of its rows."""
    seen = pixels[limit_rows]
    usable = seen[seen > BAD / 10].astype(np.float64)
    if len(usable) < seen.size / 2:
        return F(BAD), F(BAD)
    mean, sigma = moments(usable)
    kept = usable[(usable >= F(mean - 2 * sigma)) & (usable <= F(mean + 2 * sigma))]
    mean, sigma = moments(kept)
    bins = min(int(np.sqrt(2 / np.pi) * 5 / 4 * len(kept) + 1), 4096)
    width = F(10 * sigma / bins) if sigma > 0 else F(1)
    zero = F(mean - 5 * sigma)
    place = np.trunc(pixels[pixels > BAD / 10] / width + F(0.499999 - zero / width))
    values = np.bincount(place[(place >= 0) & (place < bins)].astype(int), minlength=bins)
    mode, spread = clipped_mode(values, bins, mean, pearson)
    return F(float(zero) + mode * float(width)), F(spread * float(width))


def repaired(back: Any, sigma: Any) -> tuple[Any, Any]:
    """Each bad cell looks at all others."""
    out, spread = back.copy(), sigma.copy()
    ys, xs = np.nonzero(back > BAD / 10)
    for y, x in zip(*np.nonzero(back <= BAD / 10), strict=True):
        d2 = (ys - y) ** 2 + (xs - x) ** 2
        near = d2 == d2.min()
        for source, target in ((back, out), (sigma, spread)):
            total = F(0)
            for v in source[ys[near], xs[near]]:
                total += v
            target[y, x] = total / F(near.sum())
    return out, spread


def filtered(back: Any, sigma: Any, box: tuple[int, int], threshold: float) -> tuple[Any, Any]:
    """Medians of boxes (width, height) that shrink on both sides."""
    ny, nx = back.shape
    out, spread = back.copy(), sigma.copy()
    for y in range(ny):
        for x in range(nx):
            ry, rx = min(box[1] // 2, y, ny - 1 - y), min(box[0] // 2, x, nx - 1 - x)
            near = slice(y - ry, y + ry + 1), slice(x - rx, x + rx + 1)
            median = np.median(back[near]).astype(F)
            if abs(median - back[y, x]) >= threshold:
                out[y, x], spread[y, x] = median, np.median(sigma[near])
    return out, spread


def bends(nodes: Any) -> Any:
    """Second derivatives along the first axis, with the division by 6 where SExtractor has it."""
    n = len(nodes)
    c, u, d = np.zeros(n, F), np.zeros_like(nodes), np.zeros_like(nodes)
    for i in range(1, n - 1):
        c[i] = F(-1) / (c[i - 1] + F(4))
        u[i] = c[i] * (u[i - 1] - F(6) * (nodes[i + 1] + nodes[i - 1] - F(2) * nodes[i]))
    for i in range(n - 2, 0, -1):
        d[i] = (c[i] * d[i + 1] + u[i]) / F(6)
    return d


def surface(nodes: Any, cell_width: int, cell_height: int, width: int, height: int) -> Any:
    """The spline surface of a whole image, a pixel at a time along each row."""
    ny, nx = nodes.shape
    along = bends(nodes)
    out = np.empty((height, width), F)
    for y in range(height):
        row, across = nodes[0], np.zeros(nx, F)
        if ny > 1:
            place = F(y) / F(cell_height) - F(0.5)
            j = int(place)
            up = place - F(j)
            if j == ny - 1:
                j, up = j - 1, up + F(1)
            down = F(1) - up
            row = down * nodes[j] + up * nodes[j + 1]
            row = row + (down * down * down - down) * along[j] + (up * up * up - up) * along[j + 1]
            across = bends(row[:, None])[:, 0]
        if nx == 1:
            out[y] = row[0]
            continue
        step, piece = F(1 / cell_width), 0
        dx = (step - F(1)) / F(2)
        for x in range(width):
            if x % cell_width == cell_width // 2 and 0 < x // cell_width < nx - 1:
                piece, dx = x // cell_width, F((cell_width + 1) % 2) * step / F(2)
            cx = F(1) - dx
            out[y, x] = cx * (row[piece] + (cx * cx - F(1)) * across[piece]) + dx * (
                row[piece + 1] + (dx * dx - F(1)) * across[piece + 1]
            )
            dx = dx + step
    return out
