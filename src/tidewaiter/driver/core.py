"""The driver: what is known of each connection, what is held, and what follows from a verdict.

No input, no output, no clock: every method takes ``now`` (nanoseconds of a clock that never goes back) and
returns the actions that the host has to carry out, in order. A *flow* is any bytes that name a connection
for the host; the driver only compares them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import NamedTuple

from tidewaiter.driver.packets import CAPACITY, HeldPacket, PacketCache
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.verdict import Verdict

SECOND = 1_000_000_000
KEEP_ENDED = 60 * SECOND
"""How long an ended connection stays known (portmaster-kext: CleanEndedConnections)."""

ENDED_CAPACITY = 4096
"""How many ended connections are kept; with more of them in a minute, the oldest go sooner."""


class Remember(NamedTuple):
    """Write this verdict into the kernel's cache. Comes before the packets that it releases."""

    flow: bytes
    connection: Connection
    verdict: Verdict


class Renew(NamedTuple):
    """The same for a connection that is decided already: its next packet must meet this verdict."""

    flow: bytes
    connection: Connection
    verdict: Verdict


class Release(NamedTuple):
    """Let a held packet go (``passes``) or throw it away; ``reject``: tell its sender that it was refused."""

    token: object
    passes: bool
    reject: bytes | None


Action = Remember | Renew | Release


class Asked(NamedTuple):
    """A packet of this connection waits for a verdict under the id ``packet``.

    ``first``: nobody has heard of the connection before. ``waiting``: how many of its packets wait, with
    this one; whoever decides whole connections need not ask again above 1.
    """

    connection: Connection
    packet: int
    first: bool
    waiting: int


class Decided(NamedTuple):
    """A verdict holds from now on. ``held`` is how long the first packet waited, in nanoseconds.

    ``first``: the kernel decided by itself, and nobody has heard of the connection before.
    """

    connection: Connection
    held: int
    first: bool


class Established(NamedTuple):
    """The other end has answered (TCP)."""

    connection: Connection


class Ended(NamedTuple):
    """The connection is over and its totals are complete."""

    connection: Connection


Event = Asked | Decided | Established | Ended


@dataclass(slots=True)
class Statistics:
    """What has happened so far. Everything that was not done as asked has a number here.

    Of the packets that were ``held``, some still wait; each of the others was ``released`` or ``refused`` by
    a verdict, ``gave_way`` to a newer one, or was ``abandoned``: its connection ended or was forgotten.
    """

    held: int = 0
    released: int = 0
    refused: int = 0
    gave_way: int = 0
    abandoned: int = 0
    timed_out: int = 0
    unknown_ids: int = 0
    events_dropped: int = 0
    connections_forgotten: int = 0


class Driver:
    """The connection cache, the packet cache and the event queue of one host.

    ``timeout`` (nanoseconds) is how long a packet may wait; then ``timeout_verdict`` decides its connection.
    ``connections`` and ``events`` bound the caches; what is thrown away is counted in ``statistics``.
    """

    def __init__(
        self,
        *,
        packets: int = CAPACITY,
        timeout: int = 30 * SECOND,
        timeout_verdict: Verdict = Verdict.PERMANENT_BLOCK,
        connections: int = 65536,
        events: int = 65536,
    ) -> None:
        """Raises ValueError for a capacity below 1 and for a time-out that decides nothing."""
        if not timeout_verdict.decided:
            raise ValueError("the verdict of a time-out must decide something")
        if connections < 1:
            raise ValueError(f"a connection cache knows at least one connection, not {connections}")
        self.timeout, self.timeout_verdict = timeout, timeout_verdict
        self.statistics = Statistics()
        self.packets = PacketCache(packets)
        self._connections: OrderedDict[bytes, Connection] = OrderedDict()
        self._capacity = connections
        self._event_capacity = events
        self._events: list[Event] = []
        self._ended: deque[tuple[int, bytes, Connection]] = deque()
        self._next_id = 1

    # --- what the host tells -------------------------------------------------------------------

    def packet(
        self, flow: bytes, connection: Connection, token: object, payload: bytes, now: int
    ) -> list[Action]:
        """A packet is held. ``connection`` is what the kernel knows of it; a known one goes on as it was.

        ``now`` is when it was held. If its connection was decided under the same policy, it goes by that verdict at
        once: it was held before the kernel knew, or the kernel has forgotten.
        """
        self.statistics.held += 1
        known = self._open(flow, connection.cookie)
        actions: list[Action] = []
        if known is None:
            actions = self._know(flow, connection, now)
        elif (
            known.verdict.permanent
            and known.remembers
            and (connection.verdict.decided or connection.epoch == known.epoch)
        ):
            return [Remember(flow, known, known.verdict), self._release(token, payload, known.verdict)]
        else:
            known.epoch = connection.epoch
            connection = known
        if connection.verdict.permanent and (known is None or known.remembers):  # the policy has changed
            connection.verdict = Verdict.UNDECIDED
        held, evicted = self.packets.add(flow, token, payload, now)
        self._tell(Asked(connection, held.id, known is None, self.packets.waiting(flow)))
        if evicted is not None:
            self.statistics.gave_way += 1
            actions.append(Release(evicted.token, passes=False, reject=None))
        return actions

    def decided(self, flow: bytes, connection: Connection, now: int, held: int = 0) -> list[Action]:
        """A connection was decided without being held here: by the kernel, or by the host on sight, after its first
        packet had waited ``held`` nanoseconds. One that was refused at connect has no flow: ``b""``.

        For a known connection the policy has changed; packets held for it get a permanent verdict too.
        """
        known = self._open(flow, connection.cookie)
        if known is not None:
            known.verdict, known.rule, known.tier = connection.verdict, connection.rule, connection.tier
            known.decided, known.epoch = now, connection.epoch
            self._tell(Decided(known, 0, first=False))
            if not known.verdict.permanent:
                return []
            return [
                self._release(packet.token, packet.payload, known.verdict)
                for packet in self.packets.take_flow(flow)
            ]
        connection.decided = now
        if flow:
            actions = self._know(flow, connection, now)
            self._tell(Decided(connection, held, first=True))
            return actions
        connection.id = self._number()
        connection.opened = connection.opened or now
        self._tell(Decided(connection, 0, first=True))
        connection.ended = now
        self._tell(Ended(connection))
        return []

    def established(self, flow: bytes, now: int) -> None:
        """The other end has answered."""
        connection = self._open(flow)
        if connection is not None and not connection.established:
            connection.established = now
            self._tell(Established(connection))

    def counted(self, flow: bytes, sent: int, received: int) -> Connection | None:
        """Totals so far, payload bytes. Returns the connection if it is known and has moved."""
        connection = self._open(flow)
        if connection is None or (connection.sent, connection.received) == (sent, received):
            return None
        connection.sent, connection.received = sent, received
        return connection

    def ended(self, flow: bytes, sent: int, received: int, now: int) -> list[Action]:
        """The connection is over, with its totals. What is still held of it is thrown away."""
        connection = self._open(flow)
        if connection is None:
            return []
        # a connection that was open before us ends without totals: what was counted last holds
        connection.sent, connection.received = max(connection.sent, sent), max(connection.received, received)
        connection.ended = now
        self._ended.append((now + KEEP_ENDED, flow, connection))
        if len(self._ended) > ENDED_CAPACITY:
            self._forget_ended()
        self._tell(Ended(connection))
        return self._abandon(flow)

    # --- what the owner says -------------------------------------------------------------------

    def verdict(
        self, number: int, verdict: Verdict, now: int, *, rule: str | None = None, tier: Tier = Tier.PYTHON
    ) -> list[Action]:
        """The owner's answer for the packet with this id. An unknown id is counted and changes nothing.

        A permanent verdict is remembered and lets every packet held for the connection go, in order; another
        one holds for this packet only. UNDECIDED is no answer: the packet goes on waiting.
        """
        packet = self.packets.get(number)
        if packet is None:
            self.statistics.unknown_ids += 1
            return []
        if not verdict.decided:
            return []
        if rule is None:  # the rule that said to ask
            rule = self._connections[packet.flow].rule
        return self._decide(packet, verdict, now, rule, tier)

    def update(self, flow: bytes, verdict: Verdict, now: int) -> list[Action]:
        """Another verdict for a live connection, from its next packet on; "" is its rule then.

        One that is not permanent forgets what held before: the next packet is asked about. What is held goes by a
        permanent verdict.
        """
        connection = self._open(flow)
        if connection is None:
            return []
        waits = self.packets.first(flow)
        if waits is not None and verdict.permanent:
            return self.verdict(waits, verdict, now, rule="")
        connection.rule, connection.tier = "", Tier.PYTHON
        connection.verdict, connection.decided = verdict if verdict.permanent else Verdict.UNDECIDED, now
        if verdict.permanent:
            self._tell(Decided(connection, 0, first=False))
        return [Renew(flow, connection, verdict)]

    def tick(self, now: int) -> list[Action]:
        """Lets go of what has waited too long, and forgets what ended a minute ago."""
        actions: list[Action] = []
        while (oldest := self.packets.oldest()) is not None and oldest.since + self.timeout <= now:
            self.statistics.timed_out += 1
            actions += self._decide(oldest, self.timeout_verdict, now, "time-out", Tier.PYTHON)
        self.clean_ended(now)
        return actions

    def deadline(self) -> int | None:
        """When `tick` has something to do next, in nanoseconds; None for never."""
        oldest = self.packets.oldest()
        times = [oldest.since + self.timeout] if oldest else []
        if self._ended:
            times.append(self._ended[0][0])
        return min(times, default=None)

    def rundown(self, verdict: Verdict, now: int) -> list[Action]:
        """The end: every held packet is resolved by ``verdict``, so that nothing stays pending."""
        actions: list[Action] = []
        while (oldest := self.packets.oldest()) is not None:
            actions += self._decide(oldest, verdict, now, "shutdown", Tier.PYTHON)
        return actions

    def clean_ended(self, now: int) -> None:
        """Forgets what ended more than a minute ago, as `tick` does in time."""
        while self._ended and self._ended[0][0] <= now:
            self._forget_ended()

    # --- what may be asked ---------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What has happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def find(self, flow: bytes) -> Connection | None:
        """The connection of a flow, if it is known."""
        return self._connections.get(flow)

    def flows(self) -> list[tuple[bytes, Connection]]:
        """Every connection that has not ended, oldest first."""
        return [(flow, connection) for flow, connection in self._connections.items() if not connection.ended]

    def describe_memory(self) -> list[str]:
        """How full each store is, a line each."""
        ended = sum(1 for connection in self._connections.values() if connection.ended)
        return [
            f"packets: {len(self.packets)} of {self.packets.capacity} held, "
            f"{self.packets.total_bytes} bytes, {self.packets.most} at the most",
            f"connections: {len(self._connections) - ended} open and {ended} ended of {self._capacity}",
            f"events: {len(self._events)} of {self._event_capacity}",
        ]

    # --- within --------------------------------------------------------------------------------

    def _decide(self, packet: HeldPacket, verdict: Verdict, now: int, rule: str, tier: Tier) -> list[Action]:
        connection = self._connections[packet.flow]  # there, since what is forgotten leaves no packet behind
        if not connection.remembers:
            self._tell_of_packet(connection, verdict, rule, tier, now - packet.since)
        if not verdict.permanent or not connection.remembers:
            self.packets.take(packet.id)
            release = self._release(packet.token, packet.payload, verdict)
            return [Remember(packet.flow, connection, verdict), release]
        held = self.packets.take_flow(packet.flow)
        releases = [self._release(one.token, one.payload, verdict) for one in held]
        connection.verdict, connection.rule, connection.tier, connection.decided = verdict, rule, tier, now
        self._tell(Decided(connection, now - held[0].since, first=False))
        return [Remember(packet.flow, connection, verdict), *releases]

    def _tell_of_packet(
        self, connection: Connection, verdict: Verdict, rule: str, tier: Tier, held: int
    ) -> None:
        """Of packets that are decided one by one, the first is told of, and each that fares otherwise than the last."""
        last = connection.verdict, connection.rule
        connection.verdict, connection.rule, connection.tier = verdict, rule, tier
        if last != (verdict, rule):
            self._tell(Decided(connection, held, first=False))

    def _release(self, token: object, payload: bytes, verdict: Verdict) -> Release:
        if verdict.passes:
            self.statistics.released += 1
            return Release(token, passes=True, reject=None)
        self.statistics.refused += 1
        return Release(token, passes=False, reject=payload if verdict.rejects else None)

    def _open(self, flow: bytes, cookie: int | None = None) -> Connection | None:
        """The connection of a flow that has not ended, if it is known, and is this one."""
        connection = self._connections.get(flow)
        if connection is None or connection.ended or cookie not in (None, connection.cookie):
            return None
        return connection

    def _know(self, flow: bytes, connection: Connection, now: int) -> list[Action]:
        """Takes up a new connection. Another one on its flow is over, though nobody said so."""
        actions: list[Action] = []
        if flow in self._connections:
            actions += self.ended(flow, 0, 0, now)
            del self._connections[flow]
        connection.id = self._number()
        connection.opened = connection.opened or now
        self._connections[flow] = connection
        if len(self._connections) > self._capacity:
            forgotten, _ = self._connections.popitem(last=False)
            self.statistics.connections_forgotten += 1
            actions += self._abandon(forgotten)
        return actions

    def _abandon(self, flow: bytes) -> list[Action]:
        packets = self.packets.take_flow(flow)
        self.statistics.abandoned += len(packets)
        return [Release(packet.token, passes=False, reject=None) for packet in packets]

    def _forget_ended(self) -> None:
        _, flow, connection = self._ended.popleft()
        if self._connections.get(flow) is connection:
            del self._connections[flow]

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _tell(self, event: Event) -> None:
        if len(self._events) >= self._event_capacity:
            self.statistics.events_dropped += 1
            return
        self._events.append(event)
