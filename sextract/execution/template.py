"""The template process: forked from the parent while that is small, it forks the workers and tells when they end.

A worker that dies is replaced from here, not from the parent, which has grown meanwhile.  The template runs no task and
keeps no state but its children.  Who asks it for workers, and what becomes of their tasks, is ``processes.py``.

Nobody outlives the run: the kernel kills the template with the parent and the workers with the template (PDEATHSIG),
and each also leaves at end-of-file on its socket.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from sextract.errors import LimitError, SextractError, WorkerError, out_of_memory
from sextract.execution.backend import MORE_MEMORY, HandlerFactory, call
from sextract.execution.environment import STOPPING, die_with_parent
from sextract.execution.messages import BROADCAST, ERROR, HELLO, RECEIVE_BYTES, REPLY, Frame, FrameReader, pack, pack_error
from sextract.memory.heap import tune_heap

# Parent → template: fork a worker for this slot, or kill the one with this process id.
REQUEST = struct.Struct("<ii")
FORK, KILL = range(2)
# Template → parent: a worker runs (slot, pid; with its socket), is gone (pid, wait status), can't run (slot, errno).
EVENT = struct.Struct("<iii")
STARTED, EXITED, FAILED = range(3)

# Ticket of frames that answer no task.
NO_TICKET = -1

# Chosen first when the machine itself runs out of memory: a worker can be replaced, the parent can't.
_OOM_SCORE = "500"


def fork(body: Callable[[], None], ignored: Iterable[signal.Signals]) -> int:
    """Fork a process that runs `body` and ends; its process id.

    The child starts with default signal handlers, `ignored` ones apart, and never returns into the caller's frames: no
    ``finally``, ``atexit`` or buffered output of the caller runs twice.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()
    old = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Python warns if there are threads.  The child uses nothing that they could hold a lock of, and an OpenBLAS
            # that was imported with threads restarts them itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run_child(body, ignored)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    return pid


def _run_child(body: Callable[[], None], ignored: Iterable[signal.Signals]) -> NoReturn:
    """Everything a forked process does."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        # What the template ignores, its workers don't.
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.environ.get("SEXTRACT_FAULTHANDLER", "") != "1":
            faulthandler.disable()
        body()
        code = 0
    except MemoryError:
        # Nothing that would need more of it.
        code = LimitError.exit_code
    except BaseException:
        with suppress(BaseException):
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


class Template:
    """What runs in the template process.

    Parameters
    ----------
    control : socket
        SOCK_SEQPACKET; requests come in, events go out.
    parent : int
        Process id of the parent.
    handler_factory : callable
        Run in each worker.
    """

    def __init__(self, control: socket.socket, parent: int, handler_factory: HandlerFactory) -> None:
        self._control = control
        self._parent = parent
        self._factory = handler_factory
        self._children: set[int] = set()
        self._wake, self._woken = socket.socketpair()

    def run(self) -> None:
        """Serve until the parent hangs up; then kill what is left."""
        die_with_parent(self._parent)
        tune_heap()
        # Collections would touch, and so copy, every object that is shared with the parent.
        gc.disable()
        gc.freeze()
        # A child's end becomes a byte to read.  (Older kernels, and Pythons built for them, have no pidfd.)
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        with self._control, self._wake, self._woken:
            try:
                # A parent that hangs up while there is news for it resets the connection.
                with suppress(ConnectionResetError, BrokenPipeError):
                    while self._step():
                        pass
            finally:
                signal.set_wakeup_fd(-1)
                for pid in self._children:
                    os.kill(pid, signal.SIGKILL)
                for pid in self._children:
                    os.waitpid(pid, 0)

    def _step(self) -> bool:
        """Wait for a request or the end of a child; False when the parent has hung up."""
        ready, _, _ = select.select([self._control, self._woken], [], [])
        if self._woken in ready:
            self._woken.recv(4096)
            self._bury()
        if self._control in ready:
            data = self._control.recv(REQUEST.size)
            if not data:
                return False
            request, value = REQUEST.unpack(data)
            if request == FORK:
                self._start(value)
            elif value in self._children:
                os.kill(value, signal.SIGKILL)
        return True

    def _start(self, slot: int) -> None:
        """Fork a worker and hand its socket to the parent."""
        template = os.getpid()
        try:
            near, far = socket.socketpair()
            with near, far:

                def body() -> None:
                    for unused in (near, self._control, self._wake, self._woken):
                        unused.close()
                    die_with_parent(template)
                    serve(far, self._factory, slot)

                # What is sent to all processes of a terminal or a job is the parent's to answer.
                pid = fork(body, set(STOPPING) - {signal.SIGTERM})
                self._children.add(pid)
                socket.send_fds(self._control, [EVENT.pack(STARTED, slot, pid)], [near.fileno()])
        except (ConnectionResetError, BrokenPipeError):
            raise
        except OSError as exc:
            self._control.send(EVENT.pack(FAILED, slot, exc.errno or 0))

    def _bury(self) -> None:
        """Report the children that have ended; all their memory is free by now."""
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._control.send(EVENT.pack(EXITED, pid, status))


def serve(sock: socket.socket, handler_factory: HandlerFactory, slot: int) -> None:
    """The life of a worker: tasks from the socket, one after the other, until it is closed."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)
    gc.enable()
    try:
        handler = handler_factory(slot)
        answer = Frame(HELLO, 0, NO_TICKET, b"")
    except SextractError as exc:
        answer = Frame(ERROR, 0, NO_TICKET, pack_error(exc))
    except Exception as exc:
        error: SextractError = WorkerError(f"a worker can't start:\n{traceback.format_exc()}")
        if out_of_memory(exc):
            error = LimitError(f"a worker can't start: out of memory ({exc}); {MORE_MEMORY}")
        answer = Frame(ERROR, 0, NO_TICKET, pack_error(error))
    reader = FrameReader()
    # The parent is gone if writing fails; there is nobody to tell.
    with suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(pack(answer))
        while answer.type != ERROR or answer.ticket != NO_TICKET:
            data = sock.recv(RECEIVE_BYTES)
            if not data:
                return
            for frame in reader.feed(data):
                answer = _answer(frame, handler)
                if answer.type != HELLO:
                    sock.sendall(pack(answer))


def _answer(frame: Frame, handler: Callable[[int, bytes], bytes]) -> Frame:
    """Run a task or a broadcast; a broadcast that went well needs no answer (a HELLO is not sent)."""
    try:
        reply = call(handler, frame.kind, frame.payload)
    except SextractError as exc:
        return Frame(ERROR, frame.kind, frame.ticket, pack_error(exc))
    return Frame(HELLO if frame.type == BROADCAST else REPLY, frame.kind, frame.ticket, reply)
