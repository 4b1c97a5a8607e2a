"""Values out of header text: cards, the gain and saturation of an image, and whether and how it maps the sky.

Text is what ``ImageInfo.header`` holds: cards of 80 columns, no separators, without END.  No astropy: world coordinates
proper are the table stage's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sextract.config.settings import PhotometrySettings
from sextract.reading.source import ImageInfo

CARD = 80

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
# Longitude and latitude codes of the sky (FITS standard, table 22), then the projection.
_CELESTIAL = re.compile(r"(?P<a>RA--|DEC-|[GESH]L(?:ON|AT)|[A-Z]{2}L[NT])-+[A-Z0-9]{3}")
_PAIRS = (("RA", "DEC"), ("LON", "LAT"), ("LN", "LT"))


def cards(header: str) -> Iterator[str]:
    """The cards of a header, 80 columns each (the last may be shorter)."""
    return (header[i : i + CARD] for i in range(0, len(header), CARD))


def card_value(header: str, key: str) -> str | None:
    """Text of a key's value.

    Parameters
    ----------
    header : str
        Cards without separators.
    key : str
        Keyword; one with more than 8 characters or with blanks is looked up as HIERARCH.

    Returns
    -------
    str or None
        The first card's value: a string without its quotes and trailing blanks, anything else as written, without the
        comment; empty if the card has no value.  None if there is no such card.
    """
    key = key.strip().upper()
    if len(key) > 8 or " " in key:
        return _hierarch(header, key)
    head = key.ljust(8) + "="
    return next((_value(card[9:]) for card in cards(header) if card.startswith(head)), None)


def _hierarch(header: str, key: str) -> str | None:
    words = key.removeprefix("HIERARCH ").split()
    for card in cards(header):
        name, equals, rest = card.removeprefix("HIERARCH ").partition("=")
        if equals and card.startswith("HIERARCH ") and name.upper().split() == words:
            return _value(rest)
    return None


def _value(field: str) -> str:
    """Value part of what follows the equals sign; a doubled quote in a string is one quote."""
    field = field.lstrip()
    if not field.startswith("'"):
        return field.partition("/")[0].strip()
    match = re.match(r"'((?:[^']|'')*)", field)
    return match[1].replace("''", "'").rstrip() if match else ""


def card_number(header: str, key: str) -> float | None:
    """A key's value as a finite number (Fortran's D exponent too, also inside quotes); None if absent or no number."""
    text = (card_value(header, key) or "").strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text.upper().replace("D", "E"))
    return value if math.isfinite(value) else None


def card_integer(header: str, key: str) -> int | None:
    """A key's value as an integer; None if absent or none."""
    text = card_value(header, key) or ""
    return int(text) if _INTEGER.fullmatch(text) else None


def card_true(header: str, key: str) -> bool:
    """Whether a logical key is there and T."""
    return card_value(header, key) == "T"


class Levels(NamedTuple):
    """Gain and saturation of an image, where each comes from, and what the user should know about it.

    Attributes
    ----------
    gain : float
        e-/ADU.
    gain_origin : str
        ``GAIN in the header``, ``GAIN in the primary header`` or ``configuration``.
    saturation : float
        ADU.
    saturation_origin : str
    warnings : tuple of str
    """

    gain: float
    gain_origin: str
    saturation: float
    saturation_origin: str
    warnings: tuple[str, ...]


def gain_and_saturation(info: ImageInfo, photometry: PhotometrySettings) -> Levels:
    """GAIN_KEY and SATUR_KEY as SExtractor's users mean them.

    A key counts in the extension's own header (with an external header merged in), in the primary header only where
    ``INHERIT = T``; else GAIN and SATUR_LEVEL of the configuration hold.

    Parameters
    ----------
    info : ImageInfo
    photometry : PhotometrySettings

    Returns
    -------
    Levels
        Its warnings name a key that is in the primary header and doesn't count, a value that is no number, and a
        gain that gives no Poisson term.
    """
    warnings: list[str] = []
    gain, gain_origin = _level(info, photometry.gain_key, photometry.gain, "GAIN", warnings)
    saturation, origin = _level(info, photometry.satur_key, photometry.satur_level, "SATUR_LEVEL", warnings)
    if gain <= 0.0:
        warnings.append(f"{_where(info)}: the gain is {gain:g} ({gain_origin}): errors hold no photon noise; see GAIN")
    return Levels(gain, gain_origin, saturation, origin, tuple(warnings))


def _level(info: ImageInfo, key: str, configured: float, option: str, warnings: list[str]) -> tuple[float, str]:
    places = [(info.header, "header")]
    inherits = info.primary_header != info.header
    if inherits and card_true(info.header, "INHERIT"):
        places.append((info.primary_header, "primary header"))
    for header, name in places:
        if not key.strip() or card_value(header, key) is None:
            continue
        value = card_number(header, key)
        if value is not None:
            return value, f"{key} in the {name}"
        text = card_value(header, key)
        warnings.append(f"{_where(info)}: {key} is {text!r}, no number: {option} {configured:g} holds")
        return configured, "configuration"
    if inherits and len(places) == 1 and key.strip() and card_value(info.primary_header, key) is not None:
        warnings.append(
            f"{_where(info)}: {key} is in the primary header only, and without INHERIT = T it does not count: "
            f"{option} {configured:g} holds"
        )
    return configured, "configuration"


def _where(info: ImageInfo) -> str:
    return f"{info.path}[{info.hdu}]"


def has_celestial_wcs(header: str) -> bool:
    """Whether the first two axes are a longitude and a latitude of the sky, or there is a DSS plate solution."""
    kinds = set()
    for axis in ("CTYPE1", "CTYPE2"):
        text = (card_value(header, axis) or "").upper()
        if _CELESTIAL.fullmatch(text[:8].rstrip()):
            kinds.add(text.partition("-")[0])
    for lon, lat in _PAIRS:
        if len(kinds) == 2 and any(k.endswith(lon) for k in kinds) and any(k.endswith(lat) for k in kinds):
            return True
    return _is_dss(header)


def _is_dss(header: str) -> bool:
    return all(card_value(header, key) is not None for key in ("AMDX1", "AMDY1", "PLTRAH", "PLTSCALE"))


def pixel_scale_from(header: str) -> float | None:
    """Pixel scale at the reference point, for PIXEL_SCALE 0.

    Returns
    -------
    float or None
        arcsec per pixel: √|det CD| · 3600, from CD, or PC (else CROTA, which changes nothing) and CDELT; from the
        plate scale of a DSS solution; None if the header has none of them or they give zero.
    """
    if _is_dss(header) and card_value(header, "CD1_1") is None and card_value(header, "CDELT1") is None:
        # PLTSCALE in arcsec/mm, pixel sizes in µm.
        sizes = [card_number(header, key) or 0.0 for key in ("XPIXELSZ", "YPIXELSZ")]
        scale = (card_number(header, "PLTSCALE") or 0.0) * math.sqrt(abs(sizes[0] * sizes[1])) / 1000.0
        return scale or None
    cd = [card_number(header, f"CD{i}_{j}") for i in (1, 2) for j in (1, 2)]
    if any(v is not None for v in cd):
        # A CD matrix that is there has zeros where cards are missing.
        return _scale(*(v or 0.0 for v in cd))
    steps = [card_number(header, f"CDELT{i}") for i in (1, 2)]
    if steps == [None, None]:
        return None
    dx, dy = (1.0 if v is None else v for v in steps)
    pc = [card_number(header, f"PC{i}_{j}") for i in (1, 2) for j in (1, 2)]
    a, b, c, d = ((unit if v is None else v) for v, unit in zip(pc, (1.0, 0.0, 0.0, 1.0), strict=True))
    return _scale(dx * a, dx * b, dy * c, dy * d)


def _scale(a: float, b: float, c: float, d: float) -> float | None:
    scale = math.sqrt(abs(a * d - b * c)) * 3600.0
    return scale if 0.0 < scale < math.inf else None
