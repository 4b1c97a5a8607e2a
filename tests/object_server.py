"""A web server for the files of a folder, in a process of its own, that behaves as the first part of a path says.

    with Served(folder) as server:
        open_images(server.url("plain", "a.fits"))
        server.requests()

``plain``: ranges, ETags, conditions.  ``weak``, ``dated``, ``bare``: another kind of identity, or none.  ``deaf``: ignores
conditions.  ``whole``: no ranges.  ``broken``: every other answer ends in the middle; ``stalled``: stops there until the client
leaves; ``busy``: is a 503; ``down``: there is none.  ``moved``: leads to an address that is good for three requests.
``private``: wants user and password; ``signed``: a signature.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
SIGNATURE = "signature=hush"
# Of a redirection's target.
GOOD_FOR = 3


class Request(NamedTuple):
    """One line of the log."""

    path: str
    first: int
    nbytes: int
    status: int


class Handler(BaseHTTPRequestHandler):
    """Answers; the server has the folder and a few counters."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        """One request."""
        # A proxy is asked for whole addresses.
        parts = urlsplit(self.path)
        kind, _, name = unquote(parts.path).lstrip("/").partition("/")
        count = self.server.counts[kind] = self.server.counts.get(kind, 0) + 1
        if kind == "down":
            self.close_connection = True
        elif kind == "busy" and count % 2:
            self.refuse(503, [("Retry-After", "0")])
        elif kind == "moved":
            self.refuse(302, [("Location", f"/ticket-{count}/{name}")])
        elif kind.startswith("ticket-") and count > GOOD_FOR:
            self.refuse(403)
        elif kind == "private" and self.headers.get("Authorization") != "Basic bmlnaHQ6aHVzaA==":
            self.refuse(401)
        elif kind == "signed" and parts.query != SIGNATURE:
            self.refuse(403, body=b"<Error><Code>AccessDenied</Code></Error>")
        else:
            self.give(kind, self.server.folder / name, cut=kind in ("broken", "stalled") and count % 2 == 0)

    def refuse(self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> None:
        """An answer without the file."""
        self.note(0, 0, status)
        self.begin(status, [*headers, ("Content-Length", str(len(body)))])
        self.wfile.write(body)

    def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Status and headers."""
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        self.end_headers()

    def give(self, kind: str, path: Path, cut: bool) -> None:
        """The file, or a part of it."""
        if not path.is_file():
            return self.refuse(404)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            identity = self.identity(kind, status)
            tag, date = dict(identity).get("ETag"), dict(identity).get("Last-Modified")
            wanted, since = self.headers.get("If-Match"), self.headers.get("If-Unmodified-Since")
            if kind != "deaf" and ((wanted and wanted != tag) or (since and since != date)):
                return self.refuse(412)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if kind != "whole" else None
            first, last = (int(asked[1]), min(int(asked[2]), status.st_size - 1)) if asked else (0, status.st_size - 1)
            if first > last and asked:
                return self.refuse(416)
            nbytes = last - first + 1
            self.note(first, nbytes, 206 if asked else 200)
            part = [("Content-Range", f"bytes {first}-{last}/{status.st_size}")] if asked else []
            self.begin(206 if asked else 200, [*identity, *part, ("Content-Length", str(nbytes))])
            file.seek(first)
            self.pour(file, nbytes // 2 if cut else nbytes)
            if cut and kind == "stalled":
                self.connection.recv(1)
            self.close_connection = self.close_connection or cut
        return None

    def identity(self, kind: str, status: os.stat_result) -> list[tuple[str, str]]:
        """Headers that tell one state of a file from another."""
        tag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
        found = [("ETag", "W/" * (kind == "weak") + tag), ("Last-Modified", formatdate(status.st_mtime, usegmt=True))]
        return {"dated": found[1:], "bare": []}.get(kind, found)

    def pour(self, file: Any, nbytes: int) -> None:
        """So many bytes; the client may leave."""
        try:
            while nbytes and (piece := file.read(min(nbytes, 1 << 16))):
                self.wfile.write(piece)
                nbytes -= len(piece)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def note(self, *facts: int) -> None:
        """A line of the log, whole whoever else writes."""
        line = json.dumps([self.path, *facts]) + "\n"
        os.write(self.server.log, line.encode())


class Served:
    """A server for a folder, for as long as the context lasts.

    Parameters
    ----------
    folder : Path
        Its log is beside it.
    certificate : Path, optional
        For ``https``: a file with key and certificate.
    """

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        self.folder, self.log = folder, folder.with_name(folder.name + ".log")
        self._scheme = "https" if certificate else "http"
        self._command = [sys.executable, "-m", "tests.object_server", str(folder), str(self.log), str(certificate or "")]

    def url(self, kind: str, name: str, user: str = "") -> str:
        """Address of a file."""
        return f"{self._scheme}://{user}localhost:{self.port}/{kind}/{name}"

    def requests(self) -> list[Request]:
        """All so far."""
        return [Request(*json.loads(line)) for line in self.log.read_text().splitlines()]

    def forget(self) -> None:
        """Have the log begin again."""
        os.truncate(self.log, 0)

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        # At the end of its input it ends.
        self._process.communicate(timeout=30)


def main(folder: str, log: str, certificate: str) -> None:
    """Serve until standard input is closed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    facts: Any = server
    facts.folder, facts.counts = Path(folder), {}
    facts.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
