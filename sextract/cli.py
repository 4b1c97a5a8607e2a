"""The command line: ``sextract IMAGE… [-c FILE] [--mem-limit 512M] [-KEYWORD VALUE]…``.

It splits arguments, makes `Settings` and calls the pipeline for each image.  What a keyword means is in ``config/``,
what a run does in ``pipeline``.  Exit codes are in ``errors.py``; a batch of which some images failed ends with 10.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from sextract._version import __version__
from sextract.config.keywords import KEYWORDS, nearest
from sextract.config.locations import is_pair, shown
from sextract.errors import ConfigError, Interrupted, LimitError, OutputError, SextractError, out_of_memory
from sextract.execution import _stop, ranks
from sextract.execution.backend import MORE_MEMORY
from sextract.execution.environment import STOPPING
from sextract.log import Reporter

if TYPE_CHECKING:
    from sextract.config.resolve import Configuration, Options
    from sextract.survey.items import Item

# How long a run may take to stop after a signal; a long kernel is left in the middle then.
STOP_SECONDS = 1.5

USAGE = f"""\
sextract {__version__}: astronomical source extraction that keeps a memory limit

sextract IMAGE [-c FILE.sex] [-o CATALOGUE] [--mem-limit 512M] [--workers N] [-KEYWORD VALUE]...
sextract --batch IMAGE... | @list.txt | three or more IMAGEs      images in turn
sextract --job-script slurm|pbs|htcondor @list.txt...             print a script that does so on a cluster
sextract -d | -dd      print the default configuration, short or full
sextract -dp           print the columns that can be asked for
sextract -h            all options
"""

# Options of our own that take the next argument; the splitting of -KEYWORD VALUE must not look at it.
_WITH_VALUE = (
    "-c", "-o", "--mem-limit", "--account", "--mem-report", "--profile", "--workers", "--tile-shape", "--provenance",
    "--scratch", "--manifest", "--engine", "--shard", "--job-script", "--tasks", "--merge", "--merge-radius", "--checkpoint",
    "--checkpoint-folder",
)  # fmt: skip
_BARE = {"--sextractor-bugs": "all", "--estimate": "text"}
_FLAGS = ("-d", "-dd", "-dp", "-h", "-v")
_WHOLE = 2**31 - 1


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see sextract -h")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name.

    Returns
    -------
    int
        Exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if ranks.wanted(words):
        return ranks.drive(lambda: _main(words))
    return _main(words)


def _main(argv: list[str]) -> int:
    """Run the command line, and turn errors into exit codes."""
    reporter = Reporter()
    signals: list[str] = []
    try:
        with _signals(signals):
            return _run(argv, reporter)
    except (Exception, KeyboardInterrupt) as exc:
        # Before all else: libraries make errors of their own of what interrupts them.
        if signals or isinstance(exc, KeyboardInterrupt):
            name = signals[0] if signals else "SIGINT"
            error: SextractError = Interrupted(f"stopped by {name}; nothing half-written is left")
        elif isinstance(exc, SextractError):
            error = exc
        elif out_of_memory(exc):
            error = LimitError(f"out of memory ({f'{type(exc).__name__}: {exc}'.rstrip(': ')}); {MORE_MEMORY}")
        else:
            return _bug(exc, reporter)
    reporter.error(str(error))
    return error.exit_code


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Options and images on one side, the pairs of ``-KEYWORD VALUE`` on the other.

    A value may begin with a dash (``-BACK_VALUE -5``, ``-CHECKIMAGE_TYPE -BACKGROUND``).

    Raises
    ------
    ConfigError
        An unknown keyword, or one without a value.
    """
    rest: list[str] = []
    keywords: list[tuple[str, str]] = []
    todo = iter(argv)
    for word in todo:
        if word in _WITH_VALUE:
            rest += [word, *_following(todo)]
        elif word in _BARE:
            # Its value is optional, and the image that follows isn't one.
            rest.append(f"{word}={_BARE[word]}")
        elif not word.startswith("-") or word.startswith("--") or word in _FLAGS:
            rest.append(word)
        else:
            keywords.append((_keyword(word), _value(word, todo)))
    return rest, keywords


def only_image(words: Sequence[str], batch: bool) -> str | None:
    """The one image of a run; None if they are a batch.

    Raises
    ------
    ConfigError
        None, two without ``--batch`` (SExtractor would take them as one pair), or a pair ``A,B``.
    """
    if not words:
        raise ConfigError("no image is given; see sextract -h")
    batch = batch or any(word.startswith("@") and not os.path.exists(word) for word in words)
    if len(words) == 2 and not batch:
        a, b = map(shown, words)
        raise ConfigError(
            f"two images are either a pair, detection and measurement (write {a},{b}), "
            f"or two runs (write --batch {a} {b})"
        )
    for image in words:
        if not image.startswith("@") and is_pair(image):
            raise ConfigError(f"{shown(image)}: detection and measurement on two images is not built yet; give one image")
    return None if batch or len(words) > 1 else words[0]


def parse_tile_shape(text: str) -> tuple[int, int]:
    """Rows and columns of ``512x300``, ``97`` (rows, all columns) or ``whole``."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p == "whole" or re.fullmatch("[1-9][0-9]*", p) for p in parts):
        raise ConfigError(f"--tile-shape {text!r} is not ROWSxCOLS, ROWS or whole")
    rows, columns = (_WHOLE if p == "whole" else int(p) for p in (parts if len(parts) == 2 else (parts[0], "whole")))
    return rows, columns


def _run(argv: list[str], reporter: Reporter) -> int:
    if not argv:
        return _say(USAGE)
    rest, keywords = split_arguments(argv)
    args = _parser().parse_args(rest)
    if args.dump or args.dump_full or args.dump_columns or args.version:
        return _dump(args)
    if args.merge is not None:
        return _merge(args, keywords, reporter)
    image = only_image(args.images, args.batch)
    # With this comes numpy, without which the version, say, is told in half the time.
    from sextract.config.resolve import Options, read_configuration

    options = Options(
        config=args.config,
        keywords=tuple(keywords),
        output=args.output,
        mem_limit=args.mem_limit,
        workers=args.workers,
        scratch_dir=args.scratch,
        account=args.account,
        mem_report=tuple(args.mem_report),
        profile=args.profile,
        tile_shape=args.tile_shape,
        checkpoint=args.checkpoint,
        checkpoint_folder=args.checkpoint_folder,
        resume=args.resume,
        provenance=args.provenance,
        sextractor_bugs=frozenset(args.sextractor_bugs.split(",")) - {""},
        strict=args.strict,
    )
    if image is None or args.job_script:
        return _batch(args, options, reporter, rest)
    return _one(image, read_configuration(options, reporter), reporter, args.estimate)


def _merge(args: argparse.Namespace, keywords: Sequence[tuple[str, str]], reporter: Reporter) -> int:
    """Merge the catalogues of a survey."""
    from sextract.survey.merge.merging import RADIUS_ARCSEC, Request, merge

    for keyword, value in keywords:
        if keyword != "VERBOSE_TYPE":
            raise ConfigError(f"-{keyword} {value} has no effect on --merge: catalogues are merged as they are")
        reporter.verbose = value.upper()
    radius = RADIUS_ARCSEC if args.merge_radius is None else args.merge_radius
    merge(Request(args.merge, tuple(args.images), radius, args.mem_limit, args.scratch, args.overwrite), reporter)
    return 0


def _one(image: str, config: Configuration, reporter: Reporter, estimate: str | None) -> int:
    """Process one image."""
    from sextract import pipeline
    from sextract.config.resolve import settings_for

    settings = settings_for(image, config, reporter)
    # What is to be imported is there (``__main__.py``).
    gc.enable()
    if estimate:
        found = pipeline.estimate(image, settings)
        return _say(f"{found.as_json() if estimate == 'json' else found}\n")
    reporter.info(str(pipeline.run(image, settings, reporter)))
    return 0


def _batch(args: argparse.Namespace, options: Options, reporter: Reporter, words: Sequence[str]) -> int:
    """Process many images, or tell what each would take; `words` are the arguments without keywords."""
    from sextract import survey
    from sextract.survey.items import list_items, shard_of

    items = list_items(args.images)
    if not items:
        raise ConfigError(f"no image is in {' '.join(args.images)}")
    if args.job_script:
        return _job_script(args, options, items, reporter, words)
    part, parts = args.shard
    items = shard_of(items, part, parts)
    if args.estimate:
        return _estimate(items, options, args.engine.partition(":")[0], args.estimate, reporter)
    gc.enable()
    try:
        return survey.run(items, options, survey.Plan(args.manifest, args.resume, args.engine, part, parts), reporter)
    except KeyboardInterrupt as exc:
        raise Interrupted(f"stopped by {exc or 'SIGINT'}; what is done stays done: go on with --resume") from exc


def _job_script(
    args: argparse.Namespace, options: Options, items: Sequence[Item], reporter: Reporter, words: Sequence[str]
) -> int:
    """Print a script for a batch system, whose tasks have the same options."""
    from sextract.survey.sizing import job_script

    if args.manifest or args.shard != (1, 1):
        raise ConfigError("--job-script gives each task its part and a manifest of its own: leave --shard and --manifest out")
    repeated: list[str] = []
    todo = iter(words)
    for word in todo:
        pair = [word, *_following(todo)] if word in _WITH_VALUE else [word] if word.startswith("-") else []
        if pair and pair[0].partition("=")[0] not in ("--job-script", "--tasks", "--batch", "--resume"):
            repeated += pair
    repeated += [word for name, value in options.keywords for word in (f"-{name}", value)]
    return _say(job_script(args.job_script, items, options, repeated, args.tasks, reporter))


def _estimate(items: Sequence[Item], options: Options, engine: str, kind: str, reporter: Reporter) -> int:
    """Tell what a batch would take; an image that can't be read doesn't stop the others."""
    from sextract.survey import SOME_FAILED, estimate

    code = 0
    told = estimate.as_json(items, options, reporter) if kind == "json" else estimate.as_text(items, options, engine, reporter)
    for line in told:
        if isinstance(line, str):
            _say(f"{line}\n")
        else:
            reporter.error(str(line))
            code = SOME_FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sextract",
        usage="sextract IMAGE... [options] [-KEYWORD VALUE]...",
        description="Finds and measures sources in FITS images, in SExtractor's terms, within a memory limit.",
        epilog="Any SExtractor keyword is an option of its own: -DETECT_THRESH 2.0. Sizes: 512M, 1.5G, 0.5GiB.",
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="FITS file, one extension of it (a.fits[2], a.fits[SCI]), @list.txt")
    add("-c", dest="config", metavar="FILE", help="configuration file (else ./default.sex if there is one)")
    add("-o", dest="output", metavar="FILE", help="catalogue, before CATALOG_NAME; {stem} is the image's name")
    add("--mem-limit", metavar="SIZE", help="memory of all processes together (else the machine's limits)")
    add("--account", choices=("pss", "rss"), help="what counts: pss, shared memory once; rss, once for each process")
    add("--mem-report", action="append", default=[], metavar="FILE", help="memory over time: .html, .png, .json or .csv")
    add("--profile", metavar="FILE", help="what each process did when: a trace for Perfetto or chrome://tracing")
    add("--workers", type=_count, metavar="N", help="worker processes; 0: all in one process (else one a CPU)")
    add("--batch", action="store_true", help="the images are separate runs; so are three or more, and those of a list")
    add("--manifest", metavar="FILE", default="", help="what became of each image of a batch (else beside the catalogues)")
    add("--engine", metavar="NAME[:ARG]", default="local", help="what runs a batch: local, parsl:CONFIG.py, dask:ADDRESS, mpi")
    add("--shard", metavar="K/N", type=_shard, default=(1, 1), help="do the K-th of N parts of a batch alone, for job arrays")
    add("--job-script", metavar="SYSTEM", help="print a script that does a batch on a cluster: slurm, pbs or htcondor")
    add("--tasks", type=_tasks, default=0, metavar="N", help="of a job script (else as many as take an hour each)")
    add("--estimate", choices=("text", "json"), help="print plan and predicted peak, read no pixels; =json: for a job script")
    add("--strict", action="store_true", help="an unknown keyword of a file is an error")
    add("--scratch", metavar="FOLDER", help="folder for scratch files")
    add("--checkpoint", type=_bands, metavar="N", help="in one large image: note every N rows of tiles where the run stands")
    add("--checkpoint-folder", metavar="FOLDER", help="where CATALOGUE.checkpoint is kept (else beside the catalogue)")
    add("--resume", action="store_true", help="go on with what was stopped; images of a batch that are done stay so")
    add("--provenance", choices=("input", "full"), default="input", help="full: facts of the run in the header")
    add("--sextractor-bugs", default="", metavar="NAMES", help="restore SExtractor's oddities: all, or =name,name")
    add("--merge", metavar="FOLDER", help="merge the catalogues of these manifests into one Parquet data set")
    add("--merge-radius", type=_arcsec, metavar="ARCSEC", help="sources this near on two images are one object (else 1.0)")
    add("--overwrite", action="store_true", help="--merge may replace an earlier data set")
    add("--tile-shape", type=parse_tile_shape, help=argparse.SUPPRESS)
    add("-d", dest="dump", action="store_true", help="print the default configuration")
    add("-dd", dest="dump_full", action="store_true", help="print all of it")
    add("-dp", dest="dump_columns", action="store_true", help="print the columns that can be asked for")
    add("-v", "--version", dest="version", action="store_true", help="print the version")
    add("-h", "--help", action="help", help="print this")
    return parser


def _dump(args: argparse.Namespace) -> int:
    if args.version:
        return _say(f"sextract {__version__}\n")
    from sextract.config.dump import dump_columns, dump_configuration

    return _say(dump_columns() if args.dump_columns else dump_configuration(full=args.dump_full))


def _say(text: str) -> int:
    """Print what was asked for."""
    if sys.stdout is None:
        raise OutputError("can't write to standard output: it is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        # Python must not complain of it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if exc.errno == errno.EPIPE:
            # Its reader (head, say) has seen enough.
            return 1
        raise OutputError(f"can't write to standard output: {exc.strerror}") from exc
    return 0


def _following(todo: Iterator[str]) -> list[str]:
    word = next(todo, None)
    return [] if word is None else [word]


def _keyword(word: str) -> str:
    name = word[1:].upper()
    if name not in KEYWORDS:
        raise ConfigError(f"{word} is neither an option nor a keyword{nearest(name, KEYWORDS)}")
    return name


def _value(word: str, todo: Iterator[str]) -> str:
    value = next(todo, None)
    if value is None or (value[1:].upper() in KEYWORDS and value.startswith("-")) or value.startswith("--"):
        raise ConfigError(f"{word} has no value" + ("" if value is None else f" (before {value})"))
    if value.rstrip().endswith((",", ";")):
        raise ConfigError(f"{word} {value}: a comma with nothing after it; write a list without blanks or in quotes")
    return value


def _shard(text: str) -> tuple[int, int]:
    """K and N of ``K/N``."""
    match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"--shard {text!r} is not K/N with K from 1 to N")
    return int(match[1]), int(match[2])


def _tasks(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ConfigError(f"--tasks {text!r} is not a number from 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) > 4096:
        raise ConfigError(f"--workers {text!r} is not a number from 0 to 4096")
    return int(text)


def _arcsec(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--merge-radius {text!r} is not a number of arcsec") from None


def _bands(text: str) -> int:
    if not text.isdigit() or int(text) > 1_000_000:
        raise ConfigError(f"--checkpoint {text!r} is not a number of rows of tiles from 0 (none) to 1000000")
    return int(text)


def _bug(exc: Exception, reporter: Reporter) -> int:
    """One line for what nobody foresaw; the traceback with VERBOSE_TYPE FULL."""
    if reporter.verbose == "FULL":
        import traceback

        reporter.detail(traceback.format_exc().rstrip())
    said = " ".join(str(exc).split())
    reporter.error(f"{type(exc).__name__}: {said} (this is a bug; -VERBOSE_TYPE FULL shows where)")
    return 1


class _Signal(KeyboardInterrupt):
    """A signal, on its way out of the run.

    Python remembers a plain KeyboardInterrupt that ended code made of a string, such as imports make for their classes, and in
    the end the process goes the way of SIGINT, whatever was made of it since.
    """


@contextmanager
def _signals(told: list[str]) -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGUSR1 stop a run as SIGINT does; a second one doesn't disturb the clean-up.

    Parameters
    ----------
    told : list of str
        Gets the name of the one that stops the run.
    """

    def stop(number: int, frame: object) -> None:
        # Ignoring the later ones would be simpler, but Python complains of those that are on their way already.
        if not told:
            told.append(signal.Signals(number).name)
            raise _Signal

    def again(number: int, frame: object) -> None:
        raise _Signal

    def lost(what: sys.UnraisableHookArgs) -> None:
        # Out of a callback of a weak reference, say, nothing can be raised; imports have such.
        if isinstance(what.exc_value, _Signal):
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)
        else:
            hook(what)

    # What is ignored on purpose (nohup) stays ignored.
    handled = [s for s in STOPPING if signal.getsignal(s) is not signal.SIG_IGN]
    hook = sys.unraisablehook
    before = {}
    try:
        sys.unraisablehook = lost
        before[signal.SIGVTALRM] = signal.signal(signal.SIGVTALRM, again)
        for each in handled:
            before[each] = signal.signal(each, stop)
            _stop.enforce(each, STOP_SECONDS, Interrupted.exit_code)
        yield
    finally:
        _stop.relax()
        sys.unraisablehook = hook
        for each, handler in before.items():
            signal.signal(each, handler)


if __name__ == "__main__":
    sys.exit(main())
