"""The files of a memory report: opened before any work, written when the run is over, in place only if all is well.

A drawing (PNG) is made by a process of its own, after the slab has gone, so that matplotlib is never part of the run's memory,
and its own has room under the limit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from sextract.catalogue.output import OutputFile
from sextract.config.settings import ResourceSettings
from sextract.errors import ConfigError, OutputError
from sextract.memory.budget import MIB, Budget, size_text
from sextract.memory.spill import scratch_folder
from sextract.memory.timeline import Recorder

# What only a report needs is imported when one is made: a run without one, and its workers, needn't hold it.

OPTION = "--mem-report"
DRAWN = ".png"

# The process that draws, and this one beside it, measured with matplotlib 3.11 and rounded up.
DRAWING_BYTES = 100 * MIB

# Written at a time.
_CHUNK = 32 << 10


class Reports:
    """Files of reports, open.

    Parameters
    ----------
    files : sequence of OutputFile
    scratch : str
        Folder for what a drawing is made of.
    stack : ExitStack
        What is open is closed with it.
    """

    def __init__(self, files: Sequence[OutputFile], scratch: str, stack: ExitStack) -> None:
        self._files = files
        self._scratch = scratch
        self._stack = stack
        self._data: IO[bytes] | None = None

    @property
    def wanted(self) -> bool:
        """Whether there are any."""
        return bool(self._files)

    def write(self, recorder: Recorder, image: str, budget: Budget, account: str, workers: int) -> None:
        """Write what can be written at once; drawings are made by `finish`."""
        from tempfile import TemporaryFile

        from sextract.report.page import html_pieces
        from sextract.report.report import Report
        from sextract.report.text import csv_pieces, json_pieces

        report = Report.of(recorder, image, budget, account, workers)
        kinds = {".json": json_pieces, ".csv": csv_pieces, ".html": html_pieces}
        for file in self._files:
            if _suffix(file.path) != DRAWN:
                for chunk in _chunks(kinds[_suffix(file.path)](report)):
                    file.append(chunk)
            elif self._data is None:
                data = TemporaryFile(dir=scratch_folder(self._scratch))  # noqa: SIM115
                self._data = self._stack.enter_context(data)
                for chunk in _chunks(json_pieces(report)):
                    data.write(chunk)

    def finish(self) -> None:
        """Draw, and have all files in place."""
        for file in sorted(self._files, key=lambda file: _suffix(file.path) == DRAWN):
            if _suffix(file.path) == DRAWN and self._data is not None:
                self._data.seek(0)
                _draw(self._data, file)
            file.commit()


@contextmanager
def open_reports(settings: ResourceSettings) -> Iterator[Reports]:
    """The reports of a run: in place when the block has ended well, else removed.

    Raises
    ------
    ConfigError
        A drawing is asked for, and matplotlib is missing, or the limit has no room for it.
    OutputError
    """
    if any(_suffix(name) == DRAWN for name in settings.mem_report):
        _check_drawing(settings.mem_limit_bytes)
    with ExitStack() as stack:
        files = []
        for name in settings.mem_report:
            files.append(OutputFile(name, OPTION))
            stack.callback(files[-1].abort)
        reports = Reports(files, settings.scratch_dir, stack)
        yield reports
        if reports.wanted:
            reports.finish()


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _check_drawing(limit: int) -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ConfigError(f"{OPTION} with a .png needs matplotlib: pip install sextract[plot]; .html needs nothing")
    if limit < DRAWING_BYTES:
        raise ConfigError(
            f"{OPTION} with a .png takes {size_text(DRAWING_BYTES)} for matplotlib, when the run is over: --mem-limit "
            f"{size_text(limit)} has no room for it; .html, .json and .csv need nothing"
        )


def _draw(data: IO[bytes], file: OutputFile) -> None:
    """Have a drawing made of the JSON in `data`."""
    import subprocess

    # By its name, since the package may have been found by a path that only this process knows.
    command = [sys.executable, "-P", os.path.join(os.path.dirname(__file__), "plot.py")]
    done = subprocess.run(command, stdin=data, stdout=file.fd, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise OutputError(f"can't draw {file.path} ({said[0]}): all else is written; {OPTION} with .html draws without it")


def _chunks(pieces: Iterable[str]) -> Iterator[bytes]:
    """Text as bytes, a chunk at a time."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece.encode(errors="backslashreplace")
        if len(waiting) >= _CHUNK:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)
