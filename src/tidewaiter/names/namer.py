"""Names for connections by their packets: what DNS answers teach, and what clients say first.

Whoever has the packets gives them: a replay all, the live machine those that it has looked at. Where the program is not
known, all that are not have learnt what any of them has; what is forwarded without its program is of the host that
sends it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.model.name import Name
from tidewaiter.model.packet import Packet, TcpFlag
from tidewaiter.names.askers import askers
from tidewaiter.names.beginnings import Beginnings
from tidewaiter.names.called import name_of
from tidewaiter.names.readings import Readings
from tidewaiter.names.table import Asker, Table
from tidewaiter.names.talk import Talks, Text, is_to_resolver


@dataclass(slots=True)
class _Followed:
    """A connection whose name may still change."""

    connection: Connection
    asker: Asker
    said: Name | None = None
    beginnings: Beginnings = field(default_factory=Beginnings)


class Namer:
    """Gives open connections their names (`Connection.name`), by their packets. Times are nanoseconds."""

    def __init__(self) -> None:
        self._table = Table()
        self._readings: Readings[int] = Readings()
        self._followed: dict[int, _Followed] = {}
        self._talks = Talks(self._table)

    def opened(self, connection: Connection, now: int) -> None:
        """A connection begins, and is called what DNS has taught."""
        key = connection.key
        followed = self._followed[connection.id] = _Followed(connection, askers(connection)[0])
        self._table.opened(followed.asker, key.remote, now)
        self._call(followed, now)

    def carried(self, connection: Connection, packet: Packet, ours: bool, now: int) -> None:
        """A packet of it, from our side or from theirs."""
        followed = self._followed.get(connection.id)
        if followed is None:
            return
        if is_to_resolver(connection):
            self._talks.heard(connection.id, _text(connection, packet, ours), now)
            return
        offset = _offset(followed, packet, ours)
        data = packet.payload
        if (
            data
            and offset is not None
            and followed.said is None
            and ours == (connection.direction is not Direction.IN)
        ):
            self._readings.feed(connection.id, connection.key.protocol, data, now, offset)
            self._settle(now)

    def tick(self, now: int) -> None:
        """Time goes on: what has not been said by now is not waited for."""
        self._readings.expire(now)
        self._settle(now)

    def ended(self, connection: Connection, now: int) -> None:
        """It is over."""
        followed = self._followed.pop(connection.id, None)
        if followed is not None:
            self._readings.ended(connection.id)
            self._talks.ended(connection.id)
            self._table.closed(followed.asker, connection.key.remote, now)

    def _settle(self, now: int) -> None:
        for number, name in self._readings.settled():
            followed = self._followed.get(number)
            if followed is not None:
                followed.said = name
                self._call(followed, now)

    def _call(self, followed: _Followed, now: int) -> None:
        connection = followed.connection
        known = self._table.find(followed.asker, connection.key.remote, now)
        connection.name = name_of(connection, known, followed.said)


def _sequence(packet: Packet) -> int:
    return int(struct.unpack_from("!I", packet.data, packet.transport_offset + 4)[0])


def _text(connection: Connection, packet: Packet, ours: bool) -> Text:
    """A packet as one piece; of a cut datagram one that never becomes whole."""
    if packet.protocol != Protocol.TCP:
        return Text(connection, ours, packet.payload, 0, packet.payload_length)
    begins = bool(packet.tcp_flags & TcpFlag.SYN)
    return Text(connection, ours, packet.payload, 0, packet.payload_length, _sequence(packet), begins)


def _offset(followed: _Followed, packet: Packet, ours: bool) -> int | None:
    """Where in its stream the payload of a packet begins, 0 for a datagram; None if that cannot be told."""
    if packet.protocol != Protocol.TCP:
        whole = len(packet.payload) == packet.payload_length  # a part of a datagram says nothing
        return 0 if whole else None
    sequence = _sequence(packet)
    if packet.tcp_flags & TcpFlag.SYN:
        sequence += 1
        followed.beginnings.begin(ours, sequence)
    return followed.beginnings.offset(ours, sequence)
