"""The pipeline: the only part that knows every room.

``run`` opens everything in the order in which failures are cheapest, forks the workers while the process is small, takes the
extensions in turn, and leaves either all outputs or none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from sextract.catalogue.writer import open_writer
from sextract.checkimage.apertures import ApertureImage
from sextract.checkimage.checkimage import open_checkimages
from sextract.checkimage.headers import ImageExtension
from sextract.config.locations import shown
from sextract.config.machine import cache_room
from sextract.config.settings import Settings
from sextract.errors import WorkerError
from sextract.execution.backend import Backend, HandlerFactory, SerialBackend, Task
from sextract.execution.environment import uninterrupted
from sextract.execution.processes import ProcessBackend
from sextract.log import Reporter
from sextract.measurement.sky import lacks_celestial
from sextract.memory.budget import MIB, size_text
from sextract.memory.gauge import Gauge, private, proportional
from sextract.memory.heap import give_back
from sextract.memory.slab import Slab
from sextract.memory.timeline import Recorder
from sextract.pipeline.checkpoint import Checkpoint, folder_of
from sextract.pipeline.estimate import Estimate, estimate
from sextract.pipeline.extraction import Extraction
from sextract.pipeline.facts import ExtensionSummary, MemoryOutputs, memory_outputs, outcome, run_facts
from sextract.pipeline.layout import Base, Fit, Layout, fit, try_fit
from sextract.pipeline.plan import Run, families, output_columns
from sextract.pipeline.stages import Kind, Plan, Stages, uses_sky
from sextract.reading.source import ImageInfo, ImageSource, open_images
from sextract.report.files import open_reports
from sextract.report.trace import Trace, open_trace

__all__ = ["SMALL_BYTES", "Estimate", "ExtensionSummary", "Kept", "Summary", "estimate", "run"]


# A larger image, of 4096 × 4096 pixels of 4 bytes, has enough for all processes to do, and what a run costs before the first
# pixel is nothing beside it.
SMALL_BYTES = 64 * MIB


class Summary(NamedTuple):
    """What a run came to.

    Attributes
    ----------
    sources, detected : int
        Rows written, and sources before CLEAN.
    beyond : int
        Detections that weren't split for FOOTPRINT_MAXPIX.
    seconds, mpixel_per_s : float
    peak_bytes, limit_bytes : int
        Of all processes together.
    rss_bytes : int
        Largest sum of Rss; 0 if it doesn't count.
    workers : int
    outputs : tuple of str
        Files written.
    flags : dict
        Bit of FLAGS → rows that have it; empty if that is not among the columns.
    extensions : tuple of ExtensionSummary
    """

    sources: int
    detected: int
    beyond: int
    seconds: float
    mpixel_per_s: float
    peak_bytes: int
    limit_bytes: int
    rss_bytes: int
    workers: int
    outputs: tuple[str, ...]
    flags: dict[int, int]
    extensions: tuple[ExtensionSummary, ...]

    def __str__(self) -> str:
        rss = f" (sum of Rss {self.rss_bytes / MIB:.0f} MiB)" if self.rss_bytes else ""
        beyond = f", {self.beyond} beyond FOOTPRINT_MAXPIX" if self.beyond else ""
        held = f"{self.peak_bytes / MIB:.0f} of {self.limit_bytes / MIB:.0f} MiB"
        where = f"all processes{rss}, {self.workers} workers" if self.workers else f"one process{rss}"
        return (
            f"{self.sources} sources ({self.detected} detected{beyond}), {self.seconds:.1f} s, "
            f"{self.mpixel_per_s:.2f} Mpixel/s, peak {held} in {where}"
        )


class Kept:
    """What a process that takes images in turn keeps for the next small one: the pages of its buffers, and its gauge.

    Parameters
    ----------
    slab_bytes : int
        For the largest image.
    scratch_dir : str
    hosted : bool
        See `ResourceSettings.hosted`.
    """

    def __init__(self, slab_bytes: int, scratch_dir: str, hosted: bool) -> None:
        self.slab = Slab(slab_bytes, scratch_dir=scratch_dir)
        self.gauge = Gauge(tuple, self.slab, measure=private if hosted else proportional)


def run(image: str, settings: Settings, reporter: Reporter, kept: Kept | None = None) -> Summary:
    """Extract the sources of an image, all extensions in turn.

    Parameters
    ----------
    image : str
        File name, maybe with ``[n]`` or ``[NAME]``.
    settings : Settings
    reporter : Reporter
    kept : Kept, optional
        Of this process's earlier runs: it is used again if this process does all by itself and the image is small.

    Raises
    ------
    SextractError
        One of its kinds; nothing is left behind then.
    """
    with open_trace(settings.resources.profile) as trace:
        summary = _run(image, settings, reporter, trace, kept)
        trace.close()
    return summary


def _run(image: str, settings: Settings, reporter: Reporter, trace: Trace, kept: Kept | None) -> Summary:
    # It refuses what can't be checkpointed.
    folder_of(settings)
    plan = families(settings)
    limit = settings.resources.mem_limit_bytes
    images = open_images(image, scratch_dir=settings.resources.scratch_dir, limit_bytes=limit, say=reporter.info)
    infos = [image.info for image in images]
    in_memory = memory_outputs(settings, infos)
    planned = fit(settings.resources.mem_limit_bytes - in_memory.nbytes, settings.resources.workers, infos, settings, plan)
    _warn(infos, plan, in_memory, reporter)
    if not settings.resources.hosted and cache_room(settings.resources.mem_limit_bytes) < sum(i.data_size for i in infos):
        # Pages would only push each other out, and have the kernel look for some at every read.
        for source in images:
            source.drop_behind()
    # A drawing is made last of all, when the memory of the run is free again.
    with open_reports(settings.resources) as reports, ExitStack() as stack:
        # Without workers it would be largest; more address space than that is of no use, and may not be there.
        most = max(f.budget.slab for f in (planned, try_fit(planned.budget.limit, 0, infos, settings, plan)))
        small = settings.resources.workers == 0 and sum(info.data_size for info in infos) <= SMALL_BYTES
        if kept is not None and small and most <= kept.slab.most:
            slab = kept.slab
            slab.renew()
        else:
            if kept is not None:
                kept.slab.empty()
            kept, slab = None, Slab(most, scratch_dir=settings.resources.scratch_dir)
            # There may be views of it in what only a collection frees.
            stack.callback(slab.empty)
            stack.callback(slab.close)
        recorder = Recorder(slab)
        stack.callback(recorder.stop)
        if reports.wanted:
            recorder.keep(planned.workers)
        summary, fitted = _extract(
            images, settings, plan, planned, slab, recorder, in_memory.catalogue, reporter, trace,
            kept.gauge if kept is not None else None,
        )
        recorder.stop()
        if reports.wanted:
            reports.write(recorder, shown(image), fitted.budget, settings.resources.account, fitted.workers)
    return summary


def _extract(
    images: Sequence[ImageSource], settings: Settings, plan: Plan, planned: Fit, slab: Slab, recorder: Recorder,
    catalogue_in_memory: bool, reporter: Reporter, trace: Trace, known: Gauge | None,
) -> tuple[Summary, Fit]:  # fmt: skip
    """All extensions, from opening the outputs to having them in place."""
    infos = [image.info for image in images]
    limit, asked = settings.resources.mem_limit_bytes, settings.resources.workers
    with ExitStack() as stack:
        facts = run_facts(infos, settings, plan)
        checks = stack.enter_context(
            open_checkimages(
                settings.output.checkimages, [ImageExtension(i.width, i.height, i.header) for i in infos]
            )
        )
        writer = stack.enter_context(
            open_writer(settings.output.catalog_type, settings.output.catalog_name, output_columns(settings), facts)
        )
        if recorder.timeline is None and known is None:
            # Nobody needs it while the files are finished.
            stack.callback(slab.close)
        checkpoint = stack.enter_context(Checkpoint(settings, images, facts, writer, checks, reporter))
        factory = partial(Stages, slab=slab, images=images, settings=settings, plan=plan, checks=checks, trace=trace)
        with trace.main("workers"):
            backend, gauge, fitted = _start(planned, factory, slab, infos, settings, plan, recorder, known)
        if gauge is not known:
            stack.callback(gauge.close)
        stack.callback(backend.close)
        if fitted.workers < asked:
            used = f"{fitted.workers} are used" if fitted.workers else "one process does the work"
            reporter.warning(f"--mem-limit {size_text(limit)} leaves room for {fitted.workers} of {asked} workers: {used}")
        slab.restrict(fitted.budget.slab)
        reporter.detail(", ".join(f"{name} {size_text(nbytes)}" for name, nbytes in fitted.budget.lines()))
        work = Run(
            images, settings, plan, slab, backend, gauge, writer, checks, reporter, fitted, catalogue_in_memory, recorder,
            trace.main, checkpoint,
        )
        checkpoint.restore(work)
        for k in range(checkpoint.extension, len(images)):
            _extension(work, k, fitted.layouts[k])
        trace.count({"parent": os.getpid(), **backend.processes()})
        # The many short runs of a process that takes images in turn are alike.
        gauge.exact() if known is None else gauge.sample()
        for source in images:
            source.check_unchanged()
        # Before processes end: to whoever looks meanwhile, one after the other, what they share counts more than once.
        if known is None:
            slab.shrink()
        backend.close()
        # What may fail comes first, so that there are all outputs or none.
        with trace.main("finish"):
            checks.seal()
            with uninterrupted():
                writer.close()
                checks.close()
                checkpoint.remove()
        reporter.detail(_buffers(slab))
    seconds = recorder.seconds
    pixels = sum(i.width * i.height for i in infos)
    catalogue = [settings.output.catalog_name] if settings.output.catalog_type != "NONE" else []
    checkimages = [name for kind, name in settings.output.checkimages if kind != "NONE"]
    summary = Summary(
        sources=work.written,
        detected=work.detected,
        beyond=work.beyond,
        seconds=seconds,
        mpixel_per_s=pixels / 1e6 / seconds,
        peak_bytes=gauge.peak,
        limit_bytes=limit,
        rss_bytes=gauge.rss_peak if settings.resources.account == "rss" else 0,
        workers=fitted.workers,
        outputs=(*catalogue, *checkimages),
        flags={1 << bit: n for bit, n in enumerate(work.flagged.tolist()) if n},
        extensions=tuple(work.extensions),
    )
    return summary, fitted


def _buffers(slab: Slab) -> str:
    """What the slab was used for, and whether it was in pieces that were too small."""
    most = ", ".join(f"{name} {size_text(account.peak)}" for name, account in slab.ledger.accounts().items())
    pieces = f"; {size_text(slab.scattered)} were free, but not in one piece" if slab.scattered else ""
    behind = f"; {size_text(slab.overflow.peak)} behind it on disk" if slab.overflow and slab.overflow.peak else ""
    return f"Buffers at most {size_text(slab.ledger.peak)} of {size_text(slab.capacity)}: {most}{pieces}{behind}"


def _extension(work: Run, index: int, layout: Layout) -> None:
    """One extension, or what a checkpoint left of it."""
    info, checkpoint = work.images[index].info, work.checkpoint
    extraction = Extraction(work, index, layout)
    with work.reporter.progress(1.0, info.spec, "image") as progress:
        work.progress = progress
        work.mark("background", index)
        saved = checkpoint.inside(index)
        frame = extraction.measure_background() if saved is None else extraction.restore_background(saved)
        work.mark("detection", index)
        if saved is None:
            work.writer.begin_extension(frame)
            checkpoint.take(work, extraction)
        else:
            checkpoint.restore_writer(frame)
        facts = extraction.extract(saved)
        if work.shelf is not None:
            work.shelf.complete(work)
        work.mark("writing", index)
        news = outcome(work.recorder.seconds, work.gauge.peak)
        work.writer.end_extension(replace(facts, environment=news))
    work.reporter.info(f"Objects: {facts.detected:<8d} detected / {facts.extracted:<8d} sextracted")
    work.detected += facts.detected
    work.extensions.append(
        ExtensionSummary(
            info.width, info.height, frame.background, frame.rms, frame.threshold, frame.gain, frame.pixel_scale,
            facts.detected, facts.extracted,
        )
    )  # fmt: skip
    apertures = work.checks.images.get("APERTURES")
    if isinstance(apertures, ApertureImage):
        checkpoint.draws(index)
        apertures.draw(index, frame.rms)
    checkpoint.take(work)
    if isinstance(apertures, ApertureImage):
        apertures.forget_outlines()


def _warn(infos: Sequence[ImageInfo], plan: Plan, in_memory: MemoryOutputs, reporter: Reporter) -> None:
    """What the user may not have meant, and can be known by now."""
    if uses_sky(plan):
        for info in infos:
            if lacks_celestial(info.header):
                reporter.warning(
                    f"{info.path}[{info.hdu}]: no celestial coordinates in the header (CTYPE1, CTYPE2): ALPHA and DELTA are NaN"
                )
    if in_memory.folders:
        reporter.warning(
            f"{', '.join(in_memory.folders)} is in memory (tmpfs): what is written there counts against --mem-limit"
        )


def _start(
    planned: Fit, factory: HandlerFactory, slab: Slab, infos: Sequence[ImageInfo], settings: Settings, plan: Plan,
    recorder: Recorder, known: Gauge | None,
) -> tuple[Backend, Gauge, Fit]:  # fmt: skip
    """Start as many workers as planned, or fewer if they hold more than predicted."""
    workers, limit = planned.workers, planned.budget.limit
    if known is None:
        # What imports and headers left free: all processes come from this one.
        give_back()
    while True:
        backend: Backend = ProcessBackend(workers, factory) if workers else SerialBackend(factory)
        gauge = known or Gauge(backend.pids, slab, measure=private if settings.resources.hosted else proportional)
        gauge.begin()
        try:
            backend.ended = recorder.note
            recorder.follow(gauge, backend.processes)
            if known is None:
                _warm(backend)
                give_back()
            held = gauge.exact() if known is None else gauge.sample()
            measured = Base(held - gauge.last.shared, gauge.last.rss - (0 if known is None else gauge.mapped()))
            recorder.base = measured.pss
            fitted = try_fit(limit, workers, infos, settings, plan, measured)
            if fitted.fits:
                return backend, gauge, fitted
            if workers == 0:
                fit(limit, 0, infos, settings, plan, measured)
        except BaseException:
            backend.close()
            raise
        recorder.stop()
        backend.close()
        gauge.close()
        workers -= 1


def _warm(backend: Backend) -> None:
    """Have every worker do each measurement once: pages it shares with its template then are its own, and counted."""
    left = {backend.submit(Task(int(Kind.WARM), b"", slot)) for slot in range(backend.workers)}
    while left:
        for result in backend.wait():
            if result.error is not None:
                raise result.error
            if result.died is not None:
                raise WorkerError(f"measuring a made-up star crashed two workers ({result.died}): was this built for this CPU?")
            left.discard(result.ticket)
