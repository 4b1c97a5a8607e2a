"""What every backend does: a test class that each backend's tests inherit.

The handler is ``handle``; its kinds are the constants below.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from sextract.errors import InputError, LimitError, WorkerError
from sextract.execution.backend import Backend, Handler, Result, Task
from sextract.execution.messages import MAX_PAYLOAD
from sextract.memory.slab import Slab
from sextract.records import BlockRef

ECHO, SQUARE, PID, INPUT_ERROR, MEMORY_ERROR, SET, GET, TOO_LARGE, SUM = range(9)


def make_handler(slab: Slab | None = None) -> Handler:
    """A handler with some state of its own."""
    state = {"settings": b"unset"}

    def handle(kind: int, payload: bytes) -> bytes:
        if kind == ECHO:
            return payload
        if kind == SQUARE:
            return str(int(payload) ** 2).encode()
        if kind == PID:
            return str(os.getpid()).encode()
        if kind == INPUT_ERROR:
            raise InputError("image.fits: broken")
        if kind == MEMORY_ERROR:
            raise MemoryError("no more")
        if kind == SET:
            state["settings"] = payload
        if kind == TOO_LARGE:
            return bytes(MAX_PAYLOAD + 1)
        if kind == SUM and slab is not None:
            ref = BlockRef(*np.frombuffer(payload, np.int64).tolist())
            values = slab.view(ref, np.int64)
            values *= 2
            return str(int(values.sum())).encode()
        return state["settings"]

    return handle


def collect(backend: Backend, count: int) -> dict[int, Result]:
    """The next `count` results by ticket."""
    found: dict[int, Result] = {}
    while len(found) < count:
        results = backend.wait(60)
        assert results, "nothing came within a minute"
        found.update((result.ticket, result) for result in results)
    return found


class BackendContract:
    """Inherit, and give fixtures ``slab`` and ``backend``."""

    @pytest.fixture
    def slab(self) -> Iterator[Slab]:
        slab = Slab(1 << 20, headroom=lambda: (1 << 50, "machine"))
        yield slab
        slab.close()

    def test_every_task_is_answered_once(self, backend: Backend) -> None:
        wanted = {backend.submit(Task(SQUARE, str(i).encode())): str(i * i).encode() for i in range(200)}
        got = collect(backend, 200)
        assert {ticket: result.reply for ticket, result in got.items()} == wanted
        assert all(result.error is None and result.died is None for result in got.values())
        assert backend.wait(0) == []

    def test_nothing_to_wait_for(self, backend: Backend) -> None:
        assert backend.wait() == []
        assert backend.wait(0) == []

    def test_slots(self, backend: Backend) -> None:
        assert backend.idle_slots() == 2 * backend.workers
        for left in reversed(range(2 * backend.workers)):
            backend.submit(Task(ECHO, b""))
            assert backend.idle_slots() == left
        backend.submit(Task(ECHO, b""))
        assert backend.idle_slots() == 0
        collect(backend, 2 * backend.workers + 1)
        assert backend.idle_slots() == 2 * backend.workers

    def test_large_payloads_both_ways(self, backend: Backend) -> None:
        data = bytes(range(256)) * (MAX_PAYLOAD // 256)
        for _ in range(3 * backend.workers):
            backend.submit(Task(ECHO, data))
        assert all(result.reply == data for result in collect(backend, 3 * backend.workers).values())
        with pytest.raises(ValueError):
            backend.submit(Task(ECHO, data + b"x"))

    def test_our_errors_come_back_as_they_are(self, backend: Backend) -> None:
        ticket = backend.submit(Task(INPUT_ERROR, b""))
        error = collect(backend, 1)[ticket].error
        assert type(error) is InputError
        assert str(error) == "image.fits: broken"

    def test_other_errors_are_worker_errors_with_a_traceback(self, backend: Backend) -> None:
        first = backend.submit(Task(TOO_LARGE, b""))
        second = backend.submit(Task(ECHO, b"still here"))
        got = collect(backend, 2)
        error = got[first].error
        assert isinstance(error, WorkerError)
        assert "ValueError" in str(error)
        assert "Traceback" in str(error)
        assert got[second].reply == b"still here"

    def test_no_memory_is_a_limit_error_in_one_line(self, backend: Backend) -> None:
        ticket = backend.submit(Task(MEMORY_ERROR, b""))
        error = collect(backend, 1)[ticket].error
        assert isinstance(error, LimitError)
        assert "no more" in str(error) and "ulimit" in str(error)
        assert "\n" not in str(error)

    def test_broadcasts_reach_every_worker_before_later_tasks(self, backend: Backend) -> None:
        for text in (b"one", b"two"):
            backend.broadcast(SET, text)
            for worker in range(backend.workers):
                for _ in range(3):
                    backend.submit(Task(GET, b"", affinity=worker))
            got = collect(backend, 3 * backend.workers)
            assert {result.reply for result in got.values()} == {text}

    def test_affinity_keeps_worker_and_order(self, backend: Backend) -> None:
        tickets = [backend.submit(Task(PID, b"", affinity=1)) for _ in range(20)]
        for _ in range(10):
            backend.submit(Task(ECHO, b""))
        order: list[int] = []
        pids = set()
        while len(order) < 20:
            for result in backend.wait(60):
                if result.ticket in tickets:
                    order.append(result.ticket)
                    pids.add(result.reply)
        assert order == tickets
        assert len(pids) == 1

    def test_another_number_of_workers(self, backend: Backend) -> None:
        before = backend.workers
        backend.broadcast(SET, b"kept")
        backend.submit(Task(ECHO, b""))
        collect(backend, 1)
        for workers in (1, 0, before + 1, before):
            backend.resize(workers)
            if workers:
                for slot in range(backend.workers):
                    backend.submit(Task(GET, b"", affinity=slot))
                assert {result.reply for result in collect(backend, backend.workers).values()} == {b"kept"}
        assert backend.workers == before
        assert backend.idle_slots() == 2 * before

    def test_the_slab_is_shared(self, backend: Backend, slab: Slab) -> None:
        ref = slab.alloc(800, "x")
        slab.view(ref, np.int64)[:] = np.arange(100)
        ticket = backend.submit(Task(SUM, np.array(ref, np.int64).tobytes()))
        assert collect(backend, 1)[ticket].reply == b"9900"
        assert slab.view(ref, np.int64).tolist() == list(range(0, 200, 2))

    def test_wait_keeps_its_timeout(self, backend: Backend) -> None:
        start = time.monotonic()
        assert backend.wait(0.01) == []
        assert time.monotonic() - start < 30

    def test_processes_have_names(self, backend: Backend) -> None:
        names = backend.processes()
        assert list(names.values()) == backend.pids()
        assert list(names) in ([], ["template", *(f"worker {k + 1}" for k in range(backend.workers))])

    def test_close_twice(self, backend: Backend) -> None:
        backend.submit(Task(ECHO, b""))
        backend.close()
        backend.close()
        assert backend.pids() == []
        assert backend.processes() == {}
