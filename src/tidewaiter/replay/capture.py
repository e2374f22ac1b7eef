"""Captures: the IP packets of a pcap or pcapng file, with their times.

Sources: draft-ietf-opsawg-pcap (both byte orders, micro- and nanoseconds) and draft-ietf-opsawg-pcapng
(section, interface description, enhanced and simple packet blocks; others are passed over, as it asks).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from tidewaiter.replay.links import READABLE, ip_packet

MAX_PACKET = 262144
"""The largest captured packet that is read, in bytes: the largest that tcpdump and Wireshark write."""

MAX_BLOCK = 1 << 24
"""The largest block of a pcapng file that is read, in bytes."""

MAX_TIME = 2**63 - 1
"""The latest time that is read, in nanoseconds since 1970: in the year 2262."""

_SECOND = 1_000_000_000
_PCAP = {  # by the first four bytes: byte order, nanoseconds in a unit of the time stamp's second half
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_SECTION = 0x0A0D0D0A  # the same in both byte orders, since it comes before the order is known
_INTERFACE, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 3, 6
_BYTE_ORDER = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_END_OF_OPTIONS, _TIME_RESOLUTION, _TIME_OFFSET = 0, 9, 14


class CaptureError(ValueError):
    """What was recorded cannot be read. Its text is one sentence."""


class Captured(NamedTuple):
    """An IP packet, or as much of it as was captured. ``time`` is in nanoseconds since 1970."""

    time: int
    data: bytes


class _Frame(NamedTuple):
    time: int
    link: int
    data: bytes


class Capture:
    """The IP packets of a buffered binary file, in its order: iterate over it, once.

    ``skipped`` counts the frames without an IP packet in them: other protocols, link types that cannot be
    read. ``truncated`` is "", or a sentence when the file ends in the middle of a packet, as after a crash.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Reads the beginning of the file. Raises CaptureError if it is no capture."""
        self.skipped = 0
        self.truncated = ""
        self._source = _Source(file)
        try:
            self._frames = _frames(self._source)
        except EOFError:
            raise CaptureError("this is not a capture: it ends within its header") from None

    def __iter__(self) -> Iterator[Captured]:
        """Raises CaptureError where the file is damaged."""
        count = 0
        try:
            for time, link, frame in self._frames:
                count += 1
                data = ip_packet(link, frame)
                if data is None:
                    self.skipped += 1
                else:
                    yield Captured(time, data)
        except EOFError:
            self.truncated = f"the capture is cut off after its packet {count}: the next one is not whole"


class _Source:
    """Reads so many bytes, or raises EOFError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def start(self, size: int) -> bytes:
        """The same where the file may also be at its end: then b""."""
        data = self._file.read(size)
        if data and len(data) < size:
            raise EOFError
        return data


def _frames(source: _Source) -> Iterator[_Frame]:
    magic = source.take(4)
    if magic == _PCAPNG:
        return _pcapng(source)
    if magic not in _PCAP:
        raise CaptureError("this is not a capture: it begins neither as pcap nor as pcapng")
    order, unit = _PCAP[magic]
    major, minor, link = struct.unpack(f"{order}HH12xI", source.take(20))
    if (major, minor) != (2, 4):
        raise CaptureError(f"this is pcap version {major}.{minor}, of which only 2.4 can be read")
    link &= (
        0xFFFF  # above are flags and the length of a frame check sequence, which the IP header knows better
    )
    if link not in READABLE:
        raise CaptureError(f"this capture is of link type {link}, in which IP packets cannot be found")
    return _pcap(source, struct.Struct(f"{order}IIII"), unit, link)


def _pcap(source: _Source, header: struct.Struct, unit: int, link: int) -> Iterator[_Frame]:
    while start := source.start(header.size):
        seconds, units, captured, _ = header.unpack(start)
        yield _Frame(seconds * _SECOND + units * unit, link, source.take(_packet_size(captured)))


def _packet_size(size: int) -> int:
    if size > MAX_PACKET:
        raise CaptureError(
            f"the capture is damaged: a packet of {size} bytes, where {MAX_PACKET} are the most"
        )
    return size


# --- pcapng -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Interface:
    """``resolution`` is in units of the time stamp per second, ``offset`` in seconds."""

    link: int
    snap_length: int
    resolution: int = 1_000_000
    offset: int = 0


def _pcapng(source: _Source) -> Iterator[_Frame]:
    interfaces: list[_Interface] = []
    time = 0  # a simple packet has none: it gets that of the packet before it
    for kind, order, body in _blocks(source):
        if kind == _SECTION:
            interfaces = []
        elif kind == _INTERFACE:
            interfaces.append(_interface(order, body))
        elif kind == _ENHANCED_PACKET:
            frame = _enhanced_packet(order, body, interfaces)
            time = frame.time
            yield frame
        elif kind == _SIMPLE_PACKET:
            yield _simple_packet(order, body, interfaces, time)


def _blocks(source: _Source) -> Iterator[tuple[int, str, bytes]]:
    """Type, byte order and body of each block; of a section, what follows its byte-order magic."""
    order, start = "<", _PCAPNG  # which has been read
    while start:
        (kind,) = struct.unpack(f"{order}I", start)
        size, around = source.take(4), 12
        if kind == _SECTION:
            magic, around = source.take(4), 16
            if magic not in _BYTE_ORDER:
                raise CaptureError("the capture is damaged: a section has no byte-order magic")
            order = _BYTE_ORDER[magic]
        (length,) = struct.unpack(f"{order}I", size)
        if length % 4 or not around <= length <= MAX_BLOCK:
            raise CaptureError(f"the capture is damaged: a block has a length of {length} bytes")
        body = source.take(length - around)
        if source.take(4) != size:
            raise CaptureError("the capture is damaged: a block ends with another length than it began with")
        yield kind, order, body
        start = source.start(4)


def _interface(order: str, body: bytes) -> _Interface:
    link, snap_length = _fields(f"{order}H2xI", body)
    options = _options(order, body[8:])
    resolution = options.get(_TIME_RESOLUTION, b"\6")
    offset = options.get(_TIME_OFFSET, bytes(8))
    if len(resolution) != 1 or len(offset) != 8:
        raise CaptureError("the capture is damaged: the clock of an interface is not described as it must be")
    base, exponent = 2 if resolution[0] & 0x80 else 10, resolution[0] & 0x7F
    return _Interface(link, snap_length, base**exponent, struct.unpack(f"{order}q", offset)[0])


def _options(order: str, data: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from(f"{order}HH", data, at)
        if code == _END_OF_OPTIONS:
            break
        options[code] = data[at + 4 : at + 4 + size]
        at += 4 + (size + 3 & ~3)
    return options


def _enhanced_packet(order: str, body: bytes, interfaces: list[_Interface]) -> _Frame:
    number, high, low, captured, _ = _fields(f"{order}IIIII", body)
    interface = _numbered(interfaces, number)
    data = body[20 : 20 + _packet_size(captured)]
    if len(data) < captured:
        raise CaptureError("the capture is damaged: a packet is larger than its block")
    time = (high << 32 | low) * _SECOND // interface.resolution + interface.offset * _SECOND
    if not 0 <= time <= MAX_TIME:
        raise CaptureError("the capture is damaged: a packet is from before 1970 or after 2262")
    return _Frame(time, interface.link, data)


def _simple_packet(order: str, body: bytes, interfaces: list[_Interface], time: int) -> _Frame:
    (size,) = _fields(f"{order}I", body)
    interface = _numbered(interfaces, 0)
    captured = min(size, interface.snap_length or size, len(body) - 4)
    return _Frame(time, interface.link, body[4 : 4 + _packet_size(captured)])


def _numbered(interfaces: list[_Interface], number: int) -> _Interface:
    if number >= len(interfaces):
        raise CaptureError(f"the capture is damaged: it does not describe interface {number} of a packet")
    return interfaces[number]


def _fields(form: str, body: bytes) -> tuple[int, ...]:
    if len(body) < struct.calcsize(form):
        raise CaptureError("the capture is damaged: a block is too short for its type")
    return struct.unpack_from(form, body)
