"""Headers of check-images: the image's own cards, less what described its storage.

References
----------
FITS standard 4.0, sections 4.4.1 (mandatory keywords) and 10.1 (those of compressed images).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sextract.catalogue import cards

# Structure, scaling, sums: they would be wrong of other pixels.  What compression leaves in a header goes as well.
_DROPPED = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|NEXTEND|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM"
    r"|Z(IMAGE|TABLE|SIMPLE|TENSION|EXTEND|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|CMPTYPE|TILE\d+|NAME\d+|VAL\d+|QUANTIZ"
    r"|DITHER0|BLANK|SCALE|ZERO|MASKCMP|HECKSUM|DATASUM)"
    r"|(TTYPE|TFORM|TUNIT|TDISP|TDIM|TNULL|TSCAL|TZERO)\d+|TFIELDS|THEAP)$"
)

# Names of an extension, which a primary doesn't have.
_EXTENSION_ONLY = frozenset({"EXTNAME", "EXTVER", "EXTLEVEL", "INHERIT"})


class ImageExtension(NamedTuple):
    """Size and header of one analysed image.

    Attributes
    ----------
    width, height : int
    header : str
        80-column cards without separators, as in ``records.Frame``.
    """

    width: int
    height: int
    header: str = ""


def file_cards(extensions: Sequence[ImageExtension], bitpix: int) -> list[list[str]]:
    """Headers of a check-image file, one list of cards for each HDU, without END and sums.

    One extension is in the primary; several follow an empty one.
    """
    if len(extensions) == 1:
        return [[cards.logical("SIMPLE", True, "This is a FITS file"), *_image_cards(extensions[0], bitpix, True)]]
    primary = [
        cards.logical("SIMPLE", True, "This is a FITS file"),
        cards.integer("BITPIX", 8, " "),
        cards.integer("NAXIS", 0, " "),
        cards.logical("EXTEND", True, "This file may contain FITS extensions"),
        cards.integer("NEXTEND", len(extensions), "Number of extensions"),
    ]
    kind = cards.text("XTENSION", "IMAGE", "Image extension")
    return [primary, *([kind, *_image_cards(e, bitpix, False)] for e in extensions)]


def _image_cards(extension: ImageExtension, bitpix: int, primary: bool) -> list[str]:
    own = [card for card in cards.split(extension.header) if not _DROPPED.match(cards.keyword(card))]
    structure = [
        cards.integer("BITPIX", bitpix, "array data type"),
        cards.integer("NAXIS", 2, "number of array dimensions"),
        cards.integer("NAXIS1", extension.width),
        cards.integer("NAXIS2", extension.height),
    ]
    if primary:
        return [*structure, *(card for card in own if cards.keyword(card) not in _EXTENSION_ONLY)]
    counts = [cards.integer("PCOUNT", 0, "number of parameters"), cards.integer("GCOUNT", 1, "number of groups")]
    return [*structure, *counts, *own]
