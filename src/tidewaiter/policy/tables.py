"""The policy as the kernel half evaluates it: which rules each value of each dimension turns (`named`), as bits.

This is pure data with a lookup in Python that does what the kernel program does (kernel/policy.h); writing it into maps
is the business of the kernel half. `KernelTables.update` says what has to be written again when a policy has changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from itertools import islice
from typing import Any

from tidewaiter.model.key import Direction
from tidewaiter.policy.bits import carried_over, same_ends, spread
from tidewaiter.policy.classifier import lowest_bit
from tidewaiter.policy.document import Policy
from tidewaiter.policy.index import bit_set, uncollected
from tidewaiter.policy.named import (
    PORT_WIDTH,
    Named,
    Prefixes,
    address_number,
    address_width,
    network_prefix,
    port_prefixes,
)
from tidewaiter.policy.rule import Answer, Condition, Facts, PortSpan, Rule
from tidewaiter.policy.words import ENDING, duration

_WORD_BITS = 64
KERNEL_CAPACITY = 16384
"""The bits of a set in the kernel (TW_RULES)."""

NOT_RULES = 4
"""The bits of a set kept free of rules: three defaults, or one that consults."""


@dataclass(frozen=True, slots=True)
class RuleAction:
    """What the kernel does when a bit is the first match: give the answer, or consult user space."""

    answer: Answer
    consult: bool


@dataclass(slots=True)
class Change:
    """What has to be written again: values by their dimension, and actions by their bits."""

    values: dict[str, set[Any]] = field(default_factory=dict)
    bits: set[int] = field(default_factory=set)

    def add(self, other: Change) -> None:
        """Takes in what came later."""
        for name, values in other.values.items():
            self.values.setdefault(name, set()).update(values)
        self.bits |= other.bits

    def take(self, many: int) -> Change:
        """Takes out so many values at the most, of one dimension; with the last of them, the bits."""
        for name, values in self.values.items():
            if values:
                some = set(islice(values, many))
                values.difference_update(some)
                return Change({name: some})
        bits, self.bits = self.bits, set()
        return Change(bits=bits)

    def __bool__(self) -> bool:
        return bool(self.bits) or any(self.values.values())


class KernelTables:
    """A policy compiled for the kernel half, for sets of ``capacity`` bits.

    ``bits`` are those of the first ``rules``, ascending. Behind the last, at ``end``, come the defaults of the
    directions out, in and forward; or, if the policy has more rules than fit (not ``whole``), one bit that consults and
    matches everything. ``actions`` has one entry for each bit that is used.

    ``named`` has the tables of the dimensions: programs by their paths, users by their numbers, addresses and ports by
    prefixes. ``kinds`` are the rules for each direction.
    """

    def __init__(self, policy: Policy, capacity: int = 256) -> None:
        """Compiles a policy. Raises ValueError if the capacity is not a multiple of 64 above 0."""
        if capacity <= 0 or capacity % _WORD_BITS:
            raise ValueError(f"the capacity {capacity} is not a multiple of {_WORD_BITS}")
        self.capacity = capacity
        self.named: dict[str, Named] = {
            "program": Named(),
            "user": Named(),
            "remote": Prefixes(address_width),
            "local": Prefixes(address_width),
            "port": Prefixes(lambda _: PORT_WIDTH),
        }
        self.rules: tuple[Rule, ...] = ()
        self.bits: list[int] = []
        self.actions: dict[int, RuleAction] = {}
        self.used = 0
        """The bits of rules and defaults."""
        self._directions = dict.fromkeys(Direction, 0)
        self._groups: dict[str, int] = {}
        self._disabled = 0
        self._take(policy)
        for named in self.named.values():
            named.settle()

    def update(self, policy: Policy) -> Change:
        """Takes another policy, at the price of what is different; returns what that is."""
        before = self._defaults()
        bits = self._take(policy)
        bits |= before.keys() ^ self._defaults().keys() | {
            bit for bit, action in self._defaults().items() if before.get(bit) != action
        }
        return Change({name: named.changed() for name, named in self.named.items()}, bits)

    def lookup(self, facts: Facts) -> int:
        """The bit that decides a connection whose addresses are both known, as at its first packet."""
        return lowest_bit(
            self._apart_from_local(facts) & self._satisfied("local", address_number(facts.local))
        )

    def lookup_at_connect(self, facts: Facts) -> int | None:
        """The bit that decides a connection before its local address is chosen; None means to consult.

        The first match is sure only if it does not depend on the local address; the rules above it have
        failed in another dimension.
        """
        bit = lowest_bit(self._apart_from_local(facts))
        return None if self.named["local"].looking >> bit & 1 else bit

    def index(self, bit: int) -> int:
        """The place of a bit's rule in the policy, from 0; of a default, the number of rules plus its direction's."""
        return bisect_left(self.bits, bit) if bit < self.end else len(self.bits) + bit - self.end

    def others(self, dimension: str) -> int:
        """The rules that are satisfied by a value that nobody names."""
        return self.used & ~self.named[dimension].wanting

    @property
    def end(self) -> int:
        """The first bit behind those of rules."""
        return self.bits[-1] + 1 if self.bits else 0

    @property
    def in_kernel(self) -> int:
        """How many rules the kernel decides by itself."""
        return sum(not self.actions[bit].consult for bit in self.bits)

    def _apart_from_local(self, facts: Facts) -> int:
        return (
            self.kinds[facts.direction]
            & self._satisfied("program", facts.program)
            & self._satisfied("user", facts.uid)
            & self._satisfied("remote", address_number(facts.remote))
            & self._satisfied("port", facts.protocol << 16 | facts.port)
        )

    def _satisfied(self, dimension: str, value: Any) -> int:  # noqa: ANN401 # a value of the dimension
        return self.others(dimension) ^ self.named[dimension].turned_by(value)

    def _take(self, policy: Policy) -> set[int]:
        """The bits whose rules are others now."""
        rules = policy.rules[: self.capacity - NOT_RULES]
        old, before = self.rules, self.bits
        first, last = same_ends(old, rules)
        places = carried_over(old[first : len(old) - last], rules[first : len(rules) - last])
        kept = [None if place is None else before[first + place] for place in places]
        bits = spread([*before[:first], *kept, *before[len(old) - last :]], self.capacity - NOT_RULES)
        low, high = (
            min(pair) for pair in zip((first, last), same_ends(before, bits, overlap=True), strict=True)
        )
        was = dict(zip(before[low : len(old) - high], old[low : len(old) - high], strict=True))
        now = dict(zip(bits[low : len(bits) - high], rules[low : len(bits) - high], strict=True))
        left = {bit: rule for bit, rule in was.items() if now.get(bit) != rule}
        entered = {bit: rule for bit, rule in now.items() if was.get(bit) != rule}
        for bit in self._defaults():  # they have no room of their own
            self.used &= ~(1 << bit)
            del self.actions[bit]
        for bit, rule in left.items():
            self._leave(bit, rule)
        with uncollected():
            self._enter(entered)
        self.rules, self.bits = rules, bits
        self._refresh(policy)
        return {*left, *entered}

    def _enter(self, entered: dict[int, Rule]) -> None:
        """Sets are made of all that enters at once: each is as long as the policy."""
        length = max(entered, default=0) + 1
        towards: dict[Direction, list[int]] = {direction: [] for direction in _ALL_DIRECTIONS}
        disabled: list[int] = []
        groups: dict[str, list[int]] = {}
        for bit, rule in entered.items():
            conditions = [*rule.conditions()]
            seen = _seen(conditions)
            for name, (wanted, refused) in seen.items():
                if name != "direction":
                    self.named[name].add(bit, wanted, refused)
            for direction in _directions(seen):
                towards[direction].append(bit)
            self.actions[bit] = _ACTIONS[
                _ANSWERED.get(rule.answer, Answer.ASK), bool(_reasons(rule, conditions))
            ]
            if not rule.enabled:
                disabled.append(bit)
            if rule.group:
                groups.setdefault(rule.group, []).append(bit)
        for direction, bits in towards.items():
            self._directions[direction] |= bit_set(bits, length)
        self.used |= bit_set(entered, length)
        self._disabled |= bit_set(disabled, length)
        for group, bits in groups.items():
            self._groups[group] = self._groups.get(group, 0) | bit_set(bits, length)
        for named in self.named.values():
            named.entered(length)

    def _leave(self, bit: int, rule: Rule) -> None:
        seen = _seen(rule.conditions())
        for name, named in self.named.items():
            if wanted_refused := seen.get(name):
                named.remove(bit, *wanted_refused)
        for direction in Direction:
            self._directions[direction] &= ~(1 << bit)
        del self.actions[bit]
        self.used &= ~(1 << bit)
        self._disabled &= ~(1 << bit)
        if rule.group:
            self._groups[rule.group] &= ~(1 << bit)

    def _refresh(self, policy: Policy) -> None:
        """What is made anew for each policy: what is switched off, and what stands behind the last rule."""
        off = self._disabled
        for group in policy.groups_off:
            off |= self._groups.get(group, 0)
        self.whole = len(self.rules) == len(policy.rules)
        end = self.end
        answers = [policy.default(direction) for direction in Direction] if self.whole else [Answer.ASK]
        for at, answer in enumerate(answers):
            self.actions[end + at] = RuleAction(answer, answer is Answer.ASK)
            self.used |= 1 << end + at
        self.kinds = {
            direction: self._directions[direction] & ~off | 1 << end + (direction if self.whole else 0)
            for direction in Direction
        }

    def _defaults(self) -> dict[int, RuleAction]:
        return {
            bit: self.actions[bit] for bit in range(self.end, self.end + NOT_RULES) if bit in self.actions
        }


def compile_tables(policy: Policy, capacity: int = 256) -> KernelTables:
    """The tables of a policy for bit sets of ``capacity`` bits; raises ValueError as `KernelTables` does."""
    return KernelTables(policy, capacity)


def needs_python(rule: Rule) -> tuple[str, ...]:
    """What of a rule the kernel's tables cannot express; where such a rule would be the first match, Python decides."""
    return _reasons(rule, rule.conditions())


def _reasons(rule: Rule, conditions: Iterable[Condition]) -> tuple[str, ...]:
    reasons = [
        name
        for name, layer, _, values in conditions
        if layer or name not in _IN_KERNEL or not _IN_KERNEL[name].issuperset(map(type, values))
    ]
    if rule.until and (rule.until in ENDING or duration(rule.until)):
        reasons.append("until")
    if rule.answer not in _ANSWERED:
        reasons.append(f"verdict {rule.answer}")
    return tuple(dict.fromkeys(reasons)) if reasons else ()


_IN_KERNEL: dict[str, set[type]] = {
    "program": {str},
    "user": {int},
    "direction": {Direction},
    "remote": {IPv4Network, IPv6Network},
    "local": {IPv4Network, IPv6Network},
    "port": {PortSpan},
}
"""The dimensions that have a table in the kernel, and what their values may be."""

_ANSWERED = {
    Answer.ACCEPT: Answer.ACCEPT,
    Answer.BLOCK: Answer.BLOCK,
    Answer.DROP: Answer.DROP,
    Answer.LIMIT: Answer.ACCEPT,
}
"""What the kernel does by itself. What is limited passes: the limit is kept elsewhere."""


_ALL_DIRECTIONS = tuple(Direction)
_ACTIONS = {(answer, consult): RuleAction(answer, consult) for answer in Answer for consult in (False, True)}


def _seen(conditions: Iterable[Condition]) -> dict[str, tuple[Collection[Any], Collection[Any]]]:
    """What the kernel can see of a rule: for each dimension what it wants and what it refuses.

    It matches at least what the rule does: a condition with a value that the kernel has no table for is left out.
    """
    found: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
    for name, layer, negated, values in conditions:
        if not layer and name in _IN_KERNEL:
            wanted, refused = found.get(name, ((), ()))
            found[name] = (wanted, refused + values) if negated else (wanted + values, refused)
    return {name: (_keys(name, wanted), _keys(name, refused)) for name, (wanted, refused) in found.items()}


def _keys(dimension: str, values: tuple[Any, ...]) -> Collection[Any]:
    """Values as the keys of their table, each once; none where there is one that the kernel has no table for."""
    if not values or not _IN_KERNEL[dimension].issuperset(map(type, values)):
        return ()
    if dimension in {"remote", "local"}:
        return {network_prefix(network) for network in values}
    if dimension == "port":
        return {prefix for span in values for prefix in port_prefixes(span)}
    return dict.fromkeys(values) if len(values) > 1 else values


def _directions(seen: dict[str, tuple[Collection[Any], Collection[Any]]]) -> list[Direction]:
    wanted, refused = seen.get("direction", ((), ()))
    return [direction for direction in wanted or _ALL_DIRECTIONS if direction not in refused]
