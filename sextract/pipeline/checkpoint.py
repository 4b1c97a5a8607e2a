"""Checkpoints: what a run leaves on the disk from time to time, so that one that is killed goes on from there (--resume).

One is taken after the background of an extension, then every N rows of tiles (CHECKPOINT), and when an extension is done.
It lies in a folder beside the catalogue:

    state           what the run knows (``statefile.py``):
                      what it belongs to  input, configuration, software, kernels
                      the run's           extensions done, counters, where the writer stands, lengths of the files below
                      an extension's      background maps; and in the middle of the scan:
                        components.Components   open components: the runs of the last row, pieces of each
                        SourceTable             sources not yet measured, CLEAN's window, fragments that CLEAN freed
                        Measuring               rows that wait for others, sources they wait for
    catalogue, SEGMENTATION, …      outputs in progress; of those for another folder in one of the same name there
    rows            rows that wait for sky positions, if these come late
    drawn-K         outlines are being drawn into the APERTURES of extension K

What isn't in it: pixels, and runs of tiles, which are found again where somebody looks at them (`tasks.Desk.have_runs`).
Nothing in it depends on limit, workers or tiles, so a run may be resumed with others.  What comes behind the
lengths is written again with the same bytes.  Each owner of state saves and restores its own; here is when, and whether
a checkpoint may be used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from sextract.catalogue.keywords import sha256_class
from sextract.catalogue.output import OutputFile, explain, sync_folder
from sextract.catalogue.writer import CatalogueWriter, Resumable, RunFacts, is_standard_output
from sextract.checkimage.apertures import ApertureImage
from sextract.checkimage.checkimage import CheckImages
from sextract.config.settings import Settings
from sextract.errors import ConfigError, OutputError
from sextract.log import Reporter
from sextract.memory.budget import size_text
from sextract.pipeline.facts import ExtensionSummary, fingerprint
from sextract.pipeline.shelf import Shelf
from sextract.pipeline.statefile import StateReader, StateWriter
from sextract.reading.source import ImageSource
from sextract.records import Frame

if TYPE_CHECKING:
    from sextract.pipeline.plan import Run

# Of what is in a state file; another number isn't read.
FORMAT = 1

# Where rows wait for sky positions in a resumed run that has room to do without: buffers to complete them in.
SHELF_BYTES = 1 << 20

# Counters of a run.
_COUNTERS = ("written", "detected", "parents", "beyond", "barren")

# What to say of a checkpoint that belongs to something else.
_CHANGED = {
    "input": "the image has changed since",
    "configuration": "it was taken with another configuration",
    "software": "it was taken by another version of the software",
    "kernels": "it was taken by another build of the kernels",
}


# No reason to warn.
_NONE = "there is none"
NOTHING = "Nothing to resume, there is no checkpoint in {}: the run begins anew"

OUTLINES = ".outlines"


class Saves(Protocol):
    """The extension that is being worked on."""

    def save(self, out: StateWriter) -> dict[str, Any]:
        """Put it into a checkpoint; what goes with it, nothing before the scan."""
        ...


class Checkpoint:
    """The checkpoints of one run: a context manager, which leaves the latest one behind if the run fails.

    Parameters
    ----------
    settings : Settings
    images : sequence of ImageSource
    facts : RunFacts
    writer, checks : CatalogueWriter, CheckImages
        Opened, nothing written of an extension, no worker forked yet.
    reporter : Reporter

    Attributes
    ----------
    every : int
        Rows of tiles from one to the next; 0: none are taken.
    extension : int
        First extension that isn't done.

    Raises
    ------
    ConfigError
        An output can't be gone on with, or another run works with this checkpoint.
    OutputError
        Its folder can't be made.
    """

    def __init__(
        self, settings: Settings, images: Sequence[ImageSource], facts: RunFacts, writer: CatalogueWriter, checks: CheckImages,
        reporter: Reporter,
    ) -> None:  # fmt: skip
        resources = settings.resources
        self.every, self.extension = resources.checkpoint, 0
        self._writer, self._checks, self._reporter = writer, checks, reporter
        self._saved: StateReader | None = None
        self._valid = False
        self._shelved = 0
        self._drawn: set[str] = set()
        self._lock = -1
        self.folder = folder_of(settings)
        self._active = bool(self.every) or (resources.resume and os.path.isdir(self.folder))
        if not self._active:
            if resources.resume:
                reporter.info(NOTHING.format(self.folder))
            return
        if not isinstance(writer, Resumable):
            raise ConfigError(f"CATALOG_TYPE {settings.output.catalog_type} can't be checkpointed; leave --checkpoint out")
        self._files = _files(writer, checks)
        self._take_folder()
        self._belongs = _belongs(settings, images, facts)
        try:
            self._open(resources.resume)
        except BaseException:
            self.__exit__()
            raise

    # Whether there is one, and whose

    def _take_folder(self) -> None:
        """Make the folder, and keep other runs out of it."""
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise explain(exc, self.folder, "--checkpoint-folder") from exc
        try:
            # Of this process alone, unlike flock's: workers of a run that was killed may outlive it for a moment.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigError(
                f"another run is using the checkpoint in {self.folder}; wait for it, or choose another place with "
                "-o or --checkpoint-folder"
            ) from None
        except OSError:
            # A file system without locks.
            pass

    def _open(self, resume: bool) -> None:
        """Take what is there, or clear it away."""
        why = self._find()
        if why == _NONE:
            if resume:
                self._reporter.info(NOTHING.format(self.folder))
        elif not resume:
            self._close_saved()
            self._reporter.warning(f"the checkpoint in {self.folder} is given up: --resume would go on from there")
        elif why:
            self._reporter.warning(f"the checkpoint in {self.folder} isn't used, {why}: the run begins anew")
        if self._saved is None:
            self._clear()
            return
        self._adopt(self._saved.meta)

    def _find(self) -> str:
        """Open the latest checkpoint; why it can't be used, if so."""
        try:
            saved = StateReader(self._path("state"))
        except FileNotFoundError:
            return _NONE
        except (OSError, ValueError) as exc:
            return str(exc)
        why = self._unfit(saved.meta)
        if why:
            saved.close()
        else:
            self._saved = saved
        return why

    def _unfit(self, meta: Mapping[str, Any]) -> str:
        if meta["format"] != FORMAT:
            return _CHANGED["software"]
        changed = next((text for what, text in _CHANGED.items() if meta["belongs"][what] != self._belongs[what]), "")
        if changed:
            return changed
        files = {self._place(name): meta["files"][name] for name in self._files}
        if meta["rows"][0]:
            files[self._path("rows")] = meta["rows"][1]
        return next((f"{path} is missing or cut" for path, nbytes in files.items() if _size(path) < nbytes), "")

    def _adopt(self, meta: Mapping[str, Any]) -> None:
        """Go on with its files."""
        self._valid = True
        self.every = self.every or meta["every"]
        self.extension, self._shelved = meta["extension"], meta["rows"][0]
        self._drawn = {name for name in os.listdir(self.folder) if name.startswith("drawn-")}
        for name, file in self._files.items():
            file.adopt(self._place(name), meta["files"][name])
        scan = meta["inside"] or {}
        where = f"row {scan['row'] + 1}" if scan else "the scan" if meta["inside"] is not None else "its beginning"
        self._reporter.info(
            f"Resumed from the checkpoint in {self.folder}: "
            + (f"extension {self.extension + 1}, {where}" if self.extension < meta["extensions"] else "all extensions are done")
        )

    # Going on

    def inside(self, extension: int) -> StateReader | None:
        """What was saved in the middle of this extension, if it was."""
        saved = self._saved
        return saved if saved is not None and extension == self.extension and saved.meta["inside"] is not None else None

    def restore(self, run: Run) -> None:
        """Have a run be where the checkpoint was taken, but for the extension it was in."""
        if self._saved is None:
            return
        meta = self._saved.meta
        for name in _COUNTERS:
            setattr(run, name, meta["counters"][name])
        run.extensions = [ExtensionSummary(*each) for each in meta["done"]]
        run.flagged[:] = meta["flagged"]
        if meta["inside"] is None:
            self.restore_writer(None)
        if self._shelved:
            folder = run.settings.resources.scratch_dir
            run.shelf = run.shelf or Shelf(run.plan.row, min(SHELF_BYTES, run.slab.ceiling), folder)
            run.shelf.restore(self._path("rows"), self._shelved)

    def restore_writer(self, frame: Frame | None) -> None:
        """Have the catalogue's writer go on, inside an extension if its frame is given."""
        assert self._saved is not None and isinstance(self._writer, Resumable)
        self._writer.restore(self._saved.meta["writer"], frame)

    def drawn(self, extension: int) -> bool:
        """Whether outlines may be on the pixels of the APERTURES that were written before the checkpoint."""
        return self._mark(extension) in self._drawn

    def draws(self, extension: int) -> None:
        """Outlines are going to be drawn: what is written already will no longer be what it was at the checkpoint."""
        if self._valid:
            with contextlib.suppress(OSError):
                os.close(os.open(self._path(self._mark(extension)), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
                sync_folder(self.folder)

    # Taking one

    def take(self, run: Run, extension: Saves | None = None) -> None:
        """Take a checkpoint, in the middle of an extension if that is given, else because one is done.

        A disk that is full doesn't end the run: then the one before stays.
        """
        self.extension += extension is None
        if extension is None:
            self._close_saved()
        if not self.every:
            return
        try:
            with run.track("checkpoint"):
                nbytes = self._write(run, extension)
        except (OSError, OutputError) as exc:
            what = exc.strerror if isinstance(exc, OSError) else str(exc)
            self._reporter.warning(f"no checkpoint could be written in {self.folder} ({what}): the run goes on without it")
            if extension is None:
                # What the one before needs of the extension is overwritten from here on.
                self._forget()
        else:
            self._reporter.detail(f"Checkpoint of {size_text(nbytes)} in {self.folder}")
            self._valid = True
            for name in os.listdir(self.folder):
                if name.startswith("drawn-"):
                    self._unlink(self._path(name))

    def _write(self, run: Run, extension: Saves | None) -> int:
        assert isinstance(self._writer, Resumable)
        for name, file in self._files.items():
            if not file.kept:
                os.makedirs(os.path.dirname(self._place(name)), exist_ok=True)
                file.keep(self._place(name))
            file.finish()
        if extension is None:
            self._shelved = 0
        elif run.shelf is not None and run.shelf.count:
            self._shelved = run.shelf.save(self._path("rows"), self._shelved)
        out = StateWriter(self._path("state"))
        try:
            inside = None if extension is None else extension.save(out)
            meta = {
                "format": FORMAT,
                "belongs": self._belongs,
                "every": self.every,
                "extensions": len(run.images),
                "extension": self.extension,
                "inside": inside,
                "counters": {name: getattr(run, name) for name in _COUNTERS},
                "done": run.extensions,
                "flagged": run.flagged.tolist(),
                "writer": self._writer.save(),
                "files": {
                    # Outlines that are drawn are no longer needed.
                    name: 0 if extension is None and name.endswith(OUTLINES) else file.size
                    for name, file in self._files.items()
                },
                "rows": (self._shelved, self._shelved * run.plan.row.itemsize),
            }
            out.publish(meta)
        finally:
            out.discard()
        return out.nbytes

    # Its files

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _place(self, name: str) -> str:
        """Where an output in progress lies: in its own folder's file system, so that it can be moved in place."""
        folder = os.path.dirname(self._files[name].target)
        return os.path.join(folder, os.path.basename(self.folder), name)

    @staticmethod
    def _mark(extension: int) -> str:
        return f"drawn-{extension + 1}"

    def _unlink(self, path: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)

    def _forget(self) -> None:
        """There is no checkpoint any more."""
        self._unlink(self._path("state"))
        self._valid = False

    def _clear(self) -> None:
        """Remove what earlier runs left: first what makes it valid."""
        self._forget()
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                if name != "lock":
                    self._unlink(self._path(name))
        for name in self._files:
            self._unlink(self._place(name))

    def remove(self) -> None:
        """The run has its outputs: leave nothing."""
        if not self._active:
            return
        self._close_saved()
        self._clear()
        self._unlink(self._path("lock"))
        for folder in {self.folder, *(os.path.dirname(self._place(name)) for name in self._files)}:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        self._active = False

    def _close_saved(self) -> None:
        if self._saved is not None:
            self._saved.close()
            self._saved = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._active and self._valid:
            self._close_saved()
            self._reporter.info(f"The checkpoint in {self.folder} stays: the same command with --resume goes on from there")
        elif self._active:
            self.remove()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1



def folder_of(settings: Settings) -> str:
    """The folder of a run's checkpoint.

    Raises
    ------
    ConfigError
        The catalogue goes to standard output and checkpoints are wanted.
    """
    resources, name = settings.resources, settings.output.catalog_name
    # Names of outputs in progress are by kind, so each catalogue has a folder of its own.
    if resources.checkpoint and settings.output.catalog_type != "NONE" and is_standard_output(name):
        raise ConfigError(
            "a catalogue on standard output can't be checkpointed: name a file with -o, or leave --checkpoint out"
        )
    beside, name = os.path.split(os.path.realpath(name))
    return os.path.join(os.path.abspath(resources.checkpoint_folder or beside), f"{name}.checkpoint")


def _files(writer: Resumable, checks: CheckImages) -> dict[str, OutputFile]:
    """Outputs in progress by the names they have in the folder."""
    found = {name: image.file for name, image in checks.images.items()}
    found |= {f"{n}{OUTLINES}": image.outlines for n, image in checks.images.items() if isinstance(image, ApertureImage)}
    catalogue = writer.output()
    if catalogue is not None:
        found["catalogue"] = catalogue
    for file in found.values():
        if file.direct:
            raise ConfigError(
                f"{file.path} is a pipe or a device, which can't be checkpointed: name a file with {file.option}, "
                "or leave --checkpoint out"
            )
    return found


def _belongs(settings: Settings, images: Sequence[ImageSource], facts: RunFacts) -> dict[str, Any]:
    """What must be the same where a checkpoint is used; as JSON gives it back."""
    return {
        "input": [_identity(image) for image in images],
        "configuration": fingerprint(settings),
        "software": [facts.software, *(f"{name} {version}" for name, version in facts.versions)],
        "kernels": _kernels(),
    }


def _identity(image: ImageSource) -> list[Any]:
    info, size, changed = image.info, 0, 0
    # What isn't a file is told by what a server says of it.
    with contextlib.suppress(OSError):
        status = os.stat(info.path)
        size, changed = status.st_size, status.st_mtime_ns
    header = sha256_class()(info.header.encode()).hexdigest()
    return [os.path.basename(info.path), info.hdu, info.width, info.height, size, changed, info.state, header]


def _kernels() -> str:
    """Hash of the compiled parts of this package."""
    total = sha256_class()()
    for path in sorted(Path(__file__).parents[1].rglob("*.so")):
        total.update(path.name.encode())
        _add_file(total, str(path))
    return str(total.hexdigest())


def _add_file(total: Any, path: str) -> None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        while piece := file.read(32768):
            total.update(piece)


def _size(path: str) -> int:
    """Bytes of a file, −1 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
