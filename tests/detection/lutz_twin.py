"""The detection kernels once more, pixel by pixel in plain Python: the filter, runs, and the Lutz scan.

The scan follows Lutz 1980 (Comp. J. 23, 262): one row of markers says where segments and objects of the row above
begin and end; a stack holds the objects that are open at the present pixel.  Nothing is shared with the kernels, which
join runs by union-find.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Pixel = tuple[int, int]

# Where the scan is in the row above: outside, inside an object, between segments of one (`BETWEEN`), or past the end.
DONE, BETWEEN, OUTSIDE, INSIDE = "done", "between", "outside", "inside"


def filtered_twin(image: Any, taps: Any) -> Any:
    """The correlation in float32, one tap of the kernel after the other; pixels outside the image count nothing."""
    if taps.size == 0:
        return image.copy()
    (height, width), (kh, kw) = image.shape, taps.shape
    padded = np.zeros((height + 2 * kh, width + 2 * kw), np.float32)
    padded[kh : kh + height, kw : kw + width] = image
    out = np.zeros_like(image)
    for j in range(kh):
        for i in range(kw):
            y, x = kh + j - kh // 2, kw + i - kw // 2
            out = out + taps[j, i] * padded[y : y + height, x : x + width]
    return out


def under_bad_twin(image: Any, taps: Any, bad: float) -> Any:
    """Whether a bad pixel lies under a tap that isn't zero."""
    isbad = (image <= bad / 10).astype(np.float32)
    return filtered_twin(isbad, (taps != 0).astype(np.float32)) > 0 if taps.size else isbad > 0


def runs_twin(mask: Any) -> tuple[Any, list[tuple[int, int]]]:
    """Runs of a mask, row by row: row starts and (x0, x1)."""
    start, runs = [0], []
    for row in mask:
        edges = np.flatnonzero(np.diff(np.r_[0, row.astype(np.int8), 0]))
        runs += list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        start.append(len(runs))
    return np.array(start, np.int32), runs


class LutzScan:
    """Components of a mask in the order in which they close, each with its pixels in list order."""

    def __init__(self, mask: Any, minarea: int) -> None:
        self.mask, self.minarea = mask, minarea
        self.width = mask.shape[1]
        self.markers = [""] * (self.width + 1)
        # Pixels of objects whose first segment on the row above begins at this column.
        self.store: dict[int, list[Pixel]] = {}
        self.lists: list[list[Pixel]] = []
        self.starts: list[int | None] = []
        self.ends: dict[int, int] = {}
        self.above: list[str] = []
        self.closed: list[list[Pixel]] = []
        for y in range(mask.shape[0] + 1):
            self._row(y)

    def _row(self, y: int) -> None:
        self.inside, self.state = False, OUTSIDE
        for x in range(self.width + 1):
            marker, self.markers[x] = self.markers[x], ""
            lit = bool(y < self.mask.shape[0] and x < self.width and self.mask[y, x])
            if lit and not self.inside:
                self._begin_segment(x)
            if marker:
                self._obey(marker, x)
            if lit:
                self.lists[-1].append((y, x))
            elif self.inside:
                self._end_segment(x)

    def _obey(self, marker: str, x: int) -> None:
        if marker == "S":
            self._object_begins(x)
        elif marker == "s":
            self._segment_begins()
        elif marker == "f":
            self.state = BETWEEN
        else:
            self._object_ends()

    def _push(self, pixels: list[Pixel], start: int | None) -> None:
        self.lists.append(pixels)
        self.starts.append(start)

    def _begin_segment(self, x: int) -> None:
        self.inside = True
        if self.state != INSIDE:
            # Perhaps a new object.
            self.above.append(self.state)
            self._push([], x)
            self.markers[x] = "S"
            self.state = DONE
        elif self.starts[-1] is None:
            self.markers[x] = "S"
            self.starts[-1] = x
        else:
            self.markers[x] = "s"

    def _object_begins(self, x: int) -> None:
        self.above.append(self.state)
        if self.inside:
            self.lists[-1] += self.store.pop(x)
        else:
            self.above.append(DONE)
            self._push(self.store.pop(x), None)
        self.state = INSIDE

    def _segment_begins(self) -> None:
        if self.inside and self.state == DONE:
            # The present segment links an object inside a bay with the one around it.
            self.above.pop()
            inner, first = self.lists.pop(), self.starts.pop()
            self.lists[-1] += inner
            if self.starts[-1] is None:
                self.starts[-1] = first
            else:
                assert first is not None
                self.markers[first] = "s"
        self.state = INSIDE

    def _object_ends(self) -> None:
        self.state = self.above.pop()
        if self.inside or self.state != DONE:
            return
        start, pixels = self.starts.pop(), self.lists.pop()
        if start is None:
            if len(pixels) >= self.minarea:
                self.closed.append(pixels)
        else:
            self.markers[self.ends.pop(start)] = "F"
            self.store[start] = pixels
        self.state = self.above.pop()

    def _end_segment(self, x: int) -> None:
        self.inside = False
        if self.state != DONE:
            self.markers[x] = "f"
            start = self.starts[-1]
            assert start is not None
            self.ends[start] = x
        else:
            self.state = self.above.pop()
            self.markers[x] = "F"
            start, pixels = self.starts.pop(), self.lists.pop()
            assert start is not None
            self.store[start] = pixels


def lutz_twin(mask: Any, minarea: int = 1) -> list[list[Pixel]]:
    """Components of a mask with at least `minarea` pixels: in closing order, pixels (y, x) in list order."""
    return LutzScan(np.asarray(mask), minarea).closed
