"""Which mappings can be dropped: the pieces of /proc/self/smaps against a reading of its lines."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from sextract.memory.codepages import drop_code_pages, droppable

SMAPS = """\
55d0c0000000-55d0c0002000 r--p 00000000 fe:01 131 /usr/bin/python
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
55d0c0002000-55d0c0004000 r-xp 00002000 fe:01 131 /usr/bin/python
Rss:                   4 kB
Anonymous:             4 kB
VmFlags: rd ex mr mw me sd
55d0c0004000-55d0c0006000 r-xp 00004000 fe:01 131 /usr/bin/python
Rss:                   0 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
55d0c0006000-55d0c0008000 rw-p 00006000 fe:01 131 /usr/bin/python
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd wr mr mw me sd
7f0000000000-7f0000010000 r-xp 00000000 00:00 0
Rss:                  64 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
7f0000020000-7f0000030000 r-xp 00001000 fe:01 77 /usr/lib/a library
Rss:                  60 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
"""


def by_lines(text: str) -> Iterator[tuple[int, int, int]]:
    """The same, a line at a time."""
    start = nbytes = resident = 0
    for line in text.splitlines():
        word, *rest = line.split()
        if not word.endswith(":"):
            nbytes = 0
            if rest[0] in ("r-xp", "r--p") and rest[3] != "0":
                first, _, last = word.partition("-")
                start, nbytes = int(first, 16), int(last, 16) - int(first, 16)
        elif nbytes and word == "Rss:":
            resident = int(rest[0]) << 10
        elif nbytes and word == "Anonymous:" and rest[0] == "0" and resident:
            yield start, nbytes, resident


@pytest.mark.parametrize("piece", [1, 7, 100, 10_000])
def test_pages_of_files_that_hold_nothing_of_ones_own(piece: int) -> None:
    raw = SMAPS.encode()
    found = list(droppable(raw[i : i + piece] for i in range(0, len(raw), piece)))
    assert found == [(0x55D0C0000000, 0x2000, 8 << 10), (0x7F0000020000, 0x10000, 60 << 10)]
    assert found == list(by_lines(SMAPS))


def test_the_real_file_is_read_alike() -> None:
    raw = Path("/proc/self/smaps").read_bytes()
    found = list(droppable(raw[i : i + 4096] for i in range(0, len(raw), 4096)))
    assert found
    assert found == list(by_lines(raw.decode()))


def test_what_was_dropped_comes_back_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 512)
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        assert mapped[70_000] == 70_000 % 256
        assert drop_code_pages() >= 128 << 10
        assert mapped[:] == bytes(range(256)) * 512
