"""The host of an HTTP/1 request (RFC 9112 sections 3.2 and 5), and the preface of HTTP/2 (RFC 9113 section 3.4)."""

from __future__ import annotations

import re

from tidewaiter.model.name import NO_NAME, By, Hidden, Name, unreadable
from tidewaiter.names.spelling import host_name, is_address

MAX_HEAD = 24_576
"""The largest head of a request that is read, in bytes. Servers refuse more than 8,000 to 32,000."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_METHOD = 32  # no method is longer (IANA HTTP method registry)
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_REQUEST = re.compile(rb"([^ ]+) ([^ ]+) HTTP/1\.[0-9]")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_AUTHORITY = re.compile(rb"(?:[^@]*@)?(\[[^\]@]*\]|[^:@\[\]]*)(?::[0-9]*)?")
_END = re.compile(rb"\r?\n\r?\n")
_FORBIDDEN = re.compile(rb"\0|\r(?!\n)")


class NotHttp(ValueError):  # noqa: N818 - it names what the bytes are
    """The bytes do not begin as an HTTP request does."""


def begins_as_http(data: bytes) -> bool:
    """Whether the first bytes of a stream, as many as there are, could be a method and a blank behind it."""
    method, blank, _ = data[: _METHOD + 1].lstrip(b"\r\n").partition(b" ")
    return _TOKEN.issuperset(method) and (bool(method) if blank else len(method) <= _METHOD)


class RequestReader:
    """Reads the head of the first request of a TCP stream, from bytes in their order as they come."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._is_request = False

    def feed(self, data: bytes) -> Name | None:
        """What the request calls its host, once its head is whole; None before. Raises NotHttp."""
        searched = max(0, len(self._head) - 3)  # the end may have begun before these bytes
        self._head += data if self._head else data.lstrip(b"\r\n")  # RFC 9112 section 2.2
        head = self._head
        if not self._is_request:
            if PREFACE.startswith(head[: len(PREFACE)]):
                whole = len(head) >= len(PREFACE)
                return Name(hidden=Hidden.HTTP2, why="HTTP/2 compresses its header fields") if whole else None
            self._is_request = _has_request_line(head)
        end = _END.search(head, searched)
        if end is not None and end.start() <= MAX_HEAD:
            return _name(bytes(head[: end.start()]))
        if len(head) > MAX_HEAD:
            return unreadable(f"the head of the request is longer than {MAX_HEAD} bytes")
        return None


def _has_request_line(head: bytearray) -> bool:
    """Whether the first line is whole. Raises NotHttp if it is not that of a request, or cannot become it."""
    if not begins_as_http(bytes(head[: _METHOD + 1])):
        raise NotHttp("it does not begin with a method")
    end = head.find(b"\n", 0, MAX_HEAD)
    if end >= 0 and b" HTTP/1." not in head[:end]:
        raise NotHttp("its first line is not that of a request")
    return end >= 0


def _name(head: bytes) -> Name:
    """What a whole head says. Where a server might read something else than we do, it says that instead."""
    if _FORBIDDEN.search(head):
        return unreadable("the head of the request has bytes in it that must not be there")
    line, *fields = head.replace(b"\r\n", b"\n").split(b"\n")
    request = _REQUEST.fullmatch(line)
    if request is None:
        return unreadable("the line of the request is malformed")
    hosts = []
    for field in fields:
        name, colon, value = field.partition(b":")
        if field[:1] in (b" ", b"\t") or not colon or not name or not _TOKEN.issuperset(name):
            return unreadable("a header field of the request is malformed")  # RFC 9112 sections 5.1 and 5.2
        if name.lower() == b"host":
            hosts.append(value.strip(b" \t"))
    if len(hosts) > 1:
        return unreadable("the request names two hosts")  # RFC 9112 section 3.2
    method, target = request.groups()
    absolute = _ABSOLUTE.match(target)
    # The target counts for more than the field (RFC 9112 section 3.2.2); CONNECT has the authority alone (3.2.3).
    authority = target if method == b"CONNECT" else absolute[1] if absolute else hosts[0] if hosts else b""
    return _called(authority)


def _called(authority: bytes) -> Name:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return unreadable("the host that the request names is none")
    host = parts[1]
    name = host_name(host)
    if name:
        return Name(name, By.HTTP)
    if not host or is_address(host):
        return NO_NAME
    return unreadable("the host that the request names is none")
