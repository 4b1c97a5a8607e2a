"""What a run tells its user: lines and progress on stderr, in SExtractor's style.

Nothing else of the package writes to stderr, and nothing here writes to stdout, which may carry a catalogue.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

# Without a terminal a line of progress comes at most this often, seconds: readable in a batch log.
LINE_SECONDS = 10.0

LEVELS = ("QUIET", "NORMAL", "EXTRA_WARNINGS", "FULL")


class Reporter:
    """Writes lines as VERBOSE_TYPE asks.

    Parameters
    ----------
    verbose : str
        QUIET (errors only), NORMAL, EXTRA_WARNINGS or FULL (details too).  It may change while a run is being set up.
    stream : text file, optional
        stderr if not given.
    clock : callable
        Seconds, for tests.
    """

    def __init__(
        self, verbose: str = "NORMAL", stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.verbose = verbose
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self._progress: Progress | None = None

    def info(self, text: str) -> None:
        """A line of the normal log."""
        if self.verbose != "QUIET":
            self.line(text)

    def detail(self, text: str) -> None:
        """A line for VERBOSE_TYPE FULL alone."""
        if self.verbose == "FULL":
            self.line(text)

    def warning(self, text: str) -> None:
        """Something that may not be what the user wants."""
        if self.verbose != "QUIET":
            self.line(f"> WARNING: {text}")

    def error(self, text: str) -> None:
        """What ends the run, or this image of a batch; printed whatever VERBOSE_TYPE says."""
        self.line(f"> *ERROR*: {text}")

    def progress(self, total: float, what: str = "", unit: str = "") -> Progress:
        """A bar at a terminal, lines elsewhere, nothing if QUIET: a context manager.

        Parameters
        ----------
        total : float
            Work to do, in any unit.
        what : str
            What is being done.
        unit : str
            Name of the unit.
        """
        self._progress = Progress(self, total, what, unit, self._progress)
        return self._progress

    def leave(self, progress: Progress) -> None:
        """A progress has come to its end: the one around it is shown again."""
        if self._progress is progress:
            self._progress = progress.outer

    def line(self, text: str) -> None:
        """A line as it is, whatever VERBOSE_TYPE says."""
        if self._progress is not None and self._progress.above(text):
            return
        # A closed stderr is no reason to lose a catalogue.
        with suppress(OSError, ValueError):
            self.stream.write(text + "\n")
            self.stream.flush()


class Progress:
    """How far the work is; made by `Reporter.progress`."""

    def __init__(self, reporter: Reporter, total: float, what: str, unit: str, outer: Progress | None = None) -> None:
        self.total, self.outer = total, outer
        self.done = 0.0
        self._reporter = reporter
        self._what = what
        self._start = self._last = reporter.clock()
        terminal = reporter.verbose != "QUIET" and reporter.stream.isatty()
        self._bar = _bar(total, what, unit, reporter.stream) if terminal else None

    def advance(self, amount: float) -> None:
        """`amount` more of the work is done."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
            return
        now = self._reporter.clock()
        if now - self._last >= LINE_SECONDS and self.total > 0:
            self._last = now
            part, spent = min(self.done / self.total, 1.0), now - self._start
            left = f", about {spent / part - spent:.0f} s left" if part > 0 else ""
            self._reporter.info(f"{self._what}: {100 * part:.0f} % in {spent:.0f} s{left}")

    def above(self, text: str) -> bool:
        """Write a line above the bar; False if there is no bar."""
        if self._bar is None:
            return False
        self._bar.write(text, file=self._reporter.stream)
        return True

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
        self._reporter.leave(self)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _bar(total: float, what: str, unit: str, stream: TextIO) -> Any:
    """A tqdm bar that starts no thread and makes no semaphore, since processes are forked beside it."""
    import threading

    from tqdm import tqdm

    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        file=stream,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.2,
    )
