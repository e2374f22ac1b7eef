"""The rules in force: which of them decides a live connection, and which of them have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from tidewaiter.host.endings import Endings
from tidewaiter.host.symlinks import Symlinks
from tidewaiter.model.connection import Connection
from tidewaiter.policy.classifier import Classifier
from tidewaiter.policy.document import Policy
from tidewaiter.policy.life import Lives
from tidewaiter.policy.rule import Decision, Rule, World
from tidewaiter.service.facts import LiveFacts

_REMEMBERED = 4096
"""Names of rules of earlier policies that are kept silent about."""


class Rules:
    """Those of one policy, on this host. Used by one thread.

    What a rule with ``once`` has decided stays decided, if the same connection is asked about again under the same
    policy: more datagrams may come while somebody thinks about the first.
    """

    def __init__(self, policy: Policy, world: World, facts: LiveFacts, before: Rules | None = None) -> None:
        """``before`` are those whose place they are about to take (`enter`)."""
        self._facts = facts
        self._lives: Lives = Lives(policy, time.time(), before._lives if before else None)
        self._endings: Endings[Rule] = before._endings if before else Endings()
        self.symlinks: Symlinks = before.symlinks if before else Symlinks()
        self._here = self.symlinks.follow(self._lives.policy)
        self._world = world
        self._classifier: Classifier = before._classifier if before else Classifier(Policy())
        self._kept: dict[bytes, tuple[int, int, Decision]] = {}
        self._off: list[int] = []
        older: list[str] = []
        if before and before.silent:
            names = {rule.name for rule in policy.rules}
            older = [name for name in before.silent if name not in names]
        self.silent: frozenset[str] = frozenset(rule.name for rule in policy.rules if not rule.log).union(
            older[:_REMEMBERED]
        )
        """The names of rules whose connections are not told of."""

    @property
    def policy(self) -> Policy:
        """The policy as it holds now: rules that have ended are switched off."""
        return self._lives.policy

    @property
    def dimensions(self) -> frozenset[str]:
        """The dimensions that some rule names."""
        return self._classifier.dimensions

    def enter(self) -> None:
        """They are in force from now on; those before them are not."""
        self._classifier.update(self._here, self._world)
        self._facts.use(self.policy)
        self._endings.keep(self._lives.ending.values())

    def look_into(self, world: World) -> None:
        """The same rules in another world."""
        self._world = world
        self._classifier.look_into(world)

    def decide(self, connection: Connection, pending: frozenset[str] = frozenset()) -> Decision:
        """Which rule decides a connection of which a packet waits. Of ``pending`` dimensions more may be known soon."""
        if len(self._endings):
            self._end(self._endings.over())
        cookie, epoch, kept = self._kept.get(connection.flow, _NOTHING)
        if kept is not None and (cookie, epoch) == (connection.cookie, connection.epoch):
            return kept
        decision = self._classifier.decide(self._facts.of(connection, pending))
        if decision.index in self._lives.ending and not decision.missing:
            self._begin(decision, connection)
        return decision

    def decide_open(self, connection: Connection) -> Decision:
        """The same of one that is open, without a packet of it: ``missing`` may say what only that would tell."""
        return self._classifier.decide(self._facts.of_open(connection))

    def ended(self) -> list[int]:
        """The places of rules that have ended since the last call."""
        if len(self._endings):
            self._end(self._endings.over())
        places, self._off = self._off, []
        return places + self._lives.pass_time(time.time())

    def close(self) -> None:
        """Looks after no process any more."""
        self._endings.close()

    def _begin(self, decision: Decision, connection: Connection) -> None:
        """A rule that ends by what it decides has decided this."""
        rule, process = self._lives.ending[decision.index], connection.process
        if rule.until == "once":
            over = True
        elif process.pid and self._lives.begin(decision.index):
            over = not self._endings.watch(rule, process)
        else:
            return
        if over:
            if connection.remembers:
                self._kept[connection.flow] = connection.cookie, connection.epoch, decision
            self._end([rule])

    def _end(self, over: Iterable[Rule]) -> None:
        places = self._lives.end(over)
        if not places:
            return
        self._off += places
        rules = list(self._here.rules)
        for place in places:
            rules[place] = replace(rules[place], enabled=False)
        self._here = replace(self._here, rules=tuple(rules))
        self._classifier.update(self._here)


_NOTHING: tuple[int, int, Decision | None] = (0, 0, None)
