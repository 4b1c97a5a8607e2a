"""The rule of duplicates: which of the sources that overlapping images have of one object is its primary.

Sources are taken best first.  One is a duplicate if a primary of another frame (image and extension) lies within the radius;
otherwise it is a primary.  The primary that a duplicate refers to is the nearest one of another frame.  Sources of one frame
are never each other's duplicates, so that blends stay apart.  Better is, in this order: fewer of the FLAGS bits 4, 8, 16, 32,
64 and 128; farther from the edge of the frame; higher signal to noise; lower image number, extension and NUMBER.

What is decided of a source may depend on its neighbours' neighbours.  So a partition is decided together with rings of pixels
around it, and what those outside could change is known to be unknown (``_greedy.pyx``); then more rings are taken.  The
result is that of the whole sky at once, however it is divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.errors import ConfigError, LimitError
from sextract.survey.merge import _greedy
from sextract.survey.merge.sky import Pixel, Ranges, ring_order, surroundings

# What is kept of a source to compare it with others.
RECORD = np.dtype(
    [
        ("key", "i8"),  # its HEALPix pixel
        ("id", "i8"),  # image, extension and NUMBER; see `source_ids`
        ("x", "f8"), ("y", "f8"), ("z", "f8"),  # unit vector
        ("edge", "f4"),  # distance from the edge of the frame, pixels; -inf if unknown
        ("snr", "f4"),  # -inf if unknown
        ("serious", "i4"),  # how many serious FLAGS it has
        ("slot", "i4"),  # where its row is, within the rows of its partition
    ]
)  # fmt: skip

Records = NDArray[np.void]

# Bits of FLAGS after which numbers of a source can't be trusted.
SERIOUS = (4, 8, 16, 32, 64, 128)

# Bits of NUMBER and extension in an id; the image has what is left of 63.
_NUMBER_BITS, _EXTENSION_BITS = 31, 10
MOST_IMAGES = 1 << 63 - _NUMBER_BITS - _EXTENSION_BITS
MOST_EXTENSIONS = 1 << _EXTENSION_BITS

_MOST_ARCSEC = 60.0

# Bytes for each source that is decided: two copies of its record, its sorted values, their order, and the grid.
SOURCE_BYTES = 2 * RECORD.itemsize + 128

# Rings to begin with: one whose sources are decided too, and one to decide them by.
_RINGS = 2


def source_ids(image: int, extension: int, numbers: NDArray[Any]) -> NDArray[np.int64]:
    """One number for each source of a survey, ordered as image, extension and NUMBER are."""
    frame = (image << _EXTENSION_BITS | extension) << _NUMBER_BITS
    return np.asarray(frame + numbers.astype(np.int64), np.int64)


def frame_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the ids of one image's extension share."""
    return np.asarray(ids >> _NUMBER_BITS)


def parts_of(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images and extensions of ids."""
    frame = frame_of(ids)
    return np.asarray(frame >> _EXTENSION_BITS), frame & (MOST_EXTENSIONS - 1)


def best_first(records: Records) -> NDArray[np.intp]:
    """The order from the best source to the worst."""
    return np.lexsort((records["id"], -records["snr"], -records["edge"], records["serious"]))


class Rule:
    """Decides on the sources of one partition after the other.

    Parameters
    ----------
    radius_arcsec : float
        Sources within this distance may be one object; 0: none are.
    read : callable
        Gives the records of all rows whose keys are in some sorted ranges (n, 2).
    room_bytes : int
        What may be held, at `SOURCE_BYTES` for each source.

    Raises
    ------
    ConfigError
        The radius is negative, or more than a minute of arc.
    """

    def __init__(self, radius_arcsec: float, read: Callable[[Ranges], Records], room_bytes: int) -> None:
        if not 0 <= radius_arcsec <= _MOST_ARCSEC:
            raise ConfigError(f"--merge-radius {radius_arcsec:g} is not from 0 to {_MOST_ARCSEC:g} arcsec")
        self._radius_deg = radius_arcsec / 3600
        # The chord, which is what is compared.
        self._chord = 2.0 * math.sin(math.radians(radius_arcsec / 3600) / 2.0)
        self._read = read
        self._room = room_bytes

    def primaries(self, pixel: Pixel, own: Records) -> NDArray[np.int64]:
        """Ids of the primaries of a partition's sources, a source's own where it is a primary itself.

        Parameters
        ----------
        pixel : Pixel
        own : RECORD array (n,)
            All sources in it.

        Raises
        ------
        LimitError
            Those around it that must be known don't fit into memory.
        """
        if not self._chord:
            return np.array(own["id"])
        rings = _RINGS
        while True:
            found = self._decide(pixel, own, rings)
            if found is not None:
                return found
            rings *= 2

    def _decide(self, pixel: Pixel, own: Records, rings: int) -> NDArray[np.int64] | None:
        """Ids of primaries, or None if they depend on sources beyond that many rings."""
        around = surroundings(pixel, ring_order(pixel, self._radius_deg), rings)
        inner, outer = (self._read(ranges) for ranges in around)
        n, here = len(own) + len(inner) + len(outer), len(own)
        if n * SOURCE_BYTES > self._room:
            more = (n * SOURCE_BYTES - self._room >> 20) + 1
            raise LimitError(
                f"{n} sources must be compared at once, so crowded they are: raise --mem-limit by {more}M, "
                f"or make --merge-radius smaller"
            )
        together = np.concatenate([own, inner, outer])
        order = best_first(together)
        whole = (order < here + len(inner)).astype(np.uint8)
        of_own = order < here
        heads = np.empty(_greedy.hash_size(n), np.int32)
        following, state, primary = np.empty(n, np.int32), np.empty(n, np.uint8), np.empty(n, np.int64)
        ids = together["id"][order]
        x, y, z = (together[axis][order] for axis in "xyz")
        _greedy.decide(x, y, z, frame_of(ids), whole, self._chord, heads, following, state, primary)
        if (state[of_own] == _greedy.UNKNOWN).any():
            return None
        out = np.empty(here, np.int64)
        out[order[of_own]] = ids[primary[of_own]]
        return out


class Frame(NamedTuple):
    """An extension of an image, as its sources' edges are measured.

    Attributes
    ----------
    width, height : int
        Pixels; 0 if unknown.
    """

    width: int
    height: int


def describe(rows: NDArray[Any], frame: Frame, out: Records) -> None:
    """Fill in what says how good sources are.

    Parameters
    ----------
    rows : structured array (n,)
        Rows of a catalogue.
    frame : Frame
    out : RECORD array (n,)
        `edge`, `snr` and `serious` are written.
    """
    names = rows.dtype.names or ()
    flags = rows["FLAGS"] if "FLAGS" in names else np.zeros(len(rows), np.int16)
    out["serious"] = sum(((flags & bit) != 0).astype(np.int32) for bit in SERIOUS)
    out["snr"] = known(signal_to_noise(rows))
    out["edge"] = -np.inf
    if {"X_IMAGE", "Y_IMAGE"} <= set(names) and frame.width and frame.height:
        x, y = rows["X_IMAGE"].astype(np.float64), rows["Y_IMAGE"].astype(np.float64)
        near = np.minimum(np.minimum(x - 0.5, frame.width + 0.5 - x), np.minimum(y - 0.5, frame.height + 0.5 - y))
        out["edge"] = known(near)


def signal_to_noise(rows: NDArray[Any]) -> NDArray[np.float64]:
    """SNR_WIN, else flux over its error of AUTO, or of ISO; NaN where none of them is known."""
    names = rows.dtype.names or ()
    if "SNR_WIN" in names:
        return np.asarray(rows["SNR_WIN"], np.float64)
    for kind in ("AUTO", "ISO"):
        if {f"FLUX_{kind}", f"FLUXERR_{kind}"} <= set(names):
            flux, error = (rows[f"{name}_{kind}"].astype(np.float64) for name in ("FLUX", "FLUXERR"))
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(np.where(error > 0, flux / error, np.nan))
    return np.full(len(rows), np.nan)


def known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values with minus infinity for NaN, so that they are the worst."""
    return np.where(np.isnan(values), -np.inf, values)
