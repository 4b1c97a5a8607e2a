"""Positions on the sky (WORLD, SKY, J2000) of barycentres, peaks and windowed centres, by the image's own WCS.

World coordinates come from wcslib (``wcslib.py``), or from astropy.wcs where a header needs that, with what SExtractor's users
expect on top: TAN with PVi_j is read as TPV, galactic, supergalactic and ecliptic coordinates are turned to equatorial ones,
and J2000 follows RADESYS and EQUINOX.  Without celestial axes X_WORLD and Y_WORLD are the linear transform and the rest is
NaN; `lacks_celestial` tells beforehand, so that a run can say so once.

It knows no shapes or position angles on the sky, no B1950.

References
----------
Calabretta & Greisen 2002 (A&A 395, 1077); Lieske et al. 1977 (A&A 58, 1) for precession, as in SExtractor; Reid & Brunthaler
2004 (ApJ 616, 872) for galactic, de Vaucouleurs et al. 1991 (RC3) for supergalactic coordinates; Murray 1989 (A&A 218, 325, eq.
28 and 29) and the Explanatory Supplement (Seidelmann 1992) for FK4.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.errors import InputError
from sextract.measurement.measure import Batch, measurement
from sextract.measurement.wcslib import Axes, read_axes
from sextract.memory.heap import give_back
from sextract.records import Column

Array = NDArray[Any]

CARD = 80
# wcslib takes 56 bytes a row, astropy makes a dozen arrays: this keeps each under 64 KiB.
CHUNK_ROWS = 1024
# Parts of astropy that take about as much each to import.
ASTROPY = ("astropy.units", "astropy.io.fits", "astropy.coordinates", "astropy.wcs")
# Obliquity of the ecliptic at J2000 (IAU 1976), arcsec.
OBLIQUITY = 84381.448
# The galaxy's north pole in J2000 and the longitude there of the celestial one (the IAU's of 1958, precessed); the galactic
# coordinates of the supergalactic one (de Vaucouleurs).  Degrees, with the digits that astropy has.
GALACTIC_POLE = 192.8594812065348, 27.12825118085622, 122.9319185680026
SUPERGALACTIC_POLE = 47.37, 6.32
J2000, J2000_JD, B1950_JD = 2000.0, 2451545.0, 2433282.42345905
# Besselian epoch 1900, the tropical year then, and a Julian century.
BESSELIAN_JD, TROPICAL_DAYS, CENTURY_DAYS = 2415020.31352, 365.242198781, 36525.0
# From the mean equator and equinox of B1950 to J2000, and how FK4 turns in a Julian century.
FK4_TO_FK5 = np.array(
    [
        [0.9999256794956877, -0.0111814832204662, -0.0048590038153592],
        [0.0111814832391717, 0.9999374848933135, -0.0000271625947142],
        [0.0048590037723143, -0.0000271702937440, 0.9999881946023742],
    ]
)
FK4_TURN = 1e-6 * np.array(
    [
        [-0.0026455262, -1.1539918689, 2.1111346190],
        [1.1540628161, -0.0129042997, 0.0236021478],
        [-2.1112979048, -0.0056024448, 0.0102587734],
    ]
)
ARCSEC_PER_DEG = 3600.0

CELESTIAL = re.compile(r"(RA--|DEC-|[A-Z]LON|[A-Z]LAT|[A-Z]{2}L[NT])-")
DISTORTION = re.compile(r"PV[12]_\d+ *=")
SIP = re.compile(r"[AB]_ORDER *=|CTYPE[12] *= *'[^']*-SIP")
PLATE = re.compile(r"AMDX1 +=")
TAN = re.compile(r"(CTYPE[12] *= *'[^']*-)TAN( *')")

BARYCENTRE = (
    Column("X_WORLD", "f8", "deg", "E18.10", "Barycenter position along world x axis", "pos.eq.ra", stage="table"),
    Column("Y_WORLD", "f8", "deg", "E18.10", "Barycenter position along world y axis", "pos.eq.dec", stage="table"),
    Column(
        "ALPHA_SKY",
        "f8",
        "deg",
        "F11.7",
        "Right ascension of barycenter (native)",
        "pos.eq.ra;pos.barycenter",
        stage="table",
    ),
    Column(
        "DELTA_SKY",
        "f8",
        "deg",
        "F11.7",
        "Declination of barycenter (native)",
        "pos.eq.dec;pos.barycenter",
        stage="table",
    ),
    Column(
        "ALPHA_J2000",
        "f8",
        "deg",
        "F11.7",
        "Right ascension of barycenter (J2000)",
        "pos.eq.ra;pos.barycenter;meta.main",
        stage="table",
    ),
    Column(
        "DELTA_J2000",
        "f8",
        "deg",
        "F11.7",
        "Declination of barycenter (J2000)",
        "pos.eq.dec;pos.barycenter;meta.main",
        stage="table",
    ),
)

PEAK = (
    Column(
        "XPEAK_WORLD",
        "f8",
        "deg",
        "E18.10",
        "World-x coordinate of the brightest pixel",
        "pos.eq.ra",
        stage="table",
    ),
    Column(
        "YPEAK_WORLD",
        "f8",
        "deg",
        "E18.10",
        "World-y coordinate of the brightest pixel",
        "pos.eq.dec",
        stage="table",
    ),
    Column(
        "ALPHAPEAK_SKY",
        "f8",
        "deg",
        "F11.7",
        "Right ascension of brightest pix (native)",
        "pos.eq.ra",
        stage="table",
    ),
    Column("DELTAPEAK_SKY", "f8", "deg", "F11.7", "Declination of brightest pix (native)", "pos.eq.dec", stage="table"),
    Column(
        "ALPHAPEAK_J2000",
        "f8",
        "deg",
        "F11.7",
        "Right ascension of brightest pix (J2000)",
        "pos.eq.ra",
        stage="table",
    ),
    Column(
        "DELTAPEAK_J2000",
        "f8",
        "deg",
        "F11.7",
        "Declination of brightest pix (J2000)",
        "pos.eq.dec",
        stage="table",
    ),
)

WINDOWED = (
    Column("XWIN_WORLD", "f8", "deg", "E18.10", "Windowed position along world x axis", "pos.eq.ra", stage="table"),
    Column("YWIN_WORLD", "f8", "deg", "E18.10", "Windowed position along world y axis", "pos.eq.dec", stage="table"),
    Column("ALPHAWIN_SKY", "f8", "deg", "F11.7", "Windowed right ascension  (native)", "pos.eq.ra", stage="table"),
    Column("DELTAWIN_SKY", "f8", "deg", "F11.7", "Windowed declination (native)", "pos.eq.dec", stage="table"),
    Column("ALPHAWIN_J2000", "f8", "deg", "F11.7", "Windowed right ascension (J2000)", "pos.eq.ra", stage="table"),
    Column("DELTAWIN_J2000", "f8", "deg", "F11.7", "windowed declination (J2000)", "pos.eq.dec", stage="table"),
)


class Sky(NamedTuple):
    """Where pixels of one image are.

    Attributes
    ----------
    world : callable
        ``world(x, y)``: FITS pixel positions, float64 (n,), to coordinates (n, 2) in the order of the axes, degrees.
    longitude : int
        Axis that holds the longitude, 0 or 1; -1 without celestial axes.
    equatorial : callable or None
        Turns longitudes and latitudes of the WCS to equatorial ones; None if they are.
    j2000 : callable or None
        Turns equatorial coordinates to J2000; None if they are.
    """

    world: Callable[[Array, Array], Array]
    longitude: int
    equatorial: Callable[[Array, Array], tuple[Array, Array]] | None = None
    j2000: Callable[[Array, Array], tuple[Array, Array]] | None = None


def lacks_celestial(header: str) -> bool:
    """Whether a header (80-column cards) has neither a longitude and a latitude nor a plate solution (DSS)."""
    text = "\n".join(_cards(header))
    types = dict(re.findall(r"CTYPE([12])\s*=\s*'([^']*)'", text))
    return not PLATE.search(text) and not all(CELESTIAL.match(types.get(axis, "")) for axis in "12")


def _cards(header: str) -> list[str]:
    """Cards with a value and a plain keyword: those a WCS is made of."""
    cards = (header[i : i + CARD] for i in range(0, len(header), CARD))
    return [card for card in cards if re.match(r"[A-Z0-9_-]{1,8} *= ", card)]


def wcs_cards(header: str) -> list[str]:
    """Cards for astropy: TAN with polynomial coefficients, as SCAMP and SWarp wrote it, becomes TPV.

    A reference pixel that isn't given is the first one, as in SExtractor (FITS says 0).
    """
    cards = _cards(header)
    if not any(PLATE.match(c) for c in cards):
        given = {card[:8].rstrip() for card in cards}
        cards += [f"{key:8}= {1.0:20}".ljust(CARD) for key in ("CRPIX1", "CRPIX2") if key not in given]
    if any(DISTORTION.match(c) for c in cards) and not any(SIP.match(c) for c in cards):
        cards = [TAN.sub(r"\1TPV\2", card) for card in cards]
    return cards


def import_astropy() -> None:
    """Import what is needed of astropy part by part, and have each give back what only its import took: less at the peak."""
    for name in ASTROPY:
        if name not in sys.modules:
            import_module(name)
            give_back()


@lru_cache(maxsize=64)
def needs_astropy(header: str) -> bool:
    """Whether astropy itself is imported for a header, which takes time and memory, or its wcslib alone will do.

    Raises
    ------
    InputError
        Its keywords don't make a WCS.
    """
    return _read_alone(header) is None


@lru_cache(maxsize=2)
def read_sky(header: str) -> Sky:
    """The WCS of a header.

    Raises
    ------
    InputError
        Its keywords don't make a WCS.
    """
    axes = _read_alone(header) or _read_by_astropy(header)
    return Sky(axes.world, axes.longitude, _to_equatorial(axes), _to_j2000(axes))


def _read_alone(header: str) -> Axes | None:
    """The WCS by wcslib alone; None if astropy is needed."""
    with _input_errors():
        return read_axes(wcs_cards(header))


def _read_by_astropy(header: str) -> Axes:
    """The WCS by astropy.wcs, which mends old keywords on the way; what it can't mend is an error."""
    import_astropy()
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    with warnings.catch_warnings(), _input_errors():
        warnings.simplefilter("ignore")
        wcs = WCS(Header.fromstring("".join(wcs_cards(header))), naxis=2)
        wcs.wcs.set()
        return Axes.of(wcs.wcs, lambda x, y: np.column_stack(wcs.all_pix2world(x, y, 1)))


@contextmanager
def _input_errors() -> Iterator[None]:
    """What is wrong with a WCS, as an error that says what to do."""
    try:
        yield
    except Exception as exc:
        reason = str(exc).strip().splitlines()[-1:] or [type(exc).__name__]
        raise InputError(
            f"the header's WCS can't be used: {reason[0]}; mend its keywords (CTYPE, CRVAL, CD, PV) or ask for no "
            "sky coordinates"
        ) from exc


def _to_equatorial(axes: Axes) -> Callable[[Array, Array], tuple[Array, Array]] | None:
    """How coordinates become equatorial, if they aren't."""
    matrices = {"ELON": ecliptic, "GLON": galactic, "SLON": supergalactic}
    if axes.system not in matrices:
        return None
    matrix = matrices[axes.system]()
    return lambda lon, lat: rotate(matrix, lon, lat)


def ecliptic() -> Array:
    """Rotation (3, 3) from the ecliptic of J2000 to J2000."""
    angle = np.deg2rad(OBLIQUITY / ARCSEC_PER_DEG)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def galactic() -> Array:
    """Rotation (3, 3) from galactic coordinates to J2000."""
    ra, dec, node = np.deg2rad(GALACTIC_POLE)
    turn: Array = (_about_z(np.pi - node) @ _about_y(np.pi / 2 - dec) @ _about_z(ra)).T
    return turn


def supergalactic() -> Array:
    """Rotation (3, 3) from supergalactic coordinates to J2000."""
    lon, lat = np.deg2rad(SUPERGALACTIC_POLE)
    turn: Array = (_about_z(np.pi / 2) @ _about_y(np.pi / 2 - lat) @ _about_z(lon)).T
    return galactic() @ turn


def _to_j2000(axes: Axes) -> Callable[[Array, Array], tuple[Array, Array]] | None:
    """How equatorial coordinates of a reference system and equinox become J2000; ICRS is taken for it."""
    if axes.system != "RA--" or not np.isfinite(axes.equinox):
        return None
    if axes.radesys in ("FK4", "FK4-NO-E"):
        return from_fk4(axes.equinox)
    if axes.radesys != "FK5" or axes.equinox == J2000:
        return None
    matrix = precession(axes.equinox)
    return lambda lon, lat: rotate(matrix, lon, lat)


def from_fk4(equinox: float) -> Callable[[Array, Array], tuple[Array, Array]]:
    """How places of the FK4 system at a Besselian epoch, taken for the time of observation too, become J2000 (FK5)."""
    jd = BESSELIAN_JD + (equinox - 1900.0) * TROPICAL_DAYS
    t, now = (jd - B1950_JD) / CENTURY_DAYS, (jd - J2000_JD) / CENTURY_DAYS
    # The part of aberration that catalogues of that time had in their places: of the ellipse of the Earth's orbit.
    size = np.deg2rad(0.0056932) * ((-0.000000126 * t - 0.00004193) * t + 0.01673011)
    perigee = np.deg2rad((((0.012 * t + 1.65) * t + 6190.67) * t + 1015489.951) / ARCSEC_PER_DEG)
    obliquity = np.deg2rad((OBLIQUITY + (-46.8150 + (-0.00059 + 0.001813 * now) * now) * now) / ARCSEC_PER_DEG)
    e = size * np.sin(perigee), -size * np.cos(perigee) * np.cos(obliquity), -size * np.cos(perigee) * np.sin(obliquity)
    # FK4 turns with respect to FK5.
    matrix = (FK4_TO_FK5 + FK4_TURN * (now + 0.5)) @ newcomb(equinox)

    def convert(lon: Array, lat: Array) -> tuple[Array, Array]:
        v = _vector(lon, lat)
        along = e[0] * v[0] + e[1] * v[1] + e[2] * v[2]
        return _turned(matrix, tuple(c - shift + along * c for c, shift in zip(v, e, strict=True)))

    return convert


def newcomb(equinox: float) -> Array:
    """Rotation (3, 3) from the mean equator and equinox of a Besselian epoch to B1950, with Newcomb's precession."""
    t = (equinox - 1850.0) / 1000.0
    d = 0.1 - t
    both = 23035.545 + (139.720 + 0.060 * t) * t
    zeta = both + (30.240 - 0.27 * t + 17.995 * d) * d
    z = both + (109.480 + 0.39 * t + 18.325 * d) * d
    theta = 20051.12 + (-85.29 - 0.37 * t) * t + (-42.65 - 0.37 * t - 41.8 * d) * d
    zeta, z, theta = (np.deg2rad(angle * d / ARCSEC_PER_DEG) for angle in (zeta, z, theta))
    return _about_z(-z) @ _about_y(theta) @ _about_z(-zeta)


def precession(equinox: float) -> Array:
    """Rotation (3, 3) from the mean equator and equinox of a Julian epoch to J2000, IAU 1976."""
    start = (equinox - J2000) / 100.0
    t = -start
    both = 2306.2181 + (1.39656 - 0.000139 * start) * start
    zeta = both + ((0.30188 - 0.000344 * start) + 0.017998 * t) * t
    z = both + ((1.09468 + 0.000066 * start) + 0.018203 * t) * t
    theta = 2004.3109 - (0.85330 + 0.000217 * start) * start - ((0.42665 + 0.000217 * start) + 0.041833 * t) * t
    zeta, z, theta = (np.deg2rad(angle * t / ARCSEC_PER_DEG) for angle in (zeta, z, theta))
    return _about_z(-z) @ _about_y(theta) @ _about_z(-zeta)


def _about_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def _about_y(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def rotate(matrix: Array, lon: Array, lat: Array) -> tuple[Array, Array]:
    """Longitudes (0 to 360) and latitudes, degrees, in a rotated system."""
    return _turned(matrix, _vector(lon, lat))


def _vector(lon: Array, lat: Array) -> tuple[Array, ...]:
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    return np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)


def _turned(matrix: Array, vector: tuple[Array, ...]) -> tuple[Array, Array]:
    x, y, z = (row[0] * vector[0] + row[1] * vector[1] + row[2] * vector[2] for row in matrix)
    return np.rad2deg(np.arctan2(y, x)) % 360.0, np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def locate(header: str, x: Array, y: Array) -> Array:
    """Sky positions of pixels.

    Parameters
    ----------
    header : str
        80-column cards.
    x, y : arrays (n,)
        FITS pixel positions (the first is 1).

    Returns
    -------
    float64 array (n, 6), degrees
        WORLD (two, in the order of the axes, equatorial), SKY (alpha, delta) and J2000 (alpha, delta); NaN where the
        projection has no such place, and in the last four without celestial axes.
    """
    sky = read_sky(header)
    out = np.full((len(x), 6), np.nan)
    for start in range(0, len(x), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        out[part] = _locate(sky, np.asarray(x[part], np.float64), np.asarray(y[part], np.float64))
    return out


def _locate(sky: Sky, x: Array, y: Array) -> Array:
    out = np.full((len(x), 6), np.nan)
    out[:, :2] = sky.world(x, y)
    if sky.longitude < 0:
        return out
    alpha, delta = out[:, sky.longitude] % 360.0, out[:, 1 - sky.longitude].copy()
    if sky.equatorial is not None:
        alpha, delta = sky.equatorial(alpha, delta)
    out[:, sky.longitude], out[:, 1 - sky.longitude] = alpha, delta
    out[:, 2], out[:, 3] = alpha, delta
    out[:, 4], out[:, 5] = (alpha, delta) if sky.j2000 is None else sky.j2000(alpha, delta)
    return out


def _fill(batch: Batch, columns: tuple[Column, ...], x: Array, y: Array) -> None:
    for column, values in zip(columns, locate(batch.frame.header, x, y).T, strict=True):
        batch[column.name] = np.ascontiguousarray(values)


@measurement("sky", columns=BARYCENTRE, needs=("positions",), stage="table")
def sky(batch: Batch) -> None:
    """Fill the barycentre's positions, float64 degrees; from X_IMAGE_DBL and Y_IMAGE_DBL."""
    _fill(batch, BARYCENTRE, batch["X_IMAGE_DBL"], batch["Y_IMAGE_DBL"])


@measurement("sky_peak", columns=PEAK, needs=("positions",), stage="table")
def sky_peak(batch: Batch) -> None:
    """Fill the peak's positions, float64 degrees; from XPEAK_IMAGE and YPEAK_IMAGE."""
    _fill(batch, PEAK, batch["XPEAK_IMAGE"], batch["YPEAK_IMAGE"])


@measurement("sky_windowed", columns=WINDOWED, needs=("windowed",), stage="table")
def sky_windowed(batch: Batch) -> None:
    """Fill the windowed centre's positions, float64 degrees; from XWIN_IMAGE and YWIN_IMAGE."""
    _fill(batch, WINDOWED, batch["XWIN_IMAGE"], batch["YWIN_IMAGE"])
