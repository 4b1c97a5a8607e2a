"""Facts of a run beside its numbers: what headers tell of it, and which of its outputs are memory themselves.

Values that change from run to run are facts of the environment and reach a header only with ``--provenance full``.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sextract._version import __version__
from sextract.catalogue.keywords import effective, sha256_class
from sextract.catalogue.writer import RunFacts, is_standard_output
from sextract.config.locations import file_name
from sextract.config.machine import memory_filesystem
from sextract.config.settings import Settings
from sextract.memory.budget import size_text
from sextract.pipeline.stages import Plan, uses_sky
from sextract.reading.header import card_value
from sextract.reading.source import ImageInfo


class MemoryOutputs(NamedTuple):
    """Outputs whose folder is in memory.

    Attributes
    ----------
    folders : tuple of str
    nbytes : int
        What check-images there will take.
    catalogue : bool
        The catalogue is among them.
    """

    folders: tuple[str, ...] = ()
    nbytes: int = 0
    catalogue: bool = False


class ExtensionSummary(NamedTuple):
    """What an image extension came to: its size, levels in ADU (see `records.Frame`), sources before and after CLEAN."""

    width: int
    height: int
    background: float
    rms: float
    threshold: float
    gain: float
    pixel_scale: float
    detected: int
    extracted: int


def memory_outputs(settings: Settings, infos: Sequence[ImageInfo]) -> MemoryOutputs:
    """Find the outputs that will be written to memory."""
    out = settings.output
    pixels = sum(info.width * info.height for info in infos)
    checks = [_folder(name) for kind, name in out.checkimages if kind != "NONE"]
    catalogue = "" if out.catalog_type == "NONE" or is_standard_output(out.catalog_name) else _folder(out.catalog_name)
    in_memory = {folder for folder in {*checks, catalogue} - {""} if memory_filesystem(folder)}
    nbytes = sum(4 * pixels for folder in checks if folder in in_memory)
    return MemoryOutputs(tuple(sorted(in_memory)), nbytes, catalogue in in_memory)


def _folder(name: str) -> str:
    return os.path.dirname(os.path.abspath(name))


def run_facts(infos: Sequence[ImageInfo], settings: Settings, plan: Plan) -> RunFacts:
    """What the catalogue's headers tell of a run.

    Only a DATASUM that an image's own header has is told: to sum up an image without one would be to read it once more.
    """
    return RunFacts(
        settings=settings,
        file_name=file_name(infos[0].path),
        extensions=len(infos),
        software=f"sextract {__version__}",
        config_name=settings.config_name,
        versions=tuple(_versions(infos, plan)),
        datasums=tuple(
            (f"{file_name(info.path)}[{info.hdu}]", datasum)
            for info in infos
            if (datasum := (card_value(info.header, "DATASUM") or "").strip("' "))
        ),
        environment=_environment(settings),
    )


def fingerprint(settings: Settings) -> str:
    """SHA-256 of all that decides what is in a catalogue, the image apart: version, configuration, and the files it names."""
    out, kernel, network = settings.output, settings.detection.kernel, settings.photometry.starnnw_name
    parts: list[Any] = [
        __version__, effective(settings), settings.config_name, out.catalog_type, out.columns,
        [kind for kind, _ in out.checkimages], out.provenance, sorted(settings.sextractor_bugs),
    ]  # fmt: skip
    if kernel is not None:
        parts += [kernel.shape, kernel.tobytes()]
    if any(column.name == "CLASS_STAR" for column in out.columns) and os.path.isfile(network):
        parts.append(Path(network).read_bytes())
    return str(sha256_class()(repr(parts).encode()).hexdigest())


def _versions(infos: Sequence[ImageInfo], plan: Plan) -> Iterable[tuple[str, str]]:
    """Libraries that may change a number of this run."""
    yield "numpy", np.__version__
    if uses_sky(plan):
        yield "astropy", installed_version("astropy")
    if any(info.library_bytes for info in infos):
        yield "fitsio", installed_version("fitsio")


@cache
def installed_version(name: str) -> str:
    """Version of an installed distribution, from the name of its folder, or ``unknown``; nothing is imported."""
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for found in names:
            stem, _, suffix = found.rpartition(".")
            if suffix == "dist-info" and stem.lower().startswith(f"{name}-"):
                return stem[len(name) + 1 :]
    return "unknown"


def _environment(settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """Facts of this very run; seconds and peak follow at its end (`outcome`)."""
    resources = settings.resources
    return (
        ("DATE", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), "start of the run, UTC"),
        ("SEXHOST", socket.gethostname(), "machine"),
        ("SEXPYTH", sys.version.split()[0], "Python"),
        ("SEXMEML", size_text(resources.mem_limit_bytes), "memory limit"),
        ("SEXWORK", str(resources.workers), "worker processes asked for"),
        ("SEXSECS", "", "seconds up to the end of this extension"),
        ("SEXPEAK", "", "peak memory of all processes so far"),
    )


def outcome(seconds: float, peak_bytes: int) -> tuple[tuple[str, str], ...]:
    """What is known of the run's environment at the end of an extension."""
    return ("SEXSECS", f"{seconds:.1f}"), ("SEXPEAK", size_text(peak_bytes))
