"""What the gauge saw in the course of a run: a timeline of fixed size, the stages, what happened, and the moment of the peak.

Nothing of it grows with the run: when the timeline is full, neighbours are merged and the larger value of each is kept, so that
a peak is never lost; the time a row stands for doubles.  How often the gauge looks while a report is asked for is decided
here; how it looks is ``gauge.py``'s, what is made of it the report's (``report/``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.memory.budget import Account
from sextract.memory.gauge import Gauge, Reading
from sextract.memory.slab import Slab

if TYPE_CHECKING:
    from threading import Thread

# A hundred looks a second: a task takes some ten milliseconds.
TICK_SECONDS = 0.01
# Quick looks after a full one, without the interpreter.
_QUICK_LOOKS = 9
# As many as a chart has columns of pixels; even, since they are halved.
ROWS = 2048
# Rows merged at a time, so that NumPy's copy of them is small.
_MERGED_ROWS = 64
# Stages, and events, that are kept; a mosaic has hundreds of extensions.
_MOST_NOTES = 1000
# So much more must be held, with less of it in use, for a later peak to be one.
_NEARLY = 1.01
# For Python's own frames and a read of /proc.
_STACK_BYTES = 256 << 10

# What a row holds before the processes.
VALUES = ("held", "rss", "slab", "used", "cached")


def timeline_bytes(names: int) -> int:
    """Bytes of the block for a timeline with that many columns."""
    return ROWS * _row(names).itemsize


def _row(names: int) -> np.dtype[Any]:
    """Seconds, and KiB in each column."""
    return np.dtype([("seconds", "<f8"), ("kib", "<i4", (names,))])


class Timeline:
    """Values over time.

    Parameters
    ----------
    block : uint8 array (timeline_bytes(len(names)),)
        Where they are kept.
    names : sequence of str
        Of the columns.

    Attributes
    ----------
    stride : int
        Samples that a row stands for.
    """

    def __init__(self, block: NDArray[np.uint8], names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.stride = 1
        rows = block.view(_row(len(self.names)))[:ROWS]
        self._seconds, self._kib = rows["seconds"], rows["kib"]
        self._filled = 0
        self._since = 0.0
        self._most: list[int] = []
        self._waiting = 0

    def add(self, seconds: float, values: Sequence[int]) -> None:
        """Take a sample: bytes, one for each column."""
        if self._waiting == 0:
            self._since, self._most = seconds, list(values)
        else:
            self._most = [max(pair) for pair in zip(self._most, values, strict=True)]
        self._waiting += 1
        if self._waiting >= self.stride:
            self._seconds[self._filled] = self._since
            self._kib[self._filled] = [-(-value >> 10) for value in self._most]
            self._filled, self._waiting = self._filled + 1, 0
            if self._filled == ROWS:
                self._merge()

    def rows(self) -> Iterator[tuple[float, list[int]]]:
        """Seconds, and bytes in each column: the largest from then until the next row."""
        for k in range(self._filled):
            yield float(self._seconds[k]), [value << 10 for value in self._kib[k].tolist()]
        if self._waiting:
            yield self._since, self._most

    def _merge(self) -> None:
        """Make one row of two."""
        half = ROWS // 2
        for first in range(0, half, _MERGED_ROWS):
            some, pairs = slice(first, first + _MERGED_ROWS), slice(2 * first, 2 * (first + _MERGED_ROWS))
            self._kib[some] = np.maximum(self._kib[pairs][0::2], self._kib[pairs][1::2])
            self._seconds[some] = self._seconds[pairs][0::2].copy()
        self._filled, self.stride = half, 2 * self.stride


class Moment(NamedTuple):
    """What was where at one time.

    Attributes
    ----------
    seconds : float
    stage : str
    reading : Reading
    cached : int
        Bytes of tiles that could be evicted.
    accounts : dict of str to Account
        The slab's ledger.
    """

    seconds: float
    stage: str
    reading: Reading
    cached: int
    accounts: dict[str, Account]


class Note(NamedTuple):
    """Something that happened."""

    seconds: float
    text: str


class Recorder:
    """Keeps what a gauge sees, if a report is asked for; knows the stages in any case.

    Parameters
    ----------
    slab : Slab

    Attributes
    ----------
    base : int
        What processes held after their start, bytes.
    cached : callable
        ``() -> bytes`` of tiles that could be evicted.
    stages, events : list of Note
    peak, rss_peak, end : Moment or None
        Of the most held (to a hundredth), of the largest sum of Rss, of the last sample.
    largest : (str, int, float)
        The largest process there was: name, private bytes, when.
    most_held, most_private, most_tables, samples : int
    cpu_seconds : float
        Spent on looking.
    """

    def __init__(self, slab: Slab) -> None:
        self._slab = slab
        self._started = time.monotonic()
        self._names: dict[int, str] = {}
        self._processes: Callable[[], dict[str, int]] = dict
        self._thread: Thread | None = None
        self._gauge: Gauge
        self._over = np.zeros(1, np.uint8)
        self.timeline: Timeline | None = None
        self.cached: Callable[[], int] = int
        self.base = self.most_held = self.most_private = self.most_tables = self.samples = 0
        self.stages = [Note(0.0, "start")]
        self.events: list[Note] = []
        self.peak: Moment | None = None
        self.rss_peak: Moment | None = None
        self.end: Moment | None = None
        self.largest = "", 0, 0.0
        self.cpu_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def mark(self, stage: str) -> None:
        """A stage begins."""
        _keep(self.stages, Note(self.seconds, stage))

    def note(self, text: str) -> None:
        """Something happened."""
        _keep(self.events, Note(self.seconds, text))

    def keep(self, workers: int) -> None:
        """Have room for a timeline of so many workers (0: one process does everything)."""
        names = (*VALUES, "parent", *(["template"] if workers else []), *(f"worker {k + 1}" for k in range(workers)))
        ref = self._slab.alloc(timeline_bytes(len(names)), "report", low=True)
        self.timeline = Timeline(self._slab.view(ref, np.uint8), names)

    def follow(self, gauge: Gauge, processes: Callable[[], dict[str, int]]) -> None:
        """Have a gauge look a hundred times a second until `stop`, and keep what it sees, if there is room for it.

        Parameters
        ----------
        gauge : Gauge
        processes : callable
            ``() -> {name: process id}`` beside this one.

        Notes
        -----
        Where no thread can be started, the looks that the run takes for itself are what is kept.
        """
        if self.timeline is None:
            return
        import threading

        self._gauge, self._processes, self._names = gauge, processes, {}
        gauge.listener = self.take
        self._over[0] = 0
        self._thread = threading.Thread(target=self._watch, name="gauge", daemon=True)
        before = threading.stack_size(_STACK_BYTES)
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._thread = None
            self.note(f"{exc}: ten looks a second")
        finally:
            threading.stack_size(before)

    def stop(self) -> None:
        """No more looks."""
        if self._thread is not None:
            self._over[0] = 1
            self._thread.join()
            self._thread = None
            self._gauge.read(exact=True)
            self._gauge.close()
        if self.end is not None:
            self.end = self.end._replace(accounts=self._slab.ledger.accounts())

    def _watch(self) -> None:
        """The life of the thread."""
        spent = self.cpu_seconds - time.thread_time()
        while not self._over[0]:
            self._gauge.read()
            self._gauge.watch(_QUICK_LOOKS, TICK_SECONDS, self._over)
            self.cpu_seconds = spent + time.thread_time()

    def take(self, at: float, reading: Reading) -> None:
        """Keep a reading of the time `at`."""
        if self.timeline is None:
            return
        seconds, cached = at - self._started, self.cached()
        if self._names.keys() != reading.processes.keys():
            self._learn_names()
        parts = {name: reading.processes.get(pid, 0) for pid, name in self._names.items()}
        values = reading.total, reading.rss, reading.shared, self._slab.used, cached
        self.timeline.add(seconds, [*values, *(parts.get(name, 0) for name in self.timeline.names[len(VALUES) :])])
        self.samples += 1
        self.most_private = max(self.most_private, reading.private)
        self.most_tables = max(self.most_tables, reading.tables)
        for name, nbytes in parts.items():
            if nbytes > self.largest[1]:
                self.largest = name, nbytes, seconds
        self.most_held = max(self.most_held, reading.total)
        top = self.peak is None or self._higher(reading.total, self.peak)
        # Accounts are copied only for what is kept.
        accounts = self._slab.ledger.accounts() if top else {}
        self.end = Moment(seconds, self._stage_at(seconds), reading, cached, accounts)
        self.peak = self.end if top else self.peak
        self.rss_peak = self.end if self.rss_peak is None or reading.rss > self.rss_peak.reading.rss else self.rss_peak

    def _stage_at(self, seconds: float) -> str:
        """The stage at a time that isn't long ago."""
        return next((note.text for note in reversed(self.stages) if note.seconds <= seconds), self.stages[0].text)

    def _higher(self, held: int, peak: Moment) -> bool:
        """Whether this is the moment to show as the peak: what is freed in the slab stays allocated, so that the most is often
        held when nothing is in use any more; what was in use when (nearly) as much was held first says more."""
        used = sum(account.now for account in peak.accounts.values())
        return held > peak.reading.total * (1.0 if self._slab.used >= used else _NEARLY)

    def _learn_names(self) -> None:
        """Which process is which; a worker that was replaced keeps its name."""
        self._names = {os.getpid(): "parent", **{pid: name for name, pid in self._processes().items()}}


def _keep(notes: list[Note], note: Note) -> None:
    """Append, up to a number; the last one stays the last."""
    if len(notes) >= _MOST_NOTES:
        notes.pop()
    notes.append(note)
