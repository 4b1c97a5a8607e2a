#!/usr/bin/env python3
"""Writes docs/reference from the registries: columns, keywords, flags, check-images, catalogue formats.

    scripts/make_reference.py [--check]

``--check`` writes nothing and says which files are out of date (exit code 1).  The words are those of the code: columns
of a family, entries of keywords, meanings of flags, docstrings of formats.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path

from sextract.catalogue.writer import CATALOGUES
from sextract.checkimage.checkimage import CHECKIMAGES
from sextract.config.keywords import BIG, KEYWORDS, Keyword
from sextract.config.keywords import CATALOGUES as KNOWN_CATALOGUES
from sextract.config.keywords import CHECKIMAGES as KNOWN_CHECKIMAGES
from sextract.config.parameters import PARAMETERS
from sextract.measurement import flags, windowed
from sextract.measurement.measure import MEASUREMENTS, Measurement
from sextract.reading.source import OPENERS
from sextract.records import Column

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"

MADE = "<!-- Made by scripts/make_reference.py; change the code it is made from instead. -->"

TYPES = {"i2": "int16", "i4": "int32", "i8": "int64", "f4": "float32", "f8": "float64"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(text: str) -> str:
    """Text as it is typed, or nothing."""
    return f"`{text}`" if text else ""


def first_sentence(text: str | None) -> str:
    """What a docstring says first, in one line, without markup for code of the package."""
    return re.split(r"\.(?:\s|$)", " ".join((text or "").split()), maxsplit=1)[0].replace("``", "`")


def columns_page() -> str:
    """Every column, family by family, in SExtractor's order; then what isn't built."""
    families = [MEASUREMENTS.get(name) for name in MEASUREMENTS]
    shown = sorted((f for f in families if f.columns), key=lambda f: min(map(place, f.columns)))
    built = {c.name for f in shown for c in f.columns}
    parts = [
        f"# Columns\n\n{len(built)} columns can be asked for in the file that PARAMETERS_NAME names; the length of a "
        "vector stands behind it, as in `FLUX_APER(3)`.\nA value that could not be measured is NaN, or what "
        "SExtractor writes (magnitude 99).  Pixel positions are FITS's:\nthe first pixel's centre is at (1, 1).\n"
    ]
    for family in shown:
        parts.append(f"## {family.name}\n\n{about(family)}.\n")
        ordered = sorted(family.columns, key=place)
        parts.append(table(("name", "type", "unit", "", "UCD"), (column_row(c) for c in ordered)))
    later = [name for name in PARAMETERS if name not in built]
    parts.append(
        f"## Not built yet\n\nOf SExtractor's {len(PARAMETERS)} parameters these {len(later)} are refused, before a "
        "pixel is read:\n"
    )
    parts.append(textwrap.fill(" ".join(code(name) for name in later), 120, break_on_hyphens=False) + "\n")
    return page(parts)


def place(column: Column) -> int:
    """Where SExtractor has a column; those that are ours come last."""
    return PARAMETERS.index(column.name) if column.name in PARAMETERS else len(PARAMETERS)


def about(family: Measurement) -> str:
    """What a family's module says of it first."""
    return first_sentence(import_module(family.run.__module__).__doc__)


def column_row(c: Column) -> tuple[str, ...]:
    """A line of the table of columns."""
    return code(c.name) + (" (vector)" if c.vector else ""), TYPES[c.dtype], c.unit, c.doc, code(c.ucd)


def keywords_page() -> str:
    """Every keyword by section: default, range, meaning, whether it has an effect."""
    parts = [
        "# Keywords\n\nIn the configuration file `KEYWORD value`, on the command line `-KEYWORD value`.  Lists are "
        "separated by commas.\nA keyword that isn't built is accepted, and named in one warning where its "
        "value would matter.\n"
    ]
    for section, keys in groupby(KEYWORDS.values(), key=lambda k: k.section):
        parts.append(f"## {section}\n")
        rows = ((code(k.name), code(k.default), values(k), k.doc.replace("\n", " "), state(k)) for k in keys)
        parts.append(table(("keyword", "default", "values", "", ""), rows))
    return page(parts)


def values(key: Keyword) -> str:
    """What a keyword may be."""
    if key.kind == "choice":
        text = ", ".join((key.built_choices or key.choices).split())
    elif key.kind == "bool":
        text = "Y, N"
    elif key.kind in ("int", "float"):
        low = number(key.low) if key.low > -BIG else ""
        high = number(key.high) if key.high < BIG else ""
        text = key.kind + (f" {low} … {high}".rstrip() if low or high else "")
    else:
        text = "size" if key.kind == "bytes" else "text"
    if key.count is not None:
        few, many = key.count
        text += f"; {few}" + (f" to {many}" if many != few else "") + " values"
    return text


def number(value: float) -> str:
    """A bound as it would be typed."""
    return str(int(value)) if value == int(value) and value < 2**31 else f"{value:g}"


def state(key: Keyword) -> str:
    """Whether a keyword has an effect."""
    if key.role == "ignored":
        return "accepted, without effect"
    if not key.built:
        return "not built yet"
    return "changes no result" if key.role == "resource" else ""


def flags_page() -> str:
    """Bits of FLAGS and FLAGS_WIN."""
    return page(
        [
            "# Flags\n\nFlags are sums of powers of two.\n",
            "## FLAGS\n\nThey depend neither on the columns requested nor on memory, workers or tiles.\n",
            bits(flags.MEANINGS),
            "## FLAGS_WIN\n\nWith any of them the WIN position, shape and errors are the isophotal ones.\n",
            bits(windowed.MEANINGS),
        ]
    )


def bits(meanings: Mapping[int, str]) -> str:
    """A table of bits."""
    return table(("bit", "meaning"), ((str(bit), text) for bit, text in meanings.items()))


def checkimages_page() -> str:
    """CHECKIMAGE_TYPE."""
    kinds = [CHECKIMAGES.get(name) for name in CHECKIMAGES]
    rows = ((code(k.name), "int32" if k.integer else "float32", k.doc) for k in kinds)
    return page(
        [
            "# Check-images\n\nCHECKIMAGE_TYPE and CHECKIMAGE_NAME are lists of the same length.  A file has the "
            "extensions of the image,\nwith their headers; BSCALE, BZERO and BLANK are dropped.\n",
            table(("CHECKIMAGE_TYPE", "pixels", ""), rows),
            unbuilt("check-images", KNOWN_CHECKIMAGES, CHECKIMAGES),
        ]
    )


def catalogues_page() -> str:
    """CATALOG_TYPE, and what images are read."""
    rows = ((code(name), first_sentence(CATALOGUES.get(name).__doc__)) for name in CATALOGUES)
    readers = ((code(name), first_sentence(OPENERS.get(name).open.__doc__)) for name in OPENERS)
    return page(
        [
            "# Files\n\n## Catalogues\n",
            table(("CATALOG_TYPE", ""), rows),
            unbuilt("formats", KNOWN_CATALOGUES, CATALOGUES),
            "## Images\n\nA file is recognised by its first bytes, not by its name.\n",
            table(("reader", "opens"), readers),
        ]
    )


def unbuilt(what: str, known: str, built: Iterable[str]) -> str:
    """SExtractor's that are missing."""
    missing = [name for name in known.split() if name not in {*built, "NONE", "OTHER"}]
    return f"SExtractor's other {what} are not built yet: {', '.join(code(name) for name in missing)}.\n"


def page(parts: Iterable[str]) -> str:
    """Parts with a blank line between them."""
    return "\n".join([MADE, *parts])


PAGES = {
    "columns.md": columns_page,
    "keywords.md": keywords_page,
    "flags.md": flags_page,
    "checkimages.md": checkimages_page,
    "catalogues.md": catalogues_page,
}


def outdated(folder: Path = FOLDER) -> list[str]:
    """Pages that aren't what the registries say."""
    made = {name: make() for name, make in PAGES.items()}
    return [name for name in made if not (folder / name).is_file() or (folder / name).read_text() != made[name]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    old = outdated()
    if args.check:
        for name in old:
            print(f"docs/reference/{name} is out of date: run scripts/make_reference.py")
        return 1 if old else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in old:
        (FOLDER / name).write_text(PAGES[name]())
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
