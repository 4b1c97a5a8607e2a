"""Catalogues as they are read to be merged: their columns, and their rows in pieces.

FITS_1.0, FITS_LDAC and ASCII_HEAD, as ``sextract.catalogue`` writes them.  A text catalogue tells neither the types of its
columns, which are those of the measurements, nor where an extension ends, which the manifest knows.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.config.doors import built_columns
from sextract.errors import InputError

Rows = NDArray[np.void]

# Rows read at a time, bytes.
PIECE_BYTES = 4 << 20

FITS_TYPES = ("FITS_1.0", "FITS_LDAC")
_HEAD = re.compile(r"#\s*(\d+) (\S+)\s*(.*?)(?:\s+\[([^\]]*)\])?")
TYPES = (*FITS_TYPES, "ASCII_HEAD")


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a catalogue.

    Attributes
    ----------
    name : str
    dtype : str
        Type of one value, in native byte order.
    shape : tuple of int
        Of a row's values; empty for a scalar.
    unit, doc : str
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str = ""
    doc: str = ""

    @property
    def count(self) -> int:
        """Values a row."""
        return int(np.prod(self.shape, dtype=np.int64))


def row_dtype(fields: Sequence[Field]) -> np.dtype[Any]:
    """Layout of rows, packed."""
    return np.dtype([(f.name, f.dtype, f.shape) for f in fields])


def open_catalogue(path: str, kind: str, rows: Sequence[int]) -> Catalogue:
    """Open a catalogue.

    Parameters
    ----------
    path : str
    kind : str
        Its CATALOG_TYPE.
    rows : sequence of int
        Rows of each extension, as the manifest has it.

    Raises
    ------
    InputError
        It can't be read, its type is none that is, or it has other rows than the manifest says.
    """
    if kind not in TYPES:
        raise InputError(f"{path}: catalogues of CATALOG_TYPE {kind} can't be merged; it must be {', '.join(TYPES)}")
    return FitsCatalogue(path, rows) if kind in FITS_TYPES else TextCatalogue(path, rows)


class Catalogue(ABC):
    """A catalogue whose rows are read from its beginning to its end.

    Attributes
    ----------
    path : str
    counts : tuple of int
        Rows of each extension.
    fields : tuple of Field
    dtype : numpy dtype
        Layout of rows.
    """

    def __init__(self, path: str, counts: Sequence[int]) -> None:
        self.path = path
        self.counts = tuple(counts)
        self.fields: tuple[Field, ...] = ()

    def _take(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.dtype = row_dtype(fields)

    @property
    def piece(self) -> int:
        """Rows of a piece."""
        return max(1, PIECE_BYTES // self.dtype.itemsize)

    @abstractmethod
    def pieces(self) -> Iterator[tuple[int, Rows]]:
        """Which extension, from 0, and the next of its rows; InputError."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def _changed(self, found: str) -> InputError:
        wanted = " + ".join(map(str, self.counts)) or "no"
        return InputError(
            f"{self.path} has {found}, but its manifest says {wanted} rows: it isn't what was written; "
            f"have it made again with --resume"
        )

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class FitsCatalogue(Catalogue):
    """FITS_1.0 and FITS_LDAC: a table OBJECTS or LDAC_OBJECTS for each extension."""

    def __init__(self, path: str, counts: Sequence[int]) -> None:
        super().__init__(path, counts)
        import fitsio

        try:
            self._file = fitsio.FITS(path)
            self._tables = [hdu for hdu in self._file if hdu.get_extname() in ("OBJECTS", "LDAC_OBJECTS")]
            found = [hdu.get_nrows() for hdu in self._tables]
        except (OSError, ValueError) as exc:
            raise InputError(f"can't read the catalogue {path}: {_first_line(exc)}") from exc
        if found != list(counts) or not found:
            self.close()
            raise self._changed(f"{' + '.join(map(str, found)) or 'no'} rows")
        self._take(_fits_fields(self._tables[0]))

    def pieces(self) -> Iterator[tuple[int, Rows]]:
        """Rows of each table in turn."""
        for extension, hdu in enumerate(self._tables):
            for first in range(0, self.counts[extension], self.piece):
                try:
                    data = hdu[first : min(first + self.piece, self.counts[extension])]
                except (OSError, ValueError) as exc:
                    raise InputError(f"can't read the catalogue {self.path}: {_first_line(exc)}") from exc
                rows = np.empty(len(data), self.dtype)
                for name in self.dtype.names or ():
                    rows[name] = data[name].reshape(rows[name].shape)
                yield extension, rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _fits_fields(hdu: Any) -> list[Field]:
    """Columns of a table."""
    header = hdu.read_header()
    layout = hdu.get_rec_dtype()[0]
    out = []
    for k, name in enumerate(layout.names, 1):
        base, shape = layout[name].base, layout[name].shape
        comment = next((r["comment"] for r in header.records() if r["name"] == f"TTYPE{k}"), "") or ""
        out.append(Field(name, base.newbyteorder("=").str.lstrip("<=|"), shape, header.get(f"TUNIT{k}", ""), comment.strip()))
    return out


class TextCatalogue(Catalogue):
    """ASCII_HEAD: lines that name the columns, then a line for each row."""

    def __init__(self, path: str, counts: Sequence[int]) -> None:
        super().__init__(path, counts)
        try:
            self._file = open(path, encoding="ascii", errors="replace")  # noqa: SIM115
            head, line = [], self._file.readline()
            while line.startswith("#"):
                head.append(line)
                line = self._file.readline()
        except OSError as exc:
            raise InputError(f"can't read the catalogue {path}: {exc.strerror}") from exc
        self._first = [line] if line else []
        try:
            self._take(_text_fields(path, head, len(line.split())))
        except InputError:
            self.close()
            raise

    def pieces(self) -> Iterator[tuple[int, Rows]]:
        """Rows in turn, cut where the manifest says that an extension ends."""
        lines = iter(self._first)
        values = sum(field.count for field in self.fields)
        for extension, count in enumerate(self.counts):
            for first in range(0, count, self.piece):
                wanted = min(self.piece, count - first)
                some = list(islice(lines, wanted))
                lines = self._file
                some += islice(lines, wanted - len(some))
                flat = np.array(" ".join(some).split(), dtype=np.float64) if some else np.empty(0)
                if len(some) < wanted or flat.size != wanted * values:
                    raise self._changed("fewer or shorter lines")
                yield extension, self._rows(flat.reshape(wanted, values))
        if next(lines, ""):
            raise self._changed("more lines")

    def _rows(self, flat: NDArray[np.float64]) -> Rows:
        rows = np.empty(len(flat), self.dtype)
        at = 0
        for field in self.fields:
            rows[field.name] = flat[:, at : at + field.count].reshape(len(flat), *field.shape)
            at += field.count
        return rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _text_fields(path: str, head: Sequence[str], values: int) -> list[Field]:
    """Columns by the lines ``# n NAME comment [unit]``; a vector has as many values as are left before the next."""
    known = built_columns()
    starts, found = [], []
    for line in head:
        match = _HEAD.fullmatch(line.rstrip())
        if not match:
            raise InputError(f"{path} is no catalogue of CATALOG_TYPE ASCII_HEAD: its line {line.strip()!r} names no column")
        number, name, doc, unit = match.groups()
        starts.append(int(number))
        found.append((name, doc, unit or ""))
    if not found:
        raise InputError(f"{path} is no catalogue of CATALOG_TYPE ASCII_HEAD: no line names its columns")
    ends = [*starts[1:], values + 1 if values else starts[-1] + 1]
    out = []
    for (name, doc, unit), start, end in zip(found, starts, ends, strict=True):
        dtype = np.dtype(known[name].dtype).str.lstrip("<=|") if name in known else "f8"
        out.append(Field(name, dtype, (end - start,) if end - start > 1 else (), unit, doc))
    return out


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
