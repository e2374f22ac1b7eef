"""The live machine as the driver sees it: kernel events and held packets in, actions out.

`collect` feeds what has happened to the driver, `carry_out` does what the driver answers. Events are read after the
packets: the kernel tells whose a packet is before it queues it, so by then every packet has its owner.
"""

from __future__ import annotations

import select
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import takewhile
from typing import cast

from tidewaiter.driver.core import Action, Driver, Release, Remember, Renew
from tidewaiter.host.admission import Admission
from tidewaiter.host.closed import Closed
from tidewaiter.host.counters import Counters
from tidewaiter.host.cut import Cutter
from tidewaiter.host.install import Installed
from tidewaiter.host.interfaces import Interfaces
from tidewaiter.host.known import Known, Sighted
from tidewaiter.host.owners import Owners
from tidewaiter.host.questions import AGE, Questions
from tidewaiter.host.queue import NF_ACCEPT, NF_DROP, Hook
from tidewaiter.host.refusal import Refusals
from tidewaiter.host.snapshot import open_connections
from tidewaiter.host.told import Told
from tidewaiter.host.verdict_cache import VerdictCache
from tidewaiter.host.wake import Wake
from tidewaiter.kernel import records
from tidewaiter.kernel.records import EventKind, Home, Record
from tidewaiter.kernel.ring import Ring
from tidewaiter.kernel.totals import Totals
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import HAVE_CONNECTIONS, PROTOCOL, Protocol
from tidewaiter.model.packet import MalformedPacket, parse_packet
from tidewaiter.model.verdict import Verdict

RING_BYTES = 4 << 20
IDLE = 0.1
"""Seconds between two looks at the events that do not wake us."""

LINGER = 50
"""Microseconds to stay awake behind a packet."""

_KEPT = 8192
_STRETCH = 1_000_000  # nanoseconds for which `collect` goes on while nothing comes that others have to act on
_PYTHON = Tier.PYTHON  # before Python 3.12 a member costs 100 ns by way of its enum
_HELD, _ENDED, _FORWARD = int(EventKind.HELD), int(EventKind.ENDED), int(Hook.FORWARD)
_RELEASED = int(Home.RELEASED)
_EVENT_HOME = records.EVENT_CONNECTION.start + records.HOME

Token = tuple[int, int]
"""A held packet: number of its queue, and the kernel's id of it."""

Answers = defaultdict[int, list[tuple[int, int]]]
"""Netfilter verdicts by queue: the kernel's id of the packet, and NF_ACCEPT or NF_DROP."""

Judge = Callable[[Connection, bytes], Verdict | None]
"""Answers for a connection and its held packet at once, or with None if that takes longer."""


class Machine:
    """The I/O of one installed firewall. Used by one thread; `wake` may be called from any."""

    def __init__(self, installed: Installed, driver: Driver, *, quiet: bool) -> None:
        self.installed, self.driver = installed, driver
        self._quiet = quiet  # nobody listens to events
        kernel = installed.kernel
        self._verdicts, self._questions = VerdictCache(kernel), Questions(kernel)
        self._counters, self._admission = Counters(kernel), Admission(kernel)
        self._ring = Ring(kernel.map("events").fd, RING_BYTES)
        if installed.taken_over:
            self._ring.skip()
        self._totals, self._owners = Totals(kernel), Owners(kernel)
        self._queues = installed.queues
        holds = installed.state.hold_rules()
        self._refusals = Refusals(rules.where for rules, _ in holds)
        self.cutter = Cutter(installed, self._verdicts, self._totals)
        self.interfaces = Interfaces([rules.where for rules, _ in holds])
        self._wake = Wake()
        self._poll = select.epoll()
        self._poll.register(self._wake.fileno(), select.EPOLLIN)
        for queue in self._queues:
            self._poll.register(queue.fileno(), select.EPOLLIN)
        self.known = Known(driver.find)
        self._held = Told(_KEPT)
        self._backlog: list[bytes] = []
        self._sighted: dict[bytes, Sighted] = {}
        self.busy = False
        self.judged: dict[int, Verdict | None] = {}
        """What was said on sight about packets that are held since the last `collect`, by their id."""
        # more than these, and some certainly wait for nothing any more
        self._closed = Closed(_KEPT + driver.packets.capacity)
        self._answered = 0
        self.name_rules(installed.state.rules)

    def name_rules(self, names: tuple[str, ...]) -> None:
        """The names of the rules in force, by their number."""
        self._rule_names = names
        # the first of those that have one name; bits without a rule have none
        self._rule_numbers = dict(zip(names[::-1], range(len(names) - 1, -1, -1), strict=True))
        self._rule_numbers.pop("", None)

    # --- waiting -------------------------------------------------------------------------------

    def wait(self, timeout: float) -> None:
        """Waits for a packet, a `wake`, or ``timeout`` seconds. Behind a packet `collect` waits for the next."""
        if self.busy:
            return
        for fd, _ in self._poll.poll(min(timeout, IDLE)):
            if fd == self._wake.fileno():
                self._wake.clear()

    def wake(self) -> None:
        """Makes `wait` return; safe from any thread."""
        self._wake.set()

    # --- in ------------------------------------------------------------------------------------

    def collect(self, judge: Judge) -> list[Action]:
        """Answers or holds the packets that have come since the last call, and those that come right behind them.

        A new connection about which ``judge`` gives a permanent verdict at once is answered here and now, while its
        program waits; the driver hears of it in `settle`, with everything else. The others are held.
        """
        actions: list[Action] = []
        self.judged.clear()
        now = time.monotonic_ns()
        until = now + _STRETCH
        while self._answer_next(judge, actions, now) and now < until:
            now = time.monotonic_ns()
        return actions

    def _answer_next(self, judge: Judge, actions: list[Action], now: int) -> bool:
        """One batch. Returns whether there was one and all of it was answered on sight: then no one else has to act."""
        # behind a packet often comes the next; to be woken for it would take longer than to decide
        linger = LINGER // len(self._queues) if self.busy else 0
        self._admission.begin()
        batches = []
        for queue in self._queues:
            batches.append(queue.receive(linger))  # noqa: PERF401 - quicker
        if events := self._ring.hear(self._held, self._sighted, self.driver.known, self._quiet, _KEPT):
            actions += self._sort(events)
        self.busy, on_sight = False, not actions
        for number, batch in enumerate(batches):
            answers = []
            for packet, hook, ends, payload, index in batch:
                self.busy = True
                flow = self._held.through(ends, self.driver.known) if hook == _FORWARD else ends
                through = self.interfaces.name(number, index)
                if flow in self._sighted and self._held.is_behind(flow, self._sighted[flow][0]):
                    connection = self._sighted[flow][1]
                    verdict = connection.verdict
                else:
                    if flow in self._sighted:  # of another socket, which has the same ends now
                        actions += self.settle()
                    data, since = self._held.take(flow) or (None, now)
                    old = flow in self.driver.known and self.driver.find_open(flow) is not None
                    if old or data is None or flow[PROTOCOL] not in HAVE_CONNECTIONS or data[records.CLOSING]:
                        on_sight = False
                        actions += self._hold((number, packet), hook, flow, data, payload, since, through)
                        continue
                    connection = self._owners.connection(flow, data, self._rule_names)
                    connection.interface = through
                    judged = judge(connection, payload)
                    if judged is None or not judged.permanent:
                        on_sight = False
                        self.known.ask(flow, data)
                        actions += self.driver.packet(flow, connection, (number, packet), payload, since)
                        self.judged[self.driver.packets.newest] = judged
                        continue
                    verdict = connection.verdict = judged
                    connection.tier = _PYTHON
                    self._verdicts.write(data, connection, verdict, self._rule_numbers)
                    self._sighted[flow] = data, connection, since
                passes = verdict.passes
                answers.append((packet, NF_ACCEPT if passes else NF_DROP))
                if not passes and verdict.rejects_for(connection.direction):
                    self._refusals.waiting.append((number, payload))
            if answers:
                self._answered += len(answers)
                self._queues[number].answer(answers)
        if self._refusals.waiting:
            self._refusals.send()
        self._admission.end(batches, self.driver.statistics.gave_way, now)
        return self.busy and on_sight

    def settle(self) -> list[Action]:
        """Tells the driver of everything else that has happened since the last call."""
        actions: list[Action] = []
        now = time.monotonic_ns()
        sighted, self._sighted = self._sighted, {}
        for flow, (data, connection, since) in sighted.items():
            self.known.put(flow, data)
            actions += self.driver.decided(flow, connection, now, now - since)
        backlog, self._backlog = self._backlog, []
        for data in backlog:
            actions += self._event(*records.event(data))
        self._clear_lost(now)
        for flow, data, closed in self._closed.over(now, self._waited_for):
            actions += self._over(flow, data, closed)
        self.known.trim()
        return actions

    def _clear_lost(self, now: int) -> None:
        """What was told of packets a while ago, and has not come though the queue is empty, was dropped on its way."""
        if not self.busy:
            lost = takewhile(lambda held: held[1][1] + AGE <= now, self._held.items())
            for flow in [flow for flow, _ in lost]:
                self._held.forget(flow)
        wanted = self.driver.packets.by_flow
        self._questions.clear(now, lambda name: name in wanted or name in self._closed, idle=not self.busy)

    @property
    def unsettled(self) -> int:
        """How much `settle` has to do."""
        return len(self._backlog) + len(self._sighted)

    def count(self) -> list[Connection]:
        """Asks the kernel for the totals of every connection; returns those that have moved."""
        ending = self.known.ending_with_sockets()
        totals = {flow: self._verdicts.total(data) for flow, data in ending}
        for data in self._totals.read():  # what a socket has counted goes before what is said of its flow
            record = records.unpack(data)
            totals[data[records.FLOW]] = record.sent, record.received
        moved = [self.driver.counted(flow, sent, received) for flow, (sent, received) in totals.items()]
        return [connection for connection in moved if connection is not None]

    def meet(self) -> list[Action]:
        """Tells the driver of the connections that were open before us: adopted, or taken over."""
        actions: list[Action] = []
        now = time.monotonic_ns()
        for data in open_connections(self.installed.kernel, self._totals):
            flow = data[records.FLOW]
            connection = self._connection(flow, data)
            if connection.verdict.decided:
                self.known.put(flow, data)
                actions += self.driver.decided(flow, connection, now)
        return actions

    def _sort(self, events: list[bytes]) -> list[Action]:
        """Finds the owners of held packets among the events that `Ring.hear` has left; the rest waits for `settle`.

        Most connections of a busy host are short: when nobody listens, one that ended before its beginning was
        settled needs no settling at all.
        """
        actions: list[Action] = []
        for data in events:
            kind, flow = data[records.EVENT_KIND], data[records.EVENT_FLOW]
            if kind == _ENDED and self._quiet and flow in self._sighted and data[_EVENT_HOME] != _RELEASED:
                del self._sighted[flow]
                continue
            if kind != _HELD:
                self._backlog.append(data)
                continue
            if flow in self._sighted or self.driver.find_open(flow) is not None:
                actions += self.settle()  # its addresses were another's, whose end may be here
            self._held.add(flow, (data[records.EVENT_CONNECTION], int.from_bytes(data[:8], "little")))
        return actions

    def _event(self, kind: int, data: bytes, now: int) -> list[Action]:
        if kind == EventKind.RELEASED:
            return self._released(records.unpack(data), now)
        flow = data[records.FLOW]
        if kind == EventKind.ESTABLISHED:
            known = self.driver.find_open(flow)
            if known is not None:  # what came in has its own socket now
                self.known.put(flow, data)
                known.cookie = int.from_bytes(data[records.COOKIE], "little")
            self.driver.established(flow, now)
            return []
        if kind == EventKind.ENDED:
            return self._close(flow, data, now)
        name = records.name(data)
        connection = self._connection(name, data)
        if connection.verdict is Verdict.PERMANENT_BLOCK:
            key = connection.key
            if not int(key.local) or (not key.local_port and connection.remembers):
                return self.driver.decided(b"", connection, now)  # refused at connect: it never had two ends
        self.known.put(name, data)
        return self.driver.decided(name, connection, now)

    def _hold(
        self, token: Token, hook: int, flow: bytes, data: bytes | None, payload: bytes, now: int, through: str
    ) -> list[Action]:
        """A packet of a connection that is known already, or of which the kernel told nothing."""
        if data is not None:
            name = records.name(data)
            before = self._closed.meet(name, data, now)
            actions = self._over(name, *before) if before else []
            self.known.ask(name, data)
            asked = self._connection(name, data, through)
            return actions + self.driver.packet(name, asked, token, payload, now)
        known = self.driver.find(flow)
        if known is None and (data := self._questions.search(flow)):
            return self._hold(token, hook, flow, data, payload, now, through)
        if known is None:
            try:
                packet = parse_packet(payload)
            except MalformedPacket:
                return [Release(token, passes=False, reject=None)]  # not IP: the kernel would drop it too
            known = records.connection_of_packet(packet, hook == Hook.LOCAL_IN, token[0] + 1)
        known.interface = through
        return self.driver.packet(flow, known, token, payload, now)

    def _connection(self, name: bytes, data: bytes, through: str = "") -> Connection:
        made = self._owners.connection(records.flow_of(name), data, self._rule_names)
        made.interface = through
        return made

    def _released(self, record: Record, now: int) -> list[Action]:
        actions: list[Action] = []
        for flow in self.known.of_socket(record.cookie):
            data = self.known.get(flow)
            # what is forwarded and passes ends when both ends have said so, with all that was on its way
            if data and not (flow[PROTOCOL] == Protocol.TCP and self._verdicts.ends_by_itself(data)):
                actions += self._close(flow, data, now)
        return actions

    def _waited_for(self, flow: bytes) -> bool:
        return records.flow_of(flow) in self._held or self.driver.packets.waiting(flow) > 0

    def _close(self, flow: bytes, data: bytes, now: int) -> list[Action]:
        """A connection has ended. Held datagrams, and what is forwarded, go by their verdict: only then it is over."""
        if (flow[PROTOCOL] != Protocol.TCP or data[records.CLOSING]) and self._waited_for(flow):
            self._closed.add(flow, data, now)
            return []
        return self._over(flow, data, now)

    def _over(self, flow: bytes, data: bytes, now: int) -> list[Action]:
        if self.driver.find(flow) is None and self.known.get(flow) is None:
            self._verdicts.forget_question(data)  # its packet was dropped on its way: nobody has heard of it
            return []
        record = records.unpack(data)
        sent, received = record.sent, record.received
        self.known.remove(flow)
        self._closed.forget(flow)
        if records.ends_with_socket(data):
            counted = self._verdicts.total(data)
            sent, received = max(sent, counted[0]), max(received, counted[1])
            self._verdicts.forget(data)
        return self.driver.ended(flow, sent, received, now)

    # --- out -----------------------------------------------------------------------------------

    def carry_out(self, actions: Iterable[Action]) -> None:
        """Writes verdicts into the kernel, releases packets, and tells who was refused.

        A verdict is written before the packets that it releases, and they are gone before the next one of the same
        connection is.
        """
        answers: Answers = defaultdict(list)
        written: set[bytes] = set()
        for action in actions:
            if type(action) is Remember:
                if action.flow in written:
                    self._answer(answers)
                written.add(action.flow)
                data = self.known.asked.get(action.flow)
                if data is not None:  # else its event was lost: the verdict holds for what was held
                    self._verdicts.write(data, action.connection, action.verdict, self._rule_numbers)
                    if action.connection.decided_for_good and data[records.HOME] != _RELEASED:
                        del self.known.asked[action.flow]
                continue
            if type(action) is Renew:
                if (data := self.known.get(action.flow)) is not None:
                    self.cutter.renew(data, action)
                continue
            assert isinstance(action, Release)
            number, packet = cast("Token", action.token)
            answers[number].append((packet, NF_ACCEPT if action.passes else NF_DROP))
            if action.reject is not None:
                self._refusals.waiting.append((number, action.reject))
        self._answer(answers)
        self._refusals.send()

    def _answer(self, answers: Answers) -> None:
        for number, verdicts in answers.items():
            self._queues[number].answer(verdicts)
        answers.clear()

    def statistics(self) -> dict[str, int]:
        """The driver's counters and the kernel's, by name."""
        ours = {"answered": self._answered, "cut": self.cutter.count}
        return asdict(self.driver.statistics) | self._counters.read() | ours

    def close(self) -> None:
        """Closes what is ours; what was installed stays as it is."""
        self._totals.close()
        self._ring.close()
        self._admission.close()
        self._poll.close()
        self._wake.close()
        self.cutter.close()
        self.interfaces.close()
        self._refusals.close()
