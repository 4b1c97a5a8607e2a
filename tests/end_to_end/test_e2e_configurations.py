"""One keyword at a time: a crowded scene comes out as SExtractor's, source by source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.end_to_end import sides
from tests.parity import compare, reference
from tests.parity.reference import KERNEL, Setup
from tests.scenes import field

pytestmark = pytest.mark.skipif(reference.SEXTRACTOR is None, reason="source-extractor is not installed")

CASES: dict[str, dict[str, str]] = {
    "as it is": {},
    "MASK_TYPE NONE": {"MASK_TYPE": "NONE"},
    "MASK_TYPE BLANK": {"MASK_TYPE": "BLANK"},
    "FILTER N": {"FILTER": "N"},
    "THRESH_TYPE ABSOLUTE": {"THRESH_TYPE": "ABSOLUTE", "DETECT_THRESH": "17.5", "ANALYSIS_THRESH": "21"},
    "DETECT_THRESH in magnitudes": {"DETECT_THRESH": "21,24.2", "ANALYSIS_THRESH": "21,24.2", "PIXEL_SCALE": "0.95"},
    "ANALYSIS_THRESH": {"ANALYSIS_THRESH": "3"},
    "DETECT_MINAREA 1": {"DETECT_MINAREA": "1"},
    "DETECT_MINAREA 12": {"DETECT_MINAREA": "12"},
    "DETECT_MAXAREA": {"DETECT_MAXAREA": "60"},
    "DEBLEND_MINCONT 0": {"DEBLEND_MINCONT": "0"},
    "DEBLEND_MINCONT 1": {"DEBLEND_MINCONT": "1"},
    "DEBLEND_NTHRESH 1": {"DEBLEND_NTHRESH": "1"},
    "DEBLEND_NTHRESH 2": {"DEBLEND_NTHRESH": "2"},
    "DEBLEND_NTHRESH 64": {"DEBLEND_NTHRESH": "64"},
    "CLEAN N": {"CLEAN": "N"},
    "CLEAN_PARAM 0.3": {"CLEAN_PARAM": "0.3"},
    "CLEAN_PARAM 3": {"CLEAN_PARAM": "3"},
    "BACK_TYPE MANUAL": {"BACK_TYPE": "MANUAL", "BACK_VALUE": "205"},
    "BACK_SIZE 32,17": {"BACK_SIZE": "32,17"},
    "BACK_FILTERSIZE 5,3": {"BACK_SIZE": "32", "BACK_FILTERSIZE": "5,3"},
    "BACK_FILTTHRESH": {"BACK_SIZE": "32", "BACK_FILTTHRESH": "2"},
    "PHOT_AUTOAPERS": {"PHOT_AUTOAPERS": "20,12"},
    "PHOT_AUTOPARAMS": {"PHOT_AUTOPARAMS": "2.0,2.5"},
    "GAIN": {"GAIN": "2.1", "MAG_ZEROPOINT": "25.5"},
    "SATUR_LEVEL": {"SATUR_LEVEL": "700"},
}
KERNELS = ("gauss_3.0_5x5", "mexhat_2.0_7x7", "tophat_5.0_5x5", "gauss_5.0_9x9")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some two hundred sources on 256 x 256 pixels, SATURATE in the header."""
    return field(tmp_path_factory.mktemp("crowded") / "crowded.fits", 256, 220, 31).path


@pytest.mark.parametrize("case", CASES)
def test_keyword(case: str, image: Path, cli: CommandLine, tmp_path: Path) -> None:
    setup = Setup(tmp_path, keywords=CASES[case])
    found = sides.tables(cli, setup, image, "--workers", 0)
    theirs = compare.load(setup.reference(image))
    assert len(theirs[0].rows) > 20
    assert sides.disagreements(theirs, found) == []


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(name: str, image: Path, cli: CommandLine, tmp_path: Path) -> None:
    setup = Setup(tmp_path, kernel=sides.kernel(name))
    found = sides.tables(cli, setup, image, "--workers", 2, "--tile-shape", "100x90")
    assert sides.disagreements(compare.load(setup.reference(image)), found) == []


@pytest.mark.parametrize(
    ("cards", "keywords"),
    [
        ({"SATURATE": 400.0}, {}),
        ({"SATLEVEL": 400.0}, {"SATUR_KEY": "SATLEVEL"}),
        ({"GAIN": 3.5}, {"GAIN": "1.0"}),
        ({"EGAIN": 3.5}, {"GAIN_KEY": "EGAIN"}),
    ],
)
def test_levels_in_the_header(
    cards: dict[str, float], keywords: dict[str, str], image: Path, cli: CommandLine, tmp_path: Path
) -> None:
    from astropy.io import fits

    own = tmp_path / "levels.fits"
    with fits.open(image) as hdus:
        for key in ("GAIN", "SATURATE"):
            hdus[0].header.remove(key, ignore_missing=True)
        hdus[0].header.update(cards)
        hdus.writeto(own)
    setup = Setup(tmp_path, keywords=keywords, kernel=KERNEL)
    found = sides.tables(cli, setup, own, "--workers", 0)
    assert sides.disagreements(compare.load(setup.reference(own)), found) == []
    if "SATUR" in next(iter(cards)) or "SATUR_KEY" in keywords:
        assert (found[0].rows["FLAGS"] & 4).any()
