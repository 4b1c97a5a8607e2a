"""Where the pixels of a batch's stamps come from: tiles held in the slab, or the file, with the masks of each source.

A pixel that the scan found above the threshold is masked unless it is the source's own or CLEAN freed it.  What counts
as bad in a stamp, and what a measurement makes of it, is not decided here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sextract.measurement import _stamps
from sextract.measurement.measure import Cutter
from sextract.records import FRAGMENT, Box

# Fragments of a giant that are looked at before their pages go again.
OWN_AT_ONCE = 65536
# Pixels of a window that are masked before: every other one may have a run and a fragment of its own.
MASKED_AT_ONCE = 65536

# Fills an array with the background-subtracted pixels of a box, from the file.
Load = Callable[[Box, NDArray[np.float32]], int]


class TileGrid(NamedTuple):
    """How a frame is cut into tiles, and the halo that a tile's block has beyond it (cut to the frame)."""

    width: int
    height: int
    rows: int
    columns: int
    halo_y: int
    halo_x: int

    @property
    def across(self) -> int:
        """Tiles in a row of tiles."""
        return -(-self.width // self.columns)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.rows)

    def tile(self, ty: int, tx: int) -> Box:
        """The tile without its halo."""
        y, x = ty * self.rows, tx * self.columns
        return Box(y, x, min(y + self.rows, self.height), min(x + self.columns, self.width))

    def block(self, ty: int, tx: int) -> Box:
        """The tile with its halo."""
        return self.tile(ty, tx).grown(self.halo_y, self.halo_x, self.height, self.width)


@dataclass(slots=True)
class StampCutter(Cutter):
    """Cuts stamps for a batch.

    Attributes
    ----------
    grid : TileGrid
    slab, floats : uint8 and float32 arrays
        The whole slab.
    tiles, runs : int64 arrays (tiles,)
        Index of each tile's block in `floats` (−1: not held), byte offset of its runs (−1: nothing to hide).
    sources : SOURCE array
        ``fragments`` is a byte offset in the slab.
    freed : FRAGMENT array
        Pixels of sources that CLEAN removed.
    load : callable
        For what no tile holds.
    mask : uint8 array
        Scratch, as long as the largest stamp.
    first_row, final_row : int
        Rows first_row <= y < final_row have masks, and these are final.
    masking : bool
        MASK_TYPE isn't NONE.
    settle : callable, optional
        Called when windows have been cut: their masks may have touched pages of what lies on disk, a giant's many.
    """

    grid: TileGrid
    slab: NDArray[np.uint8]
    floats: NDArray[np.float32]
    tiles: NDArray[np.int64]
    runs: NDArray[np.int64]
    sources: NDArray[Any]
    freed: NDArray[Any]
    load: Load
    mask: NDArray[np.uint8]
    first_row: int
    final_row: int
    masking: bool
    settle: Callable[[], None] = lambda: None

    def pixels(self, box: Box, out: NDArray[np.float32]) -> None:
        """Pixels of a box without any mask."""
        g = self.grid
        if not _stamps.copy_held(
            self.floats, self.tiles, g.height, g.width, g.rows, g.columns, g.halo_y, g.halo_x, box.y0, box.x0, out
        ):
            self.load(box, out)

    def cut(self, source: int, box: Box, out: NDArray[np.float32]) -> None:
        """See `measure.Cutter`."""
        if box.size == 0:
            return
        self.pixels(box, out)
        if self.masking:
            rows = max(MASKED_AT_ONCE // (box.x1 - box.x0), 1)
            for y0 in range(box.y0, box.y1, rows):
                self._hide(source, Box(y0, box.x0, min(y0 + rows, box.y1), box.x1), out[y0 - box.y0 :][:rows])
                self.settle()

    def _hide(self, source: int, box: Box, out: NDArray[np.float32]) -> None:
        g, own = self.grid, self.own(source, (box.y0, box.y1))
        masks = self.slab, self.runs, g.width, g.rows, g.columns, own, self._freed(box), self.mask
        _stamps.hide(out, box.y0, box.x0, *masks)

    def own(self, source: int, rows: tuple[int, int] | None = None) -> NDArray[Any]:
        """See `measure.Cutter`: those of a giant are searched, not walked through."""
        s = self.sources[source]
        first, n = int(s["fragments"]), int(s["nfragments"])
        own = self.slab[first : first + n * FRAGMENT.itemsize].view(FRAGMENT)
        if rows is None or not s["sorted"]:
            return own
        y = own["y"]
        return own[bisect_left(y, rows[0]) : bisect_left(y, rows[1])]

    def own_parts(self, source: int) -> Iterator[NDArray[Any]]:
        """See `measure.Cutter`: they may lie on disk."""
        own = self.own(source)
        for first in range(0, len(own), OWN_AT_ONCE):
            yield own[first : first + OWN_AT_ONCE]
            self.settle()

    def cut_many(
        self, index: NDArray[np.int64], boxes: NDArray[np.int64], offsets: NDArray[np.int64], arena: NDArray[np.float32]
    ) -> None:
        """See `measure.Cutter`: in one go, but for the stamps that a tile is missing for, and for large ones."""
        g, done = self.grid, 0
        tiles = self.floats, self.tiles, g.height, g.width, g.rows, g.columns, g.halo_y, g.halo_x
        masks = self.slab, self.runs, self.sources, self.freed, self.masking
        most = MASKED_AT_ONCE if self.masking else arena.size
        while (done := _stamps.cut(*tiles, *masks, index, boxes, offsets, arena, done, most)) < len(index):
            one = slice(done, done + 1)
            Cutter.cut_many(self, index[one], boxes[one], offsets[one], arena)
            done += 1
        self.settle()

    def _freed(self, box: Box) -> NDArray[Any]:
        """Freed pixels in the rows of a box; `freed` is sorted by row."""
        if not len(self.freed):
            return self.freed
        rows = self.freed["y"]
        return self.freed[bisect_left(rows, box.y0) : bisect_left(rows, box.y1)]
