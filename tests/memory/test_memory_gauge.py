"""The gauge against what processes are known to hold."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

import numpy as np
import pytest

from sextract.execution.template import fork
from sextract.memory.gauge import Gauge, Process, proportional
from sextract.memory.slab import Slab

MIB = 1 << 20


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Child:
    """A forked process that runs a step each time it is told to."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        down, self._write = os.pipe()
        self._read, up = os.pipe()

        def body() -> None:
            # The parent may end before it says so.
            os.close(self._write)
            for step in steps:
                os.read(down, 1)
                step()
                os.write(up, b"x")
            os.read(down, 1)

        self.pid = fork(body, [])
        os.close(down)
        os.close(up)

    def step(self) -> None:
        os.write(self._write, b"x")
        os.read(self._read, 1)

    def end(self) -> None:
        os.write(self._write, b"x")
        os.waitpid(self.pid, 0)
        os.close(self._write)
        os.close(self._read)


def grab(nbytes: int) -> mmap.mmap:
    """Private memory that is really there."""
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(block, np.uint8)[:] = 1
    return block


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


@pytest.fixture(autouse=True)
def needs_pss() -> None:
    if proportional(os.getpid()) is None:
        pytest.skip("this kernel has no smaps_rollup")


def test_slab_counts_once_and_only_what_is_allocated() -> None:
    slab = Slab(64 * MIB, headroom=plenty)
    gauge = Gauge(list, slab, clock=Clock())
    before = gauge.sample()
    ref = slab.alloc(40 * MIB, "x")
    assert abs(gauge.sample() - before - 40 * MIB) < 2 * MIB
    slab.view(ref, np.uint8)[:] = 1
    assert abs(gauge.sample() - before - 40 * MIB) < 2 * MIB

    def touch() -> None:
        slab.view(ref, np.uint8)[:] = 2

    child = Child(touch)
    with_child = Gauge(lambda: [child.pid], slab, clock=Clock())
    idle = with_child.exact()
    child.step()
    assert with_child.exact() - idle < 4 * MIB
    child.end()
    slab.close()


def test_forked_memory_counts_once_until_it_is_written() -> None:
    block = grab(40 * MIB)
    held: list[mmap.mmap] = []

    def write() -> None:
        np.frombuffer(block, np.uint8)[:] = 2

    def more() -> None:
        held.append(grab(30 * MIB))

    alone = Gauge(list, clock=Clock()).sample()
    child = Child(write, more)
    clock = Clock()
    gauge = Gauge(lambda: [child.pid], clock=clock)
    both = gauge.sample()
    assert both - alone < 25 * MIB
    child.step()
    assert gauge.exact() - both > 35 * MIB
    now = gauge.sample()
    child.step()
    # New memory shows at once, without an exact look.
    assert gauge.read().exact is False
    assert gauge.sample() - now > 25 * MIB
    assert gauge.peak >= gauge.sample()
    child.end()


def test_exact_looks_are_rationed() -> None:
    clock = Clock()
    gauge = Gauge(list, clock=clock)
    assert gauge.read().exact
    assert not gauge.read().exact
    # At the latest, however dear it was.
    clock.now = 4.0
    assert gauge.read().exact


def test_a_process_that_is_gone_counts_nothing() -> None:
    child = Child()
    pids = [child.pid]
    gauge = Gauge(lambda: pids, clock=Clock())
    before = gauge.sample()
    child.end()
    gone = Process(child.pid)
    assert (gone.anonymous, gone.file, gone.rss, gone.tables) == (0, 0, 0, 0)
    assert proportional(child.pid) is None
    assert 0 < gauge.sample() <= before + 8 * MIB
    assert gauge.exact() > 0


def test_peak_is_the_largest_sample() -> None:
    gauge = Gauge(list, clock=Clock())
    gauge.sample()
    block = grab(30 * MIB)
    high = gauge.sample()
    block.close()
    assert gauge.sample() < high
    assert gauge.peak == high


def test_rss_counts_a_shared_page_in_each_process_that_has_it_mapped() -> None:
    slab = Slab(64 * MIB, headroom=plenty)
    ref = slab.alloc(20 * MIB, "x")

    def touch() -> None:
        slab.view(ref, np.uint8)[:] = 2

    child = Child(touch)
    gauge = Gauge(lambda: [child.pid], slab, clock=Clock())
    idle = gauge.read()
    child.step()
    slab.view(ref, np.uint8)[:] = 1
    both = gauge.read(exact=True)
    assert abs(both.rss - idle.rss - 40 * MIB) < 8 * MIB
    assert both.total - idle.total < 4 * MIB
    assert abs(gauge.mapped() - 20 * MIB) < 2 * MIB
    assert both.tables > 0
    slab.unmap()
    assert gauge.mapped() < MIB
    assert slab.view(ref, np.uint8)[-1] == 1
    child.end()
    slab.close()


def test_each_process_has_its_part() -> None:
    held: list[mmap.mmap] = []
    child = Child(lambda: held.append(grab(30 * MIB)))
    gauge = Gauge(lambda: [child.pid], clock=Clock())
    before = gauge.read()
    assert before.processes.keys() == {os.getpid(), child.pid}
    assert abs(sum(before.processes.values()) - before.private) < MIB
    child.step()
    after = gauge.read()
    assert after.processes[child.pid] - before.processes[child.pid] > 25 * MIB
    assert abs(after.processes[os.getpid()] - before.processes[os.getpid()]) < 2 * MIB
    child.end()


def test_a_listener_gets_every_reading() -> None:
    gauge = Gauge(list, clock=Clock())
    heard: list[int] = []
    gauge.listener = lambda at, reading: heard.append(reading.total)
    assert [gauge.sample(), gauge.exact()] == heard


def test_it_leaves_no_file_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    gauge = Gauge(list, clock=Clock())
    gauge.sample()
    gauge.close()
    assert set(os.listdir("/proc/self/fd")) <= before
