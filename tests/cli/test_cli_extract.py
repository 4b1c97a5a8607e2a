"""`sextract.extract`: errors and arguments come through; rows are in the tests of the pipeline."""

import logging

import numpy as np
import pytest

import sextract
from sextract.errors import ConfigError, InputError


def test_errors_of_the_run_are_raised():
    with pytest.raises(ConfigError, match=r"^DETECT_MINAREA is 0, out of its range"):
        sextract.extract("im.fits", {"DETECT_MINAREA": 0})
    with pytest.raises(ConfigError, match=r"^-FOO is neither an option nor a keyword"):
        sextract.extract("im.fits", {"FOO": 1})
    with pytest.raises(ConfigError, match=r"FLUX_AUT .did you mean FLUX_AUTO"):
        sextract.extract("im.fits", columns=["FLUX_AUT"])
    with pytest.raises(ConfigError, match="--mem-limit '-5' is not a size"):
        sextract.extract("im.fits", mem_limit=-5)


def test_a_configuration_by_its_path(tmp_path):
    (tmp_path / "a.sex").write_text("CLEAN maybe\n")
    with pytest.raises(ConfigError, match=r"CLEAN is 'maybe', it must be Y or N .*a\.sex, line 1"):
        sextract.extract("im.fits", tmp_path / "a.sex")


def test_warnings_of_the_run_are_logged(caplog):
    caplog.set_level(logging.INFO, "sextract")
    with pytest.raises(ConfigError):
        sextract.extract("im.fits", {"WEIGHT_TYPE": "MAP_RMS", "FILTER_NAME": "none"}, columns=["NUMBER"])
    warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert warned == ["not built yet, so without effect: WEIGHT_TYPE MAP_RMS"]


def test_rows_of_an_image(tmp_path):
    pytest.importorskip("sextract.pipeline", reason="there is no pipeline to make them")
    from astropy.io import fits

    y, x = np.mgrid[:64, :80]
    image = np.random.default_rng(1).normal(0, 1, (64, 80)) + 200 * np.exp(-((x - 30) ** 2 + (y - 20) ** 2) / 8)
    fits.writeto(tmp_path / "one.fits", image.astype("f4"))
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(image.astype("f4")) for _ in range(2))]
    fits.HDUList(hdus).writeto(tmp_path / "two.fits")
    config = {"DETECT_THRESH": 10, "PHOT_APERTURES": [5, 10], "CLEAN": False}
    columns = ["X_IMAGE", "Y_IMAGE", "FLUX_APER(2)"]
    one = sextract.extract(tmp_path / "one.fits", config, mem_limit="256M", workers=1, columns=columns)
    assert one.colnames == ["X_IMAGE", "Y_IMAGE", "FLUX_APER"]
    assert one["FLUX_APER"].shape == (1, 2)
    np.testing.assert_allclose([one["X_IMAGE"][0], one["Y_IMAGE"][0]], [31, 21], atol=0.1)
    two = sextract.extract(tmp_path / "two.fits", config, columns=columns)
    assert list(two["EXT_NUMBER"]) == [1, 2]
    np.testing.assert_array_equal(two["FLUX_APER"], np.repeat(one["FLUX_APER"], 2, axis=0))


def test_an_image_that_is_missing(tmp_path):
    pytest.importorskip("sextract.pipeline", reason="there is no pipeline to look for it")
    with pytest.raises(InputError, match=r"none\.fits"):
        sextract.extract(tmp_path / "none.fits", columns=["NUMBER"])
