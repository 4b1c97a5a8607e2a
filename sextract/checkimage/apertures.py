"""APERTURES: the background-subtracted image with the outlines of apertures drawn on it.

A circle for each PHOT_APERTURES if fluxes within them are measured, an ellipse for AUTO, one for PETRO; of a crowded
source (FLAGS 1) every other stroke of an ellipse.  Each stroke adds `STROKE_RMS` times the global background RMS, so
that crossings stand out.

Drawing adds, so a task that is retried must not draw: workers put outlines into a scratch file at fixed places, where
writing twice changes nothing, and `ApertureImage.draw` adds them once, when the tiles are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.catalogue import cards
from sextract.catalogue.output import OutputFile
from sextract.checkimage import _draw
from sextract.checkimage.checkimage import CHECKIMAGES, OPTION, PIECE_BYTES, CheckImage, CheckKind
from sextract.checkimage.headers import ImageExtension

# The stroke's height in units of the global background RMS: SExtractor's.
STROKE_RMS = 30.0

# An outline: centre and semi-axes in 0-based pixels, angle in radians; nothing where a is 0.
OUTLINE = np.dtype(
    [("x", "<f8"), ("y", "<f8"), ("a", "<f8"), ("b", "<f8"), ("theta", "<f8"), ("dotted", "<i8")], align=True
)


def circles(x: NDArray[Any], y: NDArray[Any], diameters: Sequence[float]) -> NDArray[np.void]:
    """Outlines (n, len(diameters)) of circular apertures about 0-based positions, both in pixels."""
    out = np.zeros((len(x), len(diameters)), OUTLINE)
    out["x"], out["y"] = np.asarray(x)[:, None], np.asarray(y)[:, None]
    out["a"] = out["b"] = np.asarray(diameters, np.float64)[None, :] / 2
    return out


def ellipses(
    x: NDArray[Any],
    y: NDArray[Any],
    a: NDArray[Any],
    b: NDArray[Any],
    theta: NDArray[Any],
    radius: NDArray[Any],
    flags: NDArray[Any],
) -> NDArray[np.void]:
    """Outlines (n, 1) of AUTO or PETRO.

    Parameters
    ----------
    x, y : arrays (n,)
        0-based barycentres, pixels.
    a, b, theta : arrays (n,)
        A_IMAGE, B_IMAGE (pixels), THETA_IMAGE (degrees).
    radius : array (n,)
        KRON_RADIUS or PETRO_RADIUS as in the catalogue, units of A and B.
    flags : int array (n,)
        FLAGS; those with bit 1 are dotted.
    """
    out = np.zeros((len(x), 1), OUTLINE)
    wide = np.asarray(radius, np.float64)
    columns = {"x": x, "y": y, "a": a * wide, "b": b * wide, "theta": np.deg2rad(np.asarray(theta, np.float64))}
    for name, values in columns.items():
        out[name][:, 0] = values
    out["dotted"][:, 0] = np.asarray(flags) & 1
    return out


class ApertureImage(CheckImage):
    """A check-image that is drawn upon."""

    def __init__(self, kind: CheckKind, path: str, extensions: Sequence[ImageExtension]) -> None:
        super().__init__(kind, path, extensions)
        try:
            # Outlines of one extension at a time; it never gets a name.
            self.outlines = OutputFile(f"{path}.outlines", OPTION)
        except BaseException:
            self.file.abort()
            raise

    def put_outlines(self, first: int, outlines: NDArray[np.void]) -> None:
        """Keep outlines of an extension until `draw`; from any process, again and again.

        Parameters
        ----------
        first : int
            Place of the first one among those of the extension: NUMBER − 1 times outlines per source, say.  Places
            never filled are empty.
        outlines : OUTLINE array
        """
        data = np.ascontiguousarray(outlines.reshape(-1))
        if data.dtype != OUTLINE:
            raise TypeError(f"outlines have the layout {data.dtype}")
        self.outlines.pwrite(data.view(np.uint8).data, first * OUTLINE.itemsize)

    def _kept(self) -> Iterator[NDArray[np.void]]:
        """The outlines that were kept, in pieces."""
        piece = np.zeros(PIECE_BYTES // OUTLINE.itemsize, OUTLINE)
        for at, size in cards.chunks(self.outlines.size, piece.nbytes):
            some = piece[: size // OUTLINE.itemsize]
            self.outlines.pread(some.view(np.uint8).data, at)
            yield some

    def draw(self, ext: int, rms: float) -> None:
        """Add the outlines of an extension to its pixels, once all its tiles are written; `forget_outlines` them then.

        Parameters
        ----------
        ext : int
        rms : float
            Global background RMS (ADU).
        """
        image = self.extensions[ext]
        stroke = np.float32(STROKE_RMS * rms)
        found = np.empty(PIECE_BYTES // 8, np.int64)
        for part in self._kept():
            x, y, a, b, theta, dotted = (part[name] for name in ("x", "y", "a", "b", "theta", "dotted"))
            state = np.zeros(3, np.int64)
            while state[0] < len(part):
                n = _draw.draw(x, y, a, b, theta, dotted, image.width, image.height, state, found)
                self._add(ext, np.sort(found[:n]), stroke)

    def forget_outlines(self) -> None:
        """The outlines of an extension are drawn: the next one's take their place."""
        self.outlines.resize(0)

    def _add(self, ext: int, positions: NDArray[np.int64], stroke: np.float32) -> None:
        """Add `stroke` to pixels given by sorted positions, a span of the file at a time."""
        buffer = bytearray(PIECE_BYTES)
        span = PIECE_BYTES // 4
        first = 0
        while first < len(positions):
            start = int(positions[first])
            last = int(np.searchsorted(positions, start + span))
            some = positions[first:last] - start
            view = memoryview(buffer)[: 4 * (int(some[-1]) + 1)]
            self.file.pread(view, self.bases[ext] + 4 * start)
            pixels = np.frombuffer(view, ">f4")
            np.add.at(pixels, some, stroke)
            self.file.pwrite(view, self.bases[ext] + 4 * start)
            first = last

    def abort(self) -> None:
        """Give both files up."""
        self.outlines.abort()
        super().abort()

    def commit(self) -> None:
        """Move the file in place."""
        self.outlines.abort()
        super().commit()


CHECKIMAGES.add(
    "APERTURES",
    CheckKind(
        "APERTURES",
        "outlines",
        lambda tile, out: tile.subtracted(out),
        make=ApertureImage,
        doc="-BACKGROUND with the outlines of the apertures that were requested drawn on it (ADU)",
    ),
)
