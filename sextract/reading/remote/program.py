"""A program of its own that asks fsspec: signs addresses of objects, or copies one to an open file.

It reads a request from standard input and writes an answer to standard output, both JSON, and imports nothing of this
package.  What is asked, and how answers are worded, is ``store.py``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

PIECE_BYTES = 256 * 1024
WRITE_BEHIND_BYTES = 8 << 20

# From prctl.h.
_PR_SET_PDEATHSIG = 1


def _open(url: str, **more: Any) -> tuple[Any, str]:
    """File system and path of an address."""
    from fsspec.core import url_to_fs

    if url.startswith(("s3://", "s3a://")):
        # A bucket's own region signs, in the way that all regions take.
        more = {"config_kwargs": {"signature_version": "s3v4"}, **more}
    found: tuple[Any, str] = url_to_fs(url, use_listings_cache=False, **more)
    return found


def _find(url: str) -> tuple[Any, str]:
    """The same for an object that is there; without credentials, as anybody may read it."""
    try:
        fs, path = _open(url)
        info = fs.info(path)
    except Exception as exc:
        if type(exc).__name__ not in ("NoCredentialsError", "PartialCredentialsError"):
            raise
        fs, path = _open(url, anon=True)
        info = fs.info(path)
    if info.get("type") == "directory":
        raise IsADirectoryError(path)
    return fs, path


def sign(url: str, seconds: int) -> str:
    """A signed address; empty if the store has none."""
    fs, path = _find(url)
    try:
        signed = str(fs.sign(path, expiration=seconds))
    except Exception:
        # Not built, or these credentials can read and not sign: it can be copied in any case.
        return ""
    return signed if signed.startswith(("http://", "https://")) else ""


def copy(url: str, fd: int) -> int:
    """Write an object to an open file; its bytes."""
    fs, path = _find(url)
    done = begun = 0
    with fs.open(path, "rb") as source:
        while chunk := source.read(PIECE_BYTES):
            view = memoryview(chunk)
            done += len(view)
            while view:
                view = view[os.write(fd, view) :]
            if done - begun >= WRITE_BEHIND_BYTES:
                os.posix_fadvise(fd, begun, done - begun, os.POSIX_FADV_DONTNEED)
                begun = done
    return done


def kind_of(exc: BaseException) -> str:
    """What ``store.py`` words."""
    if isinstance(exc, FileNotFoundError):
        return "missing"
    if isinstance(exc, IsADirectoryError):
        return "folder"
    if isinstance(exc, PermissionError):
        return "refused"
    if isinstance(exc, ImportError):
        return "package"
    if isinstance(exc, ValueError) and "Protocol not known" in str(exc):
        return "unknown"
    return "other"


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != request["parent"]:
        return
    answer: dict[str, Any]
    index = 0
    try:
        if "copy" in request:
            answer = {"bytes": copy(request["copy"], request["fd"])}
        else:
            signed = []
            for index, url in enumerate(request["urls"]):  # noqa: B007
                signed.append(sign(url, request["seconds"]))
            answer = {"signed": signed}
    except Exception as exc:
        answer = {"error": [index, kind_of(exc), f"{type(exc).__name__}: {exc}"]}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    # Threads of clients have nothing to finish.
    os._exit(0)


if __name__ == "__main__":
    main()
