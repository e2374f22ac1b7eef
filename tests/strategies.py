"""Hypothesis strategies for packets: well made, with what went into them, and hostile; and how many examples to try."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from hypothesis import strategies as st

from tidewaiter.model.key import Address, Protocol

FUZZ = int(os.environ.get("TIDEWAITER_FUZZ", "1"))
"""How many times as many examples as in an ordinary run, for tests that say themselves how many (`./dev fuzz`)."""

ports = st.integers(0, 65535)
payloads = st.binary(max_size=40)


def pairs_of_addresses() -> st.SearchStrategy[tuple[Address, Address]]:
    """Two addresses of one family."""
    v4, v6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
    return st.one_of(st.tuples(v4, v4), st.tuples(v6, v6))


@dataclass(frozen=True)
class Transport:
    """A transport header with its data, as a packet carries it."""

    protocol: int
    segment: bytes
    header: int
    source_port: int = 0
    destination_port: int = 0
    tcp_flags: int = 0


@dataclass(frozen=True)
class Made:
    """A packet without a fault, and what a parser has to find in it."""

    data: bytes
    source: Address
    destination: Address
    transport: Transport
    transport_offset: int
    fragment: bool
    later_fragment: bool


@st.composite
def transports(draw: st.DrawFn) -> Transport:
    """TCP with options, UDP, SCTP, ICMP, ICMPv6 and protocols that nobody looks into."""
    protocol = draw(st.sampled_from([*Protocol, 47, 50, 59, 255]))
    source, destination, data = draw(ports), draw(ports), draw(payloads)
    start = struct.pack("!HH", source, destination)
    match protocol:
        case Protocol.TCP:
            options = 4 * draw(st.integers(0, 10))
            flags = draw(st.integers(0, 255))
            fixed = start + draw(st.binary(min_size=8, max_size=8))
            fixed += bytes([(20 + options) // 4 << 4, flags]) + bytes(6 + options)
            return Transport(protocol, fixed + data, 20 + options, source, destination, flags)
        case Protocol.UDP:
            header = start + struct.pack("!HH", 8 + len(data), 0)
            return Transport(protocol, header + data, 8, source, destination)
        case Protocol.SCTP:
            return Transport(protocol, start + bytes(8) + data, 12, source, destination)
        case Protocol.ICMP | Protocol.ICMPV6:
            return Transport(protocol, draw(st.binary(min_size=8, max_size=8)) + data, 8)
        case _:
            return Transport(protocol, data, 0)


@st.composite
def ipv4_packets(draw: st.DrawFn) -> Made:
    """IPv4 with options, whole or a fragment. Header checksums are not filled in."""
    transport = draw(transports())
    source, destination = draw(st.ip_addresses(v=4)), draw(st.ip_addresses(v=4))
    assert isinstance(source, IPv4Address)
    assert isinstance(destination, IPv4Address)
    options = 4 * draw(st.integers(0, 10))
    offset = draw(st.just(0) | st.integers(0, 0x1FFF))
    more = draw(st.booleans())
    part = draw(st.booleans()) << 14 | more << 13 | offset
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | (20 + options) // 4,
        0,
        20 + options + len(transport.segment),
        0,
        part,
        64,
        transport.protocol,
        0,
        source.packed,
        destination.packed,
    )
    data = header + draw(st.binary(min_size=options, max_size=options)) + transport.segment
    return Made(data, source, destination, transport, 20 + options, bool(more or offset), offset > 0)


@st.composite
def ipv6_packets(draw: st.DrawFn) -> Made:
    """IPv6 behind up to eight extension headers, of which the last may begin a fragment."""
    transport = draw(transports())
    source, destination = draw(st.ip_addresses(v=6)), draw(st.ip_addresses(v=6))
    assert isinstance(source, IPv6Address)
    assert isinstance(destination, IPv6Address)
    kinds = draw(st.lists(st.sampled_from([0, 43, 51, 60, 135, 139, 140]), max_size=7))
    offset = more = 0
    if draw(st.booleans()):
        kinds.append(44)
        offset, more = draw(st.just(0) | st.integers(0, 0x1FFF)), draw(st.integers(0, 1))
    extensions = b""
    for kind, following in pairwise([*kinds, transport.protocol]):
        size = 8 if kind == 44 else 8 * draw(st.integers(1, 3))
        field = {44: 0xFF, 51: size // 4 - 2}.get(kind, size // 8 - 1)
        body = struct.pack("!H", offset << 3 | more) if kind == 44 else b"\xaa\xaa"
        extensions += (bytes([following, field]) + body).ljust(size, b"\xaa")
    rest = extensions + transport.segment
    header = struct.pack("!IHBB", 6 << 28, len(rest), [*kinds, transport.protocol][0], 64)
    data = header + source.packed + destination.packed + rest
    made = Made(data, source, destination, transport, 40 + len(extensions), bool(offset or more), offset > 0)
    # A length field of zero is another matter (BIG TCP), with tests of its own.
    return made if rest else draw(ipv4_packets())


def packets() -> st.SearchStrategy[Made]:
    """Packets without a fault of both versions."""
    return ipv4_packets() | ipv6_packets()


@st.composite
def damaged_packets(draw: st.DrawFn) -> bytes:
    """Bytes that were a packet: some changed, then cut or made longer."""
    data = bytearray(draw(packets()).data)
    for _ in range(draw(st.integers(0, 4))):
        # The first bytes of both versions hold what a parser goes by.
        at = draw(st.integers(0, 9) | st.integers(0, len(data) - 1))
        data[at % len(data)] = draw(st.integers(0, 255))
    data += draw(st.binary(max_size=8))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


@st.composite
def random_bytes(draw: st.DrawFn) -> bytes:
    """Anything at all, half of it with the first byte of a packet."""
    return draw(st.sampled_from([b"", b"", b"\x45", b"\x60"])) + draw(st.binary(max_size=120))


def hostile_packets() -> st.SearchStrategy[bytes]:
    """What may come in the place of a packet."""
    return packets().map(lambda made: made.data) | damaged_packets() | random_bytes()
