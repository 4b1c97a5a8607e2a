"""No block above 64 KiB comes from malloc: a whole run is traced, in parent, template and workers.

What grows with an image or its sources lies in the slab or passes by in pieces.  So it doesn't matter what a C library
does with large blocks, or with what is freed.  `ALLOWED` lists all that there is beside.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from malloc_trace import Block, blocks, build, trace_environment

from sextract.measurement.measure import MEASUREMENTS
from tests import scenes
from tests.conftest import ROOT

MOST_BYTES = 64 << 10


@dataclass(frozen=True)
class Allowed:
    """Blocks that may be larger.

    Attributes
    ----------
    what : str
    why : str
    matches : callable
    most : int
        How large each may be, bytes.
    """

    what: str
    why: str
    matches: Callable[[Block], bool]
    most: int


def _of_python(block: Block) -> bool:
    """Whether the interpreter itself asked, not a module or library."""
    return block.native[:1] != () and block.native[0].split(":")[0].startswith(("libpython", "python"))


# Functions of these run beyond the start; where a library may be imported even then.
WORK = "/pipeline/extraction.py", "/pipeline/stages.py"
LIBRARIES = "/measurement/sky.py", "/reading/compressed.py"


def _working(block: Block) -> bool:
    """Whether the run is beyond its start: within a function of `WORK`, not while that module is being imported."""
    return any(name in line.file and line.function != "<module>" for line in block.python for name in WORK)


ALLOWED = (
    Allowed(
        "the interpreter's start",
        "tables that CPython makes once, before the first line of Python; pages shared with all that is forked",
        lambda b: not b.started,
        1 << 20,
    ),
    Allowed(
        "CPython's arenas",
        "small objects come out of them, 512 bytes at most each; how many there are is bounded by the tests of the limit",
        lambda b: b.function == "mmap" and _of_python(b) and b.nbytes in (256 << 10, 1 << 20),
        1 << 20,
    ),
    Allowed(
        "CPython's map of its arenas",
        "a table for each part of the address space in which there is one",
        lambda b: b.function == "calloc" and _of_python(b) and b.nbytes in (128 << 10, 256 << 10),
        256 << 10,
    ),
    Allowed(
        "imports",
        "code and tables of modules, made once: before the first fork, or astropy and fitsio where they are needed",
        lambda b: b.within("<frozen importlib") and (not _working(b) or b.within(*LIBRARIES)),
        64 << 20,
    ),
    Allowed(
        "tables of what the slab holds",
        "an entry of Python for each block in it: a tile has 64 KiB or more, unless --tile-shape says otherwise",
        lambda b: b.python[0].file.endswith(("/memory/slab.py", "/memory/tiles.py")),
        2 << 20,
    ),
    Allowed(
        "astropy",
        "it is given 1024 positions at a time",
        lambda b: b.within("/astropy/"),
        256 << 10,
    ),
    Allowed(
        "cfitsio",
        "it decodes whole tiles of a compressed image: `ImageInfo.library_bytes`, which the limit counts",
        lambda b: b.within("/fitsio/"),
        1 << 20,
    ),
)


@dataclass(frozen=True)
class Case:
    """An image, and what is asked of it."""

    image: Callable[[Path], Path]
    columns: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    limit: str = "256M"
    tiles: str = ""
    quick: int = 2  # workers; with others it is slow


def crowded(folder: Path) -> Path:
    """Thousands of sources, many blended."""
    return scenes.field(folder / "crowded.fits", 360, 1000, 3, trail=True).path


def wide(folder: Path) -> Path:
    """A row of it alone is above the bound."""
    return scenes.field(folder / "wide.fits", (60, 40000), 800, 4).path


def tall(folder: Path) -> Path:
    """Thousands of tiles, if a tile is a row."""
    return scenes.field(folder / "tall.fits", (8300, 60), 3000, 7).path


def nebula(folder: Path) -> Path:
    """Nearly all of it one footprint with a ragged edge: tens of thousands of fragments."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:500, :600]
    light = 30 * np.exp(-(((x - 300) / 200) ** 2 + ((y - 250) / 150) ** 2))
    path = folder / "nebula.fits"
    fits.writeto(path, (light + rng.normal(100, 5, light.shape)).astype(np.float32))
    return path


def _integers(folder: Path) -> np.ndarray:
    """Pixels of a small field as unsigned integers."""
    path = scenes.field(folder / "small.fits", 300, 150, 6).path
    with fits.open(path) as file:
        return np.clip(file[0].data, 0, 65535).astype(np.uint16)


def mosaic_gz(folder: Path) -> Path:
    """Several extensions of integers with BZERO, gzipped, with long headers that take astropy."""
    header = fits.Header([("HISTORY", f"step {i} of a long reduction") for i in range(600)])
    header.update(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=1, B_ORDER=1)
    plain = folder / "mosaic.fits"
    images = [fits.ImageHDU(_integers(folder), header, name=f"CCD{k}") for k in range(1, 4)]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(plain)
    with plain.open("rb") as source, gzip.open(folder / "mosaic.fits.gz", "wb", 1) as packed:
        shutil.copyfileobj(source, packed)
    return folder / "mosaic.fits.gz"


def compressed(folder: Path) -> Path:
    """Tile-compressed integers."""
    path = folder / "small.fits.fz"
    hdu = fits.CompImageHDU(_integers(folder), compression_type="RICE_1", tile_shape=(100, 100))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


PLAIN = ("NUMBER", "X_IMAGE", "Y_IMAGE", "FLUX_AUTO", "FLUX_APER(3)", "FLUX_RADIUS(3)", "XWIN_IMAGE", "FLAGS")
VECTORS = {"VIGNET": "(75,75)"}
SKIPPED = {"CLASS_STAR"}  # It needs a file that isn't ours.


def every_column() -> tuple[str, ...]:
    """All columns there are, vectors long."""
    columns = [c for name in MEASUREMENTS for c in MEASUREMENTS.get(name).columns if c.name not in SKIPPED]
    names = [f"{c.name}{VECTORS.get(c.name, '(60)')}" if c.vector else c.name for c in columns]
    return tuple(dict.fromkeys(names))


CHECKS = {
    "CHECKIMAGE_TYPE": "SEGMENTATION,BACKGROUND,BACKGROUND_RMS,-BACKGROUND,FILTERED,OBJECTS,APERTURES",
    "CHECKIMAGE_NAME": "seg.fits,back.fits,rms.fits,minus.fits,filtered.fits,objects.fits,apertures.fits",
}
NEBULA = {"DETECT_THRESH": "0.3", "FILTER": "N"}
MANY = {"PHOT_APERTURES": ",".join(str(2 + k / 2) for k in range(60))}

CASES = {
    "everything": Case(crowded, every_column(), {**CHECKS, **MANY, "BACKPHOTO_TYPE": "LOCAL", "CATALOG_TYPE": "FITS_LDAC"}),
    "ascii": Case(crowded, every_column(), {**MANY, "CATALOG_TYPE": "ASCII_HEAD"}, quick=-1),
    "wide": Case(wide, PLAIN, CHECKS, quick=0),
    "many-tiles": Case(tall, PLAIN, {"CHECKIMAGE_TYPE": "SEGMENTATION", "CHECKIMAGE_NAME": "seg.fits"}, tiles="1x60", quick=-1),
    "nebula": Case(nebula, PLAIN, {**CHECKS, **NEBULA, "CATALOG_TYPE": "FITS_1.0"}),
    "nebula-in-tiles": Case(nebula, PLAIN, {**CHECKS, **NEBULA}, tiles="40x50", quick=-1),
    "nebula-whole": Case(nebula, PLAIN, {**CHECKS, **NEBULA, "FOOTPRINT_MAXPIX": "1000"}, quick=-1),
    "checkpoints": Case(nebula, PLAIN, {**CHECKS, **NEBULA, "CHECKPOINT": "1"}, tiles="40", quick=0),
    "packed": Case(mosaic_gz, (*PLAIN, "ALPHA_J2000"), {"CATALOG_TYPE": "FITS_LDAC", "CHECKIMAGE_TYPE": "BACKGROUND",
                                                         "CHECKIMAGE_NAME": "back.fits"}),
    "compressed": Case(compressed, PLAIN, {"CATALOG_TYPE": "NONE"}, quick=0),
}  # fmt: skip


@pytest.fixture(scope="session")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library to preload, if it sees what it should."""
    folder = tmp_path_factory.mktemp("trace")
    library = build(folder)
    if library is None:
        pytest.skip("no C compiler, or no glibc")
    script = "def f():\n return bytes(100_000)\nimport os\nf()\nos._exit(0) if os.fork() == 0 else os.wait(); f()"
    environment = {**os.environ, **trace_environment(library, folder / "try", MOST_BYTES)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    found = [b for b in blocks(folder / "try") if b.python and b.python[0].function == "f"] if not done.returncode else []
    if not found:
        pytest.skip(f"this Python can't be traced: {done.stderr[-200:]}")
    assert [b.nbytes > 100_000 for b in found] == [True, True]
    return library


def traced(tracer: Path, folder: Path, case: Case, workers: int) -> list[Block]:
    """Blocks above the bound that a run asked for."""
    image = case.image(folder)
    (folder / "columns.param").write_text("\n".join(case.columns))
    options = {"PARAMETERS_NAME": "columns.param", "CATALOG_NAME": "out.cat", "VERBOSE_TYPE": "QUIET", **case.options}
    command = [sys.executable, "-m", "sextract", str(image), "--mem-limit", case.limit, "--workers", str(workers)]
    command += [text for key, value in options.items() for text in (f"-{key}", value)]
    command += ["--tile-shape", case.tiles] if case.tiles else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    environment |= trace_environment(tracer, folder / "trace", MOST_BYTES)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return blocks(folder / "trace")


def allowed(block: Block) -> bool:
    """Whether `ALLOWED` has it."""
    return any(entry.matches(block) and block.nbytes <= entry.most for entry in ALLOWED)


RUNS = [
    pytest.param(name, workers, marks=[] if workers == case.quick else [pytest.mark.slow])
    for name, case in CASES.items()
    for workers in (0, 2)
]


@pytest.mark.parametrize(("name", "workers"), RUNS)
def test_no_block_above_64_kib(tracer: Path, tmp_path: Path, name: str, workers: int) -> None:
    found = traced(tracer, tmp_path, CASES[name], workers)
    # Parent, template, workers: at least the parent's imports are there.
    assert any(b.within("<frozen importlib") for b in found)
    bad = [b for b in found if not allowed(b)]
    assert not bad, f"{len(bad)} blocks:\n" + "\n".join(sorted({str(b) for b in bad}))
