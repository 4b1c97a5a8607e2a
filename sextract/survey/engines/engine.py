"""The door of engines: what runs the jobs of a survey, and where.

An engine is one file of this package (or an entry point) that adds a function to `ENGINES`: it gets what stands behind the
colon of ``--engine NAME:ARGUMENT`` and a `Setting`, and makes an `Engine`.  Whatever has the interface of
``concurrent.futures.Executor`` is one, by `ExecutorEngine`.  What is done when a job is lost is the survey's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import NamedTuple, Protocol

from sextract.config.settings import ResourceSettings
from sextract.log import Reporter
from sextract.registry import Registry
from sextract.survey.job import Job, Outcome

# How long to wait before signals and records have their turn, seconds.
WAIT_SECONDS = 1.0


class Setting(NamedTuple):
    """What an engine may know before the first job.

    Attributes
    ----------
    resources : ResourceSettings
        Of the command line; another engine than ``local`` has the memory limit hold for each of its workers.
    jobs : int
        How many there will be.
    reporter : Reporter
    """

    resources: ResourceSettings
    jobs: int
    reporter: Reporter


class Engine(Protocol):
    """Runs jobs; used by one thread.

    Attributes
    ----------
    window : int
        How many jobs it likes to have at a time.
    """

    window: int

    def later(self, image: str) -> bool:
        """Whether an image had better come after all others."""
        ...

    def submit(self, job: Job) -> Future[Outcome]:
        """Queue a job.  The future's exception tells that the job was lost, and is worth another try."""
        ...

    def wait(self, pending: Iterable[Future[Outcome]]) -> Iterable[Future[Outcome]]:
        """Those that are done; waits for one, but not for ever."""
        ...

    def close(self) -> None:
        """End everything at once, jobs that run included."""
        ...


class ExecutorEngine:
    """An engine made of an executor.

    Parameters
    ----------
    executor : concurrent.futures.Executor
    function : callable
        What its workers call with a job; can be pickled.
    window : int
    """

    def __init__(self, executor: Executor, function: Callable[[Job], Outcome], window: int) -> None:
        self._executor, self._function, self.window = executor, function, window

    def later(self, image: str) -> bool:
        """See `Engine`: never."""
        return False

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Engine`."""
        return self._executor.submit(self._function, job)

    def wait(self, pending: Iterable[Future[Outcome]]) -> Iterable[Future[Outcome]]:
        """See `Engine`."""
        return wait(list(pending), timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED).done

    def close(self) -> None:
        """See `Engine`."""
        self._executor.shutdown(wait=False, cancel_futures=True)


EngineFactory = Callable[[str, Setting], Engine]

ENGINES: Registry[EngineFactory] = Registry("engine", "sextract.survey.engines")
