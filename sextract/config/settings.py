"""Settings: what a run was asked to do, as frozen dataclasses, one slice per room.

It does not read files or command lines (``sexfile.py``, ``cli.py``) and holds no facts of an image (``records.Frame``).
Defaults are SExtractor's compiled-in ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSettings:
    """Extraction and filtering.

    Attributes
    ----------
    minarea, maxarea : int
        DETECT_MINAREA, DETECT_MAXAREA (0: no limit), pixels.
    thresh_type : str
        THRESH_TYPE: RELATIVE or ABSOLUTE.
    detect_thresh, analysis_thresh : tuple of float
        DETECT_THRESH, ANALYSIS_THRESH; two values are a surface brightness and a zero-point.
    kernel : float32 array (kh, kw) or None
        The filter as applied (normalised if the file says NORM); None without FILTER.
    kernel_name : str
        FILTER_NAME as resolved.
    kernel_normed : bool
        The file said NORM.
    """

    minarea: int = 5
    maxarea: int = 0
    thresh_type: str = "RELATIVE"
    detect_thresh: tuple[float, ...] = (1.5,)
    analysis_thresh: tuple[float, ...] = (1.5,)
    kernel: NDArray[np.float32] | None = None
    kernel_name: str = ""
    kernel_normed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeblendingSettings:
    """Deblending and cleaning: DEBLEND_NTHRESH, DEBLEND_MINCONT, CLEAN, CLEAN_PARAM, and the caps of ours."""

    nthresh: int = 32
    mincont: float = 0.005
    clean: bool = True
    clean_param: float = 1.0
    clean_reach_rows: int = 1024
    max_footprint_px: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundSettings:
    """BACK_TYPE, BACK_VALUE, BACK_SIZE and BACK_FILTERSIZE as (width, height), BACK_FILTTHRESH, BACK_PEARSON."""

    type: str = "AUTO"
    value: float = 0.0
    size: tuple[int, int] = (64, 64)
    filter_size: tuple[int, int] = (3, 3)
    filter_thresh: float = 0.0
    pearson: float = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotometrySettings:
    """PHOT_*, SATUR_*, MAG_ZEROPOINT, GAIN*, PIXEL_SCALE, SEEING_FWHM, MASK_TYPE, BACKPHOTO_*, STARNNW_NAME."""

    apertures: tuple[float, ...] = (5.0,)
    autoparams: tuple[float, float] = (2.5, 3.5)
    petroparams: tuple[float, float] = (2.0, 3.5)
    autoapers: tuple[float, float] = (0.0, 0.0)
    fluxfrac: tuple[float, ...] = (0.5,)
    satur_level: float = 50000.0
    satur_key: str = "SATURATE"
    mag_zeropoint: float = 0.0
    gain: float = 0.0
    gain_key: str = "GAIN"
    pixel_scale: float = 1.0
    seeing_fwhm: float = 1.2
    mask_type: str = "CORRECT"
    backphoto_type: str = "GLOBAL"
    backphoto_thick: int = 24
    starnnw_name: str = ""


class Requested(NamedTuple):
    """A line of the ``.param`` file: the name, and the ``(n)`` or ``(n,m)`` after it."""

    name: str
    dims: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """Catalogue and check-images: CATALOG_NAME, CATALOG_TYPE, PARAMETERS_NAME's content, CHECKIMAGE_* as pairs."""

    catalog_name: str = "test.cat"
    catalog_type: str = "ASCII_HEAD"
    columns: tuple[Requested, ...] = ()
    checkimages: tuple[tuple[str, str], ...] = ()
    provenance: str = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSettings:
    """What may change a run's speed and size, never its answer.

    Attributes
    ----------
    mem_limit_bytes : int
        MEM_LIMIT.
    account : str
        MEM_ACCOUNT: ``pss``, shared memory once; ``rss``, once for each process that has it mapped.
    workers : int
        WORKERS; 0: none beside the run's own process.
    tile_shape : (int, int) or None
        Rows and columns of a tile at most.
    scratch_dir : str
        SCRATCH_DIR.
    mem_report : tuple of str
        MEM_REPORT: files.
    profile : str
        PROFILE: a file, or nothing.
    hosted : bool
        The run is one of several in processes that were forked from the same one: what they share is counted there.
    checkpoint : int
        CHECKPOINT: rows of tiles from one to the next; 0: none.
    checkpoint_folder : str
        CHECKPOINT_FOLDER; empty: beside the catalogue.
    resume : bool
        Go on from the latest checkpoint, if there is one.
    given : frozenset of str
        Options and keywords by which the user gave limit and workers; without any, they are what the machine has that
        reads the configuration.
    """

    mem_limit_bytes: int = 0
    account: str = "pss"
    workers: int = 0
    tile_shape: tuple[int, int] | None = None
    scratch_dir: str = ""
    mem_report: tuple[str, ...] = ()
    profile: str = ""
    hosted: bool = False
    checkpoint: int = 0
    checkpoint_folder: str = ""
    resume: bool = False
    given: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All a run is told.

    ``keywords`` is the effective configuration, keyword → text, for headers and its hash; ``config_name`` the file it was
    read from, or empty.
    """

    detection: DetectionSettings = field(default_factory=DetectionSettings)
    deblending: DeblendingSettings = field(default_factory=DeblendingSettings)
    background: BackgroundSettings = field(default_factory=BackgroundSettings)
    photometry: PhotometrySettings = field(default_factory=PhotometrySettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    resources: ResourceSettings = field(default_factory=ResourceSettings)
    verbose: str = "NORMAL"
    sextractor_bugs: frozenset[str] = frozenset()
    keywords: tuple[tuple[str, str], ...] = ()
    config_name: str = ""
