"""``--mem-report`` and ``--account`` on the command line: what a whole run tells of itself."""

from __future__ import annotations

import csv
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from tests.conftest import CommandLine
from tests.faults.harness import Started, kill
from tests.scenes import Scene, field

MIB = 1 << 20
COLUMNS = "NUMBER\nX_IMAGE\nY_IMAGE\nFLUX_AUTO\nFLAGS\n"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "p.param").write_text(COLUMNS)
    return field(folder / "field.fits", 1024, 800, 3).path


def options(image: Path, workers: int, limit: str = "256M") -> list[Any]:
    param = image.with_name("p.param")
    return [image, "-PARAMETERS_NAME", param, "-o", "out.cat", "--workers", workers, "--mem-limit", limit]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_tells_where_its_memory_was(image: Path, cli: CommandLine, tmp_path: Path, workers: int) -> None:
    plain = cli(*options(image, workers))
    done = cli(*options(image, workers), "--mem-report", "m.json", "--mem-report", "m.csv", "--mem-report", "m.html")
    assert (plain.code, done.code) == (0, 0), done.err
    assert done.made == {"out.cat", "m.json", "m.csv", "m.html"}
    folder = tmp_path / "run2"
    assert (folder / "out.cat").read_bytes() == (tmp_path / "run1" / "out.cat").read_bytes()
    told = json.loads((folder / "m.json").read_text())
    said = re.search(r"peak (\d+) of 256 MiB in (?:all processes, (\d+) workers|one process)$", done.err, re.MULTILINE)
    assert said is not None
    assert (round(told["peak_bytes"] / MIB), told["workers"]) == (int(said[1]), int(said[2] or 0))
    assert told["workers"] == workers
    assert told["limit_bytes"] == 256 * MIB
    names = ["start", "background", "detection", "measuring", "writing"]
    assert [stage["text"] for stage in told["stages"]] == names
    assert all(a["seconds"] <= b["seconds"] for a, b in pairwise(told["stages"]))
    processes = told["columns"][6:]
    assert processes == ["parent", *(["template", "worker 1", "worker 2"] if workers else [])]
    column = {name: [row[k] for row in told["samples"]] for k, name in enumerate(told["columns"])}
    assert column["seconds"] == sorted(column["seconds"])
    assert max(column["held"]) * 1024 >= told["peak_bytes"] > max(column["slab"]) * 1024
    assert all(max(column[name]) > 1024 for name in processes)
    parts = {line["part"]: line for line in told["table"]}
    assert parts["tiles"]["most_bytes"] >= 4 * 1024**2
    assert 0 < told["looking_cpu_seconds"] < told["seconds"]
    rows = csv.DictReader(line for line in (folder / "m.csv").read_text().splitlines() if not line.startswith("#"))
    assert [int(row["held_kib"]) for row in rows] == column["held"]
    assert "field.fits" in (folder / "m.html").read_text()


def test_stages_of_each_extension(cli: CommandLine, tmp_path: Path) -> None:
    scene = Scene(120, 160, seed=2).scatter(8, margin=5)
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(scene.pixels(k)) for k in range(2))]
    fits.HDUList(hdus).writeto(tmp_path / "two.fits")
    (tmp_path / "p.param").write_text(COLUMNS)
    done = cli(*options(tmp_path / "two.fits", 1, "512M"), "--mem-report", "{stem}.json")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "run1" / "two.json").read_text())
    names = [f"{stage} {k}" for k in (1, 2) for stage in ("background", "detection", "measuring", "writing")]
    assert [stage["text"] for stage in told["stages"]] == ["start", *names]


def test_a_replaced_worker_is_told(image: Path, tmp_path: Path) -> None:
    with Started(tmp_path / "killed", *options(image, 2), "--mem-report", "m.json") as run:
        assert kill(run.wait_for_workers(2)[0])
    assert run.code == 0, run.err
    told = json.loads((tmp_path / "killed" / "m.json").read_text())
    (event,) = told["events"]
    assert re.fullmatch(r"worker [12] \(process \d+\) ended \(SIGKILL\) and is replaced", event["text"])
    assert 0 < event["seconds"] < told["seconds"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--mem-report", "m.pdf"], 2, r"m\.pdf: the name must end in \.html, \.png, \.json, \.csv"),
        (["--mem-report", "out.cat.csv", "--mem-report", "out.cat.csv"], 2, r"out\.cat\.csv would be written twice"),
        (["--mem-report", "no/m.csv"], 4, r"no/m\.csv: its folder does not exist"),
        (["--mem-report", "m.csv", "-CHECKIMAGE_TYPE", "SEGMENTATION", "-CHECKIMAGE_NAME", "no/s.fits"], 4, "no/s"),
        (["--account", "uss"], 2, "invalid choice: 'uss'"),
    ],
)
def test_what_is_wrong_is_known_before_any_work(image: Path, cli: CommandLine, words: list[str], code: int, said: str) -> None:
    done = cli(*options(image, 1), *words)
    assert done.code == code
    assert re.search(said, done.err)
    assert not done.made


def test_a_drawing_is_made_within_the_limit(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the drawing's library isn't installed")
    done = cli(*options(image, 1, "112M"), "--mem-report", "m.png", watched=True)
    assert done.code == 0, done.err
    assert (tmp_path / "run1" / "m.png").read_bytes()[:4] == b"\x89PNG"
    # The slab of the run and matplotlib together would be more.
    assert 0 < done.peak <= 112 * MIB
    small = cli(*options(image, 1, "90M"), "--mem-report", "m.png")
    assert small.code == 2
    assert "has no room for it" in small.err


def test_a_batch_has_a_report_for_each_image(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "other.fits").write_bytes(image.read_bytes())
    words = [*options(image, 1), "-o", "{stem}.cat", "--batch", tmp_path / "other.fits"]
    words = [*words[:1], words[-1], *words[1:-1]]
    refused = cli(*words, "--mem-report", "m.csv")
    assert refused.code == 2
    assert re.search(r"--mem-report m\.csv would be written for .*\{stem\}\.csv", refused.err)
    done = cli(*words, "--mem-report", "{stem}.csv")
    assert done.code == 0, done.err
    assert done.made == {"field.cat", "field.csv", "other.cat", "other.csv", "sextract.manifest"}


def test_the_sum_of_rss_keeps_the_limit(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    done = [
        cli(*options(image, 8, "420M"), "--account", account, "--mem-report", "m.json", watched=True)
        for account in ("pss", "rss")
    ]
    assert [each.code for each in done] == [0, 0], done[1].err
    # Without being asked for it, the sum of Rss passes the limit.
    told = [json.loads((tmp_path / f"run{k}" / "m.json").read_text()) for k in (1, 2)]
    assert [(each["account"], each["workers"]) for each in told] == [("pss", 8), ("rss", 8)]
    assert max(done[1].rss, told[1]["rss_peak"]["rss_bytes"]) <= 420 * MIB
    assert max(done[1].peak, told[1]["peak_bytes"]) <= 420 * MIB
    assert re.search(r"in all processes \(sum of Rss \d+ MiB\), 8 workers", done[1].err)
    assert "Rss" not in done[0].err
    assert (tmp_path / "run1" / "out.cat").read_bytes() == (tmp_path / "run2" / "out.cat").read_bytes()


def test_keywords_say_the_same(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "c.sex").write_text("MEM_ACCOUNT rss\nMEM_REPORT m.json,{stem}.csv\nCATALOG_NAME out.cat\n")
    done = cli(*options(image, 1, "420M"), "-c", tmp_path / "c.sex")
    assert done.code == 0, done.err
    assert done.made == {"out.cat", "m.json", "field.csv"}
    assert json.loads((tmp_path / "run1" / "m.json").read_text())["account"] == "rss"
