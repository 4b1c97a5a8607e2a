"""The images of a batch: from the words of the command line and from list files, each with its place, and parts of the whole.

A line of a list is ``image [weight] [configuration] [KEYWORD=VALUE…]``, ``-`` for what it doesn't have; quotes as in a shell,
and # begins a comment.  Nothing is opened here but lists and configurations.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from sextract.config.keywords import KEYWORDS, nearest
from sextract.config.resolve import Configuration, Options, general_settings, read_configuration
from sextract.config.settings import Settings
from sextract.errors import ConfigError
from sextract.log import Reporter

T = TypeVar("T")

_SETTING = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=(.*)", re.DOTALL)


class Item(NamedTuple):
    """An image of a batch.

    Attributes
    ----------
    number : int
        Its place, from 1, whatever part of the batch is done.
    image : str
    config : str
        Configuration file of its line; empty: that of the command line.
    keywords : tuple of (str, str)
        Of its line.
    """

    number: int
    image: str
    config: str = ""
    keywords: tuple[tuple[str, str], ...] = ()

    def options(self, common: Options) -> Options:
        """The command line with what the line says over it."""
        if not self.config and not self.keywords:
            return common
        return replace(common, config=self.config or common.config, keywords=common.keywords + self.keywords)


class Configurations:
    """Configurations of images, each read once: most images have the same.

    Parameters
    ----------
    options : Options
        The command line.
    reporter : Reporter
        Hears what is to be said of machine and configuration, once for each file.
    general : callable, optional
        ``(configuration, reporter) -> settings``.
    """

    def __init__(
        self, options: Options, reporter: Reporter, general: Callable[[Configuration, Reporter], Settings] = general_settings
    ) -> None:
        self._options, self._reporter, self._general = options, reporter, general
        self._made: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Configuration, Settings]] = {}

    def of(self, item: Item) -> tuple[Configuration, Settings]:
        """Configuration and general settings of an image.

        Raises
        ------
        ConfigError
            Something is wrong with an option.
        """
        key = item.config, item.keywords
        if key not in self._made:
            said = any(config == item.config for config, _ in self._made)
            reporter = silent() if said else self._reporter
            configuration = read_configuration(item.options(self._options), reporter)
            self._made[key] = configuration, self._general(configuration, reporter)
        return self._made[key]


def silent() -> Reporter:
    """Hears what nobody needs to, whatever VERBOSE_TYPE says."""
    return Reporter("QUIET", io.StringIO())


def list_items(words: Sequence[str]) -> list[Item]:
    """All images of a batch, in order.

    Raises
    ------
    ConfigError
        A list can't be read, or one of its lines is wrong.
    """
    items: list[Item] = []
    for word in words:
        if word.startswith("@") and not os.path.exists(word):
            items += _listed(word[1:], len(items))
        else:
            items.append(Item(len(items) + 1, word))
    return items


def shard_of(items: Sequence[T], part: int, parts: int) -> list[T]:
    """The part-th of so many parts of what there is for each image; they have about as much to do each."""
    return list(items[part - 1 :: parts])


def _listed(name: str, before: int) -> list[Item]:
    """Images of a list file, numbered from `before` + 1."""
    try:
        with open(name, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as exc:
        raise ConfigError(f"can't read the list of images {name}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the list of images {name} isn't text (UTF-8): {exc}") from exc
    items: list[Item] = []
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError as exc:
            raise ConfigError(f"{where}: {str(exc).lower()}; a name with a quote or a backslash in it must be quoted") from exc
        if words:
            items.append(_item(words, before + len(items) + 1, where))
    return items


def _item(words: Sequence[str], number: int, where: str) -> Item:
    image, *rest = words
    names = [word for word in rest if not _SETTING.fullmatch(word)]
    if len(names) > 2:
        raise ConfigError(
            f"{where}: {len(words)} words; a line is IMAGE [WEIGHT] [CONFIGURATION] [KEYWORD=VALUE...], "
            f"and a name with blanks is quoted"
        )
    weight, config = (*names, "-", "-")[:2]
    if weight != "-":
        raise ConfigError(f"{where}: weight maps are not built yet; write - in place of {weight}")
    settings = [match.groups() for word in rest if (match := _SETTING.fullmatch(word))]
    for key, _ in settings:
        if key.upper() not in KEYWORDS:
            raise ConfigError(f"{where}: {key} is not a keyword{nearest(key.upper(), KEYWORDS)}")
    return Item(number, image, "" if config == "-" else config, tuple((key.upper(), value) for key, value in settings))
