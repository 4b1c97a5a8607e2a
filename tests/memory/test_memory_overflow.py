"""The overflow: blocks behind the slab, the same bytes in every process, on disk and not in memory."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sextract.detection import _components
from sextract.errors import OutputError
from sextract.execution.template import fork
from sextract.memory.gauge import Process
from sextract.memory.overflow import Overflow, overflow_bytes
from sextract.memory.slab import Slab, SlabFull
from sextract.memory.tiles import TileManager
from sextract.pipeline.runs import Freed, RunStore
from sextract.records import FOOTPRINT, FRAGMENT, RUN

MIB = 1 << 20


def resident() -> int:
    """Bytes of this process's own and of files."""
    own = Process(os.getpid())
    own.close()
    return own.anonymous + own.file


@pytest.fixture
def slab(tmp_path: Path) -> Iterator[Slab]:
    slab = Slab(MIB, headroom=lambda: (1 << 40, "test"), scratch_dir=str(tmp_path))
    yield slab
    slab.close()


def overflow(slab: Slab) -> Overflow:
    assert slab.overflow is not None
    return slab.overflow


def test_blocks_lie_behind_the_slab_and_come_back(slab: Slab) -> None:
    first, second = slab.alloc_behind(100), slab.alloc_behind(3 * MIB)
    assert first is not None and second is not None
    assert first.offset == slab.capacity
    assert second.offset >= first.offset + 100
    assert overflow(slab).used == 4096 + 3 * MIB
    assert slab.used == 0
    slab.view(second, np.uint8)[:] = 7
    slab.free(first)
    assert slab.view(second, np.uint8).min() == 7
    with pytest.raises(ValueError):
        slab.free(first)
    slab.free(second)
    assert overflow(slab).used == 0
    assert slab.alloc_behind(5) == (slab.capacity, 5)


def test_every_process_sees_the_same_bytes(slab: Slab) -> None:
    ref = slab.alloc_behind(MIB)
    assert ref is not None

    def child() -> None:
        slab.view(ref, np.float32)[:] = 3.5
        overflow(slab).drop()

    assert os.waitpid(fork(child, []), 0)[1] == 0
    assert (slab.view(ref, np.float32) == 3.5).all()


def test_what_is_dropped_is_in_no_process(slab: Slab) -> None:
    ref = slab.alloc_behind(32 * MIB)
    assert ref is not None
    view = slab.view(ref, np.uint8)
    before = resident()
    view[:] = 9
    assert resident() - before > 30 * MIB
    overflow(slab).settle()
    assert resident() - before < 2 * MIB
    assert view[::4096].min() == 9


def test_a_byte_here_and_there_brings_few_pages(slab: Slab) -> None:
    ref = slab.alloc_behind(64 * MIB)
    assert ref is not None
    view = slab.view(ref, np.uint8)
    for first in range(0, 64 * MIB, MIB):
        view[first : first + MIB] = first >> 20
        overflow(slab).settle()
    before = resident()
    assert view[MIB // 2 :: 2 * MIB].tolist() == list(range(0, 64, 2))
    # A kernel maps up to 64 KiB about what it is asked for.
    assert resident() - before <= 33 * 65536 + MIB


def test_tables_go_there_when_the_slab_is_full_and_tasks_do_not(slab: Slab, tmp_path: Path) -> None:
    store = RunStore(slab, TileManager(slab), str(tmp_path), 1)
    slab.alloc(slab.largest_free() - 4096, "x", low=True)
    slab.alloc(slab.largest_free(), "x")
    with pytest.raises(SlabFull):
        store.alloc(100, "task")
    ref = store.alloc_somewhere(100, "answer")
    assert ref in overflow(slab)
    slab.free(ref)


def test_many_small_blocks_make_way_for_a_large_one_without_staying_in_memory(tmp_path: Path) -> None:
    slab = Slab(16 * MIB, headroom=lambda: (1 << 40, "test"), scratch_dir=str(tmp_path))
    n = 240
    store = RunStore(slab, TileManager(slab), str(tmp_path), n)
    for number in range(n):
        ref = store.alloc(MIB // 16, "runs")
        slab.view(ref, np.uint8)[:] = number
        store.add(number, ref)
    before = resident()
    store.alloc(15 * MIB, "footprints")
    assert resident() - before < 2 * MIB
    found = [store.find(number) for number in range(n)]
    assert all(ref is not None and ref in overflow(slab) and slab.view(ref, np.uint8).max() == k for k, ref in enumerate(found))
    slab.close()


def test_pieces_that_are_used_again_are_mapped_one_page_at_a_time(slab: Slab) -> None:
    # Teeth of a comb, each in a list of its own with a piece in each row: those of a list lie 64 KiB apart.
    teeth, rows = 4096, 300
    sizes = (rows + 4) * teeth * _components.PIECE_BYTES, rows * teeth * FRAGMENT.itemsize
    pieces, fragments = (slab.view(ref, np.uint8) for ref in map(slab.alloc_behind, sizes) if ref is not None)
    components = np.zeros(2 * teeth * _components.COMPONENT_BYTES, np.uint8)
    pool = _components.Components(pieces, components, np.zeros(4 * teeth * _components.LABEL_BYTES, np.uint8), 1)
    comb = np.zeros(teeth, RUN)
    comb["x0"] = 2 * np.arange(teeth)
    comb["x1"] = comb["x0"] + 1
    for y in range(rows):
        assert pool.feed(np.array([0, teeth], np.int32), comb, y, 0) == 1
    assert pool.feed(np.array([0, 0], np.int32), comb, rows, 0) == 1
    footprints = np.zeros(teeth, FOOTPRINT)
    assert pool.drain(footprints, fragments.view(FRAGMENT)) == teeth * rows
    overflow(slab).settle()
    before = resident()
    assert pool.feed(np.array([0, 250], np.int32), comb, rows + 1, 0) == 1
    assert resident() - before < 3 * MIB


def test_freed_fragments_move_behind_for_their_own_larger_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Then the place that they leave doesn't look like them any more.
    monkeypatch.setenv("SEXTRACT_DEBUG_POISON", "1")
    slab = Slab(MIB, headroom=lambda: (1 << 40, "test"), scratch_dir=str(tmp_path))
    store = RunStore(slab, TileManager(slab), str(tmp_path), 1)
    freed = Freed(store, np.frombuffer(slab.bytes_view(0, slab.extent), np.uint8), 0, 20, 20)
    fragments = np.zeros(2000, FRAGMENT)
    fragments["y"], fragments["x0"] = np.arange(2000) % 20, np.arange(2000)
    freed.add(fragments[:1000].copy())
    first = store.find(0)
    slab.alloc(slab.largest_free() - 4096, "x", low=True)
    freed.add(fragments[1000:].copy())
    larger = store.find(0)
    assert first is not None and larger is not None
    assert first not in overflow(slab) and larger in overflow(slab)
    out = np.zeros(freed.count(range(1)), FRAGMENT)
    freed.copy(range(1), out)
    assert (np.diff(out["y"]) >= 0).all()
    assert np.array_equal(np.sort(out, order="x0"), fragments)
    slab.close()


def test_many_small_blocks_are_gone_through_with_few_pages(tmp_path: Path) -> None:
    slab = Slab(MIB, headroom=lambda: (1 << 40, "test"), scratch_dir=str(tmp_path))
    bands, each = 200, 300
    store = RunStore(slab, TileManager(slab), str(tmp_path), bands)
    freed = Freed(store, np.frombuffer(slab.bytes_view(0, slab.extent), np.uint8), 0, 1, bands)
    # No room is left in the slab, and a block of each band lies far from the next.
    slab.alloc(slab.largest_free() - 4096, "x", low=True)
    fragments = np.zeros(each, FRAGMENT)
    for band in range(bands):
        fragments["y"] = band
        freed.add(fragments.copy())
        far = store.alloc_somewhere(128 << 10, "x")
        np.frombuffer(slab.bytes_view(far.offset, far.nbytes), np.uint8)[:] = 1
    out = np.zeros(freed.count(range(bands)), FRAGMENT)
    out["y"] = 1
    overflow(slab).settle()
    before = resident()
    freed.copy(range(bands), out)
    # The kernel maps up to 64 KiB about what is read.
    assert resident() - before < 2 * MIB
    assert np.array_equal(out["y"], np.repeat(np.arange(bands), each))
    slab.close()


def test_without_a_folder_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sextract.memory.overflow.scratch_folder", lambda chosen: "/proc")
    slab = Slab(MIB, headroom=lambda: (1 << 40, "test"), scratch_dir="")
    assert slab.overflow is None
    assert slab.extent == slab.capacity
    assert slab.alloc_behind(100) is None
    slab.close()


def test_it_is_used_up_in_the_end(slab: Slab) -> None:
    assert slab.alloc_behind(overflow_bytes(slab.capacity) + 1) is None


def test_a_full_disk_is_told(slab: Slab) -> None:
    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        # Only the process that made the slab gives out blocks of it; the file is the same.
        with pytest.raises(OutputError, match="--scratch"):
            overflow(slab).alloc(2 * MIB)

    assert os.waitpid(fork(child, []), 0)[1] == 0
