"""Every type of catalogue holds the same rows, on disk, on a pipe and in Python; every column that is built is filled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import ascii as text_tables
from astropy.io import fits
from numpy.typing import NDArray

import sextract
from tests.conftest import CommandLine
from tests.end_to_end import sides
from tests.parity import compare, reference
from tests.parity.reference import Setup
from tests.parity.test_formats import built
from tests.scenes import Scene

needs_reference = pytest.mark.skipif(reference.SEXTRACTOR is None, reason="source-extractor is not installed")
NETWORK = Path("/usr/share/source-extractor/default.nnw")
COLUMNS = ("NUMBER", "X_IMAGE", "Y_IMAGE", "FLUX_APER(3)", "MAG_AUTO", "ALPHA_J2000", "FLAGS")
WCS: dict[str, Any] = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": 60.0}
WCS |= {"CRPIX2": 50.0, "CD1_1": -7e-5, "CD2_2": 7e-5, "CD1_2": 1e-5, "CD2_1": 1e-5, "RADESYS": "ICRS"}
WCS |= {"EQUINOX": 2000.0}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few dozen sources with a projection."""
    scene = Scene(200, 220, seed=2).scatter(40, margin=15.0)
    return scene.write(tmp_path_factory.mktemp("catalogues") / "scene.fits", header=WCS)


def objects(path: Path, name: str) -> NDArray[Any]:
    """Rows of a FITS catalogue."""
    return np.array(fits.getdata(path, name))


def test_every_type_holds_the_same_rows(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    plain = {}
    for kind in ("FITS_1.0", "FITS_LDAC", "ASCII", "ASCII_HEAD"):
        folder = tmp_path / kind
        folder.mkdir()
        done = sides.ours(cli, Setup(folder, COLUMNS, {"CATALOG_TYPE": kind}), image, "--workers", 1)
        assert done.made == {"ours.cat"} | {n for n in done.made if n.startswith("parity.")}
        assert done.out == ""
        plain[kind] = folder / "ours.cat"
    rows = objects(plain["FITS_1.0"], "OBJECTS")
    assert len(rows) > 20
    assert rows.tobytes() == objects(plain["FITS_LDAC"], "LDAC_OBJECTS").tobytes()
    headed = text_tables.read(plain["ASCII_HEAD"], format="sextractor")
    bare = np.loadtxt(plain["ASCII"])
    assert bare.shape == (len(rows), len(COLUMNS) + 2)
    np.testing.assert_array_equal(np.loadtxt(plain["ASCII_HEAD"]), bare)
    np.testing.assert_allclose(headed["X_IMAGE"], rows["X_IMAGE"], atol=6e-5)
    np.testing.assert_allclose(headed["MAG_AUTO"], rows["MAG_AUTO"], atol=6e-5)
    np.testing.assert_array_equal(headed["FLAGS"], rows["FLAGS"])
    np.testing.assert_allclose(bare[:, 3:6], rows["FLUX_APER"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["ASCII", "ASCII_HEAD"])
def test_a_pipe_carries_the_catalogue_alone(kind: str, image: Path, cli: CommandLine, tmp_path: Path) -> None:
    setup = Setup(tmp_path, COLUMNS, {"CATALOG_TYPE": kind})
    sides.ours(cli, setup, image)
    done = cli(image, "-c", setup.write(), "-CATALOG_NAME", "STDOUT", "-VERBOSE_TYPE", "FULL", *sides.LIMIT)
    assert done.code == 0, done.err
    assert done.out == (tmp_path / "ours.cat").read_text()
    assert done.made == frozenset()
    assert "Objects:" in done.err


def test_no_catalogue(image: Path, cli: CommandLine) -> None:
    done = cli(image, "-CATALOG_TYPE", "NONE", *sides.LIMIT)
    assert done.code == 0, done.err
    assert done.made == frozenset()
    assert re.search(r"Objects: \d+ +detected / \d+ +sextracted", done.err)


def test_no_source_is_no_error(cli: CommandLine, tmp_path: Path) -> None:
    empty = Scene(60, 70).write(tmp_path / "empty.fits")
    for kind in ("FITS_1.0", "FITS_LDAC", "ASCII_HEAD"):
        done = cli(empty, "-CATALOG_TYPE", kind, "-DETECT_THRESH", 50, "-o", "out.cat", *sides.LIMIT)
        assert done.code == 0, done.err
        assert done.made == {"out.cat"}


def test_nothing_but_an_image_is_needed(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    done = cli(image, cwd=folder)
    assert done.code == 0, done.err
    assert done.made == {"scene.cat.fits"}
    rows = objects(folder / "scene.cat.fits", "OBJECTS")
    assert len(rows) > 20
    assert {"ALPHA_J2000", "FLUX_AUTO", "SNR_WIN", "FLAGS"} <= set(rows.dtype.names)
    for name in rows.dtype.names:
        assert np.isfinite(rows[name]).all(), name


def test_python_gets_the_same_rows(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    assert cli(image, *sides.LIMIT, cwd=folder).code == 0
    rows = objects(folder / "scene.cat.fits", "OBJECTS")
    table = sextract.extract(image, mem_limit="512M", workers=1)
    assert table.colnames == list(rows.dtype.names)
    for name in table.colnames:
        np.testing.assert_array_equal(np.asarray(table[name]), rows[name])
    setup = Setup(tmp_path, COLUMNS, {"DETECT_THRESH": "60"})
    configured = sides.tables(cli, setup, image)[0].rows
    again = sextract.extract(image, tmp_path / "parity.sex", workers=0)
    assert 0 < len(configured) < len(rows)
    for name in again.colnames:
        np.testing.assert_array_equal(np.asarray(again[name]), configured[name])


def test_what_is_printed_can_be_read(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    rows = {}
    for option in ("-d", "-dd"):
        done = cli(option)
        assert (done.code, done.made) == (0, frozenset())
        (tmp_path / "printed.sex").write_text(done.out)
        out = tmp_path / "printed.cat"
        run = cli(image, "-c", tmp_path / "printed.sex", "-CATALOG_NAME", out, "-CATALOG_TYPE", "FITS_1.0", *sides.LIMIT)
        assert run.code == 0, run.err
        rows[option] = objects(out, "OBJECTS").tobytes()
    assert rows["-d"] == rows["-dd"]
    printed = cli("-dp").out
    names = {line.lstrip("#").split()[0] for line in printed.splitlines() if line.strip("# ")}
    assert {line.partition("(")[0] for line in built()} <= {name.partition("(")[0] for name in names}


def everything(folder: Path) -> Setup:
    """All columns, in both programs."""
    if not NETWORK.exists():
        pytest.skip("CLASS_STAR needs the network file of the source-extractor package")
    keywords = {"STARNNW_NAME": str(NETWORK), "GAIN": "2", "SEEING_FWHM": "3", "MAG_ZEROPOINT": "25"}
    return Setup(folder, built(), keywords | {"PIXEL_SCALE": "0"})


@needs_reference
def test_every_column_at_once(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    setup = everything(tmp_path)
    found = sides.tables(cli, setup, image, "--workers", 2, "--tile-shape", "64x70")
    theirs = compare.load(setup.reference(image))
    assert theirs[0].formats == found[0].formats
    assert len(found[0].formats) > 120
    seen = compare.compare(theirs, found)
    assert seen.unmatched == dict.fromkeys(compare.GROUPS, (0, 0))
    far = {
        label: s for (label, group), s in seen.columns.items() if group == "unblended" and (s.not_finite or not s.p95 <= 1e-3)
    }
    assert far == {}


def test_columns_dont_change_each_other(image: Path, cli: CommandLine, tmp_path: Path) -> None:
    whole = sides.tables(cli, everything(tmp_path), image, "--workers", 0)[0].rows
    for k, columns in enumerate((COLUMNS, ("FLAGS",), ("ALPHAWIN_J2000", "MU_MAX", "CLASS_STAR"), ("VIGNET(7,5)",))):
        folder = tmp_path / str(k)
        folder.mkdir()
        setup = Setup(folder, columns, everything(tmp_path).keywords)
        part = sides.tables(cli, setup, image, "--workers", 1)[0].rows
        for name in part.dtype.names:
            np.testing.assert_array_equal(part[name], whole[name], err_msg=name)


@needs_reference
@pytest.mark.parametrize("size", ["(1,1)", "(7,5)", "(24,24)", "(301,3)"])
def test_vignets(size: str, image: Path, cli: CommandLine, tmp_path: Path) -> None:
    setup = Setup(tmp_path, ("X_IMAGE", "Y_IMAGE", "FLAGS", f"VIGNET{size}"), {"DEBLEND_MINCONT": "1"})
    found = sides.tables(cli, setup, image)[0].rows
    theirs = compare.load(setup.reference(image))[0].rows
    pairs = compare.match(theirs, found)
    assert len(pairs) == len(theirs) == len(found)
    np.testing.assert_array_equal(found["VIGNET"][pairs[:, 1]], theirs["VIGNET"][pairs[:, 0]])
