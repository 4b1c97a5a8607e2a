"""``--engine local``: this machine.  Small images are done several at a time, each by one warm process; then large ones in
turn, each by all processes.

The processes of the small ones are workers of `ProcessBackend`, which replaces them when they die.  They were forked from one
process and share its pages, which are counted once, here; the rest of the limit is divided among them.  An image that turns
out not to fit into a part, or that crashed its process twice, is done as a large one.
"""

from __future__ import annotations

import gc
import os
import pickle
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from sextract.config.settings import ResourceSettings
from sextract.errors import LimitError
from sextract.execution.backend import TASKS_PER_WORKER, Handler, Task
from sextract.execution.processes import ProcessBackend
from sextract.memory.budget import HEAP_PER_PROCESS, KERNEL_PER_PROCESS, MIB
from sextract.memory.heap import give_back
from sextract.pipeline import SMALL_BYTES, Kept
from sextract.pipeline.layout import HOSTED_BYTES, LIBRARY_BYTES, PARENT_BYTES, PARENT_RSS, SERIAL_RSS
from sextract.reading.spec import parse_spec
from sextract.survey.engines.engine import ENGINES, WAIT_SECONDS, Engine, Setting
from sextract.survey.job import Job, Outcome, run_image

# Files of compressed images are this much smaller.
PACKED = 4
# What the buffers of an image of a million pixels need, and what is enough for those of a small one.
LEAST_BUFFERS, MOST_BUFFERS = 36 * MIB, 192 * MIB
# Of the survey itself: its libraries, and what it remembers of each image.
SURVEY_BYTES, ITEM_BYTES = 6 * MIB, 1024


class LocalEngine:
    """See the module.

    Parameters
    ----------
    setting : Setting
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.runners, self.share_bytes = shares(setting)
        self.window = TASKS_PER_WORKER * max(self.runners, 1)
        self._backend: ProcessBackend | None = None
        self._small: dict[int, tuple[Job, Future[Outcome]]] = {}
        self._large: deque[tuple[Job, Future[Outcome]]] = deque()
        if self.runners:
            self._start()

    def later(self, image: str) -> bool:
        """See `Engine`: an image that all processes do together."""
        return bool(self.runners) and is_large(image)

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Engine`."""
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()
        if not self.runners or self.later(job.image):
            self._large.append((job, future))
            return future
        if self._backend is None:
            self._start()
        assert self._backend is not None
        resources = replace(job.settings.resources, mem_limit_bytes=self.share_bytes, workers=0, hosted=True, checkpoint=0)
        sent = job._replace(settings=replace(job.settings, resources=resources))
        self._small[self._backend.submit(Task(0, pickle.dumps(sent)))] = job, future
        return future

    def wait(self, pending: Iterable[Future[Outcome]]) -> Iterable[Future[Outcome]]:
        """See `Engine`."""
        if not self._small:
            return [self._do_large()] if self._large else []
        assert self._backend is not None
        done = []
        for result in self._backend.wait(WAIT_SECONDS):
            job, future = self._small.pop(result.ticket)
            outcome: Outcome | None = pickle.loads(result.reply) if result.reply is not None else None
            if result.died is not None or (outcome is not None and outcome.exit_code == LimitError.exit_code):
                # With all memory, and a process that only a source may crash.
                self._large.append((job, future))
                continue
            if outcome is not None:
                future.set_result(outcome)
            else:
                future.set_exception(result.error)
            done.append(future)
        return done

    def _do_large(self) -> Future[Outcome]:
        """Do a large image in this process and workers of its own."""
        self.close()
        job, future = self._large.popleft()
        future.set_result(run_image(job, self._setting.reporter))
        # What a run had open hangs together in circles; descriptors are few, and the collector looks at objects alone.
        gc.collect()
        return future

    def _start(self) -> None:
        give_back()
        self._backend = ProcessBackend(self.runners, partial(_handler, self._setting.resources, self.share_bytes))

    def close(self) -> None:
        """See `Engine`."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None


def _handler(resources: ResourceSettings, share_bytes: int, slot: int) -> Handler:
    """What a process does with a job."""
    kept = Kept(share_bytes, resources.scratch_dir, hosted=True)
    return lambda kind, payload: pickle.dumps(run_image(pickle.loads(payload), kept=kept))


def is_large(image: str) -> bool:
    """Whether all processes do it together, by the size of its file."""
    path = parse_spec(image).path
    try:
        nbytes = os.stat(path).st_size
    except (OSError, ValueError):
        return False
    return nbytes * (PACKED if path.endswith((".gz", ".fz")) else 1) > SMALL_BYTES


def shares(setting: Setting) -> tuple[int, int]:
    """How many processes do images at the same time, and the bytes that each may hold; 0 processes if one has no room."""
    resources = setting.resources
    workers = min(resources.workers, setting.jobs)
    if resources.account == "rss":
        common, own = PARENT_RSS, SERIAL_RSS
    else:
        common, own = PARENT_BYTES + LIBRARY_BYTES, HOSTED_BYTES
    room = resources.mem_limit_bytes - common - 2 * (HEAP_PER_PROCESS + KERNEL_PER_PROCESS) - SURVEY_BYTES
    room -= ITEM_BYTES * setting.jobs
    least = own + HEAP_PER_PROCESS + KERNEL_PER_PROCESS + LEAST_BUFFERS
    runners = max(min(workers, room // least), 0)
    return runners, min(room // max(runners, 1), least - LEAST_BUFFERS + MOST_BUFFERS)


def local(argument: str, setting: Setting) -> Engine:
    """This machine."""
    return LocalEngine(setting)


ENGINES.add("local", local)
