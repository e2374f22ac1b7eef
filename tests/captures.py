"""Writes captures for tests: pcap and pcapng in either byte order, and the frames of each link type."""

from __future__ import annotations

import struct
from collections.abc import Iterable

Record = tuple[int, bytes]
"""A time in nanoseconds since 1970, and a frame."""

_SECOND = 1_000_000_000


def pcap(records: Iterable[Record], *, link: int = 101, order: str = "<", nanoseconds: bool = False) -> bytes:
    """A pcap file. Without ``nanoseconds``, times are cut to microseconds."""
    magic, unit = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for time, frame in records:
        seconds, rest = divmod(time, _SECOND)
        data += struct.pack(f"{order}IIII", seconds, rest // unit, len(frame), len(frame)) + frame
    return data


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A block of a pcapng file, filled up to a multiple of four bytes."""
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    """The section header block of a pcapng file, version 1.0, of unknown length."""
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    link: int = 101, *, snap: int = 0, options: Iterable[tuple[int, bytes]] = (), order: str = "<"
) -> bytes:
    """An interface description block."""
    body = struct.pack(f"{order}HHI", link, 0, snap)
    for code, value in options:
        body += struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)
    return block(1, body + bytes(4), order)


def enhanced(ticks: int, frame: bytes, *, number: int = 0, order: str = "<") -> bytes:
    """An enhanced packet block; ``ticks`` is in the units of its interface."""
    head = struct.pack(f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(6, head + frame, order)


def simple(frame: bytes, *, length: int | None = None, order: str = "<") -> bytes:
    """A simple packet block; ``length`` is that of the packet before it was cut."""
    return block(3, struct.pack(f"{order}I", len(frame) if length is None else length) + frame, order)


def ethertype(packet: bytes) -> bytes:
    """The EtherType of an IP packet."""
    return b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"


def ethernet(packet: bytes, *tags: int) -> bytes:
    """An Ethernet frame, with a VLAN tag for each of the EtherTypes ``tags``."""
    inner = b"".join(struct.pack("!HH", tag, 0x2064) for tag in tags)
    return bytes(12) + inner + ethertype(packet) + packet
