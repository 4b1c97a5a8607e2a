"""What a merge keeps on disk meanwhile: rows of all catalogues, each where its partition's rows are gathered.

How many rows a partition has is known before the first one comes, so that a single file without a name holds all of them, each
partition in a stretch of its own, and what is in memory is what was just read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.memory.spill import Spill
from sextract.survey.merge.duplicates import RECORD, Records
from sextract.survey.merge.sky import Keys, Ranges

# Keys read or written at a time.
_KEYS = 1 << 17
# Records between two entries of the index over them, and blocks of that many that are read together.
_BLOCK, _BLOCKS = 1024, 64


class KeyFile:
    """The keys of all rows, in the order in which catalogues give them."""

    def __init__(self, folder: str) -> None:
        self._spill = Spill(folder)
        self.rows = 0

    def append(self, keys: Keys) -> None:
        """The next rows."""
        self._spill.put(keys)
        self.rows += len(keys)

    def read(self, first: int, n: int) -> Keys:
        """Some of them."""
        out: Keys = np.empty(n, np.int64)
        self._spill.get(first * out.itemsize, out.nbytes, out)
        return out

    def pieces(self) -> Iterator[Keys]:
        """All of them."""
        for first in range(0, self.rows, _KEYS):
            yield self.read(first, min(_KEYS, self.rows - first))

    def close(self) -> None:
        """Give the file back."""
        self._spill.close()


class Gathered:
    """Records of one layout, gathered by partition.

    Parameters
    ----------
    folder : str
    dtype : numpy dtype
    rows : sequence of int
        How many each partition gets.
    """

    def __init__(self, folder: str, dtype: np.dtype[Any], rows: Sequence[int]) -> None:
        self.dtype = dtype
        self.starts = np.concatenate([[0], np.cumsum(np.asarray(rows, np.int64))])
        self._spill = Spill(folder)
        self._spill.reserve(int(self.starts[-1]) * dtype.itemsize)

    def rows(self, partition: int) -> int:
        """Rows of a partition."""
        return int(self.starts[partition + 1] - self.starts[partition])

    def write(self, partition: int, first: int, records: NDArray[Any]) -> None:
        """Put records at a place within a partition."""
        self._spill.write(int(self.starts[partition] + first) * self.dtype.itemsize, records)

    def read(self, partition: int, first: int = 0, n: int | None = None) -> NDArray[Any]:
        """Records of a partition, all if not said otherwise."""
        return self._get(int(self.starts[partition]) + first, self.rows(partition) - first if n is None else n)

    def _get(self, first: int, n: int) -> NDArray[Any]:
        out = np.empty(n, self.dtype)
        self._spill.get(first * self.dtype.itemsize, out.nbytes, out)
        return out

    def close(self) -> None:
        """Give the file back."""
        self._spill.close()


class Sorted(Gathered):
    """The `RECORD` of every row with a position, in order of key and id once `sort` has seen all partitions."""

    def __init__(self, folder: str, rows: Sequence[int]) -> None:
        super().__init__(folder, RECORD, rows)
        self._index: Keys = np.empty(-(-int(self.starts[-1]) // _BLOCK), np.int64)

    def sort(self, partition: int) -> None:
        """Sort the records of a partition; these come in the order of their keys."""
        records = self.read(partition)
        records = records[np.lexsort((records["id"], records["key"]))]
        self.write(partition, 0, records)
        start = int(self.starts[partition])
        firsts = np.arange(-(-start // _BLOCK), -(-(start + len(records)) // _BLOCK))
        self._index[firsts] = records["key"][firsts * _BLOCK - start]

    def within(self, ranges: Ranges) -> Records:
        """All records whose keys are in sorted ranges (n, 2) that don't overlap."""
        total = int(self.starts[-1])
        # The block before the first key beyond a range's begin may hold some of it, too.
        first = np.maximum(np.searchsorted(self._index, ranges[:, 0]) - 1, 0)
        end = np.searchsorted(self._index, ranges[:, 1])
        found = [np.empty(0, RECORD)]
        for a, b in _joined(first, end):
            for block in range(a, b, _BLOCKS):
                start = block * _BLOCK
                records = self._get(start, min(min(block + _BLOCKS, b) * _BLOCK, total) - start)
                at = np.searchsorted(ranges[:, 0], records["key"], side="right") - 1
                found.append(records[(at >= 0) & (records["key"] < ranges[at, 1])])
        return np.concatenate(found)


def _joined(first: NDArray[np.intp], end: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Ascending stretches of blocks, those that overlap joined."""
    low = high = 0
    for a, b in zip(first.tolist(), end.tolist(), strict=True):
        if a >= high:
            if high > low:
                yield low, high
            low, high = a, b
        high = max(high, b)
    if high > low:
        yield low, high
