"""What a trace says of a run, and the model of other numbers of workers, on made-up traces whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.scenes import script

model = script("trace_model")

N = 12


def bar(track: int, name: str, begin: float, end: float, **facts: float) -> dict[str, Any]:
    """A span of a trace; its facts are seconds, as `cpu`, or numbers."""
    args = {f"{key}_us" if key == "cpu" else key: round(1e6 * v) if key == "cpu" else v for key, v in facts.items()}
    return {"ph": "X", "pid": 1, "tid": track, "name": name, "ts": 1e6 * begin, "dur": 1e6 * (end - begin), "args": args}


def made_up() -> dict[str, Any]:
    """One worker that was held up: each task took twice its CPU time; the parent waited but for its own spans."""
    spans = [bar(0, "start-up", 0.0, 0.6, cpu=0.3), bar(0, "workers", 0.6, 0.7), bar(1, "warm", 0.6, 0.7, cpu=0.1)]
    at = 1.0
    for name, seconds, inner in (("mesh", 0.1, "cells"), ("scan", 0.2, "runs"), ("deblend", 0.3, ""), ("measure", 0.4, "kron")):
        for _ in range(N):
            spans.append(bar(1, name, at, at + 2 * seconds, cpu=seconds))
            if inner:
                spans.append(bar(1, inner, at + 0.01, at + seconds, **({"sources": 100} if inner == "kron" else {})))
            at += 2 * seconds
            if name in ("scan", "deblend"):
                spans.append(bar(0, {"scan": "join", "deblend": "clean"}[name], at - 0.001, at))
    for k in range(N):
        spans.append(bar(1, "table", at, at + 0.1, cpu=0.5 if k == 0 else 0.05))
        at += 0.1
        spans.append(bar(0, "write", at, at + 0.002))
    spans += [bar(0, "wait", at + 0.002, at + 0.01), bar(0, "finish", at + 0.01, at + 0.03)]
    cpu = {"parent": 0.3 + N * 0.004 + 5 * N * 0.001, "template": 0.0, "worker 1": 0.1 + N * 1.05 + 0.45}
    return {"traceEvents": spans, "otherData": {"cpu_seconds": cpu}}


def work(**changes: Any) -> Any:
    """Tasks of a second each, without any work of the parent's."""
    even = tuple(N * k / N for k in range(N + 1))
    plain = model.Work(
        serial=0.0, mesh=(1.0,) * N, complete=0.0, scan=(1.0,) * N, join=(0.0,) * N, deblend=float(N),
        deblend_after=even, blends=1.0, least_blends=1.0, clean=0.0, measure=float(N), measure_after=even, batch=1.0, least=1.0,
        table=0.0, load=0.0, write=0.0, answer=0.0, has_table="table" in changes,
    )  # fmt: skip
    return replace(plain, **changes)


def test_where_the_time_went() -> None:
    found = model.breakdown(made_up())
    stages = found["stages"]
    assert "wait" not in stages
    assert stages["background cells"] == pytest.approx(N * 0.09)
    assert stages["mesh tasks, beside"] == pytest.approx(N * (0.1 - 0.09))
    assert stages["seams"] == pytest.approx(N * 0.001) and stages["write"] == pytest.approx(N * 0.002)
    assert stages["kron"] == pytest.approx(N * 0.39)
    assert stages["deblend"] == pytest.approx(N * 0.3)
    assert found["parent_share"] == pytest.approx((N * 0.009) / (0.1 + N * 1.05 + 0.45))
    assert found["idle"] == [pytest.approx(0.3, abs=1e-6)]


def test_the_work_of_a_trace() -> None:
    found = model.work_of(made_up())
    assert found.mesh == pytest.approx((0.1,) * N) and found.scan == pytest.approx((0.2,) * N)
    assert found.measure == pytest.approx(N * 0.4) and found.batch == pytest.approx(0.4)
    assert found.least == pytest.approx(0.4 * 96 / 100)
    # All tiles had been joined before footprints were looked at, and all CLEAN done before sources were measured.
    assert found.deblend_after[0] == 0.0 and found.deblend_after[-1] == pytest.approx(N * 0.3)
    assert found.measure_after[-2] == pytest.approx(0.0) and found.measure_after[-1] == pytest.approx(N * 0.4)
    assert found.blends == pytest.approx(0.3)
    assert found.load == pytest.approx(0.45) and found.table == pytest.approx(N * 0.05)
    # The bookkeeping that no span of the parent has, for each of 60 answers.
    assert found.answer == pytest.approx(0.001)
    # Start-up by its CPU time, workers, from the last row to the end.
    assert found.serial == pytest.approx(0.3 + 0.1 + 0.02, abs=1e-6)
    # One worker that nothing holds up does its work without a gap but for the parent's between background and tiles.
    one = model.predicted(found, 1, 2)
    assert one == pytest.approx(found.serial + found.spread, rel=0.01)


def test_work_is_shared_by_workers() -> None:
    assert model.predicted(work(), 1) == pytest.approx(4 * N)
    assert model.predicted(work(), 2) == pytest.approx(2 * N, abs=1.0)
    assert model.predicted(work(), 4) == pytest.approx(N, abs=2.0)
    assert model.predicted(work(serial=7.0, spawn=0.5), 2) == pytest.approx(7.5 + 2 * N, abs=1.0)
    # Two cores do no more with four workers.
    assert model.predicted(work(), 4, 2) == pytest.approx(2 * N, abs=2.0)


def test_no_more_workers_than_tasks_are_of_use() -> None:
    # Tiles, footprints and sources one step after the other; measuring is shared out to the least, cells to all.
    few = work(mesh=(64.0,), measure_after=(*(0.0,) * N, float(N)), deblend_after=(*(0.0,) * N, float(N)), least=0.5)
    assert model.predicted(few, 64) == pytest.approx(1 + 1 + 1 + 0.5)


@pytest.mark.parametrize(
    ("part", "changes", "wall"),
    [
        ("start-up and end", {"serial": 100.0}, 100.0),
        ("parent's work on answers", {"answer": 2.0, "mesh": ()}, 2.0 * 3 * N),
        ("sky positions in one worker", {"table": 60.0}, 60.0),
    ],
)
def test_what_binds_first(part: str, changes: dict[str, Any], wall: float) -> None:
    found = model.bounds(work(**changes), 16)
    assert found["binds"] == part
    assert wall < found["wall"] < wall + 12.0
    assert found["efficiency"] < 0.5
    assert found["saved"][part] > 0.8 * wall


def test_what_waits_for_clean_is_left_for_the_end() -> None:
    # The parent joins for longer than two workers are busy: what they could measure meanwhile costs nothing.
    late = work(join=(3.0,) * N, measure_after=(*(0.0,) * N, float(N)))
    found = model.bounds(late, 2)
    assert 1.5 < found["saved"]["CLEAN's reach"] <= N / 2


def test_the_parent_takes_a_core_from_workers() -> None:
    busy = work(answer=0.5)
    # One core for both, or one each.
    assert model.predicted(busy, 2, 2) > model.predicted(busy, 2, 3)
    assert model.predicted(busy, 1, 2) == pytest.approx(4 * N, abs=2.0)


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.66])
def test_a_larger_image_has_so_many_times_the_work(factor: float) -> None:
    large = model.enlarged(work(complete=0.1, write=0.3, table=0.4), factor)
    assert large.spread == pytest.approx(factor**2 * (4 * N + 0.4), rel=0.1)
    assert large.write == pytest.approx(0.3 * factor**2)
    assert len(large.deblend_after) == len(large.join) + 1 and large.deblend_after[-1] == pytest.approx(large.deblend)
    assert model.predicted(large, 4) == pytest.approx(factor**2 * N, rel=0.25)
