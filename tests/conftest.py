"""Options and fixtures for all tests: slow tests on request, and a command line that may leave nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.memory_watch import MARK, Watch, processes

ROOT = Path(__file__).resolve().parents[1]
# How long a process may outlive the command that started it; none of ours lives two seconds without its parent.
GRACE_S = 2.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """--runslow, or --all."""
    parser.addoption(
        "--runslow", "--all", action="store_true", default=False, dest="runslow", help="run slow tests, too"
    )


def pytest_configure() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that is started here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves slow tests out unless asked for."""
    if not config.getoption("runslow"):
        skip = pytest.mark.skip(reason="slow: run with --runslow or --all")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line gave.

    Attributes
    ----------
    code : int
        Exit code; negative for a signal.
    out, err : str
        Its streams.
    made : frozenset of str
        Files that the current folder has since.
    peak : int
        Largest memory of all processes seen, bytes; 0 unless watched.
    samples : int
        How often they were looked at.
    rss : int
        Largest sum of Rss seen, bytes.
    alone, borrowed : int
        See `Watch`.
    """

    code: int
    out: str
    err: str
    made: frozenset[str]
    peak: int = 0
    samples: int = 0
    rss: int = 0
    alone: int = 0
    borrowed: int = 0


def alive_after_grace(pids: set[int]) -> set[int]:
    """Which of these still run when their grace is over."""
    left = set()
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], GRACE_S)[0]:
                left.add(pid)
        finally:
            os.close(handle)
    return left


def environment(mark: str, scratch: Path) -> dict[str, str]:
    """Environment of a run: marked, with a temporary folder of its own, finding the package under test."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, MARK: mark, "TMPDIR": str(scratch), "PYTHONPATH": path}


# What multiprocessing and Open MPI have there for a moment, in tests that run beside.
PASSING = ("sem.mp-", "vader_segment")


def shared_memory() -> set[str]:
    """Names under /dev/shm."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(PASSING)} if os.path.isdir("/dev/shm") else set()


CommandLine = Callable[..., Outcome]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """Runs ``python -m sextract`` in a fresh folder; no process, temporary file or shared memory may be left.

    ``cli("image.fits", "--mem-limit", "512M", timeout=60, cwd=folder)`` gives an `Outcome`; with ``watched=True`` the
    memory of all its processes is sampled meanwhile, which slows it down.
    """
    count = 0

    def run(*args: object, timeout: float = 120.0, cwd: Path | None = None, watched: bool = False) -> Outcome:
        nonlocal count
        count += 1
        mark = uuid.uuid4().hex
        scratch = tmp_path / f".scratch{count}"
        folder = cwd or tmp_path / f"run{count}"
        scratch.mkdir()
        folder.mkdir(exist_ok=True)
        before, shared = set(os.listdir(folder)), shared_memory()
        command = [sys.executable, "-m", "sextract", *map(str, args)]
        env = environment(mark, scratch)
        watch = Watch(mark)
        try:
            with watch if watched else nullcontext():
                done = subprocess.run(
                    command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False
                )
        finally:
            left = alive_after_grace(processes(mark))
        assert not left, f"processes left behind: {left}"
        assert not os.listdir(scratch), "temporary files left behind"
        assert shared_memory() <= shared, "shared memory left behind"
        made = frozenset(set(os.listdir(folder)) - before)
        seen = watch.peak, watch.samples, watch.rss, watch.alone, watch.borrowed
        return Outcome(done.returncode, done.stdout, done.stderr, made, *seen)

    yield run
