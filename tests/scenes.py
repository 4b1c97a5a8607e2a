"""Small images that carry their truth: a builder for hand-made scenes, and the fields of ``scripts/make_field.py``.

    scene = Scene(120, 160, seed=3)
    scene.star(40.0, 60.5, flux=5000.0).galaxy(100.0, 50.0, flux=9e3, r_eff=4.0, axis_ratio=0.5, theta=30.0)
    scene.bad(Box(10, 10, 20, 20)).write(tmp_path / "scene.fits")

Positions are 0-based pixels, x to the right, y up: `pixels[y, x]`.  What SExtractor makes of a scene is not known here
(``parity``).
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from dataclasses import field as attribute
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from sextract.records import Box

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    """A file of ``scripts/`` as a module."""
    known = f"sextract_script_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, ROOT / "scripts" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[known]


@dataclass(frozen=True)
class Truth:
    """One source of a scene.

    Attributes
    ----------
    x, y : float
        Centre, 0-based pixels.
    flux : float
        ADU, all of it.
    a, b : float
        RMS of the profile along its axes, pixels (of the Gaussian; of the disc, before the seeing).
    theta : float
        Degrees from x towards y.
    """

    x: float
    y: float
    flux: float
    a: float
    b: float
    theta: float = 0.0


@dataclass
class Scene:
    """An image under construction.

    Attributes
    ----------
    height, width : int
    sky, sigma : float
        Background and its noise, ADU; a `sigma` of 0 makes a noiseless image.
    seed : int
        Of the noise alone: the same scene can be drawn many times.
    saturation : float
        Pixels clip here.
    truth : list of Truth
        What is in it.
    light : float64 array (height, width)
        Noiseless, without sky.
    mask : bool array (height, width)
        Pixels to be made NaN.
    """

    height: int
    width: int
    sky: float = 100.0
    sigma: float = 5.0
    seed: int = 0
    saturation: float = np.inf
    truth: list[Truth] = attribute(default_factory=list)

    def __post_init__(self) -> None:
        self.light: NDArray[np.float64] = np.zeros((self.height, self.width))
        self.mask: NDArray[np.bool_] = np.zeros((self.height, self.width), bool)

    def ellipse(self, x: float, y: float, a: float, b: float, theta: float) -> NDArray[np.float64]:
        """Squared elliptical radius of every pixel, in units of the axes."""
        v, u = np.mgrid[: self.height, : self.width]
        cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
        along, across = (u - x) * cos + (v - y) * sin, (v - y) * cos - (u - x) * sin
        return np.asarray((along / a) ** 2 + (across / b) ** 2)

    def star(self, x: float, y: float, flux: float, fwhm: float = 3.0) -> Self:
        """Adds a round Gaussian."""
        sigma = fwhm / 2.3548200450309493
        return self.gaussian(x, y, flux, sigma, sigma)

    def gaussian(self, x: float, y: float, flux: float, a: float, b: float, theta: float = 0.0) -> Self:
        """Adds an elliptical Gaussian with those RMS axes."""
        self.light += flux / (2 * np.pi * a * b) * np.exp(-0.5 * self.ellipse(x, y, a, b, theta))
        self.truth.append(Truth(x, y, flux, a, b, theta))
        return self

    def galaxy(
        self,
        x: float,
        y: float,
        flux: float,
        r_eff: float,
        axis_ratio: float = 1.0,
        theta: float = 0.0,
        index: float = 1.0,
    ) -> Self:
        """Adds a Sersic profile of that half-light radius, its core softened to half a pixel."""
        b = 2.0 * index - 1.0 / 3.0
        radius = np.sqrt(self.ellipse(x, y, r_eff, r_eff * axis_ratio, theta) + (0.5 / r_eff) ** 2)
        shape = np.exp(-b * radius ** (1.0 / index))
        self.light += flux * shape / shape.sum()
        self.truth.append(Truth(x, y, flux, r_eff, r_eff * axis_ratio, theta))
        return self

    def blend(self, x: float, y: float, flux: float, separation: float, ratio: float = 0.6, fwhm: float = 3.0) -> Self:
        """Adds two stars side by side in x, the right one `ratio` times as bright."""
        self.star(x - separation / 2, y, flux, fwhm)
        return self.star(x + separation / 2, y, flux * ratio, fwhm)

    def trail(self, x0: float, y0: float, x1: float, y1: float, height: float, sigma: float = 1.5) -> Self:
        """Adds a straight line of constant brightness through the two points, from edge to edge."""
        v, u = np.mgrid[: self.height, : self.width]
        length = np.hypot(x1 - x0, y1 - y0)
        distance = ((v - y0) * (x1 - x0) - (u - x0) * (y1 - y0)) / length
        self.light += height * np.exp(-0.5 * (distance / sigma) ** 2)
        return self

    def scatter(
        self, n: int, flux: tuple[float, float] = (1500.0, 40000.0), margin: float = 0.0, seed: int = 1
    ) -> Self:
        """Adds `n` sources at random, half of them elongated, fluxes evenly spread in the logarithm."""
        rng = np.random.default_rng([seed, n])
        for _ in range(n):
            x, y = rng.uniform(margin, self.width - margin), rng.uniform(margin, self.height - margin)
            bright = float(np.exp(rng.uniform(*np.log(flux))))
            a = rng.uniform(1.2, 2.8)
            b = a if rng.uniform() < 0.5 else a * rng.uniform(0.4, 0.9)
            self.gaussian(x, y, bright, a, b, rng.uniform(-90, 90))
        return self

    def bad(self, box: Box) -> Self:
        """Makes a patch NaN."""
        self.mask[box.y0 : box.y1, box.x0 : box.x1] = True
        return self

    def pixels(self, seed: int | None = None) -> NDArray[np.float32]:
        """The image, (height, width), ADU; the noise of `seed` if given."""
        rng = np.random.default_rng(self.seed if seed is None else seed)
        image = self.light + self.sky + self.sigma * rng.standard_normal(self.light.shape)
        image = np.minimum(image, self.saturation)
        image[self.mask] = np.nan
        return np.asarray(image, np.float32)

    def write(self, path: Path, *, header: dict[str, Any] | None = None, dtype: str = "f4") -> Path:
        """Writes a plain FITS file; integer types are rounded, and NaN there becomes BLANK."""
        image = self.pixels()
        cards = fits.Header(list((header or {}).items()))
        if np.isfinite(self.saturation):
            cards["SATURATE"] = self.saturation
        if np.dtype(dtype).kind == "i":
            blank = np.iinfo(dtype).min
            image = np.where(np.isnan(image), blank, np.rint(image))
            cards["BLANK"] = int(blank)
        fits.PrimaryHDU(image.astype(dtype), cards).writeto(path, overwrite=True)
        return path

    def isolated(self, distance: float) -> list[Truth]:
        """The sources with no other within `distance`, and as far from edges and bad pixels."""
        found = []
        holes = np.argwhere(self.mask)
        for s in self.truth:
            inside = distance <= s.x < self.width - distance and distance <= s.y < self.height - distance
            near = [o for o in self.truth if o is not s and np.hypot(o.x - s.x, o.y - s.y) < distance]
            hit = len(holes) and np.min(np.hypot(holes[:, 1] - s.x, holes[:, 0] - s.y)) < distance
            if inside and not near and not hit:
                found.append(s)
        return found


@dataclass(frozen=True)
class Field:
    """A simulated field on disk, and its truth list (``make_field.SOURCE``)."""

    path: Path
    truth: NDArray[Any]


def field(
    path: Path,
    size: int | tuple[int, int] = 512,
    sources: int = 120,
    seed: int = 1,
    *,
    bitpix: int = -32,
    extensions: int = 0,
    empty: tuple[int, ...] = (),
    **recipe: Any,
) -> Field:
    """A field of ``make_field`` of `size` (a side, or height and width)."""
    make = script("make_field")
    height, width = (size, size) if isinstance(size, int) else size
    table = make.make_field(
        path,
        make.Recipe(width, height, sources, seed=seed, **recipe),
        bitpix=bitpix,
        extensions=extensions,
        empty=empty,
    )
    return Field(path, table)
