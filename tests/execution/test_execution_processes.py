"""Worker processes: the contract, deaths of every kind, and that nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sextract.errors import InputError, WorkerError
from sextract.execution.backend import Backend, Task
from sextract.execution.processes import ProcessBackend
from sextract.memory.slab import Slab

sys.path.insert(0, str(Path(__file__).parent))
from backend_contract import ECHO, GET, INPUT_ERROR, PID, SET, BackendContract, collect, make_handler

# Kinds of task beyond the contract's: send yourself a signal (the payload says which), exit, write garbage, and the
# same only if a file isn't there yet.
SIGNAL, EXIT, GARBAGE, SIGNAL_ONCE, BLOCK = range(100, 105)


def deadly_handler(slot: int) -> Callable[[int, bytes], bytes]:
    """A handler that can be told to die."""
    common = make_handler()

    def handle(kind: int, payload: bytes) -> bytes:
        if kind == SIGNAL_ONCE:
            number, _, path = payload.partition(b" ")
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return b"survived"
            kind, payload = SIGNAL, number
        if kind == SIGNAL:
            os.kill(os.getpid(), int(payload))
        if kind == EXIT:
            os._exit(int(payload))
        if kind == BLOCK:
            signal.pause()
        if kind == GARBAGE:
            for fd in range(3, 64):
                try:
                    if socket.socket(fileno=os.dup(fd)).type == socket.SOCK_STREAM:
                        os.write(fd, b"this is no frame" * 10)
                except OSError:
                    continue
            signal.pause()
        return common(kind, payload)

    return handle


def alive(pid: int) -> bool:
    """Whether a process runs, zombies apart."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def all_gone(pids: list[int], seconds: float = 20) -> bool:
    """Whether processes end."""
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True


# Found from here, whether or not the package is installed.
ROOT = Path(__file__).parents[2]


class TestProcesses(BackendContract):
    @pytest.fixture
    def backend(self, slab: Slab) -> Iterator[Backend]:
        with ProcessBackend(2, lambda slot: make_handler(slab)) as backend:
            yield backend

    def test_work_is_done_elsewhere_and_shared(self, backend: Backend) -> None:
        for _ in range(2):
            for worker in range(2):
                backend.submit(Task(PID, b"", affinity=worker))
        pids = {int(result.reply or b"0") for result in collect(backend, 4).values()}
        assert pids == set(backend.pids()[1:])
        assert os.getpid() not in pids

    def test_a_broadcast_that_fails_raises_from_wait(self, backend: Backend) -> None:
        backend.broadcast(INPUT_ERROR, b"")
        backend.submit(Task(ECHO, b""))
        backend.submit(Task(ECHO, b""))
        with pytest.raises(InputError):
            collect(backend, 2)


@pytest.fixture
def backend() -> Iterator[ProcessBackend]:
    with ProcessBackend(2, deadly_handler) as backend:
        yield backend


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGILL])
def test_a_task_that_crashes_two_workers_is_given_back(backend: ProcessBackend, number: signal.Signals) -> None:
    good = [backend.submit(Task(ECHO, b"%d" % i)) for i in range(10)]
    bad = backend.submit(Task(SIGNAL, b"%d" % number))
    good += [backend.submit(Task(ECHO, b"%d" % i)) for i in range(10, 20)]
    got = collect(backend, 21)
    assert got[bad].died == number.name
    assert got[bad].error is None
    assert [got[ticket].reply for ticket in good] == [b"%d" % i for i in range(20)]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_task_whose_worker_dies_once_is_repeated(
    backend: ProcessBackend, number: signal.Signals, tmp_path: Path
) -> None:
    ticket = backend.submit(Task(SIGNAL_ONCE, b"%d %s" % (number, os.fsencode(tmp_path / "mark"))))
    assert collect(backend, 1)[ticket].reply == b"survived"


@pytest.mark.parametrize(("kind", "payload", "text"), [(SIGNAL, b"9", "SIGKILL"), (EXIT, b"3", "exit code 3")])
def test_a_task_that_is_killed_again_and_again_is_an_error(
    backend: ProcessBackend, kind: int, payload: bytes, text: str
) -> None:
    ticket = backend.submit(Task(kind, payload))
    result = collect(backend, 1)[ticket]
    assert isinstance(result.error, WorkerError)
    assert text in str(result.error)
    assert "--mem-limit" in str(result.error)
    # Only the guilty one: the backend goes on.
    ticket = backend.submit(Task(ECHO, b"x"))
    assert collect(backend, 1)[ticket].reply == b"x"


def test_the_task_that_waits_behind_a_guilty_one_is_not_blamed() -> None:
    with ProcessBackend(1, deadly_handler) as backend:
        tickets = [backend.submit(Task(SIGNAL, b"11")) for _ in range(3)]
        innocent = backend.submit(Task(ECHO, b"x"))
        got = collect(backend, 4)
        assert [got[ticket].died for ticket in tickets] == ["SIGSEGV"] * 3
        assert got[innocent].reply == b"x"


def test_a_worker_that_talks_nonsense_is_replaced(backend: ProcessBackend) -> None:
    ticket = backend.submit(Task(GARBAGE, b""))
    assert isinstance(collect(backend, 1)[ticket].error, WorkerError)


def test_a_replacement_gets_the_broadcasts_first(backend: ProcessBackend) -> None:
    backend.broadcast(SET, b"old")
    backend.broadcast(SET, b"new")
    before = backend.pids()
    for worker in range(2):
        backend.submit(Task(SIGNAL, b"11", affinity=worker))
        backend.submit(Task(GET, b"", affinity=worker))
    assert sorted(str(result.reply) for result in collect(backend, 4).values()) == ["None", "None", "b'new'", "b'new'"]
    assert not set(before[1:]) & set(backend.pids())
    assert before[0] == backend.pids()[0]


def test_an_end_is_told(backend: ProcessBackend) -> None:
    told: list[str] = []
    backend.ended = told.append
    pid = backend.processes()["worker 2"]
    ticket = backend.submit(Task(SIGNAL, b"11", affinity=1))
    assert collect(backend, 1)[ticket].died == "SIGSEGV"
    assert told[0] == f"worker 2 (process {pid}) ended (SIGSEGV) and is replaced"
    assert len(told) == 2
    ticket = backend.submit(Task(ECHO, b"", affinity=1))
    assert collect(backend, 1)[ticket].reply == b""
    processes = backend.processes()
    assert processes.keys() == {"template", "worker 1", "worker 2"}
    assert processes["worker 2"] != pid


def test_affinity_and_order_survive_a_death(backend: ProcessBackend, tmp_path: Path) -> None:
    tickets = [backend.submit(Task(SIGNAL_ONCE, b"9 %s" % os.fsencode(tmp_path / "mark"), affinity=0))]
    tickets += [backend.submit(Task(ECHO, b"", affinity=0)) for _ in range(6)]
    order: list[int] = []
    while len(order) < 7:
        order += [result.ticket for result in backend.wait(60)]
    assert order == tickets


def test_idle_workers_that_are_killed_are_replaced(backend: ProcessBackend) -> None:
    for pid in backend.pids()[1:]:
        os.kill(pid, signal.SIGKILL)
    for worker in range(2):
        backend.submit(Task(ECHO, b"x", affinity=worker))
    assert {result.reply for result in collect(backend, 2).values()} == {b"x"}


def test_the_template_may_be_killed(backend: ProcessBackend) -> None:
    old = backend.pids()
    blocked = [backend.submit(Task(BLOCK, b"")) for _ in range(2)]
    backend.broadcast(SET, b"known")
    os.kill(old[0], signal.SIGKILL)
    while set(backend.pids()) & set(old):
        backend.wait(0.01)
    assert all_gone(old[1:])
    # The tasks were given to the new workers; end those as well, until the tasks are given up.
    while blocked:
        for pid in backend.pids()[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for result in backend.wait(1):
            assert isinstance(result.error, WorkerError)
            blocked.remove(result.ticket)
    ticket = backend.submit(Task(GET, b""))
    assert collect(backend, 1)[ticket].reply == b"known"


@pytest.mark.parametrize("seed", range(3))
def test_every_task_is_answered_once_whoever_is_killed(seed: int) -> None:
    rng = random.Random(seed)
    with ProcessBackend(3, deadly_handler) as backend:
        wanted = {backend.submit(Task(ECHO, b"%d" % i, rng.choice([None, 0, 1, 2]))): b"%d" % i for i in range(400)}
        got: dict[int, bytes | None] = {}
        marks = sorted(rng.sample(range(5, 380), 8))
        while len(got) < 400:
            for result in backend.wait(60):
                assert result.ticket not in got
                got[result.ticket] = result.reply
            if marks and len(got) >= marks[0]:
                del marks[0]
                # One time in eight the template.
                victims = backend.pids()
                with suppress(ProcessLookupError):
                    os.kill(victims[0] if rng.random() < 0.125 else rng.choice(victims[1:]), signal.SIGKILL)
        assert got == wanted
        assert not marks


def test_results_sent_before_a_death_count(backend: ProcessBackend) -> None:
    tickets = []
    for worker in range(2):
        tickets.append(backend.submit(Task(ECHO, b"x" * 100_000, affinity=worker)))
        tickets.append(backend.submit(Task(SIGNAL, b"11", affinity=worker)))
    got = collect(backend, 4)
    assert [got[ticket].died for ticket in tickets] == [None, "SIGSEGV"] * 2


@pytest.mark.parametrize("error", [InputError("no such file"), RuntimeError("oops")])
def test_a_handler_that_cannot_be_made_is_reported(error: Exception) -> None:
    def factory(slot: int) -> Callable[[int, bytes], bytes]:
        raise error

    # Maybe by the time the second worker is started.
    with (
        pytest.raises(type(error) if isinstance(error, InputError) else WorkerError, match=str(error)),
        ProcessBackend(2, factory) as backend,
    ):
        backend.submit(Task(ECHO, b""))
        backend.wait(60)


def test_workers_that_die_at_once_do_not_go_on_for_ever() -> None:
    def factory(slot: int) -> Callable[[int, bytes], bytes]:
        os._exit(1)

    with ProcessBackend(2, factory) as backend:
        backend.submit(Task(ECHO, b""))
        with pytest.raises(WorkerError, match="exit code 1"):
            backend.wait(60)


def test_close_leaves_nothing_even_of_busy_workers() -> None:
    backend = ProcessBackend(3, deadly_handler)
    pids = backend.pids()
    for _ in range(6):
        backend.submit(Task(BLOCK, b""))
    fds = len(os.listdir("/proc/self/fd"))
    backend.close()
    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == fds - 5  # three workers, the control socket, the selector
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], os.WNOHANG)


def test_the_garbage_collector_is_left_as_it_was() -> None:
    frozen = gc.get_freeze_count()
    with ProcessBackend(1, deadly_handler):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == frozen


def test_forking_while_python_has_threads_is_no_warning() -> None:
    script = (
        "import sys, threading\n"
        "from sextract.execution.processes import ProcessBackend\n"
        "from sextract.execution.backend import Task\n"
        "stop = threading.Event()\n"
        "threading.Thread(target=stop.wait, daemon=True).start()\n"
        "with ProcessBackend(2, lambda slot: lambda kind, payload: payload) as backend:\n"
        "    backend.submit(Task(0, b'fine'))\n"
        "    print(backend.wait(60)[0].reply.decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


PARENT = """
import os, sys, signal
from sextract.execution.processes import ProcessBackend
from sextract.execution.backend import Task

def factory(slot):
    def handle(kind, payload):
        while True:
            sum(range(1000))
    return handle

{before}
backend = ProcessBackend(2, factory)
for _ in range(4):
    backend.submit(Task(0, b""))
os.write({out}, " ".join(map(str, backend.pids())).encode() + b"\\n")
{after}
"""


def orphans_of(after: str, before: str = "", kill: bool = False) -> list[int]:
    """Process ids of a backend whose parent ended in a certain way."""
    read, write = os.pipe()
    script = PARENT.format(before=before, after=after, out=write)
    parent = subprocess.Popen([sys.executable, "-c", script], pass_fds=[write], stderr=subprocess.DEVNULL, cwd=ROOT)
    os.close(write)
    with open(read) as file:
        pids = list(map(int, file.readline().split()))
        if kill:
            parent.kill()
        parent.wait(60)
    assert len(pids) == 3
    return pids


@pytest.mark.parametrize(
    "after",
    ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "sys.exit(0)", "raise ValueError", "os.abort()"],
)
def test_no_orphans_however_the_parent_ends(after: str) -> None:
    assert all_gone(orphans_of(after))


def test_no_orphans_of_a_parent_killed_while_it_waits() -> None:
    assert all_gone(orphans_of("backend.wait()", kill=True))


def test_no_orphans_of_a_backend_made_in_a_thread() -> None:
    before = "import threading"
    after = "threading.Thread(target=backend.wait, daemon=True).start(); os.kill(os.getpid(), signal.SIGKILL)"
    assert all_gone(orphans_of(after, before))


def test_works_without_standard_streams() -> None:
    read, write = os.pipe()
    script = (
        "import os\n"
        "from sextract.execution import environment\n"
        "environment.prepare()\n"
        "from sextract.execution.processes import ProcessBackend\n"
        "from sextract.execution.backend import Task\n"
        "def factory(slot):\n"
        "    def handle(kind, payload):\n"
        "        print('noise', flush=True)\n"
        "        os.write(2, b'noise')\n"
        "        return payload\n"
        "    return handle\n"
        "with ProcessBackend(2, factory) as backend:\n"
        "    backend.submit(Task(0, b'fine'))\n"
        f"    os.write({write}, backend.wait(60)[0].reply or b'error')\n"
    )
    pid = subprocess.Popen(
        [sys.executable, "-c", script],
        pass_fds=[write],
        preexec_fn=lambda: [os.close(fd) for fd in (0, 1, 2)],
        cwd=ROOT,
    )
    os.close(write)
    with open(read, "rb") as file:
        assert file.read() == b"fine"
    assert pid.wait(60) == 0


def test_ctrl_c_reaches_the_parent_alone(backend: ProcessBackend) -> None:
    for pid in backend.pids():
        os.kill(pid, signal.SIGINT)
    before = backend.pids()
    for worker in range(2):
        backend.submit(Task(ECHO, b"x", affinity=worker))
    assert {result.reply for result in collect(backend, 2).values()} == {b"x"}
    assert backend.pids() == before
