"""What all processes of a run really hold: private memory, file pages once, and the slab once.

The number is the one the limit is about: Σ Pss without shared memory, plus what the slab has allocated.  A look has three
depths.  /proc/PID/statm tells anonymous pages in a microsecond (``_look``) and is read each time; file pages come from
/proc/PID/status, far dearer; exact Pss takes the kernel milliseconds.  The dearer ones are looked at again when their last
look is old enough for their price.  In between the gauge follows Σ anonymous + largest file part, which moves by the same
amounts but counts what forked processes share more than once; the difference is taken from the last exact look.

Beside it stands what some batch systems count: Σ Rss, with every shared page once per process.  It measures; who acts on it
is the pipeline, who keeps what it saw is ``timeline.py``.
"""

from __future__ import annotations

import math
import os
import time
from _thread import allocate_lock  # threading itself would be 200 KiB of every process
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sextract.memory import _look

# Seconds between two looks of a kind: at least, and at most; in between they take this share of a processor.
_FILES_SECONDS, _FILES_SHARE = (0.1, 0.5), 0.0025
_EXACT_SECONDS, _EXACT_SHARE = (1.0, 4.0), 0.005
_NEVER = np.zeros(1, np.uint8)


class Holder(Protocol):
    """Whatever holds shared memory."""

    @property
    def fd(self) -> int:
        """Descriptor of the file that it is; -1 if it is closed."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """One look.

    Attributes
    ----------
    shared, private : int
        Bytes of the slab, and of everything else.
    exact : bool
        Whether the latter are exact.
    rss : int
        Sum of Rss: shared pages once per process that has them mapped.
    tables : int
        Page tables, which are no process's, but count in a memory cgroup.
    processes : dict of int to int
        Process id and its part of `private`.
    """

    shared: int
    private: int
    exact: bool
    rss: int = 0
    tables: int = 0
    processes: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes that count against the limit."""
        return self.shared + self.private


def proportional(pid: int) -> int | None:
    """Pss without shared memory, bytes; None if it can't be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
            text = file.read(4096) or b""
    except OSError:
        return None
    pss, shared = _field(text, b"Pss"), _field(text, b"Pss_Shmem")
    return pss - shared if pss else None


def private(pid: int) -> int | None:
    """Bytes that no other process has, without shared memory; None if it can't be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
            text = file.read(4096) or b""
    except OSError:
        return None
    own = _field(text, b"Private_Clean") + _field(text, b"Private_Dirty")
    return max(own - _field(text, b"Pss_Shmem"), 0) if own else None


def _field(text: bytes, name: bytes) -> int:
    """Bytes of a ``name: value kB`` line; 0 if there is none."""
    at = text.find(b"\n" + name + b":")
    return int(text[at + len(name) + 2 :].split(None, 1)[0]) << 10 if at >= 0 else 0


class Process:
    """What /proc tells of one process; its files stay open, so a look is a read.

    Attributes
    ----------
    statm : int
        Descriptor of /proc/PID/statm; -1 if the process is gone.
    anonymous, file : int
        Resident bytes, shared memory not included; zeros if the process is gone.
    rss : int
        All resident bytes.
    tables : int
        Bytes of page tables.
    beside : int
        What is to be added to the anonymous pages to have the Pss, as of the last exact look.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.beside = 0
        self.statm, self._status = _open(pid, "statm"), _open(pid, "status")
        self.look_closer()

    def look_closer(self) -> None:
        """Everything that its status tells."""
        text = _read(self._status)
        self.anonymous, self.file, self.rss, self.tables = (
            _field(text, name) for name in (b"RssAnon", b"RssFile", b"VmRSS", b"VmPTE")
        )

    def close(self) -> None:
        """Close its files."""
        for fd in (self.statm, self._status):
            if fd >= 0:
                os.close(fd)
        self.statm = self._status = -1


def _open(pid: int, name: str) -> int:
    try:
        return os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read(fd: int) -> bytes:
    """A whole /proc file; nothing of a process that is gone."""
    if fd >= 0:
        with suppress(OSError):
            return os.pread(fd, 4096, 0)
    return b""


class Gauge:
    """Measures a set of processes and a slab; any thread may ask it.

    Parameters
    ----------
    pids : callable
        ``() -> process ids`` beside this process's own, which always counts.
    slab : Holder or None
        None while there is no slab yet: the base.
    clock : callable, optional
        Seconds, monotonic.
    measure : callable, optional
        What a process holds, exactly: `proportional`, or `private` where somebody else counts what it shares with others.

    Attributes
    ----------
    peak, rss_peak : int
        Most bytes held, and the largest sum of Rss.
    last : Reading
    listener : callable or None
        Gets each reading.
    """

    def __init__(
        self,
        pids: Callable[[], Iterable[int]],
        slab: Holder | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        measure: Callable[[int], int | None] = proportional,
    ) -> None:
        self._measure = measure
        self._pids = pids
        self._slab = slab
        self._clock = clock
        self._lock = allocate_lock()
        self._processes: dict[int, Process] = {}
        self._statm = np.empty(0, np.int32)
        self._watching = False
        self._gone: list[Process] = []
        self._untold: deque[tuple[float, Reading]] = deque()
        self._exact_due = self._files_due = -1.0
        self._shared_twice = 0
        self.peak = self.rss_peak = 0
        self.last = Reading(0, 0, exact=False)
        self.listener: Callable[[float, Reading], None] | None = None

    def begin(self) -> None:
        """Forget the peaks: another run begins."""
        self.peak = self.rss_peak = 0

    def sample(self) -> int:
        """Bytes held now; also updates ``last`` and ``peak``."""
        return self.read().total

    def exact(self) -> int:
        """As `sample`, with exact Pss whatever it costs."""
        return self.read(exact=True).total

    def mapped(self) -> int:
        """Bytes of shared memory that this process has mapped."""
        with self._lock:
            own = self._processes.get(os.getpid())
            if own is None:
                return 0
            _, rows = self._glance(np.array([own.statm], np.int32), -1)
            return max(int(rows[0, 2] - rows[0, 1]) - own.file, 0)

    def read(self, exact: bool = False) -> Reading:
        """A look at everything."""
        with self._lock:
            changed = self._follow({os.getpid(), *self._pids()})
            at, rows = self._glance(self._statm, self._fd())
            now = self._clock()
            if now >= self._files_due:
                self._look_closer(now)
            self._learn(rows[0])
            exact = exact or changed or now >= self._exact_due
            if exact:
                exact = self._look_exactly(now)
            self._untold.append((float(at[0]), self._reading(int(rows[0, 0]), exact)))
            if not self._watching:
                self._tell()
            return self.last

    def watch(self, looks: int, every: float, over: NDArray[np.uint8] = _NEVER) -> None:
        """Take so many quick looks, one after so many seconds each, without holding up others who ask.

        Parameters
        ----------
        looks : int
        every : float
            Seconds.
        over : uint8 array (1,)
            Not 0: stop.
        """
        with self._lock:
            self._watching, processes, statm = True, self._processes, self._statm
        at, rows = self._glance(statm, self._fd(), looks + 1, every, over)
        with self._lock:
            self._watching = False
            self._close_gone()
            # The first row is of the time before; when a process has come or gone, nobody knows what is counted twice.
            for seconds, row in zip(at[1:].tolist(), rows[1:] if processes is self._processes else (), strict=False):
                self._tell(until=seconds)
                if not self._learn(row):
                    break
                self._untold.appendleft((seconds, self._reading(int(row[0]), False)))
            self._tell()

    def close(self) -> None:
        """Close what is open; it may be used again."""
        with self._lock:
            self._follow(set())

    def _fd(self) -> int:
        return self._slab.fd if self._slab is not None else -1

    def _glance(
        self, statm: NDArray[np.int32], fd: int, looks: int = 1, every: float = 0.0, over: NDArray[np.uint8] = _NEVER
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Time, and bytes (see `_look.watch`) of some looks."""
        at, rows = np.empty(looks), np.empty((looks, 1 + 2 * len(statm)), np.int64)
        done = _look.watch(statm, fd, at, rows, every, over)
        return at[:done], rows[:done]

    def _learn(self, row: NDArray[np.int64]) -> bool:
        """Take a quick look's numbers over; False if a process has ended since the last one: an exact look is due then."""
        values = row.tolist()
        alive = sum(process.rss > 0 for process in self._processes.values())
        for k, process in enumerate(self._processes.values()):
            process.anonymous, process.rss = values[1 + 2 * k], values[2 + 2 * k]
        if sum(process.rss > 0 for process in self._processes.values()) >= alive:
            return True
        self._exact_due = -1.0
        return False

    def _reading(self, shared: int, exact: bool) -> Reading:
        """What is known now, as the last reading."""
        found = self._processes.values()
        self.last = Reading(
            shared, max(self._rough() - self._shared_twice, 0), exact, sum(p.rss for p in found),
            sum(p.tables for p in found), {p.pid: max(p.anonymous + p.beside, 0) for p in found},
        )  # fmt: skip
        self.peak = max(self.peak, self.last.total)
        self.rss_peak = max(self.rss_peak, self.last.rss)
        return self.last

    def _tell(self, until: float = math.inf) -> None:
        """Tell the listener, in the order of time: what others saw while one watches waits for what he saw."""
        while self._untold and self._untold[0][0] <= until:
            at, reading = self._untold.popleft()
            if self.listener is not None:
                self.listener(at, reading)

    def _follow(self, pids: set[int]) -> bool:
        """Open the files of new processes and close those of others; whether there were any."""
        if pids == self._processes.keys():
            return False
        self._gone += [process for pid, process in self._processes.items() if pid not in pids]
        # A new table each time: whoever watches knows by it that processes have changed.
        self._processes = {pid: self._processes.get(pid) or Process(pid) for pid in sorted(pids)}
        self._statm = np.array([process.statm for process in self._processes.values()], np.int32)
        self._close_gone()
        return True

    def _close_gone(self) -> None:
        """Close the files of processes that are gone, unless they are being read: their numbers would be given again."""
        while self._gone and not self._watching:
            self._gone.pop().close()

    def _look_closer(self, now: float) -> None:
        began = time.thread_time()
        for process in self._processes.values():
            process.look_closer()
        self._files_due = now + _wait(began, _FILES_SECONDS, _FILES_SHARE)

    def _rough(self) -> int:
        found = self._processes.values()
        return sum(p.anonymous for p in found) + max((p.file for p in found), default=0)

    def _look_exactly(self, now: float) -> bool:
        """Learn what is counted twice between two such looks; False if this kernel doesn't tell."""
        began = time.thread_time()
        own = self._measure(os.getpid())
        self._shared_twice, told = self._rough(), own is not None
        for process in self._processes.values():
            pss = own if process.pid == os.getpid() else self._measure(process.pid) if told else None
            # Gone and unreadable look the same; a process that is gone has no resident pages either.
            if pss is None:
                process.beside = process.file if process.rss else 0
            else:
                process.beside = pss - process.anonymous
            self._shared_twice -= process.anonymous + process.beside
        if not told:
            # Counting too much is the safe side.
            self._shared_twice = 0
        self._exact_due = now + _wait(began, _EXACT_SECONDS, _EXACT_SHARE)
        return told


def _wait(began: float, seconds: tuple[float, float], share: float) -> float:
    """Seconds until what has taken the time since `began` is done again."""
    least, most = seconds
    return min(max((time.thread_time() - began) / share, least), most)
