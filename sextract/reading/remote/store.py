"""What fsspec is needed for: an address that a plain request can read, or a copy where there is none.

fsspec and the clients of stores take 50 MiB, and threads that must not be there when workers are forked.  So they run in a
program of their own (``program.py``), which ends before any buffer exists; what it leaves is a signed ``https`` address.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from sextract.config.locations import scheme_of, shown
from sextract.errors import InputError, LimitError

# This process and the program, at most: measured with s3fs 2026.9 and aiobotocore 3.10, and rounded up.
SIGNING_BYTES = 96 << 20

# Credentials of a user may sign for so long, those of a session until they end.
LONGEST_S = 7 * 24 * 3600

_EXTRA = "pip install 'sextract[remote]'"


def sign(urls: Sequence[str], limit_bytes: int = 0) -> list[str]:
    """Addresses that a plain GET reads.

    Parameters
    ----------
    urls : sequence of str
        ``s3://bucket/image.fits`` and whatever fsspec knows, without brackets; many take hardly longer than one.
    limit_bytes : int
        What all processes may hold meanwhile; 0: anything.

    Returns
    -------
    list of str
        ``https``, or empty where the store signs none: then the object must be copied.  They hold secrets.

    Raises
    ------
    InputError
        One is missing, access is refused, or a package is.
    LimitError
        The limit has no room for fsspec.
    """
    for url in urls:
        if scheme_of(url) == "memory":
            raise InputError(f"{shown(url)}: memory:// is known to the process alone that wrote it; write it to a file")
    if limit_bytes and limit_bytes < SIGNING_BYTES:
        raise LimitError(
            f"--mem-limit {limit_bytes / 2**20:.0f}M is too small to open {shown(urls[0])}: fsspec takes "
            f"{SIGNING_BYTES >> 20}M while it signs the request; the smallest limit that works is {SIGNING_BYTES >> 20}M, "
            f"or less with a signed https:// address"
        )
    answer = _ask({"urls": list(urls), "seconds": LONGEST_S}, urls)
    return [str(each) for each in answer["signed"]]


def copy(url: str, fd: int) -> int:
    """Have fsspec write an object to an open file; its bytes."""
    return int(str(_ask({"copy": url, "fd": fd}, [url], fd)["bytes"]))


def _ask(request: dict[str, object], urls: Sequence[str], *fds: int) -> dict[str, list[object]]:
    """Have the program do something."""
    import subprocess

    command = [sys.executable, "-P", os.path.join(os.path.dirname(__file__), "program.py")]
    request["parent"] = os.getpid()
    done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, pass_fds=fds, check=False)
    try:
        answer: dict[str, list[object]] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise InputError(f"{shown(urls[0])}: fsspec failed: {_bare(said[0], urls)}") from None
    if "error" in answer:
        _, kind, text = map(str, answer["error"])
        url = urls[int(str(answer["error"][0]))]
        raise InputError(f"{shown(url)}: {_worded(kind, _bare(text, urls), scheme_of(url))}")
    return answer


def _worded(kind: str, text: str, scheme: str) -> str:
    """What went wrong, in words."""
    if kind == "missing":
        return "there is no such object"
    if kind == "refused":
        return f"access is refused ({text}); see the credentials of your environment"
    if kind == "folder":
        return "is a folder, an image file is needed"
    if kind == "package":
        known = scheme in ("s3", "s3a") or "fsspec" in text
        return f"{scheme}:// needs " + (f"fsspec and s3fs: {_EXTRA}" if known else f"a package of its own: {text}")
    if kind == "unknown":
        return f"fsspec knows no {scheme}://"
    return f"can't open it: {text}"


def _bare(text: str, urls: Sequence[str]) -> str:
    """A message of another library without what an address may hold of passwords."""
    for url in urls:
        for secret in (url, url.partition("://")[2], url.partition("://")[2].rpartition("@")[0]):
            if secret and secret != shown(url):
                text = text.replace(secret, "…")
    return " ".join(text.split())[:300]
