"""Why: which rule decides a connection, what of each rule above it did not match, and what would change the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tidewaiter.model.key import Direction, endpoint
from tidewaiter.policy.classifier import NOWHERE, Classifier
from tidewaiter.policy.connection import NOT_IN_EVENTS
from tidewaiter.policy.dimensions import ALL, Dimension, may_be
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Condition, Facts, Rule, Value, World
from tidewaiter.policy.spelling import spell_values
from tidewaiter.policy.tables import KERNEL_CAPACITY, compile_tables

CHANGES = 8
"""How many ways to another verdict are named."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """A condition of a rule that a connection does not satisfy: what was wanted, what was found."""

    dimension: str
    wanted: Any
    found: Any
    negated: bool = False

    def __str__(self) -> str:
        if self.dimension in {"enabled", "group"}:
            return (
                "it is switched off"
                if self.dimension == "enabled"
                else f"its group {self.wanted} is switched off"
            )
        said = "not known" if self.found in ("", []) else self.found
        return f"{self.dimension} is {said}, {'which it excludes' if self.negated else f'not {self.wanted}'}"


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule above the one that decides, and everything that kept it from matching."""

    rule: Rule
    unmet: tuple[Unmet, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with its reasons. ``rule`` is None where the default decided; ``tier`` is ``kernel`` or ``python``."""

    verdict: str
    rule: Rule | None
    tier: str
    default: str
    missing: tuple[str, ...]
    above: tuple[Passed, ...]

    def changes(self) -> Iterator[tuple[Rule, Unmet]]:
        """The rules above that only one thing keeps from another verdict, nearest first."""
        left = CHANGES
        for passed in reversed(self.above):
            if len(passed.unmet) == 1 and passed.rule.answer.value != self.verdict and left:
                left -= 1
                yield passed.rule, passed.unmet[0]

    def as_object(self) -> dict[str, Any]:
        """What ``policy explain --json`` prints."""
        rule = self.rule
        answer: dict[str, Any] = {
            "verdict": self.verdict,
            "rule": rule.name if rule else "default",
            "line": rule.line if rule else 0,
            "file": rule.file if rule else "",
            "tier": self.tier,
            "default": rule is None,
            "missing": list(self.missing),
            "log": rule.log if rule else True,
            "above": [
                {
                    "rule": passed.rule.name,
                    "line": passed.rule.line,
                    "failed": passed.unmet[0].dimension,
                    "why": [str(unmet) for unmet in passed.unmet],
                }
                for passed in self.above
            ],
            "change": [
                {
                    "rule": other.name,
                    "verdict": other.answer.value,
                    "dimension": unmet.dimension,
                    "negated": unmet.negated,
                    "wanted": unmet.wanted,
                }
                for other, unmet in self.changes()
            ],
        }
        if rule and rule.function:
            answer["function"] = rule.function
        return answer


class Explainer:
    """Explains what one policy does. ``world`` is what its rules look things up in."""

    def __init__(self, policy: Policy, world: World = NOWHERE) -> None:
        """Compile it once, for any number of connections."""
        self._policy, self._world = policy, world
        self._classifier = Classifier(policy, world)
        self._tables = compile_tables(policy, KERNEL_CAPACITY)
        self._named = {
            condition.dimension
            for rule in policy.rules
            if rule.enabled and policy.is_on(rule)
            for condition in rule.conditions()
        }

    def explain(self, facts: Facts) -> Explanation:
        """The decision about a connection, and why."""
        decision = self._classifier.decide(facts)
        rules = self._policy.rules
        rule = None if decision.default else rules[decision.index]
        verdict = "undecided" if decision.missing else decision.answer.value
        action = self._tables.actions[self._tables.lookup(facts)]
        tier = "python" if action.consult or decision.missing else "kernel"
        above = tuple(
            Passed(one, tuple(self._unmet(one, facts)))
            for one in rules[: len(rules) if rule is None else decision.index]
        )
        name = "" if rule else Direction(facts.direction).word
        return Explanation(verdict, rule, tier, name, decision.missing, above)

    def not_carried(self, value: object) -> list[str]:
        """What rules name and an event does not say, so that its explanation may differ from what was decided."""
        if not isinstance(value, dict) or "event" not in value:
            return []
        return [name for name in NOT_IN_EVENTS if name in self._named and not value.get(name)]

    def _unmet(self, rule: Rule, facts: Facts) -> Iterator[Unmet]:
        if not rule.enabled:
            yield Unmet("enabled", True, False)
        elif not self._policy.is_on(rule):
            yield Unmet("group", rule.group, False)
        for condition in rule.conditions():
            dimension = ALL[condition.dimension]
            values = may_be(dimension, facts, self._world)
            if values and all(
                dimension.holds(condition.values, value) is condition.negated for value in values
            ):
                found = self._found(dimension, facts)
                wanted = spell_values(dimension.name, condition.values)
                yield Unmet(dimension.name, wanted, found, condition.negated)

    def _found(self, dimension: Dimension, facts: Facts) -> Value:
        """A fact as people write it."""
        if dimension.name in {"remote", "local"}:
            port = facts.remote_port if dimension.name == "remote" else facts.local_port
            return endpoint(facts.remote if dimension.name == "remote" else facts.local, port)
        value = dimension.getter(self._world)(facts)
        if dimension.many:
            return [dimension.text(one) for one in value]
        return "" if value == dimension.unknown else dimension.text(value)


def satisfied(condition: Condition, facts: Facts, world: World = NOWHERE) -> bool:
    """Whether a connection satisfies one condition, found out in the plain way."""
    dimension = ALL[condition.dimension]
    return dimension.holds(condition.values, dimension.getter(world)(facts)) is not condition.negated
