"""What benchmarks share: a record that is kept after each run, facts about machine, code and field, and how runs are ended.

What is run is in ``bench.py`` and ``bench_malloc.py``.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import resource
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from tests.memory_watch import MARK, Watch, processes  # noqa: E402
from tests.parity.reference import python_path  # noqa: E402

# Settings of allocators that the caller's shell may have; every run has the allocators' defaults.
TUNABLES = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_CONF", "LD_PRELOAD")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def size_of(field: Path) -> str:
    """Width and height as FITS has them: 19000x19000."""
    with field.open("rb") as file:
        header = file.read(2880 * 20).decode("ascii", "replace")
    return "x".join(re.search(rf"NAXIS{k} *= *(\d+)", header)[1] for k in (1, 2))  # type: ignore[index]


def digest(*files: Path) -> str:
    """One SHA-256 over the bytes of files."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def code_digest() -> str:
    """One SHA-256 over the package as it would run."""
    package = (p for p in (ROOT / "sextract").rglob("*") if p.suffix in (".py", ".so", ".conv"))
    return digest(*sorted(package))


def machine() -> dict[str, str]:
    """Where it was measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpus": str(len(os.sched_getaffinity(0))),
        "model": model[1] if model else platform.machine(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": datetime.date.today().isoformat(),
    }


def stop(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a run that has passed its time, or that the benchmark's end leaves behind."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    for pid in processes(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Ended:
    """What became of a command: its exit code or why it was stopped, seconds of wall and CPU (children included), its words."""

    code: int | str
    wall: float
    cpu: float
    said: str
    watch: Watch | None = None


def run(
    argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, timeout: float | None = None,
    exact_share: float | None = None,
) -> Ended:  # fmt: skip
    """Run a command to its end; its memory is watched if `exact_share` (see `Watch`) is given."""
    mark = uuid.uuid4().hex
    clean = {name: value for name, value in os.environ.items() if name not in TUNABLES}
    clean |= {MARK: mark, "PYTHONPATH": python_path(), **(env or {})}
    log = folder / "log.txt"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with contextlib.ExitStack() as stack, log.open("wb") as err:
        watch = None if exact_share is None else stack.enter_context(Watch(mark, exact_share))
        start = time.perf_counter()
        process = subprocess.Popen(argv, cwd=folder, env=clean, stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        # Waiting with a timeout looks twenty times a second only.
        handle = os.pidfd_open(process.pid)
        try:
            ended = select.select([handle], [], [], timeout)[0]
            code: int | str = process.wait() if ended else f"stopped after {timeout:.0f} s"
        finally:
            os.close(handle)
            wall = time.perf_counter() - start
            stop(process, mark)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ended(code, wall, cpu, log.read_text(errors="replace"), watch)


def field_file(path: Path, *options: str) -> Path:
    """A field of ``make_field.py``, made if it isn't there."""
    if not path.exists():
        say(f"making {path.name}: {' '.join(options)}")
        part = path.with_suffix(".part.fits")
        make = [sys.executable, str(ROOT / "scripts" / "make_field.py"), str(part), *options]
        subprocess.run(make, check=True, stderr=subprocess.DEVNULL)
        part.with_suffix(".truth.fits").unlink()
        part.rename(path)
    return path


class Record:
    """What has been measured, kept in a file after each run.

    A file made from other code, columns or field, or on another machine, is put aside, since its numbers can't stand
    beside new ones.
    """

    def __init__(self, path: Path, facts: dict[str, str] | None = None) -> None:
        self.path = path
        self.made: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        here = machine()
        same = self.made and self.made["facts"] == facts and {**self.made["machine"], "date": ""} == {**here, "date": ""}
        if facts is not None and not same:
            if self.made:
                path.rename(path.with_suffix(".old.json"))
                say(f"{path} is of another field, version or machine: it is {path.with_suffix('.old.json').name} now")
            self.made = {"facts": facts, "machine": here, "missing": [], "runs": {}}

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """Runs by their key."""
        return self.made["runs"]

    def keep(self, key: str, result: dict[str, Any]) -> None:
        """Add a run and write the file, whole or not at all."""
        self.runs[key] = result
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.made))
        part.replace(self.path)
