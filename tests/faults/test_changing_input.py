"""An image that is cut, overwritten, replaced or removed while it is read: never a catalogue from two states of it."""

from __future__ import annotations

import gzip
import shutil
import textwrap
from pathlib import Path

import pytest
from astropy.io import fits

from tests.faults.conftest import LIMIT
from tests.faults.harness import EVERYTHING, Started

INPUT = 3

# The command line, but once, when the first tile is to be scanned, something happens to the image.
PROGRAM = """
    import os, shutil, sys
    from sextract.__main__ import main
    from sextract.pipeline.stages import Stages

    what, path, other = sys.argv[1:4]
    scan = Stages.scan

    def wrapped(self, payload):
        try:
            os.close(os.open("done", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return scan(self, payload)
        size = os.path.getsize(path)
        if what == "cut":
            os.truncate(path, size // 2)
        if what == "overwritten":
            with open(path, "r+b") as file:
                file.seek(size // 2)
                file.write(bytes(100_000))
        if what == "replaced":
            os.replace(other, path)
        if what == "removed":
            os.unlink(path)
        return scan(self, payload)

    Stages.scan = wrapped
    sys.argv[1:] = sys.argv[4:]
    sys.exit(main())
"""


@pytest.fixture(params=["plain", "compressed"])
def image(request: pytest.FixtureRequest, tmp_path: Path, large: Path) -> Path:
    """A copy of the large field, as it is or in compressed tiles."""
    path = tmp_path / "image.fits"
    if request.param == "plain":
        shutil.copy(large, path)
    else:
        with fits.open(large) as hdus:
            compressed = fits.CompImageHDU(hdus[0].data, hdus[0].header, quantize_level=16, compression_type="RICE_1")
            fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(path)
    shutil.copy(path, tmp_path / "other.fits")
    return path


def changed(folder: Path, image: Path, what: str, workers: int) -> Started:
    """A finished run whose image was changed."""
    folder.mkdir()
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
    arguments = (what, image, image.with_name("other.fits"), image, "-o", "out.fits", *LIMIT, "--workers", workers, *EVERYTHING)
    with Started(folder, *arguments, program=["program.py"]) as run:
        run.finish()
    (folder / "done").unlink()
    return run


@pytest.mark.parametrize("what", ["cut", "overwritten", "replaced"])
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_change_is_noticed(tmp_path: Path, image: Path, what: str, workers: int) -> None:
    run = changed(tmp_path / "run", image, what, workers)
    run.assert_stopped(INPUT, "image.fits")
    # A decoder may find what it reads damaged before anyone has seen the change.
    assert "changed while it was being read" in run.errors()[0] or "can't decode" in run.errors()[0]


def test_an_image_that_is_removed_is_read_to_its_end(tmp_path: Path, large: Path, calm: Started) -> None:
    shutil.copy(large, tmp_path / large.name)
    run = changed(tmp_path / "run", tmp_path / large.name, "removed", 2)
    assert run.code == 0, run.err
    assert run.outputs() == calm.outputs()


def test_a_packed_image_may_go_once_it_is_unpacked(tmp_path: Path, small: Path) -> None:
    path = tmp_path / "image.fits.gz"
    path.write_bytes(gzip.compress(small.read_bytes(), 1))
    run = changed(tmp_path / "run", path, "cut", 2)
    assert run.code == 0, run.err
