"""Images and undisturbed runs that all tests of faults compare with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import EVERYTHING, Started
from tests.scenes import field

LIMIT = ("--mem-limit", "160M", "--workers", "2")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of half a second."""
    return field(tmp_path_factory.mktemp("small") / "small.fits", 300, 60).path


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field with many tasks of each kind."""
    return field(tmp_path_factory.mktemp("large") / "large.fits", 1024, 1200).path


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, large: Path) -> Started:
    """A run over the large field, with all outputs, that nobody disturbs."""
    with Started(tmp_path_factory.mktemp("calm"), large, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        assert len(run.wait_for_workers(2)) == 2
        assert run.finish() == 0, run.err
    assert len(run.outputs()) == 5
    return run


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """``shim(FAULT_FSYNC=5)``: environment in which calls of the C library fail (``shim.c``)."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return lambda **faults: {"LD_PRELOAD": str(library), **{name: str(value) for name, value in faults.items()}}


@pytest.fixture(scope="session")
def mounts() -> Callable[[str], list[str]]:
    """``mounts("mount ...")``: a command that runs another one where those mounts are, and nobody else sees them."""

    def wrap(script: str) -> list[str]:
        return ["unshare", "-m", "sh", "-c", f'{script} || exit 99; "$@"', "sh"]

    trial = [*wrap("mount -t tmpfs none /mnt"), "true"]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    return wrap
