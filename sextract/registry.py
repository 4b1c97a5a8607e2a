"""One generic registry: add, get, fill from a package folder and from entry points, order by ``needs``.

A door (measurement, catalogue, check-image, reader) owns one instance.  What is wrong with an entry is refused when it
registers, not when it is used.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Named entries of one kind.

    Parameters
    ----------
    kind : str
        What an entry is called in messages, and the entry-point group ``sextract.<kind>``.
    package : str
        Package whose modules register themselves when imported.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._scanned = False

    def add(self, name: str, entry: T) -> T:
        """Register `entry`; a name taken twice is an error."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def scan(self) -> None:
        """Import every public module of the package and every entry point, once."""
        if self._scanned:
            return
        self._scanned = True
        package = importlib.import_module(self.package)
        for module in _public_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module}")
        if has_entry_points(tuple(sys.path)):
            from importlib.metadata import entry_points

            for point in sorted(entry_points(group=f"sextract.{self.kind}"), key=lambda p: p.name):
                point.load()

    def get(self, name: str) -> T:
        """The entry called `name`; KeyError if there is none."""
        self.scan()
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self.scan()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self.scan()
        return iter(sorted(self._entries))

    def ordered(self, names: Iterable[str], needs: Callable[[T], Iterable[str]]) -> list[str]:
        """`names` and all they need, each after what it needs; a circle is an error."""
        self.scan()
        done: list[str] = []
        path: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            if name in path:
                raise ValueError(f"{self.kind}s need each other in a circle: {' → '.join([*path, name])}")
            path.append(name)
            for other in needs(self.get(name)):
                visit(other)
            path.pop()
            done.append(name)

        for name in names:
            visit(name)
        return done


def _public_modules(folders: Iterable[str]) -> list[str]:
    """Names of the pure Python modules of a package, by name, kernels and private ones left out."""
    return sorted(
        {name[:-3] for folder in folders for name in os.listdir(folder) if name.endswith(".py") and name[0] != "_"}
    )


@cache
def has_entry_points(path: Sequence[str]) -> bool:
    """Whether any distribution installed in the folders of `path` offers entry points to sextract.

    ``importlib.metadata`` takes 4 MiB in every process of a run, so it is asked only if there is something to find.
    """
    return any(b"[sextract." in text for folder in path for text in _entry_point_files(folder or "."))


def _entry_point_files(folder: str) -> Iterator[bytes]:
    """Contents of the entry-point files of the distributions installed in a folder."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                    yield file.read()
            except OSError:
                continue
