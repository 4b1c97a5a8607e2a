"""Runs the deblending kernel over an image as a worker does, whatever tiles are held and whatever room there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lutz_twin as twins
import numpy as np
from deblend_twin import Settings, Twin

from sextract.deblending import _deblend
from sextract.detection import _components
from sextract.records import FOOTPRINT, FRAGMENT, RUN, SOURCE, Box

NO_TAPS = np.zeros((0, 0), np.float32)
GAUSS = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / np.float32(16)
Pixel = tuple[int, int]
WHOLE = (1 << 20, 1 << 20)


def blobs(seed: int, shape: tuple[int, int], n: int, bright: float = 60.0, noise: float = 0.7) -> Any:
    """Round and long Gaussians on noise, many of them overlapping."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(0, noise, shape)
    for _ in range(n):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        a, b, angle = rng.uniform(0.8, 4), rng.uniform(0.8, 2), rng.uniform(0, np.pi)
        u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        image += rng.exponential(bright) * np.exp(-0.5 * ((u / a) ** 2 + (v / b) ** 2))
    return image.astype(np.float32)


def same(a: Any, b: Any) -> bool:
    """Whether SOURCE arrays are equal to the last bit, but for where their fragments are."""
    names = [name for name in SOURCE.names or () if name != "fragments"]
    return all(a[name].tobytes() == b[name].tobytes() for name in names)


def footprints_of(mask: Any, minarea: int) -> tuple[Any, Any]:
    """FOOTPRINTs and FRAGMENTs of a mask, in closing order."""
    height, width = mask.shape
    start, runs = twins.runs_twin(mask)
    n = len(runs) + width + 9
    pool = _components.Components(
        np.zeros(4 * n * _components.PIECE_BYTES, np.uint8), np.zeros(n * _components.COMPONENT_BYTES, np.uint8),
        np.zeros((width + 4) * _components.LABEL_BYTES, np.uint8), minarea,
    )  # fmt: skip
    assert pool.feed(start, np.array([*runs, (0, 0)], RUN), 0, 0) == height
    pool.finish(height)
    count, pieces, _ = pool.next_closed(1 << 40, 1 << 40, 1 << 40)
    footprints, fragments = np.zeros(count, FOOTPRINT), np.zeros(pieces, FRAGMENT)
    pool.drain(footprints, fragments)
    return footprints, fragments


@dataclass
class Found:
    """Sources and their pixels, and how the kernel got there."""

    sources: Any
    pixels: list[list[Pixel]]
    stops: list[int] = field(default_factory=list)
    scratch: int = 0

    @property
    def pieces(self) -> int:
        """Fragments of all sources."""
        return int(self.sources["nfragments"].sum())


class Scene:
    """An image with its filtered values and footprints."""

    def __init__(self, image: Any, settings: Settings, taps: Any = GAUSS, mask: Any = None) -> None:
        self.image, self.settings, self.taps = np.ascontiguousarray(image, np.float32), settings, taps
        self.filtered = twins.filtered_twin(self.image, taps)
        self.mask = self.filtered > np.float32(settings.threshold) if mask is None else mask
        self.footprints, self.fragments = footprints_of(self.mask, settings.minarea)
        ny, nx = (-(-n // c) for n, c in zip(self.image.shape, settings.cell, strict=True))
        self.back = np.random.default_rng(4).normal(100, 5, (ny, nx)).astype(np.float32)

    def lists(self) -> list[list[Pixel]]:
        """Pixels of each footprint in list order."""
        some = [self.fragments[f["fragments"] :][: f["nfragments"]].tolist() for f in self.footprints]
        return [[(y, x) for y, x0, x1 in fragments for x in range(x0, x1)] for fragments in some]

    def twin(self) -> list[tuple[Any, dict[str, Any], list[Pixel]]]:
        """What should be found: footprint, source, pixels."""
        twin = Twin(self.settings, self.image, self.filtered, self.back)
        pairs = zip(self.footprints, self.lists(), strict=True)
        return [(f, o, p) for f, pixels in pairs for o, p in twin.deblend(pixels)]

    def deblender(self) -> _deblend.Deblender:
        """The kernel."""
        s, (height, width) = self.settings, self.image.shape
        return _deblend.Deblender(
            s.extension, width, height, self.taps, s.nthresh, s.mincont, s.minarea, s.maxarea, s.threshold, s.analysis,
            s.rms, s.gain, s.saturation, self.back, s.cell[1], s.cell[0], s.most_pixels,
        )  # fmt: skip

    def slab(self, tile: tuple[int, int], missing: float) -> tuple[Any, Any]:
        """Blocks of tiles, each with its halo; a share of them isn't held."""
        (height, width), (rows, columns) = self.image.shape, tile
        hy, hx = (n // 2 for n in self.taps.shape)
        rng, at, blocks, offsets = np.random.default_rng(6), 3, [np.full(3, np.nan, np.float32)], []
        for y in range(0, height, rows):
            for x in range(0, width, columns):
                box = Box(y, x, min(y + rows, height), min(x + columns, width)).grown(hy, hx, height, width)
                if rng.random() < missing:
                    offsets.append(-1)
                    continue
                offsets.append(at)
                blocks.append(self.image[box.y0 : box.y1, box.x0 : box.x1].ravel())
                at += box.size
        return np.concatenate(blocks), np.array(offsets, np.int64)

    def strips(self, f: Any, step: int) -> Iterator[tuple[int, int, Any, int, int]]:
        """Rows of a footprint and their pixels with the filter's halo."""
        (height, width), (hy, hx) = self.image.shape, (n // 2 for n in self.taps.shape)
        x0, x1 = max(f["xmin"] - hx, 0), min(f["xmax"] + 1 + hx, width)
        for ya in range(f["ymin"], f["ymax"] + 1, step):
            yb = min(ya + step, f["ymax"] + 1)
            y0, y1 = max(ya - hy, 0), min(yb + hy, height)
            yield ya, yb, np.ascontiguousarray(self.image[y0:y1, x0:x1]), y0, x0

    def run(
        self, tile: tuple[int, int] = WHOLE, missing: float = 0.0, scratch: int = 1 << 24, room: int = 0, step: int = 3
    ) -> Found:
        """Split all footprints; `room` is how many fragments and sources the output holds at first (0: enough)."""
        (height, width), (hy, hx) = self.image.shape, (n // 2 for n in self.taps.shape)
        tile = min(tile[0], height), min(tile[1], width)
        floats, offsets = self.slab(tile, missing)
        d = self.deblender()
        space = np.zeros(scratch, np.uint8)
        done, found = 0, Found(np.zeros(0, SOURCE), [], [], scratch)
        sizes = (room, room) if room else (int(self.mask.sum()) + 64,) * 2
        while done < len(self.footprints):
            sources, pieces = np.zeros(sizes[0], SOURCE), np.zeros(sizes[1], FRAGMENT)
            d.begin(self.footprints, self.fragments, space, sources, pieces, floats, offsets, *tile, hy, hx)
            done, why = d.run(done)
            while why in (_deblend.MISSING, _deblend.LARGE):
                found.stops.append(why)
                why = self._by_strips(d, done, why, step)
                if why == _deblend.DONE:
                    done, why = d.run(done + 1)
            self._collect(d, sources, pieces, found)
            found.stops.append(why)
            if why == _deblend.SCRATCH:
                assert d.needed > len(space)
                space = np.zeros(d.needed, np.uint8)
                found.scratch = max(found.scratch, len(space))
            if why == _deblend.OUTPUT:
                assert d.needed_sources > sizes[0] or d.needed_pieces > sizes[1]
                # What it wants for one more footprint is enough for that one alone.
                sizes = d.needed_sources, d.needed_pieces
        return found

    def _by_strips(self, d: _deblend.Deblender, i: int, why: int, step: int) -> int:
        f = self.footprints[i]
        if why == _deblend.MISSING:
            if not d.prepare(i):
                return int(_deblend.SCRATCH)
            for strip in self.strips(f, step):
                d.strip(i, *strip)
            return int(d.finish(i))
        why = int(d.begin_large(i))
        if why != _deblend.DONE:
            return why
        for place in (False, True):
            done = 0
            while (done := d.order_large(i, place, done, 7, 2)) < f["nfragments"]:
                pass
        for second in (False, True):
            for strip in self.strips(f, step):
                d.fold_large(i, second, *strip)
            if not second:
                d.middle_large()
        d.end_large(i)
        return int(_deblend.DONE)

    @staticmethod
    def _collect(d: _deblend.Deblender, sources: Any, pieces: Any, found: Found) -> None:
        found.sources = np.concatenate([found.sources, sources[: d.nsources]])
        for s in sources[: d.nsources]:
            own = pieces[s["fragments"] :][: s["nfragments"]].tolist()
            found.pixels.append([(y, x) for y, x0, x1 in own for x in range(x0, x1)])
