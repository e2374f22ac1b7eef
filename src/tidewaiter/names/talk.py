"""What is said on connections to resolvers, packet by packet or in pieces of packets, and what it teaches.

Whoever has the packets gives them: a replay all of them, the live machine those of connections to port 53.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.names.askers import askers
from tidewaiter.names.beginnings import Beginnings
from tidewaiter.names.exchange import DNS_PORT, Exchange
from tidewaiter.names.table import Table

TALKS = 1024
"""How many connections to resolvers are followed at once; then what the oldest is answered teaches nothing."""

_DATAGRAM = 65535


class Text(NamedTuple):
    """A piece of a packet's payload of ``whole`` bytes, ``at`` bytes from its start. ``ours``: our side sends it.

    ``sequence`` is that of the payload's first byte (TCP), ``begins``: the packet has SYN.
    """

    connection: Connection
    ours: bool
    data: bytes
    at: int = 0
    whole: int = 0
    sequence: int = 0
    begins: bool = False


class _Talk:
    """One connection to a resolver."""

    def __init__(self, protocol: int) -> None:
        self.exchange = Exchange(protocol)
        self.beginnings = Beginnings()
        self._parts = [b"", b""]

    def whole(self, text: Text) -> bytes:
        """The datagram that is complete with this piece of it, or b"". Pieces of another one in between end it."""
        so_far = self._parts[text.ours] if text.at else b""
        if text.at != len(so_far):
            so_far = b""
        elif len(so_far) + len(text.data) < min(text.whole, _DATAGRAM):
            self._parts[text.ours] = so_far + text.data
            return b""
        else:
            so_far += text.data
        self._parts[text.ours] = b""
        return so_far


class Talks:
    """The connections to resolvers, by whatever names them. What they are answered goes into a table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._talks: OrderedDict[Hashable, _Talk] = OrderedDict()

    def __len__(self) -> int:
        return len(self._talks)

    def heard(self, which: Hashable, text: Text, now: int) -> None:
        """Something was said on a connection (`is_to_resolver`). ``now`` is in nanoseconds."""
        protocol = text.connection.protocol
        talk = self._talks.get(which)
        if talk is None:
            talk = self._talks[which] = _Talk(protocol)
            if len(self._talks) > TALKS:
                self._talks.popitem(last=False)
        offset: int | None = 0
        data = text.data
        if protocol != Protocol.TCP:
            data = talk.whole(text)
        else:
            sequence = text.sequence
            if text.begins:
                sequence += 1
                talk.beginnings.begin(text.ours, sequence)
            offset = talk.beginnings.offset(text.ours, sequence + text.at)
        if not data or offset is None:
            return
        if text.ours:
            talk.exchange.asks(data, offset)
            return
        asker = askers(text.connection)[0]
        for message in talk.exchange.answers(data, offset):
            self._table.learn(asker, message, now)

    def ended(self, which: Hashable) -> None:
        """A connection is over."""
        self._talks.pop(which, None)


def is_to_resolver(connection: Connection) -> bool:
    """Whether what is said there is DNS in the clear, for all that can be told."""
    return connection.key.remote_port == DNS_PORT and connection.direction is not Direction.IN
