"""What a worker of a cluster's engine does with a piece of work: it has a process of ours do it, which stays for the next.

Such a worker (Parsl's, Dask's, a rank of MPI) has threads, libraries and a heap of its own, so no run happens in it, and
numpy isn't imported.  It starts at most as many processes as it is told, each in a fresh interpreter, and hands each its share
of the memory limit: what the limit leaves beside the worker itself.  A process that dies is an exception that says how; who
repeats the work is the survey's.  The kernel kills the processes when their worker ends, however it ends.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sextract._version import __version__
from sextract.errors import WorkerError

# What the worker itself may grow by while a piece of work is done.
GROWTH_BYTES = 16 << 20
# How often a worker that has something to do shows that it lives, seconds.
PULSE_SECONDS = 5.0
# How long the end of a process that is no longer there may take to be known, seconds.
_REAP_SECONDS = 10.0

# Before numpy is imported, as for the command line.
_START = f"""import importlib, sys
sys.path.append({str(Path(__file__).resolve().parent.parent.parent)!r})
from sextract.execution.environment import die_with_pipe, prepare
die_with_pipe(0)
prepare()
importlib.import_module(sys.argv[1]).serve(int(sys.argv[2]))"""


class Work(NamedTuple):
    """A piece of work.

    Attributes
    ----------
    program : str
        Module whose ``serve(descriptor)`` does it.
    payload : bytes
    limit_bytes : int
        What this worker may hold with all its processes.
    slots : int
        How many pieces it does at a time at most.
    owner : str
        On whose behalf, for `dismiss`.
    pulse : str
        Folder in which a worker shows that it lives, while it has something to do; empty: nowhere.
    version : str
    """

    program: str
    payload: bytes
    limit_bytes: int
    slots: int = 1
    owner: str = ""
    pulse: str = ""
    version: str = __version__


class Order(NamedTuple):
    """What a process gets: the payload, its share of the limit, and what the worker itself takes of that."""

    payload: bytes
    share_bytes: int
    host_bytes: int


class _Child:
    """A process that does one piece of work after the other."""

    def __init__(self, program: str) -> None:
        self.program, self.owner, self.used = program, "", False
        near, far = socket.socketpair()
        with far:
            # Nothing is written to its standard input: that it is closed is what ends the process.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, program, str(far.fileno())],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(far.fileno(),),
            )  # fmt: skip
        self._sock, self._answers = near, near.makefile("rb")

    def send(self, order: Order) -> bool:
        """Give it work; False if it has left meanwhile."""
        try:
            self._sock.sendall(pickle.dumps(tuple(order)))
        except OSError:
            return False
        return True

    def answer(self, pulse: str) -> bytes:
        """What it made of it; nothing if it wants it done by a process that has done no other.

        Raises
        ------
        WorkerError
            It died.
        """
        _beat(pulse)
        while not select.select([self._sock], [], [], PULSE_SECONDS)[0]:
            _beat(pulse)
        try:
            answer = bytes(pickle.load(self._answers))
        except (EOFError, OSError, pickle.UnpicklingError):
            raise WorkerError(f"the process that did it {self._end()}") from None
        self.used = True
        return answer

    def _end(self) -> str:
        try:
            code = self.process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            return "hung up"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def hang_up(self) -> None:
        """Close all that leads to it."""
        assert self.process.stdin is not None
        for end in (self.process.stdin, self._answers, self._sock):
            with suppress(OSError):
                end.close()

    def kill(self) -> None:
        """End it, and wait until its memory is free."""
        self.process.kill()
        self.hang_up()
        self.process.wait()


class Host:
    """The processes of this worker; any thread may call it."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._count = 0

    def do(self, work: Work) -> bytes:
        """See the function `do`."""
        if work.version != __version__:
            raise WorkerError(f"{socket.gethostname()} has sextract {__version__}, the survey is of {work.version}")
        with self._changed:
            self._changed.wait_for(lambda: self._count < work.slots)
            self._count += 1
        try:
            while not (answer := self._once(work)):
                pass
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify()
        return answer

    def _once(self, work: Work) -> bytes:
        """Have a process do it; nothing if it must be another one."""
        own = own_bytes() + GROWTH_BYTES
        order = Order(work.payload, max(work.limit_bytes - own, 0) // work.slots, own)
        child = self._take(work)
        try:
            # A process that has waited long leaves; one that is new has no reason to.
            answer = child.answer(work.pulse) if child.send(order) or not child.used else b""
        except BaseException:
            self._remove(child)
            raise
        if not answer:
            self._remove(child)
            return b""
        with self._changed:
            self._busy.discard(child)
            self._idle.append(child)
        return answer

    def _take(self, work: Work) -> _Child:
        """A process that is free, or a new one; there are never more than slots."""
        with self._changed:
            kept = [child for child in self._idle if child.program == work.program][: work.slots - len(self._busy)]
            surplus = [child for child in self._idle if child not in kept]
            child = kept.pop() if kept else None
            self._idle = kept
            for other in surplus:
                other.kill()
            child = child or _Child(work.program)
            child.owner = work.owner
            self._busy.add(child)
            return child

    def _remove(self, child: _Child) -> None:
        child.kill()
        with self._changed:
            self._busy.discard(child)

    def dismiss(self, owner: str) -> None:
        """See the function `dismiss`."""
        with self._changed:
            idle, self._idle = self._idle, []
            for child in idle:
                child.kill()
            for child in self._busy:
                if child.owner == owner:
                    child.process.kill()

    def forget(self) -> None:
        """In a fork of the worker: nothing here is its own, and what leads to the processes must not stay open in it."""
        for child in (*self._idle, *self._busy):
            child.hang_up()
        self._begin()


# What a worker has lives as long as the worker, between calls that know nothing of each other.
_HOST = Host()
os.register_at_fork(after_in_child=_HOST.forget)


def do(work: Work) -> bytes:
    """Do a piece of work; what engines call in their workers.

    Raises
    ------
    WorkerError
        The process that did it died, or this worker's version is another one.
    """
    return _HOST.do(work)


def dismiss(owner: str) -> None:
    """End the processes that do somebody's work, and those that do nothing."""
    _HOST.dismiss(owner)


def _beat(folder: str) -> None:
    """Touch a file of this worker's."""
    if folder:
        with suppress(OSError):
            Path(folder, f"{socket.gethostname()}.{os.getpid()}").touch()


def own_bytes() -> int:
    """What this process holds, pages that it shares with others included: they may end at any time."""
    with open("/proc/self/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file.read().splitlines())
    return sum(int(fields[name].split()[0]) << 10 for name in (b"RssAnon", b"RssFile"))
