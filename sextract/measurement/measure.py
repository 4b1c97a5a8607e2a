"""The door of measurement: what a family of measurements declares, what it gets, and how a batch of them is run.

A family is one file of this package.  It declares its columns and a function that fills them for a batch of sources:

    @measurement("aperture", columns=COLUMNS, reach=reach)
    def aperture(batch):
        state = batch.scratch("aperture.state", (len(naper), 3))
        for view in batch.windows(hx, hy):                 # usually one view; a giant source comes in pieces
            _aperture.fold(view.pixels, view.index, view.main, view.mirror, view.rows, ..., state)
        batch["FLUX_APER"][...] = ...

Pixels come as *windows*: a kernel folds the rows it is given into per-source state, so that a source whose stamp fits
in memory (one view, all its rows) and one whose stamp doesn't (many views, a few rows each) take the same path and give
the same bits.  It does not know where pixels come from; that is ``stamps.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sextract.config.settings import PhotometrySettings, Settings
from sextract.measurement import _stamps
from sextract.records import Box, Column, Frame
from sextract.registry import Registry

Array = NDArray[Any]

# Pixels that a window has beyond the half-size asked for: the mirror of MASK_TYPE CORRECT truncates, which moves it.
MARGIN = 2


class NeedRows(Exception):
    """Sources look at rows that this task doesn't have, or whose masks aren't final; they are measured again later.

    `rows`: source of the batch → the row (last + 1) below its barycentre that it needs; it needs as many above.
    """

    def __init__(self, rows: dict[int, int]) -> None:
        super().__init__(rows)
        self.rows = rows


@dataclass(frozen=True, slots=True)
class Windows:
    """Pixels for some sources of a batch.

    Attributes
    ----------
    pixels : float32 array (capacity,)
        Storage of all windows.  Bad, masked pixels hold ``records.BAD``; others are background-subtracted ADU.
    index : int64 array (m,)
        The sources these windows belong to.
    main, mirror : int64 arrays (m, 5)
        ``offset, x0, y0, x1, y1`` of the window with the rows to fold and of the one that holds the pixels
        mirrored about the centre (MASK_TYPE CORRECT); pixel (x, y) is at ``offset + (y − y0)·(x1 − x0) + x − x0``.
        They are the same window unless the source is a giant.  A mirrored pixel that isn't in the window is outside
        the frame.
    rows : int64 array (m, 2)
        Rows ``ya <= y < yb`` to fold in this view.  Over all views each row of a source comes once, top first.
    whole : bool
        The windows hold all that was asked for; else they are pieces of one giant.
    """

    pixels: NDArray[np.float32]
    index: NDArray[np.int64]
    main: NDArray[np.int64]
    mirror: NDArray[np.int64]
    rows: NDArray[np.int64]
    whole: bool


class Cutter(Protocol):
    """Where stamps come from: pixels with the masks of one source.  A subclass may cut many at a time."""

    first_row: int  # rows from here on can be cut,
    final_row: int  # up to here

    def cut(self, source: int, box: Box, out: NDArray[np.float32]) -> None:
        """Fill `out` (rows, columns of `box`) with the pixels seen by that source of the batch."""

    def own(self, source: int, rows: tuple[int, int] | None = None) -> Array:
        """Its own pixels (FRAGMENT array), without those of sources that CLEAN merged into it; in no order of rows.

        Of those outside `rows` some or all are left out.
        """
        ...

    def own_parts(self, source: int) -> Iterator[Array]:
        """The same, some at a time."""
        yield self.own(source)

    def cut_many(
        self, index: NDArray[np.int64], boxes: NDArray[np.int64], offsets: NDArray[np.int64], arena: NDArray[np.float32]
    ) -> None:
        """Cut stamps of the sources `index` (m,) into `arena`: boxes ``x0, y0, x1, y1`` (m, 4), offsets (m,)."""
        for i, (x0, y0, x1, y1), first in zip(index.tolist(), boxes.tolist(), offsets.tolist(), strict=True):
            self.cut(i, Box(y0, x0, y1, x1), arena[first : first + (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0))


Reach = Callable[[Array, PhotometrySettings], tuple[Array, Array]]


class Measurement(NamedTuple):
    """A registered family."""

    name: str
    columns: tuple[Column, ...]
    run: Callable[[Batch], None]
    needs: tuple[str, ...] = ()
    reach: Reach | None = None
    stage: str = "batch"
    direct: bool = False


MEASUREMENTS: Registry[Measurement] = Registry("measurement", "sextract.measurement")
# By column.
_FAMILIES: dict[str, Measurement] = {}


def measurement(
    name: str,
    *,
    columns: Sequence[Column],
    needs: Sequence[str] = (),
    reach: Reach | None = None,
    stage: str = "batch",
    direct: bool = False,
) -> Callable[[Callable[[Batch], None]], Callable[[Batch], None]]:
    """Register a family.

    Parameters
    ----------
    name : str
        Name of the family; other families name it in their `needs`.
    columns : sequence of Column
        What it fills.  A family runs only if one of them, or a family that needs it, is requested.
    needs : sequence of str
        Families that must have run before.
    reach : callable, optional
        ``reach(sources, photometry) -> (hx, hy)``: half-sizes in pixels, float64 arrays, of the stamps it will ask for
        first.  Only speed depends on it.
    stage : str
        ``batch`` (sees pixels) or ``table`` (sees rows only).
    direct : bool
        It writes its columns where the rows lie (`Batch.place_of`): for values as large as stamps.
    """

    def register(run: Callable[[Batch], None]) -> Callable[[Batch], None]:
        family = MEASUREMENTS.add(name, Measurement(name, tuple(columns), run, tuple(needs), reach, stage, direct))
        for each in columns:
            _FAMILIES.setdefault(each.name, family)
        return run

    return register


def family_of(column: str) -> Measurement | None:
    """The family that fills a column, or None."""
    MEASUREMENTS.scan()
    return _FAMILIES.get(column)


def reaches_of(names: Sequence[str]) -> tuple[Reach, ...]:
    """What these families say of how far they look."""
    return tuple(m.reach for m in map(MEASUREMENTS.get, names) if m.reach is not None)


@dataclass
class Batch:
    """Some sources, and all a measurement may know of them.

    Attributes
    ----------
    sources : SOURCE array (n,)
        Isophotal results; ``flags`` may be or-ed into.
    frame : Frame
    settings : Settings
    dims : mapping
        Requested column → dims of its ``(n)`` or ``(n,m)``, empty for a scalar.
    cutter : Cutter
    arena : float32 array
        Storage for stamps; how large it is changes nothing but speed.
    values : mapping
        Columns filled so far.
    rows, place : arrays, optional
        Rows of the catalogue, and which of them each source has.
    reaches : sequence of callables
        Those of all families that will run: a source's first stamp is cut for all of them, so that most need no other.
    """

    sources: Array
    frame: Frame
    settings: Settings
    dims: Mapping[str, tuple[int, ...]]
    cutter: Cutter
    arena: NDArray[np.float32]
    values: dict[str, Array] = field(default_factory=dict)
    rows: Array | None = None
    place: NDArray[np.int64] | None = None
    reaches: Sequence[Reach] = ()
    _boxes: NDArray[np.int64] | None = None
    _offsets: NDArray[np.int64] | None = None
    _first: NDArray[np.int64] | None = None
    _used: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def __setitem__(self, name: str, value: Array) -> None:
        self.values[name] = value

    def wants(self, *names: str) -> bool:
        """Whether any of these columns is requested."""
        return any(n in self.dims for n in names)

    def scratch(self, shape: tuple[int, ...] = (), dtype: Any = np.float64) -> Array:
        """A zeroed array (n, *shape), one entry per source."""
        return np.zeros((len(self), *shape), dtype)

    def place_of(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Where to write a column that is too large for an array of it: bytes, and where in them each source's value begins.

        Without rows it becomes a column as others.
        """
        if self.rows is not None and self.place is not None:
            dtype = self.rows.dtype
            assert dtype.fields is not None
            return self.rows.view(np.uint8).reshape(-1), self.place * dtype.itemsize + dtype.fields[name][1]
        family = family_of(name)
        assert family is not None
        column = next(c for c in family.columns if c.name == name)
        value = self[name] = np.empty((len(self), *self.dims.get(name, ())[::-1]), column.dtype)
        one = value.dtype.itemsize * math.prod(value.shape[1:])
        return value.reshape(-1).view(np.uint8), np.arange(len(self), dtype=np.int64) * one

    def stamp(self, i: int, half: float) -> tuple[NDArray[np.float32], int, int]:
        """Stamp of source `i` with that half-size about its barycentre, and its first row and column: the easy way.

        It lasts until the next one, or until `windows`.  One that `arena` can't hold, of a giant, is memory that no limit knows
        of: a family that may look so far had better use `windows`.
        """
        s, one = self.sources[i : i + 1], np.zeros(1, np.int64)
        halves, need = np.array([half], np.float64), np.empty((1, 4), np.int64)
        self._cover(one, (s["x"], s["y"], halves, halves), need, np.zeros((1, 4), np.int64), np.full(1, -1, np.int64))
        self._check_rows(np.array([i]), need)
        x0, y0, x1, y1 = need[0].tolist()
        size = (y1 - y0) * (x1 - x0)
        self._used = 0
        if self._offsets is not None:
            self._offsets[:] = -1
        out = (self.arena[:size] if size <= len(self.arena) else np.empty(size, np.float32)).reshape(y1 - y0, x1 - x0)
        self.cutter.cut(i, Box(y0, x0, y1, x1), out)
        return out, y0, x0

    def _cover(
        self, index: Array, wanted: tuple[Array, Array, Array, Array], need: Array, have: Array, offsets: Array
    ) -> tuple[Array, int, int]:
        """Boxes of centres and half-sizes into `need`; where they are covered, first and last row + 1 of all."""
        covers = np.empty(len(index), np.uint8)
        frame = self.frame.width, self.frame.height, MARGIN
        return covers, *_stamps.boxes(index, *wanted, *frame, have, offsets, need, covers)

    def _check_rows(self, index: Array, boxes: NDArray[np.int64]) -> None:
        """Raise NeedRows for boxes with rows that can't be cut."""
        late = (boxes[:, 3] > self.cutter.final_row) | (boxes[:, 1] < self.cutter.first_row)
        if late.any():
            y = self.sources["y"][index[late]]
            rows = np.maximum(boxes[late, 3], np.ceil(2 * y - boxes[late, 1]).astype(np.int64) + 1)
            raise NeedRows(dict(zip(index[late].tolist(), rows.tolist(), strict=True)))

    def windows(
        self, hx: Array, hy: Array, cx: Array | None = None, cy: Array | None = None, index: Array | None = None
    ) -> Iterator[Windows]:
        """Windows that cover half-sizes `hx`, `hy` (pixels) about the centres, in views of what fits in the arena.

        Parameters
        ----------
        hx, hy : float64 arrays (n,)
            Half-sizes for all sources of the batch.  A margin for the mirror is added here.
        cx, cy : float64 arrays (n,), optional
            Centres, 0-based; the barycentres if not given.
        index : int64 array, optional
            Only these sources.

        Raises
        ------
        NeedRows
            Some of the pixels aren't final yet.
        """
        s, n = self.sources, len(self)
        index = np.arange(n, dtype=np.int64) if index is None else np.asarray(index, np.int64)
        if self._boxes is None or self._offsets is None:
            self._boxes, self._offsets = np.zeros((n, 4), np.int64), np.full(n, -1, np.int64)
        wanted = s["x"] if cx is None else cx, s["y"] if cy is None else cy, hx, hy
        need = np.empty((len(index), 4), np.int64)
        covers, top, bottom = self._cover(index, wanted, need, self._boxes, self._offsets)
        if bottom > self.cutter.final_row or top < self.cutter.first_row:
            self._check_rows(index, need)
        boxes = need if covers.all() else self._to_cut(index, need)
        start = 0
        while start < len(index):
            count, giant = self._hold(index[start:], boxes[start:], covers[start:])
            part = slice(start, start + count)
            start += count
            if giant:
                yield from self._pieces(int(index[part][0]), need[part][0], cy)
                covers[start:] = 0
                continue
            main = np.empty((count, 5), np.int64)
            main[:, 0], main[:, 1:] = self._offsets[index[part]], self._boxes[index[part]]
            yield Windows(self.arena, index[part], main, main, np.ascontiguousarray(need[part, 1::2]), True)

    def _to_cut(self, index: Array, need: NDArray[np.int64]) -> NDArray[np.int64]:
        """Boxes of stamps that hold `need`; a source's first holds what all families are expected to ask for."""
        assert self._offsets is not None
        if not self.reaches:
            return need
        if self._first is None:
            self._first = self._expected()
        fresh = self._first[index]
        wide = np.hstack([np.minimum(need[:, :2], fresh[:, :2]), np.maximum(need[:, 2:], fresh[:, 2:])])
        # A stamp that takes much of the arena drives out others.
        small = (wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1]) <= len(self.arena) // 64
        return np.where((small & (self._offsets[index] < 0))[:, None], wide, need)

    def _expected(self) -> NDArray[np.int64]:
        """Boxes that all families together are expected to ask for, in the rows that can be cut (n, 4)."""
        s, n = self.sources, len(self)
        halves = [reach(s, self.settings.photometry) for reach in self.reaches]
        hx, hy = (np.maximum.reduce([half[axis] for half in halves]) for axis in (0, 1))
        boxes = np.empty((n, 4), np.int64)
        self._cover(np.arange(n), (s["x"], s["y"], hx, hy), boxes, np.zeros((n, 4), np.int64), np.full(n, -1, np.int64))
        np.clip(boxes[:, 1::2], self.cutter.first_row, self.cutter.final_row, out=boxes[:, 1::2])
        return boxes

    def _hold(self, todo: Array, need: Array, covers: Array) -> tuple[int, bool]:
        """Have stamps of the first of `todo` in the arena; how many, and whether one alone is too large for it."""
        assert self._boxes is not None and self._offsets is not None
        if covers.all():
            return len(todo), False
        # Stamps of sources not in this call stay if there is room, else everything is cut anew from here on.
        sizes = (need[:, 2] - need[:, 0]) * (need[:, 3] - need[:, 1])
        ends = self._used + np.cumsum(np.where(covers, 0, sizes))
        if ends[-1] > len(self.arena):
            if covers[0]:
                return int(np.argmin(covers)), False
            self._used, self._offsets[:], covers[:] = 0, -1, 0
            if sizes[0] > len(self.arena):
                return 1, True
            ends = np.cumsum(sizes)
        fits = int(np.searchsorted(ends, len(self.arena), side="right"))
        new = np.flatnonzero(covers[:fits] == 0)
        index, boxes, offsets = todo[new], need[new], ends[new] - sizes[new]
        self._boxes[index], self._offsets[index] = boxes, offsets
        self.cutter.cut_many(index, boxes, offsets, self.arena)
        self._used = int(ends[fits - 1])
        return fits, False

    def _pieces(self, i: int, box: Array, cy: Array | None) -> Iterator[Windows]:
        """Views of a giant's rows, each with the rows mirrored about its centre."""
        x0, y0, x1, y1 = (int(v) for v in box)
        centre = float(self.sources["y"][i] if cy is None else cy[i])
        width = x1 - x0
        half = len(self.arena) // 2
        step = half // width - 2 * MARGIN - 1
        if step < 1:
            raise MemoryError(f"a row of {width} pixels does not fit in the stamp storage of {self.arena.nbytes} bytes")
        for ya in range(y0, y1, step):
            yb = min(ya + step, y1)
            m0 = max(int(np.floor(2 * centre)) - (yb - 1) - MARGIN, 0)
            m1 = min(int(np.ceil(2 * centre)) - ya + MARGIN + 1, self.frame.height)
            m0 = min(m0, self.frame.height)
            m1 = max(m1, m0)
            main = np.array([[0, x0, ya, x1, yb]], np.int64)
            mirror = np.array([[half, x0, m0, x1, m1]], np.int64)
            self.cutter.cut(i, Box(ya, x0, yb, x1), self.arena[: (yb - ya) * width].reshape(yb - ya, width))
            if m1 > m0:
                out = self.arena[half : half + (m1 - m0) * width].reshape(m1 - m0, width)
                self.cutter.cut(i, Box(m0, x0, m1, x1), out)
            yield Windows(self.arena, np.array([i], np.int64), main, mirror, np.array([[ya, yb]], np.int64), False)
