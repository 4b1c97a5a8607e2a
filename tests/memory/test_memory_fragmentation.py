"""How much of what is free can't be used: the slab over a long run, as the pipeline uses it."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from sextract.memory.slab import Slab, SlabFull
from sextract.memory.tiles import TileManager
from sextract.records import BlockRef
from tests.scenes import ROOT, field

KIB, MIB = 1 << 10, 1 << 20
TILE = 700 * KIB


def plenty() -> tuple[int, str]:
    return 1 << 50, "machine"


class Pipeline:
    """What a run asks of the slab, tile after tile: blocks of all sizes, most of them given back in the order they came."""

    def __init__(self, capacity: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.slab = Slab(capacity, headroom=plenty)
        self.tiles = TileManager(self.slab)
        self.scratch = [self.slab.alloc(MIB, "scratch") for _ in range(2)]
        self.window: deque[BlockRef] = deque()  # sources that CLEAN may still look at, runs that masks need
        self.waiting: deque[BlockRef] = deque()  # answers whose turn hasn't come
        self.table = self.slab.alloc(100 * KIB, "sources")
        self.giant: BlockRef | None = None

    def steps(self, count: int) -> Iterator[int]:
        """Scan so many tiles."""
        for number in range(count):
            self.scan(number)
            for _ in range(self.random.randint(1, 5)):
                self.blend()
            for _ in range(self.random.randint(0, 4)):
                self.measure(number)
            self.large(number)
            yield number

    def scan(self, number: int) -> None:
        runs = self.tiles.alloc(self.random.randint(80, 160) * KIB, "runs")
        self.tiles.reserve((0, number, 0), TILE)
        self.tiles.seal((0, number, 0))
        self.window.append(self.tiles.alloc(self.random.randint(1, 30) * KIB, "runs"))
        self.slab.free(runs)

    def blend(self) -> None:
        """An answer of generous size, of which little stays; now and then one that holds up the others."""
        out = self.tiles.alloc(self.random.randint(150, 400) * KIB, "sources")
        self.waiting.append(self.slab.resize_down(out, out.nbytes // 2))
        if self.random.random() < 0.7 or len(self.waiting) > 12:
            while self.waiting:
                self.slab.free(self.waiting.popleft())
                self.window.append(self.tiles.alloc(self.random.randint(500, 14_000), "sources"))
        while len(self.window) > 250:
            self.slab.free(self.window.popleft())

    def measure(self, number: int) -> None:
        """Rows and sources of a batch, and tiles it looks at that may be gone."""
        rows = self.tiles.alloc(self.random.randint(20, 90) * KIB, "rows")
        lease = self.tiles.pin((0, number - back, 0) for back in range(self.random.randint(1, 4)))
        if number > 12 and self.random.random() < 0.3:
            key = (0, number - self.random.randint(5, 12), 0)
            if key not in self.tiles:
                self.tiles.reserve(key, TILE)
                self.tiles.seal(key)
        self.tiles.release(lease)
        self.slab.free(rows)

    def large(self, number: int) -> None:
        """A table that grows, a large footprint."""
        if number % 40 == 39:
            grown = self.tiles.alloc(min(self.table.nbytes * 2, MIB), "sources")
            self.slab.free(self.table)
            self.table = grown
        if self.giant is not None:
            self.slab.free(self.giant)
            self.giant = None
        elif number % 25 == 24:
            self.giant = self.tiles.alloc(4 * MIB, "giant")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("capacity", [24 * MIB, 32 * MIB])
def test_a_long_run_leaves_room_for_tiles(capacity: int, seed: int) -> None:
    run = Pipeline(capacity, seed)
    seen = []
    for number in run.steps(600):
        if number > 30:
            seen.append(run.tiles.fragmentation(TILE))
    assert median(seen) <= 0.08
    assert max(seen) <= 0.2
    # No request was refused that there were bytes for.
    assert run.slab.scattered == 0
    run.slab.close()


# A run of the command line whose slab looks at itself each time that something is lent.
TRACED = """
import sys
from sextract.execution import environment
environment.prepare()
import sextract.pipeline, sextract.pipeline.plan
from sextract import cli
from sextract.memory.slab import Slab
from sextract.memory.tiles import TileManager

seen, managers, sizes = [], [], []

class TracedTiles(TileManager):
    def __init__(self, slab):
        super().__init__(slab)
        managers.append(self)

    def reserve(self, key, nbytes):
        sizes.append(nbytes)
        return super().reserve(key, nbytes)

class TracedSlab(Slab):
    def alloc(self, nbytes, owner, low=False):
        ref = super().alloc(nbytes, owner, low)
        if sizes:
            seen.append(managers[0].fragmentation(max(sizes)))
        return ref

sextract.pipeline.Slab, sextract.pipeline.plan.TileManager = TracedSlab, TracedTiles
code = cli.main(sys.argv[1:])
print(len(seen), sum(seen) / len(seen), max(seen), managers[0].evictions, managers[0]._slab.scattered)
sys.exit(code)
"""


def test_a_real_run_at_its_smallest_limit_refuses_nothing_for_want_of_one_piece(tmp_path: Path) -> None:
    image = field(tmp_path / "field.fits", 2500, 3000, 3).path
    (tmp_path / "few.param").write_text("NUMBER\nX_IMAGE\nFLUX_AUTO\n")
    command = [sys.executable, "-c", TRACED, str(image), "-PARAMETERS_NAME", str(tmp_path / "few.param"), "-o", "few.cat"]
    # Giants are set aside in any image; here there are none, and what is kept for them would leave room for all tiles.
    command += ["-FOOTPRINT_MAXPIX", "10000", "--workers", "0", "--scratch", str(tmp_path)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(limit: int) -> tuple[str, str]:
        done = subprocess.run(
            [*command, "--mem-limit", f"{limit}M"], cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=120, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        return done.stdout, done.stderr

    smallest = re.search(r"smallest limit that works is (\d+)M", run(20)[1])
    assert smallest is not None
    told, log = run(int(smallest[1]))
    count, mean, most, evictions, scattered = map(float, told.split())
    assert count > 100 and evictions > 0, log
    # A dozen tiles would fit into what is free or idle; most of the time all of them do, at worst ten.
    assert mean <= 0.15
    assert most <= 0.4
    assert scattered == 0


def test_what_is_refused_for_want_of_one_piece_is_told() -> None:
    slab = Slab(8 * MIB, headroom=plenty)
    tiles = TileManager(slab)
    held = [tiles.alloc(MIB, "rows") for _ in range(8)]
    for ref in held[::2]:
        slab.free(ref)
    with pytest.raises(SlabFull):
        tiles.alloc(2 * MIB, "rows")
    assert slab.scattered == 2 * MIB
    assert tiles.fragmentation(2 * MIB) == 1
    slab.close()
