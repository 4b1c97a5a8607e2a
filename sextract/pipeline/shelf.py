"""Rows that wait on disk for their sky positions, where the limit has no room for astropy beside pixels.

When an extension's pixels are done, one worker alone fills the columns that follow from the row, in a slab of almost
nothing, and ends with all that astropy took.  Where there is room, rows don't come here: ``measuring.py``.
"""

from __future__ import annotations

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
        self._count = 0

    def put(self, rows: NDArray[Any]) -> None:
        """Add rows without sky positions."""
        if self._spill is None:
            self._spill = Spill(self._folder)
        self._spill.put(rows)
        self._count += len(rows)

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
        for first in range(0, self._count, many):
            n = min(many, self._count - first)
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
        self._count = 0
