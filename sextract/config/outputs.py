"""What the files that an image leaves are called: names from the configuration with the image's own filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sextract.config.doors import report_suffixes
from sextract.config.locations import file_name, is_url, local_name
from sextract.errors import ConfigError
from sextract.log import Reporter

if TYPE_CHECKING:
    from sextract.config.resolve import Configuration

_FITS_SUFFIX = re.compile(r"\.(fits|fit|fts|cat\.fits)$", re.IGNORECASE)


class Outputs(NamedTuple):
    """Names of what is written for an image.

    Attributes
    ----------
    catalogue, catalogue_type : str
    checkimages : tuple of (type, name)
    reports : tuple of str
        Of memory.
    profile : str
        Empty: none.
    """

    catalogue: str
    catalogue_type: str
    checkimages: tuple[tuple[str, str], ...]
    reports: tuple[str, ...]
    profile: str

    def files(self) -> Iterator[tuple[str, str]]:
        """Option and name of each file."""
        if self.catalogue_type != "NONE":
            yield "CATALOG_NAME", self.catalogue
        for _, name in self.checkimages:
            yield "CHECKIMAGE_NAME", name
        for name in self.reports:
            yield "--mem-report", name
        if self.profile:
            yield "--profile", self.profile


def outputs_of(image: str, config: Configuration, number: int = 1) -> Outputs:
    """What an image leaves; `number` is its place in a batch.

    Raises
    ------
    ConfigError
        Types and names of check-images differ in number, or no report has that suffix.
    """
    profile = config.options.profile if config.options.profile is not None else config.values["PROFILE"]
    return Outputs(
        *_catalogue(image, config, number),
        checkimages=tuple((kind, filled(name, image, number)) for kind, name in _checkimages(config)),
        reports=tuple(filled(name, image, number) for name in _reports(config)),
        profile=filled(str(profile), image, number),
    )


def stem_of(image: str) -> str:
    """Name of an image without folder, extension in brackets and suffixes: ``a/b.fits.fz[1]`` → ``b``."""
    name = file_name(re.sub(r"\[[^\]]*\]$", "", image))
    name = re.sub(r"\.(gz|fz|bz2|Z)$", "", name)
    return re.sub(r"\.(fits?|fts)$", "", name, flags=re.IGNORECASE) or "image"


def filled(template: str, image: str, number: int = 1) -> str:
    """A name with {stem}, {folder} (the name of its folder) and {number} (its place in a batch) filled in."""
    if "{" not in template:
        return template
    whole = image if is_url(image) else os.path.abspath(local_name(image))
    folder = file_name(whole.rpartition("/")[0]) if "{folder}" in template else ""
    return template.replace("{stem}", stem_of(image)).replace("{folder}", folder).replace("{number}", str(number))


def check_outputs(outputs: Outputs, image: str, reporter: Reporter, folder: Path) -> None:
    """Refuse outputs that overwrite each other or the image, and FITS on stdout."""
    name, kind = outputs.catalogue, outputs.catalogue_type
    if name == "STDOUT" and kind.startswith("FITS"):
        raise ConfigError(f"CATALOG_NAME STDOUT takes CATALOG_TYPE ASCII or ASCII_HEAD, not {kind}")
    if kind == "NONE" and not outputs.checkimages:
        reporter.warning("CATALOG_TYPE is NONE and there is no check-image: nothing will be written")
    source = folder / re.sub(r"\[[^\]]*\]$", "", local_name(image))
    seen: set[str] = set()
    for keyword, file in outputs.files():
        path = folder / file
        if (keyword, file) == ("CATALOG_NAME", "STDOUT"):
            continue
        if not is_url(image) and path.exists() and source.exists() and path.samefile(source):
            raise ConfigError(f"{keyword} {file} is the image itself")
        if os.path.abspath(path) in seen:
            raise ConfigError(f"{keyword} {file} would be written twice")
        seen.add(os.path.abspath(path))


def _catalogue(image: str, config: Configuration, number: int) -> tuple[str, str]:
    """Name and type of an image's catalogue.

    -o comes before CATALOG_NAME; a folder there gets ``<stem>.cat.fits``, or ``<stem>.cat`` for a form of ASCII.  With neither,
    and no configuration file, it is ``<stem>.cat.fits``.  Without a configuration file the type follows the name: FITS_1.0
    for .fits, else ASCII_HEAD.
    """
    name = config.options.output or (config.texts["CATALOG_NAME"] if "CATALOG_NAME" in config.given else "")
    kind = str(config.values["CATALOG_TYPE"])
    chosen = "CATALOG_TYPE" in config.given or bool(config.file)
    if not name:
        name = config.texts["CATALOG_NAME"] if config.file else "{stem}.cat.fits"
    elif name.endswith("/") or os.path.isdir(name):
        name = os.path.join(name, "{stem}.cat" if chosen and kind.startswith("ASCII") else "{stem}.cat.fits")
    name = filled(name, image, number)
    if not chosen and _FITS_SUFFIX.search(name):
        kind = "FITS_1.0"
    return name, kind


def _checkimages(config: Configuration) -> Iterator[tuple[str, str]]:
    """Type and template of each check-image."""
    types, names = config.values["CHECKIMAGE_TYPE"], config.values["CHECKIMAGE_NAME"]
    if all(kind == "NONE" for kind in types):
        return
    if len(types) != len(names):
        raise ConfigError(
            f"CHECKIMAGE_TYPE has {len(types)} members and CHECKIMAGE_NAME {len(names)}: they must be as many"
        )
    yield from ((kind, name) for kind, name in zip(types, names, strict=True) if kind != "NONE")


def _reports(config: Configuration) -> Iterator[str]:
    """Templates of the memory reports."""
    for name in config.options.mem_report or config.values["MEM_REPORT"]:
        if Path(name).suffix.lower() not in report_suffixes():
            raise ConfigError(f"--mem-report {name}: the name must end in {', '.join(report_suffixes())}")
        yield name
