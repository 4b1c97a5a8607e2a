"""Images and undisturbed runs that all tests of faults compare with."""

from __future__ import annotations

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
