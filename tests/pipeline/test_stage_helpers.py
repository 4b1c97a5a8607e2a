"""Small things that both sides of a run share: what is packed, how runs lie in the slab, fragments in portions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sextract.pipeline.stages import _portions, pack, runs_block_bytes, runs_views
from sextract.records import FRAGMENT, RUN


def test_integers_are_packed_one_after_the_other() -> None:
    packed = np.frombuffer(pack(1, np.int32(2), np.int64(1 << 40), True, -1), np.int64)
    assert packed.tolist() == [1, 2, 1 << 40, 1, -1]
    assert pack() == b""


@given(st.integers(1, 50), st.integers(0, 40), st.integers(0, 30).map(lambda n: 8 * n))
def test_runs_lie_behind_their_row_starts(rows: int, nruns: int, offset: int) -> None:
    nbytes = runs_block_bytes(rows, nruns)
    slab = np.zeros(offset + nbytes + 9, np.uint8)
    start, runs = runs_views(slab, offset, rows, nbytes)
    assert start.shape == (rows + 1,) and runs.shape == (nruns,)
    start[:], runs[:] = -1, (-1, -1)
    assert slab[offset : offset + nbytes].all() and slab.sum(dtype=int) == 255 * nbytes
    # A block is cut to whole granules: what is left over at its end is room for more runs.
    assert len(runs_views(slab, offset, rows, nbytes + 9)[1]) == nruns + 9 // RUN.itemsize


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(20, 60))
def test_portions_are_as_large_as_room_allows(widths: list[int], room: int) -> None:
    fragments = np.array([(y, 5, 5 + w) for y, w in enumerate(widths)], FRAGMENT)
    parts = list(_portions(fragments, room))
    assert [f for part, _ in parts for f in part.tolist()] == fragments.tolist()
    for k, (part, n) in enumerate(parts):
        assert n == (part["x1"] - part["x0"]).sum() <= room
        if k + 1 < len(parts):
            following = parts[k + 1][0][0]
            assert n + following["x1"] - following["x0"] > room
