"""Surveys for merges: catalogues of sources that are known, and manifests as SQLite has them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
from numpy.typing import NDArray

from sextract.survey.manifest import Entry, ExtensionEntry

Rows = NDArray[Any]

LAYOUT = [
    ("NUMBER", "i4"), ("X_IMAGE", "f4"), ("Y_IMAGE", "f4"), ("ALPHA_J2000", "f8"), ("DELTA_J2000", "f8"),
    ("FLUX_APER", "f4", (3,)), ("SNR_WIN", "f4"), ("FLAGS", "i2"),
]  # fmt: skip
UNITS = ["", "pixel", "pixel", "deg", "deg", "count", "", ""]


def rows_at(ra: Sequence[float], dec: Sequence[float], **values: Any) -> Rows:
    """Rows of a catalogue, in the middle of their frame unless said otherwise."""
    rows = np.zeros(len(ra), LAYOUT)
    rows["NUMBER"] = np.arange(1, len(ra) + 1)
    rows["X_IMAGE"] = rows["Y_IMAGE"] = 50.0
    rows["SNR_WIN"] = 10.0
    rows["ALPHA_J2000"], rows["DELTA_J2000"] = ra, dec
    for name, value in values.items():
        rows[name] = value
    return rows


def write_catalogue(path: Path, tables: Sequence[Rows]) -> None:
    """FITS_1.0 with a table for each extension."""
    path.unlink(missing_ok=True)
    with fitsio.FITS(str(path), "rw") as file:
        for table in tables:
            file.write(table, extname="OBJECTS", units=UNITS[: len(table.dtype.names)])


def survey(
    folder: Path,
    catalogues: Mapping[int, Sequence[Rows]],
    *,
    manifest: str = "sextract.manifest",
    states: Mapping[int, str] | None = None,
    size: int = 100,
    reverse: bool = False,
) -> Path:
    """A survey whose image k has these tables; its manifest.

    Parameters
    ----------
    folder : Path
    catalogues : mapping
        Number of an image -> rows of each extension.
    manifest : str
    states : mapping, optional
        Images that aren't done, by number.
    size : int
        Width and height of a frame, pixels of 0.5 arcsec.
    reverse : bool
        Images were done in the opposite order.
    """
    folder.mkdir(exist_ok=True)
    entries, extensions = [], []
    for number, tables in catalogues.items():
        name = f"{number}.cat.fits"
        write_catalogue(folder / name, tables)
        rows = sum(map(len, tables))
        entries.append(
            Entry(number, f"night/{number}.fits", name, "FITS_1.0", "done", rows=rows, detected=rows, seconds=1.5, peak_bytes=9)
        )
        extensions += [
            ExtensionEntry(number, k, size, size, 100.0, 5.0, 7.5, 1.0, 0.5, 25.0, len(table), len(table))
            for k, table in enumerate(tables, 1)
        ]
    for number, state in (states or {}).items():
        error = "it is truncated" if state == "failed" else ""
        entries.append(Entry(number, f"night/{number}.fits", f"{number}.cat.fits", "FITS_1.0", state, error=error))
    if reverse:
        entries.reverse()
        extensions.reverse()
    path = folder / manifest
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE survey (key TEXT PRIMARY KEY, value TEXT)")
    db.executemany("INSERT INTO survey VALUES (?, ?)", [("version", "1"), ("software", "test"), ("folder", str(folder))])
    for table, kind, items in (("images", Entry, entries), ("extensions", ExtensionEntry, extensions)):
        db.execute(f"CREATE TABLE {table} ({', '.join(kind._fields)})")
        db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(kind._fields))})", items)
    db.commit()
    db.close()
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def change_outputs(manifest: Path, number: int, **values: Any) -> None:
    """Change what a manifest says of an image."""
    db = sqlite3.connect(manifest)
    for name, value in values.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        db.execute(f"UPDATE images SET {name} = ? WHERE number = ?", (text, number))
    db.commit()
    db.close()
