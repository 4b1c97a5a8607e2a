"""What can't be done ends in seconds with one clear line, the documented exit code, and nothing left behind."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.conftest import CommandLine, Outcome
from tests.scenes import Scene

CONFIG, INPUT, OUTPUT, LIMIT = 2, 3, 4, 5
# A run that has nothing to do must not take longer; starting Python and its libraries included.
SECONDS = 30.0


def assert_refused(done: Outcome, code: int, *words: str) -> None:
    """The exit code, one line of error that holds `words`, no traceback and no file."""
    assert done.code == code, done.err
    errors = [line for line in done.err.splitlines() if line.startswith("> *ERROR*:")]
    assert len(errors) == 1, done.err
    for word in words:
        assert word in errors[0]
    assert "Traceback" not in done.err
    assert done.made == frozenset()
    assert done.out == ""


def assert_told(done: Outcome) -> None:
    """Either refused as bad input, or done with a warning; never in silence."""
    lines = done.err.splitlines()
    if done.code == INPUT:
        assert_refused(done, INPUT)
    else:
        assert done.code == 0, done.err
        assert any(line.startswith("> WARNING:") for line in lines), done.err
        assert done.made == {"out.cat"}
    assert "Traceback" not in done.err


def refuse(cli: CommandLine, image: Path | str, code: int, *words: str, options: tuple[object, ...] = ()) -> None:
    """Runs on `image` with a limit that is ample, and expects a refusal."""
    limit = () if "--mem-limit" in options else ("--mem-limit", "512M")
    output = () if "-o" in options else ("-o", "out.cat")
    assert_refused(cli(image, *limit, *output, *options, timeout=SECONDS), code, *words)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A good image."""
    return Scene(90, 100).star(40.0, 40.0, 8000.0).write(tmp_path / "good.fits")


def written(path: Path, pixels: np.ndarray) -> Path:
    """A plain FITS file of these pixels."""
    fits.PrimaryHDU(pixels).writeto(path)
    return path


def test_no_such_file(cli: CommandLine, tmp_path: Path) -> None:
    refuse(cli, tmp_path / "absent.fits", INPUT, "absent.fits")


@pytest.mark.parametrize("content", [b"", b"not a fits file\n" * 400, bytes(5760), b"SIMPLE  =                    T"])
def test_not_fits(cli: CommandLine, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.fits"
    path.write_bytes(content)
    refuse(cli, path, INPUT, "odd.fits")


def test_a_folder(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "folder.fits").mkdir()
    refuse(cli, tmp_path / "folder.fits", INPUT, "folder.fits")


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_truncated(cli: CommandLine, image: Path, share: float) -> None:
    content = image.read_bytes()
    # Of the pixels, not of the padding after them.
    image.write_bytes(content[: 2880 + int(share * 90 * 100 * 4)])
    refuse(cli, image, INPUT, "good.fits")


@pytest.mark.parametrize("cards", [{"NAXIS2": 90000}, {"NAXIS1": 2**31}, {"NAXIS2": -5}, {"BITPIX": 17}])
def test_a_header_that_lies(cli: CommandLine, image: Path, cards: dict[str, int]) -> None:
    text = image.read_bytes()
    for key, value in cards.items():
        at = text.index(key.ljust(8).encode() + b"=")
        text = text[:at] + f"{key:8s}= {value:20d}".ljust(80).encode() + text[at + 80 :]
    image.write_bytes(text)
    refuse(cli, image, INPUT, "good.fits")


def test_no_image_of_two_dimensions(cli: CommandLine, tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("A", "1E", array=np.arange(3.0))])
    line = fits.ImageHDU(np.arange(10.0, dtype="f4"))
    fits.HDUList([fits.PrimaryHDU(), table, line]).writeto(tmp_path / "table.fits")
    refuse(cli, tmp_path / "table.fits", INPUT, "table.fits")


@pytest.mark.parametrize("extension", ["[7]", "[NONE]"])
def test_no_such_extension(cli: CommandLine, image: Path, extension: str) -> None:
    refuse(cli, f"{image}{extension}", INPUT, "good.fits")


def test_all_nan(cli: CommandLine, tmp_path: Path) -> None:
    path = written(tmp_path / "nan.fits", np.full((120, 130), np.nan, "f4"))
    assert_told(cli(path, "-o", "out.cat", "--mem-limit", "512M", timeout=SECONDS))


@pytest.mark.parametrize("value", [0.0, 1234.5, -7.0])
def test_a_constant_image(cli: CommandLine, tmp_path: Path, value: float) -> None:
    path = written(tmp_path / "flat.fits", np.full((120, 130), value, "f4"))
    assert_told(cli(path, "-o", "out.cat", "--mem-limit", "512M", timeout=SECONDS))


def test_a_single_pixel(cli: CommandLine, tmp_path: Path) -> None:
    path = written(tmp_path / "one.fits", np.ones((1, 1), "f4"))
    assert_told(cli(path, "-o", "out.cat", "--mem-limit", "512M", timeout=SECONDS))


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1)])
def test_a_single_line(cli: CommandLine, tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).normal(100.0, 5.0, shape).astype("f4")
    path = written(tmp_path / "line.fits", pixels)
    done = cli(path, "-o", "out.cat", "--mem-limit", "512M", timeout=SECONDS)
    assert done.code == 0, done.err
    assert done.made == {"out.cat"}


@pytest.mark.parametrize("limit", ["1M", "16M"])
def test_a_limit_too_small_names_the_smallest(cli: CommandLine, image: Path, limit: str) -> None:
    done = cli(image, "-o", "out.cat", "--mem-limit", limit, "--workers", 1, timeout=SECONDS)
    assert_refused(done, LIMIT, "--mem-limit")
    # The number it names works.
    message = next(line for line in done.err.splitlines() if line.startswith("> *ERROR*:"))
    smallest = max(int(size) for size in re.findall(r"\b(\d+)M", message))
    assert smallest > int(limit[:-1])
    again = cli(image, "-o", "out.cat", "--mem-limit", f"{smallest}M", "--workers", 1, timeout=SECONDS)
    assert again.code == 0, again.err


@pytest.mark.parametrize("limit", ["lots", "-5M", "12Q", "0"])
def test_a_limit_that_is_none(cli: CommandLine, image: Path, limit: str) -> None:
    refuse(cli, image, CONFIG, "--mem-limit", options=("--mem-limit", limit))


def test_output_folder_missing(cli: CommandLine, image: Path, tmp_path: Path) -> None:
    refuse(cli, image, OUTPUT, "nowhere", options=("-o", tmp_path / "nowhere" / "out.cat"))


def test_output_not_writable(cli: CommandLine, image: Path) -> None:
    # A file system that refuses even root.
    refuse(cli, image, OUTPUT, "/sys/out.cat", options=("-o", "/sys/out.cat"))


def test_output_below_a_file(cli: CommandLine, image: Path) -> None:
    refuse(cli, image, OUTPUT, options=("-o", image / "out.cat"))


def test_output_is_a_folder(cli: CommandLine, image: Path, tmp_path: Path) -> None:
    # The catalogue goes into a folder, but what has its name there is one, too.
    (tmp_path / "taken" / f"{image.stem}.cat.fits").mkdir(parents=True)
    refuse(cli, image, OUTPUT, "is a folder", options=("-o", tmp_path / "taken"))


def test_output_folder_full(cli: CommandLine, image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    size = "size=8k"
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", size, "none", disk], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    try:
        done = cli(
            image, "-o", disk / "out.cat.fits", "-CATALOG_TYPE", "FITS_1.0", "--mem-limit", "512M", timeout=SECONDS
        )
        assert_refused(done, OUTPUT, "disk")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_old_catalogue_outlives_a_failed_run(cli: CommandLine, image: Path, tmp_path: Path) -> None:
    old = tmp_path / "kept.cat"
    old.write_text("old")
    image.write_bytes(image.read_bytes()[:10000])
    refuse(cli, image, INPUT, options=("-o", old))
    assert old.read_text() == "old"


def test_unknown_columns_are_all_named(cli: CommandLine, image: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.param").write_text("NUMBER\nFLUX_AUTOO\nX_IMAGE\nNO_SUCH_COLUMN\n")
    options = ("-PARAMETERS_NAME", tmp_path / "odd.param")
    refuse(cli, image, CONFIG, "FLUX_AUTOO", "NO_SUCH_COLUMN", options=options)


@pytest.mark.parametrize("content", ["", "hello\n", "CONV NORM\n", "CONV NORM\n1 2 1\n2 4\n", "CONV NORM\n1 x 1\n"])
def test_a_kernel_that_is_none(cli: CommandLine, image: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "odd.conv").write_text(content)
    done = cli(image, "-FILTER_NAME", tmp_path / "odd.conv", "-o", "out.cat", "--mem-limit", "512M", timeout=SECONDS)
    assert done.code in (CONFIG, INPUT)
    assert_refused(done, done.code, "odd.conv")


def test_a_missing_configuration(cli: CommandLine, image: Path) -> None:
    done = cli(image, "-c", "absent.sex", "--mem-limit", "512M", timeout=SECONDS)
    assert done.code in (CONFIG, INPUT)
    assert_refused(done, done.code, "absent.sex")


@pytest.mark.parametrize(
    "options",
    [("-NO_SUCH_KEY", "1"), ("-DETECT_MINAREA",), ("-DETECT_MINAREA", "few"), ("-MASK_TYPE", "MAYBE"), ("--no-such",)],
)
def test_a_wrong_option(cli: CommandLine, image: Path, options: tuple[str, ...]) -> None:
    refuse(cli, image, CONFIG, options[0].strip("-").partition("=")[0], options=options)


def test_two_bare_images_name_both_spellings(cli: CommandLine, image: Path) -> None:
    done = cli(image, image, "--mem-limit", "512M", timeout=SECONDS)
    assert_refused(done, CONFIG, f"{image},{image}", "--batch")
