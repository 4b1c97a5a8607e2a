"""Workers that crash or are killed: every source keeps its row, and what was not at fault keeps its bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

ROOT = Path(__file__).resolve().parents[2]

COLUMNS = "NUMBER X_IMAGE Y_IMAGE FLUX_AUTO FLUX_APER XWIN_IMAGE FLAGS"

# A family that does something to its process when it meets a source; it is inherited by the workers' fork.
PROGRAM = """
    import os, signal, sys
    import numpy as np
    from sextract.__main__ import main
    from sextract.measurement.measure import measurement
    from sextract.records import Column

    what, victim, marker = sys.argv[1], int(sys.argv[2]), sys.argv[3]

    @measurement("hazard", columns=[Column("HAZARD", "i4", doc="test")])
    def hazard(batch):
        batch["HAZARD"] = batch.sources["number"].astype(np.int32)
        if victim not in batch.sources["number"]:
            return
        if what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "kill" and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv[1:] = sys.argv[4:]
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
    folder: Path, image: Path, what: str, victim: int = 7, workers: int = 2, options: tuple[str, ...] = ()
) -> tuple[bytes, str]:
    """The catalogue's bytes, and the log."""
    folder.mkdir()
    (folder / "p.param").write_text("\n".join([*COLUMNS.split(), "HAZARD"]))
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    words = [str(image), "-PARAMETERS_NAME", "p.param", "-o", "out.fits", "--workers", str(workers), "--mem-limit", "512M"]
    done = subprocess.run(
        [sys.executable, str(program), what, str(victim), str(folder / "marker"), *words, *options],
        cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "out.fits").read_bytes(), done.stderr


def rows(data: bytes, folder: Path) -> np.ndarray:
    (folder / "read.fits").write_bytes(data)
    with fits.open(folder / "read.fits") as hdus:
        return np.array(hdus[1].data)


def test_a_killed_worker_costs_nothing(tmp_path: Path, image: Path) -> None:
    calm, _ = run(tmp_path / "calm", image, "nothing")
    killed, _ = run(tmp_path / "killed", image, "kill")
    assert (tmp_path / "killed" / "marker").exists()
    assert killed == calm


def test_a_source_that_crashes_its_worker_is_flagged_alone(tmp_path: Path, image: Path) -> None:
    calm = rows(run(tmp_path / "calm", image, "nothing")[0], tmp_path)
    data, log = run(tmp_path / "crash", image, "crash")
    crashed = rows(data, tmp_path)
    assert "source 7" in log
    assert "SIGSEGV" in log
    victim = calm["NUMBER"] == 7
    assert np.array_equal(crashed[~victim], calm[~victim])
    assert crashed["FLAGS"][victim] & 128
    assert np.isnan(crashed["FLUX_AUTO"][victim])
    assert np.allclose(crashed["X_IMAGE"][victim], calm["X_IMAGE"][victim])
