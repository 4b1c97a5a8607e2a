"""The table of configuration keywords: default, type, range, section and meaning of each, and whether it is built.

It turns one keyword's text into a checked value.  It does not read files (``sexfile.py``) and doesn't know what a value
is for (``resolve.py``).  Names, defaults and ranges are SExtractor's; the last section is our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sextract.config.doors import offered
from sextract.errors import ConfigError

Value = int | float | bool | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

# SExtractor's "any float": its 1e30 marks bad pixels.
BIG = 1e30

EXTRACTION = "Catalogue"
DETECTION = "Detection"
FILTERING = "Filtering"
DEBLENDING = "Deblending and cleaning"
WEIGHTING = "Weights and interpolation"
FLAGGING = "Flag maps and shift maps"
PHOTOMETRY = "Photometry"
STARS = "Star or galaxy"
BACKGROUND = "Background"
CHECKS = "Check-images"
MEMORY = "Memory and threads"
ASSOC = "Matching a list"
MISC = "Miscellaneous"
LEGACY = "PSF and legacy"
OURS = "sextract's own (SExtractor doesn't know them)"

CHECKIMAGES = (
    "NONE IDENTICAL BACKGROUND BACKGROUND_RMS MINIBACKGROUND MINIBACK_RMS -BACKGROUND FILTERED OBJECTS -OBJECTS "
    "APERTURES SEGMENTATION MASK -MASK ASSOC PSFS -PSFS MODELS -MODELS SPHEROIDS -SPHEROIDS DISKS -DISKS PATTERNS "
    "MAP_SOM OTHER"
)
CATALOGUES = "NONE ASCII ASCII_HEAD ASCII_SKYCAT ASCII_VOTABLE FITS_LDAC FITS_TPX FITS_1.0"


@dataclass(frozen=True, slots=True)
class Keyword:
    """One configuration keyword.

    Attributes
    ----------
    name, default : str
        The default is text as it stands in a file; empty where SExtractor has none.
    kind : str
        ``int``, ``float``, ``bool`` (Y/N), ``choice``, ``text`` or ``bytes`` (512M, 1.5G, 0.5GiB).
    section, doc : str
        For the dump; `doc` may have several lines.
    low, high : float
        Range of each number, both ends allowed.
    count : (int, int) or None
        Fewest and most members of a list; None for a single value.
    choices, built_choices : str
        What a choice may be, and what of it is built (all if empty), separated by spaces.
    built : bool
        Whether it has an effect.
    short : bool
        Whether ``-d`` prints it (``-dd`` prints all).
    matters_with : str
        A keyword that must be away from its default for this one to matter.
    role : str
        ``""`` (may change the answer), ``resource`` (never does) or ``ignored`` (accepted, has no counterpart here).
    """

    name: str
    default: str
    kind: str
    section: str
    doc: str
    low: float = -BIG
    high: float = BIG
    count: tuple[int, int] | None = None
    choices: str = ""
    built_choices: str = ""
    built: bool = True
    short: bool = True
    matters_with: str = ""
    role: str = ""


# What SExtractor has and this version hasn't; setting it is a warning.
_later = partial(Keyword, built=False, short=False)

_TABLE = (
    Keyword("CATALOG_NAME", "test.cat", "text", EXTRACTION, "file to write, or STDOUT; {stem} is the image's name"),
    Keyword(
        "CATALOG_TYPE",
        "ASCII_HEAD",
        "choice",
        EXTRACTION,
        "NONE, ASCII, ASCII_HEAD, FITS_1.0 or FITS_LDAC",
        choices=CATALOGUES,
        built_choices="NONE ASCII ASCII_HEAD FITS_LDAC FITS_1.0",
    ),
    Keyword("PARAMETERS_NAME", "default.param", "text", EXTRACTION, "file that lists the columns to write"),
    _later(
        "DETECT_TYPE", "CCD", "choice", DETECTION, "CCD (linear) or PHOTO (emulsion)", choices="CCD PHOTO", short=True
    ),
    Keyword("DETECT_MINAREA", "5", "int", DETECTION, "fewest pixels above the threshold", 1, 1e6),
    Keyword(
        "DETECT_MAXAREA", "0", "int", DETECTION, "most pixels above the threshold (0: any)", 0, 2**31 - 1, short=False
    ),
    Keyword(
        "THRESH_TYPE",
        "RELATIVE",
        "choice",
        DETECTION,
        "RELATIVE (in sigma) or ABSOLUTE (in ADU)",
        choices="RELATIVE ABSOLUTE",
        short=False,
    ),
    Keyword(
        "DETECT_THRESH",
        "1.5",
        "float",
        DETECTION,
        "detection threshold; two values:\nmag/arcsec2 and its zero-point",
        count=(1, 2),
    ),
    Keyword("ANALYSIS_THRESH", "1.5", "float", DETECTION, "the same for areas, FWHM, CLASS_STAR", count=(1, 2)),
    Keyword("FILTER", "Y", "bool", FILTERING, "convolve before detection (Y or N)"),
    Keyword("FILTER_NAME", "default.conv", "text", FILTERING, "file with the kernel"),
    _later("FILTER_THRESH", "", "float", FILTERING, "limits in sigma for retina filters", count=(0, 2)),
    Keyword("DEBLEND_NTHRESH", "32", "int", DEBLENDING, "number of levels", 1, 64),
    Keyword("DEBLEND_MINCONT", "0.005", "float", DEBLENDING, "part of the flux that makes a branch", 0, 1),
    Keyword("CLEAN", "Y", "bool", DEBLENDING, "merge what a neighbour's wing explains"),
    Keyword("CLEAN_PARAM", "1.0", "float", DEBLENDING, "beta of the wing's Moffat profile", 0.1, 10),
    Keyword(
        "MASK_TYPE",
        "CORRECT",
        "choice",
        DEBLENDING,
        "neighbours' pixels: NONE (kept),\nBLANK (zero), CORRECT (mirrored)",
        choices="NONE BLANK CORRECT",
    ),
    _later(
        "WEIGHT_TYPE",
        "NONE",
        "choice",
        WEIGHTING,
        "NONE, BACKGROUND, MAP_RMS, MAP_VAR\nor MAP_WEIGHT",
        count=(1, 2),
        choices="NONE BACKGROUND MAP_RMS MAP_VAR MAP_WEIGHT",
    ),
    _later(
        "RESCALE_WEIGHTS",
        "Y",
        "bool",
        WEIGHTING,
        "scale variances to the background's",
        count=(1, 2),
        matters_with="WEIGHT_TYPE",
    ),
    _later("WEIGHT_IMAGE", "weight.fits", "text", WEIGHTING, "weight map", count=(0, 2), matters_with="WEIGHT_TYPE"),
    _later("WEIGHT_GAIN", "Y", "bool", WEIGHTING, "Poisson term follows the weights", matters_with="WEIGHT_TYPE"),
    _later(
        "WEIGHT_THRESH", "", "float", WEIGHTING, "limit for bad pixels", 0, count=(0, 2), matters_with="WEIGHT_TYPE"
    ),
    _later(
        "INTERP_MAXXLAG",
        "16",
        "int",
        WEIGHTING,
        "longest run filled along x",
        1,
        1e6,
        count=(1, 2),
        matters_with="WEIGHT_TYPE",
    ),
    _later(
        "INTERP_MAXYLAG",
        "16",
        "int",
        WEIGHTING,
        "longest run filled along y",
        1,
        1e6,
        count=(1, 2),
        matters_with="WEIGHT_TYPE",
    ),
    _later(
        "INTERP_TYPE",
        "ALL",
        "choice",
        WEIGHTING,
        "NONE, VAR_ONLY or ALL",
        count=(1, 2),
        choices="NONE VAR_ONLY ALL",
        matters_with="WEIGHT_TYPE",
    ),
    _later("FLAG_IMAGE", "flag.fits", "text", FLAGGING, "flag maps, at most four", count=(0, 4)),
    _later(
        "FLAG_TYPE",
        "OR",
        "choice",
        FLAGGING,
        "OR, AND, MIN, MAX or MOST",
        count=(0, 4),
        choices="OR AND MIN MAX MOST",
        matters_with="FLAG_IMAGE",
    ),
    _later("DGEO_TYPE", "NONE", "choice", FLAGGING, "NONE or PIXEL", choices="NONE PIXEL"),
    _later("DGEO_IMAGE", "dgeo.fits", "text", FLAGGING, "maps of pixel shifts", count=(0, 2), matters_with="DGEO_TYPE"),
    Keyword("PHOT_APERTURES", "5", "float", PHOTOMETRY, "diameters of APER (pixels)", 0, 2e6, count=(1, 1024)),
    Keyword(
        "PHOT_AUTOPARAMS", "2.5, 3.5", "float", PHOTOMETRY, "AUTO: Kron factor, smallest radius", 0, 10, count=(2, 2)
    ),
    Keyword("PHOT_PETROPARAMS", "2.0, 3.5", "float", PHOTOMETRY, "PETRO: factor, smallest radius", 0, 10, count=(2, 2)),
    Keyword(
        "PHOT_AUTOAPERS",
        "0.0,0.0",
        "float",
        PHOTOMETRY,
        "smallest circles of AUTO and PETRO:\nfor the estimate, for the sum",
        0,
        1e6,
        count=(2, 2),
        short=False,
    ),
    Keyword(
        "PHOT_FLUXFRAC",
        "0.5",
        "float",
        PHOTOMETRY,
        "parts of the flux for FLUX_RADIUS",
        1e-6,
        1,
        count=(1, 1024),
        short=False,
    ),
    Keyword("SATUR_LEVEL", "50000.0", "float", PHOTOMETRY, "saturation (ADU) unless the header has"),
    Keyword("SATUR_KEY", "SATURATE", "text", PHOTOMETRY, "this key"),
    Keyword("MAG_ZEROPOINT", "0.0", "float", PHOTOMETRY, "zero-point of magnitudes", -100, 100),
    _later(
        "MAG_GAMMA", "4.0", "float", PHOTOMETRY, "gamma of the emulsion", 1e-10, short=True, matters_with="DETECT_TYPE"
    ),
    Keyword("GAIN", "0.0", "float", PHOTOMETRY, "e-/ADU (0: no Poisson term) unless the\nheader has", 0),
    Keyword("GAIN_KEY", "GAIN", "text", PHOTOMETRY, "this key"),
    Keyword("PIXEL_SCALE", "1.0", "float", PHOTOMETRY, "arcsec per pixel (0: from the WCS)", 0, 1e10),
    Keyword("SEEING_FWHM", "1.2", "float", STARS, "FWHM of a star (arcsec)", 0, 1e10),
    Keyword("STARNNW_NAME", "default.nnw", "text", STARS, "file with the network of CLASS_STAR"),
    Keyword(
        "BACK_TYPE",
        "AUTO",
        "choice",
        BACKGROUND,
        "AUTO (mesh) or MANUAL (constant)",
        count=(1, 2),
        choices="AUTO MANUAL",
        short=False,
    ),
    Keyword("BACK_VALUE", "0.0", "float", BACKGROUND, "the constant of MANUAL", count=(1, 2), short=False),
    Keyword("BACK_PEARSON", "2.5", "float", BACKGROUND, "P of mode = P median - (P - 1) mean", short=False),
    Keyword("BACK_SIZE", "64", "int", BACKGROUND, "mesh: size, or width,height (pixels)", 1, 2**31 - 1, count=(1, 2)),
    Keyword(
        "BACK_FILTERSIZE", "3", "int", BACKGROUND, "median filter: size, or width,height\n(cells)", 1, 11, count=(1, 2)
    ),
    Keyword("BACK_FILTTHRESH", "0.0", "float", BACKGROUND, "least change that the filter makes", 0, short=False),
    Keyword(
        "BACKPHOTO_TYPE", "GLOBAL", "choice", BACKGROUND, "GLOBAL (the mesh) or LOCAL (annulus)", choices="GLOBAL LOCAL"
    ),
    Keyword("BACKPHOTO_THICK", "24", "int", BACKGROUND, "thickness of LOCAL's annulus (pixels)", 1, 256, short=False),
    Keyword(
        "CHECKIMAGE_TYPE",
        "NONE",
        "choice",
        CHECKS,
        "NONE, BACKGROUND, BACKGROUND_RMS,\n-BACKGROUND, FILTERED, OBJECTS,\nAPERTURES or SEGMENTATION",
        count=(1, 64),
        choices=CHECKIMAGES,
        built_choices="NONE BACKGROUND BACKGROUND_RMS -BACKGROUND FILTERED OBJECTS APERTURES SEGMENTATION",
    ),
    Keyword("CHECKIMAGE_NAME", "check.fits", "text", CHECKS, "a file for each; {stem} as above", count=(0, 64)),
    Keyword("MEMORY_OBJSTACK", "3000", "int", MEMORY, "not needed, accepted", role="ignored"),
    Keyword("MEMORY_PIXSTACK", "300000", "int", MEMORY, "not needed, accepted", role="ignored"),
    Keyword("MEMORY_BUFSIZE", "1024", "int", MEMORY, "not needed, accepted", role="ignored"),
    Keyword("NTHREADS", "0", "int", MEMORY, "use WORKERS", short=False, role="ignored"),
    _later("ASSOC_NAME", "sky.list", "text", ASSOC, "list to match"),
    _later("ASSOC_DATA", "2,3,4", "int", ASSOC, "columns to copy (0: all)", 0, 1e6, count=(1, 1000)),
    _later("ASSOC_PARAMS", "2,3,4", "int", ASSOC, "columns of x, y and weight", 1, 1e6, count=(2, 3)),
    _later("ASSOCCOORD_TYPE", "PIXEL", "choice", ASSOC, "PIXEL or WORLD", choices="PIXEL WORLD"),
    _later("ASSOC_RADIUS", "2.0", "float", ASSOC, "radius of a match (pixels)", 1e-15, 1e10),
    _later(
        "ASSOC_TYPE",
        "NEAREST",
        "choice",
        ASSOC,
        "FIRST, NEAREST, MEAN, MAG_MEAN, SUM,\nMAG_SUM, MIN or MAX",
        choices="FIRST NEAREST MEAN MAG_MEAN SUM MAG_SUM MIN MAX",
    ),
    _later(
        "ASSOCSELEC_TYPE", "MATCHED", "choice", ASSOC, "write ALL, MATCHED or -MATCHED", choices="ALL MATCHED -MATCHED"
    ),
    Keyword(
        "VERBOSE_TYPE",
        "NORMAL",
        "choice",
        MISC,
        "QUIET, NORMAL, EXTRA_WARNINGS or FULL",
        choices="QUIET NORMAL EXTRA_WARNINGS FULL",
        role="resource",
    ),
    _later("HEADER_SUFFIX", ".head", "text", MISC, "suffix of a header beside the image", short=True),
    _later("WRITE_XML", "N", "bool", MISC, "write a VOTable of the run", short=True),
    _later("XML_NAME", "sex.xml", "text", MISC, "its name", short=True, matters_with="WRITE_XML"),
    _later("XSL_URL", "", "text", MISC, "its style sheet", matters_with="WRITE_XML"),
    _later("FITS_UNSIGNED", "N", "bool", MISC, "read signed integers as unsigned"),
    _later("PSF_NAME", "default.psf", "text", LEGACY, "PSF model", count=(1, 2)),
    _later("PSF_NMAX", "1", "int", LEGACY, "most PSFs fitted to one detection", 1, 9),
    _later(
        "PATTERN_TYPE",
        "RINGS-HARMONIC",
        "choice",
        LEGACY,
        "basis of disk patterns",
        choices="RINGS-QUADPOLE RINGS-OCTOPOLE RINGS-HARMONIC GAUSS-LAGUERRE",
    ),
    _later("SOM_NAME", "default.som", "text", LEGACY, "self-organising map"),
    Keyword("CLEAN_REACH", "1024", "int", OURS, "how far CLEAN looks back (lines)", 1, 2**31 - 1, short=False),
    Keyword(
        "FOOTPRINT_MAXPIX",
        "1000000",
        "int",
        OURS,
        "pixels of a detection beyond which it\nisn't deblended",
        1000,
        1e8,
        short=False,
    ),
    Keyword(
        "MEM_LIMIT",
        "",
        "bytes",
        OURS,
        "memory of all processes (512M, 1.5G);\nempty: from the machine",
        0,
        2**63,
        short=False,
        role="resource",
    ),
    Keyword(
        "MEM_ACCOUNT",
        "PSS",
        "choice",
        OURS,
        "what the limit counts: PSS (shared memory\nonce) or RSS (once a process)",
        choices="PSS RSS",
        short=False,
        role="resource",
    ),
    Keyword(
        "MEM_REPORT",
        "",
        "text",
        OURS,
        "files for the memory of the run over time:\n.html, .png, .json or .csv",
        count=(0, 8),
        short=False,
        role="resource",
    ),
    Keyword("PROFILE", "", "text", OURS, "file for a trace of what each process did", short=False, role="resource"),
    Keyword("WORKERS", "", "int", OURS, "worker processes; empty: one a CPU", 0, 4096, short=False, role="resource"),
    Keyword("SCRATCH_DIR", "", "text", OURS, "folder for scratch files", short=False, role="resource"),
    Keyword(
        "CHECKPOINT",
        "0",
        "int",
        OURS,
        "rows of tiles between two checkpoints;\n0: none",
        0,
        1e6,
        short=False,
        role="resource",
    ),
    Keyword(
        "CHECKPOINT_FOLDER",
        "",
        "text",
        OURS,
        "where <catalogue>.checkpoint is kept;\nempty: beside the catalogue",
        short=False,
        role="resource",
    ),
)

KEYWORDS: dict[str, Keyword] = {k.name: k for k in _TABLE}

_SIZE = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([KMGT]?)(i?B?)", re.IGNORECASE)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names most like `name` as the end of a message: `` (did you mean A or B?)``, or nothing."""
    # Needed for errors only.
    from difflib import get_close_matches

    found = get_close_matches(name.upper(), list(known), n=3, cutoff=0.72)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def parse_size(text: str, what: str = "--mem-limit") -> int:
    """Bytes of 512M, 1.5G, 0.5GiB or a plain number; K, M, G, T are powers of 1024.

    Raises
    ------
    ConfigError
        It isn't a size, or it is zero.
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) if found else 0
    if size <= 0:
        raise ConfigError(f"{what} {text!r} is not a size: write 512M, 1.5G, 0.5GiB or a number of bytes")
    return size


def parse_value(key: Keyword, members: Sequence[str], where: str = "") -> Value:
    """Check the members written for a keyword.

    Parameters
    ----------
    key : Keyword
    members : sequence of str
        At least one unless the keyword may be empty.  Single values use the first.
    where : str
        ``file, line n`` for messages.

    Returns
    -------
    A value of the keyword's kind, or a tuple of them if it is a list.

    Raises
    ------
    ConfigError
        Not of its kind, out of range, too few or too many.
    """
    at = f" ({where})" if where else ""
    if key.count is None:
        if not members and key.default == "":
            return "" if key.kind == "text" else 0
        if not members:
            raise ConfigError(f"{key.name} has no value{at}")
        return _member(key, members[0], at)
    low, high = key.count
    if not low <= len(members) <= high:
        few = "has no value" if not members else f"has {len(members)} value{'s' * (len(members) > 1)}"
        wanted = str(low) if low == high else f"{low} to {high}"
        raise ConfigError(f"{key.name} {few}, it takes {wanted}{at}")
    return tuple(_member(key, text, at) for text in members)  # type: ignore[return-value]


def _member(key: Keyword, text: str, at: str) -> int | float | bool | str:
    if key.kind == "text":
        return text
    if key.kind == "bool":
        if text.upper() not in ("Y", "N", "YES", "NO"):
            raise ConfigError(f"{key.name} is {text!r}, it must be Y or N{at}")
        return text.upper().startswith("Y")
    if key.kind == "choice":
        return _chosen(key, text.upper(), at)
    if key.kind == "bytes":
        return parse_size(text, key.name)
    return _number(key, text, at)


def _chosen(key: Keyword, text: str, at: str) -> str:
    choices, built = key.choices.split(), key.built_choices.split()
    if text not in (built or choices) and text in offered(key.name):
        return text
    if text not in choices:
        raise ConfigError(f"{key.name} is {text!r}{nearest(text, choices)}; it can be {', '.join(choices)}{at}")
    if built and text not in built:
        raise ConfigError(f"{key.name} {text} is not built yet; built are {', '.join(built)}{at}")
    return text


def _number(key: Keyword, text: str, at: str) -> int | float:
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{key.name} is {text!r}, which is not a number{at}") from None
    # Also refuses NaN.
    if not key.low <= number <= key.high:
        raise ConfigError(f"{key.name} is {text}, out of its range {key.low:g} to {key.high:g}{at}")
    # Like SExtractor, which cuts a fraction off where it wants a whole number.
    return int(number) if key.kind == "int" else number
