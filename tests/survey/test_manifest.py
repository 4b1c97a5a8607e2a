"""The manifest: what is kept of an earlier survey, what a killed one leaves, and what can't be one."""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import pytest

import sextract.survey.manifest as module
from sextract.config.settings import Settings
from sextract.errors import OutputError
from sextract.pipeline import ExtensionSummary, Summary
from sextract.survey.job import Job, Outcome
from sextract.survey.manifest import DONE, FAILED, RUNNING, WAITING, Entry, Manifest, read_manifest

ENTRIES = [Entry(k, f"{k}.fits", f"{k}.cat", "ASCII") for k in (1, 2, 3)]
EXTENSION = ExtensionSummary(10, 20, 1.5, 0.5, 0.75, 2.0, 0.2, 9, 8)
SUMMARY = Summary(8, 9, 0, 0.1, 1.0, 1 << 20, 2 << 20, 0, 0, ("1.cat",), {1: 3, 128: 1}, (EXTENSION, EXTENSION))


def job(number: int, attempt: int = 1) -> Job:
    return Job(number, f"{number}.fits", "/", Settings(), attempt)


def outcome(number: int) -> Outcome:
    outputs = ((f"{number}.cat", 100, "abc"),)
    return Outcome(number, 0, "", "", "hash", "input", outputs, 0.1, 0.0, 60.0, "host", SUMMARY)


def valid(earlier: Entry, now: Entry) -> bool:
    return earlier.configuration == "hash"


def test_what_became_of_images(tmp_path):
    path = str(tmp_path / "m")
    with Manifest(path) as manifest:
        assert manifest.begin({"folder": "/"}, ENTRIES, valid) == 0
        manifest.started(job(1))
        manifest.finished(outcome(1), 25.0)
        manifest.started(job(2, attempt=2))
        manifest.finished(Outcome(2, 3, "it is no FITS"), 25.0)
        assert manifest.waiting() == [2, 3]
    survey = read_manifest(path)
    assert survey.facts == {"format": "1", "folder": "/"}
    one, two, three = survey.images
    assert one == Entry(
        1, "1.fits", "1.cat", "ASCII", DONE, "hash", "input", '{"1.cat": [100, "abc"]}', 1, 8, 9, 0.1, 1 << 20, 2 << 20, 0,
        "host", "1970-01-01T00:00:00", "1970-01-01T00:01:00", 0, "", '{"1": 3, "128": 1}',
    )  # fmt: skip
    assert one.files == {"1.cat": (100, "abc")}
    assert (two.state, two.exit_code, two.error, two.attempts, two.rows) == (FAILED, 3, "it is no FITS", 2, None)
    assert three == ENTRIES[2]
    assert survey.extensions == [(1, k, 10, 20, 1.5, 0.5, 0.75, 2.0, 0.2, 25.0, 9, 8) for k in (1, 2)]


def test_going_on_keeps_what_is_done_and_valid_under_its_new_number(tmp_path):
    path = str(tmp_path / "m")
    with Manifest(path) as manifest:
        manifest.begin({}, ENTRIES, valid)
        manifest.finished(outcome(1), 0.0)
        manifest.finished(outcome(3)._replace(configuration="another"), 0.0)
    new = [Entry(1, "0.fits", "0.cat", "ASCII"), *(e._replace(number=e.number + 1) for e in ENTRIES)]
    with Manifest(path) as manifest:
        assert manifest.begin({}, new, valid) == 1
        assert manifest.waiting() == [1, 3, 4]
    survey = read_manifest(path)
    assert [(e.number, e.image, e.state) for e in survey.images] == [
        (1, "0.fits", WAITING), (2, "1.fits", DONE), (3, "2.fits", WAITING), (4, "3.fits", WAITING)
    ]  # fmt: skip
    assert [(e.number, e.extension) for e in survey.extensions] == [(2, 1), (2, 2)]


def test_the_same_image_with_another_catalogue_is_another_one(tmp_path):
    path = str(tmp_path / "m")
    with Manifest(path) as manifest:
        manifest.begin({}, ENTRIES, valid)
        manifest.finished(outcome(1), 0.0)
    with Manifest(path) as manifest:
        assert manifest.begin({}, [ENTRIES[0]._replace(catalogue="new.cat")], valid) == 0


def test_what_was_committed_survives_and_what_ran_is_seen(tmp_path):
    path = str(tmp_path / "m")
    manifest = Manifest(path)
    manifest.begin({}, ENTRIES, valid)
    manifest.finished(outcome(1), 0.0)
    manifest.started(job(2))
    manifest.commit()
    manifest.finished(outcome(2), 0.0)
    # Not closed: as a kill leaves it.
    manifest._db.close()
    assert [e.state for e in read_manifest(path).images] == [DONE, RUNNING, WAITING]
    with Manifest(path) as manifest:
        manifest.stopped()
        manifest.commit()
    assert [e.state for e in read_manifest(path).images] == [DONE, WAITING, WAITING]


def test_commits_come_now_and_then(tmp_path):
    path = str(tmp_path / "m")
    with Manifest(path) as manifest:
        manifest.begin({}, ENTRIES, valid)
        manifest.finished(outcome(1), 0.0)
        manifest.commit(now=False)
        # The first commit was hardly a second ago.
        assert manifest._dirty


@contextmanager
def interrupted_at(step: int) -> Iterator[list[int]]:
    """Has so many steps of the manifest's own code done, then a signal comes; gives how many steps are left in the end."""
    left = [step]

    def trace(frame: FrameType, event: str, argument: object) -> object:
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        left[0] -= event == "opcode"
        if left[0] == 0:
            left[0] = -1
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(KeyboardInterrupt):
            yield left
    finally:
        sys.settrace(before)


def test_a_signal_at_any_moment_leaves_a_manifest_that_is_whole(tmp_path):
    """Python raises its interrupt between any two instructions: between the end of a transaction and the next, too."""
    ends = set()
    for step in itertools.count(1):
        path = str(tmp_path / f"m{step}")
        with Manifest(path) as manifest:
            manifest.begin({}, ENTRIES, valid)
            with interrupted_at(step) as left:
                manifest.started(job(1))
                manifest.finished(outcome(1), 0.0)
                manifest.commit()
                manifest.started(job(2))
            manifest.stopped()
        survey = read_manifest(path)
        states = [entry.state for entry in survey.images]
        assert states in ([WAITING] * 3, [DONE, WAITING, WAITING])
        assert len(survey.extensions) == 2 or states[0] == WAITING
        ends.add(states[0])
        os.unlink(path)
        if left[0] > 0:
            break
    assert step > 200 and ends == {WAITING, DONE}


def test_one_survey_writes_at_a_time(tmp_path):
    path = str(tmp_path / "m")
    with Manifest(path), pytest.raises(OutputError, match="another survey is writing to it; choose another place"):
        Manifest(path)


def test_a_full_disk_is_told_as_such_whatever_comes_after(tmp_path):
    path = str(tmp_path / "m")
    manifest = Manifest(path)
    manifest.begin({}, ENTRIES, valid)
    (pages,) = manifest._db.execute("PRAGMA page_count").fetchone()
    manifest._db.execute(f"PRAGMA max_page_count = {pages}")
    manifest.finished(outcome(1), 0.0)
    with pytest.raises(OutputError, match="full") as first:
        manifest.finished(outcome(2)._replace(error="x" * 100_000), 0.0)
    for attempt in (manifest.stopped, manifest.commit, manifest.close):
        with pytest.raises(OutputError) as again:
            attempt()
        assert again.value is first.value
    # What was committed before holds.
    assert [entry.state for entry in read_manifest(path).images] == ["waiting"] * len(ENTRIES)


def test_other_files_are_left_alone(tmp_path):
    path = tmp_path / "text"
    path.write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(OutputError, match="can't write the manifest"):
        Manifest(str(path))
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE birds (name TEXT)")
    db.close()
    with pytest.raises(OutputError, match="is a database, but no manifest"):
        Manifest(str(other))
    with pytest.raises(OutputError, match="there is no such file"):
        read_manifest(str(tmp_path / "none"))
    with pytest.raises(OutputError, match="can't read the manifest"):
        read_manifest(str(other))
    with pytest.raises(OutputError, match="can't write the manifest"):
        Manifest(str(tmp_path / "no folder" / "m"))
