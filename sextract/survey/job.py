"""One image of a survey as something to send to a process, on this machine or another: what to do, and what came of it.

Pixels and catalogues travel through files; a `Job` and an `Outcome` are a few KiB and can be pickled.  Where jobs run is an
engine's (``engines/``), what becomes of outcomes the survey's.
"""

from __future__ import annotations

import io
import os
import socket
import time
from typing import NamedTuple

from sextract import pipeline
from sextract.catalogue.keywords import sha256_class
from sextract.catalogue.writer import is_standard_output
from sextract.config.locations import is_url
from sextract.config.settings import Settings
from sextract.errors import InputError, Interrupted, LimitError, SextractError, out_of_memory
from sextract.execution.backend import MORE_MEMORY
from sextract.log import Reporter
from sextract.pipeline.facts import fingerprint
from sextract.reading.spec import parse_spec

_PIECE_BYTES = 64 << 10


class Job(NamedTuple):
    """An image to be done.

    Attributes
    ----------
    number : int
        Its place in the survey.
    image : str
    folder : str
        What relative names refer to.
    settings : Settings
    attempt : int
        From 1.
    address : str
        Where to read the image, if not by its name: an address that was signed for all at once.
    """

    number: int
    image: str
    folder: str
    settings: Settings
    attempt: int = 1
    address: str = ""

    @property
    def source(self) -> str:
        """What is to be opened."""
        return self.address or self.image


class Outcome(NamedTuple):
    """What came of a job.

    Attributes
    ----------
    number : int
    exit_code : int
        0: done; else the run's, as in ``errors.py``.
    error : str
        Why it failed.
    log : str
        Lines that nobody has seen yet.
    configuration, input : str
        See `fingerprint` and `identity`.
    outputs : tuple of (name, bytes, SHA-256)
        Files as they are named; the sum is empty for check-images.
    seconds : float
    started, finished : float
        Seconds since the epoch.
    host : str
    summary : pipeline.Summary or None
    """

    number: int
    exit_code: int = 0
    error: str = ""
    log: str = ""
    configuration: str = ""
    input: str = ""
    outputs: tuple[tuple[str, int, str], ...] = ()
    seconds: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    host: str = ""
    summary: pipeline.Summary | None = None


def run_image(job: Job, reporter: Reporter | None = None, kept: pipeline.Kept | None = None) -> Outcome:
    """Do a job in this process; whatever goes wrong is in the outcome.

    Parameters
    ----------
    job : Job
    reporter : Reporter, optional
        Gets the lines as they come; without one they are in the outcome.
    kept : pipeline.Kept, optional
        Of this process's earlier jobs.
    """
    stream = io.StringIO()
    reporter = Reporter(job.settings.verbose, stream) if reporter is None else reporter
    started, began = time.time(), time.monotonic()
    before = identity(job.source, job.folder)
    summary, code, error = None, 0, ""
    outputs: tuple[tuple[str, int, str], ...] = ()
    try:
        os.chdir(job.folder)
        summary = pipeline.run(job.source, job.settings, reporter, kept)
        outputs = tuple(_output(name, job.settings) for name in summary.outputs if not is_standard_output(name))
        reporter.info(str(summary))
    except Interrupted:
        raise
    except SextractError as exc:
        code, error = exc.exit_code, str(exc)
    except Exception as exc:
        code, error = _unforeseen(exc, reporter)
    return Outcome(
        job.number, code, error, stream.getvalue(), fingerprint(job.settings), before, outputs, time.monotonic() - began,
        started, time.time(), socket.gethostname(), summary,
    )  # fmt: skip


def _unforeseen(exc: Exception, reporter: Reporter) -> tuple[int, str]:
    """Exit code and one line for what isn't a SextractError."""
    said = " ".join(str(exc).split())
    if out_of_memory(exc):
        return LimitError.exit_code, f"out of memory ({f'{type(exc).__name__}: {said}'.rstrip(': ')}); {MORE_MEMORY}"
    if reporter.verbose == "FULL":
        import traceback

        reporter.detail(traceback.format_exc().rstrip())
    return 1, f"{type(exc).__name__}: {said} (this is a bug; -VERBOSE_TYPE FULL shows where)"


def identity(image: str, folder: str) -> str:
    """What tells that an image is the same as before: a file's size and time of change, a server's word; empty: unknown."""
    path = parse_spec(image).path
    try:
        if is_url(path):
            from sextract.reading.remote import state_of

            return state_of(path)
        status = os.stat(os.path.join(folder, path))
    except (OSError, ValueError, InputError):
        return ""
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"


def sum_of(path: str) -> str:
    """SHA-256 of a file."""
    total = sha256_class()()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            total.update(piece)
    return str(total.hexdigest())


def _output(name: str, settings: Settings) -> tuple[str, int, str]:
    """An output that has just been written."""
    return name, os.stat(name).st_size, sum_of(name) if name == settings.output.catalog_name else ""
