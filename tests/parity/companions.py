"""Runs psfex and scamp on a FITS_LDAC catalogue and reads what they made of it; the comparing is the tests'.

Each run gets a folder of its own, because both programs write beside their input.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tests.parity.reference import run

PSFEX = shutil.which("psfex")
SCAMP = shutil.which("scamp")

# What psfex needs for its selection and its samples, and scamp for its centres.
PSFEX_COLUMNS = (
    "NUMBER",
    "X_IMAGE",
    "Y_IMAGE",
    "VIGNET(35,35)",
    "FLUX_RADIUS",
    "FLUX_APER(1)",
    "FLUXERR_APER(1)",
    "SNR_WIN",
    "ELONGATION",
    "FLAGS",
)
SCAMP_COLUMNS = (
    "NUMBER",
    "X_IMAGE",
    "Y_IMAGE",
    "XWIN_IMAGE",
    "YWIN_IMAGE",
    "ERRAWIN_IMAGE",
    "ERRBWIN_IMAGE",
    "ERRTHETAWIN_IMAGE",
    "FLUX_AUTO",
    "FLUXERR_AUTO",
    # With apertures SExtractor's FLAGS mean what ours always do, and scamp selects by them.
    "FLUX_APER(3)",
    "FLUX_RADIUS",
    "ELONGATION",
    "FLAGS",
)


@dataclass(frozen=True)
class Psf:
    """One extension of psfex's model: stars loaded and accepted, reduced chi2, FWHM and sampling in pixels."""

    loaded: int
    accepted: int
    chi2: float
    fwhm: float
    sampling: float
    pixels: NDArray[Any]


def psfex(catalogue: Path, folder: Path) -> list[Psf]:
    """The PSF models of a catalogue, one per extension."""
    folder.mkdir()
    own = folder / "stars.cat"
    shutil.copy(catalogue, own)
    options = {"CHECKPLOT_TYPE": "NONE", "CHECKPLOT_DEV": "NULL", "CHECKIMAGE_TYPE": "NONE", "WRITE_XML": "N"}
    options |= {"NTHREADS": "1", "VERBOSE_TYPE": "QUIET", "PSFVAR_DEGREES": "1", "PSF_SIZE": "19,19"}
    assert PSFEX is not None
    run([PSFEX, str(own), "-c", os.devnull, *flattened(options)], folder, os.environ)
    with fits.open(folder / "stars.psf") as hdus:
        return [psf_of(h) for h in hdus[1:]]


def psf_of(hdu: fits.BinTableHDU) -> Psf:
    """One PSF_DATA table."""
    h = hdu.header
    return Psf(h["LOADED"], h["ACCEPTED"], h["CHI2"], h["PSF_FWHM"], h["PSF_SAMP"], np.array(hdu.data["PSF_MASK"][0]))


def flattened(options: dict[str, str]) -> list[str]:
    """A configuration as a command line."""
    return [word for key, value in options.items() for word in (f"-{key}", value)]


def write_reference(path: Path, ra_deg: NDArray[Any], dec_deg: NDArray[Any], mag: NDArray[Any]) -> Path:
    """A FITS_LDAC reference catalogue with errors of 10 mas."""
    cards = fits.Header()
    cards["SIMPLE"], cards["BITPIX"], cards["NAXIS"] = True, 8, 0
    text = [str(card) for card in cards.cards] + ["END".ljust(80)]
    column = fits.Column("Field Header Card", f"{80 * len(text)}A", dim=f"(80, {len(text)})", array=np.array([text]))
    head = fits.BinTableHDU.from_columns([column], name="LDAC_IMHEAD")
    error = np.full(len(mag), 0.01 / 3600)
    columns = [
        fits.Column("X_WORLD", "1D", "deg", array=ra_deg),
        fits.Column("Y_WORLD", "1D", "deg", array=dec_deg),
        fits.Column("ERRA_WORLD", "1E", "deg", array=error),
        fits.Column("ERRB_WORLD", "1E", "deg", array=error),
        fits.Column("ERRTHETA_WORLD", "1E", "deg", array=np.zeros(len(mag))),
        fits.Column("MAG", "1E", "mag", array=mag),
        fits.Column("MAGERR", "1E", "mag", array=np.full(len(mag), 0.01)),
        fits.Column("OBSDATE", "1D", "yr", array=np.full(len(mag), 2000.0)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), head, table]).writeto(path, overwrite=True)
    return path


@dataclass(frozen=True)
class Astrometry:
    """What scamp says of a catalogue: detections read, contrast of the match, scatter about the reference."""

    detections: int
    contrast: float
    sigma_arcsec: tuple[float, float]
    headers: list[fits.Header]


def scamp(catalogue: Path, reference: Path, folder: Path) -> Astrometry:
    """Solves the astrometry of one catalogue against a local reference."""
    folder.mkdir()
    own = folder / "field.cat"
    shutil.copy(catalogue, own)
    options = {"ASTREF_CATALOG": "FILE", "ASTREFCAT_NAME": str(reference), "SOLVE_PHOTOM": "N", "DISTORT_DEGREES": "1"}
    options |= {"CHECKPLOT_TYPE": "NONE", "CHECKPLOT_DEV": "NULL", "WRITE_XML": "Y", "XML_NAME": "scamp.xml"}
    options |= {"NTHREADS": "1", "VERBOSE_TYPE": "QUIET"}
    assert SCAMP is not None
    run([SCAMP, str(own), "-c", os.devnull, *flattened(options)], folder, os.environ)
    root = ElementTree.parse(folder / "scamp.xml").getroot()
    fields = row_of(root, "Fields")
    groups = row_of(root, "FGroups")
    sigma = [float(v) for v in groups["AstromSigma_Reference"].split()]
    texts = (folder / "field.head").read_text(encoding="ascii", errors="ignore").split("END     \n")
    headers = [fits.Header.fromstring(t, sep="\n") for t in texts if t.strip()]
    return Astrometry(int(fields["NDetect"]), float(fields["XY_Contrast"]), (sigma[0], sigma[1]), headers)


def row_of(root: ElementTree.Element, table: str) -> dict[str, str]:
    """The first row of a VOTable's table, by column name."""
    found = next(e for e in root.iter() if e.tag.endswith("TABLE") and e.get("name") == table)
    names = [e.get("name", "") for e in found.iter() if e.tag.endswith("FIELD")]
    first = next(e for e in found.iter() if e.tag.endswith("TR"))
    return dict(zip(names, [e.text or "" for e in first], strict=True))
