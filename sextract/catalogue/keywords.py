"""The cards that tell of a run: SExtractor's own (``SEX…``), and ours for provenance.

Names, order and comments of the former are SExtractor's.  Left out are facts of the run and sizes of buffers (SEXDATE,
SEXTIME, SEXELAPS, SEXSTRSY, SEXPIXSK, SEXFBUFS, SEXCLNST) and two that say nothing (EPOCH 0.0, SEXISAPR).  Where it
writes a value that is wrong, ours is the true one: it fills the primary header of FITS_1.0 before it has read the image
(SEXIMASX to SEXBKGFY are 0 there), calls an absolute threshold SIGMA, shows AUTO's parameter as PETRO's, and gives an
extension of several the counts of the one before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from sextract.catalogue import cards
from sextract.catalogue.writer import ExtensionFacts, OutputColumn, RunFacts
from sextract.config.settings import Settings
from sextract.records import Frame

# Keywords that say where output goes or what a run may use: the same catalogue comes out whatever they are.
NOT_HASHED = frozenset(
    {
        "CATALOG_NAME",
        "CHECKIMAGE_NAME",
        "MEMORY_BUFSIZE",
        "MEMORY_OBJSTACK",
        "MEMORY_PIXSTACK",
        "MEM_ACCOUNT",
        "MEM_LIMIT",
        "MEM_REPORT",
        "NTHREADS",
        "PROFILE",
        "PROVENANCE",
        "SCRATCH_DIR",
        "TILE_SHAPE",
        "VERBOSE_TYPE",
        "WORKERS",
        "WRITE_XML",
        "XML_NAME",
        "XSL_URL",
    }
)

_THRESHOLD_NAMES = {"RELATIVE": "SIGMA", "ABSOLUTE": "FLUX"}


def effective(settings: Settings) -> list[tuple[str, str]]:
    """Keyword and text of the configuration that can change the catalogue, sorted."""
    return sorted((k, v) for k, v in settings.keywords if k not in NOT_HASHED)


def configuration_hash(settings: Settings) -> str:
    """SHA-256 of the effective configuration, 64 hexadecimal digits."""
    return str(sha256_class()("\n".join(f"{k} {v}" for k, v in effective(settings)).encode()).hexdigest())


@cache
def sha256_class() -> Any:
    """SHA-256 of CPython's own code (3.12, 3.11) if it is there: hashlib loads OpenSSL, which takes 3 ms and 1 MiB."""
    for name in ("_sha2", "_sha256", "hashlib"):
        with suppress(ImportError):
            return import_module(name).sha256
    raise ImportError("hashlib")


def provenance(run: RunFacts, facts: ExtensionFacts) -> list[str]:
    """Cards of the primary header that say from what, by what and how a catalogue was made."""
    out = [
        cards.text("SOFTWARE", run.software, "program that made this file"),
        cards.text("CONFHASH", configuration_hash(run.settings)),
    ]
    for i, (name, datasum) in enumerate(run.datasums, 1):
        out.append(cards.text(f"INFILE{i}", os.path.basename(name), f"input {i}"))
        out.append(cards.text(f"INSUM{i}", datasum, f"DATASUM of input {i}"))
    for name, version in run.versions:
        out += cards.commentary("HISTORY", f"version {name} {version}")
    for key, value in effective(run.settings):
        out += cards.commentary("HISTORY", f"{key} {value}".rstrip())
    if run.settings.output.provenance == "full":
        news = dict(facts.environment)
        out += [cards.text(key, news.get(key, value), comment) for key, value, comment in run.environment]
    return out


def _file_cards(run: RunFacts, number: int) -> list[str]:
    return [
        cards.text("FITSFILE", os.path.basename(run.file_name), "File name of the analysed image"),
        cards.integer("FITSEXT", number, "FITS Extension number"),
        cards.integer("FITSNEXT", run.extensions, "Number of FITS image extensions in file"),
    ]


def _single(value: float) -> float:
    """A value that SExtractor holds in single precision, with the digits that this leaves."""
    return float(np.float32(value))


def image_header(frame: Frame, facts: ExtensionFacts, columns: Iterable[OutputColumn], run: RunFacts) -> list[str]:
    """Cards of FITS_LDAC's ``Field Header Card``: the image header, then what was done to the image.

    SEXNDET and SEXNFIN are not known before the last row is written; the number of cards doesn't depend on them.
    """
    s, phot, back = run.settings, run.settings.photometry, run.settings.background
    aper = [*phot.apertures, 0.0, 0.0, 0.0, 0.0]
    return [
        *cards.split(frame.header),
        *_file_cards(run, frame.ext_number),
        cards.text("SEXVERS", run.software, "Extraction software"),
        cards.expo("SEXBKGND", _single(frame.background), "Median background level (ADU)"),
        cards.expo("SEXBKDEV", _single(frame.rms), "Median background RMS (ADU)"),
        cards.expo("SEXTHLD", _single(frame.threshold), "Extraction threshold (ADU)"),
        cards.expo("SEXATHLD", _single(frame.analysis_threshold), "Analysis threshold (ADU)"),
        cards.integer("SEXNDET", facts.detected, "Number of raw detections"),
        cards.integer("SEXNFIN", facts.extracted, "Final number of extracted sources"),
        cards.integer("SEXNPARA", len(list(columns)), "Number of parameters per source"),
        cards.expo("SEXPXSCL", frame.pixel_scale, "Pixel scale used for measurements (arcsec)"),
        cards.expo("SEXSFWHM", _single(phot.seeing_fwhm), "Source FWHM used for measurements (arcsec)"),
        cards.text("SEXNNWF", os.path.basename(phot.starnnw_name), "S/G classification NNW filename"),
        cards.expo("SEXGAIN", frame.gain, "Gain used (e-/ADU)"),
        cards.logical("SEXFLTR", s.detection.kernel is not None, "Detection filtering activated (flag)"),
        cards.text("SEXFILTN", os.path.basename(s.detection.kernel_name), "Filter filename"),
        cards.integer("SEXMINAR", s.detection.minarea, "Minimum area used for detection (pixels)"),
        cards.integer("SEXDBLDN", s.deblending.nthresh, "Number of deblending thresholds"),
        cards.fixed("SEXDBLDC", s.deblending.mincont, "Minimum contrast used for deblending"),
        cards.logical("SEXCLN", s.deblending.clean, "Cleaning activated (flag)"),
        cards.fixed("SEXCLNPA", s.deblending.clean_param, "Cleaning parameter"),
        *(cards.fixed(f"SEXAPED{i}", aper[i - 1], f"Fixed photometric aperture #{i} (pixels)") for i in range(1, 5)),
        cards.fixed("SEXAUTP1", phot.autoparams[0], "Parameter #1 used for automatic magnitudes"),
        cards.fixed("SEXAUTP2", phot.autoparams[1], "Parameter #2 used for automatic magnitudes"),
        cards.fixed("SEXPETP1", phot.petroparams[0], "Parameter #1 used for Petrosian magnitudes"),
        cards.fixed("SEXPETP2", phot.petroparams[1], "Parameter #2 used for Petrosian magnitudes"),
        cards.expo("SEXSATLV", frame.saturation, "Saturation level used for flagging (ADU)"),
        cards.fixed("SEXMGZPT", phot.mag_zeropoint, "Zero-point used for magnitudes"),
        cards.fixed("SEXMGGAM", _gamma(s), "Gamma used for photographic photometry"),
        cards.integer("SEXBKGSX", back.size[0], "Mesh width used for background mapping (pixels)"),
        cards.integer("SEXBKGSY", back.size[1], "Mesh height used for background mapping (pixels)"),
        cards.integer("SEXBKGFX", back.filter_size[0], "Mask width used for background map filtering"),
        cards.integer("SEXBKGFY", back.filter_size[1], "Mask height used for background map filtering"),
        cards.integer("SEXPBKGS", phot.backphoto_thick, "Thickness used for local background (pixels)"),
        cards.expo("SEXMWSCL", 0.0, "Measurement-weight re-scaling factor"),
        cards.expo("SEXDWSCL", 0.0, "Detection-weight re-scaling factor"),
    ]


def primary(columns: Iterable[OutputColumn], run: RunFacts, frame: Frame, facts: ExtensionFacts) -> list[str]:
    """SExtractor's cards of FITS_1.0's primary header.

    What belongs to one image (size, background, gain, …) is there only if the file has one extension; else it is in
    the header of each table (`table_cards`).
    """
    s, phot = run.settings, run.settings.photometry
    one = run.extensions == 1
    return [
        cards.text("OBJECT", cards.value_of(frame.header, "OBJECT") or "" if one else ""),
        cards.text("ORIGIN", "sextract"),
        *_file_cards(run, 0),
        *(_frame_size(frame) if one else []),
        *([cards.expo("SEXPIXS", frame.pixel_scale, "PIXEL SCALE (ARCSEC)")] if one else []),
        cards.expo("SEXSFWHM", _single(phot.seeing_fwhm), "SEEING FWHM (ARCSEC)"),
        cards.text("SEXNNWF", os.path.basename(phot.starnnw_name), "CLASSIFICATION NNW FILENAME"),
        *(_frame_levels(frame) if one else []),
        cards.text("SEXCONFF", os.path.basename(run.config_name), "CONFIGURATION FILENAME"),
        cards.text("SEXDETT", "CCD", "DETECTION TYPE"),
        cards.text("SEXTHLDT", _THRESHOLD_NAMES.get(s.detection.thresh_type, "SIGMA"), "THRESHOLD TYPE"),
        cards.expo("SEXTHLD", s.detection.detect_thresh[0], "THRESHOLD"),
        cards.integer("SEXMINAR", s.detection.minarea, "EXTRACTION MINIMUM AREA (PIXELS)"),
        cards.logical("SEXCONV", s.detection.kernel is not None, "CONVOLUTION FLAG"),
        cards.logical(
            "SEXCONVN", s.detection.kernel is not None and s.detection.kernel_normed, "CONVOLUTION NORM. FLAG"
        ),
        cards.text("SEXCONVF", os.path.basename(s.detection.kernel_name), "CONVOLUTION FILENAME"),
        cards.integer("SEXDBLDN", s.deblending.nthresh, "NUMBER OF SUB-THRESHOLDS"),
        cards.fixed("SEXDBLDC", s.deblending.mincont, "CONTRAST PARAMETER"),
        cards.logical("SEXCLN", s.deblending.clean, "CLEANING FLAG"),
        cards.fixed("SEXCLNPA", s.deblending.clean_param, "CLEANING PARAMETER"),
        cards.fixed("SEXAPERD", phot.apertures[0] if phot.apertures else 0.0, "1ST APERTURE DIAMETER (PIXELS)"),
        cards.fixed("SEXAPEK1", phot.autoparams[0], "KRON PARAMETER"),
        cards.fixed("SEXAPEK2", phot.autoparams[0], "KRON ANALYSIS RADIUS"),
        cards.fixed("SEXAPEK3", phot.autoparams[1], "KRON MINIMUM RADIUS"),
        *([cards.expo("SEXSATLV", frame.saturation, "SATURATION LEVEL (ADU)")] if one else []),
        cards.fixed("SEXMGZPT", phot.mag_zeropoint, "MAGNITUDE ZERO-POINT"),
        cards.fixed("SEXMGGAM", _gamma(s), "MAGNITUDE GAMMA"),
        cards.integer("SEXBKGSX", s.background.size[0], "BACKGROUND MESH WIDTH (PIXELS)"),
        cards.integer("SEXBKGSY", s.background.size[1], "BACKGROUND MESH HEIGHT (PIXELS)"),
        cards.integer("SEXBKGFX", s.background.filter_size[0], "BACKGROUND FILTER WIDTH"),
        cards.integer("SEXBKGFY", s.background.filter_size[1], "BACKGROUND FILTER HEIGHT"),
        cards.text("SEXPBKGT", phot.backphoto_type, "PHOTOM BACKGROUND TYPE"),
        cards.integer("SEXPBKGS", phot.backphoto_thick, "LOCAL AREA THICKNESS (PIXELS)"),
        cards.integer("SEXNDET", facts.detected, "NB OF DETECTIONS"),
        cards.integer("SEXNFIN", facts.extracted, "NB OF FINAL EXTRACTED OBJECTS"),
        cards.integer("SEXNPARA", len(list(columns)), "NB OF PARAMETERS PER OBJECT"),
    ]


def table_cards(frame: Frame, facts: ExtensionFacts, run: RunFacts) -> list[str]:
    """Cards at the end of each OBJECTS table of a file with several extensions: what belongs to that image."""
    name = cards.value_of(frame.header, "EXTNAME")
    return [
        cards.integer("FITSEXT", frame.ext_number, "FITS Extension number"),
        *([cards.text("SEXEXTNM", name, "EXTNAME OF THE IMAGE")] if name else []),
        *_frame_size(frame),
        cards.expo("SEXPIXS", frame.pixel_scale, "PIXEL SCALE (ARCSEC)"),
        *_frame_levels(frame),
        cards.expo("SEXSATLV", frame.saturation, "SATURATION LEVEL (ADU)"),
        cards.integer("SEXNDET", facts.detected, "NB OF DETECTIONS"),
        cards.integer("SEXNFIN", facts.extracted, "NB OF FINAL EXTRACTED OBJECTS"),
    ]


def _frame_size(frame: Frame) -> list[str]:
    bitpix = cards.value_of(frame.header, "BITPIX") or "0"
    return [
        cards.integer("SEXIMASX", frame.width, "IMAGE WIDTH (PIXELS)"),
        cards.integer("SEXIMASY", frame.height, "IMAGE HEIGHT (PIXELS)"),
        cards.integer("SEXIMABP", int(bitpix), "FITS IMAGE BITPIX"),
    ]


def _frame_levels(frame: Frame) -> list[str]:
    return [
        cards.expo("SEXGAIN", frame.gain, "GAIN (IN E- PER ADU)"),
        cards.expo("SEXBKGND", _single(frame.background), "MEDIAN BACKGROUND (ADU)"),
        cards.expo("SEXBKDEV", _single(frame.rms), "MEDIAN RMS (ADU)"),
        cards.expo("SEXBKTHD", _single(frame.threshold), "EXTRACTION THRESHOLD (ADU)"),
    ]


def _gamma(settings: Settings) -> float:
    """MAG_GAMMA, which no setting holds because photographic images aren't handled."""
    try:
        return float(dict(settings.keywords).get("MAG_GAMMA", "4.0"))
    except ValueError:
        return 4.0
