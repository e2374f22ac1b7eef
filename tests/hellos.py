"""ClientHellos for tests: those of real clients, and made ones, with any extension and of any size."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

SERVER = ("192.0.2.1", 443)
V1, V2 = 1, 0x6B3343CF


def vector(size: int, data: bytes) -> bytes:
    """Data behind its length, of ``size`` bytes."""
    return len(data).to_bytes(size, "big") + data


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    """The extension server_name (RFC 6066)."""
    return 0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names))


def alpn(*names: bytes) -> tuple[int, bytes]:
    """The extension that offers protocols (RFC 7301)."""
    return 16, vector(2, b"".join(vector(1, name) for name in names))


def handshake(extensions: Iterable[tuple[int, bytes]] | None, *, session: bytes = b"") -> bytes:
    """A ClientHello with these extensions, or None for no room for any."""
    body = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, b"\x13\x01\x13\x02") + vector(1, b"\0")
    if extensions is not None:
        body += vector(2, b"".join(struct.pack("!H", kind) + vector(2, data) for kind, data in extensions))
    return b"\x01" + vector(3, body)


def records(data: bytes, sizes: Sequence[int] = ()) -> bytes:
    """A handshake in records: of these sizes, the rest in one more."""
    found, at = b"", 0
    for size in [*sizes, len(data)]:
        part = data[at : at + size]
        at += size
        if part:
            found += b"\x16\x03\x01" + vector(2, part)
    return found


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    return [data[low:high] for low, high in pairwise([0, *sorted(places), len(data)])]


def of_ssl(name: str, protocols: Sequence[str] = (), *, version: ssl.TLSVersion | None = None) -> bytes:
    """The first flight of this Python's own TLS client."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if version is not None:
        context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


def of_aioquic(
    name: str | None, protocols: Sequence[str] = ("h3",), *, version: int = V1, token: bytes = b""
) -> list[bytes]:
    """The first datagrams of a real QUIC client; the more protocols, the larger its ClientHello."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=list(protocols),
        server_name=name,
        original_version=version,
        supported_versions=[version],
        token=token,
    )
    client = QuicConnection(configuration=configuration)
    client.connect(SERVER, now=0.0)
    return [data for data, _ in client.datagrams_to_send(now=0.0)]


MANY = [f"protocol-of-some-length-{number:04}" for number in range(120)]
"""Protocols to offer, so many that a ClientHello takes more than one packet."""
