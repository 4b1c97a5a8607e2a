"""The benchmark of allocators: its runs, its record, what it says about them, and the page and figure it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import alive_after_grace
from tests.memory_watch import MARK, Look, Meter, Watch, processes
from tests.scenes import ROOT, field, script

bench = script("bench_malloc")
page = script("malloc_page")
MIB = 1 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field that takes no time."""
    return Path(field(tmp_path_factory.mktemp("bench") / "small.fits", (180, 240), 60, 7).path)


def blank(folder: Path, size: str) -> Path:
    """A page with a place for everything, and words around."""
    places = [f"<!-- bench_malloc {size} {name} -->\nold\n<!-- end -->\n" for name in ("summary", "figure", "runs")]
    path = folder / "page.md"
    path.write_text("# Title\n\n" + "\nbetween\n\n".join(places) + "\nlast words\n")
    return path


def run_of(program: str = "sextract", workers: int = 1, **other: Any) -> dict[str, Any]:
    """A run as the record has it."""
    lines = {"seconds": [0.0, 0.5, 1.0], "held": [MIB, 90 * MIB, 80 * MIB], "allocated": [MIB, 70 * MIB, 60 * MIB]}
    run = {
        "allocator": "glibc", "program": program, "workers": workers, "limit": "128M", "exit": 0, "wall": 4.0, "cpu": 3.0,
        "held": 90 * MIB, "alone": 93 * MIB, "rss": 130 * MIB, "looks": 3, "allocated": 70 * MIB, "timeline": lines,
        "used": workers, "rows": 50, "sha256": "aa",
    }  # fmt: skip
    return run | other


def results(*runs: dict[str, Any], missing: tuple[str, ...] = ()) -> Any:
    """A record of such runs."""
    machine = {"cpus": "2", "model": "M", "kernel": "6", "libc": "glibc 2", "python": "3", "numpy": "2", "date": "D"}
    facts = {"size": "8000x9000"}
    return page.Results(
        {"facts": facts, "machine": machine, "missing": list(missing), "runs": dict(enumerate(runs))}
    )


def test_runs_record_tables_and_page(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    there, _ = bench.found_allocators(list(bench.ALLOCATORS))
    other = next((name for name in there if name != "glibc"), "glibc")
    pages = blank(tmp_path, "240x180")
    record = tmp_path / "record.json"
    arguments = ["--field", str(small), "--folder", str(tmp_path / "work"), "--json", str(record), "--page", str(pages)]
    arguments += ["--limits", "96M", "--workers", "1", "--programs", "sextract,processes"]
    assert bench.main([*arguments, "--allocators", "glibc"]) == 0
    first = json.loads(record.read_text())
    assert sorted(first["runs"]) == ["glibc processes 1 96M", "glibc sextract 1 96M"]

    # What is there is kept; only what is missing is run.
    assert bench.main([*arguments, "--allocators", f"glibc,{other}"]) == 0
    made = json.loads(record.read_text())
    assert len(made["runs"]) == 2 * len({"glibc", other})
    assert {key: made["runs"][key] for key in first["runs"]} == first["runs"]
    ours = [run for run in made["runs"].values() if run["program"] == "sextract"]
    assert len({run["sha256"] for run in ours}) == 1
    for run in made["runs"].values():
        assert run["exit"] == 0 and run["rows"] > 20 and run["wall"] > 0 and run["cpu"] > 0
        assert 10 * MIB < run["held"] <= 96 * MIB and run["held"] < run["rss"]
        assert run["held"] <= run["alone"] < run["held"] + 40 * MIB
        assert max(run["timeline"]["held"]) == run["held"]
        assert len(run["timeline"]["seconds"]) == len(run["timeline"]["held"]) <= bench.POINTS
    assert all(0 < run["allocated"] <= run["held"] for run in ours)

    text = pages.read_text()
    assert "old" not in text and text.count("between") == 2 and text.endswith("last words\n")
    assert text.count("| sextract | ") == len(ours) and "(page_240x180.svg)" in text
    assert (tmp_path / "page_240x180.svg").read_text().rstrip().endswith("</svg>")
    assert "limit 96M" in capsys.readouterr().out

    pages = blank(tmp_path, "240x180")
    assert bench.main(["--from-json", str(record), "--page", str(pages)]) == 0
    assert pages.read_text() == text


def test_a_failing_run_is_recorded_and_run_again(small: Path, tmp_path: Path) -> None:
    pages = blank(tmp_path, "1x1")
    before = pages.read_text()
    arguments = ["--field", str(small), "--folder", str(tmp_path), "--page", str(pages), "--allocators", "glibc"]
    arguments += ["--programs", "sextract", "--workers", "1", "--limits", "16M", "--json", str(tmp_path / "r.json")]
    for _ in range(2):
        assert bench.main(arguments) == 1
        run = json.loads((tmp_path / "r.json").read_text())["runs"]["glibc sextract 1 16M"]
        assert run["exit"] == 5 and "smallest limit" in run["said"] and run["sha256"] is None
        (tmp_path / "out.cat").touch()
    assert pages.read_text() == before


def test_a_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    case = bench.Case("glibc", "sextract", 1, "64M")
    waits = "import os, signal; open('pid', 'w').write(str(os.getpid())); signal.pause()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {waits!r}])"
    result = bench.measured(case, [sys.executable, "-c", code], {}, tmp_path, 2.0)
    assert result["exit"] == "stopped after 2 s" and result["held"] > 0
    assert not alive_after_grace({int((tmp_path / "pid").read_text())})


def test_a_record_of_other_code_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = bench.Record(path, {"code": "1"})
    record.keep(bench.Case("glibc", "sextract", 1, "64M").key, {"exit": 0})
    assert bench.Record(path, {"code": "1"}).runs
    assert not bench.Record(path, {"code": "2"}).runs
    assert json.loads((tmp_path / "r.old.json").read_text())["runs"]


def test_an_allocator_that_is_not_there_is_named() -> None:
    assert bench.preload("libnosuchmalloc.so.9") is None
    assert bench.preload("") == {}


def test_cases_of_naive_programmes_have_the_most_workers() -> None:
    args = bench.parser().parse_args(["--limits", "1M,2M"])
    made = bench.cases(args, ["glibc", "jemalloc"])
    assert len(made) == len(set(made)) == 2 * 2 * (2 + 1 + 1)
    assert {case.workers for case in made if case.program != "sextract"} == {4}


def test_faults_are_told() -> None:
    good = run_of()
    told = results(
        good,
        run_of(workers=2, sha256="bb"),
        run_of(workers=3, exit=5, sha256=None),
        run_of(workers=4, held=129 * MIB),
        run_of("threads", 4, held=400 * MIB, sha256="cc"),
    ).faults()
    assert [line.partition(": ")[2] for line in told] == ["other bytes", "ended with 5", "held 129 MiB"]
    assert results(good).faults() == []


def test_what_the_table_says() -> None:
    shown = results(run_of(), run_of(workers=4, wall=1.6, used=3, held=128 * MIB + 1), missing=("mimalloc (libx)",))
    rows = shown.runs_table().splitlines()[2:]
    assert rows[0].split("|")[3:8] == [" 1 ", " 128M ", " 90 ", "  ", " 70 "]
    assert " 4 (3 used) " in rows[1] and "| 129 | OVER |" in rows[1] and "| 2.50 | yes |" in rows[1]
    assert "8000 × 9000 pixels, 50 sources" in shown.summary() and "up to 3 MiB more" in shown.summary()
    assert "mimalloc (libx)" in shown.summary()
    assert "| sextract, 1 worker | 90 (70) |" in shown.summary()


def test_the_limit_shown_is_tight() -> None:
    limits = [run_of(limit=limit) for limit in ("64M", "128M", "1G")]
    assert results(*limits).shown_limit == "128M"
    assert results(*limits[2:]).shown_limit == "1G"


def test_a_timeline_keeps_its_peaks() -> None:
    looks = [Look(k / 100, 10, 0, k % 977, 0) for k in range(5000)]
    made = bench.timeline(looks, [look.shared for look in looks])
    assert made["allocated"] == 976
    line = made["timeline"]
    assert len(line["held"]) == bench.POINTS and max(line["held"]) == 986 and line["seconds"] == sorted(line["seconds"])
    assert bench.timeline([], None)["timeline"]["held"] == []


def watched(*looks: Look, began: float = 100.0) -> Watch:
    """A watch that has seen something."""
    watch = Watch("nothing")
    watch.looks += looks
    watch._meter.began = began
    return watch


def test_books_of_several_processes_are_added(tmp_path: Path) -> None:
    (tmp_path / "ledger.1").write_text("100.0 5\n102.0 7\n")
    (tmp_path / "ledger.2").write_text("101.0 50\n")
    watch = watched(*(Look(seconds, 0, 1000, 0, 0) for seconds in (0.5, 1.5, 2.5)))
    case = bench.Case("glibc", "threads", 4, "64M")
    # Before all books are open what is held, then what is in them and what was held beside.
    assert bench.allocated(case, watch, tmp_path) == [1000, 1000, 1002]
    assert not list(tmp_path.iterdir())
    assert bench.allocated(case, watch, tmp_path) is None


def test_what_sextract_asked_for(tmp_path: Path) -> None:
    case = bench.Case("glibc", "sextract", 4, "64M")
    watch = watched(*(Look(seconds, 300, 50, 7000, 0) for seconds in (1.0, 2.0, 3.0)), Look(4.0, 300, 50, 0, 0))
    assert bench.allocated(case, watch, tmp_path) == [7300, 7300, 7300, 300]
    report = {"columns": ["seconds", "held", "rss", "slab", "used"], "samples": [[0, 9, 0, 7, 2], [1, 9, 0, 7, 5]]}
    (tmp_path / "report.json").write_text(json.dumps(report | {"unit_bytes": 1024, "seconds": 1.5}))
    # It ends with the slab, and is never more than what was held.
    assert bench.allocated(case, watch, tmp_path) == [7350, 4 * 1024, 7 * 1024, 350]
    assert not list(tmp_path.iterdir())


def test_quick_looks_agree_with_exact_ones() -> None:
    mark = uuid.uuid4().hex
    code = (
        "import mmap, os, sys\n"
        "fd = os.memfd_create('block'); os.posix_fallocate(fd, 0, 8 << 20)\n"
        "mapped = mmap.mmap(fd, 8 << 20); mapped[:] = b'm' * (8 << 20)\n"
        "old = bytearray(b'o') * (20 << 20)\n"
        "if os.fork(): os.wait()\n"
        "else:\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        "    new = bytearray(b'n') * (12 << 20); print('more', flush=True); sys.stdin.readline()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env={**os.environ, MARK: mark}) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        pids = processes(mark)
        quick = Meter(exact_share=0.0)
        before = quick.look(pids)
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"more\n"
        after, exact = quick.look(pids), Meter().look(pids)
        child.stdin.write(b"\n")
    # What two processes share counts once, what one of them asked for since is seen without another exact look.
    assert 20 * MIB < before.anonymous < 35 * MIB and before.shared == 8 * MIB
    assert 11 * MIB < after.held - before.held < 14 * MIB
    assert abs(after.held - exact.held) < 2 * MIB
    assert after.rss > after.held + 18 * MIB


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_the_naive_programme_measures_what_is_there(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("sep")
    made = field(tmp_path / "stars.fits", (600, 560), 60, 3, star_fraction=1.0, blend_fraction=0.0, gradient=0.0)
    out = tmp_path / "rows.npy"
    command = [sys.executable, str(ROOT / "scripts" / "naive_pool.py"), str(made.path), "--limit", "96M", "-o", str(out)]
    command += ["--workers", "2", "--pool", kind, "--ledger", str(tmp_path / "ledger")]
    subprocess.run(command, check=True, capture_output=True)
    rows = np.load(out)
    assert len(list(tmp_path.glob("ledger.*"))) == (3 if kind == "processes" else 1)
    bright = made.truth[(made.truth["PEAK"] > 200) & (made.truth["PEAK"] < 20000)]
    apart = np.hypot(rows[:, None, 0] - bright["X_IMAGE"] + 1, rows[:, None, 1] - bright["Y_IMAGE"] + 1)
    near = apart.min(axis=0) < 1.0
    assert len(bright) > 10 and near.mean() > 0.8
    flux = rows[apart.argmin(axis=0), 6][near]
    assert np.median(np.abs(flux / bright["FLUX"][near] - 1.0)) < 0.1
