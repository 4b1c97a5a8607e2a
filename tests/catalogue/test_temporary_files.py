"""The file behind an output: nothing of it is left, with a name or without, and it replaces its destination at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sextract.catalogue import temporary
from sextract.catalogue.output import OutputFile


def children_part(target: Path) -> str:
    """Name of a part file that a process made and left, by being killed say."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, os.fsencode(temporary._named(str(target))[1]))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        name = os.fsdecode(pipe.read())
    os.waitpid(pid, 0)
    return name


@pytest.fixture(params=["nameless", "named"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, str]:
    """A file of each kind."""
    target = str(tmp_path / "a")
    if request.param == "named":
        return temporary._named(target)
    fd = temporary._nameless(target)
    if fd < 0:
        pytest.skip("this file system has no files without a name")
    assert not list(tmp_path.iterdir())
    return fd, ""


@pytest.mark.parametrize("old", [None, b"old"])
def test_it_takes_the_place_of_its_destination(made: tuple[int, str], tmp_path: Path, old: bytes | None) -> None:
    if old is not None:
        (tmp_path / "a").write_bytes(old)
    os.write(made[0], b"new")
    temporary.publish(*made, str(tmp_path / "a"))
    os.close(made[0])
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_destination_that_became_a_folder_is_an_error_that_leaves_nothing(made: tuple[int, str], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        temporary.publish(*made, str(tmp_path / "a"))
    os.close(made[0])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_run_left_is_swept_away_and_what_lives_is_not(tmp_path: Path) -> None:
    target, other = tmp_path / "a", tmp_path / "b"
    left, of_another = children_part(target), children_part(other)
    fd, living = temporary._named(str(target))
    (tmp_path / ".a.mine.part").write_bytes(b"of someone else")
    assert Path(left).exists()
    OutputFile(str(target), "-o").commit()
    assert {p.name for p in tmp_path.iterdir()} == {"a", os.path.basename(living), os.path.basename(of_another), ".a.mine.part"}
    os.close(fd)
    OutputFile(str(target), "-o").abort()
    assert not Path(living).exists()


def test_two_runs_for_one_destination_have_a_file_each(tmp_path: Path) -> None:
    one, two = OutputFile(str(tmp_path / "a"), "-o"), OutputFile(str(tmp_path / "a"), "-o")
    one.pwrite(b"one", 0)
    two.pwrite(b"second", 0)
    one.commit()
    two.commit()
    assert (tmp_path / "a").read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_long_name_has_room_for_a_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250)
    for text in (b"1", b"2"):
        file = OutputFile(str(target), "-o")
        file.pwrite(text, 0)
        file.commit()
    assert target.read_bytes() == b"2"
