"""The table of images: what became of each, its background, seeing and depth, and where it is on the sky.

A row for each extension of an image that is done, and one for every other image.  Most values are the manifest's; seeing,
place and flags come from the catalogue's rows as they pass by, so that no image is opened.

References
----------
Bickel & Frühwirth 2006, Computational Statistics & Data Analysis 50, 3500 (half-sample mode).
King 1983, PASP 95, 163 (equivalent noise area of a point source).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.survey.manifest import ExtensionEntry
from sextract.survey.merge.duplicates import signal_to_noise
from sextract.survey.merge.images import Image

Floats = NDArray[np.float64]

BITS = (1, 2, 4, 8, 16, 64, 128)

# What a star-like source is: no flag, well measured, round, and by the neural network if it was asked.
_STAR_SNR, _STAR_ROUND, _STAR_CLASS = 20.0, 0.8, 0.8
# How far from the most frequent FWHM a star's may be, and how few aren't enough.
_STAR_SPREAD, _FEWEST_STARS = 0.15, 5
# FWHMs kept of an extension; of more, every second one goes.
_MOST_SIZES = 1 << 16

_DEPTH_SIGMA = 5.0
_FWHM_SIGMAS = 2.0 * math.sqrt(2.0 * math.log(2.0))
# Rows of the table written at a time.
_WRITTEN = 4096


class Sky(NamedTuple):
    """Where a frame is: its centre, its size and that of a pixel, degrees."""

    ra: float = math.nan
    dec: float = math.nan
    width: float = math.nan
    height: float = math.nan
    scale: float = math.nan


class FrameSummary:
    """What the rows of a frame tell, piece by piece.

    Parameters
    ----------
    extension : ExtensionEntry
    sky : tuple of str
        The two columns of the position.
    """

    def __init__(self, extension: ExtensionEntry, sky: tuple[str, str]) -> None:
        self.rows = 0
        self.unflagged = 0
        self.flags = dict.fromkeys(BITS, 0)
        self._sizes = np.empty(0, np.float32)
        self._stars, self._every = 0, 1
        self._place = _Place(extension, sky)
        self._scale = extension.pixel_scale or math.nan

    def add(self, rows: NDArray[Any]) -> None:
        """The next rows."""
        names = rows.dtype.names or ()
        if "FLAGS" in names:
            self.unflagged += int(np.count_nonzero(rows["FLAGS"] == 0))
            for bit in BITS:
                self.flags[bit] += int(np.count_nonzero(rows["FLAGS"] & bit))
        if {"FWHM_IMAGE", "FLAGS"} <= set(names):
            self._add_sizes(rows["FWHM_IMAGE"][star_like(rows)])
        if {"X_IMAGE", "Y_IMAGE"} <= set(names):
            self._place.add(rows)
        self.rows += len(rows)

    def _add_sizes(self, sizes: NDArray[Any]) -> None:
        """Keep them, or every second, fourth … of all that came, evenly over the frame."""
        self._sizes = np.concatenate([self._sizes, sizes[-self._stars % self._every :: self._every].astype(np.float32)])
        self._stars += len(sizes)
        while len(self._sizes) > _MOST_SIZES:
            self._sizes = self._sizes[::2]
            self._every *= 2

    @cached_property
    def fwhm(self) -> float:
        """FWHM of stars, pixels; NaN if there are too few."""
        return stellar_fwhm(self._sizes.astype(np.float64))

    @cached_property
    def sky(self) -> Sky:
        """Where the frame is."""
        return self._place.solve()

    @property
    def pixel_scale(self) -> float:
        """Arcsec of a pixel on the sky; the manifest's, which may be PIXEL_SCALE as it was set, if that isn't known."""
        return self._scale if math.isnan(self.sky.scale) else 3600.0 * self.sky.scale

    def fraction(self, bit: int) -> float:
        """Part of the rows that have a bit of FLAGS."""
        return self.flags[bit] / self.rows if self.rows else math.nan


def star_like(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which sources may be stars good enough to measure the seeing by.

    FLAGS 0, a FWHM above 0, a signal to noise of at least 20; B_IMAGE at least 0.8 A_IMAGE and CLASS_STAR at least 0.8 where
    the catalogue has these columns.
    """
    names = rows.dtype.names or ()
    good = (rows["FLAGS"] == 0) & (rows["FWHM_IMAGE"] > 0) & (signal_to_noise(rows) >= _STAR_SNR)
    if {"A_IMAGE", "B_IMAGE"} <= set(names):
        good &= rows["B_IMAGE"] >= _STAR_ROUND * rows["A_IMAGE"]
    if "CLASS_STAR" in names:
        good &= rows["CLASS_STAR"] >= _STAR_CLASS
    return np.asarray(good)


def stellar_fwhm(sizes: Floats) -> float:
    """The median of the sizes within 15 % of the most frequent one; NaN for fewer than five.

    Parameters
    ----------
    sizes : float64 array (n,)
        FWHM of star-like sources; galaxies among them scatter, stars gather.
    """
    if len(sizes) < _FEWEST_STARS:
        return math.nan
    mode = half_sample_mode(np.sort(sizes))
    near = sizes[np.abs(sizes - mode) <= _STAR_SPREAD * mode]
    return float(np.median(near))


def half_sample_mode(values: Floats) -> float:
    """The mode of sorted values: again and again the shortest stretch that holds half of them."""
    while len(values) > 2:
        half = (len(values) + 1) // 2
        widths = values[half - 1 :] - values[: len(values) - half + 1]
        first = int(np.argmin(widths))
        values = values[first : first + half]
    return float((values[0] + values[-1]) / 2)


def depth(zeropoint: float, rms: float, fwhm_px: float) -> float:
    """Magnitude of a star of five sigma.

    Its flux is five times the noise of the sky within the equivalent noise area of a Gaussian, 4 pi sigma² (2.27 FWHM²) pixels,
    which is the error of the best possible (PSF) photometry where the sky dominates and pixels are independent.
    """
    noise = rms * math.sqrt(4.0 * math.pi) * fwhm_px / _FWHM_SIGMAS
    return zeropoint - 2.5 * math.log10(_DEPTH_SIGMA * noise) if noise > 0 else math.nan


class _Place:
    """Fits pixels to the sky: a linear map of the tangent plane at the first source."""

    def __init__(self, extension: ExtensionEntry, sky: tuple[str, str]) -> None:
        self._size = float(extension.width or 0), float(extension.height or 0)
        self._names = sky
        self._origin: tuple[float, float] | None = None
        self._normal, self._right = np.zeros((3, 3)), np.zeros((3, 2))

    def add(self, rows: NDArray[Any]) -> None:
        """Rows with X_IMAGE and Y_IMAGE."""
        ra, dec = (np.radians(rows[name].astype(np.float64)) for name in self._names)
        x, y = (rows[f"{a}_IMAGE"] - 0.5 - size / 2 for a, size in zip("XY", self._size, strict=True))
        good = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(x) & np.isfinite(y)
        if not good.any():
            return
        if self._origin is None:
            first = int(np.argmax(good))
            self._origin = float(ra[first]), float(dec[first])
        ra0, dec0 = self._origin
        cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
        good &= cosine > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            xi = np.cos(dec) * np.sin(ra - ra0) / cosine
            eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / cosine
        terms = np.stack([np.ones_like(x), x, y])[:, good]
        self._normal += terms @ terms.T
        self._right += terms @ np.stack([xi[good], eta[good]], axis=1)

    def solve(self) -> Sky:
        """Centre and size; NaN with fewer than three sources, or all on a line."""
        width, height = self._size
        if self._origin is None or not width or not height or np.linalg.matrix_rank(self._normal) < 3:
            return Sky()
        (xi, eta), along_x, along_y = np.linalg.solve(self._normal, self._right)
        ra0, dec0 = self._origin
        down = math.cos(dec0) - eta * math.sin(dec0)
        ra = ra0 + math.atan2(xi, down)
        dec = math.atan2(math.sin(dec0) + eta * math.cos(dec0), math.hypot(xi, down))
        sides = width * math.hypot(*along_x), height * math.hypot(*along_y)
        scale = math.sqrt(abs(along_x[0] * along_y[1] - along_x[1] * along_y[0]))
        return Sky(math.degrees(ra) % 360.0, math.degrees(dec), *map(math.degrees, (*sides, scale)))


class _Column(NamedTuple):
    name: str
    dtype: str
    unit: str
    doc: str
    value: Callable[[Image, ExtensionEntry | None, FrameSummary | None], Any]


def _of_extension(name: str) -> Callable[[Image, ExtensionEntry | None, FrameSummary | None], Any]:
    return lambda image, extension, summary: None if extension is None else getattr(extension, name)


def _of_entry(name: str) -> Callable[[Image, ExtensionEntry | None, FrameSummary | None], Any]:
    return lambda image, extension, summary: getattr(image.entry, name)


def _of_summary(value: Callable[[FrameSummary, ExtensionEntry], Any]) -> Callable[..., Any]:
    return lambda image, extension, summary: None if summary is None or extension is None else value(summary, extension)


def _of_flag(bit: int) -> Callable[..., Any]:
    return _of_summary(lambda summary, extension: summary.fraction(bit))


COLUMNS = (
    _Column("IMAGE", "S", "", "Image", _of_entry("image")),
    _Column("IMAGE_NUMBER", "i4", "", "Its number in the data set", lambda image, *_: image.number),
    _Column("EXT_NUMBER", "i2", "", "Extension; 0: none was done", _of_extension("extension")),
    _Column("STATE", "S", "", "done, failed, waiting or running", _of_entry("state")),
    _Column("ROWS", "i8", "", "Sources", _of_extension("extracted")),
    _Column("DETECTED", "i8", "", "Sources before CLEAN", _of_extension("detected")),
    _Column("BACKGROUND", "f8", "adu", "Median background", _of_extension("background")),
    _Column("RMS", "f8", "adu", "Noise of a pixel", _of_extension("rms")),
    _Column("THRESHOLD", "f8", "adu", "Detection threshold", _of_extension("threshold")),
    _Column("PIXEL_SCALE", "f8", "arcsec", "Size of a pixel", _of_summary(lambda s, e: s.pixel_scale)),
    _Column("ZEROPOINT", "f8", "mag", "MAG_ZEROPOINT", _of_extension("zeropoint")),
    _Column("SEEING", "f8", "arcsec", "FWHM of stars", _of_summary(lambda s, e: s.fwhm * s.pixel_scale)),
    _Column(
        "DEPTH", "f8", "mag", "Magnitude of a star of 5 sigma",
        _of_summary(lambda s, e: depth(_number(e.zeropoint), _number(e.rms), s.fwhm)),
    ),
    _Column("RA", "f8", "deg", "Centre of the frame", _of_summary(lambda s, e: s.sky.ra)),
    _Column("DEC", "f8", "deg", "Centre of the frame", _of_summary(lambda s, e: s.sky.dec)),
    _Column("WIDTH", "f8", "deg", "Of the frame on the sky, along x", _of_summary(lambda s, e: s.sky.width)),
    _Column("HEIGHT", "f8", "deg", "Of the frame on the sky, along y", _of_summary(lambda s, e: s.sky.height)),
    _Column(
        "UNFLAGGED", "f4", "", "Fraction of sources with FLAGS 0",
        _of_summary(lambda s, e: s.unflagged / s.rows if s.rows else math.nan),
    ),
    *(
        _Column(f"FLAG_{bit}", "f4", "", f"Fraction of sources with {bit} in FLAGS", _of_flag(bit))
        for bit in BITS
    ),
    _Column("SECONDS", "f8", "s", "Time that the image took", _of_entry("seconds")),
    _Column("PEAK_BYTES", "i8", "byte", "Most memory that it took", _of_entry("peak_bytes")),
    _Column("ERROR", "S", "", "Why it failed", _of_entry("error")),
)  # fmt: skip


def _number(value: float | None) -> float:
    return math.nan if value is None else value


class QualityTable:
    """The table as a FITS file, written image by image.

    Parameters
    ----------
    path : str
    images : sequence of Image
        All that will be added; text columns are as wide as the longest of them.
    """

    def __init__(self, path: str, images: Sequence[Image]) -> None:
        import fitsio

        types = []
        for column in COLUMNS:
            width = 1
            if column.dtype == "S":
                width = max((len(_encoded(column.value(image, None, None))) for image in images), default=0)
            types.append((column.name, f"S{max(width, 1)}" if column.dtype == "S" else column.dtype))
        self._dtype = np.dtype(types)
        self._waiting: list[tuple[Any, ...]] = []
        self._file = fitsio.FITS(path, "rw", clobber=True)
        self._file.create_table_hdu(
            dtype=self._dtype, units=[column.unit for column in COLUMNS], extname="QUALITY"
        )
        for k, column in enumerate(COLUMNS, 1):
            self._file[-1].write_key(f"TCOMM{k}", column.doc)

    def add(self, image: Image, summaries: Sequence[FrameSummary] = ()) -> None:
        """An image, and what was found out of each of its extensions."""
        extensions = image.extensions or (None,)
        found: Sequence[FrameSummary | None] = summaries or [None] * len(extensions)
        for extension, summary in zip(extensions, found, strict=True):
            self._waiting.append(tuple(self._cell(c, c.value(image, extension, summary)) for c in COLUMNS))
        if len(self._waiting) >= _WRITTEN:
            self._write()

    def _cell(self, column: _Column, value: Any) -> Any:
        if column.dtype == "S":
            return _encoded(value)
        missing = math.nan if column.dtype.startswith("f") else 0
        return missing if value is None else value

    def _write(self) -> None:
        if self._waiting:
            self._file[-1].append(np.array(self._waiting, self._dtype))
            self._waiting.clear()

    def close(self) -> None:
        """Write what is left."""
        self._write()
        self._file.close()


def _encoded(value: str | None) -> bytes:
    return (value or "").encode("ascii", "replace")
