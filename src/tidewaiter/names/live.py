"""Names while packets are held: what a connection is called now, and whether its first bytes may say more.

A rule that names a host can be decided as soon as the name is known for certain: DNS has taught the program one name
for the address. Where it has taught none, or several, the first bytes tell. So the handshake passes, and the first data
waits until the name is read, or until it is clear that there is none.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from enum import Enum

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import REMOTE, VERSION, Direction, Protocol
from tidewaiter.model.name import By, Name
from tidewaiter.model.packet import MalformedPacket, Packet, TcpFlag, parse_packet
from tidewaiter.names.askers import askers
from tidewaiter.names.beginnings import Beginnings
from tidewaiter.names.called import name_of
from tidewaiter.names.readings import Readings
from tidewaiter.names.table import Known, Table
from tidewaiter.names.talk import Talks, Text, is_to_resolver

BEGINNING = 4096
"""How many connections are followed at once from their handshake to their first bytes; then the oldest has no name."""

NAMED = 65536
"""Of how many open connections it is remembered that they keep the names of their addresses alive."""

_ROUND = 10_000_000_000  # nanoseconds between two looks for names that are over
_SAID = frozenset((By.TLS, By.QUIC, By.HTTP))
_Which = tuple[bytes, int]
"""A connection: its flow, which others may have had before, and its socket."""


class Wait(Enum):
    """What a packet has to wait for, as long as the name of its connection is not certain."""

    HANDSHAKE = 1
    """Nothing: it carries no data, and may pass. The next one is looked at again."""
    MORE = 2
    """For more of what the client says first."""


class LiveNames:
    """The names of live connections. Times are nanoseconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._table = Table()
        self._talks = Talks(self._table)
        self._beginning: OrderedDict[_Which, Beginnings] = OrderedDict()
        self._said: OrderedDict[_Which, Name] = OrderedDict()
        self._readings: Readings[_Which] = Readings()
        self._named: OrderedDict[_Which, None] = OrderedDict()
        self._next_round = 0

    def heard(self, text: Text, now: int) -> None:
        """A program and a resolver have said something to each other."""
        if is_to_resolver(text.connection):
            self._talks.heard(text.connection.flow, text, now)

    def call(self, connection: Connection, now: int) -> None:
        """Gives a connection its name, as far as it is known. What its first bytes said stays."""
        if connection.name.by not in _SAID:
            said = self._said.get(_which(connection)) if self._said else None
            connection.name = name_of(connection, self._known(connection, now), said)

    def look(self, connection: Connection, payload: bytes, now: int) -> Wait | None:
        """What a held packet of a connection has to wait for until the name is certain; None: it is, or will never be.

        ``payload`` is the whole packet. The connection has its name afterwards, as far as it is known.
        """
        self.call(connection, now)
        if connection.direction is Direction.IN or self._is_certain(connection, now):
            return None
        try:
            packet = parse_packet(payload)
        except MalformedPacket:
            return None
        ours = (packet.source_port, packet.source) == (connection.key.local_port, connection.key.local)
        if packet.protocol == Protocol.TCP:
            wait = self._look_at_segment(_which(connection), packet, ours, now)
        elif packet.protocol == Protocol.UDP and ours and len(packet.payload) == packet.payload_length:
            wait = self._read(_which(connection), packet.protocol, packet.payload, 0, now)
        else:
            wait = None
        if wait is None:
            self.call(connection, now)
        return wait

    def waits(self, connection: Connection) -> bool:
        """Whether its name is still looked for."""
        which = _which(connection)
        return which in self._beginning or which in self._readings

    def opened(self, connection: Connection, now: int) -> None:
        """It is known from now on until `ended`: as long the address keeps its names."""
        which = _which(connection)
        if which in self._named or not self._known(connection, now):
            return
        self._named[which] = None
        self._table.opened(askers(connection)[0], connection.key.remote, now)
        if len(self._named) > NAMED:
            self._named.popitem(last=False)  # its names stay for good: the table's own bounds hold

    def ended(self, connection: Connection, now: int) -> None:
        """It is over."""
        which = _which(connection)
        self._forget(which)
        self._talks.ended(connection.flow)
        self._said.pop(which, None)
        if which in self._named:
            del self._named[which]
            self._table.closed(askers(connection)[0], connection.key.remote, now)

    def late(self, now: int) -> list[bytes]:
        """The flows of the connections whose first bytes are not waited for any more: they have what name they have."""
        self._readings.expire(now)
        if now >= self._next_round:
            self._next_round = now + _ROUND
            self._table.expire(now)
        return self._settle()

    @property
    def deadline(self) -> int | None:
        """When `late` has something to tell next, or None."""
        return self._readings.deadline

    # --- within --------------------------------------------------------------------------------

    def _known(self, connection: Connection, now: int) -> tuple[Known, ...]:
        if not self._table:
            return ()
        flow = connection.flow
        address = flow[REMOTE]
        if flow[VERSION] == 4:
            address = address[:4]
        for asker in askers(connection):
            known = self._table.find_packed(asker, address, now)
            if known:
                return known
        return ()

    def _is_certain(self, connection: Connection, now: int) -> bool:
        """Whether the first bytes could say nothing else: they have spoken, or DNS gave the program this one name."""
        if connection.name.by in _SAID or _which(connection) in self._said:
            return True
        known = self._known(connection, now)
        return len(known) == 1 and known[0].own

    def _look_at_segment(self, which: _Which, packet: Packet, ours: bool, now: int) -> Wait | None:
        (sequence,) = struct.unpack_from("!I", packet.data, packet.transport_offset + 4)
        if packet.tcp_flags & TcpFlag.SYN:
            sequence += 1
            if ours:
                self._begin(which).begin(ours, sequence)
        beginnings = self._beginning.get(which)
        if beginnings is None:
            return None  # its first bytes have passed long ago
        if not packet.payload_length:
            return Wait.HANDSHAKE
        offset = beginnings.offset(ours, sequence)
        if not ours or offset is None:  # the server speaks first: no name will be said
            self._forget(which)
            return None
        return self._read(which, Protocol.TCP, packet.payload, offset, now)

    def _read(self, which: _Which, protocol: int, data: bytes, offset: int, now: int) -> Wait | None:
        self._readings.feed(which, protocol, data, now, offset)
        self._settle()
        return None if which in self._said else Wait.MORE

    def _settle(self) -> list[bytes]:
        flows = []
        for which, name in self._readings.settled():
            self._beginning.pop(which, None)
            self._said[which] = name
            if len(self._said) > BEGINNING:
                self._said.popitem(last=False)
            flows.append(which[0])
        return flows

    def _begin(self, which: _Which) -> Beginnings:
        self._forget(which)  # a connection of before, with the same ends
        self._said.pop(which, None)
        beginnings = self._beginning[which] = Beginnings()
        if len(self._beginning) > BEGINNING:
            self._beginning.popitem(last=False)
        return beginnings

    def _forget(self, which: _Which) -> None:
        self._beginning.pop(which, None)
        self._readings.ended(which)


def _which(connection: Connection) -> _Which:
    return connection.flow, connection.cookie
