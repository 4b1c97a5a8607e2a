"""Frames on the socket between the parent and a worker: a fixed header, then the payload.

It knows nothing of processes (``processes.py``) or of what a payload means (the pipeline).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from typing import NamedTuple

from sextract.errors import SextractError, WorkerError

# Magic, type of frame, kind of task, ticket, length of the payload.
_HEADER = struct.Struct("<IIqqI")
_MAGIC = 0x53585431

# Pixels and rows go through the slab; whatever is larger than this has lost its way.
MAX_PAYLOAD = 1 << 20

# Read from a socket at a time; with its header as an object of Python it stays below what malloc maps by itself.
RECEIVE_BYTES = 1 << 15

# Types of frame.
TASK, BROADCAST, REPLY, ERROR, HELLO = range(5)


class ProtocolError(Exception):
    """The stream isn't frames: its writer is broken and is replaced."""


class Frame(NamedTuple):
    """One message."""

    type: int
    kind: int
    ticket: int
    payload: bytes


def check_payload(payload: bytes) -> None:
    """ValueError if a payload is too large to be sent."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes; at most {MAX_PAYLOAD} fit, the rest is for the slab")


def pack(frame: Frame) -> bytes:
    """The bytes of a frame."""
    return _HEADER.pack(_MAGIC, frame.type, frame.kind, frame.ticket, len(frame.payload)) + frame.payload


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes, get the frames they complete.

        Raises
        ------
        ProtocolError
            If a header is no header.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            magic, type_, kind, ticket, length = _HEADER.unpack_from(self._buffer)
            if magic != _MAGIC or type_ > HELLO or length > MAX_PAYLOAD:
                raise ProtocolError(f"frame {magic:#x} of type {type_} with {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[_HEADER.size : end])
            del self._buffer[:end]
            yield Frame(type_, kind, ticket, payload)


def pack_error(error: SextractError) -> bytes:
    """An error as a payload; one that doesn't survive becomes a WorkerError with its text."""
    try:
        payload = pickle.dumps(error)
        if len(payload) <= MAX_PAYLOAD and type(pickle.loads(payload)) is type(error):
            return payload
    except Exception:  # Whatever pickling someone's exception class may raise.
        pass
    return pickle.dumps(WorkerError(f"{type(error).__name__}: {error}"[:10000]))


def unpack_error(payload: bytes) -> SextractError:
    """The error of a payload."""
    error = pickle.loads(payload)
    return error if isinstance(error, SextractError) else WorkerError(str(error))
