"""What every engine keeps: the bytes of a serial run, a whole manifest, and nothing lost or left, whatever is killed.

    class TestMine(EngineContract):
        engine = "mine:argument"

The command line is run as a user would, and disturbed from outside.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sextract.survey.manifest import read_manifest
from tests.cluster.trees import TreeWatch, below
from tests.conftest import environment, shared_memory
from tests.faults.harness import Started, children, kill, parent_of
from tests.memory_watch import processes
from tests.object_store import credentials, put
from tests.scenes import field

# What an engine starts for an image has this in its command line.
SERVES = b"sextract.survey.serve"
# A tight limit, and the side of an image of twice that.
TIGHT_BYTES, LARGE_SIDE = 170 << 20, 4608
# A long night: images, different fields in them, processes that are killed.
LONG, DIFFERENT, KILLS = 500, 10, 5
# How long a survey may take: workers of Parsl that are stuck are a minute and a half each time.
SURVEY_S = 3600.0


@dataclass(frozen=True)
class Night:
    """Images, one of them bad, and what a serial run makes of the others.

    Attributes
    ----------
    images : list of Path
    bad : Path
        One of `images`.
    catalogues : dict
        Name → bytes.
    """

    images: list[Path]
    bad: Path
    catalogues: dict[str, bytes]


def make_night(folder: Path, count: int, size: int, sources: int, different: int = 1000) -> Night:
    """That many images, of so many different fields, and a bad one; done in one process."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for k in range(count):
        path = folder / f"f{k:03}.fits"
        if k < different:
            field(path, size, sources, seed=k + 1)
        else:
            os.link(images[k % different], path)
        images.append(path)
    bad = folder / "f005x.fits"
    bad.write_bytes(images[0].read_bytes()[:4000])
    out = folder / "alone"
    done = subprocess.run(
        [sys.executable, "-m", "sextract", *map(str, images), "--workers", "0", "-o", f"{out}/", "-VERBOSE_TYPE", "QUIET"],
        env=environment("", folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    catalogues = {path.name: path.read_bytes() for path in out.glob("*.cat.fits")}
    assert len(catalogues) == count
    return Night([*images[:5], bad, *images[5:]], bad, catalogues)


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Small images, enough for time to disturb them, and a bad one."""
    return make_night(tmp_path_factory.mktemp("night"), 30, 300, 60, different=10)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images whose pixels, as many as a worker would like to keep, don't fit into a tight limit."""
    folder = tmp_path_factory.mktemp("large")
    images = [field(folder / "n0.fits", LARGE_SIDE, 500).path]
    for k in range(1, 4):
        images.append(folder / f"n{k}.fits")
        os.link(images[0], images[-1])
    return images


@pytest.fixture(scope="session")
def long_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Many images of 1024 x 1024 pixels, and a bad one."""
    return make_night(tmp_path_factory.mktemp("long"), int(os.environ.get("LONG_NIGHT", LONG)), 1024, 700, DIFFERENT)


class Survey(Started):
    """A survey through an engine, in a folder of its own; catalogues go to ``out``.

    Parameters
    ----------
    folder : Path
    contract : EngineContract
    images : sequence of Path or str
    options : str
    """

    def __init__(self, folder: Path, contract: EngineContract, images: Sequence[Path | str], *options: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "list.txt").write_text("".join(f"'{image}'\n" for image in images))
        self.catalogues = folder / "out"
        self._left_s = contract.left_s
        # Engines leave files of their own where temporary ones go; names of sockets can't be long.
        own = self._own = tempfile.mkdtemp(prefix="sx-")
        words = ["@list.txt", "-o", "out/", "--engine", contract.engine, *contract.options, *options]
        super().__init__(folder, *words, env={"TMPDIR": own, **contract.env}, wrap=contract.launcher)
        self.contract = contract
        self._children: set[int] = set()

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        self.ended(SURVEY_S)
        return super().finish()

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        shutil.rmtree(self._own, ignore_errors=True)

    def done(self) -> int:
        """How many catalogues there are."""
        return len(list(self.catalogues.glob("*.cat.fits"))) if self.catalogues.exists() else 0

    def made_catalogues(self) -> dict[str, bytes]:
        """Name → bytes of all catalogues."""
        return {path.name: path.read_bytes() for path in self.catalogues.glob("*.cat.fits")}

    def wait_for_done(self, count: int) -> bool:
        """Whether there come to be so many catalogues before it ends."""
        there = self.wait_for(lambda: self.done() >= count)
        # Some take another name, and lose the mark in their environment by that.
        self._children.update(children(self.pid))
        return there

    def wait_until_gone(self) -> None:
        """Wait until all that it started has ended."""
        deadline = time.monotonic() + self._left_s
        while left := processes(self.mark) | {pid for pid in self._children if parent_of(pid)}:
            assert time.monotonic() < deadline, left
            select.select([], [], [], 0.05)
        # What is ours has no name; an engine that is killed may leave some (Open MPI's segments).
        self.shared |= shared_memory()

    def one_of(self, find: Callable[[], list[int]], rng: random.Random) -> int:
        """One of some processes, as soon as there is one; 0 if it ends before."""
        found: list[int] = []
        self.wait_for(lambda: bool(found.extend(find()) or found))
        return rng.choice(found) if found else 0


def serving(mark: str) -> list[int]:
    """Processes that do images for an engine."""
    found = []
    for pid in sorted(processes(mark)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if SERVES in words:
            found.append(pid)
    return found


class EngineContract:
    """Inherit and say what the engine is called; see the module.

    Attributes
    ----------
    engine : str
        What stands behind ``--engine``.
    launcher : tuple of str
        A command before the interpreter.
    options, env
        More options, and environment.
    stopped : tuple of int
        Exit codes after SIGTERM.
    left_s : float
        How long after its end, or SIGKILL, a process of it may run.
    """

    engine: str
    launcher: tuple[str, ...] = ()
    options: tuple[str, ...] = ("--mem-limit", "300M")
    env: dict[str, str] = {}  # noqa: RUF012
    stopped: tuple[int, ...] = (75,)
    left_s: float = 5.0
    limit_bytes: int = 300 << 20

    def runners(self, run: Survey) -> list[int]:
        """Processes that do images."""
        return serving(run.mark)

    def workers(self, run: Survey) -> list[int]:
        """The engine's own workers, each of which can be lost."""
        return sorted({parent for pid in serving(run.mark) if (parent := parent_of(pid)) > 1})

    def trees(self, run: Survey) -> dict[int, set[int]]:
        """What the memory limit holds for: each worker with its processes."""
        return below(set(self.workers(run)), processes(run.mark))

    def start(self, folder: Path, images: Sequence[Path | str], *options: str) -> Survey:
        """Start a survey."""
        return Survey(folder, self, images, *options)

    def assert_whole(self, run: Survey, night: Night) -> None:
        """All catalogues are those of a serial run, the manifest has all, the bad image and no other failed."""
        assert run.code == (10 if night.bad in night.images else 0), run.err
        made = run.made_catalogues()
        assert sorted(made) == sorted(night.catalogues)
        assert made == night.catalogues
        entries = read_manifest(str(run.catalogues / "sextract.manifest")).images
        assert [entry.image for entry in entries] == [str(image) for image in night.images]
        for entry in entries:
            state = "failed" if entry.image == str(night.bad) else "done"
            assert entry.state == state, entry
            assert entry.attempts >= 1
            assert state == "failed" or entry.rows is not None

    def test_the_bytes_of_a_serial_run(self, night: Night, tmp_path: Path) -> None:
        with self.start(tmp_path / "run", night.images) as run:
            run.finish()
            run.wait_until_gone()
        self.assert_whole(run, night)
        assert f"1 of {len(night.images)} images failed" in run.err

    def test_memory_of_each_worker(self, large: list[Path], tmp_path: Path) -> None:
        # Images whose pixels don't fit: all that may be held is held.
        limit = "--mem-limit", f"{TIGHT_BYTES >> 20}M"
        with self.start(tmp_path / "run", large, *limit) as run, TreeWatch(lambda: self.trees(run)) as watch:
            assert run.finish() == 0, run.err
            run.wait_until_gone()
        self.assert_within(watch, TIGHT_BYTES)
        peak = max(tree.peak for tree in watch.trees.values())
        print(f"{self.engine}: {peak >> 20} MiB of {TIGHT_BYTES >> 20}")
        assert peak > 0.6 * TIGHT_BYTES

    def test_killed_processes_cost_a_try(self, night: Night, tmp_path: Path) -> None:
        rng = random.Random(1)
        with self.start(tmp_path / "run", night.images) as run:
            for count in (0, 3, 7):
                run.wait_for_done(count)
                kill(run.one_of(lambda: self.runners(run), rng))
            run.finish()
            run.wait_until_gone()
        self.assert_whole(run, night)

    def test_lost_workers_cost_a_try(self, night: Night, tmp_path: Path) -> None:
        rng = random.Random(2)
        with self.start(tmp_path / "run", night.images) as run:
            for count in (1, 6):
                run.wait_for_done(count)
                kill(run.one_of(lambda: self.workers(run), rng))
            run.finish()
            run.wait_until_gone()
        self.assert_whole(run, night)

    def test_stopped_and_resumed(self, night: Night, tmp_path: Path) -> None:
        with self.start(tmp_path / "run", night.images) as run:
            assert run.wait_for_done(3)
            run.process.send_signal(signal.SIGTERM)
            assert run.finish() in self.stopped, run.err
            run.wait_until_gone()
        self.resume(night, tmp_path / "run")

    def test_killed_and_resumed(self, night: Night, tmp_path: Path) -> None:
        with self.start(tmp_path / "run", night.images) as run:
            assert run.wait_for_done(3)
            run.process.kill()
            run.finish()
            run.wait_until_gone()
        self.resume(night, tmp_path / "run")

    def test_images_of_an_object_store(self, night: Night, objects: str, tmp_path: Path) -> None:
        self.env = {**self.env, **credentials(objects)}
        images = [image for image in night.images if image != night.bad][:5]
        for image in images:
            put(objects, f"night/{image.name}", image.read_bytes())
        with self.start(tmp_path / "run", [f"s3://night/{image.name}" for image in images]) as run:
            assert run.finish() == 0, run.err
            run.wait_until_gone()
        names = [f"{image.stem}.cat.fits" for image in images]
        assert run.made_catalogues() == {name: night.catalogues[name] for name in names}

    @pytest.mark.slow
    def test_a_long_night(self, long_night: Night, tmp_path: Path) -> None:
        rng = random.Random(3)
        counts = sorted(rng.sample(range(5, len(long_night.images) - 20), KILLS))
        # Its log would fill the pipe, which is read in the end.
        quiet = ("-VERBOSE_TYPE", "QUIET")
        with self.start(tmp_path / "run", long_night.images, *quiet) as run, TreeWatch(lambda: self.trees(run)) as watch:
            for k, count in enumerate(counts):
                run.wait_for_done(count)
                # Not always when one image has just been finished.
                run.ended(rng.random())
                kill(run.one_of((lambda: self.runners(run)) if k % 2 else (lambda: self.losable(run)), rng))
            run.finish()
            run.wait_until_gone()
        self.assert_whole(run, long_night)
        self.assert_within(watch, self.limit_bytes)
        again = sum(entry.attempts > 1 for entry in read_manifest(str(run.catalogues / "sextract.manifest")).images)
        most = max(watch.trees.values(), key=lambda tree: tree.peak)
        print(f"{self.engine}: {run.seconds:.0f} s, {again} images done again, {len(watch.trees)} trees, most {most}")

    def losable(self, run: Survey) -> list[int]:
        """Whose death ends no more than what it does."""
        return self.workers(run)

    def assert_within(self, watch: TreeWatch, limit_bytes: int) -> None:
        """Workers were seen, and held less than their limit."""
        assert sum(tree.looks for tree in watch.trees.values()) > 10
        assert max(tree.peak for tree in watch.trees.values()) <= limit_bytes, watch.trees

    def resume(self, night: Night, folder: Path) -> None:
        """Go on with what was cut off."""
        with self.start(folder, night.images, "--resume") as run:
            run.finish()
            run.wait_until_gone()
        self.assert_whole(run, night)


def program(name: str) -> str:
    """A program beside the interpreter or elsewhere; the test is skipped if there is none."""
    found = shutil.which(name, path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} isn't installed")
    return found
