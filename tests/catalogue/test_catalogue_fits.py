"""FITS catalogues: the text of their headers, provenance, and that only input and configuration decide it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from sextract.catalogue import keywords
from sextract.catalogue.fits import column_cards
from sextract.catalogue.writer import ExtensionFacts, OutputColumn, RunFacts, open_writer, row_dtype
from sextract.config.settings import DetectionSettings, OutputSettings, PhotometrySettings, Settings
from sextract.records import Column
from tests.contracts.catalogue_writer import COLUMNS, HEADER, frame, make_rows

SETTINGS = Settings(
    keywords=(("DETECT_MINAREA", "3"), ("MEMORY_BUFSIZE", "1024"), ("CATALOG_NAME", "x.cat"), ("GAIN", "2.0")),
    detection=DetectionSettings(
        minarea=3, thresh_type="ABSOLUTE", kernel=np.ones((3, 3), np.float32), kernel_name="/d/a.conv"
    ),
    photometry=PhotometrySettings(apertures=(4.0, 8.0), petroparams=(1.5, 3.0), starnnw_name="/d/a.nnw"),
)
RUN = RunFacts(
    settings=SETTINGS,
    file_name="/data/im.fits",
    software="sextract 9.9",
    config_name="/etc/my.sex",
    versions=(("numpy", "1.2.3"),),
    datasums=(("/data/im.fits", "123456"),),
    environment=(("RUNDATE", "2001-01-01", "when"), ("RUNSECS", "?", "seconds")),
)


def write(path: Path, kind: str, run: RunFacts = RUN, columns: Any = COLUMNS) -> Path:
    """A catalogue with 4, 0 and 6 rows in as many extensions as `run` says."""
    with open_writer(kind, str(path), columns, run) as writer:
        for i, n in zip(range(1, run.extensions + 1), (4, 0, 6), strict=False):
            writer.begin_extension(frame(i))
            writer.write(make_rows(n))
            writer.end_extension(ExtensionFacts(detected=n + 2, extracted=n, environment=(("RUNSECS", "12"),)))
    return path


def headers(path: Path) -> list[fits.Header]:
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        return [h.header.copy() for h in hdus]


def image_header(path: Path, hdu: int = 1) -> list[str]:
    """Cards of an LDAC_IMHEAD, as another library reads them."""
    with fitsio.FITS(str(path)) as file:
        data = file[hdu].read()
    assert data.dtype.names == ("Field Header Card",)
    return [str(card, "ascii") if isinstance(card, bytes) else str(card) for card in np.ravel(data[0][0])]


def test_column_cards_are_sextractors() -> None:
    # As source-extractor 2.25 writes them for NUMBER, FLUX_APER(3), DELTA_J2000, VIGNET(4,2), FLAGS.
    assert [c.rstrip() for c in column_cards(COLUMNS)] == [
        "TTYPE1  = 'NUMBER  '           / Running object number",
        "TFORM1  = '1J      '",
        "TDISP1  = 'I10     '",
        "TTYPE2  = 'FLUX_APER'          / Flux vector",
        "TFORM2  = '3E      '",
        "TUNIT2  = 'count   '",
        "TDISP2  = 'G12.7   '",
        "TTYPE3  = 'DELTA_J2000'        / Declination",
        "TFORM3  = '1D      '",
        "TUNIT3  = 'deg     '",
        "TDISP3  = 'F11.7   '",
        "TTYPE4  = 'VIGNET  '           / Pixel data around detection",
        "TFORM4  = '8E      '",
        "TDIM4   = '(4, 2)  '",
        "TUNIT4  = 'count   '",
        "TDISP4  = 'G12.7   '",
        "TTYPE5  = 'FLAGS   '           / Extraction flags",
        "TFORM5  = '1I      '",
        "TDISP5  = 'I3      '",
    ]


def test_table_header_begins_as_sextractors(tmp_path: Path) -> None:
    raw = write(tmp_path / "a.cat", "FITS_1.0").read_bytes()
    start = raw.index(b"XTENSION")
    got = [raw[start + 80 * i : start + 80 * i + 80].decode().rstrip() for i in range(9)]
    assert got == [
        "XTENSION= 'BINTABLE'           / THIS IS A BINARY TABLE (FROM THE LDACTOOLS)",
        "BITPIX  =                    8 /",
        "NAXIS   =                    2 /",
        "NAXIS1  =                   58 / BYTES PER ROW",
        "NAXIS2  =                    4 / NUMBER OF ROWS",
        "PCOUNT  =                    0 / RANDOM PARAMETER COUNT",
        "GCOUNT  =                    1 / GROUP COUNT",
        "TFIELDS =                    5 / FIELDS PER ROWS",
        "EXTNAME = 'OBJECTS '           / TABLE NAME",
    ]


def test_other_library_reads_the_rows(tmp_path: Path) -> None:
    for kind, hdu in (("FITS_1.0", 1), ("FITS_LDAC", 2)):
        path = write(tmp_path / f"{kind}.cat", kind)
        data = fitsio.read(str(path), ext=hdu)
        rows = make_rows(4)
        for name in rows.dtype.names:
            np.testing.assert_array_equal(data[name], rows[name])


def test_primary_of_one_image_has_its_facts(tmp_path: Path) -> None:
    primary = headers(write(tmp_path / "a.cat", "FITS_1.0"))[0]
    assert primary["FITSFILE"] == "im.fits" and primary["FITSEXT"] == 0 and primary["FITSNEXT"] == 1
    assert (primary["SEXIMASX"], primary["SEXIMASY"], primary["SEXIMABP"]) == (100, 90, -32)
    assert (primary["SEXBKGND"], primary["SEXBKDEV"], primary["SEXBKTHD"]) == (12.5, 2.0, 3.0)
    assert (primary["SEXNDET"], primary["SEXNFIN"], primary["SEXNPARA"]) == (6, 4, 5)
    assert primary["SEXTHLDT"] == "FLUX" and primary["SEXCONVF"] == "a.conv" and primary["SEXNNWF"] == "a.nnw"
    assert primary["SEXAPERD"] == 4.0 and primary["SEXCONFF"] == "my.sex"


def test_tables_of_several_images_have_theirs(tmp_path: Path) -> None:
    found = headers(write(tmp_path / "a.cat", "FITS_1.0", replace(RUN, extensions=3)))
    assert "SEXBKGND" not in found[0] and (found[0]["SEXNDET"], found[0]["SEXNFIN"]) == (16, 10)
    assert [h["SEXNFIN"] for h in found[1:]] == [4, 0, 6]
    assert [h["FITSEXT"] for h in found[1:]] == [1, 2, 3]
    assert {h["SEXEXTNM"] for h in found[1:]} == {"CCD7"}


def test_ldac_holds_the_image_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.cat", "FITS_LDAC", replace(RUN, extensions=3))
    for i, n in ((1, 4), (3, 0), (5, 6)):
        lines = image_header(path, i)
        assert [x.rstrip() for x in lines[:7]] == [HEADER[80 * k : 80 * k + 80].rstrip() for k in (0, 1, 2, 3, 4, 5, 7)]
        assert lines[-1].rstrip() == "END"
        values = fits.Header.fromstring("".join(x.ljust(80) for x in lines))
        assert (values["FITSEXT"], values["FITSNEXT"]) == ((i + 1) // 2, 3)
        assert (values["SEXNDET"], values["SEXNFIN"]) == (n + 2, n)
        assert (values["SEXBKDEV"], values["SEXATHLD"], values["SEXAPED2"], values["SEXAPED3"]) == (2.0, 3.5, 8.0, 0.0)
        assert (values["SEXPETP1"], values["SEXPETP2"]) == (1.5, 3.0)
        with fits.open(path) as hdus:
            assert hdus[i].header["TFORM1"] == f"{80 * len(lines)}A"
            assert hdus[i].header["TDIM1"] == f"(80, {len(lines)})"


@pytest.mark.parametrize("kind", ["FITS_1.0", "FITS_LDAC"])
def test_provenance(tmp_path: Path, kind: str) -> None:
    primary = headers(write(tmp_path / "a.cat", kind))[0]
    assert primary["SOFTWARE"] == "sextract 9.9"
    assert primary["INFILE1"] == "im.fits" and primary["INSUM1"] == "123456"
    assert primary["CONFHASH"] == keywords.configuration_hash(SETTINGS) and len(primary["CONFHASH"]) == 64
    assert list(primary["HISTORY"]) == ["version numpy 1.2.3", "DETECT_MINAREA 3", "GAIN 2.0"]
    assert "RUNDATE" not in primary


@pytest.mark.parametrize("kind", ["FITS_1.0", "FITS_LDAC"])
def test_facts_of_the_run_only_on_request(tmp_path: Path, kind: str) -> None:
    full = replace(RUN, settings=replace(SETTINGS, output=OutputSettings(provenance="full")))
    primary = headers(write(tmp_path / "a.cat", kind, full))[0]
    assert primary["RUNDATE"] == "2001-01-01" and primary["RUNSECS"] == "12"


@pytest.mark.parametrize("kind", ["FITS_1.0", "FITS_LDAC"])
def test_resources_change_no_byte(tmp_path: Path, kind: str) -> None:
    words = tuple((k, "other" if k in keywords.NOT_HASHED else v) for k, v in SETTINGS.keywords)
    other = replace(RUN, settings=replace(SETTINGS, keywords=words), environment=())
    assert write(tmp_path / "a.cat", kind).read_bytes() == write(tmp_path / "b.cat", kind, other).read_bytes()
    changed = replace(RUN, settings=replace(SETTINGS, keywords=(("GAIN", "2.1"),)))
    assert write(tmp_path / "a.cat", kind).read_bytes() != write(tmp_path / "c.cat", kind, changed).read_bytes()


@pytest.mark.parametrize("kind", ["FITS_1.0", "FITS_LDAC"])
def test_rows_beyond_32_bits(kind: str) -> None:
    wide = (OutputColumn(Column("VIGNET", "f4", "count", "G12.7", "Pixels"), (1024, 1024)),)
    block = np.zeros(16, row_dtype(wide))
    # To a device: what is checked is that positions and counts pass 2^31 and 2^32.
    with open_writer(kind, "/dev/null", wide, RunFacts()) as writer:
        writer.begin_extension(frame())
        for _ in range(2**32 // block.nbytes + 1):
            writer.write(block)
        table = writer._table  # type: ignore[attr-defined]
        assert table.sum.nbytes == 2**32 + block.nbytes and table.nrows == 2**32 // (4 << 20) + 16
        writer.end_extension(ExtensionFacts())
        assert writer._end > 2**32  # type: ignore[attr-defined]
