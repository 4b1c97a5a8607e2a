"""Rows that wait on disk for their sky positions, where the limit has no room for astropy beside pixels.

When an extension's pixels are done, one worker alone fills the columns that follow from the row, in a slab of almost
nothing, and ends with all that astropy took.  Where there is room, rows don't come here: ``measuring.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sextract.errors import WorkerError
from sextract.execution.backend import Task
from sextract.memory.spill import Spill
from sextract.pipeline.stages import Kind, pack

if TYPE_CHECKING:
    from sextract.pipeline.plan import Run

# Rows of one task: a few hundred milliseconds of astropy, and temporary arrays of some hundred KiB.
ROWS_PER_TASK = 2048

# Copied to and from a checkpoint at a time.
PIECE_BYTES = 32768


class Shelf:
    """Rows of one extension, in order.

    Parameters
    ----------
    row : dtype
    slab_bytes : int
        What the slab may hold while they are completed.
    folder : str
        For the scratch file.
    """

    def __init__(self, row: np.dtype[Any], slab_bytes: int, folder: str) -> None:
        self._row, self._slab_bytes, self._folder = row, slab_bytes, folder
        self._spill: Spill | None = None
        self.count = 0

    def put(self, rows: NDArray[Any]) -> None:
        """Add rows without sky positions."""
        if self._spill is None:
            self._spill = Spill(self._folder)
        self._spill.put(rows)
        self.count += len(rows)

    def save(self, path: str, done: int) -> int:
        """Append the rows from the `done`-th on to a file and have it on the disk; how many there are."""
        with open(path, "r+b" if done else "wb") as file:
            file.truncate(done * self._row.itemsize)
            file.seek(0, os.SEEK_END)
            for rows in self._pieces(done):
                file.write(rows.view(np.uint8).data)
            file.flush()
            os.fdatasync(file.fileno())
        return self.count

    def restore(self, path: str, count: int) -> None:
        """Take the first rows of such a file."""
        many = max(PIECE_BYTES // self._row.itemsize, 1)
        with open(path, "rb") as file:
            for first in range(0, count, many):
                rows = np.fromfile(file, self._row, min(many, count - first))
                self.put(rows)

    def _pieces(self, first: int) -> Iterator[NDArray[Any]]:
        many = max(PIECE_BYTES // self._row.itemsize, 1)
        rows = np.empty(many, self._row)
        while self._spill is not None and first < self.count:
            n = min(many, self.count - first)
            self._spill.get(first * self._row.itemsize, n * self._row.itemsize, rows[:n])
            yield rows[:n]
            first += n

    def complete(self, run: Run) -> None:
        """Fill the columns that are missing and write all rows; nothing of the extension may be in the slab any more."""
        if self._spill is None:
            return
        slab, backend = run.slab, run.backend
        workers = backend.workers
        lowered = slab.lower_ceiling(slab.ceiling - self._slab_bytes)
        backend.resize(1)
        many = max(min(ROWS_PER_TASK, self._slab_bytes // (2 * self._row.itemsize)), 1)
        ref = slab.alloc(many * self._row.itemsize, "rows", low=True)
        for first in range(0, self.count, many):
            n = min(many, self.count - first)
            rows = slab.view(ref, self._row, n)
            self._spill.get(first * self._row.itemsize, n * self._row.itemsize, rows)
            backend.submit(Task(int(Kind.TABLE), pack(ref.offset, n), 0))
            for result in backend.wait():
                if result.error is not None:
                    raise result.error
                if result.died is not None:
                    raise WorkerError(f"working out sky positions crashed two workers ({result.died})")
            run.write(rows)
            run.sample()
        slab.free(ref)
        backend.resize(0)
        slab.raise_ceiling(lowered)
        backend.resize(workers)
        self._spill.clear()
        self.count = 0
