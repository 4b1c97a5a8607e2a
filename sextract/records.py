"""The nouns that cross rooms: boxes, blocks, columns, frames, and the layouts of runs, fragments and sources.

It holds data, no behaviour beyond trivial geometry.  Arrays are ``[y, x]``, 0-based, boxes half-open; the +1 of FITS is
added at the catalogue door.  The C mirror of the layouts is ``records.pxd``; a test compares both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Marks a bad or masked pixel in every float32 image of the program, as SExtractor's own 1e30 does; a pixel is
# usable when it is above BAD / 10, so that sums of rounding never make one of the other.
BAD = -1e30


class Box(NamedTuple):
    """A half-open rectangle of pixels, y first."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def size(self) -> int:
        """Number of pixels."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    def grown(self, dy: int, dx: int, height: int, width: int) -> Box:
        """The box with a margin, cut to the frame."""
        return Box(max(self.y0 - dy, 0), max(self.x0 - dx, 0), min(self.y1 + dy, height), min(self.x1 + dx, width))


class BlockRef(NamedTuple):
    """A lease on the slab: byte offset and length."""

    offset: int
    nbytes: int


# Pixels of one row at or above the threshold: columns x0 <= x < x1.
RUN = np.dtype([("x0", "<i4"), ("x1", "<i4")])

# A piece of a source's own pixels: row y, columns x0 <= x < x1.
FRAGMENT = np.dtype([("y", "<i4"), ("x0", "<i4"), ("x1", "<i4")])

# One source between deblending and the catalogue.  Pixel positions 0-based; extents inclusive, as in the catalogue.
SOURCE = np.dtype(
    [
        ("parent", "<i8"),  # ID_PARENT
        ("number", "<i8"),  # NUMBER, given after CLEAN
        ("fragments", "<i8"),  # offset of its FRAGMENTs in the slab, bytes
        ("nfragments", "<i8"),
        ("npix", "<i8"),  # pixels of the footprint (ISOAREAF_IMAGE, SExtractor's fdnpix), CLEAN adds eaten ones
        ("x", "<f8"),  # barycentre
        ("y", "<f8"),
        ("x2", "<f8"),  # second central moments
        ("y2", "<f8"),
        ("xy", "<f8"),
        ("errx2", "<f8"),  # variance of the barycentre
        ("erry2", "<f8"),
        ("errxy", "<f8"),
        ("flux_iso", "<f8"),  # sum of unfiltered pixels over the footprint
        ("var_iso", "<f8"),  # its variance, Poisson term not yet in
        ("a", "<f4"),
        ("b", "<f4"),
        ("theta", "<f4"),  # degrees
        ("cxx", "<f4"),
        ("cyy", "<f4"),
        ("cxy", "<f4"),
        ("abcor", "<f4"),
        ("fdflux", "<f4"),  # filtered flux
        ("fdpeak", "<f4"),  # filtered peak
        ("peak", "<f4"),  # FLUX_MAX: largest unfiltered pixel
        ("dthresh", "<f4"),  # detection threshold
        ("thresh", "<f4"),  # analysis threshold
        ("mthresh", "<f4"),  # what a wing must exceed to eat this source (CLEAN)
        ("fwhm", "<f4"),
        ("bkg", "<f4"),  # background at the barycentre
        ("dbkg", "<f4"),  # LOCAL background correction
        ("xmin", "<i4"),
        ("xmax", "<i4"),
        ("ymin", "<i4"),
        ("ymax", "<i4"),
        ("xpeak", "<i4"),
        ("ypeak", "<i4"),
        ("isoarea", "<i4"),  # ISOAREA_IMAGE
        ("iso", "<i4", (8,)),
        ("flags", "<i4"),
        ("singular", "<i4"),
        ("row", "<i4"),  # scan line on which it closed
        ("spare", "<i4"),
        ("sorted", "<i4"),  # 1: its FRAGMENTs are sorted by row, so that those of some rows are found without the others
    ],
    align=True,
)


class Frame(NamedTuple):
    """What is known of one image extension once its background is: all that a measurement may use beside pixels.

    Attributes
    ----------
    width, height : int
        Size in pixels.
    ext_number : int
        EXT_NUMBER, from 1.
    background, rms : float
        Global background and its RMS (ADU); the log's ``Background:`` and ``RMS:``.
    threshold, analysis_threshold : float
        Detection and analysis thresholds (ADU above background).
    gain, saturation : float
        e-/ADU (0: no Poisson term) and ADU, from the header's key or the configuration.
    pixel_scale : float
        arcsec per pixel.
    header : str
        The header as 80-column cards without separators, with any external header merged in.
    """

    width: int
    height: int
    ext_number: int = 1
    background: float = 0.0
    rms: float = 1.0
    threshold: float = 1.0
    analysis_threshold: float = 1.0
    gain: float = 0.0
    saturation: float = 5e4
    pixel_scale: float = 1.0
    header: str = ""


class Column(NamedTuple):
    """One column of the catalogue.

    Attributes
    ----------
    name : str
        Parameter name as in a ``.param`` file.
    dtype : str
        numpy code: ``i2`` (TFORM I), ``i4`` (J), ``f4`` (E), ``f8`` (D).
    unit, display, doc, ucd : str
        TUNIT, TDISP, comment of TTYPE, UCD; empty if none.
    vector : str
        Where a vector's length comes from: empty (scalar), ``param`` (the ``(n)`` or ``(n,m)`` of the ``.param`` file).
    stage : str
        ``batch``: needs pixels; ``table``: follows from the row.
    """

    name: str
    dtype: str
    unit: str = ""
    display: str = ""
    doc: str = ""
    ucd: str = ""
    vector: str = ""
    stage: str = "batch"


# A whole connected set of pixels above the threshold, before deblending.  Extents inclusive.
FOOTPRINT = np.dtype(
    [
        ("parent", "<i8"),  # ID_PARENT
        ("npix", "<i8"),
        ("fragments", "<i8"),  # index of its first FRAGMENT in the list that comes with it
        ("nfragments", "<i4"),
        ("row", "<i4"),  # scan line on which it closed: its last row + 1
        ("xmin", "<i4"),
        ("xmax", "<i4"),
        ("ymin", "<i4"),
        ("ymax", "<i4"),
    ],
    align=True,
)
