"""Examples of README and docs run: console blocks with what they print, Python blocks, files that they name.

A block that begins with ```` ```text file=NAME ```` (or python) is a file.  In a ``console`` block each line after a
dollar sign is run by a shell and must succeed; what follows is what it prints, ``...`` for anything.  Python files are
modules that an entry point offers, as from a package of the reader's.
"""

from __future__ import annotations

import doctest
import gzip
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.scenes import ROOT, Scene

BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is run, in the order of the pages; `guide` has the files that the others use, too.
PAGES = (
    "README.md", "docs/guide.md", "docs/extending.md", "docs/surveys.md", "docs/merging.md", "docs/clusters.md",
)  # fmt: skip
NEEDS = {"docs/merging.md": ("pyarrow", "astropy_healpix")}
WCS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 130.0, "CRPIX2": 100.0, "CRVAL1": 150.0, "CRVAL2": 2.0,
    "CD1_1": -7e-5, "CD2_2": 7e-5, "CD1_2": 0.0, "CD2_1": 0.0, "GAIN": 2.0,
}  # fmt: skip
ENTRY_POINTS = {
    "asymmetry": "measurement", "csv_catalogue": "catalogue", "signal_to_noise": "checkimage", "npy": "reader",
    "pool": "engine",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    file: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page that say their language."""
    return [Block(*(part or "" for part in found)) for found in BLOCK.findall((ROOT / page).read_text())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and files that the examples use, and the command `sextract`."""
    folder = tmp_path_factory.mktemp("examples")
    scene = Scene(200, 260, seed=2).scatter(25, margin=5)
    scene.write(folder / "image.fits", header=WCS)
    scene.write(folder / "other.fits", header=WCS)
    (folder / "image.fits.gz").write_bytes(gzip.compress((folder / "image.fits").read_bytes()))
    np.save(folder / "image.npy", scene.pixels())
    ccds = [fits.ImageHDU(scene.pixels(k), fits.Header(list(WCS.items())), f"CCD{k}") for k in (1, 2)]
    fits.HDUList([fits.PrimaryHDU(), *ccds]).writeto(folder / "mosaic.fits")
    (folder / "positions.param").write_text("NUMBER\nX_IMAGE\nY_IMAGE\nFLUX_APER(2)\n")
    for block in (*blocks("docs/guide.md"), *blocks("docs/surveys.md")):
        if block.language == "text" and block.file:
            (folder / block.file).write_text(block.text)
    command = folder / "bin" / "sextract"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sextract "$@"\n')
    command.chmod(0o755)
    return folder


def extensions(page: str, folder: Path) -> Path:
    """A folder as pip would fill it with the page's modules and their entry points."""
    site = folder / f"site_{Path(page).stem}"
    info = site / "examples-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: examples\nVersion: 1.0\n")
    points = ""
    for block in blocks(page):
        if block.language == "python" and block.file:
            (site / block.file).write_text(block.text)
            name = block.file.removesuffix(".py")
            points += f"[sextract.{ENTRY_POINTS[name]}]\n{name} = {name}\n" if name in ENTRY_POINTS else ""
    (info / "entry_points.txt").write_text(points)
    return site


def environment(folder: Path, *paths: Path) -> dict[str, str]:
    """The command and the package under test first."""
    found = [*map(str, paths), str(ROOT)]
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(found), "TMPDIR": str(folder)}


def run_console(text: str, folder: Path, env: dict[str, str]) -> None:
    """Each command of a console block, and what it prints."""
    for example in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = example.partition("\n")
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(["sh", "-c", command], cwd=folder, env=env, timeout=120, **both)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        if expected:
            same = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(expected, done.stdout, same), f"{command}\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, reason=f"{page} needs {package}, which is not installed")
    env = environment(folder, extensions(page, folder))
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.language == "console":
            run_console(block.text, folder, env)
        elif block.language == "python" and not block.file:
            exec(compile(block.text, page, "exec"), names)
    assert not list(folder.glob("*.part*")), "a temporary file is left"


def test_the_measurement_of_the_readme_keeps_its_contract(folder: Path) -> None:
    site = folder / "contract"
    site.mkdir()
    for block in blocks("README.md"):
        if block.file:
            (site / block.file).write_text(block.text)
    (site / "conftest.py").write_text("import asymmetry\n")
    env = environment(folder, site, ROOT / "tests" / "contracts", ROOT / "tests" / "measurement")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(site)]
    done = subprocess.run(command, cwd=site, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", [*PAGES, *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target
