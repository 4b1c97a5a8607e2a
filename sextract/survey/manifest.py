"""The manifest of a survey: one SQLite file that tells of each image what became of it.

Only the process that runs the survey writes it.  Changes are committed about once a second, so that a survey that is killed
redoes at most what it did in the last one.  Tables: ``survey`` (key, value), ``images`` (an `Entry` each) and ``extensions``
(an `ExtensionEntry` each).  What is still valid is ``__init__.py``'s to say.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sextract.catalogue.output import sync_folder
from sextract.errors import OutputError
from sextract.survey.job import Job, Outcome

if TYPE_CHECKING:
    import sqlite3

FORMAT = "1"
TABLES = ("survey", "images", "extensions")
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"

# How long what happened may be unwritten.
_COMMIT_SECONDS = 1.0


class Entry(NamedTuple):
    """A row of ``images``.

    Attributes
    ----------
    number : int
        Place in the survey, from 1.
    image, catalogue, catalogue_type : str
        As named; relative names refer to the survey's ``folder``.
    state : str
        waiting, running, done or failed; where a survey was killed, running is what it was at.
    configuration, input : str
        See `job.fingerprint` and `job.identity`.
    outputs : str
        JSON: name → [bytes, SHA-256 or ""].
    attempts : int
        How often it was begun.
    rows, detected : int or None
    seconds : float or None
    peak_bytes, limit_bytes, workers : int or None
        Of the processes that did it.
    host, started, finished : str
        The latter in UTC.
    exit_code : int or None
    error : str
    flags : str
        JSON: bit of FLAGS → rows that have it.
    """

    number: int
    image: str
    catalogue: str
    catalogue_type: str
    state: str = WAITING
    configuration: str = ""
    input: str = ""
    outputs: str = "{}"
    attempts: int = 0
    rows: int | None = None
    detected: int | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    workers: int | None = None
    host: str = ""
    started: str = ""
    finished: str = ""
    exit_code: int | None = None
    error: str = ""
    flags: str = "{}"

    @property
    def files(self) -> dict[str, tuple[int, str]]:
        """Outputs: name → bytes and SHA-256."""
        return {name: (int(nbytes), str(total)) for name, (nbytes, total) in json.loads(self.outputs).items()}


class ExtensionEntry(NamedTuple):
    """A row of ``extensions``: an image extension's size, levels (ADU), gain, scale (arcsec), zero-point and sources."""

    number: int
    extension: int
    width: int
    height: int
    background: float
    rms: float
    threshold: float
    gain: float
    pixel_scale: float
    zeropoint: float
    detected: int
    extracted: int


_TEXT = ("image", "catalogue", "catalogue_type", "state", "configuration", "input", "outputs", "host", "started", "finished")
_TYPES = {"seconds": "REAL", "error": "TEXT", "flags": "TEXT", **dict.fromkeys(_TEXT, "TEXT")}
_REAL = ("background", "rms", "threshold", "gain", "pixel_scale", "zeropoint")
_SCHEMA = f"""
CREATE TABLE survey (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE images ({", ".join(f"{name} {_TYPES.get(name, 'INTEGER')}" for name in Entry._fields)}, PRIMARY KEY (number));
CREATE TABLE extensions (
    {", ".join(f"{name} {'REAL' if name in _REAL else 'INTEGER'}" for name in ExtensionEntry._fields)},
    PRIMARY KEY (number, extension)
);
"""


class Manifest:
    """A manifest that is being written.

    Parameters
    ----------
    path : str

    Raises
    ------
    OutputError
        It can't be written, another survey writes to it, or it is something else.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._dirty = False
        self._broken: OutputError | None = None
        self._due = 0.0
        self._folders: set[str] = set()
        with self._translated():
            self._db = _connect(path)
            # Before the lock is ours, so that whoever comes second hears of it at once.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("BEGIN EXCLUSIVE")
            names = {str(name) for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if names and not names.issuperset(TABLES):
                raise OutputError(f"{path} is a database, but no manifest of sextract; name another one with --manifest")

    def begin(self, facts: Mapping[str, str], entries: Iterable[Entry], valid: Callable[[Entry, Entry], bool]) -> int:
        """Put new entries in place of those that are there, but for what is done and valid.

        Parameters
        ----------
        facts : mapping
            For table ``survey``.
        entries : iterable of Entry
            In ascending order of number.
        valid : callable
            ``(earlier, new)`` -> whether an earlier entry of the same image and catalogue that is done still holds.

        Returns
        -------
        int
            How many were kept.
        """
        kept = 0
        with self._translated():
            earlier = _has_tables(self._db)
            for table in TABLES if earlier else ():
                self._db.execute(f"DROP TABLE IF EXISTS earlier_{table}")
                self._db.execute(f"ALTER TABLE {table} RENAME TO earlier_{table}")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._db.execute(statement)
            if earlier:
                self._db.execute("CREATE INDEX earlier ON earlier_images (catalogue, image)")
            self._db.executemany("INSERT INTO survey VALUES (?, ?)", {"format": FORMAT, **facts}.items())
            for entry in entries:
                found = self._earlier(entry) if earlier else None
                if found is not None and valid(found, entry):
                    kept += 1
                    self._keep_extensions(found.number, entry.number)
                    entry = found._replace(number=entry.number)
                self._insert("images", [entry])
            for table in TABLES if earlier else ():
                self._db.execute(f"DROP TABLE earlier_{table}")
        self._dirty = True
        self.commit()
        return kept

    def _earlier(self, entry: Entry) -> Entry | None:
        """The entry of the same image and catalogue, if that is done."""
        query = f"SELECT {', '.join(Entry._fields)} FROM earlier_images WHERE catalogue = ? AND image = ? AND state = ?"
        row = self._db.execute(query, (entry.catalogue, entry.image, DONE)).fetchone()
        return None if row is None else Entry._make(row)

    def _keep_extensions(self, before: int, number: int) -> None:
        names = ", ".join(ExtensionEntry._fields[1:])
        query = f"INSERT OR REPLACE INTO extensions SELECT ?, {names} FROM earlier_extensions WHERE number = ?"
        self._db.execute(query, (number, before))

    def waiting(self) -> list[int]:
        """Numbers of the images that aren't done."""
        with self._translated():
            return [int(n) for (n,) in self._db.execute("SELECT number FROM images WHERE state <> ? ORDER BY number", (DONE,))]

    def _insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        width = len(Entry._fields if table == "images" else ExtensionEntry._fields)
        self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * width)})", rows)

    def started(self, job: Job) -> None:
        """A job was given to an engine."""
        self._update(job.number, state=RUNNING, attempts=job.attempt)

    def stopped(self) -> None:
        """What runs was cut off."""
        with self._translated():
            self._db.execute("UPDATE images SET state = ? WHERE state = ?", (WAITING, RUNNING))
        self._dirty = True

    def finished(self, outcome: Outcome, zeropoint: float) -> None:
        """A job has come to its end."""
        s = outcome.summary
        self._folders.update(os.path.dirname(os.path.abspath(name)) for name, _, _ in outcome.outputs)
        extensions = [
            ExtensionEntry(
                outcome.number, k, e.width, e.height, e.background, e.rms, e.threshold, e.gain, e.pixel_scale, zeropoint,
                e.detected, e.extracted,
            )
            for k, e in enumerate(s.extensions if s else (), 1)
        ]  # fmt: skip
        # A signal may come in between: what is done has its extensions.
        with self._translated():
            self._insert("extensions", extensions)
        self._update(
            outcome.number, state=FAILED if outcome.exit_code else DONE, configuration=outcome.configuration,
            input=outcome.input, seconds=outcome.seconds,
            outputs=json.dumps({name: [nbytes, total] for name, nbytes, total in outcome.outputs}),
            host=outcome.host, started=_utc(outcome.started), finished=_utc(outcome.finished), exit_code=outcome.exit_code,
            error=outcome.error, rows=s and s.sources, detected=s and s.detected, peak_bytes=s and s.peak_bytes,
            limit_bytes=s and s.limit_bytes, workers=s and s.workers, flags=json.dumps(s.flags if s else {}),
        )  # fmt: skip

    def _update(self, number: int, **values: Any) -> None:
        with self._translated():
            names = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(f"UPDATE images SET {names} WHERE number = ?", (*values.values(), number))
        self._dirty = True

    def commit(self, now: bool = True) -> None:
        """Write what has happened, or see whether it is time to."""
        if self._dirty and (now or time.monotonic() >= self._due):
            # What it says is done must be on the disk before.
            for folder in self._folders:
                sync_folder(folder)
            self._folders.clear()
            with self._translated():
                # No transaction is open if a signal came between these two before.
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
                self._db.execute("BEGIN EXCLUSIVE")
            self._dirty, self._due = False, time.monotonic() + _COMMIT_SECONDS

    def close(self) -> None:
        """Write everything and let go of the file."""
        try:
            self.commit()
        finally:
            self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns SQLite's errors into an OutputError that names the file; after the first it stays with that."""
        import sqlite3

        if self._broken is not None:
            raise self._broken
        try:
            yield
        except sqlite3.Error as exc:
            why = "another survey is writing to it" if "locked" in str(exc) else str(exc)
            self._broken = OutputError(f"can't write the manifest {self.path}: {why}; choose another place with --manifest")
            raise self._broken from exc

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Survey(NamedTuple):
    """A manifest that was read.

    Attributes
    ----------
    facts : dict
        Table ``survey``: version, software, folder, command, started.
    images : list of Entry
    extensions : list of ExtensionEntry
    """

    facts: dict[str, str]
    images: list[Entry]
    extensions: list[ExtensionEntry]


def read_manifest(path: str) -> Survey:
    """Read a manifest, whether or not its survey has ended.

    Raises
    ------
    OutputError
        It isn't there, or is none.
    """
    import sqlite3

    try:
        if not os.path.isfile(path):
            raise sqlite3.OperationalError("there is no such file")
        with closing(_connect(path)) as db:
            facts = {str(key): str(value) for key, value in db.execute("SELECT key, value FROM survey")}
            return Survey(facts, list(_entries(db)), list(_extensions(db)))
    except sqlite3.Error as exc:
        raise OutputError(f"can't read the manifest {path}: {exc}") from exc


def _connect(path: str) -> sqlite3.Connection:
    import sqlite3

    return sqlite3.connect(path, timeout=1.0, isolation_level=None)


def _has_tables(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'images'").fetchone()[0])


def _entries(db: sqlite3.Connection) -> Iterator[Entry]:
    rows = db.execute(f"SELECT {', '.join(Entry._fields)} FROM images ORDER BY number")
    return map(Entry._make, rows)


def _extensions(db: sqlite3.Connection) -> Iterator[ExtensionEntry]:
    rows = db.execute(f"SELECT {', '.join(ExtensionEntry._fields)} FROM extensions ORDER BY number, extension")
    return map(ExtensionEntry._make, rows)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
