"""The serial backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sextract.errors import InputError, Interrupted
from sextract.execution.backend import Backend, SerialBackend, Task
from sextract.memory.slab import Slab

sys.path.insert(0, str(Path(__file__).parent))
from backend_contract import ECHO, INPUT_ERROR, BackendContract, make_handler


class TestSerial(BackendContract):
    @pytest.fixture
    def backend(self, slab: Slab) -> Iterator[Backend]:
        with SerialBackend(lambda slot: make_handler(slab)) as backend:
            yield backend

    def test_in_order_and_one_at_a_time(self, backend: Backend) -> None:
        tickets = [backend.submit(Task(ECHO, b"")) for _ in range(5)]
        assert [[result.ticket for result in backend.wait()] for _ in tickets] == [[ticket] for ticket in tickets]

    def test_a_broadcast_that_fails_raises(self, backend: Backend) -> None:
        with pytest.raises(InputError):
            backend.broadcast(INPUT_ERROR, b"")


def test_a_signal_stops_the_run_not_the_task() -> None:
    def handle(kind: int, payload: bytes) -> bytes:
        raise Interrupted("SIGTERM")

    backend = SerialBackend(lambda slot: handle)
    backend.submit(Task(0, b""))
    with pytest.raises(Interrupted):
        backend.wait()
