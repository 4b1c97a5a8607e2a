"""The door of execution: what a backend is, and the serial one, which defines the truth.

A backend runs a *handler*, ``(kind, payload) -> reply``, on tasks; payloads and replies are small (descriptors and
results), pixels and rows lie in the slab.  What tasks mean is the pipeline's; worker processes are ``processes.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from sextract.errors import Interrupted, LimitError, SextractError, WorkerError, out_of_memory
from sextract.execution.messages import check_payload

Handler = Callable[[int, bytes], bytes]
# Called once in each worker, after it was forked, with the worker's slot; a replacement has the slot of the dead one.
HandlerFactory = Callable[[int], Handler]

MORE_MEMORY = "raise the limit of the machine or job (ulimit -v and -d, the cgroup), or lower --mem-limit and --workers"

# One task being worked on and one waiting, so that a worker needn't idle while its answer travels.
TASKS_PER_WORKER = 2


class Task(NamedTuple):
    """Something to do.

    Attributes
    ----------
    kind : int
    payload : bytes
        At most ``messages.MAX_PAYLOAD``.
    affinity : int or None
        Worker (modulo their number) that must do it, in the order of submission; None: any.
    """

    kind: int
    payload: bytes
    affinity: int | None = None


class Result(NamedTuple):
    """What became of a task: exactly one of `reply`, `error` and `died` is set.

    Attributes
    ----------
    ticket : int
        As returned by ``submit``.
    reply : bytes or None
    error : SextractError or None
        Raised by the handler; WorkerError for what isn't a SextractError, or if workers were killed again and again.
    died : str or None
        Name of the signal by which two workers crashed in this very task.
    """

    ticket: int
    reply: bytes | None = None
    error: SextractError | None = None
    died: str | None = None


class Backend(Protocol):
    """Runs tasks; used by one thread, and a context manager.

    Attributes
    ----------
    ended : callable
        Told in words when a process has ended before its time and is replaced.
    """

    ended: Callable[[str], None]

    @property
    def workers(self) -> int:
        """How many tasks run at the same time."""
        ...

    def submit(self, task: Task) -> int:
        """Queue a task and return its ticket; ValueError for an oversized payload."""
        ...

    def idle_slots(self) -> int:
        """How many more tasks can be submitted before any has to queue here."""
        ...

    def wait(self, timeout: float | None = None) -> list[Result]:
        """Results that are there; waits for one, up to `timeout` seconds (None: for ever).

        Empty if nothing is outstanding, or nothing came in time.

        Raises
        ------
        WorkerError
            If workers can't be kept running at all.
        SextractError
            As raised by the handler for a broadcast.
        """
        ...

    def broadcast(self, kind: int, payload: bytes) -> None:
        """Run the handler in every worker, before the tasks submitted afterwards; its reply is dropped.

        A task that is outstanding may see it or not.  A worker that replaces a dead one gets the latest broadcast of
        each kind before anything else.
        """
        ...

    def resize(self, workers: int) -> None:
        """Have that many workers from now on, 0 included: the last ones end with all their memory, or new ones start.

        ValueError if tasks are outstanding.  New workers get the latest broadcast of each kind.  Does nothing where tasks run
        in this process.
        """
        ...

    def pids(self) -> list[int]:
        """Processes that the backend holds beside this one."""
        ...

    def processes(self) -> dict[str, int]:
        """The same by name: ``template``, ``worker 1``, …; a worker that is being replaced is missing."""
        ...

    def close(self) -> None:
        """End everything at once, tasks that run included; nothing is left behind.  May be called twice."""
        ...


def ignore(text: str) -> None:
    """Nobody wants to know."""


def call(handler: Handler, kind: int, payload: bytes) -> bytes:
    """Run a handler; what isn't a SextractError becomes a WorkerError with the traceback, or a LimitError."""
    try:
        reply = handler(kind, payload)
        check_payload(reply)
        return reply
    except SextractError:
        raise
    except Exception as exc:
        if not out_of_memory(exc):
            # Only what has failed pays for it.
            import traceback

            raise WorkerError(f"a worker failed in a task of kind {kind}:\n{traceback.format_exc()}") from exc
        said = f"{type(exc).__name__}: {exc}".rstrip(": ")
    # What was held on the way here is free again.
    raise LimitError(f"a worker is out of memory ({said}); {MORE_MEMORY}")


class SerialBackend:
    """Runs each task in this process, one per ``wait``, in order.

    Parameters
    ----------
    handler_factory : callable
        ``(slot) -> handler``; called at once.
    """

    workers = 1

    def __init__(self, handler_factory: HandlerFactory) -> None:
        self.ended: Callable[[str], None] = ignore
        self._handler = handler_factory(0)
        self._queue: deque[tuple[int, Task]] = deque()
        self._next = 0

    def submit(self, task: Task) -> int:
        """See `Backend`."""
        check_payload(task.payload)
        ticket = self._next
        self._next += 1
        self._queue.append((ticket, task))
        return ticket

    def idle_slots(self) -> int:
        """See `Backend`."""
        return max(TASKS_PER_WORKER - len(self._queue), 0)

    def wait(self, timeout: float | None = None) -> list[Result]:
        """See `Backend`."""
        if not self._queue:
            return []
        ticket, task = self._queue.popleft()
        try:
            return [Result(ticket, reply=call(self._handler, task.kind, task.payload))]
        except Interrupted:
            # Raised by a signal handler that happened to run inside the task; it is no answer to it.
            raise
        except SextractError as exc:
            return [Result(ticket, error=exc)]

    def broadcast(self, kind: int, payload: bytes) -> None:
        """See `Backend`; raises here what the handler raises."""
        check_payload(payload)
        call(self._handler, kind, payload)

    def resize(self, workers: int) -> None:
        """See `Backend`: nothing."""

    def pids(self) -> list[int]:
        """See `Backend`: none."""
        return []

    def processes(self) -> dict[str, int]:
        """See `Backend`: none."""
        return {}

    def close(self) -> None:
        """See `Backend`."""
        self._queue.clear()

    def __enter__(self) -> SerialBackend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
