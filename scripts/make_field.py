#!/usr/bin/env python3
"""Makes a realistic field as FITS with a truth list: galaxies, stars, blends, saturation, a trail, a sky gradient.

    make_field.py OUT.fits --size 8192 --sources 30000 --seed 1 --trail

The image is rendered and written in bands of rows, so a 30000 x 30000 field needs a few hundred MB at most and a
seed gives the same pixels whatever the band's height.  The truth list goes to OUT.truth.fits (or ``--truth``,
FITS or CSV).  It does not model optics: the PSF is one round Moffat over the whole field, galaxies are
Sersic profiles softened by the seeing instead of convolved with it, and bright stars clip but don't bleed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

SOURCE = np.dtype(
    [
        ("EXT", "i4"),  # extension, from 1; 0 in a plain file
        ("X_IMAGE", "f8"),  # pixel position, centre of the first pixel (1, 1)
        ("Y_IMAGE", "f8"),
        ("ALPHA_J2000", "f8"),
        ("DELTA_J2000", "f8"),
        ("FLUX", "f8"),  # ADU, all of it
        ("KIND", "i4"),  # 0 a star, 1 an exponential disc, 4 a de Vaucouleurs spheroid
        ("R_EFF", "f8"),  # half-light radius before seeing, pixels; 0 for stars
        ("AXIS_RATIO", "f8"),
        ("THETA", "f8"),  # degrees, counter-clockwise from x
        ("BLEND", "i4"),  # placed next to another source on purpose
        ("PEAK", "f8"),  # ADU above the sky, noiseless and unclipped
        ("RADIUS", "i4"),  # half-size of the rendered stamp, pixels
    ]
)

# A source is rendered out to where it falls below this fraction of the sky noise, a step nobody can see.
CUT_SIGMA = 0.02
# Caps the stamp of the brightest, and with it the rows that a band must hold beyond its own.
MAX_RADIUS_PX = 240
# Where profiles are looked at to find fluxes and radii.
RADII_PX = np.concatenate([np.arange(0.0, 12.0, 0.25), np.arange(12.0, MAX_RADIUS_PX + 1.0)])
# Stars that are drawn together, for the memory that it takes, and from how many on it pays.
STARS_AT_ONCE, FEWEST_STARS = 4096, 8
# The largest radius of a star that is drawn with others: there a call costs more than the pixels.
FAINT_RADIUS_PX = 12


@dataclass(frozen=True)
class Recipe:
    """All that decides the pixels; fluxes and noise in electrons, the file holds ADU.

    Attributes
    ----------
    width, height : int
        Size in pixels.
    sources : int
        How many are put in the field.
    seed : int
        Everything random follows from it.
    fwhm_px, moffat_beta : float
        Seeing, and the exponent of its wings.
    sky, gradient : float
        Sky level in the middle and its fractional change over the field's width.
    read_noise, gain, saturation : float
        Electrons, electrons per ADU, ADU.
    star_fraction, blend_fraction : float
        Shares of stars and of sources placed within a few FWHM of another one.
    slope, faintest, brightest : float
        Counts N(>F) ~ F^-slope between these signal-to-noise levels (flux over the noise within the seeing disc).
    trail : bool
        A satellite crosses the field.
    """

    width: int
    height: int
    sources: int
    seed: int = 0
    fwhm_px: float = 2.9
    moffat_beta: float = 3.0
    sky: float = 400.0
    gradient: float = 0.15
    read_noise: float = 5.0
    gain: float = 2.0
    saturation: float = 50000.0
    star_fraction: float = 0.45
    blend_fraction: float = 0.03
    slope: float = 0.8
    faintest: float = 21.0
    brightest: float = 3e5
    trail: bool = False

    @property
    def noise(self) -> float:
        """Noise of a pixel of sky, electrons."""
        return math.sqrt(self.sky + self.read_noise**2)

    @property
    def seeing_sigma_px(self) -> float:
        """The seeing as the sigma of a Gaussian."""
        return self.fwhm_px / 2.3548


def draw_sources(recipe: Recipe, extension: int = 0) -> NDArray[Any]:
    """The truth list of one image, sorted by the first row of each stamp."""
    rng = np.random.default_rng([recipe.seed, extension])
    n = recipe.sources
    table = np.zeros(n, SOURCE)
    table["EXT"] = extension
    table["X_IMAGE"] = rng.uniform(0.5, recipe.width + 0.5, n)
    table["Y_IMAGE"] = rng.uniform(0.5, recipe.height + 0.5, n)
    pair_up(table, recipe, rng)

    low, high = recipe.faintest**-recipe.slope, recipe.brightest**-recipe.slope
    brightness = (low - rng.uniform(0.0, 1.0, n) * (low - high)) ** (-1.0 / recipe.slope)
    star = rng.uniform(size=n) < recipe.star_fraction
    table["KIND"] = np.where(star, 0, np.where(rng.uniform(size=n) < 0.75, 1, 4))
    # Half-light radii of a deep field: a pixel or two at the faint end, growing slowly with flux, with a wide scatter.
    size = 0.6 * (brightness / recipe.faintest) ** 0.22 * np.exp(rng.normal(0.0, 0.35, n))
    table["R_EFF"] = np.where(star, 0.0, np.clip(size, 0.3, 40.0))
    table["AXIS_RATIO"] = np.where(star, 1.0, rng.beta(4.0, 2.0, n) * 0.8 + 0.2)
    table["THETA"] = np.where(star, 0.0, rng.uniform(-90.0, 90.0, n))

    # A galaxy is spread over more pixels of sky than a star: its flux grows so that brightness means the same for both.
    disc = np.sqrt(4.0 * np.pi * (recipe.seeing_sigma_px**2 + table["R_EFF"] ** 2))
    table["FLUX"] = brightness * recipe.noise * disc / recipe.gain
    set_extents(table, recipe)
    first_row = np.rint(table["Y_IMAGE"]).astype(int) - table["RADIUS"]
    return table[np.argsort(first_row, kind="stable")]


def pair_up(table: NDArray[Any], recipe: Recipe, rng: np.random.Generator) -> None:
    """Moves some sources next to others, 1.5 to 5 FWHM away."""
    n = len(table)
    moved = rng.uniform(size=n) < recipe.blend_fraction
    partner = rng.integers(0, max(n, 1), n)
    distance, angle = recipe.fwhm_px * rng.uniform(1.5, 5.0, n), rng.uniform(0.0, 2.0 * np.pi, n)
    x, y = table["X_IMAGE"][partner] + distance * np.cos(angle), table["Y_IMAGE"][partner] + distance * np.sin(angle)
    moved &= (x > 0.5) & (x < recipe.width + 0.5) & (y > 0.5) & (y < recipe.height + 0.5)
    table["X_IMAGE"] = np.where(moved, x, table["X_IMAGE"])
    table["Y_IMAGE"] = np.where(moved, y, table["Y_IMAGE"])
    table["BLEND"] = moved


def profile(source: Any, recipe: Recipe, dx: NDArray[Any], dy: NDArray[Any]) -> NDArray[np.float64]:
    """Brightness of a source at offsets from its centre, 1 at the centre.

    Parameters
    ----------
    source : SOURCE record
    recipe : Recipe
    dx, dy : float64 arrays that broadcast
        Pixels.
    """
    if source["KIND"] == 0:
        alpha = recipe.fwhm_px / (2.0 * math.sqrt(2.0 ** (1.0 / recipe.moffat_beta) - 1.0))
        return np.asarray((1.0 + (dx * dx + dy * dy) / alpha**2) ** -recipe.moffat_beta)
    # The seeing rounds the ellipse and softens the core: axes add in quadrature, and the radius never reaches zero.
    theta = math.radians(source["THETA"])
    blur = 0.6 * recipe.fwhm_px
    major = math.hypot(source["R_EFF"], blur)
    minor = math.hypot(source["R_EFF"] * source["AXIS_RATIO"], blur)
    along = (dx * math.cos(theta) + dy * math.sin(theta)) / major
    across = (dy * math.cos(theta) - dx * math.sin(theta)) / minor
    core = 0.36 * blur**2 / (major * minor)
    radius = np.sqrt(along * along + across * across + core)
    index, b = (1.0, 1.678) if source["KIND"] == 1 else (4.0, 7.669)
    return np.asarray(np.exp(-b * (radius ** (1.0 / index) - core ** (0.5 / index))))


def extent(source: Any, recipe: Recipe) -> tuple[float, int]:
    """Peak of a source (ADU) and the radius of the stamp that holds all of it that can be seen."""
    along, total = growth(source, recipe)
    peak = float(source["FLUX"]) / total
    return peak, int(radii(along, np.array([peak]), recipe)[0])


def growth(source: Any, recipe: Recipe) -> tuple[NDArray[np.float64], float]:
    """The profile of a source along its major axis, at `RADII_PX`, and its flux if it were 1 at the centre."""
    r, theta = RADII_PX, math.radians(source["THETA"])
    along = profile(source, recipe, r * math.cos(theta), r * math.sin(theta))
    across = profile(source, recipe, -r * math.sin(theta), r * math.cos(theta))
    # Area of a curve of growth whose isophotes are ellipses of about the geometric mean of both cuts.
    mean = np.sqrt(along * across)
    return along, 2.0 * np.pi * float(np.sum(np.diff(r) * 0.5 * (mean[1:] * r[1:] + mean[:-1] * r[:-1])))


def radii(along: NDArray[np.float64], peaks: NDArray[np.float64], recipe: Recipe) -> NDArray[np.int64]:
    """Radii of the stamps of sources with the same profile and these peaks (ADU)."""
    seen = along * peaks[:, None] * recipe.gain > CUT_SIGMA * recipe.noise
    last = np.where(seen.any(axis=1), len(along) - 1 - np.argmax(seen[:, ::-1], axis=1), 0)
    return np.clip(np.ceil(RADII_PX[last]), 4, MAX_RADIUS_PX).astype(np.int64)


def set_extents(table: NDArray[Any], recipe: Recipe) -> None:
    """Peak and radius of each source; all stars have one profile."""
    for k in np.flatnonzero(table["KIND"] != 0):
        table["PEAK"][k], table["RADIUS"][k] = extent(table[k], recipe)
    stars = np.flatnonzero(table["KIND"] == 0)
    if not len(stars):
        return
    along, total = growth(table[stars[0]], recipe)
    table["PEAK"][stars] = table["FLUX"][stars] / total
    for some in np.array_split(stars, -(-len(stars) // STARS_AT_ONCE)):
        table["RADIUS"][some] = radii(along, table["PEAK"][some], recipe)


def add_source(source: Any, recipe: Recipe, rows: NDArray[np.float32], y0: int) -> None:
    """Adds a source to `rows`, whose first row is image row `y0`; the part outside is lost."""
    x, y, radius = source["X_IMAGE"] - 1.0, source["Y_IMAGE"] - 1.0, int(source["RADIUS"])
    cx, cy = round(x), round(y)
    dx = np.arange(cx - radius, cx + radius + 1.0) - x
    dy = np.arange(cy - radius, cy + radius + 1.0) - y
    stamp = profile(source, recipe, dx[None, :], dy[:, None]) * (source["PEAK"] * recipe.gain)
    left, right = max(cx - radius, 0), min(cx + radius + 1, recipe.width)
    low, high = max(cy - radius, y0), min(cy + radius + 1, y0 + len(rows))
    if left < right and low < high:
        rows[low - y0 : high - y0, left:right] += stamp[
            low - (cy - radius) : high - (cy - radius), left - (cx - radius) : right - (cx - radius)
        ]


def add_sources(table: NDArray[Any], recipe: Recipe, rows: NDArray[np.float32], y0: int) -> None:
    """Adds sources in their order, faint stars many at a time; the sums are those of `add_source`, bit by bit."""
    faint = (table["KIND"] == 0) & (table["RADIUS"] <= FAINT_RADIUS_PX)
    turns = np.flatnonzero(np.diff(faint, prepend=False, append=False))
    edges = np.unique(np.concatenate([turns, np.arange(0, len(table), STARS_AT_ONCE), [len(table)]]))
    for first, last in itertools.pairwise(edges.tolist()):
        if faint[first] and last - first >= FEWEST_STARS:
            add_stars(table[first:last], recipe, rows, y0)
        else:
            for source in table[first:last]:
                add_source(source, recipe, rows, y0)


def add_stars(stars: NDArray[Any], recipe: Recipe, rows: NDArray[np.float32], y0: int) -> None:
    """Adds many small stars to `rows`, as `add_source` does one."""
    x, y, radius = stars["X_IMAGE"] - 1.0, stars["Y_IMAGE"] - 1.0, stars["RADIUS"].astype(np.int64)
    left, low = np.rint(x).astype(np.int64) - radius, np.rint(y).astype(np.int64) - radius
    side = 2 * radius + 1
    # One entry for each pixel of each stamp, star after star.
    star = np.repeat(np.arange(len(stars)), side * side)
    nth = np.arange(len(star)) - np.repeat(np.cumsum(side * side) - side * side, side * side)
    down, across = np.divmod(nth, side[star])
    down, across = down + low[star], across + left[star]
    inside = (across >= 0) & (across < recipe.width) & (down >= y0) & (down < y0 + len(rows))
    star, down, across = star[inside], down[inside], across[inside]
    light = profile(stars[0], recipe, across - x[star], down - y[star]) * (stars["PEAK"] * recipe.gain)[star]
    np.add.at(rows, (down - y0, across), light)


def add_trail(row: NDArray[np.float64], y: int, recipe: Recipe) -> None:
    """Adds what a satellite left on one row: a straight line from the lower left to the upper right, 8 sigma bright."""
    start, end = 0.12 * recipe.height, 0.71 * recipe.height
    slope = (end - start) / recipe.width
    sigma, across = 2.2, math.cos(math.atan(slope))
    centre = (y - start) / slope
    reach = 6.0 * sigma / (across * slope)
    left, right = max(int(centre - reach), 0), min(int(centre + reach) + 2, recipe.width)
    if left < right:
        distance = (y - start - slope * np.arange(left, right)) * across
        row[left:right] += 8.0 * recipe.noise * np.exp(-0.5 * (distance / sigma) ** 2)


def render(recipe: Recipe, table: NDArray[Any], band_rows: int = 32) -> Iterator[NDArray[np.float64]]:
    """Bands of the image in ADU, from the bottom; every pixel is the same whatever `band_rows`.

    Each source is drawn once and whole, when its first row comes up, so a band looks ahead by the tallest stamp.
    """
    extension = int(table["EXT"][0]) if len(table) else 0
    ahead = 2 * int(table["RADIUS"].max()) + 2 if len(table) else 0
    # Rows below the frame: stamps that begin there are drawn with the first band, and cut by it.
    rows = np.zeros((band_rows + ahead, recipe.width), np.float32)
    first = np.rint(table["Y_IMAGE"] - 1.0).astype(int) - table["RADIUS"]
    starts = np.searchsorted(first, np.arange(0, recipe.height + band_rows, band_rows))
    done = 0
    for k, y0 in enumerate(range(0, recipe.height, band_rows)):
        add_sources(table[done : starts[k + 1]], recipe, rows, y0)
        done = int(starts[k + 1])
        count = min(band_rows, recipe.height - y0)
        band = np.empty((count, recipe.width))
        for i in range(count):
            band[i] = exposed(rows[i], y0 + i, extension, recipe)
        yield band
        # Row by row, so that the shift needs no second buffer.
        for i in range(ahead):
            rows[i] = rows[i + band_rows]
        rows[ahead:] = 0.0


def exposed(light: NDArray[np.float32], y: int, extension: int, recipe: Recipe) -> NDArray[np.float64]:
    """One row as the detector gives it: sky and trail added, noise drawn from (seed, extension, row), clipped; ADU."""
    u = (np.arange(recipe.width) + 0.5) / recipe.width - 0.5
    v = (y + 0.5) / recipe.height - 0.5
    electrons = recipe.sky * (1.0 + recipe.gradient * (u + 0.4 * v + 0.5 * u * v - 0.6 * v * v))
    electrons += light
    if recipe.trail:
        add_trail(electrons, y, recipe)
    rng = np.random.Generator(np.random.Philox(key=np.array([(recipe.seed << 16) + extension, y], np.uint64)))
    counts = rng.poisson(np.maximum(electrons, 0.0)) + recipe.read_noise * rng.standard_normal(recipe.width)
    return np.asarray(np.minimum(counts / recipe.gain, recipe.saturation))


def scaling(bitpix: int, recipe: Recipe) -> tuple[float, float]:
    """BSCALE and BZERO: unsigned 16 bits by the usual convention; 8 bits keep the sky and half a sigma a step."""
    if bitpix == 16:
        return 1.0, 32768.0
    if bitpix == 8:
        sigma = recipe.noise / recipe.gain
        return 0.5 * sigma, 0.8 * recipe.sky / recipe.gain - 6.0 * sigma
    return 1.0, 0.0


def encoded(band: NDArray[np.float64], bitpix: int, recipe: Recipe) -> bytes:
    """A band as FITS stores it: big-endian, scaled, integers rounded."""
    if bitpix < 0:
        return band.astype(f">f{-bitpix // 8}").tobytes()
    scale, zero = scaling(bitpix, recipe)
    kind = np.dtype("u1") if bitpix == 8 else np.dtype(f">i{bitpix // 8}")
    info = np.iinfo(kind)
    return np.clip(np.rint((band - zero) / scale), info.min, info.max).astype(kind).tobytes()


def header_of(recipe: Recipe, bitpix: int, extension: int) -> fits.Header:
    """The header of one image: size, detector keys, a TAN projection at 0.26 arcsec a pixel, CCDs side by side."""
    header = fits.Header()
    if extension:
        header["XTENSION"] = ("IMAGE", "image extension")
    else:
        header["SIMPLE"] = (True, "conforms to the FITS standard")
    header["BITPIX"] = bitpix
    header["NAXIS"] = 2
    header["NAXIS1"], header["NAXIS2"] = recipe.width, recipe.height
    if extension:
        header["PCOUNT"], header["GCOUNT"] = 0, 1
        header["EXTNAME"] = f"CCD{extension}"
    scale, zero = scaling(bitpix, recipe)
    if (scale, zero) != (1.0, 0.0):
        header["BSCALE"], header["BZERO"] = scale, zero
    header["OBJECT"] = ("simulated field", f"seed {recipe.seed}, {recipe.sources} sources")
    header["GAIN"] = (recipe.gain, "[e-/ADU]")
    header["RDNOISE"] = (recipe.read_noise, "[e-]")
    header["SATURATE"] = (recipe.saturation, "[ADU]")
    header["EXPTIME"] = (1.0, "[s]")
    header["FILTER"] = "r"
    header["SEEING"] = (recipe.fwhm_px * 0.26, "[arcsec] FWHM")
    column = max(extension - 1, 0)
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 150.1, 2.2
    header["CRPIX1"] = recipe.width / 2 + 0.5 - column * (recipe.width + 40)
    header["CRPIX2"] = recipe.height / 2 + 0.5
    header["CD1_1"], header["CD1_2"] = -0.26 / 3600, 0.0
    header["CD2_1"], header["CD2_2"] = 0.0, 0.26 / 3600
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["RADESYS"], header["EQUINOX"] = "ICRS", 2000.0
    return header


def write_image(out: BinaryIO, recipe: Recipe, bitpix: int, extension: int, band_rows: int) -> NDArray[Any]:
    """Writes one image HDU, whole blocks, and gives its truth list."""
    header = header_of(recipe, bitpix, extension)
    out.write(header.tostring().encode("ascii"))
    table = draw_sources(recipe, extension)
    written = 0
    for band in render(recipe, table, band_rows):
        written += out.write(encoded(band, bitpix, recipe))
    out.write(bytes(-written % 2880))
    if len(table):
        sky = WCS(header).wcs_pix2world(np.c_[table["X_IMAGE"], table["Y_IMAGE"]], 1)
        table["ALPHA_J2000"], table["DELTA_J2000"] = sky.T
    return table


def make_field(
    path: str | Path,
    recipe: Recipe,
    *,
    bitpix: int = -32,
    extensions: int = 0,
    empty: tuple[int, ...] = (),
    band_rows: int = 32,
) -> NDArray[Any]:
    """Writes a field and returns its truth list.

    Parameters
    ----------
    path : str or Path
        The FITS file; overwritten.
    recipe : Recipe
        What is in each image.
    bitpix : int
        8, 16, 32, 64, -32 or -64.
    extensions : int
        0: one image in the primary HDU; else that many image extensions after an empty primary.
    empty : tuple of int
        Numbers, from 1, of extensions that hold sky and noise alone.
    band_rows : int
        Rows rendered at a time; changes the memory needed, not the pixels.

    Returns
    -------
    SOURCE array
    """
    tables = []
    with open(path, "wb") as out:
        if extensions:
            primary = fits.PrimaryHDU()
            primary.header["EXTEND"] = True
            out.write(primary.header.tostring().encode("ascii"))
        for extension in range(1, extensions + 1) if extensions else (0,):
            this = recipe if extension not in empty else Recipe(**{**vars(recipe), "sources": 0, "trail": False})
            tables.append(write_image(out, this, bitpix, extension, band_rows))
    return np.concatenate(tables)


def write_truth(path: str | Path, table: NDArray[Any]) -> None:
    """Writes a truth list, as CSV if the name says so, else as a FITS table."""
    if Path(path).suffix == ".csv":
        names = [n for n in SOURCE.names or () if n != "RADIUS"]
        rows = np.array([table[n] for n in names]).T if len(table) else np.empty((0, len(names)))
        np.savetxt(path, rows, delimiter=",", fmt="%.10g", header=",".join(names), comments="")
    else:
        fits.BinTableHDU(table, name="TRUTH").writeto(path, overwrite=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", help="FITS file to write")
    p.add_argument("--size", default="2048", help="N, or WIDTHxHEIGHT (default 2048)")
    p.add_argument("--sources", type=int, help="per image (default: one in 2236 pixels, 30,000 in 8192 x 8192)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--trail", action="store_true", help="a satellite crosses the field")
    p.add_argument("--stars-only", action="store_true")
    p.add_argument("--blends", type=float, metavar="SHARE", help="sources placed next to another one (default 0.03)")
    p.add_argument("--slope", type=float, help="of the counts, N(>F) ~ F^-slope (default 0.8)")
    p.add_argument("--faintest", type=float, metavar="SNR", help="signal to noise of the faintest source (default 21)")
    p.add_argument("--bitpix", type=int, default=-32, choices=(8, 16, 32, 64, -32, -64), help="default -32")
    p.add_argument("--extensions", type=int, default=0, metavar="N", help="N image extensions after an empty primary")
    p.add_argument("--empty", type=int, action="append", default=[], metavar="K", help="extension K has no sources")
    p.add_argument("--fwhm", type=float, default=2.9, help="seeing in pixels (default 2.9)")
    p.add_argument("--moffat-beta", type=float, metavar="B", help="exponent of the PSF's wings (default 3)")
    p.add_argument("--truth", metavar="FILE", help="truth list, .fits or .csv (default OUT.truth.fits)")
    p.add_argument("--band-rows", type=int, default=32, help="rows held at a time (default 32)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 if the field was written."""
    args = parser().parse_args(argv)
    width, _, height = args.size.lower().partition("x")
    width, height = int(width), int(height or width)
    sources = round(width * height / 2236.96) if args.sources is None else args.sources
    stars = 1.0 if args.stars_only else None
    asked = {"star_fraction": stars, "blend_fraction": args.blends, "slope": args.slope, "faintest": args.faintest}
    asked |= {"moffat_beta": args.moffat_beta}
    given = {name: value for name, value in asked.items() if value is not None}
    recipe = Recipe(width, height, sources, seed=args.seed, trail=args.trail, fwhm_px=args.fwhm, **given)
    table = make_field(
        args.out,
        recipe,
        bitpix=args.bitpix,
        extensions=args.extensions,
        empty=tuple(args.empty),
        band_rows=args.band_rows,
    )
    truth = args.truth or str(Path(args.out).with_suffix(".truth.fits"))
    write_truth(truth, table)
    print(f"{args.out}: {width} x {height}, {len(table)} sources; truth in {truth}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
