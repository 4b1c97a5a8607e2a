"""The door of catalogues: what a writer gets, what it promises, and the registry of output formats.

A format is one file of this package that registers a factory under its CATALOG_TYPE:

    @catalogue("ASCII")
    def ascii(path, columns, run): return AsciiWriter(...)

A writer gets extensions in turn and blocks of rows in NUMBER order, and holds none of them: its memory doesn't depend
on how many there are.  Rows are structured arrays in native byte order with the layout of `row_dtype`.  What it wrote
appears under its name only after `close`.  Where rows come from is ``pipeline``; how files become whole is
``output.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sextract.catalogue.output import OutputFile
from sextract.config.settings import Settings
from sextract.errors import ConfigError
from sextract.records import Column, Frame
from sextract.registry import Registry

Rows = NDArray[np.void]

# The options that name a catalogue, for messages.
OPTION = "-o or CATALOG_NAME"


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A requested column and the length it was requested with.

    Attributes
    ----------
    column : Column
    dims : tuple of int
        The ``(n)`` or ``(n,m)`` of the parameter file, n varying fastest; empty for a scalar.
    """

    column: Column
    dims: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Values per row."""
        return int(np.prod(self.dims, dtype=np.int64)) if self.dims else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row's value as an array: (n,) or (m, n); empty for a scalar."""
        return self.dims[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a catalogue's headers tell of the run.

    Attributes
    ----------
    settings : Settings
    file_name : str
        The analysed image.
    extensions : int
        Image extensions that will be written.
    software : str
        Name and version of the program.
    config_name : str
        Configuration file that was read; empty if none.
    versions : tuple of (name, version)
        Libraries that may change a number.
    datasums : tuple of (name, sum)
        DATASUM of every input: images, kernel, neural network.
    environment : tuple of (keyword, value, comment)
        Facts of this very run, such as date and host; written only where ``provenance`` is ``full``, because they
        change from run to run.
    """

    settings: Settings = field(default_factory=Settings)
    file_name: str = ""
    extensions: int = 1
    software: str = "sextract"
    config_name: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    datasums: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionFacts:
    """What is known of an extension once its last row is written.

    Attributes
    ----------
    detected, extracted : int
        SEXNDET and SEXNFIN: sources before and after CLEAN.
    environment : tuple of (keyword, value)
        What keywords of `RunFacts.environment` have become, such as seconds and peak.
    """

    detected: int = 0
    extracted: int = 0
    environment: tuple[tuple[str, str], ...] = ()


class CatalogueWriter(Protocol):
    """A catalogue that is being written.

    Every method raises `OutputError` if the file can't take what is written.
    """

    def begin_extension(self, frame: Frame) -> None:
        """Rows of this image extension follow."""

    def write(self, rows: Rows) -> None:
        """Append rows, (n,) of `row_dtype`; n may be 0."""

    def end_extension(self, facts: ExtensionFacts) -> None:
        """No more rows of this extension."""

    def close(self) -> None:
        """Finish the file and move it in place; a second call does nothing."""

    def abort(self) -> None:
        """Leave nothing behind, unless `close` was called."""

    def __enter__(self) -> CatalogueWriter: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None: ...


@runtime_checkable
class Resumable(Protocol):
    """What a writer offers beside if a run that writes it can be resumed from a checkpoint.

    The pipeline keeps the file; a writer says in a few numbers where in it stands.
    """

    def output(self) -> OutputFile | None:
        """The file that is written; None if there is none."""

    def save(self) -> dict[str, Any]:
        """Where it stands, for JSON."""

    def restore(self, saved: Mapping[str, Any], frame: Frame | None) -> None:
        """Go on from there; `frame` is that of the extension in whose middle this is."""


Factory = Callable[[str, Sequence[OutputColumn], RunFacts], CatalogueWriter]

CATALOGUES: Registry[Factory] = Registry("catalogue", "sextract.catalogue")


def catalogue(name: str) -> Callable[[Factory], Factory]:
    """Register a format under its CATALOG_TYPE."""

    def register(factory: Factory) -> Factory:
        return CATALOGUES.add(name, factory)

    return register


class ClosesItself(ABC):
    """`with` for writers: left in order they close, left by an exception they abort."""

    @abstractmethod
    def close(self) -> None:
        """Finish."""

    @abstractmethod
    def abort(self) -> None:
        """Give up."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise


class NoCatalogue(ClosesItself):
    """CATALOG_TYPE NONE: takes everything and writes nothing."""

    def begin_extension(self, frame: Frame) -> None:
        """Nothing."""

    def write(self, rows: Rows) -> None:
        """Nothing."""

    def end_extension(self, facts: ExtensionFacts) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""

    def output(self) -> OutputFile | None:
        """None."""
        return None

    def save(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, saved: Mapping[str, Any], frame: Frame | None) -> None:
        """Nothing."""


@catalogue("NONE")
def no_catalogue(path: str, columns: Sequence[OutputColumn], run: RunFacts) -> CatalogueWriter:
    """No catalogue, for runs that only make check-images."""
    return NoCatalogue()


def row_dtype(columns: Sequence[OutputColumn]) -> np.dtype[Any]:
    """Layout of a block of rows: packed, native byte order, a field per column in the order requested."""
    return np.dtype([(c.column.name, c.column.dtype, c.shape) for c in columns])


def open_writer(catalog_type: str, path: str, columns: Sequence[OutputColumn], run: RunFacts) -> CatalogueWriter:
    """Begin a catalogue; its temporary file exists from here on, so that a bad destination fails early.

    Parameters
    ----------
    catalog_type : str
        CATALOG_TYPE.
    path : str
        CATALOG_NAME; ``STDOUT`` or ``-`` is standard output, for the ASCII forms.
    columns : sequence of OutputColumn
    run : RunFacts

    Raises
    ------
    ConfigError
        There is no such format, or it can't be written to standard output.
    OutputError
        The destination can't be written.
    """
    if catalog_type not in CATALOGUES:
        raise ConfigError(f"CATALOG_TYPE {catalog_type} is not known; choose one of {', '.join(CATALOGUES)}")
    return CATALOGUES.get(catalog_type)(path, tuple(columns), run)


def is_standard_output(path: str) -> bool:
    """Whether a CATALOG_NAME means standard output."""
    return path in ("STDOUT", "-")
