"""Infos: what the driver tells its owner, as values, and how they are written (stream.py reads them).

An info is ``u8 type, u32 length`` and then ``length`` bytes of data; all integers are little-endian
and nothing is padded (docs/reference/wire.md). Addresses stay the 4 or 16 bytes that they are on the
wire, in network order, because building address objects would cost more than all the rest. Numbers
that the wire allows but nobody has named yet (directions, protocols, …) are kept as they are. Infos are
named tuples, which C can make and read (native/) by the layouts that are written down here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from tidewaiter.protocol import _native
from tidewaiter.protocol.errors import LocalProtocolError

MAX_INFO_LENGTH = 1 << 24
"""The longest data of one info, in bytes: 16 MiB, 300,000 IPv6 connections in one BandwidthStats. It
bounds what a peer can make a reader keep in memory; the wire itself would allow 4 GiB."""


class InfoType(IntEnum):
    """The first byte of an info."""

    LOG_LINE = 0
    CONNECTION_IPV4 = 1
    CONNECTION_IPV6 = 2
    CONNECTION_END_EVENT_V4 = 3
    CONNECTION_END_EVENT_V6 = 4
    BANDWIDTH_STATS_V4 = 5
    BANDWIDTH_STATS_V6 = 6


class Severity(IntEnum):
    """How much a log line matters."""

    TRACE = 1
    DEBUG = 2
    INFO = 3
    WARNING = 4
    ERROR = 5
    CRITICAL = 6


class PayloadLayer(IntEnum):
    """Where the payload of a connection info begins: with the IP header, or with the transport's."""

    NETWORK = 3
    TRANSPORT = 4


class LogLine(NamedTuple):
    """A line of the driver's log. ``severity`` is a `Severity` or another u8."""

    severity: int
    text: str

    @property
    def type(self) -> InfoType:
        """The type number on the wire."""
        return InfoType.LOG_LINE


class ConnectionInfo(NamedTuple):
    """A packet is held under ``id`` (from 1, growing by one) until the owner sends its verdict.

    ``local_ip`` and ``remote_ip`` are 4 or 16 bytes, both alike; ports are host integers, 0 unless TCP
    or UDP. ``payload`` is the held packet from ``payload_layer`` on.
    """

    id: int
    process_id: int
    direction: int
    protocol: int
    local_ip: bytes
    remote_ip: bytes
    local_port: int
    remote_port: int
    payload_layer: int
    payload: bytes

    @property
    def type(self) -> InfoType:
        """The type number on the wire, by the address family."""
        return InfoType.CONNECTION_IPV4 if len(self.local_ip) == 4 else InfoType.CONNECTION_IPV6


class ConnectionEnd(NamedTuple):
    """A connection has ended. Its fields mean what they mean in `ConnectionInfo`."""

    process_id: int
    direction: int
    protocol: int
    local_ip: bytes
    remote_ip: bytes
    local_port: int
    remote_port: int

    @property
    def type(self) -> InfoType:
        """The type number on the wire, by the address family."""
        v4 = len(self.local_ip) == 4
        return InfoType.CONNECTION_END_EVENT_V4 if v4 else InfoType.CONNECTION_END_EVENT_V6


class BandwidthEntry(NamedTuple):
    """Payload bytes of one connection, both ways, since the last GetBandwidthStats."""

    local_ip: bytes
    local_port: int
    remote_ip: bytes
    remote_port: int
    transmitted_bytes: int
    received_bytes: int


class BandwidthStats(NamedTuple):
    """The answer to GetBandwidthStats for one IP ``version`` (4 or 6) and one transport protocol."""

    version: int
    protocol: int
    entries: tuple[BandwidthEntry, ...]

    @property
    def type(self) -> InfoType:
        """The type number on the wire, by the IP version."""
        return InfoType.BANDWIDTH_STATS_V4 if self.version == 4 else InfoType.BANDWIDTH_STATS_V6


class Skipped(NamedTuple):
    """An info that the reader could not read: of an unknown type, or not fitting its type.

    ``length`` is what the header says. ``data`` is all of it, so that the info can be passed on as it
    came, or ``b""`` where it was longer than `MAX_INFO_LENGTH` and was not kept.
    """

    type: int
    length: int
    reason: str
    data: bytes


Info = LogLine | ConnectionInfo | ConnectionEnd | BandwidthStats

HEADER = struct.Struct("<BI")
"""Type and length of the data, before each info."""

Layout = tuple[int, type[tuple[Any, ...]], bytes, int]
"""For C: type number, class, fields, and their size in bytes."""

# The fields of an info whose layout is fixed, in its own order; * is a payload behind its u32 size. Where there are two
# layouts, the key is the length of an address.
_ADDRESS = {4: "4s", 16: "16s"}
_CONNECTION = {n: f"QQBB{ip}{ip}HHB*" for n, ip in _ADDRESS.items()}
_END = {n: f"QBB{ip}{ip}HH" for n, ip in _ADDRESS.items()}


def _struct(fields: str) -> struct.Struct:
    """Beginning with the header, so that one call packs or unpacks both."""
    return struct.Struct("<BI" + fields.replace("*", "I"))


def _layout(number: InfoType, made: type[tuple[Any, ...]], fields: str) -> Layout:
    return int(number), made, fields.encode(), _struct(fields).size - HEADER.size


LOG_LINE = _struct("B")
CONNECTION = {n: _struct(fields) for n, fields in _CONNECTION.items()}
CONNECTION_END = {n: _struct(fields) for n, fields in _END.items()}
BANDWIDTH_STATS = _struct("BI")
BANDWIDTH_ENTRY = {n: struct.Struct(f"<{ip}H{ip}HQQ") for n, ip in _ADDRESS.items()}
FIXED: Mapping[type, tuple[Layout, Layout]] = {
    ConnectionInfo: (
        _layout(InfoType.CONNECTION_IPV4, ConnectionInfo, _CONNECTION[4]),
        _layout(InfoType.CONNECTION_IPV6, ConnectionInfo, _CONNECTION[16]),
    ),
    ConnectionEnd: (
        _layout(InfoType.CONNECTION_END_EVENT_V4, ConnectionEnd, _END[4]),
        _layout(InfoType.CONNECTION_END_EVENT_V6, ConnectionEnd, _END[16]),
    ),
}
"""The layouts that C reads and writes, by class."""


def encode(info: Info | Skipped) -> bytes:
    """The bytes of one info, header included.

    Raises LocalProtocolError where a number is too large for its field, addresses are not of one
    family, or the data would be longer than `MAX_INFO_LENGTH`.
    """
    layouts = FIXED.get(type(info))
    data = None if layouts is None else _native.write(info, layouts, MAX_INFO_LENGTH)
    return encode_one(info) if data is None else data


def encode_one(info: Info | Skipped) -> bytes:
    """`encode` in Python alone: for the infos that C does not know, and for whoever wants to know what is wrong."""
    try:
        data = _ENCODERS[type(info)](info)
    except struct.error as error:
        raise LocalProtocolError(f"{type(info).__name__} does not fit the wire: {error}") from None
    if len(data) > HEADER.size + MAX_INFO_LENGTH:
        raise LocalProtocolError(
            f"{type(info).__name__} has {len(data) - HEADER.size} bytes, more than {MAX_INFO_LENGTH}"
        )
    return data


def _family(local: bytes, remote: bytes) -> int:
    """The length of both addresses; struct would silently pad or cut those of another length."""
    size = len(local)
    if size != len(remote) or size not in _ADDRESS:
        raise LocalProtocolError(f"Addresses of {size} and {len(remote)} bytes are not two of 4 or two of 16")
    return size


def _encode_log_line(info: LogLine) -> bytes:
    # A path that is not UTF-8 reaches us as lone surrogates, and no log line may be lost by them.
    text = info.text.encode("utf-8", "backslashreplace")
    return LOG_LINE.pack(info.type, 1 + len(text), info.severity) + text


def _encode_connection(info: ConnectionInfo) -> bytes:
    layout = CONNECTION[_family(info.local_ip, info.remote_ip)]
    *fields, payload = info
    size = len(payload)
    return layout.pack(info.type, layout.size - HEADER.size + size, *fields, size) + payload


def _encode_end(info: ConnectionEnd) -> bytes:
    layout = CONNECTION_END[_family(info.local_ip, info.remote_ip)]
    return layout.pack(info.type, layout.size - HEADER.size, *info)


def _encode_stats(info: BandwidthStats) -> bytes:
    size = 4 if info.version == 4 else 16
    pack = BANDWIDTH_ENTRY[size].pack
    entries = []
    for local, local_port, remote, remote_port, transmitted, received in info.entries:
        if not len(local) == len(remote) == size:
            raise LocalProtocolError(f"BandwidthStats of IPv{info.version} has an entry of the other family")
        entries.append(pack(local, local_port, remote, remote_port, transmitted, received))
    data = b"".join(entries)
    length = BANDWIDTH_STATS.size - HEADER.size + len(data)
    return BANDWIDTH_STATS.pack(info.type, length, info.protocol, len(entries)) + data


def _encode_skipped(info: Skipped) -> bytes:
    if len(info.data) != info.length:
        raise LocalProtocolError(
            f"A skipped info of {info.length} bytes cannot be sent with the {len(info.data)} that are here"
        )
    return HEADER.pack(info.type, info.length) + info.data


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    ConnectionInfo: _encode_connection,
    ConnectionEnd: _encode_end,
    BandwidthStats: _encode_stats,
    LogLine: _encode_log_line,
    Skipped: _encode_skipped,
}
