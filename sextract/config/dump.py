"""What ``-d``, ``-dd`` and ``-dp`` print: the default configuration, short and full, and the columns that are built.

Layouts are SExtractor's, so that what reads its dumps reads these; the comments are our own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from sextract._version import __version__
from sextract.config.doors import built_columns
from sextract.config.keywords import KEYWORDS, Keyword
from sextract.config.parameters import PARAMETERS

_WIDTH = 79


def dump_configuration(full: bool) -> str:
    """The default configuration as a file that can be read back.

    Parameters
    ----------
    full : bool
        Every keyword (``-dd``), or those that most people set (``-d``).
    """
    lines = [f"# Default configuration of sextract {__version__}: SExtractor's keywords and its built-in values"]
    chosen = [k for k in KEYWORDS.values() if full or k.short]
    for section, keys in groupby(chosen, key=lambda k: k.section):
        lines += ["", f"#-- {section} ".ljust(_WIDTH, "-"), ""]
        for key in keys:
            lines += _entry(key)
    return "\n".join(lines) + "\n"


def dump_columns() -> str:
    """One line for each column that is built, in SExtractor's order: ``#NAME  doc  [unit]``."""
    columns = built_columns()
    order = {name: i for i, name in enumerate(PARAMETERS)}
    lines = []
    for name in sorted(columns, key=lambda n: (order.get(n, len(order)), n)):
        column = columns[name]
        unit = f" [{column.unit}]" if column.unit else ""
        lines.append(f"#{name:<24} {column.doc:<57}{unit}")
    return "\n".join(lines) + "\n"


def _entry(key: Keyword) -> Iterator[str]:
    """A keyword's line, and lines that go on with its comment."""
    notes = key.doc.split("\n")
    if not key.built:
        notes = textwrap.wrap(f"{key.doc} (not built yet)".replace("\n", " "), 40)
    yield f"{key.name:<16} {key.default:<14} # {notes[0]}"
    for note in notes[1:]:
        yield f"{'':<31} # {note}"
