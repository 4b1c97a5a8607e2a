"""``--estimate`` of a survey: what its images would take, a row for each kind of them, from headers and settings alone.

Images are of one kind if they are planned the same: same sizes, stored the same way, with the same options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from sextract import pipeline
from sextract.config.locations import shown
from sextract.config.resolve import Configuration, Options, for_image, general_settings
from sextract.config.settings import Settings
from sextract.errors import InputError, LimitError, SextractError
from sextract.log import Reporter
from sextract.memory.budget import size_text
from sextract.pipeline.estimate import START_SECONDS, Estimate
from sextract.pipeline.plan import families
from sextract.pipeline.stages import Plan, imports_astropy
from sextract.reading.source import open_images
from sextract.survey.engines.engine import Setting, workers_beside
from sextract.survey.engines.local import is_large, shares
from sextract.survey.items import Configurations, Item, silent

General = Callable[[Configuration, Reporter], Settings]

# Kinds that are told one by one.
MOST_ROWS = 20


class Sized(NamedTuple):
    """An image, and what is known of it by its header.

    Attributes
    ----------
    item : Item
    settings : Settings
    kind : object
        Equal for images that are planned the same; None if this one can't be read.
    error : InputError or None
        Why not.
    """

    item: Item
    settings: Settings
    kind: object
    error: InputError | None = None


class Row(NamedTuple):
    """Images of a kind.

    Attributes
    ----------
    images : int
    small : bool
        Done several at a time.
    each : Estimate
        Of one of them.
    seconds : float
        Of one of them, in a process that is there.
    """

    images: int
    small: bool
    each: Estimate
    seconds: float


class Way(NamedTuple):
    """How a survey is done.

    Attributes
    ----------
    engine : str
    limit_bytes : int
        Of this machine, or of each worker of another engine.
    workers : int
        For an image that is done alone.
    runners, share_bytes : int
        How many small ones at a time, and what each may hold; 0: none.
    """

    engine: str
    limit_bytes: int
    workers: int
    runners: int
    share_bytes: int


def sized(items: Sequence[Item], options: Options, general: General, reporter: Reporter) -> Iterator[Sized]:
    """Look at the headers of all images.

    Parameters
    ----------
    items : sequence of Item
    options : Options
        The command line.
    general : callable
        ``(configuration, reporter) -> settings`` that many images have.
    reporter : Reporter
        Hears what configurations say.

    Raises
    ------
    ConfigError
        Something is wrong with an option.
    """
    configurations = Configurations(options, reporter, general)
    plans: dict[object, Plan] = {}
    for item in items:
        configuration, settings = configurations.of(item)
        key = item.config, item.keywords
        plan = plans.get(key) or plans.setdefault(key, families(settings))
        settings = for_image(item.image, settings, configuration, silent(), number=item.number)
        try:
            yield Sized(item, settings, (key, _kind(item.image, settings, plan)))
        except InputError as exc:
            yield Sized(item, settings, None, exc)


def _kind(image: str, settings: Settings, plan: Plan) -> object:
    """What a plan depends on: sizes, how the image is stored, and whether its sky positions take astropy."""
    infos = [source.info for source in open_images(image, scratch_dir=settings.resources.scratch_dir)]
    sizes = tuple((info.width, info.height, info.bitpix, info.tile_rows, info.library_bytes) for info in infos)
    return sizes, is_large(image), imports_astropy(plan, infos)


def as_json(items: Sequence[Item], options: Options, reporter: Reporter) -> Iterator[str | SextractError]:
    """A line of JSON for each image, as if it were done alone; why there is none."""
    known: dict[object, Estimate] = {}
    for image in sized(items, options, general_settings, reporter):
        resources = image.settings.resources
        if image.error is None and image.kind not in known:
            found = _estimate(image.item.image, image.settings, resources.workers, resources.mem_limit_bytes)
            if isinstance(found, LimitError):
                yield found
                continue
            known[image.kind] = found
        yield image.error or replace(known[image.kind], image=shown(image.item.image)).as_json()


def as_text(items: Sequence[Item], options: Options, engine: str, reporter: Reporter) -> Iterator[str | SextractError]:
    """What a survey would take, at last; before it, why there is nothing to be said of an image."""
    found: dict[object, Row | LimitError] = {}
    images: Counter[object] = Counter()
    way: Way | None = None
    for image in sized(items, options, general_settings, reporter):
        way = way or _way(engine, Setting(image.settings.resources, len(items), reporter))
        if image.error is not None:
            yield image.error
            continue
        images[image.kind] += 1
        if image.kind not in found:
            found[image.kind] = _row(image, way)
    for kind, what in found.items():
        if isinstance(what, LimitError):
            yield LimitError(f"{images[kind]} images: {what}")
    rows = [what._replace(images=images[kind]) for kind, what in found.items() if isinstance(what, Row)]
    if way is not None and rows:
        yield _text(sorted(rows, key=lambda row: row.images, reverse=True), way)


def _way(engine: str, setting: Setting) -> Way:
    limit = setting.resources.mem_limit_bytes
    if engine != "local":
        return Way(engine, limit, workers_beside(setting.resources), 0, 0)
    return Way(engine, limit, setting.resources.workers, *shares(setting))


def _row(image: Sized, way: Way) -> Row | LimitError:
    """What one of a kind takes, where it is done."""
    name, settings = image.item.image, image.settings
    if way.runners and not is_large(name):
        found = _estimate(name, settings, 0, way.share_bytes)
        if isinstance(found, Estimate):
            return Row(1, True, found, max(found.seconds - START_SECONDS, 0.0))
        # It is done with all memory, as large ones are.
    found = _estimate(name, settings, way.workers, way.limit_bytes)
    start = START_SECONDS if way.engine != "local" and not way.workers else 0.0
    return found if isinstance(found, LimitError) else Row(1, False, found, max(found.seconds - start, 0.0))


def _estimate(image: str, settings: Settings, workers: int, limit_bytes: int) -> Estimate | LimitError:
    resources = replace(settings.resources, workers=workers, mem_limit_bytes=limit_bytes)
    try:
        return pipeline.estimate(image, replace(settings, resources=resources))
    except LimitError as exc:
        return exc


def _text(rows: Sequence[Row], way: Way) -> str:
    """The survey as a whole, then a table of the kinds."""
    limit = size_text(way.limit_bytes)
    seconds = sum(row.images * row.seconds / (way.runners if row.small else 1) for row in rows)
    if way.engine == "local":
        large, small = (max((r.each.peak_bytes for r in rows if r.small == which), default=0) for which in (False, True))
        small_ones = f"{way.runners} of up to {size_text(pipeline.SMALL_BYTES)} with {size_text(way.share_bytes)} each"
        several = small_ones if small else ""
        alone = f"{'larger ones' if several else 'each'} alone with {way.workers} workers" if large else ""
        lines = [
            ("memory limit", limit),
            ("at a time", "; ".join(filter(None, (several, alone)))),
            ("predicted peak", size_text(min(max(large, way.runners * small), way.limit_bytes))),
            ("time", f"about {seconds:.0f} s"),
        ]
    else:
        lines = [("memory limit", f"{limit} for each worker of {way.engine}"), ("time", f"about {seconds:.0f} s of one worker")]
    told = [("images", str(sum(row.images for row in rows))), *lines]
    more = [f"and {len(rows) - MOST_ROWS} more kinds"] if len(rows) > MOST_ROWS else []
    return "\n".join([*(f"{name + ':':<19}{text}" for name, text in told), "", *_table(rows[:MOST_ROWS]), *more])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of it; what comes last may have any length."""
    yield f"{'images':>7}  {'peak':>6}  {'smallest':>8}  {'time each':>9}  {'pixels':<24}  such as"
    for images, _, each, seconds in rows:
        peak, smallest = size_text(each.peak_bytes), size_text(each.smallest_limit_bytes)
        width, height = each.sizes[0]
        pixels = f"{width} × {height}" + (f", {len(each.sizes)} extensions" if len(each.sizes) > 1 else "")
        yield f"{images:>7}  {peak:>6}  {smallest:>8}  {f'{seconds:.1f} s':>9}  {pixels:<24}  {each.image}"
