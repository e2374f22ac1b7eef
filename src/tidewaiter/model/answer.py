"""Answers to a refused packet, so that the program that sent it notices at once.

A TCP segment is answered by a reset, anything else by an ICMP error, as if they came from the host that
the packet was for. What must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)) is not.
"""

from __future__ import annotations

import struct
from ipaddress import ip_network

from tidewaiter.model.key import Protocol
from tidewaiter.model.packet import Buffer, Packet, TcpFlag, build_ip, build_tcp, parse_packet

# Neither answered nor answered for: "this network", multicast, class E and broadcast; unspecified and
# multicast. A loopback source is answered, against RFC 1122: here it is a program on this host. The
# broadcast address of a subnet cannot be told from its bytes.
_NOT_ONE_HOST = {
    4: (ip_network("0.0.0.0/8"), ip_network("224.0.0.0/3")),
    6: (ip_network("::/128"), ip_network("ff00::/8")),
}

# Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792), and the
# error half of the ICMPv6 types with redirect (RFC 4443 section 2.1, RFC 4861 section 4.5).
_ICMP_ERRORS: dict[tuple[int, int], frozenset[int]] = {
    (4, Protocol.ICMP): frozenset({3, 4, 5, 11, 12}),
    (6, Protocol.ICMPV6): frozenset({*range(128), 137}),
}

# Per IP version: the ICMP protocol, the type "destination unreachable", its codes "port unreachable" and
# "administratively prohibited" (RFC 792 and RFC 1812 section 5.2.7.1, RFC 4443 section 3.1), and how many
# bytes of the refused packet fit into an answer of 576 (RFC 1812 section 4.3.2.3) or 1280 bytes.
_UNREACHABLE = {
    4: (Protocol.ICMP, 3, 3, 13, 576 - 20 - 8),
    6: (Protocol.ICMPV6, 1, 4, 1, 1280 - 40 - 8),
}


class Unanswerable(ValueError):  # noqa: N818 - it names what the packet is
    """The packet must not be answered, or not in this way."""


def tcp_reset(data: Buffer) -> bytes:
    """The IP packet with the reset that refuses the TCP segment ``data`` (RFC 9293 section 3.5.2).

    Raises MalformedPacket, and Unanswerable for what is no TCP segment, a reset, or see `rejection`.
    """
    return _reset(parse_packet(data))


def unreachable(data: Buffer, *, prohibited: bool = False) -> bytes:
    """The IP packet with the ICMP error that refuses ``data``, of which it quotes the beginning.

    The error is *port unreachable*, which a program sees as "connection refused", or with ``prohibited``
    *administratively prohibited*. Raises MalformedPacket, and Unanswerable: see `rejection`.
    """
    return _unreachable(parse_packet(data), prohibited=prohibited)


def rejection(data: Buffer) -> bytes | None:
    """The IP packet that refuses ``data`` in the way of its protocol, or None where none may be sent.

    A reset for TCP, *port unreachable* for UDP, *administratively prohibited* for what has no ports.
    Not answered are later fragments, resets, ICMP errors, and packets to or from an address that does
    not name one host. Raises MalformedPacket.
    """
    packet = parse_packet(data)
    try:
        if packet.protocol == Protocol.TCP:
            return _reset(packet)
        return _unreachable(packet, prohibited=packet.protocol != Protocol.UDP)
    except Unanswerable:
        return None


def _require_answerable(packet: Packet) -> None:
    if packet.later_fragment:
        raise Unanswerable("a later fragment is not answered")
    for address in (packet.source, packet.destination):
        if any(address in network for network in _NOT_ONE_HOST[packet.version]):
            raise Unanswerable(f"{address} does not name one host, so the packet is not answered")
    if packet.icmp_type in _ICMP_ERRORS.get((packet.version, packet.protocol), ()):
        raise Unanswerable("an ICMP error is not answered")


def _reset(packet: Packet) -> bytes:
    _require_answerable(packet)
    if packet.protocol != Protocol.TCP:
        raise Unanswerable("only a TCP segment is answered by a reset")
    if packet.tcp_flags & TcpFlag.RST:
        raise Unanswerable("a reset is not answered")
    sequence, acknowledgement = struct.unpack_from("!II", packet.data, packet.transport_offset + 4)
    if packet.tcp_flags & TcpFlag.ACK:
        flags, sequence, acknowledgement = TcpFlag.RST, acknowledgement, 0
    else:
        # SYN and FIN take one number each in the sequence space, like a byte of data.
        control = (packet.tcp_flags & (TcpFlag.SYN | TcpFlag.FIN)).bit_count()
        taken = packet.payload_length + control
        flags, sequence, acknowledgement = TcpFlag.RST | TcpFlag.ACK, 0, (sequence + taken) % 2**32
    return build_tcp(
        packet.destination,
        packet.source,
        packet.destination_port,
        packet.source_port,
        flags,
        sequence=sequence,
        acknowledgement=acknowledgement,
    )


def _unreachable(packet: Packet, *, prohibited: bool = False) -> bytes:
    _require_answerable(packet)
    protocol, kind, port_unreachable, forbidden, room = _UNREACHABLE[packet.version]
    code = forbidden if prohibited else port_unreachable
    quote = packet.data[: min(room, max(packet.end, packet.length))]
    message = struct.pack("!BBHI", kind, code, 0, 0) + quote
    return build_ip(packet.destination, packet.source, protocol, message)
