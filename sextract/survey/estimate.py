"""``--estimate`` of a survey: what its images would take, a row for each kind of them, from headers and settings alone.

Images are of one kind if they are planned the same: same sizes, stored the same way, with the same options.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from sextract import pipeline
from sextract.config.locations import shown
from sextract.config.resolve import Configuration, Options, for_image, general_settings, read_configuration
from sextract.config.settings import Settings
from sextract.errors import InputError, LimitError, SextractError
from sextract.log import Reporter
from sextract.memory.budget import size_text
from sextract.pipeline.estimate import START_SECONDS, Estimate
from sextract.pipeline.plan import families
from sextract.pipeline.stages import Plan, imports_astropy
from sextract.reading.source import open_images
from sextract.survey.engines.engine import Setting
from sextract.survey.engines.local import LARGE_BYTES, is_large, shares
from sextract.survey.items import Item

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


def silent() -> Reporter:
    """Hears what nobody needs to, whatever VERBOSE_TYPE says."""
    return Reporter("QUIET", io.StringIO())


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
        Hears what the first configuration says.

    Raises
    ------
    ConfigError
        Something is wrong with an option.
    """
    made: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Configuration, Settings, Plan]] = {}
    for item in items:
        key = item.config, item.keywords
        if key not in made:
            heard = silent() if made else reporter
            configuration = read_configuration(item.options(options), heard)
            settings = general(configuration, heard)
            made[key] = configuration, settings, families(settings)
        configuration, settings, plan = made[key]
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
        if image.error is not None:
            yield image.error
            continue
        found = known.get(image.kind) or _estimate(image.item.image, image.settings)
        if isinstance(found, Estimate):
            known[image.kind] = found
            yield replace(found, image=shown(image.item.image)).as_json()
        else:
            yield found


def as_text(items: Sequence[Item], options: Options, engine: str, reporter: Reporter) -> Iterator[str | SextractError]:
    """What a survey would take, at last; before it, why there is nothing to be said of an image."""
    rows: dict[object, Row] = {}
    refused: dict[object, tuple[int, LimitError]] = {}
    runners, share = 0, 0
    settings: Settings | None = None
    for image in sized(items, options, general_settings, reporter):
        if settings is None:
            settings = image.settings
            setting = Setting(settings.resources, len(items), reporter)
            # Each worker of another engine has the limit for itself.
            runners, share = shares(setting) if engine == "local" else (1, settings.resources.mem_limit_bytes)
        if image.error is not None:
            yield image.error
        elif image.kind in rows:
            rows[image.kind] = rows[image.kind]._replace(images=rows[image.kind].images + 1)
        elif image.kind in refused:
            refused[image.kind] = refused[image.kind][0] + 1, refused[image.kind][1]
        elif isinstance(found := _row(image, runners, share), Row):
            rows[image.kind] = found
        else:
            refused[image.kind] = 1, found
    for images, error in refused.values():
        yield LimitError(f"{images} images: {error}")
    if settings is not None and rows:
        yield _text(list(rows.values()), settings, engine, runners, share)


def _row(image: Sized, runners: int, share: int) -> Row | LimitError:
    """What one of a kind takes, where it is done."""
    small = runners > 0 and not is_large(image.item.image)
    if small:
        resources = replace(image.settings.resources, workers=0, mem_limit_bytes=share)
        found = _estimate(image.item.image, replace(image.settings, resources=resources))
        if isinstance(found, Estimate):
            return Row(1, True, found, max(found.seconds - START_SECONDS, 0.0))
        # It is done with all memory, as large ones are.
    found = _estimate(image.item.image, image.settings)
    return found if isinstance(found, LimitError) else Row(1, False, found, found.seconds)


def _estimate(image: str, settings: Settings) -> Estimate | LimitError:
    try:
        return pipeline.estimate(image, settings)
    except LimitError as exc:
        return exc


def _text(rows: list[Row], settings: Settings, engine: str, runners: int, share: int) -> str:
    """The survey as a whole, then a table of the kinds, the most frequent first."""
    rows.sort(key=lambda row: row.images, reverse=True)
    limit, workers = settings.resources.mem_limit_bytes, settings.resources.workers
    large, small = (max((r.each.peak_bytes for r in rows if r.small == which), default=0) for which in (False, True))
    seconds = sum(row.images * row.seconds / (runners if row.small else 1) for row in rows)
    if engine == "local":
        several = f"{runners} of up to {size_text(LARGE_BYTES)} with {size_text(share)} each" if small else ""
        alone = f"{'larger ones' if several else 'each'} alone with {workers} workers" if large else ""
        lines = [
            ("memory limit", size_text(limit)),
            ("at a time", "; ".join(filter(None, (several, alone)))),
            ("predicted peak", size_text(min(max(large, runners * small), limit))),
            ("time", f"about {seconds:.0f} s"),
        ]
    else:
        lines = [
            ("memory limit", f"{size_text(limit)} for each worker of {engine}"),
            ("time", f"about {seconds:.0f} s of one worker"),
        ]
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
