"""ASCII and ASCII_HEAD: lines of fixed widths, as SExtractor prints them.

Each value has the width and form of its column's TDISP, values are separated by a blank.  ASCII_HEAD begins with a line
``# n NAME comment [unit]`` per column, once for all extensions; a vector is listed under its first number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from sextract.catalogue.output import OutputFile, StandardOutput
from sextract.catalogue.writer import (
    OPTION,
    CatalogueWriter,
    ClosesItself,
    ExtensionFacts,
    OutputColumn,
    Rows,
    RunFacts,
    catalogue,
    is_standard_output,
    row_dtype,
)
from sextract.records import Column, Frame

# Bytes of values turned into text at a time.
PIECE_BYTES = 65536

_DISPLAY = re.compile(r"([IFEG])(\d+)(?:\.(\d+))?$")
_DEFAULT = {"i": "I10", "f": "G12.7", "u": "I10"}

# Declinations and position angles on the sky carry their sign, which no TDISP can say.
_SIGNED = re.compile(r"(DELTA|THETA)\w*_(SKY|J2000|B1950)$")


def format_of(column: Column) -> str:
    """The printf format of a column's TDISP; its type decides where there is none."""
    display, kind = column.display, np.dtype(column.dtype).kind
    found = _DISPLAY.match(display.strip()) or _DISPLAY.match(_DEFAULT[kind])
    assert found is not None
    letter, width, digits = found.groups()
    if letter == "I":
        return f"%{width}d"
    sign = "+" if _SIGNED.match(column.name) else ""
    return f"%{sign}{width}.{digits or 0}{letter.lower()}"


def line_format(columns: Sequence[OutputColumn]) -> str:
    """The printf format of a row."""
    return " ".join(format_of(c.column) for c in columns for _ in range(c.count)) + "\n"


def head(columns: Sequence[OutputColumn]) -> str:
    """The lines that name the columns."""
    lines, number = [], 1
    for item in columns:
        column = item.column
        unit = f" [{column.unit}]" if column.unit else ""
        lines.append(f"# {number:3d} {column.name:<22.22s} {column.doc:<58.58s}{unit}\n")
        number += item.count
    return "".join(lines)


class AsciiWriter(ClosesItself):
    """Lines of text, one per row, without anything between extensions."""

    def __init__(self, path: str, columns: Sequence[OutputColumn], *, headed: bool) -> None:
        self.dtype = row_dtype(columns)
        # The same values, each element of a vector a field of its own, so that a row is one flat tuple.
        self._flat = np.dtype([(f"{i}.{k}", c.column.dtype) for i, c in enumerate(columns) for k in range(c.count)])
        self._format = line_format(columns)
        self._step = max(1, PIECE_BYTES // max(self.dtype.itemsize, 1))
        self._file: OutputFile
        if is_standard_output(path):
            self._file = StandardOutput(OPTION)
        else:
            self._file = OutputFile(path, OPTION, seekable=False)
        if headed:
            try:
                self._file.append(head(columns).encode("ascii", "replace"))
            except BaseException:
                self._file.abort()
                raise

    def begin_extension(self, frame: Frame) -> None:
        """Nothing: the lines of all extensions follow each other."""

    def write(self, rows: Rows) -> None:
        """Append rows."""
        if rows.dtype != self.dtype:
            raise TypeError(f"rows have the layout {rows.dtype}, the columns {self.dtype}")
        line = self._format
        for first in range(0, len(rows), self._step):
            part = np.ascontiguousarray(rows[first : first + self._step]).view(self._flat)
            self._file.append("".join([line % row for row in part.tolist()]).encode())

    def end_extension(self, facts: ExtensionFacts) -> None:
        """Nothing."""

    def close(self) -> None:
        """Finish the file and move it in place."""
        self._file.commit()

    def abort(self) -> None:
        """Remove what was written."""
        self._file.abort()


@catalogue("ASCII")
def ascii_plain(path: str, columns: Sequence[OutputColumn], run: RunFacts) -> CatalogueWriter:
    """A line of text per source, without any header."""
    return AsciiWriter(path, columns, headed=False)


@catalogue("ASCII_HEAD")
def ascii_head(path: str, columns: Sequence[OutputColumn], run: RunFacts) -> CatalogueWriter:
    """A line of text per source, after a ``# n NAME comment [unit]`` line per column."""
    return AsciiWriter(path, columns, headed=True)
