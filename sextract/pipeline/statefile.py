"""The file of a checkpoint: bytes of any length, then what they mean as JSON, then a sum; valid as a whole or not at all.

It is written behind its old version and takes its place by a rename when it is on the disk.  Bytes pass by, in order, both
ways: neither is larger in memory than a piece.  What is in it is ``checkpoint.py``'s and of those who own the state.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextract.catalogue.output import sync_folder
from sextract.memory.writeback import WriteBehind, drop

# Read at a time when it is verified.
PIECE_BYTES = 32768

_FOOT = struct.Struct("<8sQQI")
_MAGIC = b"SEXCHECK"


class StateWriter:
    """Writes one; `publish` or `discard` ends it.

    Parameters
    ----------
    path : str

    Raises
    ------
    OSError
        From all methods: the disk is full, say.  The old version is valid then.
    """

    def __init__(self, path: str) -> None:
        self._path, self._new = path, f"{path}.new"
        self._fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._behind = WriteBehind()
        self.nbytes = self._sum = 0

    def put(self, data: NDArray[Any] | bytes) -> None:
        """Append bytes, or those of a contiguous array."""
        view = memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
        self._sum = zlib.crc32(view, self._sum)
        first = self.nbytes
        while len(view):
            done = os.write(self._fd, view)
            self.nbytes += done
            view = view[done:]
        self._behind.written(self._fd, first, self.nbytes, self.nbytes - first)

    def publish(self, meta: dict[str, Any]) -> None:
        """End with what the bytes mean, and take the place of the old version when all is on the disk."""
        data, text = self.nbytes, json.dumps(meta).encode()
        self.put(text)
        self.put(_FOOT.pack(_MAGIC, data, len(text), self._sum))
        os.fdatasync(self._fd)
        drop(self._fd)
        os.replace(self._new, self._path)
        sync_folder(os.path.dirname(self._path))
        os.close(self._fd)
        self._fd = -1

    def discard(self) -> None:
        """Leave the old version; nothing happens after `publish`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                os.unlink(self._new)


class StateReader:
    """Reads one: `meta`, and the bytes in the order in which they were put.

    Raises
    ------
    ValueError
        It isn't whole, or something else.
    OSError
        There is none, or it can't be read.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._at = 0
        try:
            self.meta: dict[str, Any] = self._verified()
        except BaseException:
            self.close()
            raise

    def _verified(self) -> dict[str, Any]:
        behind = os.fstat(self._fd).st_size - _FOOT.size
        if behind < 0:
            raise ValueError("it is cut")
        magic, self._data, length, total = _FOOT.unpack(os.pread(self._fd, _FOOT.size, behind))
        if magic != _MAGIC or self._data + length != behind:
            raise ValueError("it is cut, or no checkpoint")
        found = 0
        for first in range(0, behind, PIECE_BYTES):
            found = zlib.crc32(os.pread(self._fd, min(PIECE_BYTES, behind - first), first), found)
        drop(self._fd)
        if found != total:
            raise ValueError("its sum is wrong")
        meta: dict[str, Any] = json.loads(os.pread(self._fd, length, self._data))
        return meta

    def get(self, out: NDArray[Any]) -> NDArray[Any]:
        """Fill a contiguous array with the next bytes; the array."""
        view = out.reshape(-1).view(np.uint8).data
        if self._at + len(view) > self._data:
            raise ValueError("a checkpoint holds less than it says")
        while len(view):
            done = os.preadv(self._fd, [view], self._at)
            if not done:
                raise ValueError("a checkpoint ends before its end")
            drop(self._fd, self._at, done)
            self._at += done
            view = view[done:]
        return out

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
