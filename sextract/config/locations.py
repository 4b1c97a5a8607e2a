"""Images that are no local files: which names are addresses, what they are called, and what may be shown of them.

An address may hold a password or a signature.  Neither belongs into a message, a log or a header.  Opening is the business
of ``reading/remote``.
"""

from __future__ import annotations

import os
import re

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_FILE = "file://"
# What is asked for as it is; all else must be signed or copied.
WEB = ("http", "https")
# The next image of a pair of addresses.
_ANOTHER = re.compile(r",[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(image: str) -> bool:
    """Whether a name is an address, ``s3://bucket/a.fits``; ``file:///a.fits`` is a file."""
    return _URL.fullmatch(image) is not None and not image.startswith(_FILE)


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://bucket/a.fits``."""
    return url.partition("://")[0].lower()


def local_name(image: str) -> str:
    """A file's name without ``file://`` before it."""
    return image.removeprefix(_FILE)


def is_pair(image: str) -> bool:
    """Whether a name is two, with a comma between them; the query of an address may have commas."""
    bare = re.sub(r"\[[^\]]*\]", "", image)
    if is_url(image):
        return _ANOTHER.search(bare) is not None
    return "," in bare and not os.path.exists(image)


def file_name(path: str) -> str:
    """Name of a file without folders: of an address, the last part of its path, as it would be called on a disk."""
    if not is_url(path):
        return os.path.basename(local_name(path))
    if scheme_of(path) in WEB:
        from urllib.parse import unquote

        path = unquote(re.split(r"[?#]", path, maxsplit=1)[0])
    return path.rstrip("/").rpartition("/")[2]


def shown(image: str) -> str:
    """A name as messages may tell it: an address without user, password and query; a selection in brackets stays."""
    match = _URL.fullmatch(image)
    if match is None or image.startswith(_FILE):
        return image
    bare, bracket = re.fullmatch(r"(.*?)(\[[^\[\]]*\])?", match["rest"], re.DOTALL).groups()  # type: ignore[union-attr]
    host, slash, path = bare.partition("/")
    if match["scheme"].lower() in WEB:
        path, mark, _ = path.partition("?")
        host, other, _ = host.partition("?")
        path += "?…" if mark or other else ""
    return f"{match['scheme']}://{host.rpartition('@')[2]}{slash}{path}{bracket or ''}"
