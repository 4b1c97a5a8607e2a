"""A night of small images, and what single runs of them give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sextract.survey.manifest import Survey, read_manifest
from tests.conftest import CommandLine
from tests.faults.harness import Started
from tests.scenes import field

OPTIONS = ("--mem-limit", "200M", "--workers", "2")


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight images, no two alike; the last one has two extensions."""
    folder = tmp_path_factory.mktemp("night")
    paths = [field(folder / f"n{k}.fits", 200 + 20 * k, 30 + 5 * k, seed=k).path for k in range(1, 8)]
    return [*paths, field(folder / "n8.fits", 180, 25, seed=8, extensions=2).path]


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, night: Sequence[Path]) -> dict[str, bytes]:
    """Catalogues by single runs: name → bytes."""
    folder = tmp_path_factory.mktemp("calm")
    out = {}
    for path in night:
        with Started(folder, path, "-o", f"{path.stem}.cat.fits", "--workers", "0", "--mem-limit", "200M") as run:
            assert run.finish() == 0, run.err
        out[f"{path.stem}.cat.fits"] = (folder / f"{path.stem}.cat.fits").read_bytes()
    return out


@pytest.fixture(scope="session")
def long_night(night: Sequence[Path], calm: dict[str, bytes]) -> tuple[list[Path], dict[str, bytes]]:
    """The night four times, so that there is time to disturb it; its images, and catalogues by their numbers."""
    images = [*night] * 4
    return images, {f"{k}.cat.fits": calm[f"{path.stem}.cat.fits"] for k, path in enumerate(images, 1)}


def catalogues(folder: Path) -> dict[str, bytes]:
    """Catalogues in a folder: name → bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.cat.fits"))}


def states(folder: Path) -> list[str]:
    """What the manifest in a folder says of its images."""
    return [entry.state for entry in manifest(folder).images]


def manifest(folder: Path) -> Survey:
    """The manifest in a folder."""
    return read_manifest(str(folder / "sextract.manifest"))


@pytest.fixture
def batch(cli: CommandLine, night: Sequence[Path]) -> Callable[..., object]:
    """``batch("-o", "out/")``: the night in one call, in the same folder each time."""
    return lambda *words, images=night, **how: cli(*images, *words, *OPTIONS, **how)
