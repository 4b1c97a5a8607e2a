"""Write-behind: what a writer leaves in the page cache, and what it makes of files that have none."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from sextract.config.machine import memory_filesystem
from sextract.memory.writeback import SCATTERED_BYTES, WRITE_BEHIND_BYTES, WriteBehind

PAGE = mmap.PAGESIZE


def cached(fd: int) -> int:
    """Bytes of a file that are in the page cache."""
    nbytes = os.fstat(fd).st_size
    with mmap.mmap(fd, nbytes) as mapping:
        pages = (ctypes.c_ubyte * -(-nbytes // PAGE))()
        start = ctypes.c_char.from_buffer(mapping)
        try:
            assert ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(nbytes), pages) == 0
        finally:
            del start
    return sum(page & 1 for page in pages) * PAGE


@pytest.fixture
def fd(tmp_path: Path):
    if memory_filesystem(str(tmp_path)):
        pytest.skip("the temporary folder is a tmpfs, whose files are the page cache")
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def write(fd: int, behind: WriteBehind, data: bytes, offset: int) -> None:
    """One piece."""
    assert os.pwrite(fd, data, offset) == len(data)
    behind.written(fd, offset, offset + len(data), len(data))


def test_a_long_file_leaves_two_pieces(fd: int) -> None:
    behind = WriteBehind()
    data = np.random.default_rng(2).integers(0, 255, 24 << 20, dtype=np.uint8).tobytes()
    step = 300_000
    most = 0
    for start in range(0, len(data), step):
        write(fd, behind, data[start : start + step], start)
        most = max(most, cached(fd))
    if behind.off:
        pytest.skip("this file system has no sync_file_range")
    # The page that two pieces share may stay.
    assert most <= 2 * (WRITE_BEHIND_BYTES + step) + len(data) // WRITE_BEHIND_BYTES * 2 * PAGE
    behind.settle(fd)
    assert cached(fd) == 0
    assert os.pread(fd, len(data), 0) == data


def test_gaps_are_given_time_and_bytes_of_any_order_come_back(fd: int) -> None:
    behind = WriteBehind()
    piece = os.urandom(64 << 10)
    count = 2 * SCATTERED_BYTES // len(piece)
    for i in [*range(0, count, 2), *range(count - 1, 0, -2)]:
        write(fd, behind, piece, i * len(piece))
    behind.settle(fd)
    assert os.pread(fd, count * len(piece), 0) == piece * count


def test_a_pipe_has_nothing_to_sync() -> None:
    ends = os.pipe()
    behind = WriteBehind()
    behind.written(ends[1], 0, 10 << 20, 10 << 20)
    assert behind.off
    behind.settle(ends[1])
    for end in ends:
        os.close(end)


def test_what_the_disk_says_is_not_lost(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "gone", os.O_RDWR | os.O_CREAT)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        WriteBehind().written(fd, 0, 10 << 20, 10 << 20)
    assert caught.value.errno == errno.EBADF
