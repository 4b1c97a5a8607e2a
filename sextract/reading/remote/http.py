"""One connection of one process to a server: GET requests, redirections, proxies.

The standard library's client: a few MiB, and no thread that could be in the way of a fork.  What ranges are asked for, what
answers must say and when to try again is ``handle.py``'s business.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from sextract import __version__

# A server that says nothing for so long is not going to.
TIMEOUT_S = 60.0

REDIRECTED = (301, 302, 303, 307, 308)
MOST_REDIRECTIONS = 8
# What is said of an address that was good for a while.
EXPIRED = (400, 401, 403, 404, 410)

# The kernel keeps up to this of an answer that isn't read yet; it counts for a memory cgroup, and would be 6 MiB.
WINDOW_BYTES = 1 << 20

_SAFE = "/%:@!$&'()*+,;=-._~"


class BadAddress(Exception):
    """An address that can't be asked, in words."""


class Connection:
    """A connection, kept open between requests.

    Parameters
    ----------
    url : str
        ``http`` or ``https``; a user and password in it are sent to this host alone.
    tls : SSLContext, optional
        As another connection has made it.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = self._target = url.partition("#")[0]
        self._http: HTTPConnection | None = None
        self._server = ("", "")
        self.tls = tls

    def get(self, headers: Mapping[str, str]) -> HTTPResponse:
        """The answer to a GET, its body unread; where a redirection leads is remembered until it is refused.

        Raises
        ------
        OSError, http.client.HTTPException
            There is no answer.
        BadAddress
            There can be none.
        """
        again = self._target != self._url
        answer = self._follow(headers)
        if again and answer.status in EXPIRED:
            self.close()
            self._target = self._url
            answer = self._follow(headers)
        return answer

    def _follow(self, headers: Mapping[str, str]) -> HTTPResponse:
        for _ in range(MOST_REDIRECTIONS):
            answer = self._ask(self._target, headers)
            place = answer.getheader("Location")
            if answer.status not in REDIRECTED or not place:
                return answer
            self.close()
            self._target = urljoin(self._target, place).partition("#")[0]
        self._target = self._url
        raise BadAddress(f"the server leads from one address to the next, {MOST_REDIRECTIONS} times")

    def _ask(self, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        parts = _split(url)
        if self._http is None or self._server != (parts.scheme, parts.netloc):
            self.close()
            self._http, self._server = self._client(parts), (parts.scheme, parts.netloc)
        if self._http.sock is None:
            self._http.connect()
            if hasattr(socket, "TCP_WINDOW_CLAMP"):
                sock: socket.socket = self._http.sock  # type: ignore[assignment]
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WINDOW_BYTES)
        sent = {"User-Agent": f"sextract/{__version__}", "Accept-Encoding": "identity", **headers}
        if parts.username is not None:
            sent["Authorization"] = _basic(parts)
        place = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE + '?')}" if parts.query else "")
        proxy = _proxy(parts)
        if proxy is not None and parts.scheme == "http":
            place = f"http://{parts.netloc.rpartition('@')[2]}{place}"
            if proxy.username is not None:
                sent["Proxy-Authorization"] = _basic(proxy)
        self._http.request("GET", place, headers=sent)
        return self._http.getresponse()

    def _client(self, parts: SplitResult) -> HTTPConnection:
        proxy = _proxy(parts)
        to = parts if proxy is None else proxy
        found: HTTPConnection
        if parts.scheme == "https":
            self.tls = self.tls or ssl.create_default_context()
            found = HTTPSConnection(to.hostname or "", to.port, timeout=TIMEOUT_S, context=self.tls)
        else:
            found = HTTPConnection(to.hostname or "", to.port, timeout=TIMEOUT_S)
        if proxy is not None and parts.scheme == "https":
            auth = {} if proxy.username is None else {"Proxy-Authorization": _basic(proxy)}
            found.set_tunnel(parts.hostname or "", parts.port, headers=auth)
        return found

    def close(self) -> None:
        """Hang up."""
        if self._http is not None:
            self._http.close()
            self._http = None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 0) < 0:
            raise ValueError
        # A name that no resolver takes is refused here; the error is a ValueError too.
        parts.hostname.encode("idna")
    except ValueError:
        raise BadAddress("this is no address of a server") from None
    return parts


def _basic(parts: SplitResult) -> str:
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _proxy(parts: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for a server."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass

    host = parts.netloc.rpartition("@")[2]
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(host):
        return None
    return _split(proxy if "://" in proxy else f"http://{proxy}")


def cause(exc: BaseException) -> str:
    """Why there is no answer, in words; nothing of the address is in them."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message}); SSL_CERT_FILE may name another authority"
    if isinstance(exc, TimeoutError):
        return f"no answer for {TIMEOUT_S:.0f} s"
    if isinstance(exc, http.client.IncompleteRead | http.client.RemoteDisconnected | ConnectionResetError):
        return "the connection broke"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"{type(exc).__name__}"


def is_final(exc: BaseException) -> bool:
    """Whether trying again is of no use."""
    unknown = isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_NONAME
    return unknown or isinstance(exc, ssl.SSLCertVerificationError)
