"""What a trace of ``--profile`` says: where the time went, and a model of the same run on other numbers of workers and cores.

The model replays the tasks of a recorded run, with the CPU time that each took, in the order and with the dependencies of
the pipeline (``docs/internals.md``): background cells; the parent's background map; tiles in their order; joining their
runs, in order; deblending; CLEAN, in order; measuring behind CLEAN's reach, in batches that are shared out at the end;
columns that follow from the row in the first worker; writing, in order.  Each worker has a task that runs and one that waits,
the parent does its own work for one answer after the other, and what runs shares the cores.

It knows nothing of memory bandwidth, of cores that slow down when all are busy, or of tiles that get smaller when many
workers share a limit: what it says of many cores is an upper bound.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sextract.execution.backend import TASKS_PER_WORKER
from sextract.pipeline.extraction import FEWEST_FOOTPRINTS, FOOTPRINTS_PER_TASK
from sextract.pipeline.measuring import FEWEST, LAST_SHARES

TASKS = ("setup", "warm", "mesh", "scan", "deblend", "measure", "table")
# Spans of the run's own process that are work for one answer, and what they are called here.
PARENT = ("complete", "join", "clean", "write")
STAGES = {
    "start-up": "start-up", "workers": "starting workers", "read": "read", "cells": "background cells",
    "complete": "background map", "subtract": "subtract background", "runs": "filter, threshold, runs", "join": "seams",
    "deblend": "deblend", "clean": "CLEAN", "stamps": "stamps and masks", "sky": "sky positions", "write": "write",
    "finish": "finish", "wait": "wait", "warm": "warm-up",
}  # fmt: skip
# Below this the parent's wait for an answer isn't told from the clock's grain, seconds.
TINY = 1e-9
# Tasks of background cells for each worker, at least.
MESH_TASKS = 4


@dataclass
class Span:
    """A bar of a trace; `inner` are those within it, times in seconds."""

    name: str
    begin: float
    end: float
    facts: dict[str, int] = field(default_factory=dict)
    inner: list[Span] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    @property
    def alone(self) -> float:
        """Seconds outside of what is within."""
        return self.seconds - sum(span.seconds for span in self.inner)

    @property
    def cpu(self) -> float:
        """Seconds of CPU, or of wall where the trace doesn't say."""
        return self.facts["cpu_us"] / 1e6 if "cpu_us" in self.facts else self.seconds


def tracks(trace: dict[str, Any]) -> dict[int, list[Span]]:
    """The outermost spans of each track, in order; 0 is the run's own process."""
    found: dict[int, list[Span]] = defaultdict(list)
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    for e in sorted(events, key=lambda e: (e["tid"], e["ts"], -e["dur"])):
        span = Span(e["name"], e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6, e.get("args", {}))
        level = found[e["tid"]]
        # Microseconds as floats are rounded.
        while level and span.begin < level[-1].end - 1e-8:
            level = level[-1].inner
        level.append(span)
    return dict(found)


def every(spans: Iterable[Span]) -> Iterable[Span]:
    """Spans and all within them."""
    for span in spans:
        yield span
        yield from every(span.inner)


def breakdown(trace: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds by stage, over all processes.

    Returns
    -------
    dict
        ``stages``: seconds of CPU by name; ``idle``: seconds that each worker had nothing to do, from its first task to
        the last of all; ``wall``; ``cpu``: by process; ``parent_share``: the parent's CPU after start-up over the workers'.
    """
    found = tracks(trace)
    stages: Counter[str] = Counter()
    for span in every(span for spans in found.values() for span in spans):
        name = STAGES.get(span.name, f"{span.name} tasks, beside" if span.name in TASKS else span.name)
        stages[name] += span.cpu - sum(inner.cpu for inner in span.inner)
    parent, workers = found[0], [spans for number, spans in sorted(found.items()) if number]
    del stages["wait"]
    last = max(spans[-1].end for spans in workers)
    cpu = trace["otherData"]["cpu_seconds"]
    others = sum(seconds for name, seconds in cpu.items() if name.startswith("worker"))
    own = max(cpu["parent"] - parent[0].cpu, 0.0)
    stages["parent's own work"] = max(own - sum(span.cpu for span in parent if span.name in (*PARENT, "workers")), 0.0)
    return {
        "stages": dict(stages),
        "idle": [last - spans[0].begin - sum(span.seconds for span in spans) for spans in workers],
        "wall": parent[-1].end - parent[0].begin,
        "cpu": cpu,
        "parent_share": own / others if others else None,
    }


@dataclass(frozen=True)
class Work:
    """What a run did, in seconds of CPU; what the model replays.

    Attributes
    ----------
    serial : float
        Start-up, and what comes when all rows are written.
    mesh, scan, join : tuple of float
        Costs of tasks, and of the parent's work on a row of tiles, in order.
    complete : float
        The background map.
    deblend, clean, measure, table, write : float
        All deblending, CLEAN, measuring, columns that follow from the row, and writing.
    deblend_after : tuple of float
        Part of `deblend` that can be done when so many rows of tiles are joined, from none to all.
    measure_after : tuple of float
        Part of `measure` that can be done when so much has been through CLEAN, from nothing to all in even steps.
    blends, batch : float
        Usual tasks of deblending and measuring; `least_blends` and `least` are those to which the last are cut.
    load : float
        Libraries that the first columns that follow from the row load.
    answer : float
        The parent's work for any answer, beside what is named.
    has_table : bool
    spawn : float
        What one more worker adds to the start, which a trace doesn't tell.
    """

    serial: float
    mesh: tuple[float, ...]
    complete: float
    scan: tuple[float, ...]
    join: tuple[float, ...]
    deblend: float
    deblend_after: tuple[float, ...]
    blends: float
    least_blends: float
    clean: float
    measure: float
    measure_after: tuple[float, ...]
    batch: float
    least: float
    table: float
    load: float
    write: float
    answer: float
    has_table: bool = True
    spawn: float = 0.0

    @property
    def spread(self) -> float:
        """What workers do together."""
        return sum(self.mesh) + sum(self.scan) + self.deblend + self.measure + self.table + self.load


def work_of(trace: dict[str, Any]) -> Work:
    """What a recorded run did."""
    found = tracks(trace)
    parent = found[0]
    tasks = sorted((span for number, spans in found.items() if number for span in spans), key=lambda span: span.begin)
    of = {name: [span for span in tasks if span.name == name] for name in TASKS}
    own = {name: [span for span in parent if span.name == name] for name in (*PARENT, "workers", "finish")}
    cpu = trace["otherData"]["cpu_seconds"]
    answers = max(sum(len(of[name]) for name in TASKS if name not in ("setup", "warm")), 1)
    others = sum(seconds for name, seconds in cpu.items() if name.startswith("worker"))
    # What a worker does between tasks.
    beside = max(others - sum(span.cpu for span in tasks), 0.0) / answers
    costs = {name: tuple(span.cpu + beside for span in of[name]) for name in TASKS}
    named = {name: tuple(span.cpu for span in own[name]) for name in own}
    # What comes between the last row and the end that no span has: processes end.
    rows_done = max((span.end for name in ("write", "wait") for span in parent if span.name == name), default=parent[-1].end)
    sizes = [max((span.facts.get("sources", 0) for span in task.inner), default=0) for task in of["measure"]]
    measure, deblend = sum(costs["measure"]), sum(costs["deblend"])
    batch, blends = max(costs["measure"], default=0.0), max(costs["deblend"], default=0.0)
    # The first one loads libraries.
    first, rest = costs["table"][:1], costs["table"][1:]
    load = max(sum(first) - (statistics.median(rest) if rest else 0.0), 0.0)
    return Work(
        serial=parent[0].cpu + sum(span.seconds for span in own["workers"]) + parent[-1].end - rows_done,
        mesh=costs["mesh"],
        complete=sum(named["complete"]),
        scan=costs["scan"],
        join=named["join"],
        deblend=deblend,
        deblend_after=_begun(of["deblend"], costs["deblend"], [span.end for span in own["join"]]),
        blends=blends,
        least_blends=blends * FEWEST_FOOTPRINTS / FOOTPRINTS_PER_TASK,
        clean=sum(named["clean"]),
        measure=measure,
        measure_after=_begun(of["measure"], costs["measure"], [span.end for span in own["clean"]]),
        batch=batch,
        least=min(measure * FEWEST / sum(sizes), batch) if sum(sizes) else batch,
        table=sum(costs["table"]) - load,
        load=load,
        write=sum(named["write"]),
        answer=max(cpu["parent"] - parent[0].cpu - sum(sum(named[name]) for name in PARENT), 0.0) / answers,
        has_table=bool(of["table"]),
    )


def _begun(tasks: Sequence[Span], costs: Sequence[float], steps: Sequence[float]) -> tuple[float, ...]:
    """Work that had begun before each step ended, so that it can't have waited for it, and all."""
    begun = [sum(cost for task, cost in zip(tasks, costs, strict=True) if task.begin < end) for end in steps]
    return (*begun, sum(costs))


def enlarged(work: Work, factor: float) -> Work:
    """The same on an image `factor` times as wide and as high: more tiles in a row, and more rows."""
    area = factor * factor
    across = max(len(work.scan) // max(len(work.join), 1), 1)
    rows = round(len(work.join) * factor)
    return replace(
        work,
        mesh=_repeated(work.mesh, round(len(work.mesh) * area)),
        complete=work.complete * area,
        scan=_repeated(work.scan, rows * round(across * factor)),
        # A row has more pixels than before.
        join=tuple(factor * cost for cost in _repeated(work.join, rows)),
        deblend=work.deblend * area,
        deblend_after=_stretched(work.deblend_after, rows, factor),
        clean=work.clean * area,
        measure=work.measure * area,
        measure_after=_stretched(work.measure_after, round((len(work.measure_after) - 1) * area), factor),
        table=work.table * area,
        write=work.write * area,
    )


def _repeated(costs: Sequence[float], n: int) -> tuple[float, ...]:
    """`n` of them, from the beginning again and again."""
    return tuple(costs[k % len(costs)] for k in range(n)) if costs else ()


def _stretched(after: Sequence[float], steps: int, factor: float) -> tuple[float, ...]:
    """What can be done after each of more steps; what is late by a number of rows is late by the same, of wider rows."""
    whole, n = after[-1], len(after) - 1
    late = max((whole * k / n - after[k] for k in range(n)), default=0.0) * factor
    return (*(max(whole * factor**2 * k / steps - late, 0.0) for k in range(steps)), whole * factor**2)


@dataclass
class Job:
    """A task on its way: `then` is what the parent does with the answer, and gives how long that takes it."""

    cost: float
    then: Callable[[], float]


class Replay:
    """One simulated run.

    Parameters
    ----------
    work : Work
    workers, cores : int
    """

    def __init__(self, work: Work, workers: int, cores: int) -> None:
        self.work, self.workers, self.cores = work, workers, cores
        self.jobs: list[deque[Job]] = [deque() for _ in range(workers)]
        self.bound: deque[Job] = deque()
        self.answers: deque[Job] = deque()
        self.left = [0.0] * workers
        self.clock = 0.0
        self.outstanding = 0
        self.joined = self.scans = self.cut = self.cleaned = 0
        self.blended = self.passed = self.submitted = self.measured = 0.0
        self.loaded = False
        self.scan_done = [0] * max(len(work.join), 1)
        self.blend_done: dict[int, float] = {}
        self.across = max(-(-len(work.scan) // max(len(work.join), 1)), 1)

    # Passing time

    def run(self) -> float:
        """The wall time, seconds."""
        w = self.work
        self.clock = w.serial + w.spawn * max(self.workers - 1, 0)
        # Every worker has some tasks of background cells.
        n = max(len(w.mesh), MESH_TASKS * self.workers)
        todo = deque([sum(w.mesh) / n] * n if w.mesh else ())
        self._loop(lambda: self._submit_mesh(todo))
        self.clock += w.complete
        self._loop(self._submit)
        assert abs(self.measured - w.measure) < 1e-6 > abs(self.passed - w.deblend), "the model stopped before the end"
        return self.clock

    def _loop(self, submit: Callable[[], bool]) -> None:
        while True:
            while self._idle() > 0 and submit():
                pass
            if not self.outstanding:
                return
            self._take(self._next_answer())

    def _take(self, job: Job) -> None:
        """The parent's work on an answer; workers go on meanwhile, with what cores it leaves them."""
        self.outstanding -= 1
        self._pass(job.then() + self.work.answer, parent=True)

    def _next_answer(self) -> Job:
        while not self.answers:
            self._pass(None, parent=False)
        return self.answers.popleft()

    def _pass(self, seconds: float | None, parent: bool) -> None:
        """Let workers work for some time, or until one of them is done."""
        while True:
            running = [k for k in range(self.workers) if self.jobs[k]]
            free = self.cores - parent
            rate = min(1.0, max(free, 0.5) / len(running)) if running else 1.0
            first = min((self.left[k] for k in running), default=float("inf")) / rate
            step = first if seconds is None else min(first, seconds)
            self.clock += step
            for k in running:
                self.left[k] -= step * rate
                if self.left[k] <= TINY:
                    self.answers.append(self.jobs[k].popleft())
                    self._feed(k)
            if seconds is None:
                return
            seconds -= step
            if seconds <= TINY:
                return

    def _feed(self, k: int) -> None:
        """A worker goes on with what waits for it; the first one has what only it can do."""
        if k == 0 and self.bound and len(self.jobs[0]) < TASKS_PER_WORKER:
            self.jobs[0].append(self.bound.popleft())
        self.left[k] = self.jobs[k][0].cost if self.jobs[k] else 0.0

    # Giving work away

    def _idle(self) -> int:
        """Tasks that can be given away before any has to queue."""
        free = [max(TASKS_PER_WORKER - len(jobs), 0) for jobs in self.jobs]
        free[0] = max(free[0] - len(self.bound), 0)
        return sum(free)

    def _give(self, cost: float, then: Callable[[], float]) -> bool:
        room = [TASKS_PER_WORKER - len(jobs) - (len(self.bound) if k == 0 else 0) for k, jobs in enumerate(self.jobs)]
        k = max(range(self.workers), key=lambda k: (room[k], -k))
        self.outstanding += 1
        self.jobs[k].append(Job(cost, then))
        if len(self.jobs[k]) == 1:
            self.left[k] = cost
        return True

    def _submit_mesh(self, todo: deque[float]) -> bool:
        return bool(todo) and self._give(todo.popleft(), lambda: 0.0)

    def _submit(self) -> bool:
        return self._submit_measure() or self._submit_blend() or self._submit_scan()

    @property
    def _scanned(self) -> bool:
        return self.joined == len(self.work.join)

    @property
    def _ready(self) -> float:
        """Measuring that can be done."""
        w = self.work
        step = int((len(w.measure_after) - 1) * (self.passed + TINY) / w.deblend) if w.deblend else -1
        return w.measure_after[step] - self.submitted

    @property
    def _ending(self) -> bool:
        """Whether no source will come any more."""
        return self._scanned and self.passed >= self.work.deblend - TINY

    def _submit_scan(self) -> bool:
        w, k = self.work, self.scans
        if k == len(w.scan) or (self.outstanding and self._ready > 4 * w.batch):
            return False
        self.scans += 1
        return self._give(w.scan[k], lambda: self._scan_answered(k))

    def _scan_answered(self, k: int) -> float:
        w = self.work
        self.scan_done[min(k // self.across, len(self.scan_done) - 1)] += 1
        cost = 0.0
        while not self._scanned and self.scan_done[self.joined] >= min(self.across, len(w.scan) - self.joined * self.across):
            cost += w.join[self.joined]
            self.joined += 1
        return cost

    def _submit_blend(self) -> bool:
        w, k = self.work, self.cut
        ready = w.deblend_after[self.joined] - self.blended
        most = w.blends
        if self._scanned:
            most = min(max(ready / (LAST_SHARES * self.workers), w.least_blends), most)
        if ready <= TINY or (ready < most and self.outstanding and not self._scanned):
            return False
        some = min(ready, most)
        self.blended += some
        self.cut += 1
        return self._give(some, lambda: self._blend_answered(k, some))

    def _blend_answered(self, k: int, some: float) -> float:
        self.blend_done[k] = some
        before = self.passed
        while self.cleaned in self.blend_done:
            self.passed += self.blend_done.pop(self.cleaned)
            self.cleaned += 1
        return self.work.clean * (self.passed - before) / self.work.deblend

    def _submit_measure(self) -> bool:
        w, ready, ending = self.work, self._ready, self._ending
        share = (w.measure - self.submitted) / (LAST_SHARES * self.workers)
        most = min(max(share, w.least), w.batch) if ending else w.batch
        if ready <= TINY or (ready < most and not ending and self.outstanding):
            return False
        some = min(ready, most)
        self.submitted += some
        return self._give(some, lambda: self._measure_answered(some))

    def _measure_answered(self, some: float) -> float:
        w = self.work
        self.measured += some
        part = some / w.measure
        if not w.has_table:
            return w.write * part
        cost = w.table * part + (0.0 if self.loaded else w.load)
        self.loaded = True
        self.outstanding += 1
        self.bound.append(Job(cost, lambda: w.write * part))
        if not self.jobs[0]:
            self._feed(0)
        return 0.0


def predicted(work: Work, workers: int, cores: int | None = None) -> float:
    """Wall time with so many workers, by default with a core for each and one for the parent."""
    return Replay(work, workers, cores or workers + 1).run()


# What would be saved if a part took no time.
PARTS: dict[str, Callable[[Work], Work]] = {
    "start-up and end": lambda w: replace(w, serial=0.0, spawn=0.0),
    "parent's work on answers": lambda w: replace(w, answer=0.0, complete=0.0, write=0.0, clean=0.0, join=(0.0,) * len(w.join)),
    "sky positions in one worker": lambda w: replace(w, table=0.0, load=0.0, has_table=False),
    "CLEAN's reach": lambda w: replace(w, measure_after=_even(w.measure, len(w.measure_after))),
}


def _even(whole: float, n: int) -> tuple[float, ...]:
    """From nothing to the whole in `n` values."""
    return tuple(whole * k / max(n - 1, 1) for k in range(n))


def bounds(work: Work, workers: int) -> dict[str, Any]:
    """What a run with so many workers and cores would take, its efficiency, and what each serial part costs it."""
    wall, one = predicted(work, workers), predicted(work, 1)
    saved = {name: wall - predicted(without(work), workers) for name, without in PARTS.items()}
    return {
        "workers": workers,
        "wall": wall,
        "efficiency": one / (workers * wall),
        "saved": saved,
        "binds": max(saved, key=lambda name: saved[name]),
    }


def read(path: Path) -> dict[str, Any]:
    """A trace from its file."""
    made: dict[str, Any] = json.loads(path.read_text())
    return made
