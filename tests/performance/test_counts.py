"""What a run costs in counts that no machine changes: pixels read, tasks, memory touched, instructions of each part.

They guard what was gained.  A bound is what was counted when it was set, and a margin: for the instructions a wide one, since
compilers differ.  Times are nobody's business here; ``scripts/bench.py`` takes them.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CommandLine, environment
from tests.parity.reference import Setup
from tests.scenes import field

# As in a .param file.
COLUMNS = [
    "NUMBER", "X_IMAGE", "Y_IMAGE", "XWIN_IMAGE", "YWIN_IMAGE", "ALPHA_J2000", "DELTA_J2000", "FLUX_ISO", "FLUXERR_ISO",
    "FLUX_AUTO", "FLUXERR_AUTO", "FLUX_APER(3)", "FLUXERR_APER(3)", "FLUX_RADIUS", "A_IMAGE", "B_IMAGE", "THETA_IMAGE",
    "KRON_RADIUS", "ISOAREA_IMAGE", "XMIN_IMAGE", "XMAX_IMAGE", "YMIN_IMAGE", "YMAX_IMAGE", "FLUX_MAX", "FWHM_IMAGE",
    "ELONGATION", "BACKGROUND", "FLAGS",
]  # fmt: skip

TASKS = ("mesh", "scan", "deblend", "measure", "table")

VALGRIND = shutil.which("valgrind")
# Memory that valgrind can map for a run: what lies behind the slab is an eighth of this.
ADDRESS_SPACE = 16 << 30

# Instructions of kernels, counted with GCC 12 and AVX2, and what is added to them for other compilers.
MARGIN = 1.5
PER_PIXEL = {"_mesh": 17.6, "_scan": 4.9, "_surface": 4.0, "_convert": 3.7}
PER_SOURCE = {
    "_windowed": 63e3, "_growth": 40e3, "_deblend": 24e3, "_aperture": 23e3, "_ellipse": 15.6e3, "_stamps": 7.5e3,
    "_components": 2.4e3, "_clean": 1.3e3,
}  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """What the trace of a run tells.

    Attributes
    ----------
    rows : int
        Sources written.
    tasks : Counter
        How many of each kind.
    read_px : int
        Pixels asked of the file.
    tiles, slab : int
        Most bytes of tiles, and of all buffers, at a time.
    """

    rows: int
    tasks: Counter[str]
    read_px: int
    tiles: int
    slab: int


def counted(cli: CommandLine, folder: Path, image: Path, *options: object) -> Counted:
    sex = Setup(folder, COLUMNS, {"VERBOSE_TYPE": "NORMAL"}).write()
    told = "--profile", folder / "t.json", "--mem-report", folder / "m.json"
    done = cli(image, "-c", sex, "-CATALOG_NAME", "o.cat", *told, *options)
    assert done.code == 0, done.err
    found = re.search(r"(\d+) sources \(", done.err)
    assert found is not None
    spans = [e for e in json.loads((folder / "t.json").read_text())["traceEvents"] if e["ph"] == "X" and e["tid"]]
    parts = {line["part"]: line["most_bytes"] for line in json.loads((folder / "m.json").read_text())["table"]}
    return Counted(
        int(found[1]),
        Counter(e["name"] for e in spans if e["name"] in TASKS),
        sum(e["args"]["pixels"] for e in spans if e["name"] == "read"),
        parts["tiles"],
        parts["buffers (the slab)"],
    )


def instructions(out: Path) -> Counter[str]:
    """Instructions that each extension module, by its name, executed itself, from callgrind's file."""
    names: dict[str, str] = {}
    total: Counter[str] = Counter()
    where, called = "", False
    for line in out.read_text().splitlines():
        if (found := re.match(r"(c?)ob=\((\d+)\)(?: (\S+))?", line)) is not None:
            if found[3]:
                names[found[2]] = found[3].rpartition("/")[2].partition(".")[0]
            where = where if found[1] else names[found[2]]
        elif line.startswith("calls="):
            # The next line is what was called.
            called = True
        elif line[:1] in "0123456789+-*" and line:
            total[where] += 0 if called else int(line.split()[1])
            called = False
    return total


@pytest.mark.skipif(VALGRIND is None, reason="valgrind is not installed")
@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="the counts are those of AVX2")
def test_instructions(tmp_path: Path) -> None:
    """Of the kernels, per pixel and per source, over a whole run in one process."""
    size = 1024
    image = field(tmp_path / "field.fits", size, 469, 1).path
    sex = Setup(tmp_path, COLUMNS, {"VERBOSE_TYPE": "NORMAL"}).write()
    assert VALGRIND is not None
    done = subprocess.run(
        [
            VALGRIND, "--tool=callgrind", f"--callgrind-out-file={tmp_path / 'counts'}", sys.executable, "-m", "sextract",
            image, "-c", sex, "-CATALOG_NAME", "o.cat", "--workers", "0", "--mem-limit", "256M",
        ],
        cwd=tmp_path, env=environment("counts", tmp_path), capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) sources \(", done.stderr)
    assert found is not None
    counts, rows = instructions(tmp_path / "counts"), int(found[1])
    assert rows > 400
    each = {name: counts[name] / size**2 for name in PER_PIXEL} | {name: counts[name] / rows for name in PER_SOURCE}
    bounds = PER_PIXEL | PER_SOURCE
    # Half of what is expected would be as odd: the counts miss something, or the bounds are old.
    assert {name: round(each[name], 1) for name in bounds if not bounds[name] / 2 < each[name] < MARGIN * bounds[name]} == {}


def test_each_pixel_is_read_twice_and_little_memory_touched(cli: CommandLine, tmp_path: Path) -> None:
    """Once for the background, once for the scan; tiles that were passed give their pages to new ones."""
    height, width = 16384, 1536
    image = field(tmp_path / "tall.fits", (height, width), 15000, 5).path
    run = counted(cli, tmp_path, image, "--workers", 2, "--mem-limit", "512M", "--tile-shape", 256)
    assert run.rows > 14000
    # Halos are read twice, and few stamps reach beyond what is held.
    assert 2 * height * width <= run.read_px < 2.1 * height * width
    # CLEAN's reach, what is kept above the batch that is measured, and what is on its way: not the whole image.
    assert run.tiles < 4 * width * height * 0.7
    assert run.slab < run.tiles + (32 << 20)


def test_messages(cli: CommandLine, tmp_path: Path) -> None:
    """A task is worth its message: hundreds of sources, megabytes of pixels."""
    image = field(tmp_path / "field.fits", 2048, 1900, 3).path
    run = counted(cli, tmp_path, image, "--workers", 2, "--mem-limit", "512M")
    assert run.rows > 1500
    assert run.tasks["table"] == 0
    # Each worker gets four of a small image.
    assert run.tasks["scan"] <= 8
    assert run.tasks["mesh"] <= 12
    # The last sources are shared out: batches become smaller towards the end.
    assert run.tasks["deblend"] <= run.rows / 150 + 8
    assert run.tasks["measure"] <= run.rows / 150 + 20
