"""Objects larger than the buffers: at any limit that is accepted a run ends well, within it, and with the same bytes.

The scenes of every run are small ones with a low cap; ``slow`` has them at the size that they are about.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from sextract.config.keywords import parse_size
from tests.conftest import CommandLine, Outcome
from tests.giants import scenes

COLUMNS = "NUMBER X_IMAGE Y_IMAGE FLUX_ISO FLUX_AUTO FLUXERR_AUTO FLUX_APER(2) FLUX_RADIUS KRON_RADIUS ISOAREA_IMAGE FLAGS"
AREA, FLAGS = 10, 11


@dataclass(frozen=True)
class Case:
    """A scene, and what is known of its catalogue.

    Attributes
    ----------
    scene : Scene
    beyond : bool
        Whether something is over the cap.
    area : int
        The largest ISOAREA_IMAGE is at least that.
    sources : int
        There are at least so many.
    """

    scene: scenes.Scene
    beyond: bool = False
    area: int = 0
    sources: int = 1


# Beyond it a footprint isn't split, in the small scenes and by default.
SMALL_CAP, CAP = 10_000, 1_000_000


def cases(size: int, cap: int) -> dict[str, Case]:
    """All scenes, of about size² pixels."""
    pixels = size * size
    # What is above the threshold once it is filtered: a halo of π/100 of the frame, spikes, the column.
    star = pixels // 32 + 25 * size
    return {
        "nebula": Case(scenes.nebula(size), True, 28 * pixels // 100, pixels // 5000),
        "bleeding star": Case(scenes.bleeding_star(size), star > cap, pixels // 32, pixels // 5000),
        "lace": Case(scenes.noise(size, 0.1), True, pixels // 3, pixels // 2000),
        "smooth lace": Case(scenes.noise(size, 0.03, smooth=True), True, pixels // 10, pixels // 2000),
        "crowd": Case(scenes.crowd(size, 67.0), sources=pixels // 200),
        "strip": Case(scenes.strip(pixels // 500, 500), area=pixels // 250, sources=pixels // 150_000),
        "trail": Case(scenes.trail(size), area=4 * size, sources=pixels // 40_000),
        "aperture": Case(scenes.aperture(size), sources=5),
        "galaxy": Case(scenes.galaxy(size), area=pixels // 400, sources=20),
        "flat": Case(scenes.flat(size), True, pixels),
        "chessboard": Case(scenes.chessboard(size), True, pixels // 2),
        "comb": Case(scenes.comb(size), True, pixels // 2),
        "comb upside down": Case(scenes.comb(size, "bottom"), True, pixels // 2),
        "spiral": Case(scenes.spiral(size), True, pixels // 3),
    }


class Bench:
    """Runs a scene at limits and compares.

    Parameters
    ----------
    cli : CommandLine
    folder : Path
    case : Case
    options
        More of the command line.
    """

    def __init__(self, cli: CommandLine, folder: Path, case: Case, *options: str, timeout: float = 120.0) -> None:
        (folder / "some.param").write_text("\n".join(COLUMNS.split()))
        self.cli, self.case, self.timeout = cli, case, timeout
        apertures = () if "PHOT_APERTURES" in case.scene.keywords else ("-PHOT_APERTURES", "5,20")
        self.arguments = (
            case.scene.write(folder / "scene.fits"), *case.scene.options, *apertures, "-PARAMETERS_NAME",
            folder / "some.param", "-CATALOG_TYPE", "ASCII", "-CATALOG_NAME", "out.cat", *options,
        )  # fmt: skip
        self.folder = folder
        self.catalogue = b""

    def run(self, limit: str, workers: int) -> Outcome:
        """One run, whatever comes of it."""
        return self.cli(
            *self.arguments, "--mem-limit", limit, "--workers", workers, watched=True, timeout=self.timeout,
            cwd=self.folder,
        )  # fmt: skip

    def smallest(self) -> str:
        """The smallest limit that works, as a refusal before any pixel is read says it."""
        refused = self.run("16M", 0)
        assert refused.code == 5 and not refused.made, refused.err
        found = re.search(r"the smallest limit that works is (\d+M)", refused.err)
        assert found is not None, refused.err
        return found[1]

    def check(self, limit: str, workers: int) -> None:
        """A run within its limit, with the bytes that all others have."""
        (self.folder / "out.cat").unlink(missing_ok=True)
        done = self.run(limit, workers)
        assert done.code == 0, done.err
        assert done.peak <= parse_size(limit), f"{done.peak >> 20} MiB under {limit}, {workers} workers"
        found = (self.folder / "out.cat").read_bytes()
        assert self.catalogue in (b"", found), f"other bytes under {limit}, {workers} workers"
        self.catalogue = found
        self._check_rows(done)

    def _check_rows(self, done: Outcome) -> None:
        rows = [line.split() for line in self.catalogue.decode().splitlines()]
        flagged = sum(int(row[FLAGS]) & 128 > 0 for row in rows)
        assert len(rows) >= self.case.sources and max(int(row[AREA]) for row in rows) >= self.case.area
        assert bool(flagged) == self.case.beyond
        counted = re.search(r"(\d+) beyond FOOTPRINT_MAXPIX", done.err)
        # CLEAN may have one eat another.
        assert (int(counted[1]) if counted else 0) >= flagged
        assert (counted is not None) == ("FLAGS 128" in done.err) == self.case.beyond


@pytest.mark.parametrize("name", cases(512, SMALL_CAP))
def test_a_small_one(name: str, cli: CommandLine, tmp_path: Path) -> None:
    bench = Bench(cli, tmp_path, cases(512, SMALL_CAP)[name], "-FOOTPRINT_MAXPIX", str(SMALL_CAP))
    bench.check(bench.smallest(), 0)
    bench.check("160M", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(4096, CAP))
def test_a_large_one(name: str, cli: CommandLine, tmp_path: Path) -> None:
    bench = Bench(cli, tmp_path, cases(4096, CAP)[name], timeout=1800)
    bench.check(bench.smallest(), 0)
    for limit in ("160M", "256M", "512M", "2G"):
        for workers in (0, 2):
            bench.check(limit, workers)


HUGE = {
    "a nebula of 20 million pixels": Case(scenes.nebula(8192), True, 20_000_000, 10_000),
    "a star that bleeds over 8192 rows": Case(scenes.bleeding_star(8192), True, 8192 * 6, 10_000),
    "everything connects": Case(scenes.noise(8192, 0.1), True, 20_000_000, 10_000),
    "a million sources": Case(scenes.crowd(16384), sources=700_000),
    "a strip of 200,000 columns": Case(scenes.strip(200_000), True, 400_000, 700),
    "a trail from corner to corner": Case(scenes.trail(8192), area=32_000, sources=1500),
    "an aperture of 14,000 pixels": Case(scenes.aperture(16384), sources=5),
    "a galaxy of 14,000 pixels": Case(scenes.galaxy(16384), True, 1_000_000, 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_a_huge_one(name: str, cli: CommandLine, tmp_path: Path) -> None:
    bench = Bench(cli, tmp_path, HUGE[name], timeout=3600)
    bench.check(bench.smallest(), 0)
    bench.check("160M", 2)
    bench.check("512M", 2)
