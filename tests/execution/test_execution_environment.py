"""The environment of a run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import alive_after_grace

ROOT = Path(__file__).parents[2]


def run(script: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prepare_runs_before_numpy_and_leaves_one_thread() -> None:
    script = (
        "import sys\n"
        "from sextract.execution import environment\n"
        "assert 'numpy' not in sys.modules\n"
        "environment.prepare()\n"
        "assert 'numpy' not in sys.modules\n"
        "import numpy, os\n"
        "print(len(os.listdir('/proc/self/task')), os.environ['OPENBLAS_NUM_THREADS'])\n"
    )
    assert run(script).split() == ["1", "1"]


def test_execution_brings_no_multiprocessing_and_no_large_library() -> None:
    script = (
        "import sys\n"
        "import sextract.execution.processes, sextract.memory.gauge, sextract.memory.tiles, sextract.memory.spill\n"
        "print(sorted({'multiprocessing', 'astropy', 'scipy', 'concurrent', 'asyncio'} & set(sys.modules)))\n"
    )
    assert run(script) == "[]\n"


def test_freed_memory_goes_back() -> None:
    script = (
        "from sextract.execution import environment\n"
        "from sextract.memory import heap\n"
        "environment.prepare()\n"
        "heap.trim_heap()\n"
        "import numpy as np\n"
        "from sextract.memory.gauge import Process\n"
        "import os\n"
        "def resident(): return Process(os.getpid()).rss\n"
        "before = resident()\n"
        "blocks = [np.ones(10_000) for _ in range(500)]\n"
        "high = resident()\n"
        "keep = blocks[::50]\n"
        "del blocks\n"
        "print((high - before) >> 20, (resident() - before) >> 20)\n"
    )
    high, low = map(int, run(script).split())
    assert high >= 35
    assert low <= 6


def test_what_is_tied_ends_with_whoever_started_it() -> None:
    script = (
        "import subprocess, time\n"
        "from sextract.execution.environment import tied\n"
        "print(subprocess.Popen(tied(['sleep', '60'])).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        # It is what was asked for by now, not what comes before it.
        deadline = time.monotonic() + 60
        while b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        starter.kill()
    assert not alive_after_grace({pid})
