"""The machine's limits as a run meets them: real resource limits and cgroups, without ``--mem-limit``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cgroup import joining, memory_cgroup
from tests.scenes import ROOT, field

MIB = 1 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of 1024 × 1024 pixels, and columns for it."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "few.param").write_text("NUMBER\nX_IMAGE\nFLUX_AUTO\n")
    return field(folder / "field.fits", 1024, 900, 4).path


def run(image: Path, *options: str, before: str = "", inside: Path | None = None) -> tuple[int, str]:
    """Exit code and log of a run, after a line of shell or in a cgroup."""
    command = [sys.executable, "-m", "sextract", str(image), "-PARAMETERS_NAME", str(image.with_name("few.param")), *options]
    if before:
        command = ["sh", "-c", f'{before}; exec "$@"', "sh", *command]
    if inside is not None:
        command = joining(inside, *command)
    env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=image.parent, env={**env, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stderr


def limit_in(log: str) -> tuple[int, str]:
    """The limit that the log tells, bytes, and its origin."""
    found = re.search(r"^Memory limit: (\d+) MiB \((.*)\); workers", log, re.MULTILINE)
    assert found is not None, log
    return int(found[1]) * MIB, found[2]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_fits_into_its_address_space(image: Path, workers: str) -> None:
    code, log = run(image, "--workers", workers, "-o", "as.cat", before=f"ulimit -v {400 << 10}")
    assert code == 0, log
    limit, origin = limit_in(log)
    assert origin.startswith("ulimit on the address space: 400M less ")
    assert 128 * MIB < limit < 400 * MIB


def test_a_run_fits_into_its_data_segment(image: Path) -> None:
    code, log = run(image, "--workers", "2", "-o", "data.cat", before=f"ulimit -d {160 << 10}")
    assert code == 0, log
    assert limit_in(log) == (160 * MIB, "ulimit on the data segment")


def test_a_limit_beyond_what_there_is_gets_a_warning_with_both(image: Path) -> None:
    options = ("--mem-limit", "2G", "--estimate")
    code, log = run(image, *options, before=f"ulimit -v {900 << 10}")
    assert code == 0, log
    assert "--mem-limit 2048 MiB is more than there can be, 900 MiB (ulimit on the address space)" in log
    code, log = run(image, *options, before=f"ulimit -v {2100 << 10}")
    assert code == 0, log
    assert "more than there can be" not in log


def test_a_run_takes_the_limit_of_its_cgroup_and_is_not_killed(image: Path) -> None:
    with memory_cgroup(160 * MIB) as group:
        code, log = run(image, "--workers", "2", "-o", "group.cat", inside=group)
    assert code == 0, log
    limit, origin = limit_in(log)
    assert origin.startswith("cgroup memory.") and group.name in origin
    # Its own first pages, charged before it looks, are no others'.
    assert 150 * MIB < limit <= 160 * MIB


def test_a_run_leaves_room_for_what_else_is_in_its_cgroup(image: Path) -> None:
    hoard = f"x = bytearray({100 * MIB}); print(flush=True); input()"
    with memory_cgroup(320 * MIB) as group:
        command = joining(group, sys.executable, "-c", hoard)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            other.stdout.readline()
            code, log = run(image, "--workers", "2", "-o", "shared.cat", inside=group)
            other.communicate("\n")
    assert code == 0, log
    limit, origin = limit_in(log)
    assert re.search(r": 320M less 1\d\dM that others hold$", origin), origin
    assert 195 * MIB < limit < 220 * MIB


def test_a_limit_beyond_the_cgroup_is_named_before_the_run_meets_it(image: Path) -> None:
    with memory_cgroup(256 * MIB) as group:
        code, log = run(image, "--workers", "0", "--mem-limit", "1G", "-o", "more.cat", inside=group)
    # It needs less than it was promised.
    assert code == 0, log
    assert re.search(r"--mem-limit 1024 MiB is more than there can be, 256 MiB \(cgroup memory\.\w+ in \S+\)", log), log
