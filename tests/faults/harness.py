"""Runs of the command line that are disturbed from outside: their processes, their outputs, and what they leave behind.

    with Started(folder, image, *options) as run:
        os.kill(run.workers()[0], signal.SIGKILL)
    assert run.outputs() == calm.outputs()

Leaving the context waits for the end of the run and looks for anything that is left.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import alive_after_grace, environment, shared_memory
from tests.memory_watch import processes

# Outputs of every kind: written by tile, by fragment, drawn upon, and rows.
CHECKS = ("SEGMENTATION", "OBJECTS", "-BACKGROUND", "APERTURES")
EVERYTHING = (
    "-CHECKIMAGE_TYPE", ",".join(CHECKS), "-CHECKIMAGE_NAME", ",".join(f"check{k}.fits" for k in range(len(CHECKS))),
)  # fmt: skip

# After this long a run hangs.
SECONDS = 120.0


def _stat(pid: int) -> tuple[int, int]:
    """Parent of a process and when it was started, clock ticks; zeros if it is gone, or a zombie."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (0, 0) if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))
    return 0, 0


def parent_of(pid: int) -> int:
    """Parent of a process; 0 if it is gone, or a zombie."""
    return _stat(pid)[0]


def children(pid: int) -> list[int]:
    """Living children of a process, oldest first; numbers begin anew some time."""
    found = ((*_stat(int(name)), int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [child for _, child in sorted((started, child) for parent, started, child in found if parent == pid)]


class Started:
    """A run of the command line in a folder of its own, going on in the background.

    Parameters
    ----------
    folder : Path
        Made here; its output ``out.fits`` goes there, and its scratch to ``.scratch`` in it.
    arguments : sequence
        Images and options.
    program : sequence of str, optional
        Instead of ``-m sextract``, after the interpreter's name.
    env : mapping, optional
        More environment.
    prepare : callable, optional
        Called in the child before it becomes the command line: limits, say.
    wrap : sequence of str
        A command to be put before all, such as ``unshare``.
    """

    def __init__(
        self, folder: Path, *arguments: object, program: Sequence[str] = ("-m", "sextract"),
        env: Mapping[str, str] | None = None, prepare: Callable[[], None] | None = None, wrap: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.folder, self.scratch, self.mark = folder, folder / ".scratch", uuid.uuid4().hex
        folder.mkdir(exist_ok=True)
        self.scratch.mkdir(exist_ok=True)
        self.before, self.shared = set(os.listdir(folder)), shared_memory()
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*wrap, sys.executable, *program, *map(str, arguments)], cwd=folder, text=True, preexec_fn=prepare,
            env={**environment(self.mark, self.scratch), **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self.pid = self.process.pid
        self.handle = os.pidfd_open(self.pid)
        self.code: int | None = None
        self.out = self.err = ""
        self.seconds = 0.0

    def ended(self, within: float = 0.0) -> bool:
        """Whether the run ends within so many seconds."""
        return bool(select.select([self.handle], [], [], within)[0])

    def template(self) -> int:
        """Process id of the template; 0 if there is none."""
        return next(iter(children(self.pid)), 0)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        template = self.template()
        return children(template) if template else []

    def wait_for_workers(self, count: int) -> list[int]:
        """Process ids of that many workers as soon as there are so many; none if the run ends before."""
        while len(found := self.workers()) < count:
            if self.ended(0.002):
                return []
        return found

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Whether a condition comes true before the run ends."""
        while not condition():
            if self.ended(0.002):
                return False
        return True

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        try:
            self.out, self.err = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.communicate()
            raise
        self.seconds = time.monotonic() - self.began
        self.code = self.process.returncode
        return self.code

    def made(self) -> set[str]:
        """Names in its folder that weren't there before."""
        return set(os.listdir(self.folder)) - self.before

    def outputs(self) -> dict[str, bytes]:
        """Bytes of all its outputs."""
        return {name: (self.folder / name).read_bytes() for name in sorted(self.made())}

    def errors(self) -> list[str]:
        """Its lines of error."""
        return [line for line in self.err.splitlines() if line.startswith("> *ERROR*:")]

    def assert_stopped(self, code: int, *words: str) -> None:
        """It ended with that code and one line of error that has all those words; no output, no traceback."""
        assert self.code == code, (self.code, self.err)
        assert len(self.errors()) == 1, self.err
        for word in words:
            assert word in self.errors()[0]
        assert "Traceback" not in self.err
        assert self.made() == set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is not None:
                self.process.kill()
            if self.code is None:
                self.finish()
            left = alive_after_grace(processes(self.mark))
        finally:
            os.close(self.handle)
        if kind is None:
            assert not left, f"processes left behind: {left}"
            assert not os.listdir(self.scratch), "scratch files left behind"
            assert shared_memory() <= self.shared, "shared memory left behind"
            assert not [name for name in os.listdir(self.folder) if name.endswith(".part")], "temporary outputs left behind"


def kill(pid: int) -> bool:
    """SIGKILL; whether there still was somebody to be killed."""
    with suppress(ProcessLookupError):
        if parent_of(pid):
            os.kill(pid, signal.SIGKILL)
            return True
    return False
