"""Card values, gain and saturation look-up, WCS recognition; pixel scale and DATASUM against astropy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from sextract.config.settings import PhotometrySettings
from sextract.reading import ImageInfo, open_images
from sextract.reading.datasum import datasum
from sextract.reading.header import (
    card_integer,
    card_number,
    card_true,
    card_value,
    gain_and_saturation,
    has_celestial_wcs,
    pixel_scale_from,
)


def header(*lines: str) -> str:
    return "".join(line.ljust(80) for line in lines)


HEADER = header(
    "SIMPLE  =                    T / standard",
    "GAINX   = 9.0",
    "COMMENT = GAIN    = 8.0",
    "GAIN    =                  2.5 / e-/ADU",
    "GAIN    =                  3.5",
    "QUOTED  = '1.25    '           / text",
    "OBJECT  = 'It''s / M 1'        / name",
    "FORTRAN = 2.5D-1/tight",
    "EMPTY   =                      / nothing",
    "NULL    = ''",
    "OPEN    = 'no end",
    "LOWER   = t",
    "N       =                  -12",
    "HIERARCH ESO DET OUT1 GAIN = 0.55 / long",
    "NODATA    7",
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("GAIN", "2.5"),
        ("gain", "2.5"),
        ("QUOTED", "1.25"),
        ("OBJECT", "It's / M 1"),
        ("FORTRAN", "2.5D-1"),
        ("EMPTY", ""),
        ("NULL", ""),
        ("OPEN", "no end"),
        ("ESO DET OUT1 GAIN", "0.55"),
        ("HIERARCH ESO DET OUT1 GAIN", "0.55"),
        ("NODATA", None),
        ("ABSENT", None),
        ("ESO DET OUT2 GAIN", None),
        ("GAI", None),
    ],
)
def test_card_value(key, value):
    assert card_value(HEADER, key) == value


def test_typed_values():
    assert card_number(HEADER, "FORTRAN") == 0.25
    assert card_number(HEADER, "QUOTED") == 1.25
    assert card_integer(HEADER, "N") == -12
    assert card_true(HEADER, "SIMPLE")
    assert not card_true(HEADER, "LOWER")
    for key in ("OBJECT", "EMPTY", "ABSENT", "SIMPLE"):
        assert card_number(HEADER, key) is None
        assert card_integer(HEADER, key) is None


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "1e999", "0x10", "1,5", "-", ".", "1e"])
def test_what_python_takes_for_a_number_but_fits_does_not(text):
    assert card_number(header(f"A       = {text}"), "A") is None


def info(own: str = "", primary: str | None = None, hdu: int = 0) -> ImageInfo:
    return ImageInfo("im.fits", "im.fits", hdu, 1, 5, 5, 16, own, own if primary is None else primary)


CONFIGURED = PhotometrySettings(gain=9.5, satur_level=777.0)
GAIN, SATURATE, INHERIT = "GAIN    = 2.5", "SATURATE= 12.0", "INHERIT = T"


@pytest.mark.parametrize(
    ("image", "gain", "saturation", "warning"),
    [
        (info(), 9.5, 777.0, ""),
        (info(header(GAIN, SATURATE)), 2.5, 12.0, ""),
        (info("", header(GAIN), 1), 9.5, 777.0, "GAIN is in the primary header only"),
        (info(header("INHERIT = F"), header(GAIN), 1), 9.5, 777.0, "without INHERIT = T"),
        (info(header(INHERIT), header(GAIN, SATURATE), 1), 2.5, 12.0, ""),
        (info(header(INHERIT, "GAIN = 4"), header("GAIN    = 2.5", SATURATE), 1), 2.5, 12.0, ""),
        (info(header(INHERIT, "GAIN    = 4"), header(GAIN, SATURATE), 1), 4.0, 12.0, ""),
        (info(header("GAIN    = 'INDEF'")), 9.5, 777.0, "GAIN is 'INDEF', no number: GAIN 9.5 holds"),
        (info(header("GAIN    = 0.0")), 0.0, 777.0, "the gain is 0"),
    ],
)
def test_gain_and_saturation(image, gain, saturation, warning):
    levels = gain_and_saturation(image, CONFIGURED)
    assert (levels.gain, levels.saturation) == (gain, saturation)
    assert bool(levels.warnings) == bool(warning)
    assert warning in " ".join(levels.warnings)


def test_origins_and_other_keys():
    image = info(header("EGAIN   = 1.5"), header(SATURATE), 2)
    levels = gain_and_saturation(image, replace(CONFIGURED, gain_key="EGAIN", satur_key=""))
    assert levels == (1.5, "EGAIN in the header", 777.0, "configuration", ())
    image = info(header(INHERIT), header(SATURATE), 2)
    assert gain_and_saturation(image, CONFIGURED).saturation_origin == "SATURATE in the primary header"


def wcs_header(ctype: tuple[str, str] = ("RA---TAN", "DEC--TAN"), **keys: float) -> str:
    cards = fits.Header([("CTYPE1", ctype[0]), ("CTYPE2", ctype[1]), ("CRVAL1", 10.0), ("CRVAL2", 20.0)])
    cards.update(CRPIX1=5.0, CRPIX2=6.0)
    cards.update({k.replace("_x", "_"): v for k, v in keys.items()})
    return cards.tostring(endcard=False, padding=False)


@pytest.mark.parametrize(
    ("ctype", "celestial"),
    [
        (("RA---TAN", "DEC--TAN"), True),
        (("DEC--SIN", "RA---SIN"), True),
        (("RA---TAN-SIP", "DEC--TAN-SIP"), True),
        (("GLON-CAR", "GLAT-CAR"), True),
        (("ELON-TNX", "ELAT-TNX"), True),
        (("HPLN-TAN", "HPLT-TAN"), True),
        (("RA---TAN", "GLAT-TAN"), False),
        (("RA---TAN", "RA---TAN"), False),
        (("LINEAR", "LINEAR"), False),
        (("WAVE", "DEC--TAN"), False),
    ],
)
def test_celestial(ctype, celestial):
    assert has_celestial_wcs(wcs_header(ctype)) is celestial


def test_no_wcs():
    assert not has_celestial_wcs(HEADER)
    assert pixel_scale_from(HEADER) is None
    assert pixel_scale_from(header("CDELT1  = 0.0", "CDELT2  = 1.0")) is None


@pytest.mark.parametrize(
    "keys",
    [
        {"CD1_1": -1e-4, "CD1_2": 2e-5, "CD2_1": 1e-5, "CD2_2": 1.1e-4},
        {"CD1_2": 1e-4, "CD2_1": 2e-4},
        {"CDELT1": -1e-4, "CDELT2": 1.1e-4, "CROTA2": 30.0},
        {"CDELT1": -1e-4, "CDELT2": 1.1e-4, "PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.5, "PC2_2": 0.9},
        {"CDELT1": 3e-4, "CDELT2": 3e-4},
    ],
)
def test_pixel_scale_is_astropys_at_the_reference_pixel(keys):
    text = wcs_header(**keys)
    area = proj_plane_pixel_area(WCS(fits.Header.fromstring(text)))
    assert pixel_scale_from(text) == pytest.approx(3600 * math.sqrt(area), rel=1e-12)


def test_pixel_scale_of_a_dss_plate():
    text = header(
        "AMDX1   = 67.0", "AMDY1   = 67.0", "PLTRAH  = 1", "PLTSCALE= 67.2", "XPIXELSZ= 25.28445", "YPIXELSZ= 25.28445"
    )
    assert has_celestial_wcs(text)
    assert pixel_scale_from(text) == pytest.approx(1.69911504)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (37, 41), (2, 30, 50)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f8"])
def test_datasum_is_astropys(tmp_path, shape, dtype):
    data = np.random.default_rng(9).integers(0, 250, shape).astype(dtype)
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(data).writeto(path, checksum=True)
    truth = int(fits.getval(path, "DATASUM"))
    (source,) = open_images(str(path))
    for scratch_bytes in (4, 7, 100, 1 << 16):
        assert datasum(source, np.full(scratch_bytes, 255, np.uint8)) == truth


def test_datasum_carries(write, tools):
    # All bits set: every addition carries.
    (source,) = open_images(write(tools.hdu_bytes(np.full((999, 7), -1), 32)))
    assert datasum(source, np.zeros(1000, np.uint8)) == 2**32 - 1
