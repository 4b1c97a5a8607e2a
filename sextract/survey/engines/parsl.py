"""``--engine parsl:CONFIG.py``: Parsl, on batch systems and clouds.

CONFIG.py is Python and defines ``config``, a ``parsl.Config``.  Which machines there are, and what they are started with, is
said there; retries are the survey's, files of Parsl go beside the manifest unless it says otherwise.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from sextract.errors import ConfigError, WorkerError
from sextract.execution.environment import more_time, tied
from sextract.survey.engines.engine import ENGINES, WAIT_SECONDS, Engine, HostedEngine, Setting, defined_in
from sextract.survey.job import Job, Outcome

# How long Parsl may take to end its jobs after a signal, seconds.
CLOSE_SECONDS = 30.0
# Workers that have something to do, and of which none has shown any life for so long, are stuck, seconds; see
# `execution.host.PULSE_SECONDS`, and a shared file system may tell of it as late again as a minute.
STUCK_SECONDS = 75.0
# What Parsl has if its configuration doesn't say.
_UNSET_FOLDER = "runinfo"
# Workers of an executor that doesn't tell how many it may have.
_UNTOLD_WORKERS = 16


class ParslEngine(HostedEngine):
    """See the module.

    Parameters
    ----------
    config : parsl.Config
    setting : Setting
    """

    def __init__(self, config: Any, setting: Setting) -> None:
        from parsl.concurrent import ParslPoolExecutor

        counts = [workers_of(executor) for executor in config.executors]
        self._config, self._reporter = config, setting.reporter
        pool = ParslPoolExecutor(config)
        super().__init__("parsl", pool, setting, sum(workers for workers, _ in counts), max(slots for _, slots in counts))
        self.pulse = os.path.join(os.path.abspath(config.run_dir), f"pulse.{self.owner}")
        os.makedirs(self.pulse)
        self._seen: set[tuple[str, int]] = set()
        self._since = self._looked = time.monotonic()

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Engine`.

        Raises
        ------
        WorkerError
            Parsl has given up: its jobs can't be started, say.
        """
        for executor in self._config.executors:
            if getattr(executor, "bad_state_is_set", False):
                why = " ".join(str(executor.executor_exception).split())
                raise WorkerError(
                    f"Parsl's executor {executor.label} has failed ({why}); its files are in {self._config.run_dir}; "
                    "mend the cause and repeat the command with --resume"
                )
        return super().submit(job)

    def wait(self, pending: Iterable[Future[Outcome]]) -> Iterable[Future[Outcome]]:
        """See `Engine`.

        A worker of Parsl that is killed while it waits for work takes the lock of their queue with it, and those beside it wait
        for ever; if it was just taking a job, nobody knows of that any more.
        """
        done = super().wait(pending)
        now = time.monotonic()
        if now - self._looked > WAIT_SECONDS:
            self._looked = now
            seen = {(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(self.pulse)}
            if done or seen != self._seen:
                self._seen, self._since = seen, now
            elif now - self._since > STUCK_SECONDS:
                self._since = now
                self._restart()
        return done

    def _restart(self) -> None:
        """Start anew what has something to do and doesn't do it; its jobs come back as lost."""
        for executor in self._config.executors:
            if hasattr(executor, "connected_managers"):
                busy = {manager["block_id"] for manager in executor.connected_managers() if manager["tasks"]}
                if busy:
                    self._reporter.warning(f"Parsl's executor {executor.label} is stuck: its workers are started anew")
                    executor.scale_out_facade(len(executor.scale_in_facade(len(busy))))

    def close(self) -> None:
        """See `Engine`: end Parsl's jobs, and with them what their workers do."""
        import shutil

        more_time(CLOSE_SECONDS)
        self._executor.shutdown(wait=False)
        shutil.rmtree(self.pulse, ignore_errors=True)


def workers_of(executor: Any) -> tuple[int, int]:
    """How many worker processes an executor of Parsl may have, and how many jobs each does at a time."""
    if threads := getattr(executor, "max_threads", 0):
        return 1, int(threads)
    provider = getattr(executor, "provider", None)
    each = getattr(executor, "workers_per_node", None)
    if provider is None or each is None:
        return _UNTOLD_WORKERS, 1
    return int(each * provider.nodes_per_block * max(provider.max_blocks, provider.init_blocks, 1)), 1


def parsl(argument: str, setting: Setting) -> Engine:
    """The workers of a configuration file of Parsl."""
    HostedEngine.check("parsl", setting)
    try:
        from parsl.config import Config
    except ImportError as exc:
        raise ConfigError("--engine parsl needs Parsl, which isn't installed: pip install 'sextract[parsl]'") from exc
    # Parsl's programs lie beside the interpreter, whether or not its environment was activated.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    config = defined_in("parsl", argument, "config", Config)
    if config.retries:
        setting.reporter.warning(f"{argument}: retries={config.retries} is not used; a lost image is done again by the survey")
    config.retries, config.retry_handler, config.usage_tracking = 0, None, 0
    if config.run_dir == _UNSET_FOLDER:
        config.run_dir = os.path.join(os.path.abspath(setting.folder), "sextract.parsl")
    for executor in config.executors:
        if command := getattr(executor, "interchange_launch_cmd", None):
            # It has no eye for the end of whoever started it.
            executor.interchange_launch_cmd = tied(command)
    return ParslEngine(config, setting)


ENGINES.add("parsl", parsl)
