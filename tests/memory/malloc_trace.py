"""Runs a command with ``malloc_trace.c`` preloaded and reads what it noted: blocks above a size, and who asked for them.

What may be asked for, and what may not, is ``test_no_large_malloc.py``'s.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("malloc_trace.c")
CC = shutil.which("cc") or shutil.which((sysconfig.get_config_var("CC") or "gcc").split()[0])

_LINE = re.compile(r'  File "(.*)", line (\d+) in (.*)')


@dataclass(frozen=True)
class Line:
    """A line of Python that was being run."""

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number} {self.function}"


@dataclass(frozen=True)
class Block:
    """A block of memory that was asked for.

    Attributes
    ----------
    pid : int
    nbytes : int
    function : str
        Of the C library.
    native : tuple of str
        Native callers as ``library:symbol``, innermost first; ``?`` where it has no name.
    python : tuple of Line
        Python callers, innermost first; none while Python itself starts.
    started : bool
        Python had started.
    """

    pid: int
    nbytes: int
    function: str
    native: tuple[str, ...]
    python: tuple[Line, ...]
    started: bool

    def __str__(self) -> str:
        python = "\n    ".join(map(str, self.python[:8])) or "(no Python)"
        return f"{self.function} of {self.nbytes} bytes in process {self.pid} by {self.native[:4]}\n    {python}"

    def within(self, *names: str) -> bool:
        """Whether a file with one of these in its name is among the Python callers."""
        return any(name in line.file for line in self.python for name in names)


def build(folder: Path) -> Path | None:
    """The library to preload; None if it can't be compiled here."""
    library = folder / "malloc_trace.so"
    if CC is None:
        return None
    command = [CC, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    return library if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def trace_environment(library: Path, folder: Path, above: int) -> dict[str, str]:
    """What to set for a command whose blocks of more than `above` bytes are noted in files of `folder`."""
    folder.mkdir()
    preload = os.pathsep.join(filter(None, [str(library), os.environ.get("LD_PRELOAD")]))
    return {"LD_PRELOAD": preload, "MALLOC_TRACE_FOLDER": str(folder), "MALLOC_TRACE_BYTES": str(above)}


def blocks(folder: Path) -> list[Block]:
    """All that was noted, process by process."""
    return [_block(text) for file in sorted(folder.iterdir()) for text in file.read_text().split("\nend\n") if text.strip()]


def _block(text: str) -> Block:
    head, native, *rest = text.split("\n")
    word, pid, nbytes, function = head.split()
    assert word == "block" and native.startswith("native"), text
    python = tuple(Line(m[1], int(m[2]), m[3]) for line in rest if (m := _LINE.match(line)))
    return Block(int(pid), int(nbytes), function, tuple(native.split()[1:]), python, "no Python yet" not in rest)
