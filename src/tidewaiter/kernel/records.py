"""Between the kernel's structures and the model: connections, events, processes.

Everything is cut out of the bytes by offsets that come from the objects' BTF. The *flow* of a connection, 42 bytes
from ``namespace`` to ``remote_port`` of struct tw_connection, names it; a packet's flow
(`_native.receive`) is the same bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from tidewaiter.kernel import objects
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import HAVE_CONNECTIONS, PROTOCOL, Address, ConnectionKey, Direction, Protocol
from tidewaiter.model.packet import Packet
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict


class Home(IntEnum):
    """Where the verdict of a connection is kept (enum tw_home)."""

    SOCKET = 1
    PEER = 2
    ADDRESSES = 3
    RELEASED = 4


class Flag(IntFlag):
    """enum tw_flag."""

    CONNECTED = 1
    RAW = 2
    REGISTERED = 4
    REPORTED = 8
    MARKER = 16
    OWN = 32
    ADOPTED = 64


class EventKind(IntEnum):
    """enum tw_event_kind."""

    HELD = 1
    DECIDED = 2
    ESTABLISHED = 3
    ENDED = 4
    RELEASED = 5


TIERS = {1: Tier.CACHE, 2: Tier.KERNEL, 3: Tier.PYTHON}
TIER_NUMBERS = {tier: number for number, tier in TIERS.items()}
NO_RULE = 0xFFFFFFFF
SCOPE_NAMESPACE = 1 << 63

_types = objects.types()
CONNECTION = _types.structure("tw_connection")
PROCESS = _types.structure("tw_process")
FLOW_KEY = _types.structure("tw_flow_key")
EVENT = _types.structure("tw_event")
TEXT = _types.structure("tw_text")
CONNECTION_SIZE = CONNECTION.size


def _span(first: str, last: str, size: int) -> slice:
    return slice(CONNECTION.offset(first), CONNECTION.offset(last) + size)


FLOW = _span("namespace", "remote_port", 2)
"""The bytes of struct tw_connection that name it."""

_DIRECTION = CONNECTION.offset("direction")
COOKIE = _span("cookie", "cookie", 8)
OPENED = _span("opened", "opened", 8)
EPOCH = _span("epoch", "epoch", 4)
HOME = CONNECTION.offset("home")
FLAGS = CONNECTION.offset("flags")
CLOSING = CONNECTION.offset("closing")
OVER = 4
"""In `CLOSING`: both ends have said so, or one has reset it (TW_OVER)."""

VERDICT = CONNECTION.offset("verdict")
_RULE_TO_TIER = _span("rule", "tier", 1)
_ANSWER = struct.Struct("<IBB")
_OWNER = struct.Struct("<QQIIII")
EVENT_KIND = EVENT.offset("kind")
"""Where the low byte of an event's kind is: all there is of it."""

_EVENT_START = EVENT.offset("connection_owner_started")
EVENT_CONNECTION = slice(_EVENT_START, _EVENT_START + CONNECTION_SIZE)
EVENT_FLOW = slice(_EVENT_START + FLOW.start, _EVENT_START + FLOW.stop)
_ENDS = struct.Struct("<I16s16s2B2H")  # `FLOW`
_KEY_BY_ADDRESSES = struct.Struct("<Q38s2x")
_KEY_BY_PEER = struct.Struct("<Q16x16sBB2xH2x")
_DIRECTIONS = tuple(Direction)
_VERDICTS = tuple(Verdict)
_TIERS = (None, Tier.CACHE, Tier.KERNEL, Tier.PYTHON)


class Record(NamedTuple):
    """The fields of struct tw_connection in order; ``unpack`` makes one of its bytes."""

    started: int
    cgroup: int
    pid: int
    uid: int
    gid: int
    program: int
    image: int
    version: int
    cookie: int
    opened: int
    established: int
    used: int
    sent: int
    received: int
    epoch: int
    rule: int
    verdict: int
    tier: int
    direction: int
    flags: int
    namespace: int
    local: bytes
    remote: bytes
    family: int
    protocol: int
    local_port: int
    remote_port: int
    home: int
    closing: int = 0


class Event(NamedTuple):
    """What the kernel tells: kind, the connection's bytes, time (ns, CLOCK_MONOTONIC)."""

    kind: int
    connection: bytes
    time: int


def event(data: bytes) -> Event:
    """An event from the ring buffer."""
    return Event(data[EVENT_KIND], data[EVENT_CONNECTION], int.from_bytes(data[:8], "little"))


def unpack(connection: bytes) -> Record:
    """struct tw_connection by its fields."""
    return tuple.__new__(Record, CONNECTION.unpack_tuple(connection))  # `_make` without its call of Python


def address_bytes(value: Address) -> bytes:
    """The inverse of `tidewaiter.model.key.address`."""
    return value.packed.ljust(16, b"\0")


def connection(flow: bytes, record: Record, process: Process, rules: tuple[str, ...] = ()) -> Connection:
    """The model's connection. ``flow`` is the record's, which the connection keeps: one object for all who know it.

    ``rules`` are the names of the rules by number.
    """
    rule = record.rule
    return Connection(
        0,
        flow,
        _DIRECTIONS[record.direction],
        process,
        _VERDICTS[record.verdict],
        rules[rule] if rule < len(rules) else "",
        _TIERS[record.tier],
        record.cookie,
        record.opened,
        record.established,
        0,
        record.sent,
        record.received,
        0,
        record.epoch,
    )


def connection_of_packet(packet: Packet, incoming: bool, namespace: int) -> Connection:
    """A held packet of which the kernel told nothing (its event was lost): known by its addresses alone."""
    here = (packet.destination, packet.destination_port)
    there = (packet.source, packet.source_port)
    if not incoming:
        here, there = there, here
    name = ConnectionKey(packet.protocol, *here, *there, namespace)
    return Connection(id=0, key=name, direction=Direction.IN if incoming else Direction.OUT, process=UNKNOWN)


def name(connection: bytes) -> bytes:
    """What the driver calls a connection: its flow, and its socket where flows have no ports to tell them by."""
    flow = connection[FLOW]
    return flow if flow[PROTOCOL] in HAVE_CONNECTIONS else flow + connection[COOKIE]


def of_connection(known: Connection) -> bytes:
    """struct tw_connection with as much of it as tells where the kernel keeps it: its ends and its socket."""
    data = bytearray(CONNECTION_SIZE)
    data[FLOW], data[COOKIE] = known.flow, known.cookie.to_bytes(8, "little")
    data[_DIRECTION], data[HOME] = known.direction, Home.SOCKET
    return bytes(data)


def flow_of(name: bytes) -> bytes:
    """The flow in a name."""
    return name[: FLOW.stop - FLOW.start]


def reply(flow: bytes) -> bytes:
    """The flow of what comes back."""
    return _ENDS.pack(*(_ENDS.unpack(flow)[at] for at in (0, 2, 1, 3, 4, 6, 5)))


def ends_with_socket(connection: bytes) -> bool:
    """Whether a socket takes it along: datagrams may be for many peers; and so does what was forwarded for one."""
    return connection[FLOW][PROTOCOL] != Protocol.TCP or connection[_DIRECTION] == Direction.FORWARD


def owner(record: Record) -> bytes:
    """What names its process: after an exec it is another program, and it may change user, group and control group."""
    return _OWNER.pack(record.started, record.cgroup, record.pid, record.uid, record.gid, record.image)


def answered(connection: bytes, verdict: Verdict, tier: Tier, rule: int = NO_RULE) -> bytes:
    """The same structure with a verdict in it, to be written back. It stays one of its policy's epoch."""
    answer = _ANSWER.pack(rule, verdict, TIER_NUMBERS[tier])
    return connection[: _RULE_TO_TIER.start] + answer + connection[_RULE_TO_TIER.stop :]


def of_epoch(connection: bytes, epoch: int) -> bytes:
    """The same structure as one of another policy."""
    return connection[: EPOCH.start] + struct.pack("<I", epoch) + connection[EPOCH.stop :]


def key_by_peer(record: Record) -> bytes:
    """struct tw_flow_key of a datagram flow, by its socket and its remote end."""
    return _KEY_BY_PEER.pack(record.cookie, record.remote, record.family, record.protocol, record.remote_port)


def key_by_addresses(flow: bytes) -> bytes:
    """struct tw_flow_key of a connection by its addresses alone."""
    return _KEY_BY_ADDRESSES.pack(SCOPE_NAMESPACE | int.from_bytes(flow[:4], "little"), flow[4:])
