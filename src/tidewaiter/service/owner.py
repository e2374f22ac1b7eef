"""The other end of a device: infos come in, a policy decides, commands go out. No input or output, and no clock.

The wire names a process by its pid alone (docs/reference/wire.md); who that is says ``identify``. It carries no verdict
of the driver's own policy: what is told here is about the connections that were asked about.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import ip_address

from tidewaiter.driver.core import Asked, Decided, Ended, Event
from tidewaiter.driver.statistics import Statistics
from tidewaiter.host.symlinks import Symlinks
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.classifier import NOWHERE, Classifier
from tidewaiter.policy.document import Policy
from tidewaiter.policy.life import Lives
from tidewaiter.policy.rule import Facts, World
from tidewaiter.protocol.command import (
    ClearCache,
    Command,
    GetBandwidthStats,
    GetLogs,
    PrintMemoryStats,
    VerdictCommand,
    encode,
)
from tidewaiter.protocol.info import BandwidthStats, ConnectionEnd, ConnectionInfo, LogLine
from tidewaiter.protocol.stream import InfoDecoder
from tidewaiter.service.functions import PERMANENT, call, functions_of

COUNT_EVERY = 250_000_000
"""Nanoseconds between two questions for the totals of what has ended; an end is told when its totals are there."""

_PATIENCE = 2_000_000_000


class Owner:
    """Decides by ``policy``, whose rules are looked up in ``world``. What it says to ask about waits ``timeout``
    nanoseconds and gets ``on_timeout``.

    It knows at most ``room`` connections: the one that was asked about longest ago is forgotten, and its end not told.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        timeout: int,
        on_timeout: Verdict,
        identify: Callable[[int], Process],
        world: World = NOWHERE,
        room: int = 65536,
    ) -> None:
        self._timeout, self._on_timeout, self._identify, self._room = timeout, on_timeout, identify, room
        self._lives, self._symlinks = Lives(Policy(), 0), Symlinks()
        self._classifier = Classifier(Policy(), world)
        self._use(policy, world)
        self._number = 0
        self._events: list[Event] = []
        self._ended: deque[Connection] = deque()
        self._counted: list[Connection] = []
        self.statistics = Statistics()
        self.restart()

    def restart(self) -> None:
        """Begins a new stream, with a question for the log: by any answer we know that the device is ours."""
        self._counted += self._ended
        self._tell_ended()
        self._decoder = InfoDecoder()
        self._out = bytearray()
        self._known: OrderedDict[ConnectionKey, Connection] = OrderedDict()
        self._waiting: deque[tuple[int, int, Connection]] = deque()  # since when, the packet, of what
        self._ended = deque()
        self._next_count = 0
        self._send(PrintMemoryStats(), GetLogs())

    def load(self, policy: Policy, world: World = NOWHERE) -> None:
        """Another policy: every open connection is asked about again with its next packet."""
        self._use(policy, world)
        self._send(ClearCache())

    def look_into(self, world: World) -> None:
        """The same policy in another world; open connections are asked about again too."""
        self._classifier.look_into(world)
        self._send(ClearCache())

    def _use(self, policy: Policy, world: World) -> None:
        self._functions = functions_of(policy)
        self._lives = Lives(policy, time.time(), self._lives)
        self._classifier.update(self._symlinks.follow(self._lives.policy), world)
        self._silent = {rule.name for rule in policy.rules if not rule.log}

    def receive(self, data: bytes, now: int) -> None:
        """Bytes of the driver."""
        for info in self._decoder.feed(data):
            match info:
                case ConnectionInfo():
                    self._decide(info, now)
                case ConnectionEnd():
                    self._end(info, now)
                case BandwidthStats():
                    self._add_up(info)
                case LogLine():  # it comes behind the totals that were asked for with it
                    self._tell_ended()
                    self._next_count = min(self._next_count, now + COUNT_EVERY)

    def tick(self, now: int) -> None:
        """Answers what has waited too long, and asks for the totals of what has ended."""
        while self._waiting and self._waiting[0][0] + self._timeout <= now:
            since, number, connection = self._waiting.popleft()
            if not connection.ended and connection.decided < since:
                self.statistics.timed_out += 1
                self._answer(number, connection, self._on_timeout, "time-out", now, since)
        if (self._ended or self._counted) and now >= self._next_count:
            self._tell_ended()  # what was asked for has not come: it is told with what is known
            self._counted = list(self._ended)
            self._ended.clear()
            self._next_count = now + _PATIENCE
            if self._counted:
                self._send(GetBandwidthStats(), PrintMemoryStats(), GetLogs())

    def deadline(self) -> int | None:
        """When `tick` has something to do next, in nanoseconds; None for never."""
        times = [self._waiting[0][0] + self._timeout] if self._waiting else []
        if self._ended or self._counted:
            times.append(self._next_count)
        return min(times, default=None)

    def commands(self) -> bytes:
        """What to send, since the last call."""
        taken, self._out = bytes(self._out), bytearray()
        return taken

    def events(self) -> list[Event]:
        """What has happened since the last call, oldest first, but for what rules with ``log = false`` decide."""
        taken, self._events = self._events, []
        return [event for event in taken if event.connection.rule not in self._silent]

    # --- infos ---------------------------------------------------------------------------------

    def _decide(self, info: ConnectionInfo, now: int) -> None:
        self.statistics.held += 1
        key = _key(info)
        connection = self._known.get(key)
        first = connection is None
        if connection is None:
            connection = self._know(key, info, now)
        decision = self._classifier.decide(Facts.of(connection, time=time.time()))
        connection.rule = rule = decision.rule or "default"
        verdict = PERMANENT.get(decision.answer)
        if decision.function:
            verdict = call(self._functions[decision.function], connection, self._on_timeout)
        if verdict is not None:
            self._answer(info.id, connection, verdict, rule, now, now, first=first)
            return
        self._waiting.append((now, info.id, connection))
        if first:
            self._events.append(Asked(connection, info.id, first=True, waiting=1))

    def _know(self, key: ConnectionKey, info: ConnectionInfo, now: int) -> Connection:
        self._number += 1
        direction = Direction.IN if info.direction else Direction.OUT
        process = self._identify(info.process_id)
        connection = Connection(self._number, key, direction, process, tier=Tier.PYTHON, opened=now)
        self._known[key] = connection
        if len(self._known) > self._room:
            self._known.popitem(last=False)
            self.statistics.connections_forgotten += 1
        return connection

    def _answer(
        self,
        number: int,
        connection: Connection,
        verdict: Verdict,
        rule: str,
        now: int,
        since: int,
        *,
        first: bool = False,
    ) -> None:
        self._send(VerdictCommand(number, verdict))
        if verdict.passes:
            self.statistics.released += 1
        else:
            self.statistics.refused += 1
        known, connection.verdict = connection.verdict, verdict
        connection.rule, connection.decided = rule, now
        if first or known is not verdict:  # else it was only asked about once more
            self._events.append(Decided(connection, now - since, first))

    def _end(self, info: ConnectionEnd, now: int) -> None:
        connection = self._known.pop(_key(info), None)
        if connection is None:
            return
        connection.ended = now
        self._ended.append(connection)
        if len(self._ended) > self._room:
            self._events.append(Ended(self._ended.popleft()))

    def _add_up(self, info: BandwidthStats) -> None:
        # with those whose end came while the totals of others were on their way: theirs are among them
        ended = {connection.key: connection for connection in reversed([*self._counted, *self._ended])}
        for entry in info.entries:
            ends = entry.local_ip, entry.local_port, entry.remote_ip, entry.remote_port
            key = _key_of(info.protocol, *ends)
            connection = ended.get(key) or self._known.get(key)
            if connection is not None:
                connection.sent += entry.transmitted_bytes
                connection.received += entry.received_bytes

    def _tell_ended(self) -> None:
        self._events += map(Ended, self._counted)
        self._counted = []

    def _send(self, *commands: Command) -> None:
        for command in commands:
            self._out += encode(command)


def _key(info: ConnectionInfo | ConnectionEnd) -> ConnectionKey:
    return _key_of(info.protocol, info.local_ip, info.local_port, info.remote_ip, info.remote_port)


def _key_of(protocol: int, local: bytes, local_port: int, remote: bytes, remote_port: int) -> ConnectionKey:
    return ConnectionKey(protocol, ip_address(local), local_port, ip_address(remote), remote_port)
