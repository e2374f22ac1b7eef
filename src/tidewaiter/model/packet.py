"""Packets: from bytes to what a firewall decides by, and from that back to bytes.

The parser is the reference for kernel/headers.h, which gives the same answer for every input; a change
here is a change there. It reads the IP header, the extension headers of IPv6 and the fixed part of the
transport header, and needs nothing behind that, so that the first bytes of a captured packet do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address

from tidewaiter.model.checksum import internet_checksum, transport_checksum, transport_sum
from tidewaiter.model.key import Address, Protocol, endpoint, protocol_name

Buffer = bytes | bytearray | memoryview

MAX_EXTENSIONS = 8
"""IPv6 extension headers that are walked; no honest packet has more."""

DEFAULT_TTL = 64
"""Hops that a packet built here may travel (the recommended value of the IANA IP parameters)."""

_NO_LIMIT = 0xFFFF_FFFF


class MalformedPacket(ValueError):  # noqa: N818 - it names what the packet is
    """The bytes are not an IP packet whose headers are whole and agree with each other."""


class TcpFlag(IntFlag):
    """Control bits of the TCP header (RFC 9293 section 3.1), the low eight."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


class Extension(IntEnum):
    """IPv6 extension headers that lead on to another header (IANA, IPv6 Extension Header Types).

    ESP (50) hides what follows and No Next Header (59) says that nothing does: both end the walk.
    """

    HOP_BY_HOP = 0
    ROUTING = 43
    FRAGMENT = 44
    AUTHENTICATION = 51
    DESTINATION = 60
    MOBILITY = 135
    HOST_IDENTITY = 139
    SHIM6 = 140


def _in_eights(field: int) -> int:
    return 8 * (field + 1)


_EXTENSION_SIZE: dict[int, Callable[[int], int]] = {
    Extension.HOP_BY_HOP: _in_eights,
    Extension.ROUTING: _in_eights,
    Extension.FRAGMENT: lambda _: 8,
    Extension.AUTHENTICATION: lambda field: 4 * (field + 2),
    Extension.DESTINATION: _in_eights,
    Extension.MOBILITY: _in_eights,
    Extension.HOST_IDENTITY: _in_eights,
    Extension.SHIM6: _in_eights,
}
"""Size of an extension header in bytes, from its second byte (RFC 8200 section 4, RFC 4302 section 2.2)."""

_HEADER_SIZE: dict[int, int] = {
    Protocol.TCP: 20,
    Protocol.UDP: 8,
    Protocol.SCTP: 12,
    Protocol.ICMP: 8,
    Protocol.ICMPV6: 8,
}
_CHECKSUM_AT: dict[int, int] = {Protocol.TCP: 16, Protocol.UDP: 6, Protocol.ICMP: 2, Protocol.ICMPV6: 2}
_WITH_PORTS = frozenset({Protocol.TCP, Protocol.UDP, Protocol.SCTP})


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet, or as much of it as was captured.

    ``protocol`` is the transport's number, behind the IPv6 extension headers. Ports are 0 where the
    protocol has none or a later fragment does not show them. ``fragment`` says that the packet is a
    part of one, ``later_fragment`` that it is not the first part; an IPv6 atomic fragment is whole
    (RFC 6946). Offsets and lengths are bytes from the start of the IP header. ``length`` is what the
    IP header says; it is below ``payload_offset`` only where that field is zero, because the kernel
    built a segment that is too large for it (BIG TCP).
    """

    version: int
    protocol: int
    source: Address
    destination: Address
    source_port: int
    destination_port: int
    tcp_flags: int
    fragment: bool
    later_fragment: bool
    transport_offset: int
    payload_offset: int
    length: int
    data: bytes

    @property
    def end(self) -> int:
        """Where the payload ends by the headers; ``data`` may have been cut before it."""
        if self.length < self.payload_offset:
            return max(len(self.data), self.payload_offset)
        if self.protocol == Protocol.UDP and not self.later_fragment:
            # What follows a datagram inside its IP packet is not payload (RFC 9868 puts options there).
            datagram = int.from_bytes(self.data[self.transport_offset + 4 : self.transport_offset + 6], "big")
            if 8 <= datagram <= self.length - self.transport_offset:
                return self.transport_offset + datagram
        return self.length

    @property
    def payload(self) -> bytes:
        """What the transport carries, as far as it was captured; padding of the link is not in it."""
        return self.data[self.payload_offset : self.end]

    @property
    def payload_length(self) -> int:
        """Bytes that the transport carries, captured or not."""
        return self.end - self.payload_offset

    @property
    def icmp_type(self) -> int | None:
        """The type of an ICMP or ICMPv6 message, None for anything else."""
        return self.data[self.transport_offset] if self._shows_icmp else None

    @property
    def icmp_code(self) -> int | None:
        """The code of an ICMP or ICMPv6 message, None for anything else."""
        return self.data[self.transport_offset + 1] if self._shows_icmp else None

    @property
    def _shows_icmp(self) -> bool:
        return self.protocol in (Protocol.ICMP, Protocol.ICMPV6) and not self.later_fragment

    def __str__(self) -> str:
        """One line for people: ``tcp 192.0.2.1:4000 > 192.0.2.2:80 SYN, 0 bytes``."""
        words = [protocol_name(self.protocol)]
        if self.protocol in _WITH_PORTS and not self.later_fragment:
            words.append(endpoint(self.source, self.source_port))
            words += [">", endpoint(self.destination, self.destination_port)]
        else:
            words += [str(self.source), ">", str(self.destination)]
        if self._shows_icmp:
            words.append(f"type {self.icmp_type} code {self.icmp_code}")
        if self.tcp_flags:
            words.append("|".join(name for name, bit in TcpFlag.__members__.items() if self.tcp_flags & bit))
        if self.fragment:
            words.append("later fragment" if self.later_fragment else "first fragment")
        return f"{' '.join(words)}, {self.payload_length} bytes"


@dataclass(frozen=True, slots=True)
class _Network:
    """What the IP header and its extensions say; no header may reach beyond ``limit``."""

    protocol: int
    source: Address
    destination: Address
    fragment: bool
    later_fragment: bool
    transport_offset: int
    length: int
    limit: int


def parse_packet(data: Buffer) -> Packet:
    """The packet that begins with the IP header at ``data[0]``.

    ``data`` may end before the packet does (but not inside the fixed part of the transport header) and
    may go on behind it (padding). Raises MalformedPacket.
    """
    data = bytes(data)
    if len(data) < 20:
        raise MalformedPacket(f"{len(data)} bytes are too few for an IP header")
    version = data[0] >> 4
    if version not in _NETWORK:
        raise MalformedPacket(f"IP version {version} is neither 4 nor 6")
    network = _NETWORK[version](data)
    protocol, transport = network.protocol, network.transport_offset
    shown = not network.later_fragment
    payload = transport + (_HEADER_SIZE.get(protocol, 0) if shown else 0)
    _require(payload, min(network.limit, len(data)))
    tcp = shown and protocol == Protocol.TCP
    if tcp:
        size = 4 * (data[transport + 12] >> 4)
        if size < 20:
            raise MalformedPacket(f"a TCP header of {size} bytes is too short")
        payload = transport + size
        _require(payload, network.limit)
    ports = struct.unpack_from("!HH", data, transport) if shown and protocol in _WITH_PORTS else (0, 0)
    return Packet(
        version=version,
        protocol=protocol,
        source=network.source,
        destination=network.destination,
        source_port=ports[0],
        destination_port=ports[1],
        tcp_flags=data[transport + 13] if tcp else 0,
        fragment=network.fragment,
        later_fragment=network.later_fragment,
        transport_offset=transport,
        payload_offset=payload,
        length=network.length,
        data=data,
    )


def _require(end: int, limit: int) -> None:
    if end > limit:
        raise MalformedPacket(f"the headers end at byte {end}, but the packet ends at byte {limit}")


def _parse_ipv4(data: bytes) -> _Network:
    size = 4 * (data[0] & 15)
    if size < 20:
        raise MalformedPacket(f"an IPv4 header of {size} bytes is too short")
    length, _, part, _, protocol = struct.unpack_from("!HHHBB", data, 2)
    return _Network(
        protocol=protocol,
        source=IPv4Address(data[12:16]),
        destination=IPv4Address(data[16:20]),
        fragment=bool(part & 0x3FFF),
        later_fragment=bool(part & 0x1FFF),
        transport_offset=size,
        length=length,
        limit=length or _NO_LIMIT,
    )


def _parse_ipv6(data: bytes) -> _Network:
    if len(data) < 40:
        raise MalformedPacket(f"{len(data)} bytes are too few for an IPv6 header")
    rest, following = struct.unpack_from("!HB", data, 4)
    offset, part = 40, 0
    for _ in range(MAX_EXTENSIONS):
        if following not in _EXTENSION_SIZE or part & 0xFFF8:
            break
        _require(offset + 8, len(data))
        if following == Extension.FRAGMENT:
            part |= int.from_bytes(data[offset + 2 : offset + 4], "big")
        size = _EXTENSION_SIZE[following](data[offset + 1])
        following = data[offset]
        offset += size
    if following in _EXTENSION_SIZE and not part & 0xFFF8:
        raise MalformedPacket(f"more than {MAX_EXTENSIONS} IPv6 extension headers")
    return _Network(
        protocol=following,
        source=IPv6Address(data[8:24]),
        destination=IPv6Address(data[24:40]),
        fragment=bool(part & 0xFFF9),
        later_fragment=bool(part & 0xFFF8),
        transport_offset=offset,
        length=40 + rest,
        limit=40 + rest if rest else _NO_LIMIT,
    )


_NETWORK: dict[int, Callable[[bytes], _Network]] = {4: _parse_ipv4, 6: _parse_ipv6}


def verify_checksums(data: Buffer) -> bool:
    """Whether every checksum that can be verified is right: IPv4 header, TCP, UDP, ICMP and ICMPv6.

    That of a transport is verified when the packet is whole, neither cut nor a fragment, and with the
    destination of the IP header, which on the way through an IPv6 routing header is not the last one. A
    packet of this host that is still to leave may carry half a checksum, for the network card to finish.
    Raises MalformedPacket.
    """
    packet = parse_packet(data)
    if packet.version == 4 and internet_checksum(packet.data[: 4 * (packet.data[0] & 15)]):
        return False
    at = _CHECKSUM_AT.get(packet.protocol)
    if at is None or packet.fragment or packet.end > len(packet.data):
        return True
    segment = packet.data[packet.transport_offset : packet.end]
    if packet.protocol == Protocol.UDP and not any(segment[at : at + 2]):
        return packet.version == 4  # 0 says that there is none, which IPv6 does not permit (RFC 8200, 8.1)
    begin = transport_sum(packet.source, packet.destination, packet.protocol, len(segment))
    return internet_checksum(segment, begin) == 0


def build_ip(source: Address, destination: Address, protocol: int, segment: bytes) -> bytes:
    """An IP packet around ``segment``, a transport header and its data, with the checksums filled in.

    The checksum field of the segment must be zero. Raises ValueError for addresses of two families and
    for a segment that does not fit into a packet.
    """
    if source.version != destination.version:
        raise ValueError(f"{source} and {destination} are of two address families")
    at = _CHECKSUM_AT.get(protocol)
    if at is not None:
        checksum = transport_checksum(source, destination, protocol, segment)
        segment = segment[:at] + checksum.to_bytes(2, "big") + segment[at + 2 :]
    largest = 65515 if source.version == 4 else 65535
    if len(segment) > largest:
        raise ValueError(f"{len(segment)} bytes do not fit into an IP packet ({largest} do)")
    addresses = source.packed + destination.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(segment), protocol, DEFAULT_TTL) + addresses + segment
    # Not to be fragmented, so that identification 0 is as good as any (RFC 6864 section 4.1).
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), 0, 0x4000, DEFAULT_TTL, protocol)
    checksum = internet_checksum(start + addresses)
    return start + checksum.to_bytes(2, "big") + addresses + segment


def build_tcp(
    source: Address,
    destination: Address,
    source_port: int,
    destination_port: int,
    flags: int,
    *,
    sequence: int = 0,
    acknowledgement: int = 0,
    window: int = 0,
    payload: bytes = b"",
) -> bytes:
    """An IP packet with one TCP segment without options. Raises ValueError as `build_ip` does."""
    header = struct.pack(
        "!HHIIBBHHH", source_port, destination_port, sequence, acknowledgement, 5 << 4, flags, window, 0, 0
    )
    return build_ip(source, destination, Protocol.TCP, header + payload)


def build_udp(
    source: Address, destination: Address, source_port: int, destination_port: int, payload: bytes = b""
) -> bytes:
    """An IP packet with one UDP datagram. Raises ValueError as `build_ip` does."""
    # A datagram too large for the field is left to build_ip to refuse.
    length = min(8 + len(payload), 65535)
    header = struct.pack("!HHHH", source_port, destination_port, length, 0)
    return build_ip(source, destination, Protocol.UDP, header + payload)
