"""FITS_1.0 and FITS_LDAC: binary tables appended row by row, headers whose text is SExtractor's.

A table is written forward only: its header with a blank count, rows as they come, and at its end the header again with
NAXIS2 and the sums.  So memory is one piece of rows, and a table may have any length.  What the cards say is in
``keywords.py``.

References
----------
FITS standard 4.0, section 7.3 (binary tables).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.catalogue import cards, keywords
from sextract.catalogue.output import OutputFile
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
from sextract.errors import ConfigError
from sextract.records import Frame

# Rows converted and written at a time, unless a single row is larger.
PIECE_BYTES = 65536

_TFORM = {"i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D", "u1": "B"}


@lru_cache(maxsize=4)
def column_cards(columns: tuple[OutputColumn, ...]) -> tuple[str, ...]:
    """TTYPE, TFORM, TDIM, TUNIT and TDISP of each column, in SExtractor's order and layout."""
    out = []
    for i, item in enumerate(columns, 1):
        column = item.column
        out.append(cards.text(f"TTYPE{i}", column.name, column.doc))
        out.append(cards.text(f"TFORM{i}", f"{item.count}{_TFORM[column.dtype.lstrip('<')]}"))
        if len(item.dims) > 1:
            out.append(cards.text(f"TDIM{i}", f"({', '.join(map(str, item.dims))})"))
        if column.unit:
            out.append(cards.text(f"TUNIT{i}", column.unit))
        if column.display:
            out.append(cards.text(f"TDISP{i}", column.display))
    return tuple(out)


def table_header(name: str, row_bytes: int, nrows: int, fields: Sequence[str], count: int) -> list[str]:
    """Header cards of a binary table, without END."""
    return [
        cards.text("XTENSION", "BINTABLE", "THIS IS A BINARY TABLE (FROM THE LDACTOOLS)"),
        cards.integer("BITPIX", 8, " "),
        cards.integer("NAXIS", 2, " "),
        cards.integer("NAXIS1", row_bytes, "BYTES PER ROW"),
        cards.integer("NAXIS2", nrows, "NUMBER OF ROWS"),
        cards.integer("PCOUNT", 0, "RANDOM PARAMETER COUNT"),
        cards.integer("GCOUNT", 1, "GROUP COUNT"),
        cards.integer("TFIELDS", count, "FIELDS PER ROWS"),
        cards.text("EXTNAME", name, "TABLE NAME"),
        *fields,
    ]


PRIMARY = [
    cards.logical("SIMPLE", True, "This is a FITS file"),
    cards.integer("BITPIX", 8, " "),
    cards.integer("NAXIS", 0, " "),
    cards.logical("EXTEND", True, "This file may contain FITS extensions"),
]


class TableStream:
    """One binary table that grows at the end of a file.

    Parameters
    ----------
    file : OutputFile
    start : int
        Position of its header, a whole number of blocks.
    header : callable
        ``header(nrows, facts) -> cards``; the number of cards must not depend on either.
    dtype : numpy dtype
        Rows in native order.
    """

    def __init__(
        self,
        file: OutputFile,
        start: int,
        header: Callable[[int, ExtensionFacts], list[str]],
        dtype: np.dtype[Any],
    ) -> None:
        self.file = file
        self.start = start
        self.header = header
        self.nrows = 0
        self.sum = cards.RunningSum()
        self._native = dtype
        big = dtype.newbyteorder(">")
        self._piece: NDArray[np.void] = np.empty(max(1, PIECE_BYTES // max(dtype.itemsize, 1)), big)
        blank = cards.sealed(header(0, ExtensionFacts()), 0)
        self.data = start + len(blank)
        file.pwrite(blank, start)

    def write(self, rows: Rows) -> None:
        """Append rows."""
        if rows.dtype != self._native:
            raise TypeError(f"rows have the layout {rows.dtype}, the columns {self._native}")
        size = len(self._piece)
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            piece = self._piece[: len(part)]
            piece[...] = part
            view = piece.view(np.uint8).data
            self.file.pwrite(view, self.data + self.sum.nbytes)
            self.sum.add(view)
        self.nrows += len(rows)

    def finish(self, facts: ExtensionFacts) -> int:
        """Pad the data, write the final header; returns the position behind the table."""
        pad = cards.padding(self.sum.nbytes)
        end = self.data + self.sum.nbytes + pad
        if pad:
            self.file.pwrite(bytes(pad), end - pad)
        header = cards.sealed(self.header(self.nrows, facts), self.sum.value)
        self.file.pwrite(header, self.start)
        return end


class FitsWriter(ClosesItself):
    """FITS_1.0: a primary header and a table OBJECTS per extension."""

    table_name = "OBJECTS"

    def __init__(self, path: str, columns: Sequence[OutputColumn], run: RunFacts) -> None:
        if is_standard_output(path):
            raise ConfigError(
                "a FITS catalogue can't go to standard output; give it a file with -o, or set CATALOG_TYPE ASCII_HEAD"
            )
        self.columns = tuple(columns)
        self.run = run
        self.dtype = row_dtype(self.columns)
        self._fields = column_cards(self.columns)
        self._frame = Frame(0, 0)
        self._total = ExtensionFacts()
        self._table: TableStream | None = None
        self._file = OutputFile(path, OPTION, settled=not run.settings.resources.hosted)
        self._begin = self._end = 0
        try:
            self._write_primary()
        except BaseException:
            self._file.abort()
            raise

    def _primary(self) -> list[str]:
        return [
            *PRIMARY,
            *keywords.primary(self.columns, self.run, self._frame, self._total),
            *keywords.provenance(self.run, self._total),
        ]

    def _write_primary(self) -> None:
        header = cards.sealed(self._primary(), 0)
        self._file.pwrite(header, 0)
        self._end = self._end or len(header)

    def begin_extension(self, frame: Frame) -> None:
        """Rows of this image extension follow."""
        self._frame, self._begin = frame, self._end
        self._begin_table()

    def _begin_table(self) -> None:
        self._table = TableStream(self._file, self._end, self._table_header, self.dtype)

    def _table_header(self, nrows: int, facts: ExtensionFacts) -> list[str]:
        fields: Sequence[str] = self._fields
        if self.run.extensions > 1:
            fields = [*fields, *keywords.table_cards(self._frame, facts, self.run)]
        return table_header(self.table_name, self.dtype.itemsize, nrows, fields, len(self.columns))

    def write(self, rows: Rows) -> None:
        """Append rows."""
        if self._table is None:
            raise RuntimeError("rows outside an extension")
        self._table.write(rows)

    def end_extension(self, facts: ExtensionFacts) -> None:
        """No more rows of this extension."""
        if self._table is None:
            raise RuntimeError("no extension was begun")
        self._end = self._table.finish(facts)
        self._table = None
        self._total = replace(
            facts,
            detected=self._total.detected + facts.detected,
            extracted=self._total.extracted + facts.extracted,
        )

    def output(self) -> OutputFile | None:
        """The file."""
        return self._file

    def save(self) -> dict[str, Any]:
        """Where this extension begins, its rows and their sum so far, and what headers tell of it and of those before."""
        table, total = self._table, self._total
        return {
            "begin": self._end if table is None else self._begin,
            "rows": None if table is None else [table.nrows, table.sum.nbytes, table.sum.value],
            "frame": self._frame,
            "total": [total.detected, total.extracted, total.environment],
        }

    def restore(self, saved: Mapping[str, Any], frame: Frame | None) -> None:
        """Go on behind the last row; headers are written when the extension ends."""
        detected, extracted, environment = saved["total"]
        self._end, self._frame = int(saved["begin"]), Frame(*saved["frame"])
        self._total = ExtensionFacts(
            detected=detected, extracted=extracted, environment=tuple((name, value) for name, value in environment)
        )
        if saved["rows"] is not None and frame is not None:
            self.begin_extension(frame)
            assert self._table is not None
            self._table.nrows, self._table.sum.nbytes, self._table.sum.value = map(int, saved["rows"])

    def close(self) -> None:
        """Finish the file and move it in place."""
        if not self._file.done:
            self._write_primary()
            self._file.commit()

    def abort(self) -> None:
        """Remove what was written."""
        self._file.abort()


class LdacWriter(FitsWriter):
    """FITS_LDAC: an empty primary, then a pair LDAC_IMHEAD, LDAC_OBJECTS per extension."""

    table_name = "LDAC_OBJECTS"

    def _primary(self) -> list[str]:
        return [*PRIMARY, *keywords.provenance(self.run, self._total)]

    def _begin_table(self) -> None:
        self._imhead_start = self._end
        self._end = self._write_imhead(ExtensionFacts())
        super()._begin_table()

    def _table_header(self, nrows: int, facts: ExtensionFacts) -> list[str]:
        return table_header(self.table_name, self.dtype.itemsize, nrows, self._fields, len(self.columns))

    def _write_imhead(self, facts: ExtensionFacts) -> int:
        """Write the table that holds the image header; returns the position behind it."""
        lines = [*keywords.image_header(self._frame, facts, self.columns, self.run), cards.END]
        size = len(lines) * cards.CARD
        fields = [
            cards.text("TTYPE1", "Field Header Card"),
            cards.text("TFORM1", f"{size}A"),
            cards.text("TDIM1", f"({cards.CARD}, {len(lines)})"),
        ]
        data = "".join(lines).encode("ascii", "replace")
        data += bytes(cards.padding(size))
        total = cards.RunningSum()
        total.add(data)
        header = cards.sealed(table_header("LDAC_IMHEAD", size, 1, fields, 1), total.value)
        self._file.pwrite(header + data, self._imhead_start)
        return self._imhead_start + len(header) + len(data)

    def end_extension(self, facts: ExtensionFacts) -> None:
        """No more rows of this extension: its image header is written again, with the counts."""
        super().end_extension(facts)
        self._write_imhead(facts)


@catalogue("FITS_1.0")
def fits_1_0(path: str, columns: Sequence[OutputColumn], run: RunFacts) -> CatalogueWriter:
    """A FITS binary table OBJECTS per image extension, after an empty primary."""
    return FitsWriter(path, columns, run)


@catalogue("FITS_LDAC")
def fits_ldac(path: str, columns: Sequence[OutputColumn], run: RunFacts) -> CatalogueWriter:
    """Per image extension a table LDAC_IMHEAD with the image's header and a table LDAC_OBJECTS, for psfex and scamp."""
    return LdacWriter(path, columns, run)
