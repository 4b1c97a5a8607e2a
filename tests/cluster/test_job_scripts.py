"""Job scripts as text, and as what a shell makes of them; a real Slurm runs one in ``test_slurm.py``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from astropy.io import fits

from sextract.cli import main
from tests.cluster.surveys import Survey
from tests.scenes import Scene

SYSTEMS = ("slurm", "pbs", "htcondor")
SHELLS = ("slurm", "pbs")

# Takes the place of PBS's command: keeps what would be submitted.
QSUB = """\
#!/bin/sh
echo "$@" >"$QSUB_FOLDER/arguments"
exec cat >"$QSUB_FOLDER/script"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two images, the second of which is larger."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["/opt/bin/sextract"])
    Scene(120, 100, seed=1).scatter(5, margin=5).write(folder / "a.fits")
    Scene(400, 500, seed=2).scatter(9, margin=5).write(folder / "b c.fits")
    return folder


def script(capsys: pytest.CaptureFixture[str], system: str, *words: str) -> str:
    """What the command line prints."""
    assert main(["--job-script", system, *words]) == 0
    return capsys.readouterr().out


def directives(text: str) -> dict[str, str]:
    """Options of #SBATCH lines."""
    words = re.findall(r"--([a-z-]+)=(\S+)", "\n".join(line for line in text.splitlines() if line.startswith("#SBATCH")))
    return dict(words)


def megabytes(words: list[str], capsys: pytest.CaptureFixture[str], image: str) -> int:
    """The peak that --estimate predicts."""
    assert main([image, "--estimate=json", *words]) == 0
    plan = json.loads(capsys.readouterr().out)
    return int(plan["predicted_peak_bytes"] + plan["parts_bytes"]["kernel"]) >> 20


@pytest.mark.parametrize("system", SHELLS)
@pytest.mark.parametrize("words", [(), ("--mem-limit", "300M"), ("--account", "rss", "--tasks", "1")])
def test_scripts_are_correct_bash(here: Path, capsys: pytest.CaptureFixture[str], system: str, words: tuple[str, ...]) -> None:
    text = script(capsys, system, "--batch", "a.fits", "b c.fits", "-o", "out 'x'/$y{stem}.fits", "-DETECT_THRESH", "2", *words)
    (here / "job").write_text(text)
    done = subprocess.run(["bash", "-n", "job"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run([shellcheck, "--severity=warning", "job"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    # What a shell makes of the command is what was given.
    command = text[text.index("/opt/bin/sextract") : text.index(" &\nrun=")]
    command = f"SLURM_ARRAY_TASK_ID=2; part=2; printf '%s\\n' {command}"
    given = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
    assert given[:3] == ["/opt/bin/sextract", "-o", "out 'x'/$y{stem}.fits"]
    assert given[given.index("-DETECT_THRESH") + 1] == "2"
    assert given[-3:] == ["--resume", "--shard", "2/1"]
    assert given.count("--mem-limit") == ("--mem-limit" in words or system == "pbs")
    assert ("--account rss keeps that" in text.replace("\n# ", " ")) == ("rss" in words)


def test_the_size_of_a_slurm_job(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(capsys, "slurm", "--batch", "a.fits", "b c.fits", "--tasks", "2", "--workers", "3")
    asked = directives(text)
    assert asked["array"] == "1-2" and asked["cpus-per-task"] == "3" and asked["signal"] == "B:USR1@180"
    assert asked["time"] == "00:15:00" and asked["open-mode"] == "append" and asked["output"].endswith("_%A_%a.log")
    # Enough for the larger image, alone or several of its kind at a time, and the margin.
    memory = int(asked["mem"].removesuffix("M"))
    assert memory >= megabytes(["--mem-limit", "4G", "--workers", "3"], capsys, "b c.fits") + 16
    assert memory < 400
    # A limit that is given is asked for as it is.
    asked = directives(script(capsys, "slurm", "--batch", "a.fits", "--mem-limit", "1G"))
    assert asked["mem"] == "1040M" and asked["cpus-per-task"] == "4" and asked["array"] == "1-1"


def test_many_images_make_tasks_of_an_hour(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cards = {"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": 20000, "NAXIS2": 20000}
    fits.Header(list(cards.items())).tofile(here / "large.fits")
    # Nobody reads a pixel of it.
    os.truncate(here / "large.fits", 2880 + -(-4 * 20000 * 20000 // 2880) * 2880)
    (here / "list").write_text("large.fits\n" * 300)
    asked = directives(script(capsys, "slurm", "@list", "--workers", "2", "-o", "{number}.fits"))
    tasks = int(asked["array"].removeprefix("1-"))
    assert 2 <= tasks <= 8
    hours, minutes, _ = map(int, asked["time"].split(":"))
    assert 45 <= 60 * hours + minutes <= 90


def test_the_list_says_the_same_of_each_image(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own.sex").write_text("DETECT_THRESH 3\n")
    (here / "list").write_text("# night\na.fits - own.sex BACK_SIZE=32\n'b c.fits' DETECT_THRESH=2\n")
    text = script(capsys, "slurm", "@list", "-o", "{stem}.cat")
    found = re.search(r"@(sextract-[0-9a-f]{8}\.images)", text)
    assert found is not None
    assert (here / found[1]).read_text() == "a.fits - own.sex BACK_SIZE=32\n'b c.fits' - - DETECT_THRESH=2\n"
    # The same images have the same list, others have another.
    assert found[1] in script(capsys, "pbs", "@list", "-o", "{stem}.cat")
    assert found[1] not in script(capsys, "slurm", "--batch", "a.fits")
    assert not [name for name in os.listdir(here) if name.startswith(".")]


def test_pbs_has_no_array_of_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\n#PBS -J" not in script(capsys, "pbs", "--batch", "a.fits")
    assert "#PBS -J 1-2\n" in script(capsys, "pbs", "--batch", "a.fits", "b c.fits", "--tasks", "7")


def test_htcondor_reads_its_description(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "an 'o' \"x\" $(y){stem}.fits"
    text = script(capsys, "htcondor", "--batch", "a.fits", "b c.fits", "--tasks", "2", "-o", name)
    assert "retry_until = ExitCode =!= 75\n" in text and text.endswith("queue 2\n")
    # Within double quotes, where they are doubled; single ones keep a word together, and are doubled in it.
    assert "-o 'an ''o'' \"\"x\"\" $(DOLLAR)(y){stem}.fits' " in text
    monkeypatch.setenv("CONDOR_CONFIG", "/dev/null")
    htcondor = pytest.importorskip("htcondor2", reason="no htcondor2 (pip install htcondor)")
    submit = htcondor.Submit(text)
    assert submit.expand("executable") == "/opt/bin/sextract"
    assert submit.expand("arguments").endswith('--resume --shard 1/2"')
    assert "$(y){stem}" in submit.expand("arguments")
    assert submit.getQArgs() == "2"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("lsf", "a.fits"), 2, "choose one of htcondor, pbs, slurm"),
        (("slurm", "a.fits", "--tasks", "0"), 2, "--tasks '0' is not a number from 1"),
        (("slurm", "--batch", "a.fits", "--shard", "1/2"), 2, "leave --shard and --manifest out"),
        (("slurm", "--batch", "a.fits", "--mem-limit", "20M"), 5, "the smallest limit that works"),
        (("slurm", "--batch", "none.fits"), 3, "no image of the list can be read"),
    ],
)
def test_what_no_task_could_do_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert main(["--job-script", *words]) == code
    out, err = capsys.readouterr()
    assert said in err and not out


def test_an_image_that_is_missing_is_left_to_the_survey(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--job-script", "slurm", "--batch", "none.fits", "a.fits", "nor.fits"]) == 0
    out, err = capsys.readouterr()
    assert "> WARNING: none.fits" in err and "> WARNING: nor.fits" in err
    assert "for 3 images" in out


@pytest.fixture
def pbs(survey: Survey, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a PBS job, with a qsub that keeps what it gets in ``qsub``."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "qsub").mkdir()
    (tmp_path / "bin" / "qsub").write_text(QSUB)
    (tmp_path / "bin" / "qsub").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    yield {**survey.env, "PATH": path, "QSUB_FOLDER": str(tmp_path / "qsub"), "PBS_JOBID": "7[1].host"}


def stopped_by(number: signal.Signals, survey: Survey, env: dict[str, str]) -> int:
    """Run the first part of a PBS script and stop it in the midst; the exit code of its shell."""
    script = survey.script("pbs", "--tasks", 2, "--workers", 1, "--mem-limit", "150M")
    with subprocess.Popen(["bash", script], env={**env, "PBS_ARRAY_INDEX": "1"}, cwd="/") as shell:
        while survey.done(part=1, parts=2) < 2:
            with pytest.raises(subprocess.TimeoutExpired):
                shell.wait(0.02)
        shell.send_signal(number)
        return shell.wait(30)


def test_a_pbs_job_that_is_stopped_submits_its_part_again(survey: Survey, pbs: dict[str, str], tmp_path: Path) -> None:
    assert stopped_by(signal.SIGUSR1, survey, pbs) == 75
    assert (tmp_path / "qsub" / "arguments").read_text() == "-v SEXTRACT_PART=1,SEXTRACT_START=2\n"
    again = (tmp_path / "qsub" / "script").read_text()
    assert again == re.sub("\n#PBS -J .*", "", (survey.folder / "pbs.job").read_text())
    for own in ({"SEXTRACT_PART": "1", "SEXTRACT_START": "2"}, {"PBS_ARRAY_INDEX": "2"}):
        subprocess.run(["bash", tmp_path / "qsub" / "script"], env={**pbs, **own}, cwd="/", check=True, timeout=120)
    first, _ = survey.logs()
    assert "stopped by" in first and "submitted again" in first and "start 2" in first
    assert survey.states() == {"done": survey.count}
    assert survey.catalogues() == survey.do_calmly()


def test_a_pbs_job_that_is_deleted_does_not(survey: Survey, pbs: dict[str, str], tmp_path: Path) -> None:
    assert stopped_by(signal.SIGTERM, survey, pbs) == 75
    assert not list((tmp_path / "qsub").iterdir())
    (log,) = survey.logs()
    assert "stopped by" in log
