"""Engines keep their contract, the package's configurations of them as they stand."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from sextract.config.resolve import SHARE
from tests.contracts.engine_contract import EngineContract, Night, Survey, large, long_night, night, program
from tests.faults.harness import children, kill
from tests.memory_watch import processes
from tests.object_store import objects

# Fixtures of the contract.
__all__ = ["large", "long_night", "night", "objects"]


def command_of(pid: int) -> bytes:
    """How a process was called; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class HostedContract(EngineContract):
    """What engines keep besides, each image of which is done by a process beside a worker."""

    def test_a_try_goes_on_from_a_checkpoint(self, large: list[Path], tmp_path: Path) -> None:
        options = ("--checkpoint", "1", "--tile-shape", "96")
        with self.start(tmp_path / "calm", large[:1]) as calm:
            assert calm.finish() == 0, calm.err
        with self.start(tmp_path / "run", large[:1], *options) as run:
            state = run.catalogues / "n0.cat.fits.checkpoint" / "state"
            assert run.wait_for(state.exists)
            kill(run.one_of(lambda: self.runners(run), random.Random(6)))
            assert run.finish() == 0, run.err
            run.wait_until_gone()
        assert "it is done again" in run.err
        assert f"Resumed from the checkpoint in {state.parent}" in run.err
        assert (run.catalogues / "n0.cat.fits").read_bytes() == (calm.catalogues / "n0.cat.fits").read_bytes()
        assert not state.parent.exists()


class TestLocal(EngineContract):
    engine = "local"
    options = ("--mem-limit", "300M", "--workers", "2")

    def runners(self, run: Survey) -> list[int]:
        return run.workers()

    def workers(self, run: Survey) -> list[int]:
        # Which starts the others.
        return [pid for pid in [run.template()] if pid]

    def trees(self, run: Survey) -> dict[int, set[int]]:
        return {run.pid: processes(run.mark)}


class TestParsl(HostedContract):
    engine = f"parsl:{SHARE / 'parsl_local.py'}"
    # Its workers look for their interchange as often as the configuration says.
    left_s = 30.0

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("parsl", reason="Parsl isn't installed")

    @pytest.mark.slow
    def test_workers_that_are_stuck_are_started_anew(self, night: Night, tmp_path: Path) -> None:
        with self.start(tmp_path / "run", night.images) as run:
            assert run.wait_for_done(2)
            workers = self.workers(run)
            # Without news from their interchange all come to wait for the queue, the lock of which one of them has.
            (interchange,) = (pid for pid in children(run.pid) if b"HTEX interchange" in command_of(pid))
            os.kill(interchange, signal.SIGSTOP)
            try:
                done = -1
                while done != (done := run.done()):
                    assert not run.ended(2.0)
                for worker in workers:
                    kill(worker)
            finally:
                os.kill(interchange, signal.SIGCONT)
            run.finish()
            run.wait_until_gone()
        self.assert_whole(run, night)
        assert "is stuck: its workers are started anew" in run.err


class TestDask(HostedContract):
    engine = f"dask:{SHARE / 'dask_local.py'}"

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("distributed", reason="Dask isn't installed")


class TestMpi(HostedContract):
    engine = "mpi"
    launcher = ("mpirun", "-n", "4")
    # Open MPI's names (version 4, and 5) for what a test needs on a machine of few processors, or as root.
    env = {  # noqa: RUF012
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }  # fmt: skip

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("mpi4py", reason="mpi4py isn't installed")
        program("mpirun")

    # Open MPI's own code for an mpirun that was told to stop, or lost a rank.
    stopped = (1, 75, 143)

    def losable(self, run: Survey) -> list[int]:
        # Without a rank there is no MPI job.
        return self.runners(run)

    def test_lost_workers_cost_a_try(self, night: Night, tmp_path: Path) -> None:
        # MPI ends all ranks with one; the survey is repeated.
        with self.start(tmp_path / "run", night.images) as run:
            assert run.wait_for_done(2)
            kill(run.one_of(lambda: self.workers(run), random.Random(4)))
            assert run.finish() not in (0, 10)
            run.wait_until_gone()
        self.resume(night, tmp_path / "run")

    def test_a_signal_to_the_first_rank_stops_all(self, night: Night, tmp_path: Path) -> None:
        with self.start(tmp_path / "run", night.images) as run:
            assert run.wait_for_done(2)
            first = children(run.pid)[0]
            os.kill(first, signal.SIGTERM)
            assert run.finish() == 75, run.err
            assert run.err.count("stopped by SIGTERM") == 1
            run.wait_until_gone()
        self.resume(night, tmp_path / "run")
