"""Names for connections by their packets: what DNS answers teach, and what clients say first.

Whoever has the packets gives them: a replay all, the live machine those that it has looked at. Where the program is not
known, all that are not have learnt what any of them has; what is forwarded without its program is of the host that
sends it.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass, field

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.model.name import Name
from tidewaiter.model.packet import Packet, TcpFlag
from tidewaiter.names.called import name_of
from tidewaiter.names.exchange import DNS_PORT, Exchange
from tidewaiter.names.readings import Readings
from tidewaiter.names.resolvers import asks_for_others
from tidewaiter.names.table import Asker, Table

EXCHANGES = 1024
"""How many connections to resolvers are followed at once; then what the oldest is answered teaches nothing."""


@dataclass(slots=True)
class _Followed:
    """A connection whose name may still change. ``begins`` has the first sequence number of either side, ours first."""

    connection: Connection
    asker: Asker
    said: Name | None = None
    begins: list[int | None] = field(default_factory=lambda: [None, None])


class Namer:
    """Gives open connections their names (`Connection.name`), by their packets. Times are nanoseconds."""

    def __init__(self) -> None:
        self._table = Table()
        self._readings: Readings[int] = Readings()
        self._followed: dict[int, _Followed] = {}
        self._exchanges: OrderedDict[int, Exchange] = OrderedDict()

    def opened(self, connection: Connection, now: int) -> None:
        """A connection begins, and is called what DNS has taught."""
        key = connection.key
        followed = self._followed[connection.id] = _Followed(connection, _asker(connection))
        if _is_to_resolver(connection):
            self._exchanges[connection.id] = Exchange(key.protocol)
            if len(self._exchanges) > EXCHANGES:
                self._exchanges.popitem(last=False)
        self._table.opened(followed.asker, key.remote, now)
        self._call(followed, now)

    def carried(self, connection: Connection, packet: Packet, ours: bool, now: int) -> None:
        """A packet of it, from our side or from theirs."""
        followed = self._followed.get(connection.id)
        if followed is None:
            return
        offset = _offset(followed, packet, ours)
        data = packet.payload
        if not data or offset is None:
            return
        exchange = self._exchanges.get(connection.id)
        if exchange is not None:
            if ours:
                exchange.asks(data, offset)
            else:
                for message in exchange.answers(data, offset):
                    self._table.learn(followed.asker, message, now)
        elif _is_to_resolver(connection):
            return
        elif followed.said is None and ours == (connection.direction is not Direction.IN):
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
            self._exchanges.pop(connection.id, None)
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


def _is_to_resolver(connection: Connection) -> bool:
    return connection.key.remote_port == DNS_PORT and connection.direction is not Direction.IN


def _asker(connection: Connection) -> Asker:
    key, path = connection.key, connection.process.path
    if not path and connection.direction is Direction.FORWARD:
        return Asker(key.namespace, str(key.local))
    return Asker(key.namespace) if asks_for_others(path) else Asker(key.namespace, path)


def _offset(followed: _Followed, packet: Packet, ours: bool) -> int | None:
    """Where in its stream the payload of a packet begins, 0 for a datagram; None if that cannot be told."""
    if packet.protocol != Protocol.TCP:
        whole = len(packet.payload) == packet.payload_length  # a part of a datagram says nothing
        return 0 if whole else None
    (sequence,) = struct.unpack_from("!I", packet.data, packet.transport_offset + 4)
    if packet.tcp_flags & TcpFlag.SYN:
        sequence += 1
        followed.begins[not ours] = sequence
    begin = followed.begins[not ours]
    if begin is None:
        return None
    offset = (sequence - begin) % 2**32
    return offset if offset < 2**31 else None
