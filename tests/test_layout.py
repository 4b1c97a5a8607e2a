"""Rooms meet as ``docs/internals.md`` says: imports point one way, start-up is light, modules stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sextract

PACKAGE = Path(sextract.__file__).parent
# Each may import what stands before it, and itself.
ORDER = (
    ("errors", "dataclass", "records", "registry", "_version"),
    ("log",),
    ("config",),
    ("reading",),
    ("memory",),
    ("background",),
    ("detection",),
    ("deblending",),
    ("measurement",),
    ("catalogue",),
    ("checkimage",),
    ("execution",),
    ("report",),
    ("pipeline",),
    ("survey",),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
# Names are checked against the registries of rooms that come later; nothing else may look ahead.
LOOKS_AHEAD = "config/doors.py"
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
SOURCES = sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".pyx", ".pxd"))
CIMPORT = re.compile(r"^\s*(?:from\s+(sextract[\w.]*)\s+c?import|c?import\s+(sextract[\w.]*))", re.MULTILINE)


def room_of(path: Path) -> str:
    """The room a file is in: the folder below the package, or its own name."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, at its head or inside a function."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from (a or b for a, b in CIMPORT.findall(text))
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "sextract")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} has no place in the order of rooms"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "sextract" and len(parts) > 1 and parts[1] in RANK and not str(path).endswith(LOOKS_AHEAD):
            assert RANK[parts[1]] <= RANK[room], f"{room} imports {name}, which comes later"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix != ".pxd"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("room", [room for rooms in ORDER[1:-3] for room in rooms])
def test_rooms_load_without_the_heavy_libraries(room: str) -> None:
    # A worker that has astropy or scipy loaded holds 43 MiB more.
    code = f"import sys, sextract.{room}; print([m for m in ('astropy', 'scipy', 'tqdm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"
