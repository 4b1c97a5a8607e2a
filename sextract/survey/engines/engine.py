"""The door of engines: what runs the jobs of a survey, and where.

An engine is one file of this package (or an entry point) that adds a function to `ENGINES`: it gets what stands behind the
colon of ``--engine NAME:ARGUMENT`` and a `Setting`, and makes an `Engine`.  Whatever has the interface of
``concurrent.futures.Executor`` is one: by `HostedEngine` if its workers are other programs' processes, maybe on other
machines; by `ExecutorEngine` if they are processes that a run may happen in.  What is done when a job is lost is the survey's.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from sextract.config.settings import ResourceSettings
from sextract.errors import ConfigError, WorkerError
from sextract.log import Reporter
from sextract.memory.budget import size_text
from sextract.registry import Registry
from sextract.survey.job import Job, Outcome

T = TypeVar("T")

# How long to wait before signals and records have their turn, seconds.
WAIT_SECONDS = 1.0
# An executor has jobs waiting for its workers, so that none idles while an answer travels; but not all jobs there are.
JOBS_PER_WORKER, MOST_JOBS = 2, 10000
# What does a job in a process that a worker starts.
PROGRAM = "sextract.survey.serve"


class Setting(NamedTuple):
    """What an engine may know before the first job.

    Attributes
    ----------
    resources : ResourceSettings
        Of the command line; another engine than ``local`` has the memory limit hold for each of its workers.
    jobs : int
        How many there will be.
    reporter : Reporter
    folder : str
        Of the manifest: where an engine may keep files of its own.
    """

    resources: ResourceSettings
    jobs: int
    reporter: Reporter
    folder: str = "."


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


class _Executing:
    """What engines made of an executor have in common."""

    def __init__(self, executor: Executor, window: int) -> None:
        self._executor, self.window = executor, window

    def later(self, image: str) -> bool:
        """See `Engine`: never."""
        return False

    def wait(self, pending: Iterable[Future[Outcome]]) -> Iterable[Future[Outcome]]:
        """See `Engine`."""
        return wait(list(pending), timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED).done

    def close(self) -> None:
        """See `Engine`."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class ExecutorEngine(_Executing):
    """An engine made of an executor.

    Parameters
    ----------
    executor : concurrent.futures.Executor
    function : callable
        What its workers call with a job; can be pickled.
    window : int
    """

    def __init__(self, executor: Executor, function: Callable[[Job], Outcome], window: int) -> None:
        super().__init__(executor, window)
        self._function = function

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Engine`."""
        return self._executor.submit(self._function, job)


class HostedEngine(_Executing):
    """An engine made of an executor whose workers have each image done by a process that they start (``execution/host.py``).

    The memory limit holds for each worker with all it starts.  Images are done in one process unless ``--workers`` is given.

    Parameters
    ----------
    name : str
    executor : concurrent.futures.Executor
        Its workers can import sextract; numpy isn't imported in them.
    setting : Setting
    workers : int
        How many processes work.
    slots : int
        How many jobs each does at a time.
    """

    def __init__(self, name: str, executor: Executor, setting: Setting, workers: int, slots: int = 1) -> None:
        self.check(name, setting)
        super().__init__(executor, min(JOBS_PER_WORKER * max(workers * slots, 1), MOST_JOBS))
        self.slots, self.owner = slots, os.urandom(8).hex()
        self._limit_bytes = setting.resources.mem_limit_bytes
        # See `Work.pulse`.
        self.pulse = ""
        self._workers = workers_beside(setting.resources)
        each = f"{slots} images at a time each, " if slots > 1 else ""
        setting.reporter.info(
            f"Engine {name}: {workers} workers, {each}{size_text(self._limit_bytes)} for each with the processes it starts"
        )

    @staticmethod
    def check(name: str, setting: Setting) -> None:
        """Before anything is started: ConfigError if there is no limit, since nobody knows how many workers share a machine."""
        if not setting.resources.given & {"--mem-limit", "MEM_LIMIT"}:
            raise ConfigError(f"--engine {name} needs --mem-limit: how much each of its workers may hold")

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Engine`."""
        # What forks workers, the local engine, has no use for it.
        from sextract.execution.host import Work, do

        resources = replace(job.settings.resources, workers=self._workers)
        payload = pickle.dumps(job._replace(settings=replace(job.settings, resources=resources)))
        future: Future[Outcome] = Future()
        work = Work(PROGRAM, payload, self._limit_bytes, self.slots, self.owner, self.pulse)
        sent = self._executor.submit(do, work)
        sent.add_done_callback(lambda answer: _hand_on(answer, future))
        return future


def workers_beside(resources: ResourceSettings) -> int:
    """How many processes do an image of an engine's worker, beside the one that leads: none unless they are asked for."""
    return resources.workers if resources.given & {"--workers", "WORKERS"} else 0


def defined_in(engine: str, path: str, name: str, kind: type[T]) -> T:
    """What a file of Python defines under a name.

    Raises
    ------
    ConfigError
        It can't be read or run, or has nothing of that kind and name.
    """
    import runpy

    if not path:
        raise ConfigError(f"--engine {engine} needs a file of Python that defines {name}: {engine}:FILE.py")
    try:
        found = runpy.run_path(path).get(name)
    except Exception as exc:
        raise ConfigError(f"--engine {engine}:{path}: {type(exc).__name__}: {' '.join(str(exc).split())}") from exc
    if not isinstance(found, kind):
        raise ConfigError(f"--engine {engine}:{path}: it doesn't define {name}, a {kind.__module__}.{kind.__name__}")
    return found


def _hand_on(answer: Future[bytes], future: Future[Outcome]) -> None:
    """What came of a job sent to a worker."""
    if answer.cancelled():
        future.set_exception(WorkerError("the engine gave it up"))
    elif (error := answer.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(pickle.loads(answer.result()))


EngineFactory = Callable[[str, Setting], Engine]

ENGINES: Registry[EngineFactory] = Registry("engine", "sextract.survey.engines")
