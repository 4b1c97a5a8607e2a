"""The door of check-images: kinds and their registry, files that any process may write into, whole or not at all.

A kind is one file of this package.  It says which number a pixel has and at which stage of a run that is known:

    CHECKIMAGES.add("BACKGROUND", CheckKind("BACKGROUND", "tile", lambda tile, out: tile.background(out)))

Files are sized when the run begins and written at absolute positions, by box or by fragment, from any process and in
any order; writing the same again changes nothing.  A `CheckImage` is plain names and numbers: it may be pickled or
cross a fork.  Headers are ``headers.py``'s; moving files in place is ``catalogue/output.py``'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sextract.catalogue import cards
from sextract.catalogue.output import OutputFile
from sextract.catalogue.writer import ClosesItself
from sextract.checkimage import _put
from sextract.checkimage.headers import ImageExtension, file_cards
from sextract.errors import ConfigError
from sextract.records import FRAGMENT, Box
from sextract.registry import Registry

OPTION = "CHECKIMAGE_NAME"

# Read at a time when sums are made.
PIECE_BYTES = 32768

# Cached pages dropped at a time behind a reader.
DROP_BYTES = 1 << 20

PAGE_BYTES = 4096

# Fragments written at a time: no array made of them is large.
FRAGMENTS = 2048

Pixels = NDArray[np.float32]


class Tile(Protocol):
    """What a kind of stage ``tile`` may ask for; each method fills a float32 array (rows, columns of the box)."""

    def background(self, out: Pixels) -> None:
        """The background map (ADU)."""

    def rms(self, out: Pixels) -> None:
        """The map of the background's RMS (ADU)."""

    def subtracted(self, out: Pixels) -> None:
        """The image less its background (ADU)."""

    def filtered(self, out: Pixels) -> None:
        """The same after the detection filter; the same itself without FILTER."""


class CheckKind(NamedTuple):
    """A kind of check-image.

    Attributes
    ----------
    name : str
        CHECKIMAGE_TYPE.
    stage : str
        When its pixels are known: ``tile`` (written by box, by `render`), ``fragments`` (each source writes over its
        own pixels; the rest is 0) or ``outlines`` (a rendered tile with outlines of sources added at the end).
    render : callable, optional
        ``render(tile, out)``: fills the pixels of a box.
    integer : bool
        int32 instead of float32.
    make : type of CheckImage
    doc : str
        What a pixel holds.
    """

    name: str
    stage: str
    render: Callable[[Tile, Pixels], None] | None = None
    integer: bool = False
    make: type[CheckImage] | None = None
    doc: str = ""

    @property
    def bitpix(self) -> int:
        """BITPIX of its files."""
        return 32 if self.integer else -32


CHECKIMAGES: Registry[CheckKind] = Registry("checkimage", "sextract.checkimage")


class CheckImage:
    """One check-image that is being written.

    Parameters
    ----------
    kind : CheckKind
    path : str
        CHECKIMAGE_NAME.
    extensions : sequence of ImageExtension
        In the order of the file.  One: its image is in the primary.  `ext` counts from 0 below.

    Raises
    ------
    OutputError
        The destination can't be written.
    """

    def __init__(self, kind: CheckKind, path: str, extensions: Sequence[ImageExtension]) -> None:
        self.name = kind.name
        self.extensions = tuple(ImageExtension(e.width, e.height) for e in extensions)
        self._dtype = np.dtype(np.int32 if kind.integer else np.float32)
        self._cards: list[list[str]] | None = file_cards(extensions, kind.bitpix)
        self._sealed = False
        self.file = OutputFile(path, OPTION)
        try:
            self.starts, self.bases = self._lay_out()
        except BaseException:
            self.file.abort()
            raise

    def __getstate__(self) -> dict[str, Any]:
        # Headers stay with the process that seals: they may be long, and the others have no use for them.
        return {**self.__dict__, "_cards": None}

    def _lay_out(self) -> tuple[list[int], list[int]]:
        """Write headers without sums, size the file; positions of headers and of data, those of images only."""
        assert self._cards is not None
        starts, bases, position = [], [], 0
        images = iter(self.extensions)
        for lines in self._cards:
            header = cards.sealed(lines, 0)
            self.file.pwrite(header, position)
            starts.append(position)
            position += len(header)
            if cards.value_of("".join(lines), "NAXIS") != "0":
                bases.append(position)
                image = next(images)
                nbytes = 4 * image.width * image.height
                position += nbytes + cards.padding(nbytes)
        self.file.resize(position)
        self.end = position
        return starts[-len(bases) :], bases

    def write_box(self, ext: int, box: Box, pixels: NDArray[Any]) -> None:
        """Write the pixels of a box.

        Parameters
        ----------
        ext : int
        box : Box
        pixels : float32 or int32 array (rows, columns of `box`), any strides
        """
        if pixels.shape != box.shape or pixels.dtype != self._dtype:
            raise TypeError(f"{self.name}: {pixels.dtype} {pixels.shape} for {self._dtype} {box.shape}")
        if not box.size:
            return
        width = self.extensions[ext].width
        bad = _put.put_box(self.file.fd, self.bases[ext], width, box.y0, box.x0, pixels.view(np.uint32))
        self._wrote(bad, ext, box.y0, box.y1, pixels.nbytes)

    def write_labels(self, ext: int, fragments: NDArray[Any], labels: NDArray[Any]) -> None:
        """Write a number over each fragment.

        Parameters
        ----------
        ext : int
        fragments : FRAGMENT array (n,)
        labels : int array (n,) or scalar
        """
        for first in range(0, len(fragments), FRAGMENTS):
            some = fragments[first : first + FRAGMENTS]
            mine = labels if np.ndim(labels) == 0 else np.asarray(labels)[first : first + FRAGMENTS]
            values = np.ascontiguousarray(np.broadcast_to(np.asarray(mine, np.int32), some.shape))
            args = self._place(ext), self.extensions[ext].width, _table(some), values
            self._wrote_fragments(_put.put_labels(self.file.fd, *args), ext, some)

    def write_values(self, ext: int, fragments: NDArray[Any], values: NDArray[np.float32]) -> None:
        """Write pixels over fragments.

        Parameters
        ----------
        ext : int
        fragments : FRAGMENT array (n,)
        values : float32 array
            Their pixels, one fragment after the other.
        """
        need = int(fragments["x1"].sum(dtype=np.int64) - fragments["x0"].sum(dtype=np.int64))
        if values.dtype != np.float32 or values.shape != (need,):
            raise TypeError(f"{self.name}: {values.dtype} {values.shape} for {need} float32 pixels")
        done = 0
        for first in range(0, len(fragments), FRAGMENTS):
            some = fragments[first : first + FRAGMENTS]
            last = done + int((some["x1"] - some["x0"]).sum(dtype=np.int64))
            pixels = np.ascontiguousarray(values[done:last]).view(np.uint32)
            args = self._place(ext), self.extensions[ext].width, _table(some), pixels
            self._wrote_fragments(_put.put_values(self.file.fd, *args), ext, some)
            done = last

    def _place(self, ext: int) -> int:
        return self.bases[ext]

    def _wrote_fragments(self, bad: int, ext: int, fragments: NDArray[Any]) -> None:
        rows = fragments["y"]
        nbytes = 4 * int((fragments["x1"] - fragments["x0"]).sum(dtype=np.int64))
        self._wrote(bad, ext, int(rows.min()), int(rows.max()) + 1, max(nbytes, PAGE_BYTES * len(fragments)))

    def _wrote(self, bad: int, ext: int, y0: int, y1: int, nbytes: int) -> None:
        """Raise what a kernel reported, or note what it wrote in rows y0 to y1."""
        with self.file.translated():
            if bad:
                raise OSError(bad, os.strerror(bad))
        row = 4 * self.extensions[ext].width
        self.file.wrote(self.bases[ext] + y0 * row, self.bases[ext] + y1 * row, nbytes)

    def datasum(self, ext: int) -> int:
        """DATASUM of an extension whose pixels are all written; any process may work it out."""
        buffer = bytearray(PIECE_BYTES)
        total = cards.RunningSum()
        image, base = self.extensions[ext], self.bases[ext]
        for at, size in cards.chunks(4 * image.width * image.height, PIECE_BYTES):
            piece = memoryview(buffer)[:size]
            self.file.pread(piece, base + at)
            total.add(piece)
            if (at + size) % DROP_BYTES == 0:
                self.file.drop_cache(base + at + size - DROP_BYTES, DROP_BYTES)
        return total.value

    def seal(self, sums: Sequence[int] | None = None) -> None:
        """Have the whole file on the disk with CHECKSUM and DATASUM in its headers; nothing is written after it.

        Parameters
        ----------
        sums : sequence of int, optional
            `datasum` of each extension, if workers have found them.
        """
        if self._sealed:
            return
        if self._cards is None:
            raise RuntimeError("only the process that made a check-image can seal it")
        found = [self.datasum(i) for i in range(len(self.extensions))] if sums is None else sums
        for start, lines, total in zip(self.starts, self._cards[-len(self.starts) :], found, strict=True):
            self.file.pwrite(cards.sealed(lines, total), start)
        self.file.finish()
        self._sealed = True

    def commit(self) -> None:
        """Move the file in place."""
        self.file.commit()

    def abort(self) -> None:
        """Remove the file, unless it was committed."""
        self.file.abort()


class CheckImages(ClosesItself):
    """The check-images of a run; a context manager that commits all of them or none.

    Parameters
    ----------
    pairs : sequence of (type, name)
        CHECKIMAGE_TYPE and CHECKIMAGE_NAME; NONE is skipped.
    extensions : sequence of ImageExtension

    Raises
    ------
    ConfigError
        A type isn't known, or a name comes twice.
    OutputError
        A destination can't be written.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], extensions: Sequence[ImageExtension]) -> None:
        self.images: dict[str, CheckImage] = {}
        wanted = [(kind, name) for kind, name in pairs if kind != "NONE"]
        for kind, _ in wanted:
            if kind not in CHECKIMAGES:
                raise ConfigError(f"CHECKIMAGE_TYPE {kind} is not known; choose among NONE, {', '.join(CHECKIMAGES)}")
        for what, values in (("CHECKIMAGE_TYPE", [k for k, _ in wanted]), (OPTION, [n for _, n in wanted])):
            twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
            if twice is not None:
                raise ConfigError(f"{what} {twice} is given twice; each check-image needs its own")
        try:
            for kind, name in wanted:
                entry = CHECKIMAGES.get(kind)
                self.images[kind] = (entry.make or CheckImage)(entry, name, extensions)
        except BaseException:
            self.abort()
            raise

    def __contains__(self, kind: str) -> bool:
        return kind in self.images

    def __getitem__(self, kind: str) -> CheckImage:
        return self.images[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def stage(self, stage: str) -> list[tuple[CheckKind, CheckImage]]:
        """Kinds and images of a stage (see `CheckKind`); ``tile`` has all that are rendered, APERTURES too."""
        kinds = [(CHECKIMAGES.get(name), image) for name, image in self.images.items()]
        return [(k, i) for k, i in kinds if k.stage == stage or (stage == "tile" and k.render is not None)]

    def seal(self, sums: Mapping[str, Sequence[int]] | None = None) -> None:
        """Seal every image (`CheckImage.seal`, with its `sums` if given): all that may still fail or take long."""
        for name, image in self.images.items():
            image.seal((sums or {}).get(name))

    def close(self, sums: Mapping[str, Sequence[int]] | None = None) -> None:
        """Seal every image, if that isn't done, then move all of them in place."""
        self.seal(sums)
        for image in self.images.values():
            image.commit()

    def abort(self) -> None:
        """Leave nothing behind."""
        for image in self.images.values():
            image.abort()


def open_checkimages(pairs: Sequence[tuple[str, str]], extensions: Sequence[ImageExtension]) -> CheckImages:
    """Begin the check-images of a run: see `CheckImages`."""
    return CheckImages(pairs, extensions)


def _table(fragments: NDArray[Any]) -> NDArray[np.int32]:
    """FRAGMENTs as an int32 array (n, 3)."""
    if fragments.dtype != FRAGMENT:
        raise TypeError(f"fragments have the layout {fragments.dtype}")
    return cast(NDArray[np.int32], np.ascontiguousarray(fragments).view(np.int32).reshape(-1, 3))
