"""The images of a survey as a merge sees them: manifests of one or more parts, in one order.

Numbers are those of the manifests where these are parts of one survey.  Images of surveys that were numbered apart are numbered
again, by number, name and catalogue: an order that depends on neither how manifests are named nor when images were done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sextract.errors import ConfigError, InputError
from sextract.log import Reporter
from sextract.survey.manifest import DONE, FAILED, Entry, ExtensionEntry, read_manifest
from sextract.survey.merge.duplicates import MOST_EXTENSIONS, MOST_IMAGES, Frame

# Images of a state that a warning names.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a survey.

    Attributes
    ----------
    number : int
        In the data set.
    entry : Entry
        Its row of the manifest.
    extensions : tuple of ExtensionEntry
        Empty unless it is done.
    catalogue : str
        Absolute path; empty without one.
    """

    number: int
    entry: Entry
    extensions: tuple[ExtensionEntry, ...]
    catalogue: str

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each extension."""
        return tuple(extension.extracted for extension in self.extensions)

    def frame(self, extension: int) -> Frame:
        """An extension, from 0, as duplicates are judged by."""
        found = self.extensions[extension]
        return Frame(found.width or 0, found.height or 0)


class _Found(NamedTuple):
    entry: Entry
    extensions: tuple[ExtensionEntry, ...]
    catalogue: str


def read_images(manifests: Sequence[str], reporter: Reporter) -> list[Image]:
    """All images of some manifests, in order of their numbers.

    Raises
    ------
    ConfigError
        An image is in two of them, or there are more than can be numbered.
    InputError
        None of the images is done.
    """
    found: list[_Found] = []
    for path in manifests:
        found += _read(path)
    found.sort(key=lambda f: (f.entry.number, f.entry.image, f.catalogue))
    owner: dict[tuple[str, str], _Found] = {}
    for each in found:
        if owner.setdefault((each.entry.image, each.catalogue), each) is not each:
            raise ConfigError(f"{each.entry.image} is in the manifests twice, with the same catalogue {each.catalogue}")
    distinct = len({f.entry.number for f in found}) == len(found)
    images = [Image(f.entry.number if distinct else k, *f) for k, f in enumerate(found, 1)]
    if images and max(image.number for image in images) >= MOST_IMAGES:
        raise ConfigError(f"images have numbers of {MOST_IMAGES} and more: merge fewer of them at once")
    if any(len(image.extensions) >= MOST_EXTENSIONS for image in images):
        raise ConfigError(f"images have more than {MOST_EXTENSIONS - 1} extensions: sources can't be numbered")
    _tell(images, reporter)
    return images


def mergeable(image: Image) -> bool:
    """Whether an image has a catalogue to merge."""
    return image.entry.state == DONE and bool(image.catalogue)


def _read(path: str) -> Iterator[_Found]:
    survey = read_manifest(path)
    extensions: dict[int, list[ExtensionEntry]] = {}
    for each in survey.extensions:
        extensions.setdefault(each.number, []).append(each)
    folder = survey.facts.get("folder", "")
    for entry in survey.images:
        catalogue = "" if entry.catalogue_type == "NONE" else os.path.join(folder, entry.catalogue)
        done = tuple(extensions.get(entry.number, ())) if entry.state == DONE else ()
        yield _Found(entry, done, catalogue)


def _tell(images: Sequence[Image], reporter: Reporter) -> None:
    """Say what is left out, and why."""
    for state, what in ((FAILED, "failed"), ("", "are not done yet"), (DONE, "have no catalogue (CATALOG_TYPE NONE)")):
        if state:
            left = [i.entry.image for i in images if i.entry.state == state and not mergeable(i)]
        else:
            left = [i.entry.image for i in images if i.entry.state not in (DONE, FAILED)]
        if left:
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            named = f"{', '.join(left[:_NAMED])}{more}"
            reporter.warning(f"{len(left)} of {len(images)} images {what}, so without sources: {named}")
    if not any(map(mergeable, images)):
        raise InputError(f"none of the {len(images)} images in the manifests is done and has a catalogue")
