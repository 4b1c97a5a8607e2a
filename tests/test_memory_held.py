"""A run stays under its limit: all its processes, sampled from outside while it works."""

from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.scenes import Field, field

MIB = 1 << 20


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """A field whose pixels alone are half of the smaller limit."""
    return field(tmp_path_factory.mktemp("held") / "crowded.fits", 2048, 4000, 2, trail=True)


@pytest.mark.parametrize(("limit", "workers"), [("128M", 0), ("160M", 1), ("160M", 2), ("256M", 2), ("512M", 4)])
def test_all_processes_stay_under_the_limit(crowded: Field, cli: CommandLine, limit: str, workers: int) -> None:
    done = cli(crowded.path, "--mem-limit", limit, "--workers", workers, "-o", "out.cat", watched=True)
    assert done.code == 0, done.err
    assert done.made == {"out.cat"}
    assert done.samples > 10
    assert done.peak <= int(limit[:-1]) * MIB


@pytest.mark.parametrize(("limit", "workers"), [("140M", 0), ("240M", 2), ("460M", 8)])
def test_the_sum_of_rss_stays_under_the_limit_where_it_counts(
    crowded: Field, cli: CommandLine, tmp_path: Path, limit: str, workers: int
) -> None:
    words = (crowded.path, "--mem-limit", limit, "--workers", workers, "-o", "out.cat")
    done = cli(*words, "--account", "rss", watched=True)
    assert done.code == 0, done.err
    assert "WARNING" not in done.err
    assert done.samples > 10
    assert 0 < done.peak <= int(limit[:-1]) * MIB
    assert 0 < done.rss <= int(limit[:-1]) * MIB
    assert cli(*words).code == 0
    assert (tmp_path / "run1" / "out.cat").read_bytes() == (tmp_path / "run2" / "out.cat").read_bytes()


def test_the_watch_sees_memory_of_a_child(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys
    import uuid

    from tests.memory_watch import MARK, held, processes, rss

    mark = uuid.uuid4().hex
    script = (
        "import mmap, os, sys\n"
        "private = bytearray(os.urandom(1 << 20) * 40)\n"
        "fd = os.memfd_create('block'); os.posix_fallocate(fd, 0, 30 << 20)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: mark},
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    pids = processes(mark)
    assert pids == {child.pid}
    assert 70 * MIB <= held(pids) <= 110 * MIB
    # The block isn't mapped by anyone.
    assert 40 * MIB <= rss(pids) <= 80 * MIB
    child.stdin.close()
    child.stdout.close()
    assert child.wait() == 0
    assert processes(mark) == set()


def test_the_watch_counts_once_what_others_map_while_it_looks() -> None:
    import os
    import subprocess
    import sys
    import uuid

    from tests.memory_watch import MARK, Watch

    # One process after the other looks at all of the block, and stays.
    script = (
        "import mmap, os\n"
        "size = 64 << 20\n"
        "fd = os.memfd_create('block'); os.posix_fallocate(fd, 0, size)\n"
        "block = mmap.mmap(fd, size)\n"
        "looked, ready = os.pipe()\n"
        "for _ in range(12):\n"
        "    if os.fork() == 0:\n"
        "        for k in range(0, size, 4096): block[k]\n"
        "        os.write(ready, b'x'); os.read(0, 1); os._exit(0)\n"
        "    os.read(looked, 1)\n"
    )
    mark = uuid.uuid4().hex
    for _ in range(3):
        with Watch(mark) as watch:
            command = [sys.executable, "-c", script]
            with subprocess.Popen(command, env={**os.environ, MARK: mark}, stdin=subprocess.PIPE) as parent:
                parent.wait()
        assert max(look.shared for look in watch.looks) == 64 * MIB
