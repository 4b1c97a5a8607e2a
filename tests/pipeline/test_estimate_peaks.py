"""The peak that ``--estimate`` predicts, beside what a run holds: never less, and at most 30 % more."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sextract.memory.budget import MIB
from tests.conftest import CommandLine
from tests.pipeline.estimate_scenes import SCENES, make_scene

FEW = ("NUMBER", "X_IMAGE", "Y_IMAGE", "FLUX_AUTO")
SKY = (*FEW, "ALPHA_J2000", "DELTA_J2000", "FLUX_RADIUS", "XWIN_IMAGE", "A_IMAGE")
COLUMNS = {"few": FEW, "sky": SKY}

QUICK = [("sparse", "few", 256, 2), ("galaxy", "sky", 256, 2), ("crowded", "few", 160, 0)]
ALL = [case for case in itertools.product(SCENES, COLUMNS, (160, 512), (0, 2, 4)) if case not in QUICK]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Images by name, each made once."""
    folder = tmp_path_factory.mktemp("scenes")
    return lambda name: make_scene(name, folder)


@pytest.mark.parametrize(
    ("name", "columns", "limit", "workers"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL)]
)
def test_the_predicted_peak_is_what_a_run_comes_to(
    name: str, columns: str, limit: int, workers: int, scene: Callable[[str], Path], cli: CommandLine, tmp_path: Path
) -> None:
    param = tmp_path / "columns.param"
    param.write_text("\n".join(COLUMNS[columns]))
    options = (scene(name), "-PARAMETERS_NAME", param, "--mem-limit", f"{limit}M", "--workers", workers)
    told = cli(*options, "--estimate=json")
    assert told.code == 0, told.err
    predicted = json.loads(told.out)["predicted_peak_bytes"]
    done = cli(*options, "-o", "out.cat", watched=True)
    assert done.code == 0, done.err
    # Samples miss what lasts a moment, the run's own account of the slab doesn't; neither knows what others save it.
    found = re.search(r"peak (\d+) of \d+ MiB in ", done.err)
    assert found is not None, done.err
    own = int(found[1]) * MIB
    assert max(done.alone, own) <= predicted <= limit * MIB
    assert predicted <= 1.3 * max(done.alone, own + done.borrowed)
