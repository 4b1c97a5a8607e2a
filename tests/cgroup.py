"""A real memory cgroup of a given size, below the one the tests run in, where the machine lets them make one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sextract.config.machine import cgroups


@contextmanager
def memory_cgroup(nbytes: int) -> Iterator[Path]:
    """A new memory cgroup with that limit; a process joins it by writing its id to ``cgroup.procs``.

    The test is skipped where none can be made: without privileges, or where version 2 has processes beside it.
    """
    version, parent = next(cgroups(Path("/"), "memory"), (0, Path("/")))
    folder = parent / f"sextract-test-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"can't make a memory cgroup in {parent}: {exc.strerror}")
    try:
        try:
            (folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(str(nbytes))
        except OSError as exc:
            pytest.skip(f"can't limit the memory of a cgroup in {parent}: {exc.strerror}")
        yield folder
    finally:
        folder.rmdir()


def joining(folder: Path, *command: object) -> list[str]:
    """A command that joins a cgroup first."""
    return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', os.fspath(folder), *map(str, command)]
