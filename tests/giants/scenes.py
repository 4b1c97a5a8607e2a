"""Images whose objects are larger than any buffer, written band by band: what a run must survive, not what it must find.

    scene = nebula(8192)
    scene.write(tmp_path / "nebula.fits")
    cli(tmp_path / "nebula.fits", *scene.options)

Each is a function of a size and has its configuration with it.  Pixels are float32 in units of the noise, without a sky: the
thresholds are absolute and the background is left alone (BACK_TYPE MANUAL), lest it swallow what is large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

# Rows drawn together.  Noise is drawn by them, so that a scene's pixels don't depend on who writes it.
BAND_ROWS = 64

Floats = NDArray[np.float32]
Light = Callable[[Floats, Floats], Any]

PLAIN = {"BACK_TYPE": "MANUAL", "BACK_VALUE": "0", "THRESH_TYPE": "ABSOLUTE", "DETECT_THRESH": "1.5", "ANALYSIS_THRESH": "1.5"}


@dataclass(frozen=True)
class Stars:
    """Round Gaussians.

    Attributes
    ----------
    x, y, peak : float64 arrays
        Positions in pixels, y ascending, and heights.
    sigma : float
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    peak: NDArray[np.float64]
    sigma: float = 1.2

    def add(self, rows: Floats, y0: int) -> None:
        """Add them to rows of the image that begin with `y0`."""
        reach = int(np.ceil(4 * self.sigma))
        first, last = np.searchsorted(self.y, [y0 - reach - 1, y0 + len(rows) + reach + 1])
        x, y, peak = self.x[first:last], self.y[first:last], self.peak[first:last]
        column, row = np.rint(x).astype(int), np.rint(y).astype(int)
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                v, u = row + dy, column + dx
                seen = (v >= y0) & (v < y0 + len(rows)) & (u >= 0) & (u < rows.shape[1])
                r2 = (u - x) ** 2 + (v - y) ** 2
                light = peak * np.exp(-0.5 * r2 / self.sigma**2)
                np.add.at(rows, (v[seen] - y0, u[seen]), light[seen].astype(np.float32))


def scatter(width: int, height: int, n: int, seed: int, bright: tuple[float, float] = (8.0, 800.0)) -> Stars:
    """Stars at random, their heights evenly spread in the logarithm."""
    rng = np.random.default_rng([seed, n])
    y = np.sort(rng.uniform(0, height, n))
    return Stars(rng.uniform(0, width, n), y, np.exp(rng.uniform(*np.log(bright), n)))


@dataclass(frozen=True)
class Scene:
    """An image that is drawn when it is written.

    Attributes
    ----------
    width, height : int
    light : callable
        Brightness at rows `y` (n, 1) and columns `x` (1, width).
    noise : float
    stars : Stars, optional
    keywords : dict
        Configuration.
    saturation : float
        Pixels clip here.
    """

    width: int
    height: int
    light: Light | None = None
    noise: float = 1.0
    stars: Stars | None = None
    keywords: dict[str, str] = field(default_factory=dict)
    saturation: float = 50_000.0
    seed: int = 1

    @property
    def options(self) -> list[str]:
        """The configuration as arguments of the command line."""
        return [word for key, value in {**PLAIN, **self.keywords}.items() for word in (f"-{key}", value)]

    def bands(self) -> Iterator[Floats]:
        """The image from the bottom, BAND_ROWS rows at a time."""
        x = np.arange(self.width, dtype=np.float32)[None, :]
        for y0 in range(0, self.height, BAND_ROWS):
            y = np.arange(y0, min(y0 + BAND_ROWS, self.height), dtype=np.float32)[:, None]
            rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, y0], np.uint64)))
            rows = rng.standard_normal((len(y), self.width), np.float32) * np.float32(self.noise)
            if self.light is not None:
                rows += self.light(y, x)
            if self.stars is not None:
                self.stars.add(rows, y0)
            yield np.minimum(rows, np.float32(self.saturation))

    def write(self, path: Path) -> Path:
        """Write a plain FITS file."""
        header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", self.width), ("NAXIS2", self.height)])
        header["SATURATE"], header["GAIN"] = self.saturation, 1.0
        with path.open("wb") as out:
            out.write(header.tostring().encode("ascii"))
            written = sum(out.write(rows.astype(">f4").tobytes()) for rows in self.bands())
            out.write(bytes(-written % 2880))
        return path


def _lattice(seed: int, size: int, step: int) -> Light:
    """Random values on a square lattice, smooth between its nodes."""
    n = size // step + 3
    nodes = np.random.default_rng([seed, step]).uniform(0, 1, (n, n)).astype(np.float32)

    def value(y: Floats, x: Floats) -> Any:
        j, i = (y // step).astype(int), (x // step).astype(int)
        v, u = y / step - j, x / step - i
        v, u = v * v * (3 - 2 * v), u * u * (3 - 2 * u)
        low = nodes[j, i] + u * (nodes[j, i + 1] - nodes[j, i])
        high = nodes[j + 1, i] + u * (nodes[j + 1, i + 1] - nodes[j + 1, i])
        return low + v * (high - low)

    return value


def nebula(size: int) -> Scene:
    """One footprint of 0.3 size² pixels (20 million of 8192²), with knots of all sizes and stars in it and around."""
    knots = [(_lattice(k, size, size >> k), 24.0 / 2**k) for k in (4, 6, 8) if size >> k > 2]

    def light(y: Floats, x: Floats) -> Any:
        r2 = ((x / size - 0.5) / 0.39) ** 2 + ((y / size - 0.5) / 0.245) ** 2
        return np.exp(-(r2**4)) * (4 + sum(height * np.exp(3 * value(y, x)) for value, height in knots))

    return Scene(size, size, light, stars=scatter(size, size, size * size // 3000, 2))


def bleeding_star(size: int) -> Scene:
    """A saturated star in the middle: a halo, a column that bleeds over the whole frame, spikes along axes and diagonals."""
    middle = size / 2 - 0.3

    def light(y: Floats, x: Floats) -> Any:
        dx, dy = x - middle, y - middle
        r = np.hypot(dx, dy) + 1
        across = np.minimum(np.minimum(abs(dx), abs(dy)), abs(abs(dx) - abs(dy)) / np.float32(np.sqrt(2)))
        spikes = (4000 / r + 6) * np.exp(-0.5 * (across / 1.5) ** 2)
        bleed = np.where(abs(dx) < 3, np.float32(60_000), np.float32(0))
        return 1.5 * (0.1 * size / r) ** 3 + spikes + bleed

    return Scene(size, size, light, stars=scatter(size, size, size * size // 2500, 3))


def noise(size: int, threshold: float = 0.4, smooth: bool = False) -> Scene:
    """Noise above a threshold so low (0.1; 0.03 if it is smooth) that most of it hangs together: a lace."""
    level = f"{threshold / 3.3 if smooth else threshold:.4g}"
    keywords = {"DETECT_THRESH": level, "ANALYSIS_THRESH": level, "FILTER": "Y" if smooth else "N"}
    return Scene(size, size, stars=scatter(size, size, size * size // 20_000, 4), keywords=keywords)


def crowd(size: int, pixels_per_star: float = 270.0) -> Scene:
    """Stars everywhere: a million in 16384² at 268 pixels each, or as many as blend."""
    n = round(size * size / pixels_per_star)
    return Scene(size, size, stars=scatter(size, size, n, 5, (5.0, 500.0)))


def strip(width: int, height: int = 500) -> Scene:
    """A long strip with five stars in each thousand columns, and a trail along it."""

    def light(y: Floats, x: Floats) -> Any:
        return 8 * np.exp(-0.5 * ((y - height / 3 - x * (height / 3 / width)) / 2) ** 2)

    return Scene(width, height, light, stars=scatter(width, height, width // 200, 6))


def trail(size: int) -> Scene:
    """A satellite from corner to corner."""

    def light(y: Floats, x: Floats) -> Any:
        return 10 * np.exp(-0.25 * ((y - x) / 2) ** 2)

    return Scene(size, size, light, stars=scatter(size, size, size * size // 20_000, 7))


def aperture(size: int) -> Scene:
    """Few stars, and an aperture nearly as wide as the frame."""
    return Scene(size, size, stars=scatter(size, size, 8, 8), keywords={"PHOT_APERTURES": f"5,{size * 14 // 16}"})


def galaxy(size: int) -> Scene:
    """A smooth galaxy whose ellipse of 6 sigma spans 0.85 of the frame; its footprint is small."""
    sigma = 0.85 * size / 12

    def light(y: Floats, x: Floats) -> Any:
        r2 = ((x - size / 2) / sigma) ** 2 + ((y - size / 2) / (0.7 * sigma)) ** 2
        return 3 * np.exp(-0.5 * r2)

    return Scene(size, size, light, noise=0.1, stars=scatter(size, size, 40, 9))


def flat(size: int) -> Scene:
    """Every pixel is above the threshold."""
    return Scene(size, size, lambda y, x: np.float32(10.0))


def chessboard(size: int) -> Scene:
    """Every second pixel is bright: as many runs as there can be, all of them one footprint."""
    return Scene(size, size, lambda y, x: 10 * ((x + y) % 2), noise=0.3, keywords={"FILTER": "N"})


def comb(size: int, back: str = "top") -> Scene:
    """Teeth in every second column, joined on the last row or the first."""
    row = size - 1 if back == "top" else 0
    return Scene(size, size, lambda y, x: 10 * ((x % 2 == 0) | (y == row)), noise=0.3, keywords={"FILTER": "N"})


def spiral(size: int, pitch: float = 6.0) -> Scene:
    """One arm from the middle to the edge: every row cuts it many times."""

    def light(y: Floats, x: Floats) -> Any:
        dx, dy = x - size / 2, y - size / 2
        turn = np.hypot(dx, dy) / pitch - np.arctan2(dy, dx) / np.float32(2 * np.pi)
        return 10 * (turn - np.floor(turn) < 0.5)

    return Scene(size, size, light, noise=0.3, keywords={"FILTER": "N"})
