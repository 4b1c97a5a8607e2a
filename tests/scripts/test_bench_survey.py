"""The benchmark of surveys does what it says: every program has every image, and the table has a line for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenes import script

bench = script("bench_survey")


def test_a_small_survey(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--images", "5", "--side", "128", "--folder", str(tmp_path), "--mem-limit", "200M"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("5 images of 128 x 128 pixels")
    names = [line[:28].strip() for line in lines[2:]]
    assert names[:2] == ["sextract, one image", "sextract, one call"]
    assert all(float(word) > 0 for line in lines[2:] for word in line[28:].split()[2:])
    if bench.SEXTRACTOR:
        assert len(names) == 4
        assert len(list((tmp_path / "night").glob("*.cat"))) == 5
