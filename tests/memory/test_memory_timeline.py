"""The timeline never loses a peak nor grows; the recorder knows what happened."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextract.memory.gauge import Gauge, Reading
from sextract.memory.slab import Slab
from sextract.memory.timeline import ROWS, VALUES, Recorder, Timeline, timeline_bytes

KIB = 1 << 10
MIB = 1 << 20


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


def timeline(*names: str) -> Timeline:
    return Timeline(np.full(timeline_bytes(len(names)), 255, np.uint8), names)


def test_a_short_run_is_kept_sample_by_sample() -> None:
    kept = timeline("a", "b")
    for k in range(ROWS - 1):
        kept.add(k / 100, [k * KIB, 5 * KIB])
    assert kept.stride == 1
    assert list(kept.rows()) == [(pytest.approx(k / 100), [k * KIB, 5 * KIB]) for k in range(ROWS - 1)]


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 9 * ROWS), seed=st.integers(0, 100))
def test_every_sample_is_covered_by_a_row_with_at_least_as_much(samples: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << 30, (samples, 2)) * KIB
    kept = timeline("a", "b")
    for k, value in enumerate(values.tolist()):
        kept.add(float(k), value)
    rows = list(kept.rows())
    assert len(rows) <= ROWS
    starts = [int(seconds) for seconds, _ in rows]
    # From the first sample on, without a gap, at powers of two.
    assert starts == list(range(0, samples, kept.stride))
    expected = np.maximum.reduceat(values, starts, axis=0)
    assert [row for _, row in rows] == expected.tolist()


def test_bytes_are_rounded_up() -> None:
    kept = timeline("a")
    kept.add(0.0, [1])
    assert list(kept.rows()) == [(0.0, [KIB])]


@pytest.fixture
def recorder() -> Recorder:
    """One for two workers."""
    kept = Recorder(Slab(64 * MIB, headroom=plenty))
    kept.keep(2)
    return kept


def test_columns_are_the_processes(recorder: Recorder) -> None:
    assert recorder.timeline is not None
    assert recorder.timeline.names == (*VALUES, "parent", "template", "worker 1", "worker 2")
    alone = Recorder(Slab(64 * MIB, headroom=plenty))
    alone.keep(0)
    assert alone.timeline is not None
    assert alone.timeline.names == (*VALUES, "parent")


def test_a_replaced_worker_keeps_its_column(recorder: Recorder) -> None:
    processes = {"template": 10, "worker 1": 11, "worker 2": 12}
    recorder._processes = lambda: processes
    own = os.getpid()
    start = recorder.seconds
    recorder.take(recorder._started + start, Reading(0, 9, True, processes={own: 1, 10: 1, 11: 3 * KIB, 12: 4 * KIB}))
    # While the dead one isn't replaced it has nothing.
    processes = {"template": 10, "worker 2": 12}
    recorder.take(recorder._started + start + 1, Reading(0, 6, True, processes={own: 1, 10: 1, 12: 4 * KIB}))
    processes = {"template": 10, "worker 1": 13, "worker 2": 12}
    recorder.take(recorder._started + start + 2, Reading(0, 9, True, processes={own: 1, 10: 1, 12: 4 * KIB, 13: 5 * KIB}))
    assert recorder.timeline is not None
    assert [values[-2:] for _, values in recorder.timeline.rows()] == [[3 * KIB, 4 * KIB], [0, 4 * KIB], [5 * KIB, 4 * KIB]]
    assert recorder.largest == ("worker 1", 5 * KIB, pytest.approx(start + 2))


def test_the_peak_is_a_moment_at_which_memory_was_in_use(recorder: Recorder) -> None:
    ref = recorder._slab.alloc(20 * MIB, "tiles")
    recorder.mark("detection")
    at = recorder._started + recorder.seconds
    recorder.take(at, Reading(21 * MIB, 10 * MIB, True))
    recorder._slab.free(ref)
    # The slab stays allocated, and heaps are a little larger.
    recorder.take(at + 1, Reading(21 * MIB, 10 * MIB + 9, True))
    assert recorder.peak is not None
    assert recorder.peak.accounts["tiles"].now == 20 * MIB
    assert recorder.peak.stage == "detection"
    assert recorder.most_held == 31 * MIB + 9
    recorder.take(at + 2, Reading(21 * MIB, 12 * MIB, True))
    assert recorder.peak.accounts["tiles"].now == 0


def test_stages_and_events_are_bounded(recorder: Recorder) -> None:
    for k in range(3000):
        recorder.mark(f"stage {k}")
        recorder.note(f"event {k}")
    assert len(recorder.stages) == len(recorder.events) == 1000
    assert recorder.stages[-1].text == "stage 2999"


def test_it_follows_a_gauge_until_it_is_stopped() -> None:
    slab = Slab(64 * MIB, headroom=plenty)
    recorder = Recorder(slab)
    recorder.keep(0)
    enough = threading.Event()

    def cached() -> int:
        if recorder.samples > 30:
            enough.set()
        return 5 * MIB

    recorder.cached = cached
    gauge = Gauge(list, slab)
    recorder.follow(gauge, dict)
    assert enough.wait(60)
    ref = slab.alloc(30 * MIB, "x")
    slab.free(ref)
    recorder.stop()
    samples = recorder.samples
    assert gauge.peak == recorder.most_held
    assert recorder.end is not None
    assert recorder.end.accounts["report"].now > 0
    assert recorder.timeline is not None
    rows = list(recorder.timeline.rows())
    assert [seconds for seconds, _ in rows] == sorted(seconds for seconds, _ in rows)
    assert rows[-1][1][2] >= 30 * MIB
    assert {values[4] for _, values in rows} == {5 * MIB}
    assert recorder.cpu_seconds > 0
    # Others may go on looking; without a thread, each look is kept.
    gauge.sample()
    assert recorder.samples == samples + 1
    gauge.close()
    slab.close()


def test_without_a_report_nothing_is_kept_but_the_stages() -> None:
    slab = Slab(MIB, headroom=plenty)
    recorder = Recorder(slab)
    gauge = Gauge(list, slab)
    recorder.follow(gauge, dict)
    assert gauge.listener is None
    assert slab.used == 0
    recorder.mark("detection")
    recorder.stop()
    assert [note.text for note in recorder.stages] == ["start", "detection"]
    slab.close()


def test_without_a_thread_the_looks_of_others_are_kept(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    gauge = Gauge(list, recorder._slab)
    recorder.follow(gauge, dict)
    assert [note.text for note in recorder.events] == ["can't start new thread: ten looks a second"]
    gauge.sample()
    gauge.sample()
    recorder.stop()
    assert recorder.samples == 2
    gauge.close()
