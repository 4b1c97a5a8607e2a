"""``--job-script``: how many tasks a survey is cut into, what each needs, and the list that all of them read.

Sizes come from headers, as ``--estimate``'s do.  What a script says in the language of a batch system is ``jobscripts/``'s.
"""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from sextract import pipeline
from sextract.config.resolve import Configuration, Options, general_settings, read_configuration
from sextract.config.settings import Settings
from sextract.errors import ConfigError, InputError, OutputError
from sextract.log import Reporter
from sextract.memory.budget import MIB
from sextract.survey.estimate import sized
from sextract.survey.items import Item, shard_of, silent
from sextract.survey.jobscripts.script import JOB_SCRIPTS, LEAD_SECONDS, SAFETY, Script

# Where neither --workers nor WORKERS says it: the machine that the script is written on tells nothing of those it will run on.
CPUS = 4
# Where neither --mem-limit nor MEM_LIMIT says it, at most this is asked for.
MOST_BYTES = 4096 * MIB
# A task's length: long enough for its start to be nothing, short enough to find its place between others.
TASK_SECONDS = 3600
# More than the time before the end at which a task is told to stop; and what times are rounded up to.
LEAST_SECONDS, ROUND_SECONDS = 900, 300


class Need(NamedTuple):
    """What an image takes.

    Attributes
    ----------
    nbytes : int
        With as many processes as a task has.
    seconds : float
        Of one processor.
    """

    nbytes: int
    seconds: float


def job_script(
    system: str, items: Sequence[Item], options: Options, arguments: Sequence[str], tasks: int, reporter: Reporter
) -> str:
    """A script for a batch system; writes the list of images into the current folder.

    Parameters
    ----------
    system : str
        A name of `JOB_SCRIPTS`.
    items : sequence of Item
        All images.
    options : Options
        The command line.
    arguments : sequence of str
        The same as words, less images and what concerns the script alone.
    tasks : int
        How many; 0: as many as are an hour each.
    reporter : Reporter

    Raises
    ------
    ConfigError
        There is no such system, or something is wrong for all images.
    LimitError
        The limit is too small for an image.
    OutputError
        The list can't be written.
    """
    if system not in JOB_SCRIPTS:
        raise ConfigError(f"--job-script {system} is not known; choose one of {', '.join(JOB_SCRIPTS)}")
    first = read_configuration(items[0].options(options), reporter)
    limit = general_settings(first, silent()).resources.mem_limit_bytes if _limit_given(first) else 0
    cpus = options.workers if options.workers is not None else first.values["WORKERS"] if first.texts["WORKERS"] else CPUS
    cpus = max(cpus, 1)
    needs = [*_needs(items, options, cpus, limit, reporter)]
    tasks = min(tasks or math.ceil(SAFETY * sum(need.seconds for need in needs) / cpus / TASK_SECONDS) or 1, len(items))
    listing = _write_list(items)
    script = Script(
        command=(*_program(), *arguments),
        listing=listing,
        folder=os.getcwd(),
        images=len(items),
        tasks=tasks,
        cpus=cpus,
        limit_bytes=limit or max(need.nbytes for need in needs),
        limit_given=bool(limit),
        seconds=_time(needs, tasks, cpus),
        rss=(options.account or first.values["MEM_ACCOUNT"].lower()) == "rss",
    )
    reporter.info(f"Job script: {len(items)} images of {listing} in {tasks} tasks")
    return JOB_SCRIPTS.get(system)(script)


def _needs(items: Sequence[Item], options: Options, cpus: int, limit: int, reporter: Reporter) -> Iterator[Need]:
    """What each image takes; those that can't be read, which the survey will name, as much as the one before."""
    known: dict[object, Need] = {}
    need = Need(0, 0.0)
    unread = 0
    for image in sized(items, options, lambda c, r: _with(general_settings(c, r), limit or MOST_BYTES, 0), silent()):
        if image.error is not None:
            unread += 1
            reporter.warning(str(image.error))
        elif image.kind in known:
            need = known[image.kind]
        else:
            # Most images of a survey are of one kind.
            need = known[image.kind] = _need(image.item.image, image.settings, cpus)
        yield need
    if unread == len(items):
        raise InputError("no image of the list can be read: nothing tells what the tasks need")


def _need(image: str, settings: Settings, cpus: int) -> Need:
    """What an image takes: alone if it is large, as one of several if it is small."""
    limit = settings.resources.mem_limit_bytes
    alone = pipeline.estimate(image, settings)
    several = cpus * alone.peak_bytes if 4 * sum(w * h for w, h in alone.sizes) <= pipeline.SMALL_BYTES else 0
    together = pipeline.estimate(image, _with(settings, limit, cpus))
    nbytes = -(-(max(together.peak_bytes, several) + dict(together.parts)["kernel"]) // MIB) * MIB
    return Need(min(nbytes, limit), alone.seconds)


def _with(settings: Settings, limit: int, workers: int) -> Settings:
    return replace(settings, resources=replace(settings.resources, mem_limit_bytes=limit, workers=workers))


def _limit_given(configuration: Configuration) -> bool:
    return configuration.options.mem_limit is not None or bool(configuration.values["MEM_LIMIT"])


def _time(needs: Sequence[Need], tasks: int, cpus: int) -> int:
    """Seconds of the longest task, generously."""
    longest = max(sum(need.seconds for need in shard_of(needs, part, tasks)) for part in range(1, tasks + 1))
    wanted = max(SAFETY * longest / cpus + LEAD_SECONDS, LEAST_SECONDS)
    return math.ceil(wanted / ROUND_SECONDS) * ROUND_SECONDS


def _program() -> list[str]:
    """How this program was called, for another machine with the same files."""
    called = os.path.abspath(sys.argv[0])
    return [sys.executable, "-m", "sextract"] if os.path.basename(called) == "__main__.py" else [called]


def _write_list(items: Sequence[Item]) -> str:
    """Write the images to a file whose name says what is in it, so that no later script changes what this one means."""
    text = "".join(_line(item) + "\n" for item in items)
    name = f"sextract-{hashlib.sha256(text.encode()).hexdigest()[:8]}.images"
    part = f".{name}.{os.getpid()}"
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, name)
    except OSError as exc:
        with suppress(OSError):
            os.unlink(part)
        raise OutputError(f"can't write the list of images {name} into the current folder: {exc.strerror}") from exc
    return name


def _line(item: Item) -> str:
    """An image as a line of a list."""
    settings = [f"{key}={value}" for key, value in item.keywords]
    middle = ["-", item.config or "-"] if item.config or settings else []
    return shlex.join([item.image, *middle, *settings])
