"""The file of a checkpoint: what was put comes back, and nothing else is taken for one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sextract.pipeline.statefile import StateReader, StateWriter


def write(path: Path, *parts: bytes, number: int = 1) -> None:
    """A file of some parts."""
    out = StateWriter(str(path))
    for part in parts:
        out.put(part)
    out.publish({"number": number})


def test_bytes_and_meaning_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "state"
    values = np.arange(100_000, dtype="<i8")
    out = StateWriter(str(path))
    out.put(b"first")
    out.put(values.reshape(100, -1))
    out.publish({"number": 7, "float": 0.1, "none": None})
    saved = StateReader(str(path))
    assert saved.meta == {"number": 7, "float": 0.1, "none": None}
    assert saved.get(np.empty(5, np.uint8)).tobytes() == b"first"
    assert (saved.get(np.empty(100_000, "<i8")) == values).all()
    with pytest.raises(ValueError, match="less than it says"):
        saved.get(np.empty(1, np.uint8))
    saved.close()


def test_every_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, b"some bytes")
    whole = path.read_bytes()
    for k in range(len(whole)):
        path.write_bytes(whole[:k])
        with pytest.raises(ValueError, match="cut"):
            StateReader(str(path))
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 64]) + whole[k + 1 :])
        with pytest.raises(ValueError, match=r"cut|sum"):
            StateReader(str(path))
    with pytest.raises(FileNotFoundError):
        StateReader(str(tmp_path / "none"))


def test_the_old_one_is_valid_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, b"old", number=1)
    new = StateWriter(str(path))
    new.put(bytes(3_000_000))
    assert StateReader(str(path)).meta == {"number": 1}
    new.discard()
    new.discard()
    assert os.listdir(tmp_path) == ["state"]
    write(path, b"newer", number=2)
    assert StateReader(str(path)).meta == {"number": 2}
    assert os.listdir(tmp_path) == ["state"]
