"""The limit holds under every allocator that people preload, with the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import scenes
from tests.conftest import CommandLine, Outcome

MIB = 1 << 20

# Libraries by the names that distributions give them; glibc's needs none.
ALLOCATORS = {
    "glibc": (),
    "tcmalloc": ("libtcmalloc_minimal.so.4",),
    "jemalloc": ("libjemalloc.so.2",),
    "mimalloc": ("libmimalloc.so.2", "libmimalloc.so.2.0", "libmimalloc.so.3"),
}
FOLDERS = [*Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib"), Path("/usr/local/lib")]
COLUMNS = "NUMBER X_IMAGE Y_IMAGE XWIN_IMAGE YWIN_IMAGE FLUX_AUTO FLUX_APER(3) FLUX_RADIUS A_IMAGE B_IMAGE FLAGS"
SKY = COLUMNS + " ALPHA_J2000 DELTA_J2000"
TOO_SMALL = 5


@pytest.fixture(params=ALLOCATORS)
def allocator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has every process started from here use an allocator."""
    name = str(request.param)
    names = ALLOCATORS[name]
    if not names:
        return name
    found = next((path for folder in FOLDERS for n in names if (path := folder / n).exists()), None)
    if found is None:
        pytest.skip(f"{name} isn't installed")
    monkeypatch.setenv("LD_PRELOAD", os.pathsep.join(filter(None, [str(found), os.environ.get("LD_PRELOAD")])))
    maps = subprocess.run([sys.executable, "-c", "print(open('/proc/self/maps').read())"], capture_output=True, text=True)
    if found.resolve().name not in maps.stdout:
        pytest.skip(f"{name} can't be preloaded: {maps.stderr[-200:]}")
    return name


@pytest.fixture(scope="module")
def first() -> dict[str, bytes]:
    """Bytes of the first catalogue of each image, whatever made it."""
    return {}


def check(done: Outcome, folder: Path, limit: str, first: dict[str, bytes], image: Path) -> None:
    """Within the limit, and the bytes of all other runs."""
    assert done.code == 0, done.err
    assert done.samples > 3
    assert done.peak <= int(limit[:-1]) * MIB, f"{done.peak / MIB:.1f} MiB held under {limit}"
    data = (folder / "out.cat").read_bytes()
    assert data == first.setdefault(image.name, data)


def run(cli: CommandLine, folder: Path, image: Path, limit: str, workers: int, columns: str) -> Outcome:
    """One run, watched."""
    (folder / "columns.param").write_text(columns.replace(" ", "\n"))
    options = "-PARAMETERS_NAME", folder / "columns.param", "-CATALOG_NAME", "out.cat", "-VERBOSE_TYPE", "QUIET"
    return cli(image, *options, "--mem-limit", limit, "--workers", workers, cwd=folder, watched=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crowded field of half a megapixel."""
    return scenes.field(tmp_path_factory.mktemp("allocators") / "small.fits", 700, 900, 31).path


@pytest.mark.parametrize(("workers", "limit"), [(0, "80M"), (1, "96M"), (4, "256M")])
def test_small_field(
    allocator: str, cli: CommandLine, tmp_path: Path, small: Path, first: dict[str, bytes], workers: int, limit: str
) -> None:
    check(run(cli, tmp_path, small, limit, workers, COLUMNS), tmp_path, limit, first, small)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("more", [0, 8])
def test_smallest_limits(
    allocator: str, cli: CommandLine, tmp_path: Path, small: Path, first: dict[str, bytes], workers: int, more: int
) -> None:
    """At the smallest limit that is predicted to work, or some more: kept, or refused where this allocator holds more."""
    refused = run(cli, tmp_path, small, "1M", workers, COLUMNS)
    assert refused.code == TOO_SMALL
    limit = f"{int(refused.err.split('the smallest limit that works is ')[1].split('M')[0]) + more}M"
    done = run(cli, tmp_path, small, limit, workers, COLUMNS)
    if more == 0 and done.code == TOO_SMALL and allocator != "glibc":
        return
    check(done, tmp_path, limit, first, small)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of 17 million pixels."""
    return scenes.field(tmp_path_factory.mktemp("allocators") / "large.fits", 4096, 7500, 32).path


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("limit", ["128M", "256M", "512M"])
def test_large_field(
    allocator: str, cli: CommandLine, tmp_path: Path, large: Path, first: dict[str, bytes], workers: int, limit: str
) -> None:
    check(run(cli, tmp_path, large, limit, workers, SKY), tmp_path, limit, first, large)
