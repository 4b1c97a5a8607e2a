"""``--profile`` on the command line: what a trace tells of a whole run, and that it changes nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CommandLine
from tests.faults.harness import Started, kill
from tests.scenes import field

COLUMNS = "NUMBER\nX_IMAGE\nXWIN_IMAGE\nALPHA_J2000\nFLUX_AUTO\nFLAGS\n"
TASKS = {"warm", "setup", "mesh", "scan", "deblend", "measure", "table"}
# Half a tick of the nanosecond clock, in microseconds as floats have them.
ROUNDING = 1e-3


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    (folder / "p.param").write_text(COLUMNS)
    return field(folder / "field.fits", 1024, 800, 3).path


def options(image: Path, workers: int) -> list[Any]:
    param = image.with_name("p.param")
    return [image, "-PARAMETERS_NAME", param, "-o", "out.cat", "--workers", workers, "--mem-limit", "256M"]


def tracks(trace: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Spans of each track in the order in which they begin, the outer ones first."""
    out = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            out[event["tid"]].append(event)
    for spans in out.values():
        spans.sort(key=lambda e: (e["ts"], -e["dur"]))
    return out


def outermost(spans: list[dict[str, Any]]) -> list[str]:
    """Names of the spans that lie in no other; every other must lie in one wholly."""
    names, end = [], 0.0
    for span in spans:
        if span["ts"] >= end - ROUNDING:
            names.append(span["name"])
            end = span["ts"] + span["dur"]
        assert span["ts"] + span["dur"] <= end + ROUNDING, span
    return names


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_tells_what_each_process_did(image: Path, cli: CommandLine, tmp_path: Path, workers: int) -> None:
    plain = cli(*options(image, workers))
    done = cli(*options(image, workers), "--profile", "{stem}.json")
    assert (plain.code, done.code) == (0, 0), done.err
    assert done.made == {"out.cat", "field.json"}
    assert (tmp_path / "run2" / "out.cat").read_bytes() == (tmp_path / "run1" / "out.cat").read_bytes()
    trace = json.loads((tmp_path / "run2" / "field.json").read_text())
    found = tracks(trace)
    assert set(found) == set(range(max(workers, 1) + 1))
    for number, spans in found.items():
        outer = outermost(spans)
        assert number == 0 or set(outer) <= TASKS, outer
    assert found[0][0]["name"] == "start-up"
    assert {"workers", "wait", "complete", "join", "clean", "write", "finish"} <= {span["name"] for span in found[0]}
    work = [span for number, spans in found.items() if number for span in spans]
    assert {"read", "subtract", "runs", "cells", "stamps", "windowed", "growth", "sky"} <= {span["name"] for span in work}
    rows = int(done.err.split(" sources (")[0].split()[-1])
    assert sum(span["args"]["sources"] for span in work if span["name"] == "windowed") == rows > 0
    # A process has a processor no longer than it runs; the clocks differ by little.
    spans = [span for track in found.values() for span in track]
    assert all(0 <= span["args"]["cpu_us"] <= span["dur"] + 2000 for span in spans if span["name"] != "start-up")
    assert found[0][0]["args"]["cpu_us"] > 0
    names = {event["args"]["name"].split(",")[0] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert names == {"sextract", "parent", *(f"worker {n + 1}" for n in range(workers))}
    cpu = trace["otherData"]["cpu_seconds"]
    assert set(cpu) == {"parent", *(["template", "worker 1", "worker 2"] if workers else [])}
    assert cpu["parent"] > 0


def test_a_trace_survives_workers_that_are_killed(image: Path, tmp_path: Path) -> None:
    with Started(tmp_path / "run", *options(image, 2), "--profile", "t.json") as run:
        ended = 0
        for _ in range(3):
            workers = run.wait_for_workers(2)
            ended += bool(workers) and kill(workers[-1])
            run.wait_for(lambda killed=workers: not set(killed) <= set(run.workers()))
    assert run.code == 0, run.err
    assert ended
    found = tracks(json.loads((tmp_path / "run" / "t.json").read_text()))
    assert set(found) == {0, 1, 2}
    for spans in found.values():
        outermost(spans)


def test_a_failed_run_leaves_none(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "bad.fits").write_bytes(b"SIMPLE")
    done = cli(tmp_path / "bad.fits", "-o", "out.cat", "--profile", "t.json")
    assert done.code != 0
    assert done.made == set()


def test_by_keyword_and_refused(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    done = cli(*options(image, 0), "-PROFILE", "t.json", "-VERBOSE_TYPE", "QUIET")
    assert (done.code, done.made) == (0, {"out.cat", "t.json"})
    done = cli(*options(image, 0), "--profile", "nowhere/t.json")
    assert done.code != 0
    assert "nowhere/t.json" in done.err and "--profile" in done.err
    done = cli(*options(image, 0), "--profile", "out.cat")
    assert done.code != 0
    assert "would be written twice" in done.err
