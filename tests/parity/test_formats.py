"""Every column that is built looks in a catalogue as SExtractor writes it: type, unit, display, shape and comment."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy.io import fits

from sextract.measurement.measure import MEASUREMENTS
from tests.parity import compare, reference
from tests.scenes import Scene

pytestmark = pytest.mark.skipif(reference.SEXTRACTOR is None, reason="source-extractor is not installed")

# How long a vector is asked for here; all other columns are scalars.
DIMS = {"VIGNET": "(7,5)", "FLUX_GROWTH": "(4)", "MAG_GROWTH": "(4)", "FLUX_RADIUS": "(3)"}
APERTURES = ("FLUX_APER", "FLUXERR_APER", "MAG_APER", "MAGERR_APER")


def built() -> list[str]:
    """All columns, as lines of a ``.param`` file; SExtractor's FLAGS need X and Y too."""
    names = sorted(c.name for family in MEASUREMENTS for c in MEASUREMENTS.get(family).columns)
    return [name + DIMS.get(name, "(3)" if name in APERTURES else "") for name in names]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small scene with a projection."""
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": 60.0}
    header |= {"CRPIX2": 50.0, "CD1_1": -7e-5, "CD2_2": 7e-5, "CD1_2": 0.0, "CD2_1": 0.0}
    header |= {"RADESYS": "ICRS", "EQUINOX": 2000.0}
    scene = Scene(100, 120, seed=2).gaussian(30.0, 40.0, 9000.0, 3.0, 1.5, 25.0).blend(80.0, 60.0, 9000.0, 6.0)
    return scene.write(tmp_path / "scene.fits", header=header)


def setup(folder: Path, kind: str) -> reference.Setup:
    """Both programs, all columns."""
    network = Path("/usr/share/source-extractor/default.nnw")
    if not network.exists():
        pytest.skip("CLASS_STAR needs the network file of the source-extractor package")
    # With photon noise the error ellipses have a direction.
    keywords = {"CATALOG_TYPE": kind, "STARNNW_NAME": str(network), "GAIN": "2.0"}
    return reference.Setup(folder, built(), keywords)


def cards(path: Path, extension: str) -> dict[str, tuple[str, ...]]:
    """TFORM, TUNIT, TDISP, TDIM (as parsed) and comment of every column."""
    with fits.open(path) as hdus:
        hdu = hdus[extension]
        comments = {hdu.header[f"TTYPE{i}"]: hdu.header.comments[f"TTYPE{i}"] for i in range(1, len(hdu.columns) + 1)}
        return {c.name: (*map(str, compare.parsed(c)), comments[c.name]) for c in hdu.columns}


@pytest.mark.parametrize(("kind", "extension"), [("FITS_1.0", "OBJECTS"), ("FITS_LDAC", "LDAC_OBJECTS")])
def test_fits_columns_are_declared_alike(image: Path, tmp_path: Path, kind: str, extension: str) -> None:
    both = setup(tmp_path, kind)
    ours, theirs = cards(both.ours(image), extension), cards(both.reference(image), extension)
    assert list(ours) == list(theirs)
    assert {n: c for n, c in ours.items() if c != theirs[n]} == {}


def test_ldac_holds_the_image_header(image: Path, tmp_path: Path) -> None:
    both = setup(tmp_path, "FITS_LDAC")
    found = {}
    for name, path in (("ours", both.ours(image)), ("theirs", both.reference(image))):
        with fits.open(path) as hdus:
            assert [h.name for h in hdus] == ["PRIMARY", "LDAC_IMHEAD", "LDAC_OBJECTS"]
            head = hdus["LDAC_IMHEAD"]
            assert head.columns.names == ["Field Header Card"]
            lines = head.data["Field Header Card"][0]
            assert head.columns[0].format == f"{80 * len(lines)}A"
            found[name] = fits.Header.fromstring("".join(str(line).ljust(80) for line in lines))
    mine, other = found["ours"], found["theirs"]
    assert mine["CTYPE1"] == other["CTYPE1"]
    for key in ("CRVAL1", "CRPIX2", "CD1_1", "SEXBKGND", "SEXBKDEV", "SEXATHLD", "SEXNDET", "SEXNFIN"):
        assert mine[key] == pytest.approx(other[key], rel=1e-5), key
    # Facts of the run and sizes of buffers are no part of the table: they differ where the results don't.
    run = {"SEXDATE", "SEXTIME", "SEXELAPS", "SEXFBUFS", "SEXPIXSK", "SEXCLNST"}
    assert {key for key in other if key.startswith("SEX")} - run <= set(mine)


def test_ascii_heads_and_widths_are_alike(image: Path, tmp_path: Path) -> None:
    both = setup(tmp_path, "ASCII_HEAD")
    ours, theirs = both.ours(image).read_text().splitlines(), both.reference(image).read_text().splitlines()
    assert [line for line in ours if line.startswith("#")] == [line for line in theirs if line.startswith("#")]
    mine, other = [line for line in ours if line[0] != "#"], [line for line in theirs if line[0] != "#"]
    assert len(mine) == len(other)
    # The children of a blend may change places, and a wide number takes its room from nobody.
    assert sorted(len(line.split()) for line in mine) == sorted(len(line.split()) for line in other)
    assert all(abs(len(a) - len(b)) <= 3 for a, b in zip(mine, other, strict=True))


def test_values_of_every_column_are_alike(image: Path, tmp_path: Path) -> None:
    both = setup(tmp_path, "FITS_1.0")
    seen = compare.compare(compare.load(both.reference(image)), compare.load(both.ours(image)))
    assert seen.unmatched["unblended"] == (0, 0)
    # One draw of few sources: a gross difference in any column, nothing finer.
    gross = {k[0]: v.median for k, v in seen.columns.items() if k[1] == "unblended" and not v.median <= 2e-3}
    assert gross == {}
