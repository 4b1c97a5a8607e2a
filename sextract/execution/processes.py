"""The backend of worker processes: queues, two tasks per worker, and what happens when one dies.

A small template process (``template.py``) forks the workers; each has one socket to this process.  Task descriptors
stay here until they are answered, so a dead worker costs nothing but its work: its tasks go to a replacement, which is
forked only after the dead one is really gone (old and new together would pass the memory limit).

* A task whose workers crash twice (SEGV, BUS, FPE, ABRT, ILL) is given back as ``died``.
* A task whose workers are killed (SIGKILL, any other end) is retried; the fifth time it becomes a WorkerError.
* Only the task being worked on is blamed, never the one waiting behind it.
* A replacement that can't be forked just now is tried again, as long as others work.

``multiprocessing`` isn't used: its resource tracker and fork server cost 10 and 20 MiB, and its pools hang or break
when a worker is killed.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from sextract.errors import LimitError, WorkerError
from sextract.execution.backend import MORE_MEMORY, TASKS_PER_WORKER, HandlerFactory, Result, Task, ignore
from sextract.execution.environment import STOPPING
from sextract.execution.messages import (
    BROADCAST,
    ERROR,
    HELLO,
    RECEIVE_BYTES,
    TASK,
    Frame,
    FrameReader,
    ProtocolError,
    check_payload,
    pack,
    unpack_error,
)
from sextract.execution.template import EVENT, EXITED, FAILED, FORK, KILL, NO_TICKET, REQUEST, STARTED, Template, fork

_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGILL}
# A second crash in the same task is the task's doing.
_MAX_CRASHES = 2
# Kills come from outside (out of memory, an operator); so many in one task won't stop by themselves.
_MAX_KILLS = 5
# Losses for which no task is to blame, per worker, without a single answer in between.
_MAX_LOST = 5
# How long until a worker that couldn't be forked is tried again.
_RETRY_SECONDS = 0.2
# After this long an end is enforced.
_CLOSE_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class _Job:
    """A task that isn't answered yet."""

    ticket: int
    task: Task
    crashes: int = 0
    kills: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process as seen from here."""

    slot: int
    pid: int
    sock: socket.socket
    reader: FrameReader = field(default_factory=FrameReader)
    outbox: bytearray = field(default_factory=bytearray)
    jobs: deque[_Job] = field(default_factory=deque)
    watched: int = 0
    ready: bool = False
    since: float = 0.0  # when it began its first task


class ProcessBackend:
    """Runs tasks in forked worker processes.

    Parameters
    ----------
    workers : int
        Number of worker processes.
    handler_factory : callable
        ``(slot) -> handler``, called in each worker; what it refers to (slab, spill, settings) comes with the fork.

    Raises
    ------
    WorkerError
        If processes can't be made.

    Notes
    -----
    Make it before any thread is started, and before the process grows.  See `Backend` for the methods.
    """

    def __init__(self, workers: int, handler_factory: HandlerFactory) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers")
        self.workers = workers
        self.ended: Callable[[str], None] = ignore
        self._factory = handler_factory
        self._owner = os.getpid()
        self._closed = False
        self._slots: list[_Worker | None] = [None] * workers
        self._queue: deque[_Job] = deque()
        self._bound: list[deque[_Job]] = [deque() for _ in range(workers)]
        self._broadcasts: dict[int, bytes] = {}
        self._done: list[Result] = []
        self._seconds: dict[int, float] = {}
        self._outstanding = 0
        self._next = 0
        self._lost = 0
        self._leaving: set[int] = set()
        self._wanted: set[int] = set()
        self._refused = 0
        self._selector = selectors.DefaultSelector()
        # Objects alive now are shared with the children until someone writes to them, and a collection would.
        self._froze = gc.get_freeze_count() == 0
        if self._froze:
            gc.freeze()
        atexit.register(self.close)
        try:
            self._start_template()
        except BaseException:
            self.close()
            raise

    def submit(self, task: Task) -> int:
        """See `Backend`."""
        check_payload(task.payload)
        job = _Job(self._next, task)
        self._next += 1
        self._outstanding += 1
        self._queue_of(job).append(job)
        self._dispatch()
        return job.ticket

    def idle_slots(self) -> int:
        """See `Backend`."""
        free = 0
        for worker, bound in zip(self._slots, self._bound, strict=True):
            free += max(TASKS_PER_WORKER - len(bound) - (len(worker.jobs) if worker else 0), 0)
        return max(free - len(self._queue), 0)

    def wait(self, timeout: float | None = None) -> list[Result]:
        """See `Backend`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        # Everything that has come already is taken along, so that many small answers cost one round.
        self._poll(0)
        while not self._done and self._outstanding:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            if self._wanted:
                left = _RETRY_SECONDS if left is None else min(left, _RETRY_SECONDS)
            self._poll(left)
            while self._wanted:
                self._request(FORK, self._wanted.pop())
        done, self._done = self._done, []
        return done

    def broadcast(self, kind: int, payload: bytes) -> None:
        """See `Backend`; what the handler raises is raised by ``wait``."""
        check_payload(payload)
        self._broadcasts.pop(kind, None)
        self._broadcasts[kind] = payload
        for worker in self._slots:
            if worker is not None:
                self._send(worker, Frame(BROADCAST, kind, NO_TICKET, payload))

    def resize(self, workers: int) -> None:
        """See `Backend`."""
        if self._outstanding:
            raise ValueError(f"{self._outstanding} tasks are outstanding")
        for worker in self._slots[workers:]:
            if worker is not None:
                self._leaving.add(worker.pid)
                self._forget(worker)
                self._request(KILL, worker.pid)
        new = range(len(self._slots), workers)
        del self._slots[workers:], self._bound[workers:]
        self._slots += [None for _ in new]
        self._bound += [deque() for _ in new]
        self.workers = workers
        while self._leaving:
            self._control_event()
        for slot in new:
            self._request(FORK, slot)
        while any(self._slots[slot] is None for slot in new):
            self._control_event()

    def pids(self) -> list[int]:
        """See `Backend`: the template first, then the workers."""
        return list(self.processes().values())

    def processes(self) -> dict[str, int]:
        """See `Backend`."""
        if self._closed:
            return {}
        workers = {f"worker {worker.slot + 1}": worker.pid for worker in self._slots if worker is not None}
        return {"template": self._template, **workers}

    def close(self) -> None:
        """See `Backend`."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        atexit.unregister(self.close)
        # At end-of-file the template kills its workers and ends.
        if hasattr(self, "_control"):
            self._control.close()
            self._reap_template()
        for worker in self._slots:
            if worker is not None:
                self._forget(worker)
        self._selector.close()
        self._queue.clear()
        if self._froze:
            gc.unfreeze()

    def __enter__(self) -> ProcessBackend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Tasks

    def _queue_of(self, job: _Job) -> deque[_Job]:
        affinity = job.task.affinity
        return self._queue if affinity is None else self._bound[affinity % self.workers]

    def _dispatch(self) -> None:
        """Give every worker a first task before any gets a second, which goes to who will be ready soonest."""
        if not self._queue and not any(self._bound):
            return
        now = time.monotonic()
        for depth in range(TASKS_PER_WORKER):
            workers = [worker for worker in self._slots if worker is not None and len(worker.jobs) <= depth]
            for worker in sorted(workers, key=lambda worker: self._ready(worker, now)):
                queue = self._bound[worker.slot] or self._queue
                if queue:
                    job = queue.popleft()
                    if not worker.jobs:
                        worker.since = now
                    worker.jobs.append(job)
                    self._send(worker, Frame(TASK, job.task.kind, job.ticket, job.task.payload))

    def _ready(self, worker: _Worker, now: float) -> float:
        """Seconds until a worker is ready, if its tasks take what those of their kind took lately."""
        return sum(self._seconds.get(job.task.kind, 0.0) for job in worker.jobs) - (now - worker.since)

    def _finish(self, job: _Job, result: Result) -> None:
        self._done.append(result)
        self._outstanding -= 1

    def _take(self, worker: _Worker, frame: Frame) -> None:
        """A frame from a worker."""
        if frame.type == HELLO:
            worker.ready = True
            return
        if frame.ticket == NO_TICKET:
            raise unpack_error(frame.payload)
        if not worker.jobs or worker.jobs[0].ticket != frame.ticket:
            raise ProtocolError(f"an answer to task {frame.ticket}, which wasn't asked")
        job, now = worker.jobs.popleft(), time.monotonic()
        took = now - worker.since
        self._seconds[job.task.kind] = 0.8 * self._seconds.get(job.task.kind, took) + 0.2 * took
        worker.since = now
        self._lost = 0
        if frame.type == ERROR:
            self._finish(job, Result(job.ticket, error=unpack_error(frame.payload)))
        else:
            self._finish(job, Result(job.ticket, reply=frame.payload))

    # Sockets

    def _poll(self, timeout: float | None) -> None:
        """Handle what happens within `timeout` seconds, at least one event if it is None."""
        for key, mask in self._selector.select(timeout):
            happened: Callable[[int], None] = key.data
            happened(mask)
        self._dispatch()

    def _watch(self, worker: _Worker, events: int) -> None:
        if worker.watched == events:
            return
        if events == 0:
            self._selector.unregister(worker.sock)
        elif worker.watched == 0:
            self._selector.register(worker.sock, events, lambda mask: self._worker_event(worker, mask))
        else:
            self._selector.modify(worker.sock, events, lambda mask: self._worker_event(worker, mask))
        worker.watched = events

    def _send(self, worker: _Worker, frame: Frame) -> None:
        worker.outbox += pack(frame)
        self._flush(worker)

    def _flush(self, worker: _Worker) -> None:
        """Write what the socket takes.  Never blocks: the worker may be about to write to us."""
        try:
            while worker.outbox:
                del worker.outbox[: worker.sock.send(worker.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            # It is dead; the template will say so.
            worker.outbox.clear()
        if worker.watched:
            self._watch(worker, selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outbox else 0))

    def _worker_event(self, worker: _Worker, mask: int) -> None:
        if worker.watched and mask & selectors.EVENT_WRITE:
            self._flush(worker)
        if worker.watched and mask & selectors.EVENT_READ:
            self._receive(worker)

    def _receive(self, worker: _Worker) -> bool:
        """Read what is there; False if there is nothing (more)."""
        try:
            data = worker.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._watch(worker, 0)
            return False
        try:
            for frame in worker.reader.feed(data):
                self._take(worker, frame)
        except ProtocolError:
            self._watch(worker, 0)
            self._request(KILL, worker.pid)
            return False
        return True

    # Processes

    def _start_template(self) -> None:
        """Fork the template and ask it for a worker in every slot."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()

        def body() -> None:
            near.close()
            self._selector.close()
            Template(far, parent, self._factory).run()

        try:
            self._template = fork(body, STOPPING)
        except OSError as exc:
            near.close()
            far.close()
            raise _no_process(exc.errno) from exc
        far.close()
        self._control = near
        self._selector.register(near, selectors.EVENT_READ, lambda mask: self._control_event())
        for slot in range(self.workers):
            if self._slots[slot] is None:
                self._request(FORK, slot)
            while self._slots[slot] is None:
                self._control_event()
                if self._wanted:
                    raise _no_process(self._refused)

    def _request(self, request: int, value: int) -> None:
        with suppress(OSError):
            # If it is dead, end-of-file follows.
            self._control.send(REQUEST.pack(request, value))

    def _control_event(self) -> None:
        """News from the template."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, EVENT.size, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data, fds = b"", []
        if not data:
            self._template_lost()
            return
        event, first, second = EVENT.unpack(data)
        if event == STARTED and not fds:
            # The kernel drops a descriptor for which there is no room here.
            raise _no_process(errno.EMFILE)
        if event == STARTED:
            self._welcome(_Worker(first, second, socket.socket(fileno=fds[0])))
        elif event == EXITED:
            self._leaving.discard(first)
            for worker in self._slots:
                if worker is not None and worker.pid == first:
                    self._bury(worker, os.waitstatus_to_exitcode(second))
                    self._request(FORK, worker.slot)
        elif event == FAILED:
            self._wanted.add(first)
            self._refused = second
            self._lost += 1
            if not any(self._slots) or self._lost > _MAX_LOST * self.workers:
                raise _no_process(second)

    def _welcome(self, worker: _Worker) -> None:
        worker.sock.setblocking(False)
        self._slots[worker.slot] = worker
        self._watch(worker, selectors.EVENT_READ)
        for kind, payload in self._broadcasts.items():
            self._send(worker, Frame(BROADCAST, kind, NO_TICKET, payload))

    def _bury(self, worker: _Worker, code: int | None) -> None:
        """Take a dead worker's last answers, judge its task, queue its tasks again; `code` None blames nobody."""
        with suppress(ProtocolError):
            while worker.watched and self._receive(worker):
                pass
        jobs = list(worker.jobs)
        self._forget(worker)
        if code == LimitError.exit_code:
            raise LimitError(f"a worker is out of memory; {MORE_MEMORY}")
        self.ended(f"worker {worker.slot + 1} (process {worker.pid}) ended ({_end_text(code)}) and is replaced")
        if code is not None and worker.ready and jobs:
            if not self._judge(jobs[0], code):
                del jobs[0]
        elif code is not None:
            self._lost += 1
            if self._lost > _MAX_LOST * self.workers:
                raise WorkerError(f"workers end again and again before they have done anything ({_end_text(code)})")
        for job in reversed(jobs):
            self._queue_of(job).appendleft(job)

    def _judge(self, job: _Job, code: int) -> bool:
        """Whether the task in which a worker ended is tried again."""
        if code < 0 and -code in _CRASHES:
            job.crashes += 1
            if job.crashes < _MAX_CRASHES:
                return True
            self._finish(job, Result(job.ticket, died=signal.Signals(-code).name))
            return False
        job.kills += 1
        if job.kills < _MAX_KILLS:
            return True
        text = f"{_MAX_KILLS} workers were killed in the same task, one after the other ({_end_text(code)}; out of memory?)"
        self._finish(job, Result(job.ticket, error=WorkerError(f"{text}: lower --mem-limit or --workers")))
        return False

    def _forget(self, worker: _Worker) -> None:
        """Close what belongs to a worker that is gone."""
        self._watch(worker, 0)
        worker.sock.close()
        self._slots[worker.slot] = None

    def _template_lost(self) -> None:
        """The template was killed, and its workers with it: start again."""
        self._selector.unregister(self._control)
        self._control.close()
        self._lost += 1
        if self._lost > _MAX_LOST:
            raise WorkerError("the process that starts workers is killed again and again (out of memory?)")
        self._reap_template()
        self._leaving.clear()
        for worker in self._slots:
            if worker is not None:
                self._await_end(worker)
                self._bury(worker, None)
        self._start_template()

    def _reap_template(self) -> None:
        """Wait until the template is gone, by force if it takes long."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        # Whoever ignores SIGCHLD, or waits for all children, has been faster: then it is gone as well.
        with suppress(ChildProcessError, ProcessLookupError):
            while os.waitpid(self._template, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(self._template, signal.SIGKILL)
                time.sleep(0.001)

    def _await_end(self, worker: _Worker) -> None:
        """Take a worker's answers until end-of-file: the kernel closes descriptors after it has freed the memory."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(worker.sock, selectors.EVENT_READ)
            while worker.watched:
                if selector.select(0.01):
                    self._receive(worker)
                elif time.monotonic() > deadline:
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)


def _no_process(code: int | None) -> WorkerError:
    """Why a process can't be made, in words."""
    code = code or 0
    why = {errno.EMFILE: ", ulimit -n", errno.EAGAIN: ", ulimit -u or the cgroup's pids.max"}.get(code, "")
    return WorkerError(f"can't start a worker ({os.strerror(code)}{why}): use fewer --workers, or 0")


def _end_text(code: int | None) -> str:
    """How a process ended."""
    if code is None:
        return "lost"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
