"""From all places where a setting may stand to one `Settings`.

The order: the built-in default, the configuration file, the command line.  It finds and reads the files that a
configuration names (columns, kernel), and checks what is asked against what is built.  Where output goes is in
``outputs.py``, syntax in ``sexfile.py``, the keywords in ``keywords.py``, the machine's limits in ``machine.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from sextract.config.doors import built_columns
from sextract.config.keywords import KEYWORDS, Keyword, Value, nearest, parse_size, parse_value
from sextract.config.locations import is_url
from sextract.config.machine import (
    Default,
    allowed_memory,
    default_mem_limit,
    default_workers,
    require_data_segment,
    within_address_space,
)
from sextract.config.outputs import check_outputs, outputs_of
from sextract.config.parameters import PARAMETERS
from sextract.config.settings import (
    BackgroundSettings,
    DeblendingSettings,
    DetectionSettings,
    OutputSettings,
    PhotometrySettings,
    Requested,
    ResourceSettings,
    Settings,
)
from sextract.config.sexfile import Assignment, parse_conv, parse_param, parse_sex, read_text, split_members
from sextract.errors import ConfigError
from sextract.log import Reporter

# The configuration files that come with the package.
SHARE = Path(__file__).resolve().parent.parent / "share"

# What the package's default.param asks of FLUX_APER(3); used where neither columns nor apertures are chosen.
SHARE_APERTURES = "5,10,20"

# Columns whose length is a list's, and that list.
LISTS = {
    "FLUX_APER": "PHOT_APERTURES",
    "FLUXERR_APER": "PHOT_APERTURES",
    "MAG_APER": "PHOT_APERTURES",
    "MAGERR_APER": "PHOT_APERTURES",
    "FLUX_RADIUS": "PHOT_FLUXFRAC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may say beside the configuration file.

    Attributes
    ----------
    config : str or None
        The file after -c; None: ``default.sex`` in the current folder if there is one.
    keywords : tuple of (str, str)
        Pairs of the command line, in order.
    output : str or None
        The file after -o, before any CATALOG_NAME.
    mem_limit, workers, scratch_dir : str, int, str or None
        Before the keywords MEM_LIMIT, WORKERS, SCRATCH_DIR.  Workers 0: all work in one process.
    account : str or None
        ``pss`` or ``rss``, before MEM_ACCOUNT.
    mem_report : tuple of str
        Files, before MEM_REPORT.
    profile : str or None
        A file, before PROFILE.
    tile_shape : (int, int) or None
        Rows and columns of a tile at most, for tests.
    checkpoint, checkpoint_folder : int, str or None
        Before the keywords CHECKPOINT, CHECKPOINT_FOLDER.
    resume : bool
        Go on from the latest checkpoint.
    provenance : str
        ``input``, or ``full``: facts of the run in the catalogue's header.
    sextractor_bugs : frozenset of str
        Oddities of SExtractor to restore; ``all`` for all.
    strict : bool
        Unknown keywords of a file are errors.
    """

    config: str | None = None
    keywords: tuple[tuple[str, str], ...] = ()
    output: str | None = None
    mem_limit: str | None = None
    workers: int | None = None
    scratch_dir: str | None = None
    account: str | None = None
    mem_report: tuple[str, ...] = ()
    profile: str | None = None
    tile_shape: tuple[int, int] | None = None
    checkpoint: int | None = None
    checkpoint_folder: str | None = None
    resume: bool = False
    provenance: str = "input"
    sextractor_bugs: frozenset[str] = frozenset()
    strict: bool = False


class Configuration(NamedTuple):
    """All keywords with their values, for any image.

    Attributes
    ----------
    values, texts : mapping
        Keyword → value, and as text; all keywords are there.
    given : frozenset of str
        Keywords that a file or the command line set.
    file : str
        The configuration file read, or empty.
    options : Options
    """

    values: Mapping[str, Any]
    texts: Mapping[str, str]
    given: frozenset[str]
    file: str
    options: Options


@dataclass
class _Layers:
    """Keywords as they are set, one layer over the other."""

    values: dict[str, Value] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)

    def put(self, setting: Assignment) -> None:
        key = KEYWORDS.get(setting.keyword)
        if key is None:
            self.unknown.append(
                f"{setting.keyword} is not a keyword{nearest(setting.keyword, KEYWORDS)} ({setting.where})"
            )
            return
        self.given.add(key.name)
        self.texts[key.name] = ",".join(setting.members)
        try:
            self.values[key.name] = parse_value(key, setting.members, setting.where)
        except ConfigError:
            # What isn't built is named as such, whatever its value.
            if key.built and key.role != "ignored":
                raise
            self.values[key.name] = setting.members


def settings_from(
    image: str, options: Options | None = None, reporter: Reporter | None = None, folder: Path = Path()
) -> Settings:
    """The settings for one image: `read_configuration` and `settings_for` in one.

    Parameters
    ----------
    image : str
        As given on the command line; its name makes the catalogue's.
    options : Options, optional
        Command line; the defaults if not given.
    reporter : Reporter, optional
        Gets the log lines and warnings.
    folder : Path
        The current folder: where ``default.*`` files are looked for first.

    Returns
    -------
    Settings

    Raises
    ------
    ConfigError
        Anything wrong with a keyword, a file it names or a column; all wrong columns at once.
    """
    reporter = Reporter("QUIET") if reporter is None else reporter
    return settings_for(image, read_configuration(options or Options(), reporter, folder), reporter, folder)


def read_configuration(
    options: Options,
    reporter: Reporter,
    folder: Path = Path(),
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Read the configuration file and the command line, and warn of what is unknown or not built.

    The reporter takes on VERBOSE_TYPE before anything is written.

    Raises
    ------
    ConfigError
        A value is wrong; a keyword of the command line is unknown (with `strict`: of the file too).
    """
    environ = os.environ if environ is None else environ
    layers = _Layers()
    for key in KEYWORDS.values():
        layers.texts[key.name] = key.default
        layers.values[key.name] = parse_value(key, split_members(key.default, key.name), "built-in default")
    file = options.config or ("default.sex" if (folder / "default.sex").is_file() else "")
    if file:
        for setting in parse_sex(read_text(folder / file, "-c"), file, environ):
            layers.put(setting)
    strangers, layers.unknown = layers.unknown, []
    if strangers and options.strict:
        raise ConfigError("; ".join(strangers))
    for name, text in options.keywords:
        for setting in parse_sex(f"{name} {text}", "command line", environ):
            layers.put(Assignment(setting.keyword, setting.members, "command line"))
    if layers.unknown:
        raise ConfigError("; ".join(layers.unknown))
    reporter.verbose = str(layers.values["VERBOSE_TYPE"])
    for text in strangers:
        reporter.warning(f"{text}; it is ignored")
    origin = f"Configuration: {file}" if file else "Configuration: built-in defaults (no -c, no ./default.sex)"
    if file and options.config is None:
        origin += " (found in the current folder)"
    reporter.info(origin)
    _report_unbuilt(layers, reporter)
    if options.sextractor_bugs:
        reporter.warning("--sextractor-bugs is without effect: none of SExtractor's oddities can be restored yet")
    return Configuration(layers.values, layers.texts, frozenset(layers.given), file, options)


def settings_for(image: str, config: Configuration, reporter: Reporter, folder: Path = Path()) -> Settings:
    """The settings of one image; `read_configuration` comes before."""
    return for_image(image, general_settings(config, reporter, folder), config, reporter, folder)


def general_settings(config: Configuration, reporter: Reporter, folder: Path = Path()) -> Settings:
    """What a configuration says for whatever image; `for_image` adds the names of outputs."""
    v = config.values
    columns, ours = _columns(config, reporter, folder)
    texts, values = dict(config.texts), dict(v)
    if ours and "PHOT_APERTURES" not in config.given:
        texts["PHOT_APERTURES"] = SHARE_APERTURES
        values["PHOT_APERTURES"] = tuple(float(a) for a in SHARE_APERTURES.split(","))
    _check_lengths(columns, values, reporter)
    return Settings(
        detection=_detection(config, reporter, folder),
        deblending=DeblendingSettings(
            nthresh=v["DEBLEND_NTHRESH"],
            mincont=v["DEBLEND_MINCONT"],
            clean=v["CLEAN"],
            clean_param=v["CLEAN_PARAM"],
            clean_reach_rows=v["CLEAN_REACH"],
            max_footprint_px=v["FOOTPRINT_MAXPIX"],
        ),
        background=_background(v),
        photometry=_photometry(values, _network(config, columns, reporter, folder)),
        output=OutputSettings(columns=tuple(columns), provenance=config.options.provenance),
        resources=_resources(config, reporter),
        verbose=v["VERBOSE_TYPE"],
        sextractor_bugs=config.options.sextractor_bugs,
        keywords=tuple((k.name, texts[k.name]) for k in KEYWORDS.values() if not k.role),
        config_name=config.file,
    )


def for_image(
    image: str, general: Settings, config: Configuration, reporter: Reporter, folder: Path = Path(), number: int = 1
) -> Settings:
    """General settings with the outputs of one image; `number` is its place in a batch."""
    outputs = outputs_of(image, config, number)
    check_outputs(outputs, image, reporter, folder)
    header = folder / (re.sub(r"\.(fits?|fts)(\.gz|\.fz)?(\[[^\]]*\])?$", "", image) + config.texts["HEADER_SUFFIX"])
    if not is_url(image) and header.is_file():
        reporter.warning(f"the external header {header} is not read: HEADER_SUFFIX is not built yet")
    name, kind = outputs.catalogue, outputs.catalogue_type
    names = {"CATALOG_NAME": name, "CATALOG_TYPE": kind}
    return replace(
        general,
        output=replace(general.output, catalog_name=name, catalog_type=kind, checkimages=outputs.checkimages),
        resources=replace(general.resources, mem_report=outputs.reports, profile=outputs.profile),
        keywords=tuple((pair[0], names[pair[0]]) if pair[0] in names else pair for pair in general.keywords),
    )


def check_columns(
    columns: Sequence[Requested], known: Callable[[str], bool], names: Sequence[str], source: str
) -> None:
    """Refuse columns that can't be had, all in one message.

    Parameters
    ----------
    columns : sequence of Requested
    known : callable
        Whether a name is built.
    names : sequence of str
        Names that are built, for the nearest.
    source : str
        The file that asked.

    Raises
    ------
    ConfigError
        Some are unknown, or SExtractor's and not built yet.
    """
    missing = [c.name for c in columns if not known(c.name)]
    later = [name for name in missing if name in PARAMETERS]
    unknown = [name + nearest(name, (*names, *PARAMETERS)) for name in missing if name not in PARAMETERS]
    parts = []
    if unknown:
        parts.append(f"unknown: {', '.join(unknown)}")
    if later:
        parts.append(f"in SExtractor, but not built yet: {', '.join(later)}")
    if parts:
        raise ConfigError(f"PARAMETERS_NAME: {source} asks for columns that sextract can't fill: {'; '.join(parts)}")


def find_file(name: str, keyword: str, reporter: Reporter, folder: Path) -> Path:
    """A file by the name a keyword gives: in the current folder, else (a bare name) in the package.

    Raises
    ------
    ConfigError
        It is in neither.
    """
    own = folder / name
    if own.is_file():
        return own
    if Path(name).name == name and (SHARE / name).is_file():
        reporter.info(f"{keyword}: {name} of the package (there is none in the current folder)")
        return SHARE / name
    raise ConfigError(
        f"{keyword}: there is no file {name}" + ("" if "/" in name else ", neither here nor in the package")
    )


def _columns(config: Configuration, reporter: Reporter, folder: Path) -> tuple[list[Requested], bool]:
    """Columns asked for, and whether the list is the package's own default."""
    if config.values["CATALOG_TYPE"] == "NONE" and "CATALOG_TYPE" in config.given:
        return [], False
    path = find_file(config.texts["PARAMETERS_NAME"], "PARAMETERS_NAME", reporter, folder)
    columns, odd = parse_param(read_text(path, "PARAMETERS_NAME"), str(path))
    built = built_columns()
    check_columns(columns, built.__contains__, list(built), str(path))
    for text in odd:
        reporter.warning(text)
    scalars = [c.name for c in columns if c.dims and not built[c.name].vector]
    if scalars:
        reporter.warning(f"one value a source, whatever {path} says: {', '.join(scalars)}")
    columns = [Requested(c.name) if c.name in scalars else c for c in columns]
    return columns, path == SHARE / "default.param"


def _check_lengths(columns: Sequence[Requested], values: Mapping[str, Any], reporter: Reporter) -> None:
    """Warn of vectors longer than the list that fills them."""
    for keyword in ("PHOT_APERTURES", "PHOT_FLUXFRAC"):
        have = len(values[keyword])
        long = [c.name for c in columns if LISTS.get(c.name) == keyword and c.dims and c.dims[0] > have]
        if long:
            reporter.warning(f"{keyword} has {have} values, too few for {', '.join(long)}: the rest stays empty")


def _detection(config: Configuration, reporter: Reporter, folder: Path) -> DetectionSettings:
    v = config.values
    kernel, name = None, ""
    if v["FILTER"]:
        path = find_file(v["FILTER_NAME"], "FILTER_NAME", reporter, folder)
        kernel, name = parse_conv(read_text(path, "FILTER_NAME"), str(path)), str(path)
    for keyword in ("DETECT_THRESH", "ANALYSIS_THRESH"):
        if len(v[keyword]) == 1 and v[keyword][0] <= 0:
            unit = "sigma" if v["THRESH_TYPE"] == "RELATIVE" else "ADU"
            raise ConfigError(f"{keyword} is {v[keyword][0]:g} {unit}, it must be above 0")
    return DetectionSettings(
        minarea=v["DETECT_MINAREA"],
        maxarea=v["DETECT_MAXAREA"],
        thresh_type=v["THRESH_TYPE"],
        detect_thresh=v["DETECT_THRESH"],
        analysis_thresh=v["ANALYSIS_THRESH"],
        kernel=None if kernel is None else kernel.taps,
        kernel_name=name,
        kernel_normed=True if kernel is None else kernel.normed,
    )


def _background(v: Mapping[str, Any]) -> BackgroundSettings:
    # With a single image, SExtractor takes a MANUAL in either place, and the first value.
    return BackgroundSettings(
        type="MANUAL" if "MANUAL" in v["BACK_TYPE"] else "AUTO",
        value=v["BACK_VALUE"][0],
        size=(v["BACK_SIZE"][0], v["BACK_SIZE"][-1]),
        filter_size=(v["BACK_FILTERSIZE"][0], v["BACK_FILTERSIZE"][-1]),
        filter_thresh=v["BACK_FILTTHRESH"],
        pearson=v["BACK_PEARSON"],
    )


def _photometry(v: Mapping[str, Any], network: str) -> PhotometrySettings:
    return PhotometrySettings(
        apertures=v["PHOT_APERTURES"],
        autoparams=v["PHOT_AUTOPARAMS"],
        petroparams=v["PHOT_PETROPARAMS"],
        autoapers=v["PHOT_AUTOAPERS"],
        fluxfrac=v["PHOT_FLUXFRAC"],
        satur_level=v["SATUR_LEVEL"],
        satur_key=v["SATUR_KEY"],
        mag_zeropoint=v["MAG_ZEROPOINT"],
        gain=v["GAIN"],
        gain_key=v["GAIN_KEY"],
        pixel_scale=v["PIXEL_SCALE"],
        seeing_fwhm=v["SEEING_FWHM"],
        mask_type=v["MASK_TYPE"],
        backphoto_type=v["BACKPHOTO_TYPE"],
        backphoto_thick=v["BACKPHOTO_THICK"],
        starnnw_name=network,
    )


def _network(config: Configuration, columns: Sequence[Requested], reporter: Reporter, folder: Path) -> str:
    """Path of the network, looked for only if CLASS_STAR is wanted."""
    name = str(config.values["STARNNW_NAME"])
    if not any(c.name == "CLASS_STAR" for c in columns):
        return name
    try:
        return str(find_file(name, "STARNNW_NAME", reporter, folder))
    except ConfigError as exc:
        raise ConfigError(
            f"{exc}; CLASS_STAR needs SExtractor's network file, which can't come with sextract"
        ) from None


def _resources(config: Configuration, reporter: Reporter) -> ResourceSettings:
    options, v = config.options, config.values
    if options.mem_limit is not None:
        limit = Default(parse_size(options.mem_limit), "--mem-limit")
    elif v["MEM_LIMIT"]:
        limit = Default(v["MEM_LIMIT"], "MEM_LIMIT")
    else:
        limit = default_mem_limit()
    require_data_segment()
    asked, limit = limit, within_address_space(limit)
    if options.workers is not None:
        workers = Default(options.workers, "--workers")
    elif config.texts["WORKERS"]:
        workers = Default(v["WORKERS"], "WORKERS")
    else:
        workers = default_workers()
    reporter.info(
        f"Memory limit: {limit.value / 2**20:.0f} MiB ({limit.origin}); workers: {workers.value} ({workers.origin})"
    )
    allowed = allowed_memory()
    if asked.value > allowed.value:
        less = "less is used" if limit is not asked else "a run that comes to need it will end there"
        reporter.warning(
            f"{asked.origin} {asked.value / 2**20:.0f} MiB is more than there can be, {allowed.value / 2**20:.0f} MiB "
            f"({allowed.origin}): {less}"
        )
    return ResourceSettings(
        mem_limit_bytes=limit.value,
        account=options.account or v["MEM_ACCOUNT"].lower(),
        workers=workers.value,
        tile_shape=options.tile_shape,
        scratch_dir=options.scratch_dir if options.scratch_dir is not None else v["SCRATCH_DIR"],
        checkpoint=options.checkpoint if options.checkpoint is not None else v["CHECKPOINT"],
        checkpoint_folder=options.checkpoint_folder if options.checkpoint_folder is not None else v["CHECKPOINT_FOLDER"],
        resume=options.resume,
        given=frozenset({asked.origin, workers.origin} & {"--mem-limit", "MEM_LIMIT", "--workers", "WORKERS"}),
    )


def _report_unbuilt(layers: _Layers, reporter: Reporter) -> None:
    """One warning that names every keyword set and not built, one line for those with no counterpart."""
    idle = [n for n in KEYWORDS if n in layers.given and KEYWORDS[n].role == "ignored"]
    if idle:
        reporter.info(f"Not needed here, memory follows --mem-limit and threads --workers: {', '.join(idle)}")
    unbuilt = [k.name for k in KEYWORDS.values() if not k.built and _changed(k, layers)]
    if unbuilt:
        reporter.warning(f"not built yet, so without effect: {', '.join(f'{n} {layers.texts[n]}' for n in unbuilt)}")


def _changed(key: Keyword, layers: _Layers) -> bool:
    """Whether a keyword is away from its default, and so is the one it depends on."""
    default = parse_value(key, split_members(key.default, key.name))
    value = layers.values[key.name]
    if isinstance(value, tuple) and isinstance(default, tuple) and len(default) == 1:
        same = all(member == default[0] for member in value)
    else:
        same = value == default
    if same:
        return False
    return not key.matters_with or _changed(KEYWORDS[key.matters_with], layers)
