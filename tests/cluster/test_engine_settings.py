"""What engines are told, and what they refuse: configurations, limits, clusters that are there already."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sextract.config.resolve import SHARE
from tests.cluster.slurm import Slurm
from tests.cluster.test_engines import TestDask as DaskContract
from tests.cluster.test_engines import TestParsl as ParslContract
from tests.conftest import CommandLine, environment
from tests.contracts.engine_contract import Night, night, serving
from tests.faults.harness import kill
from tests.memory_watch import processes

__all__ = ["night"]
# Slurm's provider becomes this machine's; all else is as it stands.
NOT_SLURM = """
import runpy
import parsl.providers
from parsl.providers import LocalProvider

def here(nodes_per_block, init_blocks, min_blocks, worker_init, **ignored):
    return LocalProvider(
        nodes_per_block=nodes_per_block, init_blocks=init_blocks, min_blocks=min_blocks, max_blocks=1, worker_init=worker_init
    )

parsl.providers.SlurmProvider = here
config = runpy.run_path({file!r})["config"]
config.executors[0].max_workers_per_node = 2
"""
# A node of four processors and 4 GiB.
SMALL_SLURM = """
import runpy
config = runpy.run_path({file!r})["config"]
executor = config.executors[0]
executor.max_workers_per_node = 2
executor.provider.cores_per_node, executor.provider.mem_per_node, executor.provider.walltime = 2, 2, "00:10:00"
"""


def refused(cli: CommandLine, night: Night, *options: object) -> str:
    """The one line of error of a survey that doesn't begin."""
    images = [image for image in night.images if image != night.bad][:3]
    done = cli(*images, *options)
    assert done.code == 2, done.err
    errors = [line for line in done.err.splitlines() if line.startswith("> *ERROR*")]
    assert len(errors) == 1, done.err
    assert "Traceback" not in done.err
    return errors[0]


@pytest.mark.parametrize("engine", ["parsl:x.py", "dask:tcp://127.0.0.1:1", "mpi"])
def test_the_limit_must_be_given(cli: CommandLine, night: Night, engine: str) -> None:
    assert "needs --mem-limit: how much each of its workers may hold" in refused(cli, night, "--engine", engine)


@pytest.mark.parametrize(("engine", "extra"), [("parsl", "parsl"), ("dask", "distributed"), ("mpi", "mpi4py")])
def test_a_library_that_is_missing(
    cli: CommandLine, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, extra: str
) -> None:
    (tmp_path / f"{extra}.py").write_text("raise ImportError('not there')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    spec = engine if engine == "mpi" else f"{engine}:x"
    said = refused(cli, night, "--engine", spec, "--mem-limit", "300M")
    assert f"pip install 'sextract[{engine}]'" in said


def test_mpi_with_one_process(cli: CommandLine, night: Night) -> None:
    pytest.importorskip("mpi4py", reason="mpi4py isn't installed")
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as exc:
        pytest.skip(f"no MPI: {exc}")
    assert "mpirun -n 4" in refused(cli, night, "--engine", "mpi", "--mem-limit", "300M")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "needs a file of Python"),
        ("config = 1", "doesn't define config"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
    ],
)
def test_a_wrong_configuration_of_parsl(
    cli: CommandLine, night: Night, tmp_path: Path, text: str | None, said: str
) -> None:
    pytest.importorskip("parsl", reason="Parsl isn't installed")
    file = tmp_path / "mine.py"
    file.write_text(text or "")
    engine = "parsl" if text is None else f"parsl:{file}"
    assert said in refused(cli, night, "--engine", engine, "--mem-limit", "300M")


def test_the_slurm_configuration_of_parsl_is_one() -> None:
    pytest.importorskip("parsl", reason="Parsl isn't installed")
    code = f"import runpy; print(runpy.run_path({str(SHARE / 'parsl_slurm.py')!r})['config'].executors[0].provider.label)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "slurm", done.stderr


@pytest.mark.slow
def test_the_slurm_configuration_of_parsl_but_for_the_host(night: Night, tmp_path: Path) -> None:
    pytest.importorskip("parsl", reason="Parsl isn't installed")
    file = tmp_path / "not_slurm.py"
    file.write_text(NOT_SLURM.format(file=str(SHARE / "parsl_slurm.py")))
    contract = ParslContract()
    contract.engine = f"parsl:{file}"
    with contract.start(tmp_path / "run", night.images) as run:
        run.finish()
        run.wait_until_gone()
    contract.assert_whole(run, night)


@pytest.mark.slow
def test_the_slurm_configuration_of_parsl_with_a_slurm(night: Night, slurm: Slurm, tmp_path: Path) -> None:
    pytest.importorskip("parsl", reason="Parsl isn't installed")
    file = tmp_path / "small_slurm.py"
    file.write_text(SMALL_SLURM.format(file=str(SHARE / "parsl_slurm.py")))
    contract = ParslContract()
    contract.engine = f"parsl:{file}"
    contract.env = {"SLURM_CONF": slurm.environment["SLURM_CONF"], "PATH": slurm.environment["PATH"]}
    with contract.start(tmp_path / "run", night.images) as run:
        assert run.wait_for_done(2)
        assert kill(run.one_of(lambda: contract.runners(run), random.Random(5)))
        run.finish()
        run.wait_until_gone()
    contract.assert_whole(run, night)
    slurm.wait_for(lambda: not slurm.run("squeue", "--noheader"))


class Cluster:
    """A Dask cluster that somebody started: a scheduler and a worker process."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir()
        self.file, self.mark = folder / "scheduler.json", uuid.uuid4().hex
        self.running = [
            self._start(folder, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            self._start(folder, "worker", "--no-dashboard", "--local-directory", str(folder), *options),
        ]

    def _start(self, folder: Path, what: str, *options: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "dask", what, "--scheduler-file", str(self.file), *options]
        return subprocess.Popen(words, env=environment(self.mark, folder), stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self.running):
            process.terminate()
            process.wait()


@contextmanager
def dask_cluster(folder: Path, options: Sequence[str]) -> Iterator[Cluster]:
    """A cluster for as long as the context lasts."""
    pytest.importorskip("distributed", reason="Dask isn't installed")
    cluster = Cluster(folder, *options)
    try:
        from distributed import Client

        while not cluster.file.exists():
            assert cluster.running[0].poll() is None
        with Client(scheduler_file=str(cluster.file)) as client:
            client.wait_for_workers(1, timeout=60)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.filterwarnings("default")
def test_a_dask_cluster_that_is_there_stays(night: Night, tmp_path: Path) -> None:
    contract = DaskContract()
    options = ("--memory-limit", "0", "--nthreads", "2", "--nworkers", "1")
    with dask_cluster(tmp_path / "cluster", options) as cluster:
        contract.engine = f"dask:{cluster.file}"
        with contract.start(tmp_path / "run", night.images) as run:
            run.finish()
        contract.assert_whole(run, night)
        assert "2 images at a time each" in run.err
        # Nothing is done any more for the survey, whose end was long ago.
        assert not serving(cluster.mark)
        assert all(process.poll() is None for process in cluster.running)
        # A survey that is cut off, and one after it.
        with contract.start(tmp_path / "other", night.images) as run:
            assert run.wait_for_done(3)
            run.process.kill()
            run.finish()
        contract.resume(night, tmp_path / "other")
        assert len(serving(cluster.mark)) == 0
    assert not processes(cluster.mark)


@pytest.mark.filterwarnings("default")
def test_a_dask_cluster_with_memory_limits_is_refused(cli: CommandLine, night: Night, tmp_path: Path) -> None:
    with dask_cluster(tmp_path / "cluster", ("--memory-limit", "2GiB", "--nworkers", "1")) as cluster:
        said = refused(cli, night, "--engine", f"dask:{cluster.file}", "--mem-limit", "300M")
        assert "--memory-limit 0" in said


@pytest.mark.slow
def test_no_dask_scheduler(cli: CommandLine, night: Night) -> None:
    pytest.importorskip("distributed", reason="Dask isn't installed")
    said = refused(cli, night, "--engine", "dask:tcp://127.0.0.1:1", "--mem-limit", "300M")
    assert "no scheduler answers" in said


def test_a_limit_that_leaves_an_image_no_room(night: Night, tmp_path: Path) -> None:
    contract = DaskContract()
    pytest.importorskip("distributed", reason="Dask isn't installed")
    contract.options = ("--mem-limit", "100M")
    images = [image for image in night.images if image != night.bad][:3]
    with contract.start(tmp_path / "run", images) as run:
        assert run.finish() == 10
        run.wait_until_gone()
    assert "the engine's own process takes" in run.err
    assert run.err.count("too small") >= 3
