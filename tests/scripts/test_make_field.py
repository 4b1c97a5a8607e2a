"""The field maker: the same pixels whatever the band, every BITPIX readable, a truth list that is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tests.scenes import field, script


def made(path: Path, **options: object) -> bytes:
    """Bytes of a small field with everything in it."""
    make = script("make_field")
    recipe = make.Recipe(210, 160, 60, seed=5, trail=True)
    make.make_field(path, recipe, **options)
    return path.read_bytes()


def test_bands_change_nothing(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.fits", band_rows=160)
    assert made(tmp_path / "b.fits", band_rows=7) == whole
    assert made(tmp_path / "c.fits", band_rows=1000) == whole


@pytest.mark.parametrize("bitpix", [8, 16, 32, 64, -32, -64])
def test_every_bitpix_holds_the_same_image(tmp_path: Path, bitpix: int) -> None:
    made(tmp_path / "double.fits", bitpix=-64)
    made(tmp_path / "other.fits", bitpix=bitpix)
    with fits.open(tmp_path / "other.fits") as hdus:
        assert hdus[0].header["BITPIX"] == bitpix
        step = hdus[0].header.get("BSCALE", 1.0) if bitpix > 0 else 0.02
        found = np.array(hdus[0].data, float)
    truth = fits.getdata(tmp_path / "double.fits")
    # Eight bits clip what is bright.
    kept = truth < found.max() - 1.0 if bitpix == 8 else np.ones_like(truth, bool)
    assert np.abs(found - truth)[kept].max() <= 0.51 * step


def test_the_truth_is_where_it_says(tmp_path: Path) -> None:
    made_field = field(tmp_path / "stars.fits", 600, 40, 3, star_fraction=1.0, blend_fraction=0.0, gradient=0.0)
    with fits.open(made_field.path) as hdus:
        pixels, header = np.array(hdus[0].data, float), hdus[0].header
    pixels -= np.median(pixels)
    truth = made_field.truth
    bright = truth[(truth["PEAK"] > 500) & (truth["PEAK"] < header["SATURATE"] / 2)]
    apart = [
        s for s in bright if np.sort(np.hypot(truth["X_IMAGE"] - s["X_IMAGE"], truth["Y_IMAGE"] - s["Y_IMAGE"]))[1] > 30
    ]
    assert len(apart) >= 3
    for star in apart:
        x, y = round(star["X_IMAGE"] - 1), round(star["Y_IMAGE"] - 1)
        if 20 <= x < 580 and 20 <= y < 580:
            stamp = pixels[y - 12 : y + 13, x - 12 : x + 13]
            assert stamp.sum() == pytest.approx(star["FLUX"], rel=0.15)
            core = pixels[y - 2 : y + 3, x - 2 : x + 3]
            u = np.arange(x - 2, x + 3) + 1
            assert float((core.sum(axis=0) * u).sum() / core.sum()) == pytest.approx(star["X_IMAGE"], abs=0.35)
    sky = WCS(header).wcs_pix2world(np.c_[truth["X_IMAGE"], truth["Y_IMAGE"]], 1)
    np.testing.assert_allclose(sky[:, 0], truth["ALPHA_J2000"], atol=1e-9)


def test_extensions_and_an_empty_one(tmp_path: Path) -> None:
    mosaic = field(tmp_path / "mosaic.fits", (90, 120), 20, 4, extensions=3, empty=(2,), gradient=0.0)
    assert sorted(set(mosaic.truth["EXT"].tolist())) == [1, 3]
    with fits.open(mosaic.path) as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus] == ["PRIMARY", "CCD1", "CCD2", "CCD3"]
        assert all(h.data.shape == (90, 120) for h in hdus[1:])
        noise = np.std(hdus["CCD2"].data)
        assert noise == pytest.approx(10.3, rel=0.1)
        assert np.std(hdus["CCD1"].data) > noise


def test_saturated_stars_are_clipped(tmp_path: Path) -> None:
    bright = field(tmp_path / "bright.fits", 200, 40, 2, faintest=2e5, brightest=1e6, star_fraction=1.0)
    with fits.open(bright.path) as hdus:
        assert hdus[0].header["SATURATE"] == hdus[0].data.max() == 50000.0
        assert int((hdus[0].data == 50000.0).sum()) > 40


@pytest.mark.parametrize("suffix", ["fits", "csv"])
def test_the_command_line_writes_image_and_truth(tmp_path: Path, suffix: str) -> None:
    make = script("make_field")
    truth = tmp_path / f"truth.{suffix}"
    arguments = [str(tmp_path / "f.fits"), "--size", "130x100", "--sources", "9", "--stars-only", "--truth", str(truth)]
    assert make.main(arguments) == 0
    with fits.open(tmp_path / "f.fits") as hdus:
        assert hdus[0].data.shape == (100, 130)
    if suffix == "csv":
        assert len(truth.read_text().splitlines()) == 10
    else:
        assert len(fits.getdata(truth)) == 9


def test_faint_stars_drawn_together_are_those_drawn_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = script("make_field")
    # Stars of all sizes, most of them faint, and some galaxies between; many lie over the edges.
    recipes = [
        make.Recipe(150, 90, 900, seed=8, faintest=0.8, slope=0.75, star_fraction=1.0, fwhm_px=3.5, moffat_beta=1.8),
        make.Recipe(90, 150, 400, seed=9, faintest=2.0, star_fraction=0.97, blend_fraction=0.3),
    ]
    for recipe in recipes:
        drawn = []
        for fewest in (make.FEWEST_STARS, 10**9):
            monkeypatch.setattr(make, "FEWEST_STARS", fewest)
            make.make_field(tmp_path / "f.fits", recipe)
            drawn.append((tmp_path / "f.fits").read_bytes())
        monkeypatch.undo()
        assert drawn[0] == drawn[1]
        table = make.draw_sources(recipe)
        assert (table["RADIUS"] <= make.FAINT_RADIUS_PX).mean() > 0.5 and table["RADIUS"].max() > make.FAINT_RADIUS_PX
        for source in table[::7]:
            assert (source["PEAK"], source["RADIUS"]) == make.extent(source, recipe)


def test_counts_and_wings_are_as_asked(tmp_path: Path) -> None:
    make = script("make_field")
    options = ["--size", "200", "--sources", "4000", "--stars-only", "--slope", "0.75", "--faintest", "1.5", "--blends", "0"]
    truth = tmp_path / "t.fits"
    assert make.main([str(tmp_path / "f.fits"), *options, "--moffat-beta", "1.8", "--truth", str(truth)]) == 0
    table = np.array(fits.getdata(truth))
    assert not table["BLEND"].any() and (table["KIND"] == 0).all()
    flux = np.sort(table["FLUX"])
    # N(>F) falls to a half where F has grown by 2 ** (1 / 0.75).
    assert flux[2000] / flux[0] == pytest.approx(2 ** (1 / 0.75), rel=0.1)
    # Wide wings take more of a star's flux away from its peak.
    assert make.main([str(tmp_path / "g.fits"), *options, "--truth", str(tmp_path / "u.fits")]) == 0
    other = np.array(fits.getdata(tmp_path / "u.fits"))
    assert np.median(table["PEAK"] / table["FLUX"]) < 0.8 * np.median(other["PEAK"] / other["FLUX"])
