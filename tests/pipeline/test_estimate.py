"""``--estimate``: says what a run then does, and reads no pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from sextract.config.settings import (
    DeblendingSettings,
    DetectionSettings,
    OutputSettings,
    Requested,
    ResourceSettings,
    Settings,
)
from sextract.errors import LimitError
from sextract.memory.budget import MIB
from sextract.pipeline import Estimate, estimate
from tests.conftest import CommandLine
from tests.scenes import field


def settings(limit: int, workers: int, *, checkimages: tuple[tuple[str, str], ...] = ()) -> Settings:
    """Settings for a limit in MiB."""
    return Settings(
        detection=DetectionSettings(kernel=np.ones((3, 3), np.float32)),
        deblending=DeblendingSettings(),
        output=OutputSettings(columns=(Requested("NUMBER"), Requested("X_IMAGE")), checkimages=checkimages),
        resources=ResourceSettings(mem_limit_bytes=limit * MIB, workers=workers),
    )


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """An image of 20000 × 20000 pixels of which only the header takes room on disk."""
    path = tmp_path / "sparse.fits"
    header = fits.Header(
        [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 20_000), ("NAXIS2", 20_000)]
    ).tostring()
    with path.open("wb") as file:
        file.write(header.encode())
        file.truncate(len(header) + -(-4 * 20_000**2 // 2880) * 2880)
    return path


def test_parts_are_the_limit(sparse: Path) -> None:
    found = estimate(str(sparse), settings(512, 2))
    assert isinstance(found, Estimate)
    assert found.sizes == ((20_000, 20_000),)
    assert sum(nbytes for _, nbytes in found.parts) <= 512 * MIB
    assert [name for name, _ in found.parts] == ["base", "heaps", "kernel", "slab"]
    # The slab fills with tiles: 1.6 GB of pixels don't fit.
    assert 0.9 * 512 * MIB < found.peak_bytes <= 512 * MIB


def test_a_small_image_does_not_fill_the_limit(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "small.fits", np.zeros((100, 100), np.float32))
    found = estimate(str(tmp_path / "small.fits"), settings(2048, 2))
    assert found.peak_bytes < 128 * MIB
    assert found.smallest_limit_bytes < found.peak_bytes


def test_more_pixels_take_more(tmp_path: Path) -> None:
    peaks = []
    for side in (500, 1000, 2000):
        path = tmp_path / f"{side}.fits"
        fits.writeto(path, np.zeros((side, side), np.float32))
        peaks.append(estimate(str(path), settings(2048, 1)).peak_bytes)
    assert peaks[2] - peaks[1] >= 4 * 3_000_000
    assert peaks[1] > peaks[0]


def test_fewer_workers_are_told(sparse: Path) -> None:
    found = estimate(str(sparse), settings(200, 32))
    assert found.workers < 32
    assert f"workers:           {found.workers} of 32 asked for" in str(found)


def test_too_small_a_limit_is_refused(sparse: Path) -> None:
    with pytest.raises(LimitError, match="smallest limit that works is"):
        estimate(str(sparse), settings(50, 2))


def test_the_text_has_all_parts(sparse: Path) -> None:
    text = str(estimate(str(sparse), settings(512, 2)))
    for part in ("image:", "memory limit:", "smallest limit:", "predicted peak:", "workers:", "tiles:", "time:"):
        assert part in text
    assert "20000 × 20000" in text


def test_command_line_prints_it_and_leaves_nothing(sparse: Path, cli: CommandLine) -> None:
    done = cli(sparse, "--estimate", "--mem-limit", "512M", "--workers", 2)
    assert done.code == 0, done.err
    assert "predicted peak:" in done.out
    assert not done.made


@pytest.mark.parametrize(("limit", "workers"), [(256, 0), (256, 2)])
def test_a_run_stays_below_its_predicted_peak(limit: int, workers: int, cli: CommandLine, tmp_path: Path) -> None:
    image = field(tmp_path / "field.fits", 1024, 900, 4).path
    param = tmp_path / "few.param"
    param.write_text("NUMBER\nX_IMAGE\nFLUX_AUTO\n")
    options = ("-PARAMETERS_NAME", param, "--mem-limit", f"{limit}M", "--workers", workers)
    told = cli(image, "--estimate", *options)
    predicted = int(next(line.split()[-1] for line in told.out.splitlines() if "peak" in line).removesuffix("M"))
    done = cli(image, *options, "-o", "out.cat", watched=True)
    assert done.code == 0, done.err
    assert done.peak <= predicted * MIB
