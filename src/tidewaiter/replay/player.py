"""The player: packets of a capture in, what the driver tells out, by the capture's own clock.

It is to the driver what the live machine is: it tells flows apart, brings the first packet of each connection, and
says when one is established and when it is over. Only TCP and UDP are connections, as on the live machine. A
capture has happened: what the policy would have refused goes on all the same, and is counted to its end.

Which end is ours: the one whose address is in the ``local`` networks, if just one is. Without ``local``, or
with both ends in them, it is the end that began: the sender of the first packet that was captured, or its
receiver when that packet is a SYN with ACK, which is an answer. With neither in them this host forwards it.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tidewaiter.driver.connections import ENDED_CAPACITY
from tidewaiter.driver.core import SECOND, Asked, Driver, Event
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Address, ConnectionKey, Direction, Protocol
from tidewaiter.model.packet import MalformedPacket, Packet, TcpFlag, parse_packet
from tidewaiter.model.process import UNKNOWN
from tidewaiter.model.verdict import Verdict
from tidewaiter.names.namer import Namer
from tidewaiter.policy.classifier import NOWHERE, Classifier
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer, Decision, Facts, World
from tidewaiter.policy.scopes import Network
from tidewaiter.replay.capture import Captured
from tidewaiter.replay.programs import Programs

UDP_IDLE = 60 * SECOND
"""A UDP connection is over when nothing has come of it for so long, in nanoseconds."""

OPEN = 32768
"""How many connections of a protocol are followed; then the one that has been idle longest is over."""

_VERDICTS = {
    Answer.ACCEPT: Verdict.PERMANENT_ACCEPT,
    Answer.LIMIT: Verdict.PERMANENT_ACCEPT,
    Answer.BLOCK: Verdict.PERMANENT_BLOCK,
    Answer.DROP: Verdict.PERMANENT_DROP,
}
_OURS, _THEIRS = 0, 1
_End = tuple[Address, int]


class Said(NamedTuple):
    """What the policy says of a connection. Where it says to ask, the verdict that follows is the default."""

    connection: Connection
    decision: Decision


Happening = Event | Said


@dataclass(slots=True)
class _Traffic:
    """An open connection as its packets show it. The lists have a place for each side."""

    ours: _End
    connection: Connection
    last: int = 0
    carried: list[int] = field(default_factory=lambda: [0, 0])
    expected: list[int | None] = field(default_factory=lambda: [None, None])
    finished: list[bool] = field(default_factory=lambda: [False, False])

    def count(self, packet: Packet, side: int) -> None:
        """Adds the payload. That of TCP is what its sequence has advanced by: nothing counts twice."""
        size = packet.payload_length
        if packet.protocol == Protocol.UDP:
            self.carried[side] += size
            return
        synchronizes = bool(packet.tcp_flags & TcpFlag.SYN)
        if not size and not synchronizes:
            return
        (sequence,) = struct.unpack_from("!I", packet.data, packet.transport_offset + 4)
        begin = sequence + synchronizes
        expected = self.expected[side]
        advance = (begin + size - (begin if expected is None else expected)) % 2**32
        if advance < 2**31:  # else it lies behind (RFC 9293 section 3.4): it was sent before
            self.carried[side] += advance
            self.expected[side] = begin + size


class Player:
    """Plays packets to a driver and answers it by a policy. No input, no output, no clock.

    ``programs`` says which program used a local port. ``on_ask`` is the permanent verdict of a connection
    that the policy would ask about, ``world`` what its rules are looked up in.
    ``ignored`` counts the packets that belong to no connection: of other
    protocols, later fragments, damaged ones.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        programs: Programs | None = None,
        local: Sequence[Network] = (),
        on_ask: Verdict = Verdict.PERMANENT_ACCEPT,
        world: World = NOWHERE,
    ) -> None:
        """Raises ValueError for an ``on_ask`` that is not permanent: a replay asks once."""
        if not on_ask.permanent:
            raise ValueError(f"{on_ask.name} is not permanent, so the same question would come again")
        self.ignored = 0
        self.driver = Driver(connections=2 * OPEN + ENDED_CAPACITY)
        self._classifier = Classifier(policy, world)
        self._namer = Namer()
        self._programs = programs or {}
        self._local = local
        self._on_ask = on_ask
        self._open: dict[int, OrderedDict[bytes, _Traffic]] = {
            Protocol.TCP: OrderedDict(),
            Protocol.UDP: OrderedDict(),
        }
        self._now = 1  # for the driver, 0 is "not yet"
        self._happened: list[Happening] = []

    def packet(self, time: int, data: bytes) -> list[Happening]:
        """An IP packet, and when it was captured (nanoseconds). Time that goes back stands still instead."""
        self._now = max(self._now, time)
        self._end_idle()
        self.driver.tick(self._now)
        self._namer.tick(self._now)
        try:
            packet = parse_packet(data)
        except MalformedPacket:
            packet = None
        if packet is None or packet.protocol not in self._open or packet.later_fragment:
            self.ignored += 1
        else:
            self._follow(_flow(packet), packet)
        return self._told()

    def finish(self) -> list[Happening]:
        """The capture is over, and so is everything that was still open."""
        for flow, connection in self.driver.flows():
            self._end(connection.key.protocol, flow, self._now)
        return self._told()

    # --- a connection's life -----------------------------------------------------------------------------

    def _begins(self, flow: bytes, packet: Packet) -> bool:
        """Whether a packet of no open connection begins one, rather than straggling behind its end."""
        if packet.protocol == Protocol.UDP:
            return True
        if self.driver.find(flow) is not None:
            return packet.tcp_flags & (TcpFlag.SYN | TcpFlag.ACK) == TcpFlag.SYN
        return not packet.tcp_flags & TcpFlag.RST

    def _begin(self, flow: bytes, packet: Packet) -> _Traffic:
        flows = self._open[packet.protocol]
        if len(flows) >= OPEN:
            self._end(packet.protocol, next(iter(flows)), self._now)
        connection = self._connection(packet)
        traffic = flows[flow] = _Traffic((connection.key.local, connection.key.local_port), connection)
        self.driver.packet(flow, connection, None, packet.data, self._now)
        self._namer.opened(connection, self._now)
        self._settle()
        return traffic

    def _connection(self, packet: Packet) -> Connection:
        begins = packet.source, packet.source_port
        answers = packet.destination, packet.destination_port
        handshake = TcpFlag.SYN | TcpFlag.ACK
        if packet.tcp_flags & handshake == handshake:
            begins, answers = answers, begins
        direction, ours, theirs = Direction.OUT, begins, answers
        if self._local and not self._is_local(begins):
            direction = Direction.FORWARD
            if self._is_local(answers):
                direction, ours, theirs = Direction.IN, answers, begins
        key = ConnectionKey(packet.protocol, *ours, *theirs)
        programs = {} if direction is Direction.FORWARD else self._programs
        process = programs.get((packet.protocol, key.local_port), UNKNOWN)
        return Connection(id=0, key=key, direction=direction, process=process)

    def _is_local(self, end: _End) -> bool:
        return any(end[0] in network for network in self._local)

    def _follow(self, flow: bytes, packet: Packet) -> None:
        traffic = self._open[packet.protocol].get(flow)
        if traffic is None:
            if not self._begins(flow, packet):
                return
            traffic = self._begin(flow, packet)
        side = _OURS if (packet.source, packet.source_port) == traffic.ours else _THEIRS
        traffic.last = self._now
        self._open[packet.protocol].move_to_end(flow)
        traffic.count(packet, side)
        self._namer.carried(traffic.connection, packet, side == _OURS, self._now)
        flags = packet.tcp_flags
        if side == _THEIRS and flags & (TcpFlag.ACK | TcpFlag.RST) == TcpFlag.ACK:
            self.driver.established(flow, self._now)
        traffic.finished[side] |= bool(flags & TcpFlag.FIN)
        if all(traffic.finished) or flags & TcpFlag.RST:
            self._end(packet.protocol, flow, self._now)

    def _end_idle(self) -> None:
        datagrams = self._open[Protocol.UDP]
        while datagrams:
            flow, traffic = next(iter(datagrams.items()))
            over = traffic.last + UDP_IDLE
            if over > self._now:
                break
            self._end(Protocol.UDP, flow, over)

    def _end(self, protocol: int, flow: bytes, now: int) -> None:
        traffic = self._open[protocol].pop(flow)
        self._namer.ended(traffic.connection, now)
        self.driver.ended(flow, traffic.carried[_OURS], traffic.carried[_THEIRS], now)

    # --- the owner's part --------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Collects what the driver tells, and answers what it asks."""
        for event in self.driver.events():
            self._happened.append(event)
            if isinstance(event, Asked):
                connection = event.connection
                decision = self._classifier.decide(Facts.of(connection, time=self._now / 1e9))
                self._happened.append(Said(connection, decision))
                verdict = _VERDICTS.get(decision.answer, self._on_ask)
                self.driver.verdict(event.packet, verdict, self._now, rule=decision.rule or "default")

    def _told(self) -> list[Happening]:
        self._settle()
        happened, self._happened = self._happened, []
        return happened


def play(
    capture: Iterable[Captured],
    policy: Policy,
    *,
    programs: Programs | None = None,
    local: Sequence[Network] = (),
    on_ask: Verdict = Verdict.PERMANENT_ACCEPT,
    world: World = NOWHERE,
) -> Iterator[Happening]:
    """What would have happened, and did: see `Player` for the arguments and the module for what is whose.

    Times of connections are those of the capture, in nanoseconds since 1970. Raises CaptureError where the
    capture is damaged, after what came before.
    """
    player = Player(policy, programs=programs, local=local, on_ask=on_ask, world=world)
    for time, data in capture:
        yield from player.packet(time, data)
    yield from player.finish()


def _flow(packet: Packet) -> bytes:
    """The same bytes for both directions of a connection."""
    ends = [
        packet.source.packed + packet.source_port.to_bytes(2, "big"),
        packet.destination.packed + packet.destination_port.to_bytes(2, "big"),
    ]
    return bytes([packet.protocol]) + b"".join(sorted(ends))
