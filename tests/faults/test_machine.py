"""Limits of the shell, /dev/shm and the standard streams: a run copes with what they leave, or says in a line what to raise."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import LIMIT
from tests.faults.harness import Started

ERROR, CONFIG, OUTPUT, LIMIT_TOO_SMALL = 1, 2, 4, 5
MIB = 1 << 20

Faults = Callable[..., dict[str, str]]
Mounts = Callable[[str], list[str]]


def limited(which: int, value: int) -> Callable[[], None]:
    """What sets a resource limit in a child."""
    return lambda: resource.setrlimit(which, (value, value))


# Address space and data


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("which", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_the_limit_follows_that_of_the_shell(tmp_path: Path, small: Path, which: int, workers: int) -> None:
    prepare = limited(which, 600 * MIB)
    with Started(tmp_path / "run", small, "-o", "out.fits", "--workers", workers, prepare=prepare) as run:
        assert run.finish() == 0, run.err
    assert "ulimit" in next(line for line in run.err.splitlines() if line.startswith("Memory limit:"))


@pytest.mark.parametrize("mib", [60, 100, 250, *(pytest.param(mib, marks=pytest.mark.slow) for mib in range(70, 265, 15))])
def test_too_little_address_space_is_one_line(tmp_path: Path, small: Path, mib: int) -> None:
    prepare = limited(resource.RLIMIT_AS, mib * MIB)
    with Started(tmp_path / "run", small, "-o", "out.fits", "--workers", 2, prepare=prepare) as run:
        run.finish()
        run.assert_stopped(LIMIT_TOO_SMALL)
    # In the error itself, or where it is told what set the limit that is too small.
    assert "ulimit -v" in run.err


@pytest.mark.parametrize("mib", [30, 60, *(pytest.param(mib, marks=pytest.mark.slow) for mib in (45, 52, 70, 80, 90))])
def test_too_small_a_data_segment_is_one_line(tmp_path: Path, small: Path, mib: int) -> None:
    prepare = limited(resource.RLIMIT_DATA, mib * MIB)
    with Started(tmp_path / "run", small, "-o", "out.fits", "--mem-limit", "512M", prepare=prepare) as run:
        run.finish()
        run.assert_stopped(LIMIT_TOO_SMALL, "ulimit -")


# Files and processes


def test_twenty_open_files_are_enough_for_two_workers(tmp_path: Path, small: Path) -> None:
    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, prepare=limited(resource.RLIMIT_NOFILE, 20)) as run:
        assert run.finish() == 0, run.err


def test_too_few_open_files_for_many_workers_is_one_line(tmp_path: Path, small: Path) -> None:
    options = ("-o", "out.fits", "--mem-limit", "1G", "--workers", 16)
    with Started(tmp_path / "run", small, *options, prepare=limited(resource.RLIMIT_NOFILE, 20)) as run:
        run.finish()
        run.assert_stopped(ERROR, "open files", "ulimit -n", "--workers")


def test_too_few_processes_is_one_line(tmp_path: Path, small: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the number of root's processes isn't limited")
    options = ("-o", "out.fits", "--mem-limit", "1G", "--workers", 16)
    with Started(tmp_path / "run", small, *options, prepare=limited(resource.RLIMIT_NPROC, 1)) as run:
        run.finish()
        run.assert_stopped(ERROR, "ulimit -u", "--workers")


# Shared memory


@pytest.mark.parametrize(
    "what", ["umount /dev/shm", "mount -t tmpfs -o size=4k none /dev/shm", "mount -t tmpfs -o ro none /dev/shm"]
)
def test_dev_shm_absent_tiny_or_read_only(tmp_path: Path, small: Path, mounts: Mounts, what: str) -> None:
    if subprocess.run([*mounts(what), "true"], capture_output=True).returncode:
        pytest.skip("no /dev/shm to be taken away")
    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, wrap=mounts(what)) as run:
        assert run.finish() == 0, run.err


def test_where_memfd_is_forbidden_dev_shm_serves(tmp_path: Path, small: Path, shim: Faults) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm")
    outputs = []
    for number, env in enumerate(({}, shim(FAULT_MEMFD=errno.ENOSYS))):
        with Started(tmp_path / f"run{number}", small, "-o", "out.fits", *LIMIT, env=env) as run:
            assert run.finish() == 0, run.err
        outputs.append(run.outputs())
    assert outputs[0] == outputs[1]


def test_where_memfd_is_forbidden_and_dev_shm_small(tmp_path: Path, small: Path, shim: Faults, mounts: Mounts) -> None:
    wrap = mounts("mount -t tmpfs -o size=16m none /dev/shm")
    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, env=shim(FAULT_MEMFD=errno.EPERM), wrap=wrap) as run:
        run.finish()
        run.assert_stopped(LIMIT_TOO_SMALL, "memfd_create", "/dev/shm has room for 16 MiB", "--mem-limit")


# Standard streams


def closed(*descriptors: int) -> Callable[[], None]:
    """What closes descriptors in a child."""

    def prepare() -> None:
        for fd in descriptors:
            os.close(fd)

    return prepare


@pytest.mark.parametrize("descriptors", [(1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_run_needs_no_standard_streams(tmp_path: Path, small: Path, descriptors: tuple[int, ...], workers: int) -> None:
    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, "--workers", workers, prepare=closed(*descriptors)) as run:
        assert run.finish() == 0, run.err
    assert run.made() == {"out.fits"}


ASCII_OUT = ("-CATALOG_NAME", "STDOUT", "-CATALOG_TYPE", "ASCII_HEAD")


def test_a_catalogue_for_a_stdout_that_is_closed(tmp_path: Path, small: Path) -> None:
    with Started(tmp_path / "run", small, *ASCII_OUT, *LIMIT, prepare=closed(1)) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "STDOUT", "it is closed")


def test_a_catalogue_for_a_reader_that_has_gone(tmp_path: Path, small: Path) -> None:
    def prepare() -> None:
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(read)

    with Started(tmp_path / "run", small, *ASCII_OUT, *LIMIT, prepare=prepare) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "STDOUT", "the reader has gone")


@pytest.mark.parametrize("words", [["-d"], ["-dp"], ["--version"], [], ["small.fits", "--estimate", "-VERBOSE_TYPE", "QUIET"]])
@pytest.mark.parametrize("full", [False, True])
def test_text_for_a_stdout_that_takes_none(tmp_path: Path, small: Path, words: list[str], full: bool) -> None:
    def prepare() -> None:
        os.close(1)
        if full:
            os.open("/dev/full", os.O_WRONLY)

    with Started(tmp_path / "run", *(small if word == "small.fits" else word for word in words), prepare=prepare) as run:
        run.finish()
        run.assert_stopped(OUTPUT, "standard output")


def test_messages_for_a_stderr_that_is_full(tmp_path: Path, small: Path) -> None:
    def prepare() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)

    with Started(tmp_path / "run", small, "-o", "out.fits", *LIMIT, prepare=prepare) as run:
        assert run.finish() == 0
    assert run.made() == {"out.fits"}
