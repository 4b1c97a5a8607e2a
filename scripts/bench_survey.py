#!/usr/bin/env python3
"""How long a survey of many small images takes, beside SExtractor's and beside the same pixels in one image.

    scripts/bench_survey.py                           # 2,000 images of 1024 x 1024, with SExtractor some eight minutes
    scripts/bench_survey.py --images 200 --rounds 3 --no-loop

Fields are those of `make_field.py`, twenty of them under as many names as there are images; columns and keywords are those
of `bench.py`.  SExtractor runs in a shell loop and under ``xargs -P``; sextract does all of them in one call.  ``one image``
is sextract over a field eight times as wide and high, scaled to as many pixels: what pixels and sources take without any
image's own cost.  Everything is run in turn, in each round.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench import COLUMNS, KEYWORDS, SEXTRACTOR  # noqa: E402
from bench_record import field_file  # noqa: E402

DISTINCT = 20
# The one image has so many times the width and the height.
WIDER = 8
SIDE = 1024


def prepare(folder: Path, images: int, side: int) -> list[str]:
    """Fields, their names, the one image, and the configuration; the names."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(1, min(DISTINCT, images) + 1)
    fields = [field_file(folder / f"field{k}.fits", "--size", str(side), "--seed", str(k)) for k in seeds]
    field_file(folder / "whole.fits", "--size", str(WIDER * side), "--seed", "1")
    (folder / "usual.param").write_text("\n".join(COLUMNS["usual"].split()) + "\n")
    share = ROOT / "sextract" / "share"
    keywords = {**KEYWORDS, "PARAMETERS_NAME": "usual.param", "FILTER_NAME": f"{share}/default.conv", "VERBOSE_TYPE": "QUIET"}
    (folder / "bench.sex").write_text("".join(f"{key} {value}\n" for key, value in keywords.items()))
    names = []
    shutil.rmtree(folder / "night", ignore_errors=True)
    (folder / "night").mkdir()
    for k in range(images):
        names.append(f"night/n{k:05d}.fits")
        os.link(fields[k % len(fields)], folder / names[-1])
    (folder / "list.txt").write_text("\n".join(names) + "\n")
    return names


def timed(command: Sequence[str] | str, folder: Path) -> tuple[float, float]:
    """Elapsed and processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run(command, cwd=folder, shell=isinstance(command, str), check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--mem-limit", default="512M")
    parser.add_argument("--folder", type=Path, default=Path("bench-survey"))
    parser.add_argument("--no-loop", action="store_true", help="leave SExtractor in a loop out")
    args = parser.parse_args(argv)
    names = prepare(args.folder, args.images, args.side)
    ours = [sys.executable, "-m", "sextract", "-c", "bench.sex", "--workers", str(args.workers), "--mem-limit", args.mem_limit]
    share = args.images / WIDER**2
    one = [*ours, "whole.fits", "-CATALOG_NAME", "whole.cat.fits"]
    programs: dict[str, Sequence[str] | str] = {"sextract, one call": [*ours, "@list.txt", "-o", "ours/"]}
    if SEXTRACTOR:
        single = f"{SEXTRACTOR} {{}} -c bench.sex -CATALOG_NAME {{}}.cat"
        programs[f"SExtractor, xargs -P {args.workers}"] = f"xargs -P {args.workers} -I{{}} {single} < list.txt"
        if not args.no_loop:
            programs["SExtractor, a loop"] = f"while read f; do {single.replace('{}', '$f')}; done < list.txt"
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(args.rounds):
        wall, cpu = timed(one, args.folder)
        seconds.setdefault("sextract, one image", []).append((share * wall, share * cpu))
        for name, command in programs.items():
            shutil.rmtree(args.folder / "ours", ignore_errors=True)
            seconds.setdefault(name, []).append(timed(command, args.folder))
            if name == "sextract, one call":
                assert len(list((args.folder / "ours").glob("*.cat.fits"))) == len(names)
    print(f"{args.images} images of {args.side} x {args.side} pixels, {args.workers} workers, medians of {args.rounds}")
    print(f"{'':<28}{'wall s':>9}{'CPU s':>9}{'ms an image':>13}{'CPU ms':>9}")
    for name, runs in seconds.items():
        wall, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"{name:<28}{wall:>9.1f}{cpu:>9.1f}{1e3 * wall / args.images:>13.1f}{1e3 * cpu / args.images:>9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
