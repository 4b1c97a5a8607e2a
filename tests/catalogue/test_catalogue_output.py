"""Files that appear whole or not at all, from any process, with the disk kept busy behind the writer."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from sextract.catalogue.output import OutputFile, explain
from sextract.errors import OutputError
from sextract.memory.writeback import SCATTERED_BYTES, WRITE_BEHIND_BYTES


def test_bytes_of_any_order_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    piece = os.urandom(WRITE_BEHIND_BYTES // 4)
    file = OutputFile(str(path), "-o")
    count = 3 * SCATTERED_BYTES // len(piece)
    # Backwards and with gaps, then the gaps, then once more in order.
    for offsets in (range(count - 1, -1, -2), range(0, count, 2), range(count)):
        for i in offsets:
            file.pwrite(piece, i * len(piece))
    file.commit()
    assert path.read_bytes() == piece * count


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        OutputFile(str(tmp_path / "a"), "-o").commit()
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_changed_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    file = OutputFile("a", "-o")
    monkeypatch.chdir(tmp_path / "sub")
    file.pwrite(b"x", 0)
    file.commit()
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_fork_and_a_message_write_the_same_file(tmp_path: Path) -> None:
    file = OutputFile(str(tmp_path / "a"), "-o")
    message = pickle.dumps(file)
    file.pwrite(b"1", 0)
    for position, by_message in ((1, False), (2, True)):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                (pickle.loads(message) if by_message else file).pwrite(b"%d" % (position + 1), position)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    file.commit()
    assert (tmp_path / "a").read_bytes() == b"123"


def test_the_space_between_reads_as_zeros(tmp_path: Path) -> None:
    file = OutputFile(str(tmp_path / "a"), "-o")
    file.resize(10)
    file.pwrite(b"x", 4)
    got = memoryview(bytearray(b"?" * 20))
    file.pread(got, 0)
    file.abort()
    assert bytes(got) == b"\0\0\0\0x".ljust(20, b"\0")
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        file = OutputFile(str(tmp_path / "pipe"), "-o", seekable=False)
        file.append(b"one ")
        file.append(b"two")
        file.commit()
        assert os.read(reader, 100) == b"one two"
        with pytest.raises(OutputError, match="not a pipe"):
            OutputFile(str(tmp_path / "pipe"), "-o")
    finally:
        os.close(reader)


def test_a_reader_that_goes_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    file = OutputFile(str(tmp_path / "pipe"), "-o", seekable=False)
    os.close(reader)
    with pytest.raises(OutputError, match="the reader has gone"):
        file.append(b"one")
    file.abort()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_messages_say_what_where_and_which_option(code: int) -> None:
    error = explain(OSError(code, os.strerror(code)), "/x/a.cat", "-o or CATALOG_NAME")
    assert str(error).startswith("can't write /x/a.cat: ") and "-o or CATALOG_NAME" in str(error)
    assert isinstance(pickle.loads(pickle.dumps(error)), OutputError)


def test_a_limit_on_file_size_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    # The nearest thing to a full disk that needs no privileges; in a child, because the limit can't be lifted again.
    pid = os.fork()
    if not pid:
        import resource
        import signal

        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            file = OutputFile(str(tmp_path / "a"), "-o")
            try:
                file.pwrite(bytes(20_000), 0)
            except OutputError as exc:
                code = 0 if "-o" in str(exc) else 2
            file.abort()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert not list(tmp_path.iterdir())


def test_a_kept_file_outlives_its_run_and_is_gone_on_with(tmp_path: Path) -> None:
    target, kept = tmp_path / "a", tmp_path / "folder" / "kept"
    kept.parent.mkdir()
    first = OutputFile(str(target), "-o")
    first.pwrite(b"saved, lost", 0)
    first.keep(str(kept))
    first.abort()
    assert kept.read_bytes() == b"saved, lost" and not target.exists()
    second = OutputFile(str(target), "-o")
    second.pwrite(b"what a new run begins with", 0)
    second.adopt(str(kept), 7)
    second.pwrite(b"found", 7)
    second.commit()
    assert target.read_bytes() == b"saved, found"
    assert os.listdir(tmp_path) in (["a", "folder"], ["folder", "a"]) and not kept.exists()


def test_a_kept_file_is_the_same_in_a_fork(tmp_path: Path) -> None:
    file = OutputFile(str(tmp_path / "a"), "-o")
    file.pwrite(b"old", 0)
    file.keep(str(tmp_path / "kept"))
    file.abort()
    file = OutputFile(str(tmp_path / "a"), "-o")
    file.adopt(str(tmp_path / "kept"), 3)
    child = os.fork()
    if child == 0:
        file.pwrite(b"new", 3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    file.commit()
    assert (tmp_path / "a").read_bytes() == b"oldnew"


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    file = OutputFile(str(tmp_path / "a"), "-o")
    with pytest.raises(OutputError, match="can't write"):
        file.adopt(str(tmp_path / "kept"), 0)
    file.abort()
    assert os.listdir(tmp_path) == []
