"""Frames and errors on the wire."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextract.errors import InputError, LimitError, SextractError, WorkerError
from sextract.execution.messages import (
    MAX_PAYLOAD,
    TASK,
    Frame,
    FrameReader,
    ProtocolError,
    check_payload,
    pack,
    pack_error,
    unpack_error,
)

FRAMES = st.builds(
    Frame, st.integers(0, 4), st.integers(-(1 << 40), 1 << 40), st.integers(-1, 1 << 60), st.binary(max_size=200)
)


@given(frames=st.lists(FRAMES, max_size=8), cuts=st.lists(st.integers(1, 60), min_size=1))
def test_frames_survive_any_cutting(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(map(pack, frames))
    reader = FrameReader()
    got: list[Frame] = []
    at = turn = 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += reader.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert got == frames


@pytest.mark.parametrize("broken", [b"\0" * 40, b"Traceback (most recent call last):" * 2])
def test_garbage_is_noticed(broken: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(broken))


def test_payloads_have_a_limit() -> None:
    check_payload(bytes(MAX_PAYLOAD))
    with pytest.raises(ValueError):
        check_payload(bytes(MAX_PAYLOAD + 1))
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(pack(Frame(TASK, 0, 0, bytes(MAX_PAYLOAD + 1)))))


class Odd(SextractError):
    """An exception that can't be pickled back."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize("error", [InputError("a.fits: no"), LimitError("x"), WorkerError("y")])
def test_errors_come_back_as_they_were(error: SextractError) -> None:
    back = unpack_error(pack_error(error))
    assert type(back) is type(error)
    assert str(back) == str(error)


@pytest.mark.parametrize("error", [Odd("this", "that"), InputError("x" * 2 * MAX_PAYLOAD)])
def test_errors_that_do_not_travel_keep_their_text(error: SextractError) -> None:
    payload = pack_error(error)
    assert len(payload) <= MAX_PAYLOAD
    back = unpack_error(payload)
    assert isinstance(back, WorkerError)
    assert type(error).__name__ in str(back)
    assert str(error)[:100] in str(back)


def test_a_foreign_error_becomes_one_of_ours() -> None:
    assert isinstance(unpack_error(pickle.dumps("text")), WorkerError)
