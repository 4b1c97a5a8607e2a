#!/usr/bin/env python3
"""Memory of a run under four allocators, beside the same work written naively: makes docs/memory.md's tables and figure.

    scripts/bench_malloc.py            # 19000 x 19000 pixels, 256M, 512M and 1G: about an hour on two cores
    scripts/bench_malloc.py --quick    # 4096 x 4096 pixels, 128M, 256M and 512M: some minutes

Each run is watched from outside, all its processes together, about a hundred times a second.  What has been measured
is kept after each run (``--json``), so that a benchmark that was interrupted goes on where it stopped;
``--from-json`` draws again without running.  The allocators are those of the system, by LD_PRELOAD; one that isn't
installed is left out and named.  The exit code is 1 if a run of sextract failed, passed its limit or wrote other bytes.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_record import Record, code_digest, digest, field_file, run, say, size_of  # noqa: E402
from malloc_page import LABELS, PROGRAMS, Results, write_page  # noqa: E402
from pagetools import count, mib  # noqa: E402

from tests.memory_watch import Look, Watch  # noqa: E402
from tests.parity.reference import COLUMNS, Setup, python_path  # noqa: E402

# Name and the library of Debian that has it; glibc's own needs none.
ALLOCATORS = {
    "glibc": "",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "jemalloc": "libjemalloc.so.2",
    "mimalloc": "libmimalloc.so.2",
}
PACKAGES = {"tcmalloc": "libtcmalloc-minimal4", "jemalloc": "libjemalloc2", "mimalloc": "libmimalloc2.0"}
# Pixels per second on two cores, for the estimate at the start alone.
SPEED = {"sextract": 20e6, "processes": 4e6, "threads": 5e6}
LARGE, SMALL = ("19000", "256M,512M,1G"), ("4096", "128M,256M,512M")
# Exact looks cost the watched processes time: a twentieth of it is for them.
EXACT_SHARE = 0.05
# A timeline of the record has at most so many points, each the largest of its interval.
POINTS = 240


@dataclass(frozen=True)
class Case:
    """One run: which allocator and program, how many workers, which limit (as it is typed)."""

    allocator: str
    program: str
    workers: int
    limit: str

    @property
    def key(self) -> str:
        """Its name in the record."""
        return f"{self.allocator} {self.program} {self.workers} {self.limit}"

    def __str__(self) -> str:
        return f"{self.allocator}, {LABELS[self.program]}, {count(self.workers)}, {self.limit}"


def preload(library: str) -> dict[str, str] | None:
    """The environment that puts a library before libc; None if the loader can't find it."""
    if not library:
        return {}
    code = f"import sys; sys.exit({library!r} not in open('/proc/self/maps').read())"
    env = {**os.environ, "LD_PRELOAD": library}
    # The loader ignores what it doesn't find, so the process is asked; a link's target has a longer name.
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    return {"LD_PRELOAD": library} if done.returncode == 0 else None


def cases(args: argparse.Namespace, found: Iterable[str]) -> list[Case]:
    """All runs, those that tell most first: the naive programmes with the most workers only."""
    limits, workers = args.limits.split(","), [int(n) for n in args.workers.split(",")]
    return [
        Case(allocator, program, n, limit)
        for program in args.programs.split(",")
        for limit in limits
        for allocator in found
        for n in (workers if program == "sextract" else [max(workers)])
    ]


def field_of(args: argparse.Namespace) -> Path:
    """The field to work on, made if it isn't there."""
    if args.field:
        return args.field.resolve()
    return field_file(args.folder / f"field_{args.size}.fits", "--size", args.size, "--seed", "1")


def facts(field: Path) -> dict[str, str]:
    """What the measurements depend on: a record is gone on with if these are the same."""
    return {
        "size": size_of(field),
        "field": digest(field),
        "code": code_digest() + digest(ROOT / "scripts" / "naive_pool.py"),
        "columns": " ".join(COLUMNS),
    }


@functools.cache
def has_ledger() -> bool:
    """Whether sextract can write its own account of a run."""
    env = {**os.environ, "PYTHONPATH": python_path()}
    helped = subprocess.run([sys.executable, "-m", "sextract", "--help"], env=env, capture_output=True, text=True, check=True)
    return "--mem-report" in helped.stdout


def command(case: Case, field: Path, folder: Path) -> tuple[list[str], Path]:
    """What to run, and the file that it writes."""
    workers = ["--workers", str(case.workers)]
    if case.program == "sextract":
        out = folder / "out.cat"
        ours = [sys.executable, "-m", "sextract", str(field), "-c", str(Setup(folder).write()), "-CATALOG_NAME", str(out)]
        # The summary that NORMAL prints says how many workers the limit left.
        ours += ["-VERBOSE_TYPE", "NORMAL", "--mem-limit", case.limit, "--scratch", str(folder), *workers]
        return [*ours, *(["--mem-report", str(folder / "report.json")] if has_ledger() else [])], out
    out = folder / "out.npy"
    naive = [sys.executable, str(ROOT / "scripts" / "naive_pool.py"), str(field), "-o", str(out), "--pool", case.program]
    return [*naive, "--limit", case.limit, "--ledger", str(folder / "ledger"), *workers], out


def measured(case: Case, argv: list[str], env: dict[str, str], folder: Path, timeout: float) -> dict[str, Any]:
    """Run and watch a command; what it took and held, without its output."""
    done = run(argv, folder, env, timeout, EXACT_SHARE)
    watch = done.watch
    assert watch is not None
    result = {
        **asdict(case),
        "exit": done.code,
        "wall": round(done.wall, 2),
        "cpu": round(done.cpu, 2),
        "held": watch.peak,
        "alone": watch.alone,
        "rss": watch.rss,
        "looks": watch.samples,
        **timeline(watch.looks, allocated(case, watch, folder)),
    }
    used = re.search(r" (\d+) workers?$", done.said, re.MULTILINE)
    result["used"] = int(used[1]) if used and case.program == "sextract" else case.workers
    if done.code != 0:
        result["said"] = done.said[-1500:]
    return result


def allocated(case: Case, watch: Watch, folder: Path) -> list[int] | None:
    """What the programme had asked for at each look, bytes; None if nobody can tell."""
    if not watch.looks:
        return None
    if case.program == "sextract":
        report = folder / "report.json"
        return by_ledger(watch, report) if report.exists() else [look.anonymous + look.shared for look in watch.looks]
    return by_malloc(watch, sorted(folder.glob("ledger.*")))


def by_ledger(watch: Watch, report: Path) -> list[int]:
    """What of the slab was in use, and all that isn't the slab; the report is removed."""
    made = json.loads(report.read_text())
    report.unlink()
    rows = np.array(made["samples"], float)
    at = {name: rows[:, k] for k, name in enumerate(made["columns"])}
    used = (at["held"] - at["slab"] + at["used"]) * made["unit_bytes"]
    # The report's time begins when there is a slab, and ends shortly before it goes.
    ends = max((look.seconds for look in watch.looks if look.shared), default=0.0)
    steps = stepped(watch, at["seconds"] + max(ends - made["seconds"], 0.0), used)
    return [min(asked, look.held) for asked, look in zip(steps, watch.looks, strict=True)]


def by_malloc(watch: Watch, books: Sequence[Path]) -> list[int] | None:
    """What malloc had given out by its own account, and what the processes held beside it when all accounts had begun."""
    read = [np.loadtxt(book, ndmin=2) for book in books]
    for book in books:
        book.unlink()
    if not read or not all(map(len, read)):
        return None
    looked = np.array([look.seconds for look in watch.looks]) + watch.began
    given = sum(book[np.maximum(np.searchsorted(book[:, 0], looked, side="right") - 1, 0), 1] for book in read)
    begun = max(book[0, 0] for book in read)
    first = min(int(np.searchsorted(looked, begun)), len(looked) - 1)
    beside = max(watch.looks[first].held - given[first], 0)
    return stepped(watch, looked[first:] - watch.began, given[first:] + beside)


def stepped(watch: Watch, seconds: Any, values: Any) -> list[int]:
    """Values at the looks of a watch: the last that was known, before the first what was held."""
    at = np.searchsorted(seconds, [look.seconds for look in watch.looks], side="right") - 1
    return [int(values[k]) if k >= 0 else look.held for k, look in zip(at, watch.looks, strict=True)]


def timeline(looks: Sequence[Look], asked: list[int] | None) -> dict[str, Any]:
    """The largest values of at most POINTS intervals: seconds, and bytes held and allocated."""
    edges = np.unique(np.linspace(0, len(looks), min(POINTS, len(looks)) + 1).astype(int))
    spans = list(itertools.pairwise(map(int, edges)))
    lines: dict[str, Any] = {
        "seconds": [round(looks[a].seconds, 3) for a, _ in spans],
        "held": [max(look.held for look in looks[a:b]) for a, b in spans],
        "allocated": [max(asked[a:b]) for a, b in spans] if asked else None,
    }
    return {"allocated": max(asked) if asked else None, "timeline": lines}


def found_allocators(names: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """What to add to the environment for each allocator that is there; the packages of those that aren't."""
    asked = {name: preload(ALLOCATORS[name]) for name in names}
    there = {name: env for name, env in asked.items() if env is not None}
    return there, [f"{name} ({PACKAGES[name]})" for name, env in asked.items() if env is None]


def rows_of(out: Path) -> int:
    """Rows of a catalogue."""
    if out.suffix == ".npy":
        return len(np.load(out))
    from astropy.io import fits

    return int(fits.getheader(out, 1)["NAXIS2"])


def finished(case: Case, field: Path, folder: Path, env: dict[str, str], timeout: float) -> dict[str, Any]:
    """Run a case; what it took and held, and what it wrote: rows and SHA-256, None without a catalogue."""
    for old in folder.glob("ledger.*"):
        old.unlink()
    argv, out = command(case, field, folder)
    result = measured(case, argv, env, folder, timeout)
    done = result["exit"] == 0 and out.exists()
    result |= {"rows": rows_of(out) if done else None, "sha256": digest(out) if done else None}
    out.unlink(missing_ok=True)
    return result


def run_all(args: argparse.Namespace) -> Record:
    """Make what runs the record lacks."""
    args.folder.mkdir(parents=True, exist_ok=True)
    there, missing = found_allocators(args.allocators.split(","))
    field = field_of(args)
    record = Record(args.json or args.folder / f"malloc_{args.size}.json", facts(field))
    record.made["missing"] = missing
    for name in missing:
        say(f"not installed, left out: {name}")
    todo = cases(args, there)
    left = [case for case in todo if record.runs.get(case.key, {"exit": None})["exit"] != 0]
    width, height = map(int, record.made["facts"]["size"].split("x"))
    expected = {case.key: 2.0 + width * height / SPEED[case.program] for case in left}
    say(f"{len(todo)} runs, {len(todo) - len(left)} of them done; about {sum(expected.values()) / 60:.0f} minutes")
    spent = guessed = 0.0
    for number, case in enumerate(left, 1):
        result = finished(case, field, args.folder, there[case.allocator], args.timeout)
        record.keep(case.key, result)
        spent, guessed = spent + result["wall"], guessed + expected[case.key]
        rest = sum(expected[other.key] for other in left[number:]) * spent / guessed / 60
        held = f"{mib(result['held'])} MiB held, {result['wall']:.1f} s" if result["exit"] == 0 else f"exit {result['exit']}"
        say(f"{number}/{len(left)}  {case}: {held}; about {rest:.0f} minutes left")
    return record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help=f"a field of {SMALL[0]} and limits of {SMALL[1]}")
    p.add_argument("--size", help=f"of the field: N or WIDTHxHEIGHT (default {LARGE[0]})")
    p.add_argument("--field", type=Path, help="an image to use instead of making one")
    p.add_argument("--limits", help=f"default {LARGE[1]}, or {SMALL[1]} below 10000 pixels")
    p.add_argument("--workers", default="1,4")
    p.add_argument("--allocators", default=",".join(ALLOCATORS), help="default %(default)s")
    p.add_argument("--programs", default=",".join(PROGRAMS), help="default %(default)s")
    p.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="for one run (default 3600)")
    p.add_argument("--folder", type=Path, default=ROOT / ".bench", help="for field, scratch and record (default .bench)")
    p.add_argument("--json", type=Path, help="the record (default malloc_SIZE.json in the folder)")
    p.add_argument("--from-json", type=Path, metavar="FILE", help="run nothing, write page and figure from a record")
    p.add_argument("--page", type=Path, default=ROOT / "docs" / "memory.md", help="default docs/memory.md")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    args = parser().parse_args(argv)
    args.size = args.size or (size_of(args.field) if args.field else SMALL[0] if args.quick else LARGE[0])
    small = max(map(int, args.size.lower().split("x"))) < 10000
    args.limits = args.limits or (SMALL if small else LARGE)[1]
    args.folder = args.folder.resolve()
    record = Record(args.from_json) if args.from_json else run_all(args)
    results = Results(record.made)
    print(results.summary())
    print(results.runs_table())
    drawing = importlib.util.find_spec("matplotlib") is not None
    if not drawing:
        say("matplotlib isn't installed (pip install sextract[plot]): the figure stays as it is")
    if not write_page(args.page, results, drawing):
        say(f"{args.page} has no place for a field of {results.size}: it stays as it is")
    faults = results.faults()
    for fault in faults:
        say(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
