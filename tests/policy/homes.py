"""What the tests of the classifier's two homes share: what a policy decides in each of them, as the reference says."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from hypothesis import Phase

from policy.material import LISTS
from policy.oracle import Condition, First, Loop, Seen, Words
from strategies import FUZZ
from tidewaiter.model.key import Address, Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Classifier, Facts, Policy, Rule
from tidewaiter.policy.rule import Conditions, World
from tidewaiter.policy.tables import needs_python
from tidewaiter.policy.writing import toml_policy


class Listed:
    """A list as rules ask it, of a few lines."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._networks = [ip_network(line) for line in lines if line[0].isdigit()]
        self._names = [line for line in lines if not line[0].isdigit()]

    def contains_name(self, name: str) -> bool:
        return any(f".{name}".endswith(line[1:]) if line[0] == "*" else name == line for line in self._names)

    def contains_address(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def has(self, packed: bytes, names: tuple[str, ...]) -> bool:
        return self.contains_address(ip_address(packed)) or any(map(self.contains_name, names))

    @property
    def by_name(self) -> bool:
        return bool(self._names)


WORLD = World({name: Listed(lines) for name, lines in LISTS.items()})
POLICIES, CONNECTIONS = (4, 500) if FUZZ == 1 else (6 * FUZZ, 1000)
"""How many are drawn for each test, and how many of the latter for each of the former."""
EDITS = 3
"""Changes of each policy, after each of which the connections are decided again."""
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # `smallest` shrinks instead
FIELDS = {
    "program": "programs", "user": "users", "direction": "directions", "remote": "remote", "local": "local",
    "port": "ports",
}  # fmt: skip
DECIDED = {
    Answer.ACCEPT: Verdict.PERMANENT_ACCEPT,
    Answer.LIMIT: Verdict.PERMANENT_ACCEPT,
    Answer.BLOCK: Verdict.PERMANENT_BLOCK,
    Answer.DROP: Verdict.PERMANENT_DROP,
}


def classified(policy: Policy, classifier: Classifier, facts: Facts) -> First:
    decision = classifier.decide(facts)
    assert classifier.decide(facts) == decision, "kept"
    assert facts.pending or classifier._decide_by_sets(facts) == decision
    sure = not decision.missing
    if decision.default:
        assert decision.answer is policy.default(facts.direction)
        return First(len(policy.rules), sure)
    rule = policy.rules[decision.index]
    assert decision.rule == rule.name
    assert decision.answer is (rule.answer if sure else Answer.ASK)
    return First(decision.index, sure)


def parse(words: Words) -> Policy:
    return Policy.parse(toml_policy(words))


class Answered(NamedTuple):
    """The name of the rule or "default", and its verdict; UNDECIDED: Python is asked."""

    rule: str
    verdict: Verdict


class Expected:
    """What the reference says that the kernel decides, and where it asks."""

    def __init__(self, words: Words, policy: Policy) -> None:
        self.policy = policy
        self._asks = [bool(needs_python(rule)) for rule in policy.rules]
        seen_in_kernel = [
            {(one.dimension, one.layer, one.negated) for one in rule.conditions() if in_kernel(rule, one)}
            for rule in policy.rules
        ]
        self.names_programs = any(
            key[0] == "program" for keys in seen_in_kernel for key in keys
        )  # switched off or not: the kernel looks for the program then
        self._names_local = [any(key[0] == "local" for key in keys) for keys in seen_in_kernel]

        def visible(place: int, one: Condition) -> bool:
            return (one.dimension, one.layer, one.negated) in seen_in_kernel[place]

        loop = Loop.over(words)
        self._later = loop.only(visible)
        self._at_connect = self._later.only(lambda _, one: one.dimension != "local")

    def later(self, seen: Seen) -> Answered | None:
        """At the first packet. None: Python is asked."""
        return self._answer(self._later.first(seen).place, seen)

    def at_connect(self, seen: Seen) -> Answered | None:
        """Before the local address is chosen."""
        index = self._at_connect.first(seen).place
        if index < len(self._names_local) and self._names_local[index]:
            return None
        return self._answer(index, seen)

    def _answer(self, index: int, seen: Seen) -> Answered | None:
        rules = self.policy.rules
        if index < len(rules):
            return None if self._asks[index] else Answered(rules[index].name, DECIDED[rules[index].answer])
        answer = self.policy.default(Direction[seen.direction.upper()])
        return None if answer is Answer.ASK else Answered("default", DECIDED[answer])


def in_kernel(rule: Rule, one: Any) -> bool:
    """Whether the kernel can express one condition, asked of a rule that demands nothing else."""
    table = {one.dimension: one.values}
    changes: dict[str, Any]
    if one.layer:
        inner = Conditions(none_of=table) if one.negated else Conditions(any_of=table)
        changes = {"also": (Conditions(),) * (one.layer - 1) + (inner,)}
    elif one.negated:
        changes = {"none_of": table}
    elif one.dimension in FIELDS:
        values = frozenset(one.values) if one.dimension == "direction" else one.values
        changes = {FIELDS[one.dimension]: values}
    elif one.dimension == "until":
        changes = {"until": rule.until}
    else:
        changes = {"any_of": table}
    return not needs_python(Rule(name="alone", answer=Answer.DROP, **changes))
