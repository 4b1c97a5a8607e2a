#!/usr/bin/env python3
"""Detection and measurement as most would write them with sep and multiprocessing: what bench_malloc.py compares with.

    naive_pool.py FIELD.fits --limit 512M --workers 4 --pool processes|threads

Detects on tiles, keeps the detections in a list, then measures them in a pool: a stamp of each source is copied out of
the tiles, and its apertures, Kron flux and half-light radius are taken, by processes that get it pickled or by threads
that cut it themselves.  Tiles are cached, the least recently used goes first, and the cache keeps its books: it holds
no more than nine tenths of what the limit leaves beside what the processes held before the first pixel; the tenth is
for stamps and rows.  So what a run holds beyond its limit is what malloc keeps of what was freed.

It is no part of sextract and shares nothing with it.  It cleans no detections, and is simple where tiles meet.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import multiprocessing.pool
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import sep
from numpy.lib.recfunctions import repack_fields

TILE = 512
# Detection looks this far over a tile's edge, and cuts no stamp wider than twice this.
MARGIN = 48
APERTURES = (2.5, 5.0, 10.0)


class Tiles:
    """Background-subtracted tiles of an image, at most `budget` bytes of them.

    Like any cache that threads share it has a lock, and reads under it.
    """

    def __init__(self, path: str, budget: int) -> None:
        self.file = fitsio.FITS(path)[0]
        self.height, self.width = self.file.get_dims()
        self.budget = budget
        self.rms = 0.0
        self._held: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._meshes: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()

    def corners(self) -> list[tuple[int, int]]:
        """First row and column of every tile, row by row."""
        return [(y, x) for y in range(0, self.height, TILE) for x in range(0, self.width, TILE)]

    def get(self, key: tuple[int, int]) -> np.ndarray:
        """A tile, read if it isn't held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            y, x = key
            size = 4 * (min(y + TILE, self.height) - y) * (min(x + TILE, self.width) - x)
            while self._held and self._bytes + size > self.budget:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
            tile = self.file[y : y + TILE, x : x + TILE].astype(np.float32)
            if key not in self._meshes:
                self._meshes[key] = sep.Background(tile, bw=64, bh=64)
                self.rms = self.rms or self._meshes[key].globalrms
            self._meshes[key].subfrom(tile)
            self._held[key] = tile
            self._bytes += tile.nbytes
            return tile

    def cut(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """A copy of a box, which may lie on several tiles."""
        y0, x0, y1, x1 = max(y0, 0), max(x0, 0), min(y1, self.height), min(x1, self.width)
        out = np.empty((y1 - y0, x1 - x0), np.float32)
        for y in range(y0 // TILE * TILE, y1, TILE):
            for x in range(x0 // TILE * TILE, x1, TILE):
                tile = self.get((y, x))
                top, left = max(y0, y), max(x0, x)
                bottom, right = min(y1, y + tile.shape[0]), min(x1, x + tile.shape[1])
                out[top - y0 : bottom - y0, left - x0 : right - x0] = tile[top - y : bottom - y, left - x : right - x]
        return out


def detect(tiles: Tiles, key: tuple[int, int]) -> np.ndarray:
    """Sources whose centre is on a tile, in the image's coordinates."""
    y, x = key
    y0, x0 = max(y - MARGIN, 0), max(x - MARGIN, 0)
    pixels = tiles.cut(y0, y + TILE + MARGIN, x0, x + TILE + MARGIN)
    found = sep.extract(pixels, 1.5, err=tiles.rms, minarea=5, deblend_nthresh=32, deblend_cont=0.005)
    found["x"] += x0
    found["y"] += y0
    inside = (found["x"] >= x) & (found["x"] < x + TILE) & (found["y"] >= y) & (found["y"] < y + TILE)
    return repack_fields(found[["x", "y", "a", "b", "theta"]][inside])


# A source, its stamp, and where it is on it: y, x.
Task = tuple[Any, np.ndarray, float, float]


def stamps(tiles: Tiles, sources: np.ndarray) -> list[Task]:
    """Each source with a stamp of its own."""
    tasks = []
    for source in sources:
        half = int(min(max(8.0 * source["a"], 16.0), MARGIN))
        y, x = round(source["y"]), round(source["x"])
        y0, x0 = max(y - half, 0), max(x - half, 0)
        tasks.append((source, tiles.cut(y0, y + half + 1, x0, x + half + 1), source["y"] - y0, source["x"] - x0))
    return tasks


def measure(tasks: list[Task]) -> np.ndarray:
    """A row for each source: position, aperture fluxes, Kron radius and flux, half-light radius."""
    rows = np.empty((len(tasks), 5 + len(APERTURES)))
    for k, (source, pixels, y, x) in enumerate(tasks):
        where, shape = ([x], [y]), [[source[name]] for name in ("a", "b", "theta")]
        apertures = [sep.sum_circle(pixels, *where, radius)[0][0] for radius in APERTURES]
        kron = max(sep.kron_radius(pixels, *where, *shape, 6.0)[0][0], 1.4)
        auto = sep.sum_ellipse(pixels, *where, *shape, 2.5 * kron)[0][0]
        half_light = sep.flux_radius(pixels, *where, [6.0 * source["a"]], 0.5, normflux=[auto])[0][0]
        rows[k] = (source["x"], source["y"], *apertures, kron, auto, half_light)
    return rows


def malloc_counter() -> Callable[[], int] | None:
    """A function that says how many bytes malloc has given out and not got back, by the allocator's own account.

    None under an allocator that doesn't tell (mimalloc) or a C library that doesn't.
    """
    program = ctypes.CDLL(None)
    if hasattr(program, "MallocExtension_GetNumericProperty"):
        return lambda: tcmalloc_allocated(program)
    if hasattr(program, "mallctl"):
        return lambda: jemalloc_allocated(program)
    if hasattr(program, "mi_version") or not hasattr(program, "mallinfo2"):
        return None
    program.mallinfo2.restype = MallInfo
    return lambda: glibc_allocated(program)


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2: field 4 (hblkhd) has the bytes of blocks of their own, 7 (uordblks) those within arenas."""

    _fields_ = [(f"n{k}", ctypes.c_size_t) for k in range(10)]


def glibc_allocated(program: Any) -> int:
    """Bytes given out by glibc's malloc, all arenas."""
    info = program.mallinfo2()
    return int(info.n4 + info.n7)


def tcmalloc_allocated(program: Any) -> int:
    """Bytes given out by tcmalloc."""
    value = ctypes.c_size_t()
    program.MallocExtension_GetNumericProperty(b"generic.current_allocated_bytes", ctypes.byref(value))
    return value.value


def jemalloc_allocated(program: Any) -> int:
    """Bytes given out by jemalloc, whose numbers are brought up to date by a new epoch."""
    epoch, value = ctypes.c_uint64(1), ctypes.c_size_t()
    program.mallctl(b"epoch", None, None, ctypes.byref(epoch), ctypes.c_size_t(8))
    size = ctypes.c_size_t(ctypes.sizeof(value))
    program.mallctl(b"stats.allocated", ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return value.value


def keep_books(path: str | None) -> None:
    """Write what malloc has given out, 50 times a second, as lines of seconds (monotonic) and bytes to PATH.<pid>."""
    count = malloc_counter()
    if path is None or count is None:
        return

    def write() -> None:
        with open(f"{path}.{os.getpid()}", "w", buffering=1) as out:
            while True:
                out.write(f"{time.monotonic():.3f} {count()}\n")
                time.sleep(0.02)

    threading.Thread(target=write, daemon=True).start()


def held_already() -> int:
    """Bytes that this process and those it started hold, pages that they share once."""
    total = 0
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(text.partition("\nPss:")[2].split()[0]) << 10
    return total


def run(path: str, limit: int, workers: int, processes: bool, ledger: str | None) -> np.ndarray:
    """Rows of all sources."""
    pools = multiprocessing.pool
    with pools.Pool(workers, keep_books, (ledger,)) if processes else pools.ThreadPool(workers) as pool:
        keep_books(ledger)
        tiles = Tiles(path, max((limit - held_already()) * 9 // 10, limit // 4))
        found = [detect(tiles, key) for key in tiles.corners()]
        print(f"{sum(map(len, found))} sources detected", file=sys.stderr, flush=True)
        if processes:
            rows = pool.imap(measure, (stamps(tiles, sources) for sources in found))
        else:
            rows = pool.imap(lambda sources: measure(stamps(tiles, sources)), found)
        return np.concatenate(list(rows))


def size_of(text: str) -> int:
    """512M as bytes."""
    return int(float(text[:-1]) * (1 << {"K": 10, "M": 20, "G": 30}[text[-1].upper()]))


def main() -> int:
    """Runs the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("field")
    p.add_argument("--limit", default="512M", help="what the programme means to stay under (default 512M)")
    p.add_argument("--workers", type=int, default=4)
    p.add_argument("--pool", choices=("processes", "threads"), default="processes")
    p.add_argument("--ledger", metavar="FILE", help="write what malloc has given out over time to FILE.<pid>")
    p.add_argument("-o", "--out", default="naive.npy", help="the rows, as a numpy array")
    args = p.parse_args()
    rows = run(args.field, size_of(args.limit), args.workers, args.pool == "processes", args.ledger)
    np.save(args.out, rows)
    print(f"{len(rows)} sources measured", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
