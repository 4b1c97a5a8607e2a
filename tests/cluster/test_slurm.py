"""The Slurm script, run by a real Slurm: its limits come from the job, and what is stopped goes on."""

from __future__ import annotations

import sys
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.cluster.slurm import NoSlurm, Slurm
from tests.cluster.surveys import Survey
from tests.memory_watch import MARK, Watch


def over(slurm: Slurm, job: int) -> bool:
    """Whether all tasks of a job have ended for good."""
    return not slurm.run("squeue", "--noheader", "--jobs", job, check=False)


def test_a_survey_that_is_told_to_stop_goes_on_and_comes_to_the_same(slurm: Slurm, survey: Survey) -> None:
    script = survey.script("slurm", "--tasks", 2, "--workers", 1)
    mark = uuid.uuid4().hex
    with Watch(mark, exact_share=0.2) as watch:
        job = slurm.submit(script, env={**survey.env, MARK: mark})
        slurm.wait_for(lambda: survey.done(part=1, parts=2) > 2)
        slurm.run("scancel", "--signal=USR1", "--batch", f"{job}_1")
        slurm.wait_for(lambda: int(slurm.facts(f"{job}_1")["Restarts"]) == 1)
        disturbed = survey.done()
        slurm.wait_for(lambda: over(slurm, job))
    assert disturbed < survey.count
    first, second = survey.logs()
    assert "stopped by" in first and "queued again" in first and "start 2" in first
    assert "of them done before" in first
    assert "start 1" in second and "start 2" not in second
    asked = int(slurm.facts(f"{job}_1")["MinMemoryNode"].removesuffix("M"))
    assert f"Memory limit: {asked - 16} MiB (SLURM_MEM_PER_NODE: {asked}M less 16M for the job's shell)" in first
    assert "workers: 1 (SLURM_CPUS_PER_TASK)" in first or "workers: 1 (--workers)" in first
    assert watch.peak <= 2 * asked << 20
    assert survey.states() == {"done": survey.count}
    assert survey.catalogues() == survey.do_calmly()


def test_what_is_cancelled_stays_so(slurm: Slurm, survey: Survey) -> None:
    job = slurm.submit(survey.script("slurm", "--tasks", 1, "--workers", 1), env=survey.env)
    slurm.wait_for(lambda: survey.done() > 0)
    slurm.run("scancel", job)
    slurm.wait_for(lambda: over(slurm, job))
    assert slurm.facts(f"{job}_1")["JobState"] == "CANCELLED"
    (log,) = survey.logs()
    assert "stopped by" in log and "queued again" not in log
    # Submitted once more, it goes on.
    again = slurm.submit(survey.folder / "slurm.job", env=survey.env)
    slurm.wait_for(lambda: over(slurm, again))
    assert survey.states() == {"done": survey.count}
    assert survey.catalogues() == survey.do_calmly()


@pytest.mark.slow
def test_the_end_of_the_time_is_nothing_special(slurm: Slurm, tmp_path: Path, images: list[Path]) -> None:
    """Slurm itself sends the signal before a real limit: it looks at limits twice a minute."""
    survey = Survey(tmp_path, images, times=150)
    script = survey.script("slurm", "--tasks", 1, "--workers", 1)
    job = slurm.submit(script, "--time=2", "--signal=B:USR1@30", env=survey.env)
    slurm.wait_for(lambda: over(slurm, job), seconds=900)
    (log,) = survey.logs()
    assert "stopped by" in log and "start 2" in log
    assert "DUE TO TIME LIMIT" not in log
    assert survey.states() == {"done": survey.count}
    assert survey.catalogues() == survey.do_calmly()


@pytest.mark.slow
def test_where_slurm_adds_up_resident_sizes(survey: Survey) -> None:
    """Every second, and ends what is above: a page that processes share counts once for each."""
    script = survey.script("slurm", "--tasks", 1, "--workers", 3, "--account", "rss")
    with Slurm("OverMemoryKill") as counting:
        job = counting.submit(script, env=survey.env)
        counting.wait_for(lambda: over(counting, job))
        assert counting.facts(f"{job}_1")["JobState"] == "COMPLETED"
    assert survey.states() == {"done": survey.count}
    assert survey.catalogues() == survey.do_calmly()


@pytest.mark.slow
def test_in_a_cgroup_the_kernel_has_nothing_to_end(survey: Survey) -> None:
    script = survey.script("slurm", "--tasks", 2, "--workers", 2)
    try:
        cluster = Slurm("NoShared", cgroup=True)
    except NoSlurm as exc:
        pytest.skip(str(exc))
    with cluster:
        job = cluster.submit(script, env=survey.env)
        cluster.wait_for(lambda: over(cluster, job))
        assert cluster.facts(f"{job}_1")["JobState"] == cluster.facts(f"{job}_2")["JobState"] == "COMPLETED"
    assert all("MiB (cgroup memory.limit_in_bytes in /" in log for log in survey.logs())
    assert survey.states() == {"done": survey.count}
    assert survey.catalogues() == survey.do_calmly()


@pytest.mark.slow
def test_these_slurms_do_end_what_is_above(slurm: Slurm, tmp_path: Path) -> None:
    """Or the tests above would say nothing."""
    script = tmp_path / "job"
    hold = "import signal; held = bytes([1]) * (300 << 20); signal.pause()"
    script.write_text(f"#!/bin/bash\n{sys.executable} -c '{hold}'\n")
    with ExitStack() as stack:
        clusters = [slurm]
        with suppress(NoSlurm):
            clusters.append(stack.enter_context(Slurm("NoShared", cgroup=True)))
        for cluster in clusters:
            job = cluster.submit(script, "--mem=100M", f"--output={tmp_path / 'log'}")
            cluster.wait_for(lambda: over(cluster, job))  # noqa: B023
            assert cluster.facts(job)["JobState"] != "COMPLETED"
            log = (tmp_path / "log").read_text()
            assert "exceeded memory limit" in log or "oom-kill" in log
