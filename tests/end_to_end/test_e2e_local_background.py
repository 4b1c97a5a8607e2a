"""BACKPHOTO_TYPE LOCAL: isolated sources on a slope come out as SExtractor's, areas and widths included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CommandLine
from tests.end_to_end import sides
from tests.parity import compare, reference
from tests.parity.reference import COLUMNS, Setup
from tests.scenes import Scene

# What SExtractor takes the local background off, or measures with it.
MORE = """
    ISO1 ISO2 ISO3 ISO5 ISO6 MU_MAX MU_THRESHOLD THRESHOLDMAX FLUX_ISOCOR FLUXERR_ISOCOR MAG_ISOCOR FLUX_BEST
    FLUX_PETRO FLUXERR_PETRO PETRO_RADIUS FWHM_WORLD
"""
KEYWORDS = {
    "BACKPHOTO_TYPE": "LOCAL",
    "BACKPHOTO_THICK": "9",
    "BACK_SIZE": "100",
    "DETECT_THRESH": "3",
    "ANALYSIS_THRESH": "3",
    "GAIN": "2",
}


def sloped(path: Path, flux: tuple[float, float]) -> Path:
    """A grid of sources so far apart that no frame holds a neighbour, on a background that the map can't follow."""
    scene = Scene(300, 300, sky=50.0, sigma=3.0, seed=4)
    rng = np.random.default_rng(4)
    for y in range(50, 260, 40):
        for x in range(50, 260, 40):
            scene.gaussian(x, y + x / 20, rng.uniform(*flux), 2.45, 1.9, 0.0)
    v, u = np.mgrid[:300, :300]
    scene.light += 0.2 * u + 8 * np.sin(v / 20)
    return scene.write(path)


@pytest.mark.skipif(reference.SEXTRACTOR is None, reason="source-extractor is not installed")
@pytest.mark.parametrize("flux", [(6000.0, 60000.0), (1300.0, 4000.0)], ids=["bright", "faint"])
def test_isolated_sources(flux: tuple[float, float], cli: CommandLine, tmp_path: Path) -> None:
    image = sloped(tmp_path / "sloped.fits", flux)
    setup = Setup(tmp_path, [*COLUMNS, *MORE.split()], KEYWORDS)
    found = sides.tables(cli, setup, image, "--workers", 2, "--tile-shape", "70x80")
    theirs = compare.load(setup.reference(image))
    assert len(theirs[0].rows) >= 30
    assert sides.disagreements(theirs, found) == []
    # The correction mattered.
    plain = sides.tables(cli, Setup(tmp_path, setup.columns, KEYWORDS | {"BACKPHOTO_TYPE": "GLOBAL"}), image)
    assert np.abs(plain[0].rows["BACKGROUND"] - found[0].rows["BACKGROUND"]).max() > 3.0
    assert (plain[0].rows["ISO0"] != found[0].rows["ISO0"]).any()


def test_order_of_columns_is_no_matter(cli: CommandLine, tmp_path: Path) -> None:
    image = sloped(tmp_path / "sloped.fits", (6000.0, 60000.0))
    names = ["FLUX_APER(3)", "FLUX_ISO", "FLUX_AUTO", "FLUX_PETRO", "MU_MAX", "FWHM_IMAGE", "ISO3", "BACKGROUND"]
    found = []
    for k, columns in enumerate((names, names[::-1])):
        (tmp_path / str(k)).mkdir()
        found.append(sides.tables(cli, Setup(tmp_path / str(k), columns, KEYWORDS), image)[0].rows)
    for name in found[0].dtype.names:
        np.testing.assert_array_equal(found[0][name], found[1][name])
    # One family alone, too.
    for name in names[:6]:
        (tmp_path / name).mkdir()
        rows = sides.tables(cli, Setup(tmp_path / name, [name], KEYWORDS), image, "--workers", 0)[0].rows
        np.testing.assert_array_equal(rows[name.partition("(")[0]], found[0][name.partition("(")[0]])
