"""What a memory report tells: the facts of the run, its timeline, and the table that answers "where is my memory".

It puts together what the recorder (``memory/timeline.py``) kept.  How it is written is in ``text.py`` (JSON, CSV), ``page.py``
(HTML) and ``plot.py`` (PNG); to which files, in ``files.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sextract._version import __version__
from sextract.memory.budget import MIB, Account, Budget
from sextract.memory.timeline import VALUES, Moment, Note, Recorder, Timeline


class Line(NamedTuple):
    """A line of the table: bytes at the moment of the peak, at the end, and the most there was; None: not known.

    `level` is 0 for what the limit is about, 1 for its parts, 2 for parts of these, −1 for what stands beside it.
    """

    part: str
    at_peak: int | None
    at_end: int | None
    most: int | None
    level: int = 1


class Report(NamedTuple):
    """A run's memory.

    Attributes
    ----------
    image, software, account : str
        ``pss`` or ``rss``: what the limit counts.
    limit, base, kernel : int
        Bytes: the limit; what processes held after their start; what was set aside for the kernel's share.
    workers, samples : int
    seconds, looking_seconds : float
        Of the run, and of CPU time spent on looking.
    timeline : Timeline
    stages, events : tuple of Note
    peak, rss_peak, end : Moment
    largest : (str, int, float)
        The largest process there was: name, private bytes, when.
    most : dict of str to int
        Most bytes of each column of the timeline, of ``private`` and ``tables``.
    """

    image: str
    software: str
    account: str
    limit: int
    base: int
    kernel: int
    workers: int
    samples: int
    seconds: float
    looking_seconds: float
    timeline: Timeline
    stages: tuple[Note, ...]
    events: tuple[Note, ...]
    peak: Moment
    rss_peak: Moment
    end: Moment
    largest: tuple[str, int, float]
    most: dict[str, int]

    @classmethod
    def of(cls, recorder: Recorder, image: str, budget: Budget, account: str, workers: int) -> Report:
        """The report of a run that is over; its recorder has stopped."""
        timeline, peak, rss_peak, end = recorder.timeline, recorder.peak, recorder.rss_peak, recorder.end
        assert timeline is not None and peak is not None and rss_peak is not None and end is not None
        most = dict.fromkeys(timeline.names, 0)
        for _, values in timeline.rows():
            for name, value in zip(timeline.names, values, strict=True):
                most[name] = max(most[name], value)
        most.update(held=recorder.most_held, private=recorder.most_private, tables=recorder.most_tables)
        return cls(
            image, f"sextract {__version__}", account, budget.limit, recorder.base, dict(budget.lines())["kernel"], workers,
            recorder.samples, recorder.seconds, recorder.cpu_seconds, timeline, tuple(recorder.stages), tuple(recorder.events),
            peak, rss_peak, end, recorder.largest, most,
        )  # fmt: skip

    def facts(self) -> Iterator[tuple[str, str]]:
        """Name and text of what stands above the table."""
        counted = "shared memory once" if self.account == "pss" else "the sum of Rss, too"
        yield "image", self.image
        yield "limit", f"{mib(self.limit)} MiB for all processes together ({counted})"
        yield "peak", f"{mib(self.most['held'])} MiB after {self.peak.seconds:.2f} s ({self.peak.stage})"
        name, nbytes, seconds = self.largest
        yield "largest process", f"{name}: {mib(nbytes)} MiB of its own after {seconds:.2f} s"
        rss = self.rss_peak
        yield "sum of Rss", f"at most {mib(rss.reading.rss)} MiB, after {rss.seconds:.2f} s ({rss.stage})"
        yield "workers", str(self.workers)
        yield "time", f"{self.seconds:.2f} s; {self.samples} looks took {self.looking_seconds:.3f} s of CPU time"
        yield "made by", self.software

    def lines(self) -> list[Line]:
        """The table: where the memory was at the peak and at the end, and how much of each there ever was."""
        at, end, most = self.peak, self.end, self.most
        nothing = Account()
        slab = [
            Line(name, at.accounts.get(name, nothing).now, account.now, account.peak, 2)
            for name, account in end.accounts.items()
        ]
        return [
            Line("held by all processes", at.reading.total, end.reading.total, most["held"], 0),
            Line("interpreter and libraries", *(min(self.base, n) for n in _private(self))),
            Line("heaps", *(max(n - self.base, 0) for n in _private(self))),
            Line("buffers (the slab)", at.reading.shared, end.reading.shared, most["slab"]),
            *slab,
            Line("free, kept for reuse", _unused(at), _unused(end), None, 2),
            Line("cached tiles, could be given up", at.cached, end.cached, most["cached"], -1),
            Line("page tables (the kernel's)", at.reading.tables, end.reading.tables, most["tables"], -1),
            Line("sum of Rss (a shared page once a process)", at.reading.rss, end.reading.rss, most["rss"], -1),
        ]


def _private(report: Report) -> tuple[int, int, int]:
    return report.peak.reading.private, report.end.reading.private, report.most["private"]


def _unused(moment: Moment) -> int:
    """Bytes of the slab that are reserved and in no block."""
    return max(moment.reading.shared - sum(account.now for account in moment.accounts.values()), 0)


def process_names(report: Report) -> tuple[str, ...]:
    """Columns of the timeline that are processes."""
    return report.timeline.names[len(VALUES) :]


def mib(nbytes: int | None) -> str:
    """Bytes as MiB with one decimal; nothing for None."""
    return "" if nbytes is None else f"{nbytes / MIB:.1f}"
