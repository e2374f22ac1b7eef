"""The internet checksum (RFC 1071) of headers and of TCP, UDP, ICMP and ICMPv6 segments.

A ones' complement sum of 16-bit words is the value of the bytes, read as one large number, modulo
65535: Python's integers do that at the speed of C. For the same reason an address, a length or a
protocol number is added as the integer that it is.
"""

from __future__ import annotations

from tidewaiter.model.key import Address, Protocol


def internet_checksum(data: bytes, initial: int = 0) -> int:
    """The 16-bit checksum of ``data``, its checksum field being zero (RFC 1071).

    ``initial`` is a sum to begin with, as from `pseudo_header_sum`. Over data that carries its right
    checksum the result is 0. Data of odd length is taken as if one zero byte followed.
    """
    total = initial + (int.from_bytes(data, "big") << (8 * (len(data) % 2)))
    # Ones' complement has two zeros: only a sum of nothing but zeros is 0, any other multiple is 0xFFFF.
    folded = (total - 1) % 0xFFFF + 1 if total else 0
    return 0xFFFF - folded


def pseudo_header_sum(source: Address, destination: Address, protocol: int, length: int) -> int:
    """The sum of the pseudo-header, as ``initial`` of `internet_checksum`.

    ``length`` is that of the transport header and its data, in bytes. The words are the same for IPv4
    (RFC 9293 section 3.1) and IPv6 (RFC 8200 section 8.1), only their width differs.
    """
    return int(source) + int(destination) + protocol + length


def transport_sum(source: Address, destination: Address, protocol: int, length: int) -> int:
    """What the checksum of a segment of ``length`` bytes begins with: its pseudo-header, 0 for ICMP.

    ICMP for IPv4 alone covers no pseudo-header (RFC 792).
    """
    return 0 if protocol == Protocol.ICMP else pseudo_header_sum(source, destination, protocol, length)


def transport_checksum(source: Address, destination: Address, protocol: int, segment: bytes) -> int:
    """The checksum to write into a TCP, UDP, ICMP or ICMPv6 segment whose checksum field is zero.

    For UDP, 0 says that there is no checksum, so a sum that comes to 0 is sent as 0xFFFF (RFC 768).
    """
    checksum = internet_checksum(segment, transport_sum(source, destination, protocol, len(segment)))
    return 0xFFFF if checksum == 0 and protocol == Protocol.UDP else checksum
