"""SIGKILL to workers and to the process that forks them, at any moment: the same bytes, within the limit, or a clear end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.conftest import LIMIT
from tests.faults.harness import EVERYTHING, SECONDS, Started, kill
from tests.memory_watch import Watch


def killed_at_random(folder: Path, image: Path, calm: Started, rng: random.Random, kills: int = 1) -> int:
    """A run that loses workers at moments spread over its length; how many it lost.  Its outputs must be the calm run's."""
    moments = sorted(rng.uniform(0, calm.seconds) for _ in range(kills))
    if kills > 1:
        # One at once, however long the calm run took on a busy machine.
        moments[0] = 0.0
    lost = 0
    with Started(folder, image, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        for at, after in zip(moments, [0.0, *moments], strict=False):
            if run.ended(at - after):
                break
            victims = run.wait_for_workers(1)
            lost += bool(victims) and kill(rng.choice(victims))
        assert run.finish() == 0, run.err
    assert run.outputs() == calm.outputs()
    return lost


@pytest.mark.parametrize("seed", range(3))
def test_the_same_bytes_whenever_a_worker_is_killed(tmp_path: Path, large: Path, calm: Started, seed: int) -> None:
    assert killed_at_random(tmp_path / "run", large, calm, random.Random(seed), kills=4) > 0


@pytest.mark.slow
def test_two_hundred_kills_two_hundred_catalogues(tmp_path: Path, large: Path, calm: Started) -> None:
    rng = random.Random(200)
    lost = runs = 0
    # A run that was over too soon to be killed is one more.
    while lost < 200 and runs < 300:
        runs += 1
        lost += killed_at_random(tmp_path / f"run{runs}", large, calm, rng)
        for file in (tmp_path / f"run{runs}").glob("*.fits"):
            file.unlink()
    assert lost == 200


@pytest.mark.slow
def test_many_kills_in_each_of_many_runs(tmp_path: Path, large: Path, calm: Started) -> None:
    rng = random.Random(7)
    lost = runs = 0
    # How many of the kills come before the end depends on how busy the machine was during the calm run.
    while runs < 20 or (lost <= 60 and runs < 60):
        runs += 1
        lost += killed_at_random(tmp_path / f"run{runs}", large, calm, rng, kills=6)
    assert lost > 60


def test_both_workers_at_once_and_their_replacements_at_once(tmp_path: Path, large: Path, calm: Started) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        first = run.wait_for_workers(2)
        assert sum(kill(pid) for pid in first) == 2
        # One of these may be on its way to its first task, or may not have said hello yet.
        assert run.wait_for(lambda: bool(set(run.workers()) - set(first)))
        for pid in set(run.workers()) - set(first):
            kill(pid)
        assert run.finish() == 0, run.err
    assert run.outputs() == calm.outputs()


def test_the_process_that_forks_workers(tmp_path: Path, large: Path, calm: Started) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        # While it forks the first workers, and when tasks are on their way.
        assert run.wait_for(lambda: run.template() > 0)
        first = run.template()
        assert kill(first)
        assert run.wait_for(lambda: run.template() not in (0, first))
        assert len(run.wait_for_workers(2)) == 2
        assert kill(run.template())
        assert run.finish() == 0, run.err
    assert run.outputs() == calm.outputs()


def test_the_limit_holds_while_workers_are_killed(tmp_path: Path, large: Path, calm: Started) -> None:
    killed = 0
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        with Watch(run.mark) as watch:
            # A long task may follow the oldest each time, and is given up after five.
            while killed < 4 and not run.ended(0.15):
                killed += sum(kill(pid) for pid in run.workers()[:1])
            assert run.ended(SECONDS)
        assert run.finish() == 0, run.err
    assert killed > 0 and watch.samples > 0
    assert watch.peak <= 160 << 20
    assert run.outputs() == calm.outputs()


def test_a_pool_that_keeps_being_killed_stops_with_one_line(tmp_path: Path, large: Path) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT) as run:
        while not run.ended():
            for pid in run.workers():
                kill(pid)
        run.finish()
        run.assert_stopped(1, "SIGKILL")


def test_a_template_that_keeps_being_killed_stops_with_one_line(tmp_path: Path, large: Path) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT) as run:
        while not run.ended():
            if template := run.template():
                kill(template)
        run.finish()
        run.assert_stopped(1, "killed again and again")
