"""One file by HTTP or HTTPS, within limits of size and time, and only if it is new.

The standard library does it: it knows TLS, proxies (``https_proxy`` and its kin) and chunks. What it leaves open is
closed here. Its time-outs are for single reads, so a server that sends a byte now and then would hold us for ever:
a timer shuts the socket. Its redirects read the whole body of the answer: we follow them ourselves. And a body
that ends too early is an error; one that does not say its length is refused, since it could be cut unnoticed.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import SHUT_RDWR, socket
from threading import Timer
from types import TracebackType
from typing import IO, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

REDIRECTS = 5
"""How many redirects in a row are followed."""

_BLOCK = 64 * 1024
_MOVED = {301, 302, 303, 307, 308}
_NOT_MODIFIED = 304


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that a file may have, and seconds that it may take.

    The time begins with the first look-up and ends with the last byte; only connecting to an address that does not
    answer cannot be cut short, and may take it once more for each address that the server has.
    """

    size: int = 64 * 1024 * 1024
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server said about a version of a file, to ask for newer ones: ETag and Last-Modified (RFC 9110)."""

    etag: str = ""
    modified: str = ""


class DownloadError(Exception):
    """A file that did not come: one sentence that begins with its URL."""


class _Deadline:
    """Shuts the socket of the day when the time is over, whatever is waited for."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._socket: socket | None = None
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True

    def watch(self, one: socket) -> None:
        """From now on this is the socket. Raises TimeoutError if it comes too late."""
        self._socket = one
        if self.passed:
            raise TimeoutError

    def _cut(self) -> None:
        self.passed = True
        if self._socket is not None:
            with suppress(OSError):
                socket.shutdown(self._socket, SHUT_RDWR)  # beneath TLS, which is in use by another thread

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()


def _opener(deadline: _Deadline) -> OpenerDirector:
    """What opens URLs of the two kinds, and no others, with each connection watched."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    class OpenPlain(HTTPHandler):
        def http_open(self, req: Request) -> HTTPResponse:
            return self.do_open(Plain, req)

    class OpenSecure(HTTPSHandler):
        def https_open(self, req: Request) -> HTTPResponse:
            return self.do_open(Secure, req, context=ssl.create_default_context())

    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        OpenPlain(),
        OpenSecure(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
        UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def download(url: str, file: IO[bytes], known: Validators, limits: Limits) -> Validators | None:
    """Writes the file of a URL, and returns how to ask for the next version; None if it is still the known one.

    What stands in ``file`` after an error is of no use. Raises DownloadError.
    """
    with _Deadline(limits.seconds) as deadline:
        try:
            return _follow(url, file, known, limits, _opener(deadline))
        except (DownloadError, OSError, HTTPException, ValueError) as error:
            if deadline.passed or isinstance(error, TimeoutError):
                raise DownloadError(f"{url} took longer than {limits.seconds:g} seconds") from None
            if isinstance(error, DownloadError):
                raise
            raise DownloadError(f"{url} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return text or type(inner).__name__


def _follow(
    url: str, file: IO[bytes], known: Validators, limits: Limits, opener: OpenerDirector
) -> Validators | None:
    """Goes from redirect to redirect to the file."""
    asked, headers = url, _headers(known)
    for _ in range(REDIRECTS + 1):
        try:
            answer = opener.open(Request(asked, headers=headers), timeout=limits.seconds)  # noqa: S310  # two schemes
        except HTTPError as error:
            with error:
                if error.code == _NOT_MODIFIED and known != Validators():
                    return None
                location = error.headers.get("Location", "")
                if error.code not in _MOVED or not location:
                    raise DownloadError(f"{url} answers {error.code} {error.reason}".rstrip()) from None
            asked = _target(url, asked, location)
            continue
        assert isinstance(answer, HTTPResponse)
        with answer:
            return _body(url, answer, file, limits)
    raise DownloadError(f"{url} is redirected more than {REDIRECTS} times")


def _headers(known: Validators) -> dict[str, str]:
    headers = {"User-Agent": "tidewaiter", "If-None-Match": known.etag, "If-Modified-Since": known.modified}
    return {name: value for name, value in headers.items() if value}


def _target(url: str, asked: str, location: str) -> str:
    """Where a redirect leads. Raises DownloadError where it must not be followed."""
    target = urljoin(asked, location)
    scheme = urlsplit(target).scheme
    if scheme not in {"http", "https"}:
        raise DownloadError(f"{url} is redirected to {scheme or 'nowhere'}, which is neither http nor https")
    if urlsplit(asked).scheme == "https" and scheme == "http":
        raise DownloadError(f"{url} is redirected from https to http, where anybody could change it")
    return target


def _body(url: str, answer: HTTPResponse, file: IO[bytes], limits: Limits) -> Validators:
    """Writes the body. Raises DownloadError for what is too long, cut short, or no plain file."""
    too_long = f"{url} is longer than {limits.size:,} bytes"
    if answer.status != 200:
        raise DownloadError(f"{url} answers {answer.status} {answer.reason}, which brings no file")
    if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise DownloadError(f"{url} comes in the encoding {encoding!r}, which was not asked for")
    if answer.length is None and not answer.chunked:
        raise DownloadError(f"{url} does not say how long it is, so it could be cut short unnoticed")
    if answer.length is not None and answer.length > limits.size:
        raise DownloadError(too_long)
    size = 0
    while block := answer.read(_BLOCK):
        size += len(block)
        if size > limits.size:
            raise DownloadError(too_long)
        file.write(block)
    if answer.length:
        raise DownloadError(f"{url} was cut short: {answer.length:,} bytes are missing")
    return Validators(answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""))
