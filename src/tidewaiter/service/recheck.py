"""Open connections under a policy that is new: what it refuses is cut at once, the rest does not notice.

The kernel decides each connection anew with its next packet. Here the same is asked of the classifier without waiting
for that packet, a few connections at a time, so that packets that wait for an answer get it meanwhile. Where the policy
says to ask, and where too little is known, nothing is done: the next packet brings the question. What is asked about
already stays so, and an answer to it counts under the new policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tidewaiter.driver.core import Action
from tidewaiter.host.machine import Machine
from tidewaiter.host.owners import Owners
from tidewaiter.kernel import records
from tidewaiter.kernel.records import Flag, Home, Record
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Protocol
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.rule import Decision
from tidewaiter.service.functions import PERMANENT

SLICE = 2_000_000
"""Nanoseconds of work between two looks at the packets that wait."""


class Recheck:
    """One pass over what was open when a policy came into force; `work` until `done`."""

    def __init__(
        self,
        machine: Machine,
        decide: Callable[[Connection], Decision],
    ) -> None:
        """Made right after the policy has come into force. ``decide`` is what it says of a connection."""
        self._machine, self._decide = machine, decide
        self._owners = Owners(machine.installed.kernel)
        self._live = machine.cutter.live()
        self._since = time.monotonic_ns()
        self._epoch = int((machine.installed.kernel.map("config").read(value=0) or {})["epoch"])
        self.done = False

    def work(self) -> list[Action]:
        """Goes on for a `SLICE`; returns what is to be carried out for packets that are held."""
        actions: list[Action] = []
        end = time.monotonic_ns() + SLICE
        while time.monotonic_ns() < end:
            data = next(self._live, None)
            if data is None:
                self.done = True
                break
            record = records.unpack(data)
            # what began later was decided by this policy
            if record.opened < self._since and not record.flags & Flag.OWN:
                actions += self._judge(data, record)
        return actions

    def close(self) -> None:
        """Gives up: another policy has come."""
        self._live.close()
        self.done = True

    def _judge(self, data: bytes, record: Record) -> list[Action]:
        driver, flow = self._machine.driver, data[records.FLOW]
        got_through = self._got_through(record)
        if not got_through and not driver.packets.waiting(flow):
            return []  # refused before: there is nothing to be cut
        connection = records.connection(flow, record, self._owners.of(record))
        if not connection.process.path or connection.key.local.is_unspecified:
            return []
        known = driver.find(flow)
        if known is not None:
            connection.name = known.name
        decision = self._decide(connection)
        verdict = PERMANENT.get(decision.answer)
        if verdict is None or verdict.passes:
            if known is not None and driver.packets.waiting(flow):  # else nobody would take the answer
                known.epoch = self._epoch
                self._machine.known.renew(flow, self._epoch)
            if verdict is Verdict.PERMANENT_ACCEPT and self._would_lose_a_datagram(record):
                self._machine.cutter.keep(data, verdict)
            return []
        actions: list[Action] = []
        if known is not None and known.verdict is not verdict:
            connection.verdict, connection.rule, connection.tier = (
                verdict,
                decision.rule or "default",
                Tier.PYTHON,
            )
            connection.cookie, connection.epoch = known.cookie, self._epoch
            actions = driver.decided(flow, connection, time.monotonic_ns())
        if got_through:
            self._machine.cutter.cut(data)
        return actions

    def _would_lose_a_datagram(self, record: Record) -> bool:
        """Whether it would ask with its next packet, which the gate cannot hold, and nobody sends again."""
        return (
            record.protocol == Protocol.UDP
            and record.home == Home.SOCKET
            and bool(record.flags & Flag.CONNECTED)
            and record.epoch != self._epoch
        )

    def _got_through(self, record: Record) -> bool:
        """Whether packets of it were let through before this policy."""
        if Verdict(record.verdict).passes or (record.protocol == Protocol.TCP and record.established):
            return True
        # the gate has been quicker, and nobody knows what held before
        return record.protocol != Protocol.TCP and record.epoch == self._epoch
