"""Crashes in our own code: the task is cut down to the one source that does it, and what was not at fault keeps its bytes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.faults.harness import Started

COLUMNS = "NUMBER X_IMAGE Y_IMAGE FLUX_AUTO FLUX_APER XWIN_IMAGE FLAGS"

# The command line with something added before it forks its workers.
HEAD = """
    import ctypes, os, signal, sys
    import numpy as np
    from sextract.__main__ import main
    from sextract.measurement.measure import measurement
    from sextract.pipeline.stages import Stages
    from sextract.records import FOOTPRINT, Column

    def crash(how):
        if how == "SIGSEGV":
            ctypes.string_at(0)
        if how == "SIGABRT":
            os.abort()
        os.kill(os.getpid(), getattr(signal, how))
"""

# A family that crashes, or is killed once, when it meets a source.
MEASURE = """
    how, victim, marker = sys.argv[1], int(sys.argv[2]), "marker"

    @measurement("hazard", columns=[Column("HAZARD", "i4", doc="test")])
    def hazard(batch):
        batch["HAZARD"] = batch.sources["number"].astype(np.int32)
        if victim not in batch.sources["number"] or len(set(batch.sources["number"])) < len(batch.sources):
            return
        if how == "SIGKILL":
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        crash(how)
"""

# Deblending that crashes when it meets the footprint that covers a pixel, unless it is taken as a whole.
DEBLEND = """
    how, x, y, always = sys.argv[1], *map(int, sys.argv[2].split(","))
    deblend = Stages.deblend

    def wrapped(self, payload):
        nfoot, foot_at, _, _, first, whole = np.frombuffer(payload, np.int64)[:6].tolist()
        f = self.bytes[foot_at : foot_at + nfoot * FOOTPRINT.itemsize].view(FOOTPRINT)[first:]
        if np.any((f["xmin"] <= x) & (x <= f["xmax"]) & (f["ymin"] <= y) & (y <= f["ymax"])) and (always or not whole):
            crash(how)
        return deblend(self, payload)

    Stages.deblend = wrapped
"""

# A kind of task that crashes every time.
STAGE = """
    how, stage = sys.argv[1], sys.argv[2]
    setattr(Stages, stage, lambda self, payload: crash(how))
"""

TAIL = """
    sys.argv[1:] = sys.argv[3:]
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "field.fits"
    rng = np.random.default_rng(5)
    pixels = rng.normal(100.0, 3.0, (200, 300))
    y, x = np.mgrid[:200, :300]
    for cy, cx in zip(rng.uniform(10, 190, 40), rng.uniform(10, 290, 40), strict=True):
        pixels += 400 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 6.0)
    fits.writeto(path, pixels.astype(np.float32))
    return path


def run(
    folder: Path, image: Path, program: str, how: str, which: object, columns: str = COLUMNS, more: tuple[str, ...] = ()
) -> Started:
    """A finished run of a program."""
    folder.mkdir()
    (folder / "p.param").write_text("\n".join(columns.split()))
    (folder / "program.py").write_text(textwrap.dedent(HEAD + program + TAIL))
    options = ("-PARAMETERS_NAME", "p.param", "-o", "out.fits", "--workers", "2", "--mem-limit", "512M")
    with Started(folder, how, which, image, *options, *more, program=["program.py"]) as done:
        done.finish()
    return done


def rows(done: Started) -> np.ndarray:
    assert done.code == 0, done.err
    with fits.open(done.folder / "out.fits") as hdus:
        return np.array(hdus[1].data)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, image: Path) -> np.ndarray:
    """Rows of a run in which nothing crashes."""
    return rows(run(tmp_path_factory.mktemp("calm") / "run", image, MEASURE, "SIGKILL", -1, f"{COLUMNS} HAZARD"))


def test_a_killed_worker_costs_nothing(tmp_path: Path, image: Path) -> None:
    calm = run(tmp_path / "calm", image, MEASURE, "SIGKILL", -1, f"{COLUMNS} HAZARD")
    killed = run(tmp_path / "killed", image, MEASURE, "SIGKILL", 7, f"{COLUMNS} HAZARD")
    assert (killed.folder / "marker").exists()
    assert (killed.folder / "out.fits").read_bytes() == (calm.folder / "out.fits").read_bytes()


SLOW = [pytest.param(how, marks=pytest.mark.slow) for how in ("SIGBUS", "SIGFPE")]


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", *SLOW])
def test_a_source_that_crashes_its_worker_is_flagged_alone(
    tmp_path: Path, image: Path, undisturbed: np.ndarray, how: str
) -> None:
    calm = undisturbed
    done = run(tmp_path / "crash", image, MEASURE, how, 7, f"{COLUMNS} HAZARD")
    crashed = rows(done)
    assert "source 7" in done.err and how in done.err
    victim = calm["NUMBER"] == 7
    assert crashed[~victim].tobytes() == calm[~victim].tobytes()
    assert crashed["FLAGS"][victim] & 128
    assert np.isnan(crashed["FLUX_AUTO"][victim])
    assert np.allclose(crashed["X_IMAGE"][victim], calm["X_IMAGE"][victim])


@pytest.mark.parametrize("how", ["SIGSEGV", pytest.param("SIGFPE", marks=pytest.mark.slow)])
def test_a_footprint_that_crashes_deblending_is_taken_whole_alone(tmp_path: Path, image: Path, how: str) -> None:
    calm = rows(run(tmp_path / "calm", image, DEBLEND, how, "-1,-1,0"))
    place = round(float(calm["X_IMAGE"][11])) - 1, round(float(calm["Y_IMAGE"][11])) - 1
    done = run(tmp_path / "crash", image, DEBLEND, how, f"{place[0]},{place[1]},0")
    crashed = rows(done)
    assert "it is not deblended" in done.err and how in done.err
    flagged = crashed["FLAGS"] & 128 > 0
    assert flagged.sum() == 1
    # The footprint may hold several sources, so that its own middle is a little away.
    assert np.hypot(crashed["X_IMAGE"][flagged] - 1 - place[0], crashed["Y_IMAGE"][flagged] - 1 - place[1]) < 10
    # The others are what they were, whatever their numbers are now.
    before, after = ({row.tobytes()[4:] for row in table} for table in (calm, crashed[~flagged]))
    assert after <= before and len(before - after) < 4


@pytest.mark.parametrize(
    ("program", "which", "words"),
    [
        (STAGE, "mesh", ("field.fits", "the background of rows ")),
        (STAGE, "scan", ("field.fits", "scanning rows ")),
        (STAGE, "warm", ("made-up star",)),
        (DEBLEND, "150,100,1", ("field.fits", "the footprint of", "not deblended")),
    ],
)
def test_a_task_that_crashes_whatever_is_done_ends_the_run_with_one_line(
    tmp_path: Path, image: Path, program: str, which: str, words: tuple[str, ...]
) -> None:
    if program is DEBLEND:
        calm = rows(run(tmp_path / "calm", image, DEBLEND, "SIGSEGV", "-1,-1,0"))
        which = f"{round(float(calm['X_IMAGE'][3])) - 1},{round(float(calm['Y_IMAGE'][3])) - 1},1"
    done = run(tmp_path / "crash", image, program, "SIGSEGV", which)
    assert done.code == 1
    assert len(done.errors()) == 1 and "Traceback" not in done.err
    for word in (*words, "SIGSEGV"):
        assert word in done.errors()[0]
    assert not (done.folder / "out.fits").exists()
