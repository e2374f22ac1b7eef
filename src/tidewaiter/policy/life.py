"""How long the rules of a policy live: what ``until`` says.

A date is a dimension like any other. A duration becomes a date when its rule is first in force. A rule with ``once``
or ``process-end`` begins to end with the first connection that it decides: then, or with the program of that
connection, it is switched off. A rule goes on with its life in every later policy that has the very same rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Self

from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Rule
from tidewaiter.policy.words import ENDING, duration


class Lives:
    """The lives of the rules of one policy. ``policy`` is what holds of it now: durations are dates, and rules that
    have ended are switched off.
    """

    def __init__(self, policy: Policy, now: float, before: Self | None = None) -> None:
        """``now`` is in seconds since 1970; ``before`` are those of the policy whose place this one takes."""
        self._dates: dict[Rule, float] = {}
        self._over: set[Rule] = set()
        self._begun: set[Rule] = set()
        self.ending: dict[int, Rule] = {}
        """The rules that end by what they decide, by their place: those that have not ended yet."""
        self._due: list[tuple[float, int]] = []
        mortal = {place: rule for place, rule in enumerate(policy.rules) if rule.until}
        self.policy = policy
        if mortal:
            rules = list(policy.rules)
            for place, rule in mortal.items():
                rules[place] = self._enter(place, rule, now, before)
            self.policy = replace(policy, rules=tuple(rules))
        self._due.sort(reverse=True)

    def begin(self, place: int) -> bool:
        """The rule at a place of `ending` has decided a connection. Whether it is the first."""
        rule = self.ending[place]
        if rule in self._begun:
            return False
        self._begun.add(rule)
        return True

    def end(self, rules: Iterable[Rule]) -> list[int]:
        """Some of the rules of `ending` have ended; returns their places, and switches them off in ``policy``."""
        gone = set(rules)
        self._over |= gone
        places = [place for place, rule in self.ending.items() if rule in gone]
        if places:
            changed = list(self.policy.rules)
            for place in places:
                changed[place] = replace(self.ending.pop(place), enabled=False)
            self.policy = replace(self.policy, rules=tuple(changed))
        return places

    def pass_time(self, now: float) -> list[int]:
        """The places of the rules whose date has passed since the last call; no connection matches them any more."""
        places = []
        while self._due and int(self._due[-1][0]) <= now:
            places.append(self._due.pop()[1])
        return places

    def _enter(self, place: int, rule: Rule, now: float, before: Self | None) -> Rule:
        life = rule.until
        if seconds := duration(life):
            life = self._dates[rule] = (before._dates.get(rule) if before else None) or now + seconds
        if isinstance(life, float):
            self._due.append((life, place))
            return replace(rule, until=life)
        if life not in ENDING:
            return rule
        if before is not None and rule in before._over:
            self._over.add(rule)
            return replace(rule, enabled=False)
        if before is not None and rule in before._begun:
            self._begun.add(rule)
        self.ending[place] = rule
        return rule
