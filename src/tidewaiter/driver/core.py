"""The driver: what is known of each connection, what is held, and what follows from a verdict.

No input, no output, no clock: every method takes ``now`` (nanoseconds of a clock that never goes back) and
returns the actions that the host has to carry out, in order. A *flow* is any bytes that name a connection
for the host; the driver only compares them. What it does for each event stands in states.py, as a table.
"""

from __future__ import annotations

from typing import NamedTuple

from tidewaiter.driver import connections
from tidewaiter.driver.connections import ConnectionCache
from tidewaiter.driver.packets import CAPACITY, HeldPacket, PacketCache
from tidewaiter.driver.states import STEPS, Happening, State, Step
from tidewaiter.driver.statistics import Statistics
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.verdict import Verdict

SECOND = 1_000_000_000

# Before Python 3.12 a member costs 100 ns by way of its enum, and every held packet comes by here.
_UNKNOWN, _UNDECIDED, _ASKED, _DECIDED, _ENDED = State
_PACKET, _NEWER_QUESTION = Happening.PACKET, Happening.NEWER_QUESTION
_VERDICT, _ONCE, _NO_VERDICT = Happening.VERDICT, Happening.VERDICT_ONCE, Happening.NO_VERDICT
_ON_PACKET = Happening.VERDICT_ON_PACKET
_BEGIN, _REOPEN, _LEARN = Step.BEGIN, Step.REOPEN, Step.LEARN
_RELEASE, _RELEASE_ALL = Step.RELEASE, Step.RELEASE_ALL


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
        connections: int = connections.CAPACITY,
        events: int = 65536,
    ) -> None:
        """Raises ValueError for a capacity below 1 and for a time-out that decides nothing."""
        if not timeout_verdict.decided:
            raise ValueError("the verdict of a time-out must decide something")
        self.timeout, self.timeout_verdict = timeout, timeout_verdict
        self.statistics = Statistics()
        self.packets = PacketCache(packets)
        self._waiting = self.packets.by_flow
        self._connections = ConnectionCache(connections)
        self.known, self.find = self._connections.by_flow, self._connections.get
        """The connections by flow; the one of a flow, or None."""
        self.number = self._connections.number  # for what is no connection, and is told as one
        self._event_capacity = events
        self._events: list[Event] = []

    # --- what the host tells -------------------------------------------------------------------

    def packet(
        self, flow: bytes, connection: Connection, token: object, payload: bytes, now: int
    ) -> list[Action]:
        """A packet is held. ``connection`` is what the kernel knows of it; a known one goes on as it was.

        ``now`` is when it was held. If its connection was decided under the same policy, it goes by that verdict at
        once: it was held before the kernel knew, or the kernel has forgotten.
        """
        self.statistics.held += 1
        state, it = self._look(flow, connection)
        newer = connection.epoch != it.epoch and not connection.verdict.decided
        steps = STEPS[state][_NEWER_QUESTION if newer else _PACKET]
        if flow in self._connections.used:
            self._connections.use(flow, now)
        if _RELEASE in steps:
            return [Remember(flow, it, it.verdict), self._release(it, token, payload, it.verdict)]
        first = _BEGIN in steps
        actions = self._begin(flow, it, now) if first else []
        it.epoch, it.interface = connection.epoch, connection.interface
        if _REOPEN in steps:
            it.verdict = Verdict.UNDECIDED
        held, evicted = self.packets.add(flow, token, payload, now, connection.interface)
        self._tell(Asked(it, held.id, first, len(self._waiting[flow])))
        if evicted is not None:
            self.statistics.gave_way += 1
            actions.append(Release(evicted.token, passes=False, reject=None))
        return actions

    def decided(self, flow: bytes, connection: Connection, now: int, held: int = 0) -> list[Action]:
        """The kernel has decided it, or the host on sight, after its first packet had waited ``held`` nanoseconds.
        One that was refused at connect has no flow: ``b""``.

        For a known connection the policy has changed; packets held for it get a permanent verdict too. What is known
        already is told once: the host may meet a connection before the kernel's word on it arrives.
        """
        if not flow:
            return self._refused(connection, now)
        state, it = self._look(flow, connection)
        steps = STEPS[state][
            Happening.KERNEL_DECIDES if connection.decided_for_good else Happening.KERNEL_ASKS
        ]
        first = _BEGIN in steps
        actions = self._begin(flow, it, now) if first else []
        news = first or (it.verdict, it.rule, it.epoch) != (
            connection.verdict,
            connection.rule,
            connection.epoch,
        )
        it.verdict, it.rule, it.tier = connection.verdict, connection.rule, connection.tier
        it.decided, it.epoch, it.interface = now, connection.epoch, connection.interface or it.interface
        if _RELEASE_ALL in steps:
            going = self.packets.take_flow(flow)
            actions += [self._release(it, one.token, one.payload, it.verdict) for one in going]
        if news:
            self._tell(Decided(it, held if first else 0, first))
        return actions

    def established(self, flow: bytes, now: int) -> None:
        """The other end has answered."""
        steps = STEPS[self.state(flow)][Happening.ESTABLISHED]
        if Step.TELL_ESTABLISHED in steps and self._connections.establish(flow, now):
            self._tell(Established(self._connections[flow]))

    def counted(self, flow: bytes, sent: int, received: int) -> Connection | None:
        """Totals so far, payload bytes. Returns the connection if it is known and has moved."""
        connection = self._connections.get(flow)
        if connection is None or connection.ended:
            return None
        # never less than before: the kernel's entry may be gone already, or new
        totals = max(connection.sent, sent), max(connection.received, received)
        if (connection.sent, connection.received) == totals:
            return None
        connection.sent, connection.received = totals
        return connection

    def ended(self, flow: bytes, sent: int, received: int, now: int) -> list[Action]:
        """The connection is over, with its totals. What is still held of it is thrown away."""
        steps = STEPS[self.state(flow)][Happening.CLOSED]
        if Step.TELL_ENDED not in steps:
            return []
        connection = self._connections[flow]
        # a connection that was open before us ends without totals: what was counted last holds
        connection.sent, connection.received = max(connection.sent, sent), max(connection.received, received)
        for older in self._connections.end(flow, now):
            self._forget(older, Happening.AGED)
        self._tell(Ended(connection))
        return self._abandon(flow) if Step.ABANDON in steps else []

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
        return self._decide(packet, verdict, now, rule, tier)

    def update(self, flow: bytes, verdict: Verdict, now: int) -> list[Action]:
        """Another verdict for a live connection, from its next packet on; "" is its rule then.

        One that is not permanent forgets what held before: the next packet is asked about. What is held goes by a
        permanent verdict.
        """
        known = self._connections.get(flow)
        lasts = verdict.permanent and known is not None and known.remembers
        steps = STEPS[self.state(flow)][Happening.UPDATE if lasts else Happening.UPDATE_ONCE]
        waits = self.packets.first(flow)
        if Step.RELEASE_ALL in steps and waits is not None:
            return self.verdict(waits, verdict, now, rule="")
        if Step.RENEW not in steps:
            return []
        connection = self._connections[flow]
        connection.rule, connection.tier, connection.decided = "", Tier.PYTHON, now
        connection.verdict = Verdict.UNDECIDED if Step.REOPEN in steps else verdict
        if Step.TELL_DECIDED in steps:
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
        times = [*self._connections.deadlines(), *([oldest.since + self.timeout] if oldest else ())]
        return min(times, default=None)

    def rundown(self, verdict: Verdict, now: int) -> list[Action]:
        """The end: every held packet is resolved by ``verdict``, so that nothing stays pending."""
        actions: list[Action] = []
        while (oldest := self.packets.oldest()) is not None:
            actions += self._decide(oldest, verdict, now, "shutdown", Tier.PYTHON)
        return actions

    def clean_ended(self, now: int) -> None:
        """Forgets what ended more than a minute ago; ends what has no socket that could end, and was idle for ten."""
        for flow in self._connections.take_aged(now):
            self._forget(flow, Happening.AGED)
        for flow in self._connections.idle(now):
            if self.state(flow) is _ASKED:
                self._connections.use(flow, now)
            else:
                self.ended(flow, 0, 0, now)

    # --- what may be asked ---------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What has happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def state(self, flow: bytes) -> State:
        """Where the connection of a flow is (states.py)."""
        known = self._connections.get(flow)
        return State.UNKNOWN if known is None else self._look(flow, known)[0]

    def find_open(self, flow: bytes) -> Connection | None:
        """The same, if it has not ended."""
        known = self._connections.get(flow)
        return None if known is None or known.ended else known

    def flows(self) -> list[tuple[bytes, Connection]]:
        """Every connection that has not ended, oldest first."""
        return list(self._connections.open())

    def payload(self, number: int) -> bytes | None:
        """The packet that is held under an id, whole, until it is decided (GetPayload of the old C driver)."""
        return self.packets.payload(number)

    def describe_memory(self) -> list[str]:
        """How full each store is, a line each."""
        return [
            f"packets: {self.packets.describe()}",
            f"connections: {self._connections.describe()}",
            f"events: {len(self._events)} of {self._event_capacity}",
        ]

    # --- within --------------------------------------------------------------------------------

    def _decide(
        self, it: HeldPacket, verdict: Verdict, now: int, rule: str | None, tier: Tier
    ) -> list[Action]:
        """``rule``: None for the one that said to ask."""
        flow = it.flow
        connection = self._connections[flow]  # there, since what is forgotten leaves no packet behind
        given = (_VERDICT if verdict.permanent else _ONCE) if connection.remembers else _ON_PACKET
        steps = STEPS[_ASKED][given if verdict.decided else _NO_VERDICT]
        if not steps:
            return []
        if _RELEASE_ALL in steps:
            going = self.packets.take_flow(flow)
        else:
            going = [it]
            self.packets.take(it.id)
        if _LEARN in steps:
            last = connection.verdict, connection.rule
            connection.verdict, connection.tier, connection.decided = verdict, tier, now
            connection.rule = connection.rule if rule is None else rule
            if given is _VERDICT or last != (connection.verdict, connection.rule):
                self._tell(Decided(connection, now - going[0].since, first=False))
        actions: list[Action] = [Remember(flow, connection, verdict)]
        for one in going:
            actions.append(self._release(connection, one.token, one.payload, verdict))  # noqa: PERF401 - quicker
        return actions

    def _refused(self, connection: Connection, now: int) -> list[Action]:
        """At connect: it never had two ends, and so no flow. It is known nowhere, and over as it is told."""
        connection.id, connection.opened = self._connections.number(), connection.opened or now
        connection.decided = connection.ended = now
        self._tell(Decided(connection, 0, first=True))
        self._tell(Ended(connection))
        return []

    def _release(self, of: Connection, token: object, payload: bytes, verdict: Verdict) -> Release:
        if verdict.passes:
            self.statistics.released += 1
            return Release(token, passes=True, reject=None)
        self.statistics.refused += 1
        return Release(token, passes=False, reject=payload if verdict.rejects_for(of.direction) else None)

    def _look(self, flow: bytes, told: Connection) -> tuple[State, Connection]:
        """The state of the connection that the host tells of, and itself: as it is known, or as it was told."""
        known = self._connections.get(flow)
        if known is None or known.cookie != told.cookie:  # or its flow was another's
            return _UNKNOWN, told
        if known.ended:
            return _ENDED, told
        if known.decided_for_good:
            return _DECIDED, known
        return _ASKED if flow in self._waiting else _UNDECIDED, known

    def _begin(self, flow: bytes, connection: Connection, now: int) -> list[Action]:
        """Takes up a new connection. Another one on its flow is over, though nobody said so."""
        actions = self.ended(flow, 0, 0, now) if flow in self._connections else []
        connection.id, connection.opened = self._connections.number(), connection.opened or now
        oldest = self._connections.add(flow, connection, now)
        if oldest is not None:
            self.statistics.connections_forgotten += 1
            actions += self._forget(oldest, Happening.EVICTED)
        return actions

    def _forget(self, flow: bytes, why: Happening) -> list[Action]:
        steps = STEPS[self.state(flow)][why]
        actions = self._abandon(flow) if Step.ABANDON in steps else []
        self._connections.remove(flow)
        return actions

    def _abandon(self, flow: bytes) -> list[Action]:
        packets = self.packets.take_flow(flow)
        self.statistics.abandoned += len(packets)
        return [Release(packet.token, passes=False, reject=None) for packet in packets]

    def _tell(self, event: Event) -> None:
        if len(self._events) < self._event_capacity:
            self._events.append(event)
        else:
            self.statistics.events_dropped += 1
