"""HEALPix pixels: keys of positions, partitions that hold no more than so many rows, and rings of pixels around them.

A key is the number of a position's pixel at order 29 (nested), the finest that 64 bits hold.  A pixel of any order is a range
of keys, so partitions and rings are ranges too.  The geometry is astropy-healpix's.

References
----------
Górski et al. 2005, ApJ 622, 759.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Ranges = NDArray[np.int64]

ORDER = 29
# No position: NaN, or beyond a pole.
NOWHERE = -1

# Mean size of a pixel of order 0, degrees; each order halves it.
_SIZE_DEG = 58.6
# A ring's pixels are at least this many radii wide on average.  The narrowest are less than half of that: what lies within the
# radius of a pixel is in it or in its neighbours.
_RADII = 16.0
# Nor are they smaller than a pixel's size by more orders than this, so that a large one hasn't too many along its edges.
_RING_ORDERS = 7

# Orders looked at together where a partition is divided.
_STEP = 4


class Pixel(NamedTuple):
    """A HEALPix pixel of an order, nested, and the rows in it."""

    order: int
    number: int
    rows: int

    @property
    def first(self) -> int:
        """Its first key."""
        return self.number << 2 * (ORDER - self.order)

    @property
    def end(self) -> int:
        """What follows its last key."""
        return (self.number + 1) << 2 * (ORDER - self.order)


def keys_of(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> Keys:
    """Keys of positions.

    Parameters
    ----------
    longitude, latitude : float64 arrays (n,)
        Degrees.

    Returns
    -------
    int64 array (n,)
        NOWHERE for what is no position.
    """
    from astropy import units
    from astropy_healpix import lonlat_to_healpix

    out: Keys = np.full(len(longitude), NOWHERE, np.int64)
    good = np.isfinite(longitude) & (np.abs(latitude) <= 90.0)
    lon, lat = (units.Quantity(np.radians(v[good]), units.rad) for v in (longitude, latitude))
    out[good] = lonlat_to_healpix(lon, lat, 1 << ORDER, order="nested")
    return out


def partition(read: Callable[[], Iterable[Keys]], most: int) -> list[Pixel]:
    """The coarsest pixels with at most `most` rows each, in the order of their keys; empty ones are left out.

    Parameters
    ----------
    read : callable
        Gives the keys of all rows, piece by piece; called once for every four orders that are needed.
    most : int
        Pixels of order 29 may have more.

    Returns
    -------
    list of Pixel
    """
    leaves: list[Pixel] = []
    last, pixels = 0, np.arange(12, dtype=np.int64)
    while len(pixels):
        order, last = last, min(last + _STEP, ORDER)
        fine = _count(read(), last, pixels, last - order)
        while True:
            counts = fine.sum(axis=1)
            full = (counts > most) & (order < ORDER)
            fit = ~full & (counts > 0)
            leaves += [Pixel(order, int(n), int(c)) for n, c in zip(pixels[fit], counts[fit], strict=True)]
            pixels, fine = pixels[full], fine[full]
            if order == last or not len(pixels):
                break
            order += 1
            pixels = (pixels[:, None] << 2 | np.arange(4)).ravel()
            fine = fine.reshape(len(pixels), -1)
    return sorted(leaves, key=lambda leaf: leaf.first)


def _count(pieces: Iterable[Keys], order: int, parents: Keys, step: int) -> NDArray[np.int64]:
    """Rows (pixels, descendants) in the pixels of `order` that are within sorted ones, `step` orders above."""
    counts = np.zeros(len(parents) << 2 * step, np.int64)
    for keys in pieces:
        pixels = keys[keys >= 0] >> 2 * (ORDER - order)
        at = np.searchsorted(parents, pixels >> 2 * step)
        at[at == len(parents)] = 0
        inside = parents[at] == pixels >> 2 * step
        where = (at[inside] << 2 * step) + (pixels[inside] & ((1 << 2 * step) - 1))
        counts += np.bincount(where, minlength=len(counts))
    return counts.reshape(len(parents), -1)


def ring_order(pixel: Pixel, radius_deg: float) -> int:
    """An order whose pixels are so wide that what is within the radius of one is in it or its neighbours."""
    order = 0
    while order < min(pixel.order + _RING_ORDERS, ORDER) and _SIZE_DEG / (1 << order + 1) >= _RADII * radius_deg:
        order += 1
    return order


class Surroundings(NamedTuple):
    """Ranges of keys (n, 2) around a pixel: those whose own neighbours are all here, and the outermost ones."""

    inner: Ranges
    outer: Ranges


def surroundings(pixel: Pixel, order: int, rings: int) -> Surroundings:
    """Pixels of `order` around a pixel in so many rings; the last is the outer one.

    What shares a pixel of `order` with it belongs to the inner ones.
    """
    if pixel.order > order:
        around = np.array([pixel.first >> 2 * (ORDER - order)])
        own = around[:0]
        known, border = around, around
    else:
        own = np.array([pixel.first, pixel.end]) >> 2 * (ORDER - order)
        around, known, border = own[:0], own[:0], _border(pixel, order)
    for ring in range(rings):
        found = _neighbours(border, order)
        if len(own):
            found = found[(found < own[0]) | (found >= own[1])]
        border = np.setdiff1d(found, known, assume_unique=True)
        if ring == rings - 1:
            break
        known = np.union1d(known, border)
        around = known
    inner, outer = _ranges(around, order), _ranges(border, order)
    return Surroundings(_without(inner, pixel), outer)


def _border(pixel: Pixel, order: int) -> Keys:
    """Pixels of `order` along the edges of a coarser one."""
    size = 1 << (order - pixel.order)
    along = np.arange(size, dtype=np.int64)
    ends = (np.zeros_like(along), np.full_like(along, size - 1))
    pairs = [(along, end) for end in ends] + [(end, along) for end in ends]
    inside = np.unique(np.concatenate([_spread(x) | _spread(y) << 1 for x, y in pairs]))
    return inside + (pixel.number << 2 * (order - pixel.order))


def _spread(value: Keys) -> Keys:
    """Bits of a number below 2^29 moved apart, one free bit between them."""
    out = np.zeros_like(value)
    for bit in range(ORDER):
        out |= (value >> bit & 1) << 2 * bit
    return out


def _neighbours(pixels: Keys, order: int) -> Keys:
    """All neighbours of some pixels, sorted; some of the pixels are among them."""
    from astropy_healpix import neighbours

    # A pixel at a corner of three base pixels has seven; the eighth is -1, with a warning.
    with np.errstate(invalid="ignore"):
        found: NDArray[Any] = np.unique(neighbours(pixels, 1 << order, order="nested"))
    return np.asarray(found[found >= 0], np.int64)


def _ranges(pixels: Keys, order: int) -> Ranges:
    """Sorted pixels as ranges of keys; what touches is joined."""
    shift = 2 * (ORDER - order)
    begins = np.flatnonzero(np.diff(pixels, prepend=-2) != 1)
    ends = np.append(begins[1:], len(pixels))
    if not len(pixels):
        return np.empty((0, 2), np.int64)
    return np.stack([pixels[begins] << shift, (pixels[ends - 1] + 1) << shift], axis=1)


def _without(ranges: Ranges, pixel: Pixel) -> Ranges:
    """Ranges less a pixel that is within one of them, or in none."""
    at = np.flatnonzero((ranges[:, 0] <= pixel.first) & (ranges[:, 1] >= pixel.end))
    if not len(at):
        return ranges
    low, high = ranges[at[0]]
    parts = np.array([[low, pixel.first], [pixel.end, high]], np.int64)
    out = np.concatenate([ranges[: at[0]], parts[parts[:, 0] < parts[:, 1]], ranges[at[0] + 1 :]])
    return np.asarray(out, np.int64)
