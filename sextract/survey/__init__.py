"""A survey: many images, each done once, whatever happens meanwhile.

It plans the images that are left, gives them to an engine (``engines/``), records in a manifest what becomes of each
(``manifest.py``), and tells in the end how many failed and why.  What a single image takes is ``job.py`` and the pipeline.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from shlex import quote
from typing import NamedTuple

from sextract._version import __version__
from sextract.config.locations import WEB, is_url, scheme_of, shown
from sextract.config.outputs import Outputs, outputs_of
from sextract.config.resolve import Configuration, Options, for_image
from sextract.config.settings import Settings
from sextract.errors import ConfigError, InputError, OutputError, WorkerError
from sextract.log import Reporter
from sextract.pipeline.checkpoint import folder_of
from sextract.pipeline.facts import fingerprint
from sextract.reading.spec import parse_spec
from sextract.survey.engines.engine import ENGINES, Engine, Setting
from sextract.survey.items import Configurations, Item
from sextract.survey.job import Job, Outcome, identity, sum_of
from sextract.survey.manifest import Entry, Manifest

SOME_FAILED = 10

# How often an image is begun whose worker is lost each time.
MOST_ATTEMPTS = 5

# Reasons why images failed that are told in the end, and images named for each.
_REASONS, _NAMED = 20, 5


class Plan(NamedTuple):
    """How a survey is to be done.

    Attributes
    ----------
    manifest : str
        File; empty: the default.
    resume : bool
    engine : str
        NAME or NAME:ARGUMENT.
    part, parts : int
        Which part of the images is done here.
    """

    manifest: str = ""
    resume: bool = False
    engine: str = "local"
    part: int = 1
    parts: int = 1


def run(items: Sequence[Item], options: Options, plan: Plan, reporter: Reporter) -> int:
    """Do a survey.

    Parameters
    ----------
    items : sequence of Item
        Those of this part.
    options : Options
        The command line.
    plan : Plan
    reporter : Reporter

    Returns
    -------
    int
        Exit code: 0, or 10 if some images failed.

    Raises
    ------
    ConfigError
        Something is wrong for all images, or two of them write to the same file.
    OutputError
        The manifest, or a folder, can't be written.
    """
    name, _, argument = plan.engine.partition(":")
    if name not in ENGINES:
        raise ConfigError(f"--engine {name} is not known; choose one of {', '.join(ENGINES)}")
    work = _Survey(items, options, reporter)
    work.check_outputs()
    work.sign()
    path = plan.manifest or default_manifest(items[0], work, plan)
    work.make_folders(path)
    with Manifest(path) as manifest:
        facts = {"version": __version__, "software": f"sextract {__version__}", "folder": work.folder}
        facts["command"] = " ".join(quote(shown(word)) for word in sys.argv[1:])
        kept = manifest.begin(facts, work.entries(), work.still_valid if plan.resume else _never)
        reporter.info(f"Survey: {len(items)} images{f', {kept} of them done before' if kept else ''}; manifest {path}")
        left = set(manifest.waiting())
        if left:
            todo = [item for item in items if item.number in left]
            resources = work.job(todo[0]).settings.resources
            setting = Setting(resources, len(todo), reporter, os.path.dirname(path) or ".")
            work.run(todo, ENGINES.get(name)(argument, setting), manifest)
    return work.tell(len(items))


def default_manifest(item: Item, work: _Survey, plan: Plan) -> str:
    """``sextract.manifest`` in the folder of the catalogues, up to where names differ; each part of a survey has its own."""
    options = item.options(work.options)
    name = options.output or work.configuration(item).texts["CATALOG_NAME"]
    folder = name if os.path.isdir(name) else os.path.dirname(name.partition("{")[0])
    part = f"{plan.part}-of-{plan.parts}." if plan.parts > 1 else ""
    return os.path.join(folder, f"sextract.{part}manifest")


class _Survey:
    """Images, and what became of them."""

    def __init__(self, items: Sequence[Item], options: Options, reporter: Reporter) -> None:
        self.items, self.options, self.reporter = items, options, reporter
        self.folder = os.getcwd()
        self._configurations = Configurations(options, reporter)
        self._signed: dict[str, str] = {}
        # What went wrong, less what is the image's own: why the first one failed, and all their names.
        self._failures: dict[str, tuple[str, list[str]]] = {}
        self._done, self._sources, self._began = 0, 0, time.monotonic()

    # What is to be done

    def configuration(self, item: Item) -> Configuration:
        """The configuration of an image."""
        return self._configurations.of(item)[0]

    def _outputs(self, item: Item) -> Outputs:
        return outputs_of(item.image, self.configuration(item), item.number)

    def job(self, item: Item, reporter: Reporter | None = None) -> Job:
        """What an engine gets; a reporter hears what is to be said of its outputs."""
        configuration, general = self._configurations.of(item)
        reporter = Reporter("QUIET") if reporter is None else reporter
        settings = for_image(item.image, general, configuration, reporter, number=item.number)
        settings = _going_on(settings, settings.resources.resume)
        return Job(item.number, item.image, self.folder, settings, address=self._signed.get(item.image, ""))

    def entries(self) -> Iterator[Entry]:
        """A row of the manifest for each."""
        for item in self.items:
            outputs = self._outputs(item)
            yield Entry(item.number, shown(item.image), outputs.catalogue, outputs.catalogue_type)

    def sign(self) -> None:
        """Have addresses of object stores signed, all at once: a second each, if one by one."""
        images = [item.image for item in self.items if is_url(item.image) and scheme_of(item.image) not in WEB]
        if not images:
            return
        from sextract.reading.remote.store import sign

        specs = [parse_spec(image) for image in images]
        limit = self.job(self.items[0]).settings.resources.mem_limit_bytes
        # What is wrong with one of them is said when its turn comes.
        with suppress(InputError):
            signed = sign([spec.path for spec in specs], limit)
            pairs = zip(images, specs, signed, strict=True)
            self._signed = {image: url + image[len(spec.path) :] for image, spec, url in pairs if url}

    def check_outputs(self) -> None:
        """Refuse a survey in which two images write to one file."""
        owner: dict[str, int] = {}
        for item in self.items:
            for keyword, file in self._outputs(item).files():
                other = owner.setdefault(os.path.abspath(file), item.number)
                if other != item.number:
                    first = shown(next(i.image for i in self.items if i.number == other))
                    same = f"image {item.number}, which is the same" if first == shown(item.image) else shown(item.image)
                    raise ConfigError(
                        f"{keyword} {file} would be written for {first} and for {same}: put {{stem}}, "
                        f"{{folder}} or {{number}} in the name, as in {{stem}}{os.path.splitext(file)[1] or '.cat'}"
                    )

    def make_folders(self, manifest: str) -> None:
        """Make the folders of outputs that aren't there."""
        files = [("--manifest", manifest)]
        made: set[str] = set()
        for keyword, file in itertools.chain(files, *(self._outputs(item).files() for item in self.items)):
            folder = os.path.dirname(os.path.abspath(file))
            if folder not in made:
                made.add(folder)
                try:
                    os.makedirs(folder, exist_ok=True)
                except OSError as exc:
                    raise OutputError(f"can't make the folder {folder} for {keyword} {file}: {exc.strerror}") from exc

    def still_valid(self, earlier: Entry, now: Entry) -> bool:
        """Whether what was done before still holds: same input and configuration, all outputs as they were written."""
        job = self.job(self._item(now.number))
        settings = job.settings
        files = earlier.files
        wanted = {name for _, name in settings.output.checkimages}
        if now.catalogue_type != "NONE":
            wanted.add(now.catalogue)
        return (
            earlier.input != ""
            and earlier.input == identity(job.source, self.folder)
            and earlier.configuration == fingerprint(settings)
            and set(files) >= wanted
            and all(_unchanged(name, *facts) for name, facts in files.items())
        )

    def _item(self, number: int) -> Item:
        """The image with that place; places ascend."""
        return self.items[bisect_left(self.items, number, key=lambda item: item.number)]

    # Doing it

    def run(self, todo: Sequence[Item], engine: Engine, manifest: Manifest) -> None:
        """Have an engine do what is left; whatever happens, the manifest tells how far it came."""
        pending: dict[Future[Outcome], Job] = {}
        try:
            waiting = deque(sorted(todo, key=lambda item: engine.later(item.image)))
            again: deque[Job] = deque()
            with self.reporter.progress(len(todo), "images", "image") as progress:
                while waiting or again or pending:
                    while (waiting or again) and len(pending) < engine.window:
                        job = again.popleft() if again else self.job(waiting.popleft(), self.reporter)
                        pending[engine.submit(job)] = job
                        manifest.started(job)
                    for future in engine.wait(pending):
                        job = pending.pop(future)
                        lost = self._take(job, future, manifest)
                        again.extend([lost] if lost else [])
                        progress.advance(0 if lost else 1)
                    manifest.commit(now=False)
        finally:
            try:
                engine.close()
            finally:
                manifest.stopped()

    def _take(self, job: Job, future: Future[Outcome], manifest: Manifest) -> Job | None:
        """Record what came of a job, or have it done again."""
        lost = future.exception()
        if lost is not None and job.attempt < MOST_ATTEMPTS:
            self.reporter.warning(f"{shown(job.image)}: its worker was lost ({_one_line(lost)}); it is done again")
            settings = _going_on(job.settings, job.settings.resources.checkpoint > 0)
            return job._replace(attempt=job.attempt + 1, settings=settings)
        if lost is None:
            outcome = future.result()
        else:
            error = f"its worker was lost {job.attempt} times ({_one_line(lost)})"
            outcome = Outcome(job.number, WorkerError.exit_code, error, configuration=fingerprint(job.settings))
        self._say(job, outcome)
        manifest.finished(outcome, job.settings.photometry.mag_zeropoint)
        return None

    def _say(self, job: Job, outcome: Outcome) -> None:
        name = shown(job.image)
        self.reporter.info(f"Image {job.number}: {name}")
        for line in outcome.log.splitlines():
            self.reporter.line(line)
        if outcome.exit_code:
            why = outcome.error.removeprefix(f"{name}: ")
            self.reporter.error(f"{name}: {why}")
            self._failures.setdefault(_sort_of(why, job), (why, []))[1].append(name)
        elif outcome.summary is not None:
            self._done += 1
            self._sources += outcome.summary.sources

    def tell(self, images: int) -> int:
        """The last lines; the exit code."""
        if self._done or self._failures:
            seconds = time.monotonic() - self._began
            self.reporter.info(f"Survey: {self._done} images done, {self._sources} sources, {seconds:.1f} s")
        if not self._failures:
            return 0
        failed = sum(len(names) for _, names in self._failures.values())
        self.reporter.error(f"{failed} of {images} images failed")
        for why, names in itertools.islice(self._failures.values(), _REASONS):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            self.reporter.error(f"{', '.join(names[:_NAMED])}{more}: {why}")
        if len(self._failures) > _REASONS:
            self.reporter.error(f"and {len(self._failures) - _REASONS} more reasons: the manifest has one for each image")
        return SOME_FAILED


def _sort_of(why: str, job: Job) -> str:
    """What went wrong, without the names and numbers of the image that it went wrong with."""
    output = job.settings.output
    for name in (shown(job.image), output.catalog_name, *(file for _, file in output.checkimages)):
        why = why.replace(name, "")
    return re.sub(r"\d+", "", why)


def _going_on(settings: Settings, wanted: bool) -> Settings:
    """Settings of an image that is gone on with from its checkpoint, if that is wanted and there is one."""
    resume = wanted and os.path.isdir(folder_of(settings))
    if resume == settings.resources.resume:
        return settings
    return replace(settings, resources=replace(settings.resources, resume=resume))


def _never(earlier: Entry, now: Entry) -> bool:
    return False


def _unchanged(name: str, nbytes: int, total: str) -> bool:
    """Whether an output is as it was written."""
    try:
        return os.stat(name).st_size == nbytes and (not total or sum_of(name) == total)
    except OSError:
        return False


def _one_line(exc: BaseException) -> str:
    return " ".join(f"{type(exc).__name__}: {exc}".split())
