"""Engines keep their contract, the package's configurations of them as they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sextract.config.resolve import SHARE
from tests.contracts.engine_contract import EngineContract, Night, Survey, night, program

__all__ = ["night"]


class TestLocal(EngineContract):
    engine = "local"
    options = ("--mem-limit", "300M", "--workers", "2")

    def runners(self, run: Survey) -> list[int]:
        return run.workers()

    def workers(self, run: Survey) -> list[int]:
        # Which starts the others.
        return [pid for pid in [run.template()] if pid]


class TestParsl(EngineContract):
    engine = f"parsl:{SHARE / 'parsl_local.py'}"
    # Its workers look for their interchange as often as the configuration says.
    left_s = 30.0

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("parsl", reason="Parsl isn't installed")


class TestDask(EngineContract):
    engine = f"dask:{SHARE / 'dask_local.py'}"

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("distributed", reason="Dask isn't installed")


class TestMpi(EngineContract):
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
