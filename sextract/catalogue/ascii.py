"""ASCII and ASCII_HEAD: lines of fixed widths, as SExtractor prints them.

Each value has the width and form of its column's TDISP, values are separated by a blank.  ASCII_HEAD begins with a line
``# n NAME comment [unit]`` per column, once for all extensions; a vector is listed under its first number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

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

# Bytes of text made at a time, and values of a row.
PIECE_BYTES = 32768
VALUES = 1024

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


def row_parts(columns: Sequence[OutputColumn]) -> list[tuple[np.dtype[Any], str]]:
    """Parts of a row, hardly ever more than one: the layout with a field for each value, and the printf format."""
    row = row_dtype(columns)
    values = (
        (format_of(c.column), np.dtype(c.column.dtype), row.fields[c.column.name][1] + k * np.dtype(c.column.dtype).itemsize)
        for c in columns
        for k in range(c.count)
        if row.fields is not None
    )
    parts: list[tuple[np.dtype[Any], str]] = []
    while some := list(islice(values, VALUES)):
        formats, types, offsets = zip(*some, strict=True)
        names = [str(k) for k in range(len(some))]
        flat = np.dtype({"names": names, "formats": types, "offsets": offsets, "itemsize": row.itemsize})
        parts.append((flat, " ".join(formats) + " "))
    return [*parts[:-1], (parts[-1][0], parts[-1][1][:-1] + "\n")]


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
        self._parts = row_parts(columns)
        length = sum(len(text % ((0,) * len(flat.names or ()))) for flat, text in self._parts)
        self._step = max(1, PIECE_BYTES // length) if len(self._parts) == 1 else 1
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
        for first in range(0, len(rows), self._step):
            some = np.ascontiguousarray(rows[first : first + self._step])
            for flat, text in self._parts:
                self._file.append("".join([text % row for row in some.view(flat).tolist()]).encode())

    def end_extension(self, facts: ExtensionFacts) -> None:
        """Nothing."""

    def output(self) -> OutputFile | None:
        """The file."""
        return self._file

    def save(self) -> dict[str, Any]:
        """How long the text is."""
        return {"appended": self._file.appended}

    def restore(self, saved: Mapping[str, Any], frame: Frame | None) -> None:
        """Go on behind it."""
        self._file.appended = int(saved["appended"])

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
