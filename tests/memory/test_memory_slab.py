"""The slab: layout, reserved pages, views, processes, and what it refuses."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sextract.errors import LimitError
from sextract.execution.template import fork
from sextract.memory.budget import GRANULE
from sextract.memory.gauge import Gauge
from sextract.memory.slab import Slab, SlabFull
from sextract.records import SOURCE, BlockRef
from tests.conftest import shared_memory

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


@pytest.fixture
def slab() -> Iterator[Slab]:
    slab = Slab(8 * MIB, headroom=plenty)
    yield slab
    slab.close()


def in_child(body: Callable[[], None]) -> int:
    """Exit code of a forked process that runs `body`."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(body, []), 0)[1])


@pytest.mark.parametrize(("nbytes", "alignment"), [(1, 64), (65535, 64), (65536, 4096), (MIB + 1, 4096)])
def test_alignment(slab: Slab, nbytes: int, alignment: int) -> None:
    refs = [slab.alloc(nbytes, "x") for _ in range(3)]
    assert all(ref.offset % alignment == 0 and ref.nbytes == nbytes for ref in refs)


def test_small_blocks_stay_out_of_the_gaps_of_large_ones(slab: Slab) -> None:
    tiles = [slab.alloc(MIB, "tiles", low=True) for _ in range(3)]
    slab.free(tiles[1])
    others = [slab.alloc(nbytes, "others") for nbytes in (100, 100_000)]
    assert slab.alloc(MIB, "tiles", low=True) == tiles[1]
    assert all(other.offset > tiles[2].offset for other in others)


def test_what_is_low_is_for_tiles_alone(slab: Slab) -> None:
    slab.low = 5 * MIB
    other = slab.alloc(2 * MIB, "other")
    assert other.offset >= 5 * MIB
    for nbytes in (100, 2 * MIB):
        assert slab.fits(nbytes) == (nbytes == 100)
    assert not slab.would_fit(4 * MIB, [other])
    assert slab.would_fit(2 * MIB, [other])
    tile = slab.alloc(5 * MIB, "tiles", low=True)
    assert tile.offset == 0
    assert slab.would_fit(6 * MIB, [tile], low=True)
    assert not slab.would_fit(2 * MIB, [tile])


def test_pages_are_reserved_on_lending_recycled_and_given_back(slab: Slab) -> None:
    assert slab.allocated == 0
    ref = slab.alloc(MIB, "x")
    assert slab.allocated == MIB
    slab.free(ref)
    again = slab.alloc(MIB // 2, "x")
    assert slab.allocated == MIB
    slab.view(again, np.uint8)[:] = 7
    assert slab.shrink() == MIB // 2
    assert slab.allocated == MIB // 2
    assert slab.view(again, np.uint8).min() == 7
    slab.alloc(MIB, "x")
    assert slab.allocated == MIB // 2 + MIB


def test_shrink_of_everything_leaves_nothing(slab: Slab) -> None:
    refs = [slab.alloc(n, "x") for n in (10, 70_000, 3 * MIB, 999)]
    for ref in refs:
        slab.free(ref)
    slab.shrink()
    assert slab.allocated == 0
    assert slab.free_extents() == [BlockRef(0, 8 * MIB)]


def test_full_says_how_much_is_free(slab: Slab) -> None:
    slab.alloc(6 * MIB, "x")
    with pytest.raises(SlabFull) as caught:
        slab.alloc(3 * MIB, "x")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.nbytes, error.free, error.largest) == (3 * MIB, 2 * MIB, 2 * MIB)
    assert "--mem-limit" in str(error)
    assert slab.used == 6 * MIB


def test_the_whole_slab_can_be_one_block(slab: Slab) -> None:
    slab.free(slab.alloc(100, "x"))
    ref = slab.alloc(8 * MIB, "x")
    assert slab.largest_free() == 0
    assert slab.free_extents() == []
    slab.free(ref)
    assert slab.largest_free() == 8 * MIB


def test_resize_down_gives_the_tail_back(slab: Slab) -> None:
    ref = slab.alloc(4 * MIB, "x")
    slab.view(ref, np.uint8)[:] = 5
    kept = slab.resize_down(ref, 1000)
    assert kept == BlockRef(ref.offset, 1000)
    assert slab.used == 1024
    assert slab.view(kept, np.uint8).tolist() == [5] * 1000
    with pytest.raises(ValueError):
        slab.free(ref)
    with pytest.raises(ValueError):
        slab.resize_down(kept, 2000)
    slab.free(kept)
    assert slab.used == 0


@pytest.mark.parametrize("wrong", [BlockRef(0, 99), BlockRef(64, 100)])
def test_what_is_not_lent_out_cannot_come_back(slab: Slab, wrong: BlockRef) -> None:
    ref = slab.alloc(70_000, "x", low=True)
    assert ref.offset == 0
    with pytest.raises(ValueError):
        slab.free(wrong)
    slab.free(ref)
    with pytest.raises(ValueError):
        slab.free(ref)


def test_views(slab: Slab) -> None:
    ref = slab.alloc(100, "x")
    assert slab.view(ref, np.float64).shape == (12,)
    assert slab.view(ref, "<f4", 25).shape == (25,)
    table = slab.view(ref, np.float32, (5, 5))
    table[...] = np.arange(25, dtype=np.float32).reshape(5, 5)
    assert slab.view(ref, np.float32)[24] == 24
    assert slab.view(ref, np.uint8, (0, 3)).shape == (0, 3)
    assert np.frombuffer(slab.bytes_view(ref.offset + 96, 4), "<f4")[0] == 24
    with pytest.raises(ValueError):
        slab.view(ref, np.float64, (13,))
    sources = slab.view(slab.alloc(2 * SOURCE.itemsize, "x"), SOURCE)
    sources["number"] = [1, 2]
    assert sources["number"].tolist() == [1, 2]


def test_every_process_sees_the_same_bytes_and_only_the_owner_lends(slab: Slab) -> None:
    ref = slab.alloc(MIB, "x")

    def child() -> None:
        slab.view(ref, np.float32)[:] = 3.5
        for forbidden in (lambda: slab.alloc(1, "x"), lambda: slab.free(ref), slab.shrink):
            with pytest.raises(RuntimeError):
                forbidden()

    assert in_child(child) == 0
    assert (slab.view(ref, np.float32) == 3.5).all()


def test_views_outlive_close(slab: Slab) -> None:
    view = slab.view(slab.alloc(MIB, "x"), np.uint8)
    view[:] = 1
    slab.close()
    assert int(view[-1]) == 1


def test_an_empty_slab_holds_nothing_though_there_are_views(slab: Slab) -> None:
    view = slab.view(slab.alloc(3 * MIB, "x"), np.uint8)
    view[:] = 1
    handle = os.dup(slab.fd)
    slab.close()
    slab.empty()
    assert os.fstat(handle).st_blocks == 0
    os.close(handle)
    del view
    slab.empty()


def test_pages_taken_out_of_the_map_keep_what_is_in_them(slab: Slab) -> None:
    refs = [slab.alloc(MIB, "x") for _ in range(4)]
    for k, ref in enumerate(refs):
        slab.view(ref, np.uint8)[:] = k + 1
    gauge = Gauge(list)
    gauge.read(exact=True)
    before = gauge.mapped()
    slab.unmap(refs[2], refs[1])
    gauge.read(exact=True)
    assert abs(before - gauge.mapped() - 2 * MIB) < MIB // 2
    assert [int(slab.view(ref, np.uint8)[-1]) for ref in refs] == [1, 2, 3, 4]
    assert slab.allocated == 4 * MIB
    slab.unmap()
    gauge.read(exact=True)
    assert abs(before - gauge.mapped() - 4 * MIB) < MIB // 2
    gauge.close()


def test_restrict_before_lending(slab: Slab) -> None:
    low = slab.alloc(MIB, "x", low=True)
    slab.restrict(3 * MIB + 5)
    assert slab.capacity == 3 * MIB
    assert slab.largest_free() == 2 * MIB
    small = slab.alloc(10, "x")
    assert small.offset < 3 * MIB
    with pytest.raises(SlabFull):
        slab.alloc(2 * MIB, "x")
    with pytest.raises(ValueError):
        slab.restrict(2 * MIB)
    with pytest.raises(ValueError):
        slab.restrict(4 * MIB)
    slab.free(small)
    slab.free(low)
    assert slab.free_extents() == [BlockRef(0, 3 * MIB)]


def test_restrict_to_what_is_lent_out_leaves_nothing_free(slab: Slab) -> None:
    slab.alloc(MIB, "x", low=True)
    slab.restrict(MIB)
    assert slab.free_bytes == 0
    assert not slab.fits(1)


def test_no_growth_beyond_the_headroom() -> None:
    room = 3 * MIB
    slab = Slab(8 * MIB, headroom=lambda: (room - slab.allocated, "memory cgroup /job"))
    slab.alloc(MIB, "x")
    with pytest.raises(LimitError, match="memory cgroup /job"):
        slab.alloc(4 * MIB, "x")
    assert slab.used == MIB
    assert slab.allocated <= room
    ref = slab.alloc(GRANULE, "x")
    slab.free(ref)
    slab.close()


def test_would_fit_counts_what_could_be_freed(slab: Slab) -> None:
    refs = [slab.alloc(2 * MIB, "x") for _ in range(4)]
    assert slab.would_fit(4 * MIB, refs[1:3])
    assert not slab.would_fit(4 * MIB, [refs[0], refs[2]])
    assert not slab.would_fit(9 * MIB, refs)
    assert slab.would_fit(8 * MIB, refs)


def test_a_lowered_ceiling_bounds_what_is_lent_and_what_is_held(slab: Slab) -> None:
    refs = [slab.alloc(MIB, "x") for _ in range(8)]
    for ref in refs[::2]:
        slab.free(ref)
    assert slab.lower_ceiling(2 * MIB) == 2 * MIB
    assert slab.allocated == 4 * MIB
    slab.alloc(MIB, "x")
    kept = slab.alloc(MIB, "x")
    with pytest.raises(SlabFull):
        slab.alloc(1, "x")
    assert not slab.would_fit(2 * MIB, [kept])
    slab.free(kept)
    # The free pages are lent again, or given back first.
    small = slab.alloc(70_000, "x")
    assert slab.allocated <= slab.ceiling
    assert slab.lower_ceiling(100 * MIB, floor=5 * MIB) == MIB
    assert slab.lower_ceiling(MIB, floor=7 * MIB) == 0
    slab.free(small)


def test_what_comes_back_under_a_lowered_ceiling_goes_to_the_kernel(slab: Slab) -> None:
    refs = [slab.alloc(MIB, "x") for _ in range(8)]
    assert slab.lower_ceiling(3 * MIB) == 3 * MIB
    assert slab.allocated == 8 * MIB
    for ref in refs[:4]:
        slab.free(ref)
    assert slab.allocated <= slab.ceiling == 5 * MIB
    refs[4] = slab.resize_down(refs[4], 100)
    for ref in refs[4:]:
        slab.free(ref)
    # Up to the ceiling it is kept, to be lent again.
    assert slab.allocated <= slab.ceiling
    assert slab.shrink() > 0
    assert slab.allocated == 0


def test_fragmentation_is_what_blocks_of_a_size_cannot_use(slab: Slab) -> None:
    assert slab.fragmentation(MIB) == 0
    refs = [slab.alloc(MIB // 2, "x") for _ in range(16)]
    for ref in refs[::2]:
        slab.free(ref)
    assert slab.fragmentation(MIB) == 1
    assert slab.fragmentation(MIB // 2) == 0
    assert slab.fragmentation(MIB, refs[1:4:2]) == pytest.approx(1 - 2 / 5)
    assert slab.fragmentation(MIB, refs[1::2]) == 0
    assert not slab.would_fit(MIB, [])
    slab.note_refusal(MIB, [])
    assert slab.scattered == MIB
    slab.note_refusal(6 * MIB, [])
    assert slab.scattered == MIB
    # What the others would leave is in one half, where it may not lie.
    slab.low = 4 * MIB
    slab.note_refusal(3 * MIB, [])
    assert slab.scattered == MIB
    slab.note_refusal(3 * MIB, [], low=True)
    assert slab.scattered == 3 * MIB
    # Pieces that end before the next page begins are none.
    small = [slab.alloc(1000, "x") for _ in range(3)]
    slab.free(small[1])
    assert slab.fragmentation(MIB) == 1
    for ref in small[::2]:
        slab.free(ref)
    slab.free(refs[1])
    assert slab.fragmentation(MIB) == pytest.approx(1 - 1 / 4)


def test_a_piece_that_is_there_may_be_lent_when_others_come_back(slab: Slab) -> None:
    refs = [slab.alloc(MIB, "x") for _ in range(8)]
    for ref in refs[:3]:
        slab.free(ref)
    slab.lower_ceiling(2 * MIB)
    assert not slab.fits(2 * MIB)
    # No neighbour of the gap, but the ceiling counts it.
    assert slab.would_fit(2 * MIB, [refs[6]])
    assert not slab.would_fit(3 * MIB, [refs[6]])


@pytest.mark.parametrize("capacity", [0, -1, 65535])
def test_no_room_at_all(capacity: int) -> None:
    with pytest.raises(LimitError, match="--mem-limit"):
        Slab(capacity)


def test_poison_shows_stale_and_unset_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEXTRACT_DEBUG_POISON", "1")
    slab = Slab(MIB, headroom=plenty)
    ref = slab.alloc(4000, "x")
    view = slab.view(ref, np.float32)
    assert np.isnan(view).all()
    view[:] = 1
    slab.free(ref)
    assert np.isnan(view).all()


def test_refused_address_space_is_a_limit_error() -> None:
    script = (
        "import resource, sys\n"
        "from sextract.memory.slab import Slab\n"
        "from sextract.errors import LimitError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try:\n    Slab(1 << 40)\nexcept LimitError as exc:\n    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "--mem-limit" in done.stdout


def test_a_python_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    slab = Slab(MIB, headroom=plenty)
    slab.view(slab.alloc(MIB, "x"), np.uint8)[:] = 1
    assert slab.allocated == MIB
    slab.close()


def test_nothing_is_left_of_a_killed_owner() -> None:
    before = shared_memory()

    def child() -> None:
        own = Slab(4 * MIB, headroom=plenty)
        own.alloc(MIB, "x")
        os.kill(os.getpid(), 9)

    assert in_child(child) == -9
    assert shared_memory() <= before
