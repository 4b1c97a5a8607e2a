"""Images at the edge of what is an image end in seconds, with a catalogue or with one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from tests.conftest import CommandLine
from tests.end_to_end import sides
from tests.parity import compare, reference
from tests.parity.reference import Setup
from tests.scenes import field

SECONDS = 30.0
CONFIG, INPUT = 2, 3
COLUMNS = ["NUMBER", "X_IMAGE", "Y_IMAGE", "FLUX_ISO", "FLUX_APER(3)", "FLUX_AUTO", "FLUX_RADIUS(3)", "XWIN_IMAGE"]
COLUMNS += ["ISOAREA_IMAGE", "FLAGS"]


def noise(*shape: int) -> NDArray[np.float64]:
    """Sky of 100 with sigma 5."""
    return np.random.default_rng(3).normal(100.0, 5.0, shape)


def hot() -> NDArray[np.float64]:
    """One pixel far above the rest."""
    image = noise(100, 110)
    image[50, 60] = 1e6
    return image


def chequered() -> NDArray[np.float64]:
    """0 and 100 by turns."""
    return (np.indices((120, 130)).sum(0) % 2) * 100.0


def saturated() -> NDArray[np.float64]:
    """Most pixels clipped at the same value."""
    return np.minimum(np.random.default_rng(3).normal(70000.0, 9000.0, (120, 130)), 65535.0)


# Image, keywords, rows if known without SExtractor.
ABSOLUTE = {"THRESH_TYPE": "ABSOLUTE", "DETECT_THRESH": "10", "ANALYSIS_THRESH": "10"}
IMAGES: dict[str, tuple[Callable[[], NDArray[np.float64]], dict[str, str], int | None]] = {
    "1x1": (lambda: np.full((1, 1), 5.0), {}, 0),
    "2x2": (lambda: noise(2, 2), {}, 0),
    "3x3": (lambda: noise(3, 3), {}, 0),
    "column": (lambda: noise(100_000, 1), {}, None),
    "constant": (lambda: np.full((120, 130), 7.0), {}, 0),
    "zero": (lambda: np.zeros((120, 130)), {}, 0),
    "all at the limit": (lambda: np.full((120, 130), 65535.0), {}, 0),
    "clipped": (saturated, {}, None),
    "hot pixel": (hot, {}, 1),
    "hot pixel, no filter": (hot, {"FILTER": "N", "DETECT_MINAREA": "1", "DETECT_THRESH": "100"}, 1),
    "chequered": (chequered, {}, 0),
    "chequered, one piece": (chequered, {"FILTER": "N", "DETECT_MINAREA": "1", **ABSOLUTE}, 1),
    "tiny numbers": (lambda: 1e-30 * noise(100, 110), {}, None),
    "huge numbers": (lambda: 1e25 * noise(100, 110), {}, None),
}


def written(path: Path, pixels: NDArray[np.float64]) -> Path:
    """A plain FITS file, float32."""
    fits.PrimaryHDU(pixels.astype("f4")).writeto(path)
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", IMAGES)
def test_odd_images(name: str, workers: int, cli: CommandLine, tmp_path: Path) -> None:
    make, keywords, rows = IMAGES[name]
    image = written(tmp_path / "odd.fits", make())
    setup = Setup(tmp_path, COLUMNS, keywords)
    found = sides.tables(cli, setup, image, "--workers", workers)
    assert rows is None or len(found[0].rows) == rows
    if reference.SEXTRACTOR is not None and workers:
        theirs = compare.load(setup.reference(image))
        assert len(theirs[0].rows) == len(found[0].rows)
        for column in ("X_IMAGE", "Y_IMAGE", "FLUX_ISO", "FLUX_AUTO", "ISOAREA_IMAGE"):
            ours, ref = (np.sort(t[0].rows[column]) for t in (found, theirs))
            np.testing.assert_allclose(ours, ref, rtol=1e-5)


def test_a_line(cli: CommandLine, tmp_path: Path) -> None:
    # SExtractor can't read this one.
    image = written(tmp_path / "line.fits", noise(1, 100_000))
    assert len(sides.tables(cli, Setup(tmp_path, COLUMNS, {"FILTER": "N"}), image, "--workers", 2)) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_pixel_at_all(value: float, cli: CommandLine, tmp_path: Path) -> None:
    image = written(tmp_path / "void.fits", np.full((40, 50), value))
    done = cli(image, "-o", "out.cat", *sides.LIMIT, timeout=SECONDS)
    assert done.code == INPUT
    assert "2000 of 2000 pixels are bad" in done.err
    assert done.made == frozenset()


@pytest.mark.parametrize("kind", ["RELATIVE", "ABSOLUTE"])
@pytest.mark.parametrize("value", ["0", "-5"])
def test_a_threshold_without_meaning(kind: str, value: str, cli: CommandLine, tmp_path: Path) -> None:
    image = written(tmp_path / "plain.fits", noise(50, 60))
    done = cli(image, "-THRESH_TYPE", kind, "-DETECT_THRESH", value, "-o", "out.cat", *sides.LIMIT, timeout=SECONDS)
    assert done.code == CONFIG
    assert "DETECT_THRESH" in done.err
    assert done.made == frozenset()


@pytest.mark.parametrize(
    "keywords",
    [
        {"DETECT_THRESH": "0.01"},
        {"DETECT_THRESH": "0.01", "DETECT_MINAREA": "1", "FILTER": "N"},
        {"THRESH_TYPE": "ABSOLUTE", "DETECT_THRESH": "1e-9", "BACK_TYPE": "MANUAL", "BACK_VALUE": "0"},
    ],
)
def test_everything_connects(keywords: dict[str, str], cli: CommandLine, tmp_path: Path) -> None:
    image = field(tmp_path / "crowded.fits", 256, 220, 31).path
    setup = Setup(tmp_path, COLUMNS, keywords)
    found = sides.tables(cli, setup, image, "--workers", 2)
    again = sides.tables(cli, setup, image, "--workers", 0, "--tile-shape", "60x50")
    np.testing.assert_array_equal(found[0].rows, again[0].rows)
    if reference.SEXTRACTOR is not None:
        theirs = compare.load(setup.reference(image))
        assert abs(len(theirs[0].rows) - len(found[0].rows)) <= 0.02 * len(theirs[0].rows)
