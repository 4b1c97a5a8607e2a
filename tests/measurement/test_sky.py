"""Sky positions: against SExtractor for many kinds of header, astropy, and known relations."""

import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK4, FK5, FK4NoETerms, Galactic, SkyCoord, Supergalactic
from astropy.io import fits
from scene_cutter import run_sextractor, synthetic_scene

from sextract.errors import InputError
from sextract.measurement.measure import MEASUREMENTS
from sextract.measurement.sky import _to_equatorial, from_fk4, lacks_celestial, locate, precession, wcs_cards
from sextract.measurement.wcslib import Axes

MAS = 1 / 3.6e6
BASE = {"CRPIX1": 40.0, "CRPIX2": 55.0, "CRVAL1": 150.0, "CRVAL2": 20.0, "EQUINOX": 2000.0}
EQUATOR = {"CRVAL2": 0.0}
PV = {"PV1_0": 1e-4, "PV1_1": 1.001, "PV1_2": 2e-4, "PV1_4": 3e-3, "PV1_5": 1e-3, "PV1_7": 0.02, "PV1_10": 0.01,
      "PV2_1": 0.999, "PV2_4": 2e-3, "PV2_7": 0.03}  # fmt: skip


def axes(projection, lon="RA--", lat="DEC-"):
    return {"CTYPE1": f"{lon}-{projection}", "CTYPE2": f"{lat}-{projection}"}


def cd(angle_deg, arcsec=20.0, flip=1):
    c, s, step = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg)), arcsec / 3600
    return {"CD1_1": -step * c * flip, "CD1_2": step * s, "CD2_1": step * s * flip, "CD2_2": step * c}


def header_of(*parts):
    """80-column cards of a small image with these keywords."""
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": 90, "NAXIS2": 90})
    for part in parts:
        header.update(part)
    return header


CASES = {
    "TAN": (BASE, axes("TAN"), cd(0, 1.0)),
    "TAN rotated": (BASE, axes("TAN"), cd(33, 0.3)),
    "TAN flipped": (BASE, axes("TAN"), cd(33, 2.0, -1)),
    "TAN at the pole": (BASE, axes("TAN"), cd(33), {"CRVAL2": 89.8}),
    "TAN with PV": (BASE, axes("TAN"), cd(5), PV),
    "TPV": (BASE, axes("TPV"), cd(5), PV),
    "SIN": (BASE, axes("SIN"), cd(10)),
    "ZPN": (BASE, axes("ZPN"), cd(10), {"PV2_1": 1.0, "PV2_3": 42.0}),
    "CAR": (BASE, axes("CAR"), cd(0), EQUATOR),
    "ZEA": (BASE, axes("ZEA"), cd(10)),
    "AIT": (BASE, axes("AIT"), cd(10), EQUATOR),
    "CDELT and CROTA2": (BASE, axes("TAN"), {"CDELT1": -1 / 3600, "CDELT2": 1.1 / 3600, "CROTA2": 25.0}),
    "PC": (
        BASE,
        axes("TAN"),
        {"CDELT1": -1 / 3600, "CDELT2": 1 / 3600},
        {"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8},
    ),
    "declination first": (BASE, {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 20.0, "CRVAL2": 150.0}, cd(10)),
    "galactic": (BASE, axes("TAN", "GLON", "GLAT"), cd(10)),
    "galactic CAR": (BASE, axes("CAR", "GLON", "GLAT"), cd(0), EQUATOR),
    "ecliptic": (BASE, axes("TAN", "ELON", "ELAT"), cd(10)),
    "FK5 1975": (BASE, axes("TAN"), cd(0), {"RADESYS": "FK5", "EQUINOX": 1975.0}),
    "ICRS": (BASE, axes("TAN"), cd(0), {"RADESYS": "ICRS"}),
    "LONPOLE": (BASE, axes("TAN"), cd(10), {"LONPOLE": 150.0}),
}
NAMES = ["X_WORLD", "Y_WORLD", "ALPHA_SKY", "DELTA_SKY", "ALPHA_J2000", "DELTA_J2000"]


def wat(axis, text):
    """WAT cards: a string in pieces of 68 characters."""
    return {f"WAT{axis}_{k + 1:03d}": text[68 * k : 68 * (k + 1)] for k in range(-(-len(text) // 68))}


def tnx(kind, xorder, yorder, cross, terms):
    """A TNX header with some correction, and the coefficients of both axes."""
    rng = np.random.default_rng(4)
    both = [np.round(rng.normal(0, 1e-3, terms), 8) for _ in range(2)]
    head = f"{kind}. {xorder}. {yorder}. {cross}. -0.06 0.07 -0.08 0.05"
    parts = [
        wat(k + 1, f'wtype=tnx axtype={name} {cor} = "{head} {" ".join(map(repr, map(float, c)))} "')
        for k, (name, cor, c) in enumerate(zip(("ra", "dec"), ("lngcor", "latcor"), both, strict=True))
    ]
    return (BASE, axes("TNX"), cd(10, 2.0), *parts), both


CASES["TNX"] = tnx(3, 4, 3, 2, 9)[0]
CASES["TNX without cross terms"] = tnx(3, 3, 3, 0, 5)[0]


def separation(a, b):
    """Largest distance of positions (n, 2), degrees."""
    dx = (a[:, 0] - b[:, 0] + 180) % 360 - 180
    return np.hypot(dx * np.cos(np.deg2rad(b[:, 1])), a[:, 1] - b[:, 1]).max()


@pytest.mark.parametrize("name", CASES)
def test_within_a_milliarcsecond_of_sextractor(name, tmp_path):
    y, x = np.mgrid[:90, :90]
    image = sum(
        1e3 * np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / 4) for a, b in [(12.3, 15.1), (70.2, 20.9), (33.4, 75.7)]
    )
    fits.writeto(tmp_path / "im.fits", image.astype(np.float32), header_of(*CASES[name]))
    found = run_sextractor(
        tmp_path,
        tmp_path / "im.fits",
        [*NAMES, "X_IMAGE_DBL", "Y_IMAGE_DBL"],
        BACK_TYPE="MANUAL",
        THRESH_TYPE="ABSOLUTE",
    )
    if found is None:
        pytest.skip("source-extractor isn't installed")
    t = found[0]
    assert len(t) == 3
    theirs = np.column_stack([t[n] for n in NAMES])
    ours = locate(header_of(*CASES[name]).tostring(endcard=False, padding=False), t["X_IMAGE_DBL"], t["Y_IMAGE_DBL"])
    for k in (2, 4):
        assert separation(ours[:, k : k + 2], theirs[:, k : k + 2]) < MAS
    assert np.abs(ours[:, :2] - theirs[:, :2]).max() < 2 * MAS


def text(*parts):
    return header_of(*parts).tostring(endcard=False, padding=False)


X, Y = np.array([1.0, 40.0, 88.5]), np.array([3.0, 55.0, 20.25])


def test_plain_header_equals_astropy():
    from astropy.wcs import WCS

    ours = locate(text(*CASES["TAN rotated"]), X, Y)
    assert ours[:, 2:4] == pytest.approx(np.column_stack(WCS(header_of(*CASES["TAN rotated"])).all_pix2world(X, Y, 1)))
    assert ours[1, :2] == pytest.approx([150.0, 20.0])


@pytest.mark.parametrize(
    "prefix, frame",
    [(("GLON", "GLAT"), Galactic()), (("SLON", "SLAT"), Supergalactic())],
    ids=["galactic", "supergalactic"],
)
def test_other_systems_become_equatorial(prefix, frame):
    ours = locate(text(BASE, axes("TAN", *prefix), cd(0)), X, Y)
    there = SkyCoord(150 * u.deg, 20 * u.deg, frame=frame).transform_to(FK5(equinox="J2000"))
    assert ours[1, 2:4] == pytest.approx([there.ra.deg, there.dec.deg], abs=1e-11)
    assert (ours[:, :2] == ours[:, 2:4]).all() and (ours[:, 4:] == ours[:, 2:4]).all()


@pytest.mark.parametrize("prefix, frame", [("GLON", Galactic()), ("SLON", Supergalactic())], ids=["galactic", "supergalactic"])
def test_rotations_are_astropys_all_over_the_sky(prefix, frame):
    lon, lat = (g.ravel() for g in np.meshgrid(np.linspace(0, 359.9, 73), np.linspace(-90, 90, 37)))
    turn = _to_equatorial(Axes(None, 0, prefix, "", np.nan))
    there = SkyCoord(lon * u.deg, lat * u.deg, frame=frame).transform_to(FK5(equinox="J2000"))
    assert separation(np.column_stack(turn(lon, lat)), np.column_stack([there.ra.deg, there.dec.deg])) < 1e-11


def astropys_j2000(lon, lat, equinox):
    """FK4 by astropy, without E-terms first: in one go it precesses there and back, 25 microarcseconds off."""
    place = SkyCoord(lon * u.deg, lat * u.deg, frame=FK4(equinox=f"B{equinox}"))
    there = place.transform_to(FK4NoETerms(equinox=f"B{equinox}")).transform_to(FK5(equinox="J2000"))
    return np.column_stack([there.ra.deg, there.dec.deg])


@pytest.mark.parametrize("key", ["RADESYS", "RADECSYS"])
def test_fk4_becomes_fk5(key):
    ours = locate(text(BASE, axes("TAN"), cd(0), {key: "FK4", "EQUINOX": 1950.0}), X, Y)
    assert ours[1, 2:4] == pytest.approx([150.0, 20.0])
    assert separation(ours[1:2, 4:], astropys_j2000(np.array([150.0]), np.array([20.0]), 1950.0)) < 1e-11


@pytest.mark.parametrize("equinox", [1875.0, 1950.0, 1963.5])
def test_fk4_is_astropys_all_over_the_sky(equinox):
    lon, lat = (g.ravel() for g in np.meshgrid(np.linspace(0, 359.9, 73), np.linspace(-90, 90, 37)))
    assert separation(np.column_stack(from_fk4(equinox)(lon, lat)), astropys_j2000(lon, lat, equinox)) < 1e-11


def test_icrs_has_no_equinox():
    ours = locate(text(BASE, axes("TAN"), cd(0), {"RADESYS": "ICRS", "EQUINOX": 1950.0}), X, Y)
    assert (ours[:, 4:] == ours[:, 2:4]).all()


def test_precession_is_a_rotation_that_does_nothing_at_2000():
    assert precession(2000.0) == pytest.approx(np.eye(3), abs=1e-15)
    matrix = precession(1975.0)
    # A century moves the equinox by 5029″ along the ecliptic: 46.1″ of right ascension a year on the equator.
    moved = precession(1900.0) @ np.array([1.0, 0.0, 0.0])
    assert np.rad2deg(np.arctan2(moved[1], moved[0])) * 3600 / 100 == pytest.approx(46.1, abs=0.05)
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-14)


@pytest.mark.parametrize(
    "kind, evaluate",
    [
        (1, np.polynomial.chebyshev.chebval2d),
        (2, np.polynomial.legendre.legval2d),
        (3, np.polynomial.polynomial.polyval2d),
    ],
)
def test_tnx_surfaces_are_those_of_iraf(kind, evaluate):
    parts, both = tnx(kind, 4, 3, 1, 12)
    ours = locate(text(*parts), X, Y)
    m = cd(10, 2.0)
    dx, dy = X - BASE["CRPIX1"], Y - BASE["CRPIX2"]
    u, v = m["CD1_1"] * dx + m["CD1_2"] * dy, m["CD2_1"] * dx + m["CD2_2"] * dy
    su, sv = (u, v) if kind == 3 else ((2 * u - 0.01) / 0.13, (2 * v + 0.03) / 0.13)
    xi, eta = (np.deg2rad(w + evaluate(su, sv, c.reshape(3, 4).T)) for w, c in zip((u, v), both, strict=True))
    d0 = np.deg2rad(BASE["CRVAL2"])
    below = np.cos(d0) - eta * np.sin(d0)
    alpha = BASE["CRVAL1"] + np.rad2deg(np.arctan2(xi, below))
    delta = np.rad2deg(np.arctan2(np.sin(d0) + eta * np.cos(d0), np.hypot(xi, below)))
    assert np.abs(ours[:, 2] - alpha).max() < MAS and np.abs(ours[:, 3] - delta).max() < MAS


def test_without_celestial_axes_only_the_linear_transform_is_left():
    linear = text(BASE, {"CTYPE1": "X", "CTYPE2": "Y", "CD1_1": 2.0, "CD1_2": 0.5, "CD2_1": 0.0, "CD2_2": 3.0})
    ours = locate(linear, X, Y)
    assert lacks_celestial(linear)
    assert ours[:, 0] == pytest.approx(150 + 2 * (X - 40) + 0.5 * (Y - 55)) and ours[:, 1] == pytest.approx(
        20 + 3 * (Y - 55)
    )
    assert np.isnan(ours[:, 2:]).all()


def test_without_any_wcs_the_first_pixel_is_the_origin():
    assert locate(text(), X, Y)[:, :2] == pytest.approx(np.column_stack([X - 1, Y - 1]))
    assert lacks_celestial(text()) and not lacks_celestial(text(*CASES["galactic"]))


def test_tan_becomes_tpv_only_with_pv_and_without_sip():
    assert any("RA---TPV" in c for c in wcs_cards(text(*CASES["TAN with PV"])))
    assert not any("TPV" in c for c in wcs_cards(text(*CASES["TAN"])))
    assert not any("TPV" in c for c in wcs_cards(text(BASE, axes("TAN-SIP"), cd(0), {"A_ORDER": 2}, PV)))


def test_places_outside_the_projection_are_nan():
    ours = locate(text(BASE, axes("SIN"), cd(0, 3600.0)), np.array([40.0, 4000.0]), np.array([55.0, 55.0]))
    assert np.isfinite(ours[0]).all() and np.isnan(ours[1]).all()


def test_a_broken_wcs_is_one_clear_error():
    with pytest.raises(InputError, match="WCS"):
        locate(text(BASE, axes("TAN"), {"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0}), X, Y)


def test_odd_cards_are_no_trouble():
    odd = (
        "ESO-LOG 00:00:00> DATE = 'x'".ljust(80) + "HIERARCH ESO DET CRVAL1 = 1".ljust(80) + "COMMENT = hello".ljust(80)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = locate(odd + text(*CASES["TAN"]), X, Y)
    assert ours.tobytes() == locate(text(*CASES["TAN"]), X, Y).tobytes()


@pytest.mark.parametrize("name", ["TAN with PV", "TNX", "galactic", "ecliptic", "FK5 1975"])
def test_chunks_change_nothing(name):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(1, 90, 5000), rng.uniform(1, 90, 5000)
    header = text(*CASES[name])
    whole = locate(header, x, y)
    for i, j in ((0, 1), (7, 9), (4000, 4100), (1000, 4999)):
        assert whole[i:j].tobytes() == locate(header, x[i:j], y[i:j]).tobytes()


def test_families_fill_their_columns():

    scene = synthetic_scene(count=8)
    scene.frame = scene.frame._replace(header=text(*CASES["TAN"]))
    names = [c.name for f in ("sky", "sky_peak", "sky_windowed") for c in MEASUREMENTS.get(f).columns]
    batch = scene.measure(names)
    for name in names:
        assert batch[name].dtype == np.float64 and np.isfinite(batch[name]).all(), name
    assert (batch["ALPHA_J2000"] == locate(scene.frame.header, batch["X_IMAGE_DBL"], batch["Y_IMAGE_DBL"])[:, 4]).all()
    assert (batch["DELTAWIN_SKY"] == locate(scene.frame.header, batch["XWIN_IMAGE"], batch["YWIN_IMAGE"])[:, 3]).all()
