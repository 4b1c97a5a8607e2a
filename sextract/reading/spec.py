"""What the user writes for an image, ``image.fits[2]`` or ``image.fits[SCI,1]``, to a path and a selection.

It opens nothing; choosing among what a file holds is ``source.py``.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from sextract.config.locations import local_name

_BRACKETS = re.compile(r"(?P<path>.+)\[(?P<name>[^\[\],]*)(?:,\s*(?P<version>\d+)\s*)?\]", re.DOTALL)


class Spec(NamedTuple):
    """A path and what was asked of it.

    Attributes
    ----------
    path : str
    hdu : int or None
        HDU index, 0 is the primary.
    name : str or None
        EXTNAME.
    version : int or None
        EXTVER beside the name.
    """

    path: str
    hdu: int | None = None
    name: str | None = None
    version: int | None = None


def parse_spec(text: str) -> Spec:
    """Split ``path[n]``, ``path[NAME]`` or ``path[NAME,version]``; a file whose name ends so comes first.

    Parameters
    ----------
    text : str
        As on the command line.  ``n`` counts HDUs from 0, as in SExtractor.  The path may be an address.

    Returns
    -------
    Spec
    """
    match = _BRACKETS.fullmatch(text)
    if match is None or os.path.lexists(text):
        return Spec(local_name(text))
    path, name, version = local_name(match["path"]), match["name"].strip(), match["version"]
    if name.isascii() and name.isdigit() and version is None:
        return Spec(path, hdu=int(name))
    return Spec(path, name=name, version=int(version) if version else None)
