"""Runs both programs with one configuration and says where their rows disagree.

The comparison and its bounds are those of ``tests/parity``; here a single run of each must do, so that only unblended
sources, whose values owe nothing to chance, are held to the bounds.
"""

from __future__ import annotations

from pathlib import Path

from tests.conftest import CommandLine, Outcome
from tests.parity import compare
from tests.parity.reference import Setup

LIMIT = ("--mem-limit", "512M")


def ours(cli: CommandLine, setup: Setup, image: object, *options: object) -> Outcome:
    """A run of sextract that must end well; its catalogue is ``ours.cat`` in the set-up's folder."""
    done = cli(image, "-c", setup.write(), "-CATALOG_NAME", setup.folder / "ours.cat", *LIMIT, *options,
               cwd=setup.folder)  # fmt: skip
    assert done.code == 0, done.err
    return done


def tables(cli: CommandLine, setup: Setup, image: object, *options: object) -> list[compare.Table]:
    """The tables of such a run."""
    ours(cli, setup, image, *options)
    return compare.load(setup.folder / "ours.cat")


def disagreements(reference: list[compare.Table], other: list[compare.Table]) -> list[str]:
    """Bounds that unblended rows break, and numbers of rows that differ."""
    seen = compare.compare(reference, other)
    broken = [str(v) for v in compare.judge(seen, []) if v.group == "unblended" and not v.held]
    for group, (left, right) in seen.unmatched.items():
        if max(left, right) > max(1, 0.01 * seen.total[group]):
            broken.append(f"{group}: {left} rows of the reference alone, {right} of ours")
    return broken


def kernel(name: str) -> str:
    """Content of a kernel of the package."""
    share = Path(compare.__file__).resolve().parents[2] / "sextract" / "share"
    return (share / f"{name}.conv").read_text()
