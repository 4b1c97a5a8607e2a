"""Signals to the run itself: it is gone in two seconds, with code 75 where it can, and nothing is left."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import LIMIT
from tests.faults.harness import EVERYTHING, Started

INTERRUPTED = 75
# What is promised, seconds.
PROMISED = 2.0

# A measurement that is one long step in C, which looks at no signal.
LONG = """
    import hashlib, sys
    import numpy as np
    from sextract.__main__ import main
    from sextract.measurement.measure import measurement
    from sextract.records import Column

    @measurement("hazard", columns=[Column("HAZARD", "i4", doc="test")])
    def hazard(batch):
        batch["HAZARD"] = batch.sources["number"].astype(np.int32)
        if len(set(batch.sources["number"])) == len(batch.sources):
            open("begun", "w").close()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)

    sys.exit(main())
"""


def assert_stops(run: Started, send: Callable[[], None]) -> None:
    """It ends in time, with its code and one line."""
    send()
    assert run.ended(PROMISED), "still there after two seconds"
    run.finish()
    run.assert_stopped(INTERRUPTED, "stopped by")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_stops_a_run(tmp_path: Path, large: Path, number: signal.Signals, workers: int) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, "--workers", workers, *EVERYTHING) as run:
        assert run.wait_for_workers(2) if workers else run.wait_for(lambda: running(run))
        assert_stops(run, lambda: os.kill(run.pid, number))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_as_a_terminal_sends_it(tmp_path: Path, large: Path, number: signal.Signals) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        assert run.wait_for_workers(2)
        assert_stops(run, lambda: os.killpg(run.pid, number))


def test_a_second_signal_does_not_disturb_the_first(tmp_path: Path, large: Path) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        assert run.wait_for_workers(2)

        def send() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                os.kill(run.pid, number)

        assert_stops(run, send)


def test_while_the_program_is_still_being_loaded(tmp_path: Path, small: Path) -> None:
    # As soon as Python has our own code: the command line, but neither numpy nor the kernels.
    program = (
        "import os, signal, sys\n"
        "from sextract.execution import environment\n"
        "from sextract.__main__ import main\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "sys.exit(main())\n"
    )
    with Started(tmp_path / "run", small, "-o", "out.fits", program=["-c", program]) as run:
        run.finish()
        run.assert_stopped(INTERRUPTED, "stopped by SIGINT")


# The command line, that is stopped while it imports what a run needs.
IMPORTS = """
    import os, signal, sys, weakref
    from sextract.__main__ import main

    def interrupt(*ignored):
        os.kill(os.getpid(), signal.SIGTERM)

    class Stop:
        def find_spec(self, name, path=None, target=None):
            if name == "sextract.pipeline.runs":
                {how}

    sys.meta_path.insert(0, Stop())
    sys.exit(main())
"""
HOW = {
    # A class is made of text, say: Python would end the process when all is over (where it was started with -m).
    "in code of a string": "exec('interrupt()', globals())",
    # Nothing can be raised out of it.
    "in a callback of a weak reference": "something = Stop(); weakly = weakref.ref(something, interrupt); del something",
    # As numpy does where one of its modules can't be imported.
    "as a library's error": """
                try:
                    interrupt()
                except BaseException:
                    raise ImportError("this is not how to import numpy") from None""",
}


@pytest.mark.parametrize("how", HOW)
def test_while_the_run_imports_what_it_needs(tmp_path: Path, small: Path, how: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "program.py").write_text(textwrap.dedent(IMPORTS.format(how=HOW[how])))
    with Started(folder, small, "-o", "out.fits", program=["-m", "program"]) as run:
        run.finish()
        run.assert_stopped(INTERRUPTED, "stopped by SIGTERM")


@pytest.mark.parametrize("workers", [0, 2])
def test_in_the_middle_of_a_long_step(tmp_path: Path, small: Path, workers: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "p.param").write_text("NUMBER\nHAZARD\n")
    (folder / "program.py").write_text(textwrap.dedent(LONG))
    options = ("-PARAMETERS_NAME", "p.param", "-o", "out.fits", "--workers", workers, "--mem-limit", "256M")
    with Started(folder, small, *options, program=["program.py"]) as run:
        assert run.wait_for((folder / "begun").exists)
        os.kill(run.pid, signal.SIGTERM)
        assert run.ended(PROMISED), "still there after two seconds"
        run.finish()
        (folder / "begun").unlink()
        run.assert_stopped(INTERRUPTED, "stopped by")


def test_while_it_waits_for_a_reader(tmp_path: Path, large: Path) -> None:
    """A pipe that nobody empties: the parent waits in a write."""
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Started(folder, large, "-o", "pipe", "-CATALOG_TYPE", "ASCII", *LIMIT) as run:
            assert run.wait_for(lambda: int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder) > 60_000)
            assert_stops(run, lambda: os.kill(run.pid, signal.SIGTERM))
    finally:
        os.close(reader)


def test_while_it_waits_for_somebody_to_open_its_pipe(tmp_path: Path, small: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    with Started(folder, small, "-o", "pipe", "-CATALOG_TYPE", "ASCII", *LIMIT) as run:
        assert run.wait_for(asleep(run))
        assert_stops(run, lambda: os.kill(run.pid, signal.SIGINT))


@pytest.mark.parametrize("moment", ["template", "workers", "spread"])
def test_sigkill_leaves_no_process_no_memory_and_no_file(tmp_path: Path, large: Path, calm: Started, moment: str) -> None:
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING) as run:
        if moment == "template":
            assert run.wait_for(lambda: run.template() > 0)
        elif moment == "workers":
            assert run.wait_for_workers(2)
        else:
            assert run.wait_for_workers(2) and not run.ended(calm.seconds / 4)
        os.kill(run.pid, signal.SIGKILL)
        assert run.finish() == -signal.SIGKILL
        assert run.made() == set()
    # Leaving the context has looked for the rest.  The next run in the same place has nothing in its way.
    with Started(tmp_path / "run", large, "-o", "out.fits", *LIMIT, *EVERYTHING) as again:
        assert again.finish() == 0, again.err
    assert again.outputs() == calm.outputs()


def running(run: Started) -> bool:
    """Whether a run without workers has got to its image: its outputs are open."""
    try:
        return len(os.listdir(f"/proc/{run.pid}/fd")) > 8
    except OSError:
        return False


def asleep(run: Started) -> Callable[[], bool]:
    """A condition: the process has been waiting for something, whenever it was looked at lately."""
    seen = 0

    def condition() -> bool:
        nonlocal seen
        with open(f"/proc/{run.pid}/stat") as file:
            seen = seen + 1 if file.read().rpartition(")")[2].split()[0] == "S" else 0
        return seen > 50

    return condition


def test_stopped_from_python(large: Path) -> None:
    """Ctrl-C in a program that called ``extract()``: the run it started goes, too."""
    import sextract
    from tests.faults.harness import children

    before = set(children(os.getpid()))

    def interrupt() -> None:
        while not any(children(pid) for pid in set(children(os.getpid())) - before):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        sextract.extract(large, mem_limit="256M", workers=2)
    thread.join()
    assert set(children(os.getpid())) <= before
