"""Ranks of MPI: the first one drives, the others do the work it gives them (mpi4py.futures).

Every rank is started with the same command line; what the first does with it is ``cli.py``'s, what is sent to the others
``host.py``'s.  If one dies, MPI ends all of them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from sextract.errors import ConfigError
from sextract.execution.environment import STOPPING

if TYPE_CHECKING:
    # It brings threads and logging, which a run without ranks doesn't need.
    from concurrent.futures import Executor

# Exit codes with which nothing is being done any more: done, wrong options, some images failed.
_AT_REST = (0, 2, 10)


def wanted(argv: Sequence[str]) -> bool:
    """Whether a command line asks for MPI; looked at before anything else, since only the first rank may say anything."""
    return "--engine=mpi" in argv or ("--engine", "mpi") in pairwise(argv)


def drive(run: Callable[[], int]) -> int:
    """Run something in the first rank, while the others serve.

    Returns
    -------
    int
        Its exit code in the first rank, 0 in the others.
    """
    try:
        comm = _world()
    except ConfigError:
        # Said when the engine is asked for.
        return run()
    if comm.rank:
        _serve(comm)
        return 0
    code = run()
    if comm.size > 1:
        if code not in _AT_REST:
            # Others are in the middle of something, and nobody waits for it.
            comm.Abort(code)
        executor().shutdown()
    return code


def _serve(comm: Any) -> None:
    from mpi4py.futures import MPICommExecutor

    # What they mean is the first rank's to say, which ends the others.
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    with MPICommExecutor(comm, root=0):
        pass


@cache
def executor() -> Executor:
    """The first rank's; there is one, since it is what the others wait for.

    Raises
    ------
    ConfigError
        There is no MPI, or there are no others.
    """
    comm = _world()
    if comm.size < 2:
        raise ConfigError("--engine mpi has one process only: start several, as in mpirun -n 4 sextract --engine mpi ...")
    from mpi4py.futures import MPICommExecutor

    # None in the others alone.
    return cast("Executor", MPICommExecutor(comm, root=0).__enter__())


def workers() -> int:
    """How many ranks do work."""
    return int(_world().size) - 1


def _world() -> Any:
    """All ranks."""
    try:
        from mpi4py import MPI
    except ImportError as exc:
        raise ConfigError("--engine mpi needs mpi4py, which isn't installed: pip install 'sextract[mpi]'") from exc
    except RuntimeError as exc:
        raise ConfigError(f"--engine mpi needs an MPI, such as Debian's openmpi-bin: {' '.join(str(exc).split())}") from exc
    return MPI.COMM_WORLD
