"""The pipeline: the only part that knows every room.

``run`` opens everything in the order in which failures are cheapest, forks the workers while the process is small, takes the
extensions in turn, and leaves either all outputs or none.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from sextract._version import __version__
from sextract.catalogue.writer import RunFacts, open_writer
from sextract.checkimage.checkimage import open_checkimages
from sextract.checkimage.headers import ImageExtension
from sextract.config.settings import Settings
from sextract.execution.backend import Backend, SerialBackend, Task
from sextract.execution.processes import ProcessBackend
from sextract.log import Reporter
from sextract.memory.budget import MIB, Budget, size_text
from sextract.memory.gauge import Gauge
from sextract.memory.slab import Slab
from sextract.pipeline.extraction import Extraction
from sextract.pipeline.plan import Layout, Run, families, lay_out, output_columns
from sextract.pipeline.stages import Kind, Plan, Stages
from sextract.reading.source import ImageSource, open_images


# What astropy.wcs and its table of sky frames take in the one worker that imports them, measured with astropy 8 and rounded up.
ASTROPY_BYTES = 52 * MIB


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to.

    Attributes
    ----------
    sources, detected : int
        Rows written, and sources before CLEAN.
    seconds, mpixel_per_s : float
    peak_bytes, limit_bytes : int
        Of all processes together.
    workers : int
    outputs : tuple of str
        Files written.
    """

    sources: int
    detected: int
    seconds: float
    mpixel_per_s: float
    peak_bytes: int
    limit_bytes: int
    workers: int
    outputs: tuple[str, ...]


def run(image: str, settings: Settings, reporter: Reporter) -> Summary:
    """Extract the sources of an image, all extensions in turn.

    Parameters
    ----------
    image : str
        File name, maybe with ``[n]`` or ``[NAME]``.
    settings : Settings
    reporter : Reporter

    Raises
    ------
    SextractError
        One of its kinds; nothing is left behind then.
    """
    started = time.monotonic()
    plan = families(settings)
    images = open_images(image, scratch_dir=settings.resources.scratch_dir)
    limit, workers = settings.resources.mem_limit_bytes, settings.resources.workers
    with ExitStack() as stack:
        facts = RunFacts(
            settings=settings, file_name=os.path.basename(images[0].info.path), extensions=len(images),
            software=f"sextract {__version__}",
        )  # fmt: skip
        checks = stack.enter_context(
            open_checkimages(
                settings.output.checkimages, [ImageExtension(i.info.width, i.info.height, i.info.header) for i in images]
            )
        )
        writer = stack.enter_context(
            open_writer(settings.output.catalog_type, settings.output.catalog_name, output_columns(settings), facts)
        )
        slab = Slab(limit)
        stack.callback(slab.close)
        factory = partial(Stages, slab=slab, images=images, settings=settings, plan=plan, checks=checks)
        backend: Backend = ProcessBackend(workers, factory) if workers else SerialBackend(factory)
        stack.callback(backend.close)
        gauge = Gauge(backend.pids, slab)
        _warm(backend)
        layouts = _fit(images, settings, plan, backend, slab, gauge, limit, reporter)
        work = Run(images, settings, plan, slab, backend, gauge, writer, checks, reporter)
        scratch = max(layout.scratch_bytes for layout in layouts)
        work.scratch = tuple(slab.alloc(scratch, "scratch") for _ in range(backend.workers))
        detected = sum(_extension(work, k, layout) for k, layout in enumerate(layouts))
        gauge.exact()
    seconds = time.monotonic() - started
    pixels = sum(i.info.width * i.info.height for i in images)
    outputs = (settings.output.catalog_name, *(name for kind, name in settings.output.checkimages if kind != "NONE"))
    return Summary(
        work.written, detected, seconds, pixels / 1e6 / seconds, gauge.peak, limit, workers, outputs
    )


def _extension(work: Run, index: int, layout: Layout) -> int:
    """One extension; the number of sources detected."""
    info = work.images[index].info
    extraction = Extraction(work, index, layout)
    with work.reporter.progress(1.0, info.spec, "image") as progress:
        work.progress = progress
        frame = extraction.measure_background()
        work.writer.begin_extension(frame)
        facts = extraction.extract(frame)
        work.writer.end_extension(facts)
    work.reporter.info(f"Objects: {facts.detected:<8d} detected / {facts.extracted:<8d} sextracted")
    if "APERTURES" in work.checks:
        work.checks["APERTURES"].draw(index, frame.rms)  # type: ignore[attr-defined]
    return facts.detected


def _warm(backend: Backend) -> None:
    """Have every worker do each measurement once: pages it shares with its template then are its own, and counted."""
    left = {backend.submit(Task(int(Kind.WARM), b"", slot)) for slot in range(backend.workers)}
    while left:
        for result in backend.wait():
            if result.error is not None:
                raise result.error
            left.discard(result.ticket)


def _fit(
    images: list[ImageSource], settings: Settings, plan: Plan, backend: Backend, slab: Slab, gauge: Gauge, limit: int,
    reporter: Reporter,
) -> list[Layout]:  # fmt: skip
    """Give the slab what the limit leaves, and lay the extensions out in it; refuse a limit that is too small."""
    base = gauge.exact() + (ASTROPY_BYTES if plan.table else 0)
    budget = Budget(limit, base, len(backend.pids()) + 1)
    layouts = [lay_out(i.info, settings, backend.workers, budget.slab) for i in images]
    need = max(layout.need_bytes for layout in layouts)
    budget.require(need, f"{images[0].info.path}")
    slab.restrict(budget.slab)
    reporter.detail(", ".join(f"{name} {size_text(nbytes)}" for name, nbytes in budget.lines()))
    return layouts
