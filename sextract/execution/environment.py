"""Prepares a process for a run: one thread per process, a heap that gives memory back, no huge pages.

``prepare`` must run before numpy is imported anywhere in the process, since the BLAS starts its threads then; the
command line does so first.  A program that calls ``extract()`` has its own environment; for it only ``tune_heap`` is
used, in the forked workers.  This module imports nothing that imports numpy.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sextract.memory.heap import tune_heap

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# From prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_THP_DISABLE = 1, 41

# What stops a run, by a user, a batch system (SIGUSR1: some time before the end of what a job has) or a terminal that closes.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# `errors.Interrupted`'s; nothing else of it is needed here.
_INTERRUPTED = 75

# What the interpreter, numpy and the kernels map, and the part of it that is data: 103 and 53 MiB, measured with CPython 3.11
# and numpy 2.4.
_LEAST_BYTES = {resource.RLIMIT_AS: 104 << 20, resource.RLIMIT_DATA: 56 << 20}

# What `tied` runs.
_TIED = """import os, sys
from sextract.execution.environment import die_with_parent
die_with_parent(int(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])"""

_libc: Any = ctypes.CDLL(None, use_errno=True)


def prepare() -> None:
    """Set up this process, and by inheritance all it forks, for a run."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    # Otherwise NumPy asks for huge pages for arrays above 4 MiB, and never takes it back.
    os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"
    open_standard_streams()
    tune_heap()
    disable_huge_pages()


def enough_to_start() -> bool:
    """Whether the limits of the shell let numpy be imported.

    Its BLAS would end the process with a message of its own, and an interpreter that has run out may fail anyhow.
    """
    return all(not 0 <= resource.getrlimit(which)[0] < least for which, least in _LEAST_BYTES.items())


def leave_on_signals() -> None:
    """While there is nothing to clean up, what stops a run ends the process with the code of a stopped run."""

    def leave(number: int, frame: object) -> NoReturn:
        os.write(2, f"> *ERROR*: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(_INTERRUPTED)

    def ignore() -> None:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)

    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    # The last thing before the interpreter goes, which would give signals back their power to kill: what is done is done.
    atexit.register(ignore)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that would stop the run wait until this is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def open_standard_streams() -> None:
    """Point closed standard descriptors at /dev/null, or the next socket would be taken for stderr.

    What is said on a stderr that is closed goes nowhere; a catalogue for a stdout that is closed must not, so writing
    there stays an error.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free descriptor is the one that is missing.
            os.open(os.devnull, mode)
            os.set_inheritable(fd, True)
    # Python has none where the descriptor was closed: what is printed goes nowhere, but an attribute of it is an error.
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def disable_huge_pages() -> bool:
    """No transparent huge pages: they round a small heap up to 2 MiB pieces."""
    return _prctl(_PR_SET_THP_DISABLE, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends; leave at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def tied(command: Sequence[str]) -> list[str]:
    """A command that the kernel kills when this process ends (`die_with_parent`)."""
    return [sys.executable, "-c", _TIED, str(os.getpid()), *command]


def die_with_pipe(fd: int) -> None:
    """Have the kernel kill this process when the other end of a pipe is closed, by whatever; nothing may be written to it.

    Unlike `die_with_parent`, which follows the thread that forked, and that may be one of a pool.
    """
    import fcntl
    import select

    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([fd], [], [], 0)[0]:
        os._exit(0)


def more_time(seconds: float) -> None:
    """If a signal is about to end this process (``_stop``), leave it so many more seconds."""
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _prctl(option: int, value: int) -> bool:
    prctl = getattr(_libc, "prctl", None)
    return prctl is not None and prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0
