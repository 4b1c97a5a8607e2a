"""Our tables from SExtractor's own rows: headers, bytes and text must be its own.  Skipped where it isn't installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from sextract.catalogue.writer import ExtensionFacts, OutputColumn, RunFacts, open_writer, row_dtype
from sextract.checkimage.apertures import ApertureImage, circles, ellipses
from sextract.checkimage.checkimage import open_checkimages
from sextract.checkimage.headers import ImageExtension
from sextract.records import Box, Column, Frame

PROGRAM = shutil.which("source-extractor") or shutil.which("sex")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="SExtractor is not installed")

PARAMETERS = """NUMBER EXT_NUMBER X_IMAGE Y_IMAGE X_IMAGE_DBL Y_IMAGE_DBL A_IMAGE B_IMAGE THETA_IMAGE FLAGS
MAG_AUTO FLUX_AUTO
KRON_RADIUS PETRO_RADIUS FLUX_APER(2) MAGERR_APER(2) FLUX_RADIUS X_WORLD ALPHA_J2000 DELTA_J2000 THETA_J2000
ELLIPTICITY CXX_IMAGE ERRX2_IMAGE ISOAREA_IMAGE BACKGROUND VIGNET(5,3)"""
DTYPES = {"I": "i2", "J": "i4", "E": "f4", "D": "f8"}
KERNEL = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"


def scene(seed: int) -> np.ndarray[Any, Any]:
    """Ellipses, some of them close pairs, some at the edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:200, :240]
    out = rng.normal(1000, 5, y.shape)
    spots = [(60, 50), (69, 52), (150, 50), (20, 150), (6, 100), (150, 140), (163, 146), (232, 195)]
    for cx, cy in rng.uniform(-0.5, 0.5, (len(spots), 2)) + spots:
        t, q, s = rng.uniform(0, 3), rng.uniform(0.5, 1), rng.uniform(2, 3)
        u, v = (x - cx) * np.cos(t) + (y - cy) * np.sin(t), (y - cy) * np.cos(t) - (x - cx) * np.sin(t)
        out += rng.uniform(1000, 4000) * np.exp(-0.5 * (u**2 + (v / q) ** 2) / s**2)
    return out.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a function's worth of files beside them."""
    path = tmp_path_factory.mktemp("sextractor")
    hdus = [fits.PrimaryHDU()]
    for i in range(2):
        hdu = fits.ImageHDU(scene(i), name=f"CCD{i}")
        for key, value in {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": -1.0 + 2 * i}.items():
            hdu.header[key] = value
        hdu.header["CD1_1"], hdu.header["CD2_2"], hdu.header["CD1_2"], hdu.header["CD2_1"] = -1e-4, 1e-4, 0.0, 0.0
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path / "im.fits")
    (path / "a.param").write_text("\n".join(PARAMETERS.split()))
    (path / "a.conv").write_text(KERNEL)
    (path / "a.sex").write_text("DETECT_MINAREA 5\n")
    return path


def run(folder: Path, **keywords: str) -> None:
    """SExtractor on the image."""
    options = {
        "c": "a.sex",
        "PARAMETERS_NAME": "a.param",
        "FILTER_NAME": "a.conv",
        "PHOT_APERTURES": "6,20",
        "VERBOSE_TYPE": "QUIET",
        **keywords,
    }
    words = [word for key, value in options.items() for word in (f"-{key}", value)]
    subprocess.run([str(PROGRAM), "im.fits", *words], cwd=folder, check=True, capture_output=True)


def columns_of(head: fits.Header) -> list[OutputColumn]:
    """The columns that a table declares."""
    out = []
    for i in range(1, head["TFIELDS"] + 1):
        form, dim = head[f"TFORM{i}"], head.get(f"TDIM{i}")
        count = int(form[:-1])
        dims = tuple(int(v) for v in dim.strip("()").split(",")) if dim else (count,) if count > 1 else ()
        name, unit, doc = head[f"TTYPE{i}"], head.get(f"TUNIT{i}", ""), head.comments[f"TTYPE{i}"]
        out.append(OutputColumn(Column(name, DTYPES[form[-1]], unit, head[f"TDISP{i}"], doc), dims))
    return out


def rewrite(folder: Path, kind: str) -> None:
    """SExtractor's catalogue ``sex`` again as ``ours``, by our writer, with the headers of the image."""
    run(folder, CATALOG_TYPE="FITS_1.0", CATALOG_NAME="rows")
    with fits.open(folder / "rows") as source, fits.open(folder / "im.fits") as image:
        columns = columns_of(source[1].header)
        facts = RunFacts(file_name="im.fits", extensions=2, config_name="a.sex")
        with open_writer(kind, str(folder / "ours"), columns, facts) as writer:
            for number in (1, 2):
                rows = np.zeros(len(source[number].data), row_dtype(columns))
                for name in rows.dtype.names:
                    rows[name] = source[number].data[name]
                writer.begin_extension(Frame(240, 200, number, header=image[number].header.tostring()))
                writer.write(rows)
                writer.end_extension(ExtensionFacts(detected=len(rows), extracted=len(rows)))


def raw_tables(path: Path, name: str) -> list[tuple[list[str], bytes]]:
    """Cards and data of the tables of that name."""
    content = path.read_bytes()
    out = []
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.name == name:
                at = hdu.fileinfo()
                text = content[at["hdrLoc"] : at["datLoc"]].decode()
                lines = [text[i : i + 80] for i in range(0, len(text), 80)]
                out.append(
                    (lines[: lines.index("END".ljust(80))], content[at["datLoc"] : at["datLoc"] + at["datSpan"]])
                )
    return out


@pytest.mark.parametrize(("kind", "name"), [("FITS_1.0", "OBJECTS"), ("FITS_LDAC", "LDAC_OBJECTS")])
def test_tables(folder: Path, kind: str, name: str) -> None:
    run(folder, CATALOG_TYPE=kind, CATALOG_NAME="sex")
    rewrite(folder, kind)
    ours, theirs = raw_tables(folder / "ours", name), raw_tables(folder / "sex", name)
    assert len(ours) == len(theirs) == 2
    for (our_cards, our_data), (their_cards, their_data) in zip(ours, theirs, strict=True):
        assert our_cards[: len(their_cards)] == their_cards
        assert our_data == their_data


def test_image_headers(folder: Path) -> None:
    run(folder, CATALOG_TYPE="FITS_LDAC", CATALOG_NAME="sex")
    rewrite(folder, "FITS_LDAC")
    facts = {"SEXVERS", "SEXDATE", "SEXTIME", "SEXELAPS", "SEXCLNST", "SEXPIXSK", "SEXFBUFS"}
    for (_, ours), (_, theirs) in zip(
        raw_tables(folder / "ours", "LDAC_IMHEAD"), raw_tables(folder / "sex", "LDAC_IMHEAD"), strict=True
    ):
        split = [[d[i : i + 80].decode() for i in range(0, len(d), 80) if d[i]] for d in (ours, theirs)]
        names = [[c[:8].rstrip() for c in lines if c[:8].rstrip() not in facts] for lines in split]
        assert names[0] == names[1]
        # The image's own cards, and the texts of comments but for one misspelt.
        count = names[0].index("FITSFILE")
        assert split[0][:count] == split[1][:count]
        comments = [{c[:8]: c[30:] for c in lines if c.startswith("SEX")} for lines in split]
        differing = {k.strip() for k in set(comments[0]) & set(comments[1]) if comments[0][k] != comments[1][k]}
        assert differing <= {"SEXVERS", "SEXPETP1", "SEXNNWF", "SEXFILTN"}


@pytest.mark.parametrize("kind", ["ASCII", "ASCII_HEAD"])
def test_text(folder: Path, kind: str) -> None:
    run(folder, CATALOG_TYPE=kind, CATALOG_NAME="sex")
    rewrite(folder, kind)
    assert (folder / "ours").read_bytes() == (folder / "sex").read_bytes()


def test_apertures(folder: Path) -> None:
    run(
        folder,
        CATALOG_TYPE="FITS_1.0",
        CATALOG_NAME="sex",
        CHECKIMAGE_TYPE="APERTURES,-BACKGROUND",
        CHECKIMAGE_NAME="ape.fits,sub.fits",
    )
    names = [("APERTURES", str(folder / "ours.fits"))]
    strokes = 0
    with fits.open(folder / "sub.fits") as sub, fits.open(folder / "ape.fits") as ape, fits.open(folder / "sex") as cat:
        with open_checkimages(names, [ImageExtension(240, 200)] * 2) as images:
            image = images["APERTURES"]
            assert isinstance(image, ApertureImage)
            for ext in (0, 1):
                rows, base = cat[ext + 1].data, sub[ext + 1].data.astype(np.float32)
                image.write_box(ext, Box(0, 0, 200, 240), base)
                x, y = rows["X_IMAGE_DBL"] - 1, rows["Y_IMAGE_DBL"] - 1
                shape = rows["A_IMAGE"], rows["B_IMAGE"], rows["THETA_IMAGE"]
                found = [circles(x, y, [6.0, 20.0])]
                found += [ellipses(x, y, *shape, rows[r], rows["FLAGS"]) for r in ("KRON_RADIUS", "PETRO_RADIUS")]
                image.put_outlines(0, np.concatenate(found, axis=1))
                added = ape[ext + 1].data - base
                image.draw(ext, float(added[added > 100].min()) / 30)
                assert (rows["FLAGS"] & 1).any()
                strokes += int((added > 100).sum())
        with fits.open(folder / "ours.fits") as ours:
            different = sum(int((np.abs(ours[i].data - ape[i].data) > 1).sum()) for i in (1, 2))
    # On the diagonals of a circle the last bit of a position decides which of two pixels is drawn.
    assert strokes > 1000 and different <= 0.01 * strokes


@pytest.mark.parametrize("kind", ["SEGMENTATION", "BACKGROUND"])
def test_checkimage_headers(folder: Path, kind: str) -> None:
    run(folder, CATALOG_TYPE="NONE", CHECKIMAGE_TYPE=kind, CHECKIMAGE_NAME="sex.fits")
    with fits.open(folder / "im.fits") as image:
        extensions = [ImageExtension(240, 200, hdu.header.tostring()) for hdu in image[1:]]
    open_checkimages([(kind, str(folder / "ours.fits"))], extensions).close()
    with fits.open(folder / "ours.fits") as ours, fits.open(folder / "sex.fits") as theirs:
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            cards = [str(c) for c in our.header.cards if c.keyword not in ("CHECKSUM", "DATASUM")]
            assert cards == [str(c) for c in their.header.cards]
