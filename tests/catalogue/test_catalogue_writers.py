"""The formats of the package keep the writer's contract, and the door refuses what it must."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import ascii as astropy_ascii
from astropy.io import fits

from sextract.catalogue.writer import CATALOGUES, ExtensionFacts, RunFacts, open_writer, row_dtype
from sextract.errors import ConfigError
from tests.contracts.catalogue_writer import COLUMNS, CatalogueWriterContract, frame, make_rows


class TestFits(CatalogueWriterContract):
    catalog_type = "FITS_1.0"

    def read(self, path: Path) -> list[np.ndarray[Any, Any]]:
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            assert not any(h.data is not None for h in hdus[:1])
            return [np.array(h.data) for h in hdus if h.name == "OBJECTS"]


class TestLdac(CatalogueWriterContract):
    catalog_type = "FITS_LDAC"

    def read(self, path: Path) -> list[np.ndarray[Any, Any]]:
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            assert [h.name for h in hdus[1:]] == ["LDAC_IMHEAD", "LDAC_OBJECTS"] * (len(hdus) // 2)
            return [np.array(h.data) for h in hdus if h.name == "LDAC_OBJECTS"]


class Ascii(CatalogueWriterContract):
    """Readers of text."""

    def table(self, path: Path) -> np.ndarray[Any, Any]:
        numbers = np.loadtxt(path, ndmin=2)
        rows = np.zeros(len(numbers), row_dtype(COLUMNS))
        rows["NUMBER"], rows["FLUX_APER"], rows["DELTA_J2000"] = numbers[:, 0], numbers[:, 1:4], numbers[:, 4]
        rows["VIGNET"], rows["FLAGS"] = numbers[:, 5:13].reshape(-1, 2, 4), numbers[:, 13]
        return rows


@pytest.mark.filterwarnings("ignore:.*input contained no data")
class TestAscii(Ascii):
    catalog_type = "ASCII"

    def read(self, path: Path) -> list[np.ndarray[Any, Any]]:
        if not path.read_bytes():
            return []
        return [self.table(path)]


@pytest.mark.filterwarnings("ignore:.*input contained no data")
class TestAsciiHead(Ascii):
    catalog_type = "ASCII_HEAD"

    def read(self, path: Path) -> list[np.ndarray[Any, Any]]:
        if all(line.startswith("#") for line in path.read_text().splitlines()):
            return []
        # An independent reader of SExtractor's format.
        table = astropy_ascii.read(path, format="sextractor")
        assert table.colnames[:5] == ["NUMBER", "FLUX_APER", "FLUX_APER_1", "FLUX_APER_2", "DELTA_J2000"]
        assert str(table["FLUX_APER"].unit) == "ct" and table["DELTA_J2000"].description == "Declination"
        return [self.table(path)]


def test_formats_are_registered() -> None:
    assert set(CATALOGUES) >= {"NONE", "ASCII", "ASCII_HEAD", "FITS_1.0", "FITS_LDAC"}


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"CATALOG_TYPE PDF .*FITS_LDAC"):
        open_writer("PDF", "a.cat", COLUMNS, RunFacts())


@pytest.mark.parametrize("name", ["STDOUT", "-"])
@pytest.mark.parametrize("kind", ["FITS_1.0", "FITS_LDAC"])
def test_fits_does_not_go_to_standard_output(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="ASCII_HEAD"):
        open_writer(kind, name, COLUMNS, RunFacts())


def test_none_writes_nothing(tmp_path: Path) -> None:
    with open_writer("NONE", str(tmp_path / "a.cat"), COLUMNS, RunFacts()) as writer:
        writer.begin_extension(frame())
        writer.write(make_rows(3))
        writer.end_extension(ExtensionFacts())
    assert not list(tmp_path.iterdir())


SCRIPT = """
from tests.contracts.catalogue_writer import COLUMNS, frame, make_rows
from sextract.catalogue.writer import ExtensionFacts, RunFacts, open_writer
with open_writer("ASCII_HEAD", {path!r}, COLUMNS, RunFacts()) as writer:
    writer.begin_extension(frame())
    writer.write(make_rows(20))
    writer.end_extension(ExtensionFacts())
"""


@pytest.mark.parametrize("name", ["STDOUT", "-", "/dev/stdout"])
def test_text_streams_to_standard_output(tmp_path: Path, name: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(path=name)], capture_output=True, check=True)
    subprocess.run([sys.executable, "-c", SCRIPT.format(path=str(tmp_path / "a.cat"))], check=True)
    assert done.stdout == (tmp_path / "a.cat").read_bytes()
    assert not done.stderr


@pytest.mark.parametrize("kind", ["FITS_1.0", "FITS_LDAC", "ASCII_HEAD"])
def test_memory_does_not_grow_with_rows(tmp_path: Path, kind: str) -> None:
    block = make_rows(500)

    def peak(blocks: int) -> int:
        with open_writer(kind, str(tmp_path / f"{blocks}.cat"), COLUMNS, RunFacts()) as writer:
            writer.begin_extension(frame())
            tracemalloc.start()
            for _ in range(blocks):
                writer.write(block)
            top = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            writer.end_extension(ExtensionFacts())
        return top

    peak(2)  # whatever is made once
    assert peak(40) < peak(2) + 10_000


def test_importing_the_door_is_light() -> None:
    code = (
        "import sys, sextract.catalogue.writer as w; list(w.CATALOGUES); print({'astropy', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
