"""What a worker of an engine does with work: processes that stay, and what happens when one of them, or the worker, ends."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sextract.errors import WorkerError
from sextract.execution.host import GROWTH_BYTES, Host, Order, Work, own_bytes
from tests.scenes import ROOT

# A program that does as the payload says.
PROGRAM = '''
import os, pickle, signal, socket, sys, time

def serve(fd):
    used = False
    with socket.socket(fileno=fd) as sock, sock.makefile("rb") as orders:
        while True:
            try:
                payload, share, host = pickle.load(orders)
            except EOFError:
                return
            word, _, file = payload.decode().partition(" ")
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "leave":
                sys.exit(3)
            if word == "hang":
                open(file, "w").write(str(os.getpid()))
                time.sleep(600)
            answer = b"" if word == "fresh" and used else pickle.dumps((os.getpid(), share, host))
            if word == "once":
                # As after waiting for long: what comes later is refused.
                sock.shutdown(socket.SHUT_RD)
            sock.sendall(pickle.dumps(answer))
            used = True
'''
# A worker that does work in a thread which ends, and then hangs in the middle of another piece.
WORKER = """
import os, sys, threading, time
from sextract.execution.host import Work, do
if {fork}:
    # One that was there before, and one that comes later.
    do(Work("program", b"pid", 1 << 30))
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
first = threading.Thread(target=do, args=(Work("program", b"pid", 1 << 30),))
first.start()
first.join()
do(Work("program", b"hang {file}", 1 << 30))
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host whose processes find the program."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    host = Host()
    yield host
    host.dismiss("")


def work(payload: str, slots: int = 1, owner: str = "", limit: int = 1 << 30) -> Work:
    return Work("program", payload.encode(), limit, slots, owner)


def pid_of(host: Host, payload: str = "pid", slots: int = 1) -> int:
    return int(pickle.loads(host.do(work(payload, slots)))[0])


def gone(pid: int, seconds: float) -> bool:
    """Whether a process ends within a time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def test_a_process_stays_for_the_next_piece(host: Host) -> None:
    first = pid_of(host)
    assert first != os.getpid()
    assert [pid_of(host) for _ in range(3)] == [first] * 3


def test_the_limit_less_the_worker_is_shared(host: Host) -> None:
    before = own_bytes()
    _, share, own = pickle.loads(host.do(work("pid", slots=3, limit=600 << 20)))
    assert before <= own - GROWTH_BYTES <= own_bytes()
    assert share == ((600 << 20) - own) // 3


def test_a_limit_below_the_worker_leaves_nothing(host: Host) -> None:
    assert pickle.loads(host.do(work("pid", limit=1 << 20)))[1] == 0


@pytest.mark.parametrize(("word", "said"), [("die", "was killed by SIGKILL"), ("leave", "ended with code 3")])
@pytest.mark.parametrize("before", [0, 1], ids=["new", "warm"])
def test_a_process_that_dies_is_an_error_and_replaced(host: Host, word: str, said: str, before: int) -> None:
    pids = [pid_of(host) for _ in range(before)]
    with pytest.raises(WorkerError, match=said):
        host.do(work(word))
    assert pid_of(host) not in pids


def test_a_program_that_is_not_there_is_an_error(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WorkerError, match="ended with code 1"):
        host.do(Work("no_such_program", b"", 1 << 30))
    assert "no_such_program" in capfd.readouterr().err


def test_one_that_left_while_it_waited_is_no_error(host: Host) -> None:
    first = pid_of(host, "once")
    assert pid_of(host) != first


def test_one_that_was_killed_while_it_waited_is_no_error(host: Host) -> None:
    first = pid_of(host)
    os.kill(first, signal.SIGKILL)
    assert gone(first, 10.0)
    assert pid_of(host) != first


def test_what_wants_a_fresh_process_gets_one(host: Host) -> None:
    first = pid_of(host, "fresh")
    second = pid_of(host, "fresh")
    assert second != first
    assert gone(first, 0.0)


def test_there_are_as_many_processes_as_slots(host: Host) -> None:
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(pid_of(host, slots=2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert 1 <= len(set(seen)) <= 2
    # Fewer slots: one goes.
    assert pid_of(host, slots=1) in seen
    assert sum(not gone(pid, 0.0) for pid in set(seen)) == 1


def test_dismissing_ends_work_for_its_owner_alone(host: Host, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("mine", "theirs")}
    said: dict[str, str] = {}

    def hang(owner: str) -> None:
        try:
            host.do(work(f"hang {files[owner]}", 2, owner))
        except WorkerError as exc:
            said[owner] = str(exc)

    threads = {owner: threading.Thread(target=hang, args=(owner,)) for owner in files}
    for thread in threads.values():
        thread.start()
    pids = {owner: int(when_there(file)) for owner, file in files.items()}
    host.dismiss("mine")
    threads["mine"].join(10.0)
    assert "SIGKILL" in said["mine"]
    assert not gone(pids["theirs"], 0.0)
    host.dismiss("theirs")
    threads["theirs"].join(10.0)
    assert set(said) == {"mine", "theirs"}


def test_another_version_is_refused(host: Host) -> None:
    with pytest.raises(WorkerError, match=r"has sextract .*the survey is of 0\.0\.x"):
        host.do(work("pid")._replace(version="0.0.x"))


def when_there(file: Path, process: subprocess.Popen[str] | None = None) -> str:
    """Contents of a file that is about to be written."""
    while not (file.exists() and (text := file.read_text())):
        assert process is None or process.poll() is None, "it ended"
        select.select([], [], [], 0.005)
    return text


@pytest.mark.parametrize("fork", [False, True], ids=["alone", "forked"])
def test_no_process_outlives_its_worker(host: Host, tmp_path: Path, fork: bool) -> None:
    file = tmp_path / "pid"
    code = WORKER.format(fork=fork, file=file)
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        pid = int(when_there(file, worker))
        other = int(worker.stdout.readline()) if fork and worker.stdout else 0
        try:
            assert not gone(pid, 0.0)
            worker.kill()
            assert gone(pid, 1.0)
        finally:
            worker.kill()
            if other:
                os.kill(other, signal.SIGKILL)


def test_an_order_is_plain(host: Host) -> None:
    # What travels to a process must not need numpy to be read, nor be more than a tuple.
    order = Order(b"payload", 1, 2)
    assert Order(*pickle.loads(pickle.dumps(tuple(order)))) == order


def test_the_worker_does_not_import_numpy() -> None:
    code = "import sys, sextract.execution.host, sextract.execution.ranks; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
