"""Disks that are full or fail, under outputs, scratch and input: one line with file, cause and option; nothing is left."""

from __future__ import annotations

import errno
import gzip
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.conftest import LIMIT
from tests.faults.harness import CHECKS, EVERYTHING, Started

INPUT, OUTPUT, LIMIT_TOO_SMALL = 3, 4, 5

Faults = Callable[..., dict[str, str]]
Mounts = Callable[[str], list[str]]


@pytest.fixture
def disk(tmp_path: Path, mounts: Mounts) -> tuple[Path, list[str]]:
    """A folder, and the command that has a disk of 3 MB mounted there and lists what is on it at the end."""
    mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if mkfs is None:
        pytest.skip("no mkfs.ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(3 << 20)
    subprocess.run([mkfs, "-q", "-F", "-O", "^has_journal", "-m", "0", image], check=True, capture_output=True)
    wrap = mounts(f"mount -o loop {image} {folder} && rm -rf {folder}/lost+found")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("no loop devices")
    wrap[4] += f"; code=$?; ls -A {folder} >{tmp_path}/listing; exit $code"
    return folder, wrap


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_disk_too_small_for_a_check_image(
    tmp_path: Path, large: Path, disk: tuple[Path, list[str]], workers: int
) -> None:
    folder, wrap = disk
    checks = ("-CHECKIMAGE_TYPE", "-BACKGROUND", "-CHECKIMAGE_NAME", folder / "sub.fits")
    with Started(tmp_path / "run", large, "-o", "out.fits", *checks, *LIMIT, "--workers", workers, wrap=wrap) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "sub.fits", "no space left", "CHECKIMAGE_NAME")
    assert (tmp_path / "listing").read_text() == ""


def test_a_disk_too_small_for_the_catalogue(tmp_path: Path, large: Path, disk: tuple[Path, list[str]]) -> None:
    folder, wrap = disk
    (tmp_path / "p.param").write_text("NUMBER\nVIGNET(40,40)\n")
    options = ("-o", folder / "out.fits", "-PARAMETERS_NAME", tmp_path / "p.param", *LIMIT)
    with Started(tmp_path / "run", large, *options, wrap=wrap) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "out.fits", "no space left", "CATALOG_NAME")
    assert (tmp_path / "listing").read_text() == ""


def test_a_disk_too_small_to_unpack_the_image(tmp_path: Path, large: Path, disk: tuple[Path, list[str]]) -> None:
    folder, wrap = disk
    (tmp_path / "large.fits.gz").write_bytes(gzip.compress(large.read_bytes(), 1))
    options = ("-o", "out.fits", "--scratch", folder, *LIMIT)
    with Started(tmp_path / "run", tmp_path / "large.fits.gz", *options, wrap=wrap) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "large.fits.gz", str(folder), "No space left", "--scratch")
    assert (tmp_path / "listing").read_text() == ""


def test_a_disk_too_small_for_what_is_spilled(tmp_path: Path, disk: tuple[Path, list[str]]) -> None:
    folder, wrap = disk
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from sextract.errors import OutputError\n"
        "from sextract.memory.spill import Spill\n"
        f"spill = Spill({str(folder)!r})\n"
        "try:\n"
        "    for _ in range(100):\n"
        "        spill.put(bytes(100_000))\n"
        "except OutputError as exc:\n"
        "    print(exc)\n"
    )
    done = subprocess.run([*wrap, sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout and "No space left" in done.stdout and "--scratch" in done.stdout
    assert (tmp_path / "listing").read_text() == ""


def test_the_largest_file_allowed(tmp_path: Path, small: Path) -> None:
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    # The block of shared memory is a file to the kernel, too; smaller than this there is none.
    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, prepare=prepare) as run:
        run.finish()
    run.assert_stopped(run.code or -1, "ulimit -f")
    assert run.code in (OUTPUT, LIMIT_TOO_SMALL)


@pytest.mark.parametrize("where", ["-o", "-CHECKIMAGE_NAME"])
def test_the_device_that_is_always_full(tmp_path: Path, small: Path, where: str) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full")
    options = {
        "-o": ("-o", "/dev/full", "-CATALOG_TYPE", "ASCII_HEAD"),
        "-CHECKIMAGE_NAME": ("-o", "out.fits", "-CHECKIMAGE_TYPE", "-BACKGROUND", "-CHECKIMAGE_NAME", "/dev/full"),
    }[where]
    with Started(tmp_path / "run", small, *options, *LIMIT) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "/dev/full", "no space left", where.removeprefix("-C"))


@pytest.mark.parametrize("code", [errno.EIO, pytest.param(errno.EDQUOT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("which", [1, 40])
def test_a_write_that_fails(tmp_path: Path, large: Path, shim: Faults, code: int, which: int) -> None:
    env = shim(FAULT_WRITE=f"{which}:{code}")
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING, env=env) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "can't write", ".fits")


def test_a_disk_that_fails_when_all_is_written(tmp_path: Path, small: Path, shim: Faults) -> None:
    """And then there is none of the outputs, not the first of them."""
    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, *EVERYTHING, env=shim(FAULT_FSYNC=errno.EIO)) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "check", "Input/output error", "CHECKIMAGE_NAME")


@pytest.mark.parametrize(("which", "what"), [(1, "0"), (4, ""), (12, "")])
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_read_that_fails(tmp_path: Path, large: Path, shim: Faults, which: int, what: str, workers: int) -> None:
    env = shim(FAULT_READ=f"{large}:{which}")
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, "--workers", workers, env=env) as run:
        run.finish()
        run.assert_stopped(INPUT, "large.fits", f"at {what}", "Input/output error")


def test_where_files_must_have_names(tmp_path: Path, large: Path, calm: Started, shim: Faults) -> None:
    """NFS and FUSE: the same bytes, and what a killed run has to leave there is swept away by the next."""
    env = shim(FAULT_TMPFILE=errno.EOPNOTSUPP)
    folder = tmp_path / "run"
    first = Started(folder, large, "-o", "out.fits", *LIMIT, *EVERYTHING, env=env)
    assert first.wait_for_workers(2)
    first.process.kill()
    first.finish()
    assert {name.rpartition(".")[2] for name in first.made()} == {"part"}
    assert len(first.made()) == len(CHECKS) + 2
    first.before = set()
    with Started(folder, large, "-o", "out.fits", *LIMIT, *EVERYTHING, env=env) as run:
        assert run.finish() == 0, run.err
    run.before = {".scratch"}
    assert run.outputs() == calm.outputs()
