"""A process that does images for an engine's worker: its share of the memory, third tries, and when it wants to be replaced."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from sextract.config.resolve import Options, settings_from
from sextract.errors import LimitError
from sextract.execution.host import Host, Work, own_bytes
from sextract.survey.engines.engine import PROGRAM
from sextract.survey.job import Job, Outcome
from tests.scenes import field

ENOUGH = 400 << 20


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.dismiss("")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    image = field(tmp_path / "image.fits", 256, 40).path
    settings = settings_from(str(image), Options(output=str(tmp_path / "image.cat.fits"), workers=0))
    return Job(1, str(image), str(tmp_path), settings)


def done(host: Host, job: Job, room: int = ENOUGH) -> Outcome:
    """What comes of a job under a limit of so much beside this process."""
    outcome: Outcome = pickle.loads(host.do(Work(PROGRAM, pickle.dumps(job), own_bytes() + room)))
    return outcome


def pid(host: Host) -> int:
    (child,) = host._idle
    return child.process.pid


def test_an_image_is_done_in_one_process_within_the_share(host: Host, job: Job) -> None:
    outcome = done(host, job)
    assert (outcome.number, outcome.exit_code, outcome.error) == (1, 0, "")
    assert outcome.summary is not None
    assert outcome.summary.workers == 0
    assert 0.8 * ENOUGH < outcome.summary.limit_bytes < ENOUGH
    assert "sextracted" in outcome.log
    assert Path(job.settings.output.catalog_name).stat().st_size == outcome.outputs[0][1]


def test_the_third_try_is_by_a_process_beside_it_with_the_same_bytes(host: Host, job: Job) -> None:
    first, third = done(host, job), done(host, job._replace(attempt=3))
    assert third.summary is not None
    assert third.summary.workers == 1
    assert third.outputs == first.outputs


def faults(host: Host) -> int:
    """Pages that the kernel has given the process so far, one at a time."""
    return int(Path(f"/proc/{pid(host)}/stat").read_text().rpartition(")")[2].split()[7])


def test_small_images_have_the_pages_of_those_before(host: Host, job: Job) -> None:
    outcomes, given = [], [0]
    for _ in range(5):
        outcomes.append(done(host, job))
        given.append(faults(host))
    assert len({outcome.outputs for outcome in outcomes}) == 1
    # The first run imports and keeps nothing, the second begins to keep.
    _, fresh, *again = (after - before for before, after in pairwise(given))
    assert max(again) < fresh / 4, given


def test_the_share_may_change_between_images(host: Host, job: Job) -> None:
    resources = replace(job.settings.resources, workers=2)
    forking = job._replace(settings=replace(job.settings, resources=resources))
    rooms = (100, 400, 90, 300, 600, 400)
    outcomes = [done(host, forking if k == 3 else job, room << 20) for k, room in enumerate(rooms)]
    assert len({outcome.outputs for outcome in outcomes}) == 1
    for outcome, room in zip(outcomes, rooms, strict=True):
        assert outcome.summary is not None
        assert outcome.summary.peak_bytes < outcome.summary.limit_bytes < room << 20
        assert outcome.summary.workers == (2 if room == 300 else 0)


def test_workers_of_its_own_if_asked_for(host: Host, job: Job) -> None:
    resources = replace(job.settings.resources, workers=2)
    outcome = done(host, job._replace(settings=replace(job.settings, resources=resources)))
    assert outcome.summary is not None
    assert outcome.summary.workers == 2


def test_a_share_that_is_too_small_is_tried_in_a_fresh_process(host: Host, job: Job) -> None:
    done(host, job)
    before = pid(host)
    outcome = done(host, job, 40 << 20)
    assert outcome.exit_code == LimitError.exit_code
    assert "the engine's own process takes" in outcome.error
    assert pid(host) != before
    assert done(host, job).exit_code == 0


def test_a_bad_image_is_an_outcome(host: Host, job: Job) -> None:
    Path(job.image).write_bytes(b"nothing")
    outcome = done(host, job)
    assert outcome.exit_code == 3
    assert job.image in outcome.error
