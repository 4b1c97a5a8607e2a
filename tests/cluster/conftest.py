"""A Slurm, and the images of a small survey with its undisturbed catalogues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import NoSlurm, Slurm
from tests.cluster.surveys import Survey
from tests.scenes import field

IMAGES = 4


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A cluster of one node; tests that need it are skipped where it can't be had."""
    try:
        with Slurm() as cluster:
            yield cluster
    except NoSlurm as exc:
        pytest.skip(f"no Slurm: {exc}")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small fields, in a folder whose name has to be quoted."""
    folder = tmp_path_factory.mktemp("fields") / "a night's"
    folder.mkdir()
    return [field(folder / f"f{k}.fits", 512, 300, seed=k).path for k in range(IMAGES)]


@pytest.fixture
def survey(tmp_path: Path, images: list[Path]) -> Survey:
    """A survey of them, each taken several times, so that there is time to disturb it."""
    return Survey(tmp_path, images)
