"""From a captured frame to the IP packet in it, by the link type of its interface.

Numbers and layouts are those of the registry at https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum


class Link(IntEnum):
    """The link types that can be read (LINKTYPE_…)."""

    NULL = 0
    ETHERNET = 1
    RAW_BSD = 12
    RAW = 101
    LOOP = 108
    LINUX_COOKED = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_COOKED_2 = 276


_IP = frozenset({0x0800, 0x86DD})  # IANA, IEEE 802 numbers: IPv4, IPv6
_VLAN = frozenset({0x8100, 0x88A8, 0x9100})  # IEEE 802.1Q, 802.1ad, and what came before the latter
_FAMILIES = frozenset({2, 10, 24, 28, 30})  # AF_INET everywhere; AF_INET6 of Linux, the BSDs and macOS


def ip_packet(link: int, frame: bytes) -> bytes | None:
    """What begins with an IP header in a frame, or None: another protocol, or a link type not in `Link`."""
    find = _FIND.get(link)
    packet = find(frame) if find is not None else None
    return packet if packet and packet[0] >> 4 in (4, 6) else None


def _by_ethertype(ethertype_at: int, header: int) -> Callable[[bytes], bytes | None]:
    """A reader of frames with an EtherType, behind whose header of so many bytes VLAN tags may follow."""

    def find(frame: bytes) -> bytes | None:
        if len(frame) < header:
            return None
        (ethertype,) = struct.unpack_from("!H", frame, ethertype_at)
        start = header
        while ethertype in _VLAN and len(frame) >= start + 4:
            (ethertype,) = struct.unpack_from("!H", frame, start + 2)
            start += 4
        return frame[start:] if ethertype in _IP else None

    return find


def _whole(frame: bytes) -> bytes | None:
    return frame


def _by_family(frame: bytes) -> bytes | None:
    """BSD loopback: the address family comes first, in the byte order of a machine that we do not know."""
    families = {int.from_bytes(frame[:4], "big"), int.from_bytes(frame[:4], "little")}
    return frame[4:] if families & _FAMILIES else None


_FIND: dict[int, Callable[[bytes], bytes | None]] = {
    Link.NULL: _by_family,
    Link.ETHERNET: _by_ethertype(12, 14),
    Link.RAW_BSD: _whole,
    Link.RAW: _whole,
    Link.LOOP: _by_family,
    Link.LINUX_COOKED: _by_ethertype(14, 16),
    Link.IPV4: _whole,
    Link.IPV6: _whole,
    Link.LINUX_COOKED_2: _by_ethertype(0, 20),
}

READABLE = frozenset(_FIND)
"""The numbers of the link types that can be read."""
