"""Holds sextract beside SExtractor on one image and prints every bound.

    python -m tests.parity IMAGE [--columns APER,AUTO] [--set KEY=VALUE] [--catalogue FILE | --self]

``--columns`` shows only columns whose names contain one of the words (the runs always request all of them, because
SExtractor's FLAGS depend on the columns).  ``--catalogue`` judges a catalogue that exists, ``--self`` SExtractor with
one more seed, which shows what the bounds are worth.  ``--all`` prints bounds that hold, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.parity.compare import Comparison, Verdict, compare, judge, load, scatter
from tests.parity.reference import COLUMNS, Setup

SEEDS = (1, 2, 3, 4, 5)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tests.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("image", type=Path)
    p.add_argument("--columns", default="", help="show only these, comma-separated parts of names")
    p.add_argument("--request", default="", help="request these instead (X_IMAGE, Y_IMAGE, FLAGS added)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a keyword for both programs")
    p.add_argument("--kernel", type=Path, help="a .conv file for both programs")
    p.add_argument("--catalogue", type=Path, help="judge this one")
    p.add_argument("--self", action="store_true", help="judge SExtractor itself with another seed")
    p.add_argument("--seeds", type=int, default=len(SEEDS), help="how many reseeded runs (default 5)")
    p.add_argument("--keep", type=Path, help="folder for configuration and catalogues")
    p.add_argument("--all", action="store_true", help="print what holds, too")
    p.add_argument("options", nargs="*", help="more options for sextract, after --")
    return p


def wanted(verdict: Verdict, args: argparse.Namespace) -> bool:
    """Whether a line is printed."""
    words = [w for w in args.columns.split(",") if w]
    if words:
        return any(w in verdict.label for w in words)
    return args.all or not verdict.held


def requested(text: str) -> list[str]:
    """Lines of the parameter file."""
    return [*dict.fromkeys(["X_IMAGE", "Y_IMAGE", "FLAGS", *text.split(",")])] if text else COLUMNS


def headline(name: str, seen: Comparison) -> str:
    """Counts in one line."""
    lone = ", ".join(f"{g} {n[0]} + {n[1]}" for g, n in seen.unmatched.items())
    return f"{name}: reference {seen.rows[0]}, catalogue {seen.rows[1]}, matched {seen.matched}; unmatched: {lone}"


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison; 1 if a bound is broken."""
    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sextract-parity-") as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        columns = requested(args.request)
        changes = dict(pair.split("=", 1) for pair in args.set)
        kernel = {"kernel": args.kernel.read_text()} if args.kernel else {}
        setup = Setup(folder.resolve(), columns, changes, **kernel)
        image = args.image.resolve()
        reference = load(setup.reference(image))
        reseeded = scatter([reference, *(load(setup.reference(image, seed)) for seed in range(1, args.seeds + 1))])
        if args.catalogue:
            other = load(args.catalogue)
        else:
            other = load(setup.reference(image, 1000) if args.self else setup.ours(image, *args.options))
    seen = compare(reference, other)
    verdicts = judge(seen, reseeded)
    print(headline(image.name, seen))
    for name, (theirs, ours) in seen.formats.items():
        print(f"{name}: format {ours}, SExtractor's is {theirs}")
    if seen.missing or seen.surplus:
        print(f"columns missing: {seen.missing}, surplus: {seen.surplus}")
    for verdict in verdicts:
        if wanted(verdict, args):
            print(verdict)
    broken = sum(not v.held for v in verdicts)
    print(f"{len(verdicts)} bounds, {broken} broken")
    return int(bool(broken or seen.formats or seen.missing))


if __name__ == "__main__":
    sys.exit(main())
