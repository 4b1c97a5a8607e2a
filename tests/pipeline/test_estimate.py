"""``--estimate``: says what a run then does, and reads no pixel."""

from __future__ import annotations

import json
from dataclasses import replace
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


def test_json_says_the_same_in_bytes(sparse: Path, cli: CommandLine) -> None:
    options = (sparse, "--mem-limit", "512M", "--workers", 2)
    done = cli("--estimate=json", *options)
    assert done.code == 0, done.err
    (line,) = done.out.splitlines()
    found = json.loads(line)
    assert list(found) == [
        "image", "extensions", "limit_bytes", "smallest_limit_bytes", "predicted_peak_bytes", "predicted_seconds", "workers",
        "workers_asked", "tiles", "mesh", "scratch_bytes_per_worker", "outputs_in_memory_bytes", "parts_bytes",
    ]  # fmt: skip
    assert found["image"] == str(sparse)
    assert found["extensions"] == [{"width": 20_000, "height": 20_000}]
    assert found["limit_bytes"] == 512 * MIB
    assert found["workers"] == found["workers_asked"] == 2
    assert found["tiles"]["rows"] * found["tiles"]["down"] >= 20_000
    assert found["mesh"] == {"rows": 313, "columns": 313, "cell_height": 64, "cell_width": 64}
    assert sum(found["parts_bytes"].values()) <= 512 * MIB
    # The bare option takes no image for its value, and prints what it always has.
    text = cli("--estimate", *options).out
    for key in ("smallest_limit_bytes", "predicted_peak_bytes"):
        assert f"{found[key] // MIB}M\n" in text


def test_json_is_a_line_an_image(tmp_path: Path, cli: CommandLine) -> None:
    for name, side in (("a.fits", 100), ("b.fits", 200)):
        fits.writeto(tmp_path / name, np.zeros((side, side), np.float32))
    names = (tmp_path / "a.fits", tmp_path / "missing.fits", tmp_path / "b.fits")
    done = cli("--batch", *names, "-CATALOG_NAME", "{stem}.cat", "--estimate=json")
    assert done.code == 10
    assert [json.loads(line)["extensions"][0]["width"] for line in done.out.splitlines()] == [100, 200]


def test_a_batch_is_a_row_for_each_kind_of_image(tmp_path: Path, cli: CommandLine) -> None:
    for k in range(5):
        fits.writeto(tmp_path / f"a{k}.fits", np.zeros((300, 200), np.float32))
    fits.writeto(tmp_path / "b.fits", np.zeros((4200, 4200), np.float32))
    names = [tmp_path / f"a{k}.fits" for k in range(5)]
    done = cli(*names, tmp_path / "missing.fits", tmp_path / "b.fits", "--estimate", "--mem-limit", "512M", "--workers", "2")
    assert done.code == 10
    # What all images have in common is said once.
    assert done.err.count("Memory limit") == 1
    assert done.err.count("ERROR") == 1
    told = dict(line.split(":", 1) for line in done.out.splitlines() if ":" in line)
    assert told["images"].split() == ["6"]
    assert "2 of up to 64M" in told["at a time"]
    head, small, large = (line.split() for line in done.out.splitlines()[-3:])
    assert head[:3] == ["images", "peak", "smallest"]
    assert (small[0], small[5:8], small[-1]) == ("5", ["200", "×", "300"], str(names[0]))
    assert (large[0], large[5:8], large[-1]) == ("1", ["4200", "×", "4200"], str(tmp_path / "b.fits"))
    # Through another engine each is done by one process.
    other = cli(*names, "--estimate", "--mem-limit", "512M", "--engine", "mpi").out
    assert "512M for each worker of mpi" in other
    refused = cli(*names, "--estimate", "--mem-limit", "20M")
    assert (refused.code, refused.out) == (10, "")
    assert "5 images: --mem-limit 20M is too small" in refused.err


@pytest.mark.parametrize(("kind", "whole"), [("", False), ("RA---TAN", False), ("RA---TAB", True)])
def test_astropy_is_counted_where_a_header_needs_it(tmp_path: Path, kind: str, whole: bool) -> None:
    header = fits.Header({"CTYPE1": kind, "CTYPE2": kind.replace("RA--", "DEC-")} if kind else {})
    fits.writeto(tmp_path / "a.fits", np.zeros((300, 300), np.float32), header)
    plain = settings(512, 2)
    sky = replace(plain, output=OutputSettings(columns=(Requested("NUMBER"), Requested("X_WORLD"))))
    peaks = [estimate(str(tmp_path / "a.fits"), each).peak_bytes for each in (plain, sky)]
    assert (peaks[1] - peaks[0] > 20 * MIB) == whole


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
