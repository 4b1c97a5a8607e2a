"""What each process of a run did when: a trace that Perfetto and chrome://tracing open (``--profile``).

A track is one process; spans within a span lie below it.  Every process appends its spans to one file after each task, so
that what a process has finished is kept whatever becomes of it.  Without ``--profile`` a span costs a call and nothing more.
What is worth a span is decided where the work is done: ``pipeline/``.

References
----------
"Trace Event Format", of Chrome's tracing; times are in microseconds since the process began.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sextract.catalogue.output import OutputFile

OPTION = "--profile"

_NOTHING = nullcontext()
# Text that waits in a process for the end of a task.
_CHUNK = 32 << 10


class Track:
    """One process.

    Parameters
    ----------
    number : int
        0 for the run's own process, then the workers.
    append : callable, optional
        Appends bytes to the file; without it nothing is kept.
    """

    def __init__(self, number: int, append: Callable[[bytes], None] | None = None) -> None:
        self._number = number
        self._append = append
        self._waiting = bytearray()

    def __call__(self, name: str, **facts: int) -> AbstractContextManager[None]:
        """A span as long as its block; `facts` are shown with it, and may be added to by whoever holds it."""
        return _NOTHING if self._append is None else _Span(self, name, facts)

    def add(self, name: str, begin_ns: int, end_ns: int, **facts: int) -> None:
        """A span between two times of CLOCK_MONOTONIC."""
        if self._append is None:
            return
        event = {"ph": "X", "pid": 1, "tid": self._number, "name": name, "ts": begin_ns / 1e3, "dur": (end_ns - begin_ns) / 1e3}
        self._waiting += b",\n" + json.dumps({**event, "args": facts} if facts else event).encode()
        if len(self._waiting) > _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Append what waits to the file."""
        if self._append is not None and self._waiting:
            self._append(bytes(self._waiting))
            self._waiting.clear()


class _Span:
    """A span that is going on; with it is shown how long its process had a processor (`cpu_us`)."""

    __slots__ = ("begin", "cpu", "facts", "name", "track")

    def __init__(self, track: Track, name: str, facts: dict[str, int]) -> None:
        self.track, self.name, self.facts = track, name, facts

    def __enter__(self) -> None:
        self.cpu = time.process_time_ns()
        self.begin = time.monotonic_ns()

    def __exit__(self, *exc_info: object) -> None:
        end = time.monotonic_ns()
        self.track.add(self.name, self.begin, end, **self.facts, cpu_us=(time.process_time_ns() - self.cpu) // 1000)


class Trace:
    """The file, and who writes to it.

    Parameters
    ----------
    file : OutputFile, optional
        Without one nothing is kept.
    """

    def __init__(self, file: OutputFile | None = None) -> None:
        self._file = file
        self._cpu: dict[str, float] = {}
        self.main = self.track(0)
        if file is None:
            return
        # Whoever appends does so at the end, whichever process it is.
        fcntl.fcntl(file.fd, fcntl.F_SETFL, fcntl.fcntl(file.fd, fcntl.F_GETFL) | os.O_APPEND)
        self._append(b'{"displayTimeUnit": "ms", "traceEvents": [\n' + _named("process", 0, "sextract"))
        self.main.add("start-up", process_began_ns(), time.monotonic_ns(), cpu_us=time.process_time_ns() // 1000)

    def track(self, number: int) -> Track:
        """The track of the run's own process (0) or of a worker."""
        return Track(number, None if self._file is None else self._append)

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        with self._file.translated():
            while len(view):
                view = view[os.write(self._file.fd, view) :]

    def count(self, processes: Mapping[str, int]) -> None:
        """Note the CPU time of processes by name (``parent``, ``worker 1``, …), as long as they live."""
        if self._file is None:
            return
        self._cpu = {name: cpu_seconds(pid) for name, pid in processes.items()}
        for name, seconds in self._cpu.items():
            number = name.removeprefix("worker ")
            if name == "parent" or number != name:
                label = f"{name}, {seconds:.2f} s of CPU"
                self._append(b",\n" + _named("thread", int(number) if number != name else 0, label))

    def close(self) -> None:
        """Complete the file and have it in place."""
        if self._file is None:
            return
        self.main.flush()
        self._append(b'\n], "otherData": ' + json.dumps({"cpu_seconds": self._cpu}).encode() + b"}\n")
        self._file.commit()


@contextmanager
def open_trace(name: str) -> Iterator[Trace]:
    """The trace of a run, removed unless it is closed.

    Raises
    ------
    OutputError
    """
    if not name:
        yield Trace()
        return
    file = OutputFile(name, OPTION, seekable=False)
    try:
        yield Trace(file)
    finally:
        file.abort()


def process_began_ns() -> int:
    """When this process began, on CLOCK_MONOTONIC; the kernel knows it to a hundredth of a second."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rsplit(b")", 1)[1].split()[19])
    since_boot = ticks * (10**9 // os.sysconf("SC_CLK_TCK"))
    return since_boot - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + time.monotonic_ns()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _named(what: str, number: int, name: str) -> bytes:
    """The event that names a process or a track."""
    return json.dumps({"ph": "M", "pid": 1, "tid": number, "name": f"{what}_name", "args": {"name": name}}).encode()
