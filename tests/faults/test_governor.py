"""The second line of defence: heaps that grow beyond what was set aside cost buffers, not the limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.memory_watch import MARK, Watch
from tests.scenes import ROOT, Field, field

MIB = 1 << 20
LIMIT = 92
# What a worker keeps for each batch that it measures, in blocks that malloc takes from its heap.
BLOCK = 32 << 10

# A family that never lets go of what it takes; it is inherited by the workers' fork.
PROGRAM = """
    import sys, time
    import numpy as np
    from sextract.__main__ import main
    from sextract.measurement.measure import measurement
    from sextract.records import Column

    blocks, kept = int(sys.argv[1]), []

    @measurement("hoard", columns=[Column("HOARD", "i4", doc="test")])
    def hoard(batch):
        kept.extend(b"x" * {block} for _ in range(blocks))
        # The governor looks ten times a second; whoever is faster is for the allowances.
        time.sleep(0.0125 * blocks)
        batch["HOARD"] = np.ones(len(batch), np.int32)

    sys.argv[1:] = sys.argv[2:]
    sys.exit(main())
"""


@dataclass(frozen=True)
class Run:
    """What a run left: the catalogue, the log, the report, and the memory seen from outside."""

    catalogue: bytes
    log: str
    report: dict[str, object]
    peak: int
    borrowed: int


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """A field whose tiles fill what the limit leaves."""
    return field(tmp_path_factory.mktemp("governor") / "crowded.fits", 3072, 6000, 2)


def run(folder: Path, image: Path, blocks: int, *options: str) -> Run:
    """A run whose workers keep so many blocks for each batch."""
    folder.mkdir()
    (folder / "p.param").write_text("NUMBER\nX_IMAGE\nFLUX_AUTO\nHOARD\n")
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM).replace("{block}", str(BLOCK)))
    mark = uuid.uuid4().hex
    words = ["-PARAMETERS_NAME", "p.param", "-o", "out.fits", "--mem-limit", f"{LIMIT}M", "--workers", "2"]
    words += ["-FOOTPRINT_MAXPIX", "10000"]
    with Watch(mark) as watch:
        done = subprocess.run(
            [sys.executable, "program.py", str(blocks), str(image), *words, "--mem-report", "memory.json", *options],
            cwd=folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, MARK: mark, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "memory.json").read_text())
    return Run((folder / "out.fits").read_bytes(), done.stderr, report, watch.peak, watch.borrowed)


def test_heaps_that_grow_cost_buffers_and_nothing_else(tmp_path: Path, crowded: Field) -> None:
    calm = run(tmp_path / "calm", crowded.path, 0)
    # More than 30 batches: 23 MiB in all, where 9 are set aside, and 12 for libraries that nobody else has open.
    greedy = run(tmp_path / "greedy", crowded.path, 24)
    # When somebody who shared libraries with the run ends, they are the run's from one moment to the next.
    assert greedy.peak <= LIMIT * MIB + greedy.borrowed
    assert greedy.catalogue == calm.catalogue
    assert "Memory:" not in calm.log
    # Once in the normal log, each time in the report.
    (said,) = re.findall(r"^Memory: .*$", greedy.log, re.MULTILINE)
    assert re.search(r"hold \d+M more .* \d+M of buffers are given up .*, so that the limit holds", said)
    told = [event["text"] for event in greedy.report["events"]]
    assert f"Memory: {told[0]}" == said
    assert len(told) > 1
    slab = greedy.report["columns"].index("slab")
    rows = [row[slab] for row in greedy.report["samples"]]
    # The last look before the run ended.
    assert [held for held in rows if held > max(rows) // 4][-1] < max(rows)
