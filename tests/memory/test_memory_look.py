"""The kernel that looks at /proc against a twin in plain Python."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sextract.execution.template import fork
from sextract.memory import _look

NEVER = np.zeros(1, np.uint8)
ALWAYS = np.ones(1, np.uint8)
PAGE = os.sysconf("SC_PAGE_SIZE")


def look(
    statm: list[int], blocks: int = -1, rows: int = 1, every: float = 0.0, over: NDArray[np.uint8] = NEVER
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times and rows."""
    at, out = np.full(rows, -1.0), np.full((rows, 1 + 2 * len(statm)), -1, np.int64)
    done = _look.watch(np.array(statm, np.int32), blocks, at, out, every, over)
    return at[:done], out[:done]


def twin(pid: int) -> tuple[int, int]:
    """Anonymous and all resident bytes."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * PAGE, resident * PAGE


def test_processes_and_blocks() -> None:
    hold, held = os.pipe()

    def wait() -> None:
        os.close(held)
        os.read(hold, 1)

    pids = [fork(wait, []) for _ in range(3)]
    files = [os.open(f"/proc/{pid}/statm", os.O_RDONLY) for pid in pids]
    block = os.memfd_create("block")
    os.posix_fallocate(block, 0, 3 << 20)
    while any(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "S" for pid in pids):
        # Until they sleep, they still grow.
        continue
    _, rows = look([files[0], -1, *files[1:]], block)
    assert rows[0, 0] == os.fstat(block).st_blocks * 512 == 3 << 20
    expected = [twin(pids[0]), (0, 0), twin(pids[1]), twin(pids[2])]
    assert rows[0, 1:].tolist() == [value for pair in expected for value in pair]
    os.close(held)
    os.close(hold)
    for pid in pids:
        os.waitpid(pid, 0)
    # The descriptors live on, the processes don't.
    _, rows = look(files, block)
    assert rows[0, 1:].tolist() == [0] * 6
    for fd in (*files, block):
        os.close(fd)


def test_nothing_to_look_at() -> None:
    assert look([], -1)[1].tolist() == [[0]]


def test_looks_keep_their_distance() -> None:
    before = time.monotonic()
    at, rows = look([], -1, rows=5, every=0.003)
    assert len(rows) == 5
    assert before <= at[0]
    assert at[-1] <= time.monotonic()
    assert at[-1] - at[0] > 0.0119


def test_it_stops_when_it_is_over() -> None:
    at, rows = look([], -1, rows=1000, every=0.001, over=ALWAYS)
    assert (len(at), len(rows)) == (1, 1)
