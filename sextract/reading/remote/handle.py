"""An object on a server, read as a file is: each read is a ranged request, or a part of one that was announced.

It has what ``FileHandle`` has.  A process connects when it first reads.  Every answer is checked to be of the same state of
the object (size, ETag, else date), and servers are asked to refuse another one.  What fails on the way is asked for again,
from the byte where it broke.  Connections are ``http.py``'s.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from sextract.errors import InputError
from sextract.reading.remote.http import BadAddress, Connection, cause, is_final

if TYPE_CHECKING:
    import ssl

# Headers are read in such portions: one request brings that of most HDUs, and the beginning of the next one.
WINDOW_BYTES = 64 * 1024
# Reads up to this that nobody announced are of headers.
SMALL_BYTES = 2880

# An answer is read on over a gap of this size; reading it takes less time than another request.
CHEAP_GAP_BYTES = 256 * 1024

# Before the next try; a connection that was idle for too long may just have been closed.
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
LONGEST_PAUSE_S = 30.0
BUSY = (408, 425, 429, 500, 502, 503, 504)

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")

FAILURES = (OSError, http.client.HTTPException)


class Identity(NamedTuple):
    """What must not change while an object is read."""

    size: int
    etag: str
    modified: str


class Busy(http.client.HTTPException):
    """The server asks to come back."""

    def __init__(self, answer: HTTPResponse) -> None:
        super().__init__(f"HTTP {answer.status} {_line(answer.reason)}".rstrip())
        after = answer.getheader("Retry-After") or ""
        self.seconds = float(after) if after.isdigit() else 0.0


class _Stream:
    """An answer that is being read: the next byte's place in the object, and where it ends."""

    def __init__(self, answer: HTTPResponse, position: int, end: int) -> None:
        self.answer, self.position, self.end = answer, position, end

    def readinto(self, view: memoryview) -> int:
        got = self.answer.readinto(view[: self.end - self.position])
        self.position += got
        return got

    def skip(self, nbytes: int) -> None:
        while nbytes:
            got = len(self.answer.read(min(nbytes, 16 * 1024)))
            if not got:
                raise http.client.IncompleteRead(b"")
            self.position, nbytes = self.position + got, nbytes - got


class RemoteHandle:
    """An object by its address.

    Parameters
    ----------
    url : str
        ``http`` or ``https``, signed if need be; it appears in no message.
    path : str
        What messages call it.

    Attributes
    ----------
    identity : Identity
        Size -1 where the server doesn't tell.
    ranged : bool
        Whether the server gives parts of it; if not, it must be copied.

    Raises
    ------
    InputError
        It is missing, access is refused, or the server can't be reached.
    """

    cheap_gap_bytes = CHEAP_GAP_BYTES

    def __init__(self, url: str, path: str) -> None:
        self._url = url
        self.path = path
        self._tls: ssl.SSLContext | None = None
        self._forget()
        self.identity = Identity(-1, "", "")
        self.ranged = False
        self._retried(self._meet, "open it")

    def _forget(self) -> None:
        self._connection: Connection | None = None
        self._stream: _Stream | None = None
        self._pid = -1
        self._announced = 0, 0
        self._window = 0, b""

    @property
    def size(self) -> int:
        """Bytes of the object when it was first opened."""
        return self.identity.size

    def _meet(self) -> None:
        """The first request: what it is, and its first bytes."""
        answer = self._get({"Range": f"bytes=0-{WINDOW_BYTES - 1}"})
        etag, modified = (answer.getheader("ETag") or "").strip(), (answer.getheader("Last-Modified") or "").strip()
        found = _RANGE.fullmatch(answer.getheader("Content-Range") or "")
        self.ranged = answer.status == 206 and found is not None and found[1] == "0"
        if self.ranged and found is not None:
            self.identity = Identity(int(found[3]), etag, modified)
            wanted = min(WINDOW_BYTES, self.size)
            self._window = 0, answer.read(wanted)
            if len(self._window[1]) < wanted:
                raise http.client.IncompleteRead(b"")
            return
        length = answer.getheader("Content-Length") or "-1"
        empty = answer.status == 416
        self.identity = Identity(0 if empty else int(length), etag, modified)
        if answer.status not in (200, 206, 416):
            self._refused(answer)
        self._hang_up()

    def expect(self, offset: int, nbytes: int) -> None:
        """The next reads are in these bytes, in order: one request brings them all."""
        if not self._is_expected(offset, nbytes):
            self._announced = offset, offset + nbytes

    def read(self, offset: int, out: NDArray[np.uint8]) -> int:
        """Fill `out` from byte `offset`; fewer bytes than its length only at the end of the object."""
        view = out.data[: max(self.size - offset, 0)]
        if len(view) <= SMALL_BYTES and not self._is_expected(offset, len(view)):
            return self._read_small(offset, view)
        done = 0

        def go_on() -> None:
            nonlocal done
            while done < len(view):
                done += self._some(offset + done, view[done:])

        self._retried(go_on, f"read {len(view)} bytes at {offset}", lambda: done)
        return done

    def read_exactly(self, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` from byte `offset`; an InputError if the object ends before."""
        if self.read(offset, out) < len(out):
            raise self._changed()

    def _is_expected(self, offset: int, nbytes: int) -> bool:
        if self._pid == os.getpid() and self._stream is not None and self._stream.position <= offset:
            return offset + nbytes <= self._stream.end
        return self._announced[0] <= offset and offset + nbytes <= self._announced[1]

    def _read_small(self, offset: int, view: memoryview) -> int:
        start, held = self._window
        if not start <= offset <= offset + len(view) <= start + len(held):
            window = np.empty(min(WINDOW_BYTES, self.size - offset), np.uint8)
            self._announced = offset, offset + len(window)

            def fill() -> None:
                done = 0
                while done < len(window):
                    done += self._some(offset + done, window.data[done:])

            self._retried(fill, f"read {len(window)} bytes at {offset}")
            self._window = start, held = offset, window.tobytes()
        view[:] = held[offset - start : offset - start + len(view)]
        return len(view)

    def _some(self, position: int, view: memoryview) -> int:
        """One piece from there, of the answer that is being read or of a new one."""
        stream = self._stream if self._pid == os.getpid() else None
        gap = -1 if stream is None else position - stream.position
        if stream is None or gap < 0 or gap > CHEAP_GAP_BYTES or position >= stream.end:
            stream = self._ask(position, len(view))
        elif gap:
            stream.skip(gap)
        got = stream.readinto(view)
        if not got:
            raise http.client.IncompleteRead(b"")
        if stream.position == stream.end:
            # The client looks for the end of the answer only when it is asked to.
            stream.answer.read()
            self._stream = None
        return got

    def _ask(self, position: int, nbytes: int) -> _Stream:
        """A request from `position` on, to the end of what was announced."""
        start, end = self._announced
        end = end if start <= position and position + nbytes <= end else position + nbytes
        self._announced = 0, 0
        if self._stream is not None:
            self._hang_up()
        answer = self._get({"Range": f"bytes={position}-{end - 1}", **self._conditions()})
        self._check(answer, position, end)
        self._stream = _Stream(answer, position, end)
        return self._stream

    def _conditions(self) -> dict[str, str]:
        """Have the server refuse another state of the object."""
        _, etag, modified = self.identity
        if etag and not etag.startswith("W/"):
            return {"If-Match": etag}
        return {"If-Unmodified-Since": modified} if modified and not etag else {}

    def _check(self, answer: HTTPResponse, first: int, end: int) -> None:
        """Whether an answer is what was asked for, of the object that was met."""
        if answer.status in (412, 416) or (answer.status in (200, 206) and self._differs(answer)):
            self._hang_up()
            raise self._changed()
        found = _RANGE.fullmatch(answer.getheader("Content-Range") or "")
        if answer.status != 206 or found is None:
            self._refused(answer)
        if int(found[3]) != self.size:
            self._hang_up()
            raise self._changed()
        if (int(found[1]), int(found[2]) + 1) != (first, end):
            self._hang_up()
            raise InputError(f"{self.path}: the server sent {found[0]} where {first}-{end - 1} was asked for")

    def _differs(self, answer: HTTPResponse) -> bool:
        etag, modified = (answer.getheader("ETag") or "").strip(), (answer.getheader("Last-Modified") or "").strip()
        if etag and self.identity.etag:
            # A server may call a young file's tag weak, and an hour later the same tag strong.
            return etag.removeprefix("W/") != self.identity.etag.removeprefix("W/")
        return bool(modified and self.identity.modified) and modified != self.identity.modified

    def _get(self, headers: dict[str, str]) -> HTTPResponse:
        pid = os.getpid()
        if self._pid != pid or self._connection is None:
            # What a fork inherited is its parent's; closing this end of it doesn't hang up.
            self._hang_up()
            self._pid = pid
            self._connection = Connection(self._url, self._tls)
        answer = self._connection.get(headers)
        self._tls = self._connection.tls
        if answer.status in BUSY:
            raise Busy(answer)
        return answer

    def _retried(self, work: Callable[[], None], what: str, progress: Callable[[], int] = int) -> None:
        """Do what may fail on the way, again and again while it gets on; a few times if it doesn't."""
        tries, before = 0, progress()
        while True:
            try:
                return work()
            except BadAddress as exc:
                raise InputError(f"{self.path}: {exc}") from None
            except FAILURES as exc:
                self._hang_up()
                if progress() > before:
                    tries, before = 0, progress()
                if tries == len(PAUSES_S) or is_final(exc):
                    why = str(exc) if isinstance(exc, Busy) else cause(exc)
                    times = f", {tries + 1} times in a row" if tries else ""
                    # Not "from exc": its text may hold the address.
                    raise InputError(f"{self.path}: can't {what}: {why}{times}") from None
                asked = exc.seconds if isinstance(exc, Busy) else 0.0
                time.sleep(min(max(PAUSES_S[tries], asked), LONGEST_PAUSE_S))
                tries += 1

    def _refused(self, answer: HTTPResponse) -> NoReturn:
        """An answer that trying again wouldn't mend."""
        status = answer.status
        code = _CODE.search(answer.read(4096)) if status >= 400 else None
        said = f"HTTP {status} {_line(answer.reason)}".rstrip() + (f", {code[1].decode()}" if code else "")
        self._hang_up()
        if status in (404, 410):
            raise InputError(f"{self.path}: there is no such object ({said})")
        if status in (401, 403, 407) or (code and b"Expired" in code[1]):
            raise InputError(f"{self.path}: access is refused ({said}); see the credentials, and how long they hold")
        if status == 200:
            raise InputError(f"{self.path}: the server doesn't give parts of the object any more ({said})")
        raise InputError(f"{self.path}: can't read it ({said})")

    def _changed(self) -> InputError:
        return InputError(f"{self.path}: the object changed while it was being read; run again when it is complete")

    def pour(self, begin: Callable[[], object], write: Callable[[memoryview], object], piece: NDArray[np.uint8]) -> int:
        """The whole object from a server that doesn't give parts of it; its bytes.

        Parameters
        ----------
        begin : callable
            Is called before the first byte, and once more whenever all must be sent again.
        write : callable
            Gets the bytes, in pieces.
        piece : uint8 array
            Room for one.
        """
        done = 0

        def fetch() -> None:
            nonlocal done
            answer = self._get({})
            if answer.status != 200:
                self._refused(answer)
            if self._differs(answer):
                raise self._changed()
            begin()
            done = 0
            while got := answer.readinto(piece.data):
                write(piece.data[:got])
                done += got
            if answer.length:
                raise http.client.IncompleteRead(b"")

        self._retried(fetch, "read it")
        return done

    def check_unchanged(self) -> None:
        """Make sure that the object is still what it was; one that was removed is no error.

        Raises
        ------
        InputError
            It was replaced meanwhile.
        """

        def look() -> None:
            self._hang_up()
            answer = self._get({"Range": "bytes=0-0", **self._conditions()})
            if answer.status not in (404, 410):
                self._check(answer, 0, 1)
            self._hang_up()

        self._retried(look, "see whether it has changed")

    def drop_behind(self) -> None:
        """Nothing: what comes over a network is in no page cache."""

    def fileno(self) -> int:
        """There is none: who needs a descriptor gets a copy (``reading/remote``)."""
        raise TypeError(f"{self.path} has no descriptor")

    def _hang_up(self) -> None:
        """Let go of an answer that isn't read to its end, and so of the connection."""
        if self._connection is not None:
            self._connection.close()
        self._stream = None

    def close(self) -> None:
        """Hang up; reading again connects again."""
        self._hang_up()
        self._forget()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._hang_up()

    def __getstate__(self) -> dict[str, object]:
        fresh = {"_connection": None, "_stream": None, "_pid": -1, "_tls": None, "_announced": (0, 0), "_window": (0, b"")}
        return {**self.__dict__, **fresh}


def _line(text: str) -> str:
    return " ".join(text.split())[:80]
