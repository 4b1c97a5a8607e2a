"""The scratch file: what goes in comes out, and where it may lie."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from sextract.config.machine import memory_filesystem
from sextract.errors import ConfigError, OutputError
from sextract.execution.template import fork
from sextract.memory.spill import Spill, scratch_folder
from sextract.records import RUN


@pytest.fixture
def folder(tmp_path: Path) -> str:
    if memory_filesystem(str(tmp_path)):
        pytest.skip("the temporary folder is a tmpfs, which scratch files refuse")
    return str(tmp_path)


def test_what_goes_in_comes_out_in_any_process_and_leaves_no_name(folder: str) -> None:
    spill = Spill(folder)
    rng = np.random.default_rng(1)
    pieces = [rng.integers(0, 255, n, dtype=np.uint8) for n in (1, 0, 5_000_000, 17, 9_000_000)]
    places = [spill.put(piece) for piece in pieces]
    assert os.listdir(folder) == []
    assert spill.used == spill.peak == sum(map(len, pieces))

    def child() -> None:
        for piece, (offset, nbytes) in zip(pieces, places, strict=True):
            out = bytearray(nbytes)
            spill.get(offset, nbytes, out)
            assert bytes(out) == piece.tobytes()

    assert os.waitpid(fork(child, []), 0)[1] == 0
    spill.close()
    spill.close()


def test_record_arrays_and_reserved_places(folder: str) -> None:
    spill = Spill(folder)
    runs = np.array([(1, 2), (3, 4), (5, 9)], RUN)
    spill.put(b"before")
    offset = spill.reserve(runs.nbytes)
    after, _ = spill.put(b"after")
    assert after == offset + runs.nbytes
    spill.write(offset, runs)
    back = np.zeros(4, RUN)
    spill.get(offset, runs.nbytes, back)
    assert back.tolist() == [(1, 2), (3, 4), (5, 9), (0, 0)]
    with pytest.raises(ValueError, match="contiguous"):
        spill.put(np.zeros((4, 4))[:, ::2])
    spill.close()


def test_clear_starts_again(folder: str) -> None:
    spill = Spill(folder)
    spill.put(b"x" * 100)
    spill.clear()
    assert spill.put(b"abc") == (0, 3)
    out = bytearray(3)
    spill.get(0, 3, out)
    assert (bytes(out), spill.peak) == (b"abc", 100)
    with pytest.raises(ValueError, match="never written"):
        spill.get(3, 10, bytearray(10))
    spill.close()


def test_a_full_disk_is_an_output_error(folder: str) -> None:
    spill = Spill(folder)

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(OutputError, match="--scratch"):
            spill.put(b"x" * 2000)

    assert os.waitpid(fork(child, []), 0)[1] == 0
    spill.close()


def test_folders_that_will_not_do(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--scratch"):
        scratch_folder(os.path.join(folder, "missing"))
    monkeypatch.setenv("TMPDIR", folder)
    assert scratch_folder() == folder
    monkeypatch.setenv("TMPDIR", os.path.join(folder, "missing"))
    assert scratch_folder() != os.path.join(folder, "missing")


def test_memory_is_no_disk() -> None:
    if not os.path.isdir("/dev/shm") or memory_filesystem("/dev/shm") != "tmpfs":
        pytest.skip("no tmpfs at /dev/shm")
    with pytest.raises(ConfigError, match="tmpfs"):
        scratch_folder("/dev/shm")
