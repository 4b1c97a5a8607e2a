"""What all processes of a run really hold: private memory, file pages once, and the slab once.

The number is the one the limit is about: Σ Pss without shared memory, plus what the slab has allocated.  A look has three
depths.  /proc/PID/statm tells anonymous pages in microseconds and is read each time; file pages come from /proc/PID/status,
ten times dearer; exact Pss takes the kernel milliseconds.  The dearer ones are looked at again when their last look is old
enough for their price.  In between the gauge follows Σ anonymous + largest file part, which moves by the same amounts but
counts what forked processes share more than once; the difference is taken from the last exact look.

Beside it stands what some batch systems count: Σ Rss, with every shared page once per process.  It measures; who acts on it
is the pipeline, who keeps what it saw is ``timeline.py``.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock  # threading itself would be 200 KiB of every process
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Seconds between two looks of a kind, at least; and their share of one processor, at most.
_FILES_SECONDS, _FILES_SHARE = 0.1, 0.0025
_EXACT_SECONDS, _EXACT_SHARE = 1.0, 0.004


class Holder(Protocol):
    """Whatever holds shared memory."""

    @property
    def allocated(self) -> int:
        """Bytes that the kernel holds for it."""
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


def _field(text: bytes, name: bytes) -> int:
    """Bytes of a ``name: value kB`` line; 0 if there is none."""
    at = text.find(b"\n" + name + b":")
    return int(text[at + len(name) + 2 :].split(None, 1)[0]) << 10 if at >= 0 else 0


class Process:
    """What /proc tells of one process; its files stay open, so a look is a read.

    Attributes
    ----------
    anonymous, file : int
        Resident bytes, shared memory not included; zeros if the process is gone.
    shared : int
        Resident bytes that are shared memory.
    tables : int
        Bytes of page tables.
    rss : int
        All resident bytes.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.anonymous = self.file = self.tables = self.rss = 0
        # What is to be added to the anonymous pages to have the Pss, as of the last exact look.
        self.beside = 0
        self._statm, self._status = _open(pid, "statm"), _open(pid, "status")
        self.look_closer()

    @property
    def shared(self) -> int:
        """See above; the file part is as old as the last closer look."""
        return max(self.rss - self.anonymous - self.file, 0)

    def look(self) -> None:
        """Anonymous and all resident pages."""
        words = _read(self._statm).split()
        if len(words) < 3:
            self.anonymous = self.file = self.tables = self.rss = 0
            return
        self.rss = int(words[1]) * _PAGE
        self.anonymous = self.rss - int(words[2]) * _PAGE

    def look_closer(self) -> None:
        """The rest, too."""
        text = _read(self._status)
        self.file, self.tables = _field(text, b"RssFile"), _field(text, b"VmPTE")
        self.look()

    def close(self) -> None:
        """Close its files."""
        for fd in (self._statm, self._status):
            if fd >= 0:
                os.close(fd)
        self._statm = self._status = -1


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
    ) -> None:
        self._pids = pids
        self._slab = slab
        self._clock = clock
        self._lock = allocate_lock()
        self._processes: dict[int, Process] = {}
        self._exact_due = self._files_due = -1.0
        self._shared_twice = 0
        self.peak = self.rss_peak = 0
        self.last = Reading(0, 0, exact=False)
        self.listener: Callable[[Reading], None] | None = None

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
            own.look()
            return own.shared

    def read(self, exact: bool = False) -> Reading:
        """A look at everything."""
        with self._lock:
            changed = self._follow({os.getpid(), *self._pids()})
            now = self._clock()
            self._look(now)
            due = exact or changed or now >= self._exact_due
            if due:
                exact = self._look_exactly(now)
            found = self._processes.values()
            shared = self._slab.allocated if self._slab is not None else 0
            self.last = Reading(
                shared, max(self._rough() - self._shared_twice, 0), due and exact, sum(p.rss for p in found),
                sum(p.tables for p in found), {p.pid: max(p.anonymous + p.beside, 0) for p in found},
            )  # fmt: skip
            self.peak = max(self.peak, self.last.total)
            self.rss_peak = max(self.rss_peak, self.last.rss)
            if self.listener is not None:
                self.listener(self.last)
            return self.last

    def close(self) -> None:
        """Close what is open; it may be used again."""
        with self._lock:
            self._follow(set())

    def _follow(self, pids: set[int]) -> bool:
        """Open the files of new processes and close those of others; whether there were any."""
        if pids == self._processes.keys():
            return False
        for pid in self._processes.keys() - pids:
            self._processes.pop(pid).close()
        for pid in pids - self._processes.keys():
            self._processes[pid] = Process(pid)
        return True

    def _look(self, now: float) -> None:
        """At all processes, closer if it is time to."""
        if now < self._files_due:
            for process in self._processes.values():
                process.look()
            return
        for process in self._processes.values():
            process.look_closer()
        self._files_due = now + max(_FILES_SECONDS, (self._clock() - now) / _FILES_SHARE)

    def _rough(self) -> int:
        found = self._processes.values()
        return sum(p.anonymous for p in found) + max((p.file for p in found), default=0)

    def _look_exactly(self, now: float) -> bool:
        """Learn what is counted twice between two such looks; False if this kernel doesn't tell."""
        self._shared_twice, told = self._rough(), proportional(os.getpid()) is not None
        for process in self._processes.values():
            pss = proportional(process.pid) if told else None
            # Gone and unreadable look the same; a process that is gone has no resident pages either.
            process.beside = process.file if pss is None else pss - process.anonymous
            self._shared_twice -= process.anonymous + process.beside
        if not told:
            # Counting too much is the safe side.
            self._shared_twice = 0
        self._exact_due = now + max(_EXACT_SECONDS, (self._clock() - now) / _EXACT_SHARE)
        return told
