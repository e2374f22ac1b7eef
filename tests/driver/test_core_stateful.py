"""driver/core.py against a model of it, through any sequence of events: small caches, a virtual clock.

The model is a list of connections and a list of waiting packets, searched from end to end. What it expects
of a call are the driver's actions, one by one; besides, `check` holds what must be true whatever it says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from ipaddress import ip_address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from strategies import FUZZ
from tidewaiter.driver import connections as cache
from tidewaiter.driver.core import (
    Action,
    Asked,
    Decided,
    Driver,
    Ended,
    Established,
    Event,
    Release,
    Remember,
    Renew,
)
from tidewaiter.driver.states import State
from tidewaiter.driver.statistics import Statistics
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.verdict import Verdict

KEY = ConnectionKey(Protocol.TCP, ip_address("192.0.2.1"), 4000, ip_address("192.0.2.2"), 443)
MINUTE = 60_000_000_000
IDLE = 10 * MINUTE
ENDED_KEPT = 2
PERMANENT = {
    Verdict.UNDETERMINABLE,
    Verdict.PERMANENT_ACCEPT,
    Verdict.PERMANENT_BLOCK,
    Verdict.PERMANENT_DROP,
    Verdict.REDIRECT_NAME_SERVER,
    Verdict.REDIRECT_TUNNEL,
    Verdict.REDIRECT_SPLIT_TUNNEL,
    Verdict.FAILED,
}
PASSING = {
    Verdict.ACCEPT,
    Verdict.PERMANENT_ACCEPT,
    Verdict.REDIRECT_NAME_SERVER,
    Verdict.REDIRECT_TUNNEL,
    Verdict.REDIRECT_SPLIT_TUNNEL,
}
REJECTING = {Verdict.BLOCK, Verdict.PERMANENT_BLOCK, Verdict.UNDETERMINABLE, Verdict.FAILED}  # what goes out

flows = st.sampled_from([b"a", b"b", b"c", b"d"])
cookies = st.sampled_from([1, 1, 1, 2, 0])  # 0: it has no socket
epochs = st.sampled_from([1, 1, 1, 2])
verdicts = st.sampled_from(Verdict)
answers = st.sampled_from([verdict for verdict in Verdict if verdict is not Verdict.UNDECIDED])
rules = st.none() | st.sampled_from(["r1", "r2"])
Told = tuple[object, ...]


@dataclass(eq=False)
class Known:
    """A connection of the model."""

    number: int
    flow: bytes
    cookie: int
    opened: int
    epoch: int
    used: int
    verdict: Verdict = Verdict.UNDECIDED
    rule: str = ""
    tier: Tier | None = None
    established: int = 0
    ended: int | None = None
    totals: tuple[int, int] = (0, 0)
    heard: int = 0


@dataclass(eq=False)
class Waiting:
    """A held packet of the model."""

    number: int
    of: Known
    token: int
    since: int

    @property
    def payload(self) -> bytes:
        return b"payload %d" % self.token


@dataclass
class Model:
    """What the driver should know, do and tell."""

    packets: int
    connections: int
    event_room: int
    timeout: int
    timeout_verdict: Verdict
    known: list[Known] = field(default_factory=list)
    ended: list[Known] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    did: list[Told] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(asdict(Statistics()), 0))
    connection_ids: int = 0
    packet_ids: int = 0
    heard: int = 0

    def tell(self, *event: object) -> None:
        if len(self.told) < self.event_room:
            self.told.append(event)
        else:
            self.counts["events_dropped"] += 1

    def find(self, flow: bytes) -> Known | None:
        return next((known for known in self.known if known.flow == flow), None)

    def find_open(self, flow: bytes) -> Known | None:
        known = self.find(flow)
        return known if known and known.ended is None else None

    def new(self, flow: bytes, cookie: int, epoch: int, now: int) -> Known:
        self.end(flow, (0, 0), now)
        self.connection_ids += 1
        known = Known(self.connection_ids, flow, cookie, now, epoch, now)
        self.use(known, now)
        self.known = [one for one in self.known if one.flow != flow] + [known]
        if len(self.known) > self.connections:
            forgotten = self.known.pop(0)
            self.counts["connections_forgotten"] += 1
            self.abandon(forgotten)
        return known

    def abandon(self, known: Known) -> None:
        for packet in [packet for packet in self.waiting if packet.of is known]:
            self.waiting.remove(packet)
            self.counts["abandoned"] += 1
            self.did.append(("release", packet.token, False, None))

    def end(self, flow: bytes, totals: tuple[int, int], now: int) -> None:
        known = self.find_open(flow)
        if known is None:
            return
        known.ended = now
        known.totals = (max(known.totals[0], totals[0]), max(known.totals[1], totals[1]))
        self.ended.append(known)
        self.tell("ended", known.number)
        while len(self.ended) > ENDED_KEPT:
            self.forget_ended()
        self.abandon(known)

    def forget_ended(self) -> None:
        known = self.ended.pop(0)
        if known in self.known:
            self.known.remove(known)

    def clean(self, now: int) -> None:
        """What ended a minute ago is forgotten; what has no socket, waits for nothing and was idle for ten, ends."""
        while self.ended and now - (self.ended[0].ended or 0) >= MINUTE:
            self.forget_ended()
        idle = [one for one in self.known if one.cookie == 0 and one.ended is None and now - one.used >= IDLE]
        for known in sorted(idle, key=lambda one: one.heard):
            if any(one.of is known for one in self.waiting):
                self.use(known, now)
            else:
                self.end(known.flow, (0, 0), now)

    def use(self, known: Known, now: int) -> None:
        self.heard += 1
        known.used, known.heard = now, self.heard

    def remember(self, known: Known, verdict: Verdict) -> None:
        self.did.append(("remember", known.flow, known.number, verdict))

    def release(self, token: int, payload: bytes, verdict: Verdict) -> None:
        self.counts["released" if verdict in PASSING else "refused"] += 1
        reject = payload if verdict in REJECTING else None
        self.did.append(("release", token, verdict in PASSING, reject))

    def resolve(self, packet: Waiting, verdict: Verdict, rule: str, tier: Tier, now: int) -> None:
        """A verdict for a packet that waits."""
        known = packet.of
        self.remember(known, verdict)
        everything = [one for one in self.waiting if one.of is known]
        resolved = everything if verdict in PERMANENT else [packet]
        if verdict in PERMANENT:
            known.verdict, known.rule, known.tier = verdict, rule, tier
            self.tell("decided", known.number, now - everything[0].since, False)
        for one in resolved:
            self.waiting.remove(one)
            self.release(one.token, one.payload, verdict)


class DriverMachine(RuleBasedStateMachine):
    """The driver and its model, side by side."""

    @initialize(
        packets=st.integers(1, 4),
        connections=st.integers(1, 4),
        event_room=st.sampled_from([3, 100]),
        timeout=st.sampled_from([5, 20, 2 * MINUTE]),
        timeout_verdict=answers,
    )
    def start(
        self, packets: int, connections: int, event_room: int, timeout: int, timeout_verdict: Verdict
    ) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(cache, "ENDED_CAPACITY", ENDED_KEPT)
        self.driver = Driver(
            packets=packets,
            timeout=timeout,
            timeout_verdict=timeout_verdict,
            connections=connections,
            events=event_room,
        )
        self.model = Model(packets, connections, event_room, timeout, timeout_verdict)
        self.now = 1
        self.tokens = 0

        self.pending: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            self.events_are_read()

    # --- what may happen -------------------------------------------------------------------------

    @rule(flow=flows, cookie=cookies, epoch=epochs, kernel=st.sampled_from([Verdict.UNDECIDED, *Verdict]))
    def packet(self, flow: bytes, cookie: int, epoch: int, kernel: Verdict) -> None:
        connection = _connection(cookie, kernel, epoch)
        self._packet(flow, connection, cookie, kernel)

    @rule(flow=flows)
    def packet_of_which_the_kernel_told_nothing(self, flow: bytes) -> None:
        found = self.driver.find(flow)
        if found is not None and not found.ended:
            self._packet(flow, found, found.cookie, found.verdict)

    def _packet(self, flow: bytes, connection: Connection, cookie: int, kernel: Verdict) -> None:
        self.tokens += 1
        token, payload = self.tokens, b"payload %d" % self.tokens
        self.pending.add(token)
        model = self.model
        model.counts["held"] += 1
        known = model.find_open(flow)
        if (
            known
            and known.cookie == cookie
            and known.verdict in PERMANENT
            and (kernel is not Verdict.UNDECIDED or connection.epoch == known.epoch)
        ):
            model.use(known, self.now)
            model.remember(known, known.verdict)
            model.release(token, payload, known.verdict)
        else:
            first = known is None or known.cookie != cookie
            if known is None or known.cookie != cookie:
                known = model.new(flow, cookie, connection.epoch, self.now)
                known.verdict = Verdict.UNDECIDED
            elif known.verdict in PERMANENT:
                known.verdict = Verdict.UNDECIDED
            known.epoch = connection.epoch
            model.use(known, self.now)
            if len(model.waiting) == model.packets:
                oldest = model.waiting.pop(0)
                model.counts["gave_way"] += 1
                model.did.append(("release", oldest.token, False, None))
            model.packet_ids += 1
            model.waiting.append(Waiting(model.packet_ids, known, token, self.now))
            waiting = sum(one.of is known for one in model.waiting)
            model.tell("asked", known.number, model.packet_ids, first, waiting)
        self.check(self.driver.packet(flow, connection, token, payload, self.now))

    @rule(
        which=st.integers(0, 6),
        verdict=verdicts,
        name=rules,
        tier=st.sampled_from([Tier.PYTHON, Tier.KERNEL]),
    )
    def verdict(self, which: int, verdict: Verdict, name: str | None, tier: Tier) -> None:
        number = self.model.packet_ids - which  # mostly one that waits; sometimes one that never was
        packet = next((one for one in self.model.waiting if one.number == number), None)
        if packet is None:
            self.model.counts["unknown_ids"] += 1
        elif verdict is not Verdict.UNDECIDED:
            self.model.resolve(packet, verdict, packet.of.rule if name is None else name, tier, self.now)
        self.check(self.driver.verdict(number, verdict, self.now, rule=name, tier=tier))

    @rule(flow=flows, verdict=verdicts)
    def update(self, flow: bytes, verdict: Verdict) -> None:
        model, known = self.model, self.model.find_open(flow)
        held = next((one for one in model.waiting if one.of is known), None)
        if held and verdict in PERMANENT:
            model.resolve(held, verdict, "", Tier.PYTHON, self.now)
        elif known:
            known.verdict = verdict if verdict in PERMANENT else Verdict.UNDECIDED
            known.rule, known.tier = "", Tier.PYTHON
            if verdict in PERMANENT:
                model.tell("decided", known.number, 0, False)
            model.did.append(("renew", flow, known.number, verdict))
        self.check(self.driver.update(flow, verdict, self.now))

    @rule(flow=flows, cookie=cookies, epoch=epochs, verdict=verdicts, held=st.integers(0, 2))
    def kernel_decides(self, flow: bytes, cookie: int, epoch: int, verdict: Verdict, held: int) -> None:
        model, known = self.model, self.model.find_open(flow)
        if known and known.cookie == cookie:
            if (known.epoch, known.verdict, known.rule) != (epoch, verdict, "kernel's"):
                model.tell("decided", known.number, 0, False)
            known.epoch = epoch
            known.verdict, known.rule, known.tier = verdict, "kernel's", Tier.KERNEL
            for packet in [one for one in model.waiting if one.of is known and verdict in PERMANENT]:
                model.waiting.remove(packet)
                model.release(packet.token, packet.payload, verdict)
        else:
            known = model.new(flow, cookie, epoch, self.now)
            known.verdict, known.rule, known.tier = verdict, "kernel's", Tier.KERNEL
            model.tell("decided", known.number, held, True)
        connection = _connection(cookie, verdict, epoch)
        connection.rule, connection.tier = "kernel's", Tier.KERNEL
        self.check(self.driver.decided(flow, connection, self.now, held), kernel_knows=True)

    @rule()
    def kernel_refuses_at_connect(self) -> None:
        self.model.connection_ids += 1
        self.model.tell("decided", self.model.connection_ids, 0, True)
        self.model.tell("ended", self.model.connection_ids)
        self.check(self.driver.decided(b"", _connection(0, Verdict.PERMANENT_BLOCK), self.now))

    @rule(flow=flows)
    def established(self, flow: bytes) -> None:
        known = self.model.find_open(flow)
        if known and not known.established:
            known.established = self.now
            self.model.tell("established", known.number)
        self.driver.established(flow, self.now)

    @rule(flow=flows, sent=st.integers(0, 3), received=st.integers(0, 3))
    def counted(self, flow: bytes, sent: int, received: int) -> None:
        known, moved = self.model.find_open(flow), None
        if known:
            totals = max(known.totals[0], sent), max(known.totals[1], received)
            moved = known.number if totals != known.totals else None
            known.totals = totals
        result = self.driver.counted(flow, sent, received)
        assert (result.id if result else None) == moved

    @rule(flow=flows, sent=st.integers(0, 3), received=st.integers(0, 3))
    def ended(self, flow: bytes, sent: int, received: int) -> None:
        self.model.end(flow, (sent, received), self.now)
        self.check(self.driver.ended(flow, sent, received, self.now))

    @rule(duration=st.sampled_from([0, 1, 4, 5, 20, MINUTE - 1, MINUTE, IDLE]), ticks=st.booleans())
    def time_passes(self, duration: int, ticks: bool) -> None:
        self.now += duration
        if not ticks:
            return
        model = self.model
        while model.waiting and self.now - model.waiting[0].since >= model.timeout:
            model.counts["timed_out"] += 1
            model.resolve(model.waiting[0], model.timeout_verdict, "time-out", Tier.PYTHON, self.now)
        model.clean(self.now)
        self.check(self.driver.tick(self.now))
        deadline = self.driver.deadline()
        assert deadline is None or deadline > self.now

    @rule()
    def ended_are_cleaned(self) -> None:
        self.model.clean(self.now)
        self.driver.clean_ended(self.now)
        assert self.model.did == []

    @rule(verdict=answers)
    @precondition(lambda self: self.tokens % 8 == 5)  # now and then, so that something waits
    def shutdown(self, verdict: Verdict) -> None:
        """In the middle: what comes behind it is held again, as by the next owner."""
        while self.model.waiting:
            self.model.resolve(self.model.waiting[0], verdict, "shutdown", Tier.PYTHON, self.now)
        self.check(self.driver.rundown(verdict, self.now))
        assert not self.pending

    @rule()
    def events_are_read(self) -> None:
        assert [_told(event) for event in self.driver.events()] == self.model.told
        self.model.told = []

    # --- what must hold --------------------------------------------------------------------------

    def check(self, actions: list[Action], *, kernel_knows: bool = False) -> None:
        """What came out is what the model did, and right in itself."""
        assert [_did(action) for action in actions] == self.model.did
        self.model.did = []
        remembered: set[Verdict] = set()
        for action in actions:
            if isinstance(action, Remember):
                assert action.verdict is not Verdict.UNDECIDED
                remembered.add(action.verdict)
                continue
            if isinstance(action, Renew):
                continue
            assert isinstance(action, Release)
            assert isinstance(action.token, int)
            self.pending.remove(action.token)  # raises KeyError for a packet that is resolved twice
            if action.passes:
                assert kernel_knows or remembered & PASSING, "released before its verdict was remembered"
                assert action.reject is None

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = self.model.waiting
        assert self.pending == {packet.token for packet in waiting}
        assert len(self.driver.packets) == len(waiting) <= self.model.packets
        for packet in waiting:
            held = self.driver.packets.get(packet.number)
            assert held is not None
            assert (held.token, held.payload, held.since) == (packet.token, packet.payload, packet.since)

    @invariant()
    def statistics_add_up(self) -> None:
        found = asdict(self.driver.statistics)
        assert found == self.model.counts
        resolved = found["released"] + found["refused"] + found["gave_way"] + found["abandoned"]
        assert found["held"] == resolved + len(self.driver.packets)

    @invariant()
    def connections_are_those_of_the_model(self) -> None:
        expected = [_shown(known) for known in self.model.known]
        found = [self.driver.find(known.flow) for known in self.model.known]
        assert [_shown_of(connection) for connection in found if connection] == expected
        unknown = {b"", b"a", b"b", b"c", b"d"} - {known.flow for known in self.model.known}
        assert not any(self.driver.find(flow) for flow in unknown)
        still_open = [(known.flow, known.number) for known in self.model.known if known.ended is None]
        assert [(flow, connection.id) for flow, connection in self.driver.flows()] == still_open

    @invariant()
    def every_connection_is_in_its_state(self) -> None:
        for flow in (b"a", b"b", b"c", b"d"):
            known = self.model.find(flow)
            waits = any(one.of is known for one in self.model.waiting)
            if known is None:
                expected = State.UNKNOWN
            elif known.ended is not None:
                expected = State.ENDED
            elif known.verdict in PERMANENT:
                expected = State.DECIDED
            else:
                expected = State.ASKED if waits else State.UNDECIDED
            assert self.driver.state(flow) is expected
            assert waits == (expected is State.ASKED)

    @invariant()
    def the_deadline_is_right(self) -> None:
        times = [packet.since + self.model.timeout for packet in self.model.waiting]
        times += [(known.ended or 0) + MINUTE for known in self.model.ended]
        times += [one.used + IDLE for one in self.model.known if one.cookie == 0 and one.ended is None]
        assert self.driver.deadline() == min(times, default=None)


def _connection(cookie: int, verdict: Verdict, epoch: int = 1) -> Connection:
    return Connection(id=0, key=KEY, direction=Direction.OUT, cookie=cookie, verdict=verdict, epoch=epoch)


def _did(action: Action) -> Told:
    if isinstance(action, Release):
        return "release", action.token, action.passes, action.reject
    name = "renew" if isinstance(action, Renew) else "remember"
    return name, action.flow, action.connection.id, action.verdict


def _told(event: Event) -> Told:
    number = event.connection.id
    match event:
        case Asked(_, packet, first, waiting):
            return "asked", number, packet, first, waiting
        case Decided(_, held, first):
            return "decided", number, held, first
        case Established():
            return "established", number
        case Ended():
            return "ended", number


def _shown(known: Known) -> Told:
    return (
        known.number,
        known.cookie,
        known.opened,
        known.established,
        known.ended or 0,
        known.verdict,
        known.rule,
        known.tier,
        known.epoch,
        *known.totals,
    )


def _shown_of(connection: Connection) -> Told:
    return (
        connection.id,
        connection.cookie,
        connection.opened,
        connection.established,
        connection.ended,
        connection.verdict,
        connection.rule,
        connection.tier,
        connection.epoch,
        connection.sent,
        connection.received,
    )


DriverMachine.TestCase.settings = settings(max_examples=1000 * FUZZ, stateful_step_count=40, deadline=None)
test_the_driver_is_its_model = DriverMachine.TestCase
