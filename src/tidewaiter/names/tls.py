"""The ClientHello of TLS: the server's name, what the client offers to speak, and whether the name is a front.

Sources: RFC 8446 (record layer 5.1, ClientHello 4.1.2), RFC 6066 section 3 (server_name), RFC 7301 (ALPN),
RFC 9849 (encrypted_client_hello). A ClientHello is cut into records at will, and these into segments.
"""

from __future__ import annotations

from typing import NamedTuple

from tidewaiter.model.name import By, Hidden, Name
from tidewaiter.names.cursor import Cursor, EndOfBytes
from tidewaiter.names.spelling import host_name, is_address

MAX_HELLO = 24_576
"""The largest ClientHello that is read, in bytes. With keys against quantum computers they have about 2,000."""

MAX_RECORD = 16_384
_CLIENT_HELLO = 1
_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D
_RECORD_HEADER, _HANDSHAKE_HEADER = 5, 4
_PROTOCOLS = 16


class NotTls(ValueError):  # noqa: N818 - it names what the bytes are
    """The bytes do not begin as a ClientHello does."""


class MalformedHello(ValueError):  # noqa: N818 - it names what it is
    """They do, and then it is not one."""


class Hello(NamedTuple):
    """What a ClientHello says in the clear. ``name`` is "" where it names no host.

    ``ech``: it carries an encrypted ClientHello, or pretends to (browsers do both, and outside they look the same).
    """

    name: str
    protocols: tuple[str, ...] = ()
    ech: bool = False

    def named(self, by: By) -> Name:
        """The name that this gives a connection."""
        return Name(
            name=self.name,
            by=by if self.name else None,
            hidden=Hidden.ECH if self.ech else None,
            why="the ClientHello carries an encrypted one" if self.ech else "",
            protocols=self.protocols,
        )


def begins_as_tls(data: bytes) -> bool:
    """Whether the first bytes of a stream, as many as there are, could begin a TLS handshake (RFC 8446, 5.1)."""
    return data[:1] in (b"", b"\x16") and data[1:2] in (b"", b"\x03")


class HelloReader:
    """Reads the ClientHello at the beginning of a TCP stream, from bytes in their order as they come.

    Each byte is looked at once, however small the records and the segments are.
    """

    def __init__(self) -> None:
        self._header = b""
        self._left = 0  # bytes of the record that are still to come
        self._handshake = bytearray()

    def feed(self, data: bytes) -> Hello | None:
        """The ClientHello once it is whole, None before. Raises NotTls and MalformedHello."""
        cursor = Cursor(data)
        while cursor.left and not self._whole():  # behind it, anything may follow
            if not self._left:
                self._header += cursor.take(min(_RECORD_HEADER - len(self._header), cursor.left))
                self._left = self._length()
            part = cursor.take(min(self._left, cursor.left))
            self._left -= len(part)
            self._handshake += part
        return hello_of_handshake(self._handshake)

    def _whole(self) -> bool:
        handshake = self._handshake
        return len(handshake) >= _HANDSHAKE_HEADER and len(handshake) >= _end(handshake)

    def _length(self) -> int:
        """The length of the record whose header has been read; 0 while it is not whole."""
        header = self._header
        if not begins_as_tls(header):
            raise (MalformedHello if self._handshake else NotTls)("a record of it is none of a handshake")
        if len(header) < _RECORD_HEADER:
            return 0
        self._header = b""
        length = int.from_bytes(header[3:], "big")
        if not 0 < length <= MAX_RECORD:  # RFC 8446 section 5.1: not empty
            raise (MalformedHello if self._handshake else NotTls)(f"a record of it has {length} bytes")
        return length


def hello_of_handshake(data: bytes | bytearray) -> Hello | None:
    """The ClientHello at the beginning of a handshake, as CRYPTO frames carry it; None while it is not whole.

    Raises NotTls and MalformedHello.
    """
    if not data:
        return None
    if data[0] != _CLIENT_HELLO:
        raise NotTls(f"the handshake begins with a message of type {data[0]}")
    if len(data) < _HANDSHAKE_HEADER:
        return None
    end = _end(data)
    if end > _HANDSHAKE_HEADER + MAX_HELLO:
        raise MalformedHello(f"a ClientHello of {end} bytes is too large")
    if len(data) < end:
        return None
    try:
        return _parse(Cursor(bytes(data[_HANDSHAKE_HEADER:end])))
    except EndOfBytes as error:
        raise MalformedHello(f"the ClientHello ends too soon: {error}") from None


def _end(handshake: bytes | bytearray) -> int:
    """Where the first message of a handshake ends (RFC 8446 section 4)."""
    return _HANDSHAKE_HEADER + int.from_bytes(handshake[1:_HANDSHAKE_HEADER], "big")


def _parse(cursor: Cursor) -> Hello:
    cursor.skip(2 + 32)  # legacy_version, random
    cursor.vector(1)  # legacy_session_id
    cursor.vector(2)  # cipher_suites
    cursor.vector(1)  # legacy_compression_methods
    if not cursor.left:
        return Hello("")  # TLS 1.2 and older may have no extensions
    extensions = cursor.within(cursor.number(2))
    if cursor.left:
        raise MalformedHello(f"{cursor.left} bytes follow the extensions")
    found: dict[int, Cursor] = {}
    while extensions.left:
        kind = extensions.number(2)
        content = extensions.within(extensions.number(2))
        if kind in _READ:
            if kind in found:
                raise MalformedHello(
                    f"the extension {kind} is there twice"
                )  # RFC 8446 section 4.2 forbids it
            found[kind] = content
    name = _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else ""
    protocols = _protocols(found[_ALPN]) if _ALPN in found else ()
    return Hello(name, protocols, _ECH in found)


_READ = frozenset((_SERVER_NAME, _ALPN, _ECH))


def _server_name(content: Cursor) -> str:
    """The one host name of the list (RFC 6066: one of a type at most, and no address)."""
    names = content.within(content.number(2))
    host = None
    while names.left:
        kind = names.number(1)
        value = names.vector(2)
        if kind == 0:
            if host is not None:
                raise MalformedHello("it names two hosts")
            host = value
    if host is None:
        return ""
    name = host_name(host)
    if not name and not is_address(host):
        raise MalformedHello("the name that it gives is none")
    return name


def _protocols(content: Cursor) -> tuple[str, ...]:
    offered = content.within(content.number(2))
    found = []
    while offered.left:
        found.append(offered.vector(1).decode("ascii", "backslashreplace"))
    return tuple(found[:_PROTOCOLS])
