"""wcslib as astropy ships it, without the packages around it: from a header's cards to positions on the sky.

Importing astropy.wcs takes 0.4 s and 42 MiB, for units, tables, coordinates and FITS files; the compiled module inside it that
holds wcslib takes a millisecond and a few hundred KiB.  `read_axes` loads that one alone and gives wcslib what astropy.wcs.WCS
would have given it, so that positions are the same to the bit.

It knows the usual: every projection of wcslib, TPV, TNX, SIP.  Cards that astropy would mend first, tables, distortions of
CPDIS and the like, and another astropy whose compiled module is different, are left to astropy.wcs itself: ``sky.py``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The compiled module, where astropy's own import has put it.
ASTROPYS = "astropy.wcs._wcs"

# A card as the standard has it; astropy mends others before wcslib sees them.
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[DE][+-]?\d+)?"
PLAIN = re.compile(rf"(?=.{{8}}= )[A-Z0-9_-]+ *= (?: *(?:'(?:[ -&(-~]|'')*'|[TF]|{NUMBER}))? *(?:/[ -~]*)?$")
COMMENTARY = re.compile("COMMENT|HISTORY")
# Distortions and coordinates in tables, and types that aren't text.
UNUSUAL = re.compile(r"(?:CPDIS|CPERR|CQDIS|CQERR|DP|DQ)\d|CTYPE\d[A-Z]? *=(?! *')|CTYPE\d[A-Z]? *= *'[^']*-TAB")
TYPE = re.compile("CTYPE[12] *=")
# A plate solution (DSS), all that one has, and the terms of it that may have a value: wcslib takes what lies in memory for what
# is missing, and writes beyond its table for more.
PLATE_TERMS = 13
PLATE_TERM = re.compile(r"AMD[XY]\d+ *=")
PLATE = {f"AMD{axis}{n}" for axis in "XY" for n in range(1, 21)} | {
    "CNPIX1", "CNPIX2", "PLTRAH", "PLTRAM", "PLTRAS", "PLTDECSN", "PLTDECD", "PLTDECM", "PLTDECS", "PPO3", "PPO6", "XPIXELSZ",
    "YPIXELSZ",
}  # fmt: skip
SIP_TERM = re.compile(r"[AB]P?_1?\d_1?\d[A-Z]? *=")
SIP_ORDER = re.compile(r"[AB]P?_ORDER *=")
# Beside SIP they are for astropy to choose from.
POLYNOMIAL = re.compile(r"PV\d+_\d+ *=|CTYPE\d *= *'[^']*-TPV")


class Axes(NamedTuple):
    """The first two axes of a WCS.

    Attributes
    ----------
    world : callable
        ``world(x, y)``: FITS pixel positions, float64 (n,), to coordinates (n, 2) in the order of the axes, degrees.
    longitude : int
        Axis that holds the longitude, 0 or 1; -1 without celestial axes.
    system : str
        The first four letters of its type, ``RA--`` or ``GLON``; empty without.
    radesys : str
    equinox : float
        NaN if there is none.
    """

    world: Callable[[Array, Array], Array]
    longitude: int
    system: str
    radesys: str
    equinox: float

    @classmethod
    def of(cls, prm: Any, world: Callable[[Array, Array], Array]) -> Axes:
        """What a Wcsprm says that has been set."""
        if prm.lng < 0 or prm.lat < 0:
            return cls(world, -1, "", "", np.nan)
        return cls(world, prm.lng, prm.ctype[prm.lng][:4], prm.radesys, prm.equinox)


def read_axes(cards: Sequence[str]) -> Axes | None:
    """The WCS in some cards of 80 columns; None if it takes astropy itself to tell.

    Raises
    ------
    Exception
        What wcslib finds wrong with them, in astropy's words.
    """
    usual = all(COMMENTARY.match(card) or (PLAIN.match(card) and not UNUSUAL.match(card)) for card in cards)
    types = sorted(card[:6] for card in cards if TYPE.match(card))
    # Of two types of an axis astropy goes by the first, wcslib by the last.
    if not usual or len(types) != len(set(types)) or (compiled := _compiled()) is None:
        return None
    try:
        _check_plate(cards)
        sip = _read_sip(compiled, cards)
        # wcslib would read the terms a second time.
        header = "".join(card for card in cards if not SIP_TERM.match(card) and not SIP_ORDER.match(card))
        try:
            prm = compiled.Wcsprm(header=header.encode("ascii"), relax=True, warnings=False)
        except compiled.NoWcsKeywordsFoundError:
            prm = compiled.Wcsprm()
        prm = prm.sub(2)
        prm.fix("", None)
        prm.set()
        transform = compiled._Wcs(sip, (None, None), prm, (None, None))._all_pix2world
        return Axes.of(prm, lambda x, y: transform(np.column_stack((x, y)), 1))
    except (AttributeError, TypeError, LookupError):
        # A module that this wasn't written for, or an unusual SIP or plate.
        return None


def _check_plate(cards: Sequence[str]) -> None:
    """LookupError for a plate solution that may crash wcslib, which had better happen to a worker."""
    terms = [card for card in cards if PLATE_TERM.match(card)]
    beyond = any(_number(card) for card in terms if int(card[4:8]) > PLATE_TERMS)
    if terms and (beyond or not {card[:8].rstrip() for card in cards} >= PLATE):
        raise LookupError("AMD")


def _read_sip(compiled: ModuleType, cards: Sequence[str]) -> Any:
    """The polynomials of SIP, or None without; LookupError if astropy has to say what is meant."""
    numbers: dict[str, float] = {}
    for card in cards:
        # Of two cards with the same name the first counts.
        if SIP_ORDER.match(card) or SIP_TERM.match(card) or card.startswith("CRPIX"):
            numbers.setdefault(card[:8].rstrip(), _number(card))
    orders = {key.partition("_")[0]: int(n) for key, n in numbers.items() if key.endswith("_ORDER")}
    if not orders:
        return None
    named = sum(TYPE.match(card) is not None for card in cards) == 2
    both = set(orders) in ({"A", "B"}, {"A", "B", "AP", "BP"}) and min(orders.values()) > 1
    if not named or not both or any(map(POLYNOMIAL.match, cards)):
        raise LookupError("SIP")

    def terms(axis: str) -> Array:
        n = orders[axis] + 1
        return np.array([[numbers.get(f"{axis}_{i}_{j}", 0.0) if i + j < n else 0.0 for j in range(n)] for i in range(n)])

    return compiled.Sip(terms("A"), terms("B"), None, None, (numbers["CRPIX1"], numbers["CRPIX2"]))


def _number(card: str) -> float:
    """The value of a plain card; LookupError if it is no number."""
    found = re.match(rf" *({NUMBER}) *(?:/|$)", card[10:])
    if found is None:
        raise LookupError(card)
    return float(found[1].replace("D", "E"))


def _compiled() -> ModuleType | None:
    """astropy's compiled module, or None if there is none that can be used alone.

    Loaded twice, it mixes up the types of both, so that of astropy itself is taken as soon as that is there.
    """
    return sys.modules.get(ASTROPYS) or _load()


@cache
def _load() -> ModuleType | None:
    """Load the file under a name of ours: nothing that an import of astropy would take for a part of it.

    Relied on, true of astropy 6 to 8: its name and place; ``Wcsprm`` with ``sub``, ``fix`` and ``set``; ``Sip``; ``_Wcs`` of
    both, which all of astropy.wcs.WCS's transformations end in.
    """
    try:
        astropy = PathFinder.find_spec("astropy")
        folders = [os.path.join(folder, "wcs") for folder in astropy.submodule_search_locations or ()] if astropy else []
        spec = PathFinder.find_spec(f"{__package__}._wcs", folders)
        if spec is None or spec.loader is None:
            return None
        compiled = module_from_spec(spec)
        spec.loader.exec_module(compiled)
        sys.modules.pop(spec.name, None)
        return compiled if compiled._sanity_check() else None
    except (ImportError, OSError, SystemError, AttributeError):
        return None
