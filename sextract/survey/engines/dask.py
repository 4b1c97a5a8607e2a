"""``--engine dask:ADDRESS``: the workers of a Dask cluster.

ADDRESS is a scheduler's (``tcp://host:8786``), a scheduler file (``.json``), or Python (``.py``) that defines ``cluster``,
which is closed in the end.  Dask's own watch over memory must be off: it would pause or kill workers for what is agreed here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from sextract.errors import ConfigError, WorkerError
from sextract.execution.environment import more_time
from sextract.survey.engines.engine import ENGINES, JOBS_PER_WORKER, MOST_JOBS, Engine, HostedEngine, Setting, defined_in
from sextract.survey.job import Job, Outcome

# How long to look for a scheduler, and how long an end may take, seconds.
CONNECT_SECONDS, CLOSE_SECONDS = 30, 10.0
# How often to ask how many workers there are, seconds.
COUNT_SECONDS = 5.0


class DaskEngine(HostedEngine):
    """See the module.

    Parameters
    ----------
    client : distributed.Client
    setting : Setting
    cluster : optional
        To be closed in the end.
    """

    def __init__(self, client: Any, setting: Setting, cluster: Any = None) -> None:
        self._client, self._cluster, self._counted = client, cluster, time.monotonic()
        threads = check_workers(client)
        executor = client.get_executor(pure=False, retries=0)
        super().__init__("dask", executor, setting, len(threads), max(threads.values(), default=1))

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Engine`.

        Raises
        ------
        WorkerError
            The scheduler is gone.
        """
        if self._client.status != "running":
            raise WorkerError("Dask's scheduler is gone; repeat the command with --resume when there is one")
        now = time.monotonic()
        if now - self._counted > COUNT_SECONDS:
            self._counted, threads = now, self._client.nthreads()
            self.window = min(JOBS_PER_WORKER * max(sum(threads.values()), 1), MOST_JOBS)
            self.slots = max(threads.values(), default=self.slots)
        return super().submit(job)

    def close(self) -> None:
        """See `Engine`: the workers stay, but not what they do for this survey."""
        more_time(2 * CLOSE_SECONDS)
        within(CLOSE_SECONDS, self._stop_work)
        self._client.close(timeout=CLOSE_SECONDS)
        if self._cluster is not None:
            self._cluster.close()

    def _stop_work(self) -> None:
        from sextract.execution.host import dismiss

        self._executor.shutdown(wait=False)
        self._client.run(dismiss, self.owner, on_error="ignore")


def within(seconds: float, action: Callable[[], object]) -> None:
    """Do something that may hang, or fail, but not for longer."""

    def quietly() -> None:
        with suppress(Exception):
            action()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(seconds)


def check_workers(client: Any) -> dict[str, int]:
    """Address and threads of the workers; ConfigError if Dask would watch over their memory."""
    info = client.scheduler_info()["workers"]
    limited = {address: int(worker["memory_limit"]) for address, worker in info.items() if worker["memory_limit"]}
    if limited:
        address, limit = next(iter(limited.items()))
        raise ConfigError(
            f"{len(limited)} of {len(info)} Dask workers have a memory limit of Dask's ({address}: {limit >> 20} MiB), by "
            "which they would be paused or killed: start them by dask worker --memory-limit 0, or "
            "LocalCluster(memory_limit=0); --mem-limit is kept in each of them"
        )
    return {address: int(worker["nthreads"]) for address, worker in info.items()}


def dask(argument: str, setting: Setting) -> Engine:
    """The workers of a Dask cluster."""
    HostedEngine.check("dask", setting)
    if not argument:
        raise ConfigError("--engine dask needs an address: dask:tcp://HOST:8786, dask:scheduler.json or dask:CLUSTER.py")
    try:
        from distributed import Client
        from distributed.deploy.cluster import Cluster
    except ImportError as exc:
        raise ConfigError("--engine dask needs Dask, which isn't installed: pip install 'sextract[dask]'") from exc
    cluster = defined_in("dask", argument, "cluster", Cluster) if argument.endswith(".py") else None
    where = {"scheduler_file": argument} if argument.endswith(".json") else {"address": cluster or argument}
    try:
        client = Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"--engine dask:{argument}: no scheduler answers ({' '.join(str(exc).split())})") from exc
    try:
        return DaskEngine(client, setting, cluster)
    except BaseException:
        client.close()
        if cluster is not None:
            cluster.close()
        raise


ENGINES.add("dask", dask)
