"""``mpirun -n N sextract ... --engine mpi``: the first rank drives, each of the others does one image at a time.

How ranks come to serve, and how they end, is ``execution/ranks.py``.
"""

from __future__ import annotations

from sextract.errors import ConfigError
from sextract.execution import ranks
from sextract.survey.engines.engine import ENGINES, Engine, HostedEngine, Setting


def mpi(argument: str, setting: Setting) -> Engine:
    """The ranks that this one was started with."""
    if argument:
        raise ConfigError(f"--engine mpi:{argument}: MPI takes no argument")
    HostedEngine.check("mpi", setting)
    return HostedEngine("mpi", ranks.executor(), setting, workers=ranks.workers())


ENGINES.add("mpi", mpi)
