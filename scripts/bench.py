#!/usr/bin/env python3
"""How fast sextract is beside SExtractor, where its time goes and how it grows: makes docs/performance.md.

    scripts/bench.py                          # all of it, some ten minutes on two cores
    scripts/bench.py --full                   # also 30000 x 30000 pixels: 4 GB of disk, about a minute more
    scripts/bench.py --only compare plain:4096 IMAGE.fits

``compare`` runs the programs in turn, several rounds, on each field with the same 28 columns, then each once more with
its memory watched, so that watching disturbs no timing, and sextract once with ``--profile``.  ``scaling`` runs sextract
alone on fields of many sizes, numbers of sources and blends, and with one worker and more.  Fields are
``plain[:SIZE]`` (2,500 stars a megapixel, most of them below the noise), ``crowded[:SIZE]`` (16 times as many) or files.
sep and photutils are run where they are installed (``--peers-python``), on fields of at most 5 megapixels.
SourceXtractor++ isn't run: there is no package to install it from, so a call of it could not be tried.

What has been measured is kept after each run (``--json``), so that a benchmark that was interrupted goes on where
it stopped; ``--from-json`` makes the page again without running.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import trace_model  # noqa: E402
from bench_record import Record, code_digest, digest, field_file, run, say, size_of  # noqa: E402
from performance_page import LABELS, Results, write_page  # noqa: E402

from tests.giants.scenes import Scene, scatter  # noqa: E402

SEXTRACTOR = shutil.which("source-extractor") or shutil.which("sex")
PEERS = str(ROOT / "scripts" / "bench_peers.py")
# Beyond this sep and photutils would take minutes.
PEERS_MOST = 5_000_000
# Memory is looked at as often and as exactly as can be: that run's time isn't used.
EXACT_SHARE = 1.0

USUAL = """
    NUMBER X_IMAGE Y_IMAGE XWIN_IMAGE YWIN_IMAGE ALPHA_J2000 DELTA_J2000 FLUX_ISO FLUXERR_ISO FLUX_AUTO FLUXERR_AUTO
    FLUX_APER(3) FLUXERR_APER(3) FLUX_RADIUS A_IMAGE B_IMAGE THETA_IMAGE KRON_RADIUS ISOAREA_IMAGE
    XMIN_IMAGE XMAX_IMAGE YMIN_IMAGE YMAX_IMAGE FLUX_MAX FWHM_IMAGE ELONGATION BACKGROUND FLAGS
"""
COLUMNS = {"usual": USUAL, "few": "NUMBER X_IMAGE Y_IMAGE FLUX_AUTO FLUX_APER(3) FLAGS"}
KEYWORDS = {
    "CATALOG_TYPE": "FITS_1.0",
    "DETECT_MINAREA": "5",
    "DETECT_THRESH": "1.5",
    "ANALYSIS_THRESH": "1.5",
    "BACK_SIZE": "64",
    "PHOT_APERTURES": "5,10,20",
    "PHOT_FLUXFRAC": "0.5",
}

# Chosen so that SExtractor finds what the fields are to have: 28,400 sources in 8192 x 8192 pixels, 7 % of them blended;
# 36,700 in the crowded 4096 x 4096, half of them blended.
STARS = "--stars-only --fwhm 3.5 --moffat-beta 1.8 --slope 0.75 --faintest 1.15 --blends 0 --seed 1"
PER_MEGAPIXEL = {"plain": 1e6 * 167_772 / 8192**2, "crowded": 1e6 * 670_000 / 4096**2}
FIELDS = ("plain:8192", "crowded:4096", "plain:2048")
SIZES, SOURCES, GIANTS = (1024, 2048, 4096, 8192, 16384), (1_000, 10_000, 100_000, 1_000_000), (250, 500, 1000)
FULL_SIZE = 30000
# Pixels of a giant for each of its peaks, its own brightness, its noise, and the flux with which a peak is a source of its own.
# The noise must have no peaks to speak of: beyond 1024 branches an object is taken whole.
PEAK_AREA, GIANT_LIGHT, GIANT_NOISE, PEAK_FLUX = 1000, 8.0, 0.02, 500.0
# How many workers start for the sake of starting, and the image that makes no work.
STARTS, START_SIZE = (1, 2, 16), 256
# Pixels of the field of many sources, on a side.
SOURCES_SIZE = 4096


@dataclass(frozen=True)
class Job:
    """One run: why, on which field, of which program, with how many workers."""

    section: str
    field: str
    program: str = "sextract"
    workers: int = 1
    turn: int = 1

    @property
    def key(self) -> str:
        """Its name in the record."""
        return " ".join(map(str, asdict(self).values()))

    def __str__(self) -> str:
        return f"{self.section}, {self.field}, {LABELS[self.program]}" + f", {self.workers}" * (self.program == "sextract")


class Fields:
    """Images by name, made when they are needed.

    Parameters
    ----------
    folder : Path
    largest : int
        Side of the field that smaller ones are cut from, and larger ones are made of.
    files : dict
        Paths of the user's own images by their names.
    """

    def __init__(self, folder: Path, largest: int, files: dict[str, Path]) -> None:
        self.folder, self.largest, self.files = folder, largest, files

    def path(self, name: str) -> Path:
        """The file of a field, `name` being KIND:NUMBER or that of a file."""
        if name in self.files:
            return self.files[name]
        kind, _, number = name.rpartition(":")
        path = self.folder / f"{kind}_{number}.fits"
        if kind in PER_MEGAPIXEL:
            return stars(path, int(number), PER_MEGAPIXEL[kind] * int(number) ** 2 / 1e6)
        if kind == "sources":
            return stars(path, min(SOURCES_SIZE, self.largest), int(number))
        if kind == "size":
            return path if path.exists() else mosaic(self.path(f"plain:{self.largest}"), path, int(number))
        if kind == "giant":
            return path if path.exists() else giant(path, int(number))
        raise SystemExit(f"{name} is neither a file nor one of {', '.join(PER_MEGAPIXEL)}")

    def options(self, name: str) -> list[str]:
        """What sextract is told of a field beyond the configuration."""
        if not name.startswith("giant:"):
            return []
        pixels = int(name.rpartition(":")[2]) ** 2
        return [*Scene(1, 1).options, "-DEBLEND_MINCONT", f"{PEAK_FLUX / (GIANT_LIGHT * pixels):.3g}"]


def stars(path: Path, size: int, sources: float) -> Path:
    """A field with that many stars."""
    return field_file(path, "--size", str(size), "--sources", str(round(sources)), *STARS.split())


def mosaic(source: Path, path: Path, size: int) -> Path:
    """A field cut from another, or made of it and its mirror images, so that the sky goes on over the seams."""
    say(f"making {path.name}")
    from astropy.io import fits

    header, part = fits.getheader(source), path.with_suffix(".part")
    pixels = np.memmap(source, ">f4", "r", len(header.tostring()), (header["NAXIS2"], header["NAXIS1"]))
    there = np.arange(size)
    columns, rows = (np.where(there // n % 2, n - 1 - there % n, there % n) for n in pixels.shape[::-1])
    header["NAXIS1"] = header["NAXIS2"] = size
    with part.open("wb") as out:
        written = out.write(header.tostring().encode("ascii"))
        for row in rows.tolist():
            written += out.write(pixels[row][columns].tobytes())
        out.write(bytes(-written % 2880))
    part.rename(path)
    return path


def giant(path: Path, size: int) -> Path:
    """One object that fills the image, with many peaks."""
    part = path.with_suffix(".part")
    peaks = scatter(size, size, size * size // PEAK_AREA, 5, (5.0, 500.0))
    Scene(size, size, light=lambda y, x: np.float32(GIANT_LIGHT), noise=GIANT_NOISE, stars=peaks).write(part)
    part.rename(path)
    return path


def configuration(folder: Path, columns: str) -> Path:
    """What all programs that can read it are told."""
    text = COLUMNS[columns] if columns in COLUMNS else Path(columns).read_text()
    (folder / "bench.param").write_text("\n".join(text.split()) + "\n")
    keywords = {**KEYWORDS, "PARAMETERS_NAME": str(folder / "bench.param")}
    for keyword, name in (("FILTER_NAME", "default.conv"), ("STARNNW_NAME", "default.nnw")):
        keywords[keyword] = str(ROOT / "sextract" / "share" / name)
    path = folder / "bench.sex"
    path.write_text("".join(f"{keyword} {value}\n" for keyword, value in keywords.items()))
    return path


class Bench:
    """Runs jobs with one set of options."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, args.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sex = configuration(self.folder, args.columns)
        self.fields = Fields(self.folder, args.largest, args.files)
        self.versions = versions(args.peers_python)
        programs = args.programs.split(",")
        self.programs = [name for name in programs if name in self.versions]
        self.missing = [name for name in programs if name not in self.versions]

    # What there is to do

    def jobs(self) -> Iterator[Job]:
        """All runs, rounds on the outside, so that what disturbs the machine disturbs all programs."""
        n = self.args.workers
        if "compare" in self.args.only:
            for name in self.args.fields:
                programs = [p for p in self.programs if p in ("sextract", "SExtractor") or self._small(name)]
                for turn in range(1, self.args.rounds + 1):
                    for program in programs[:: 1 if turn % 2 else -1]:
                        yield Job("compare", name, program, n, turn)
                yield from (Job("held", name, program, n) for program in programs)
                yield Job("profile", name, "sextract", n)
        if "scaling" in self.args.only:
            yield from (Job("start", f"plain:{START_SIZE}", "sextract", k) for k in STARTS)
            largest = f"plain:{self.args.largest}"
            for turn in range(1, self.args.rounds + 1):
                for k in sorted({*range(1, self.args.cores + 1), n}):
                    yield Job("workers", largest, "sextract", k, turn)
            yield Job("profile", largest, "sextract", n)
            names = [f"size:{size}" for size in self.args.sizes] + [f"sources:{n}" for n in self.args.sources]
            names += [f"giant:{size}" for size in self.args.giants]
            for name in names:
                many = self.args.rounds if self._pixels(name) < 1e8 else 1
                yield from (Job("scaling", name, "sextract", n, turn) for turn in range(1, many + 1))
            if self.args.full:
                yield Job("profile", f"size:{FULL_SIZE}", "sextract", n)

    def _pixels(self, name: str) -> int:
        kind, _, number = name.rpartition(":")
        if name in self.args.files:
            return math.prod(map(int, size_of(self.args.files[name]).split("x")))
        return (SOURCES_SIZE if kind == "sources" else int(number)) ** 2

    def _small(self, name: str) -> bool:
        return self._pixels(name) <= PEERS_MOST

    def facts(self) -> dict[str, str]:
        """What the measurements depend on."""
        return {
            "code": code_digest() + digest(Path(PEERS), Path(__file__), Path(trace_model.__file__)),
            "columns": " ".join((self.folder / "bench.param").read_text().split()),
            "limit": self.args.mem_limit,
            "versions": ", ".join(f"{LABELS[name]} {version}" for name, version in self.versions.items()),
        }

    # Doing it

    def command(self, job: Job, path: Path, out: Path) -> list[str]:
        """What to run."""
        if job.program in ("sep", "photutils"):
            return [self.args.peers_python, PEERS, job.program, str(path), str(out)]
        common = [str(path), "-c", str(self.sex), "-CATALOG_NAME", str(out)]
        if job.program == "SExtractor":
            return [str(SEXTRACTOR), *common, "-VERBOSE_TYPE", "QUIET"]
        ours = [sys.executable, "-m", "sextract", *common, "--workers", str(job.workers), "--mem-limit", self.args.mem_limit]
        return [*ours, "-VERBOSE_TYPE", "QUIET", *self.fields.options(job.field)]

    def do(self, job: Job) -> dict[str, Any]:
        """Run a job; what it took, held and found."""
        path, out, trace = self.fields.path(job.field), self.folder / "out.fits", self.folder / "trace.json"
        for old in (out, trace):
            old.unlink(missing_ok=True)
        traced = job.section in ("profile", "start")
        argv = self.command(job, path, out) + (["--profile", str(trace)] if traced else [])
        done = run(argv, self.folder, timeout=self.args.timeout, exact_share=EXACT_SHARE if job.section == "held" else None)
        found: dict[str, Any] = asdict(job) | {"exit": done.code, "wall": round(done.wall, 3), "cpu": round(done.cpu, 3)}
        found["size"] = size_of(path)
        if done.code != 0:
            return found | {"said": done.said[-1500:]}
        if done.watch is not None:
            found["held"] = done.watch.peak
        if traced:
            made = trace_model.read(trace)
            found |= {"breakdown": rounded(trace_model.breakdown(made))}
            if job.section == "profile":
                found["work"] = rounded(asdict(trace_model.work_of(made)))
                if job.field.startswith("plain:"):
                    found["plans"] = self.plans(path)
        return found | rows_of(out)

    def plans(self, path: Path) -> dict[str, dict[str, str]]:
        """How the memory limit would be used by many workers, as `--estimate` tells."""
        plans = {}
        for n in (16, 64):
            argv = [sys.executable, "-m", "sextract", str(path), "-c", str(self.sex), "--mem-limit", self.args.mem_limit]
            done = run([*argv, "--workers", str(n), "--estimate"], self.folder)
            lines = re.findall(r"^([a-z ]+): +(.*)$", done.said, re.MULTILINE)
            plans[str(n)] = {name: text for name, text in lines if name in ("workers", "tiles")}
        return plans

    def run_all(self) -> Record:
        """Make what runs the record lacks."""
        record = Record(self.args.json, self.facts())
        record.made |= {"missing": self.missing, "workers": self.args.workers}
        todo = list(dict.fromkeys(self.jobs()))
        left = [job for job in todo if record.runs.get(job.key, {"exit": None})["exit"] != 0]
        say(f"{len(todo)} runs, {len(todo) - len(left)} of them done")
        for number, job in enumerate(left, 1):
            result = self.do(job)
            record.keep(job.key, result)
            how = f"wall {result['wall']:.2f} s, cpu {result['cpu']:.2f} s" if result["exit"] == 0 else f"exit {result['exit']}"
            say(f"{number}/{len(left)}  {job}: {how}")
        return record


def versions(peers_python: str) -> dict[str, str]:
    """Programs that are there, and which."""
    from sextract._version import __version__

    found = {"sextract": __version__}
    if SEXTRACTOR:
        said = subprocess.run([SEXTRACTOR, "--version"], capture_output=True, text=True, check=False).stdout
        found["SExtractor"] = (re.findall(r"\d+(?:\.\d+)+", said) or ["?"])[0]
    peers = subprocess.run([peers_python, PEERS, "--versions"], capture_output=True, text=True, check=False).stdout
    return found | dict(line.split() for line in peers.splitlines())


def rows_of(out: Path) -> dict[str, Any]:
    """Rows of a catalogue, and how many of them are blends."""
    from astropy.io import fits

    with fits.open(out) as hdus:
        table = next(hdu for hdu in hdus if hdu.header.get("XTENSION") == "BINTABLE" and hdu.name != "LDAC_IMHEAD")
        names = table.columns.names
        blended = int(np.count_nonzero(np.asarray(table.data["FLAGS"]) & 2)) if "FLAGS" in names else None
        return {"rows": int(table.header["NAXIS2"]), "blended": blended}


def rounded(value: Any) -> Any:
    """Numbers of a record to the microsecond."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(value, 6) if isinstance(value, float) else value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("fields", nargs="*", help=f"plain[:SIZE], crowded[:SIZE] or files (default {' '.join(FIELDS)})")
    p.add_argument("--only", choices=("compare", "scaling"), action="append", help="may be given twice (default both)")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--mem-limit", default="512M")
    p.add_argument("--programs", default=",".join(LABELS), help="default %(default)s, as far as they are installed")
    p.add_argument("--columns", default="usual", help="usual, few, or a .param file (default usual)")
    p.add_argument("--peers-python", default=sys.executable, metavar="PYTHON", help="the one that has sep and photutils")
    p.add_argument("--full", action="store_true", help=f"{FULL_SIZE} x {FULL_SIZE} pixels, too")
    p.add_argument("--largest", type=int, default=8192, metavar="SIZE", help="of the plain field that others are made of")
    p.add_argument("--sizes", type=numbers, default=SIZES, help="on a side, for scaling")
    p.add_argument("--sources", type=numbers, default=SOURCES, help="simulated, for scaling")
    p.add_argument("--giants", type=numbers, default=GIANTS, help="on a side, for scaling")
    p.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="for one run (default 3600)")
    p.add_argument("--folder", type=Path, default=ROOT / ".bench", help="for fields and record (default .bench)")
    p.add_argument("--json", type=Path, help="the record (default performance.json in the folder)")
    p.add_argument("--from-json", type=Path, metavar="FILE", help="run nothing, make the page from a record")
    p.add_argument("--page", type=Path, help="the page whose tables are made anew (such as docs/performance.md)")
    return p


def numbers(text: str) -> tuple[int, ...]:
    """1,2,3; none if it is empty."""
    return tuple(int(part) for part in text.split(",") if part)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 1 if a run failed."""
    args = parser().parse_args(argv)
    args.files = {Path(name).name: Path(name).resolve() for name in args.fields if Path(name).is_file()}
    names = [Path(name).name if Path(name).is_file() else name for name in args.fields or FIELDS]
    args.fields = [name if ":" in name or name in args.files else f"{name}:4096" for name in names]
    args.only = args.only or ["compare", "scaling"]
    args.cores = len(os.sched_getaffinity(0))
    args.folder = args.folder.resolve()
    args.json = args.json or args.folder / "performance.json"
    if args.full:
        args.sizes = (*args.sizes, FULL_SIZE)
    record = Record(args.from_json) if args.from_json else Bench(args).run_all()
    results = Results(record.made)
    print(results.text())
    if args.page:
        write_page(args.page, results)
    failed = [key for key, found in record.runs.items() if found["exit"] != 0]
    for key in failed:
        say(f"FAILED: {key}: {record.runs[key].get('said', '')[-300:]}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
