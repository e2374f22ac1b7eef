"""The classifier: which rule decides a connection, at a cost that hardly depends on how many there are.

Rule i of a policy is bit i. Each dimension that some rule names maps a fact to the set of the rules that it satisfies,
as one integer; the AND of these sets are the rules that match, and the lowest bit is the first of them. Where none is
left, the default of the connection's direction decides. `tidewaiter.policy.tables` puts the sets into the form that the
kernel half evaluates.

Most connections have few rules that could match at all. So each rule is also entered under one of the things that it
names, the one that the fewest others share: where that finds few rules, each is asked by itself, and no set is needed.

Programs do the same again and again, so decisions are kept, by what they depend on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from tidewaiter.model.key import Direction
from tidewaiter.policy.bits import same_ends
from tidewaiter.policy.dimensions import ALL, may_be
from tidewaiter.policy.document import Policy
from tidewaiter.policy.index import Change, Index, Key, bit_set, uncollected
from tidewaiter.policy.rule import Answer, Decision, Facts, Rule, World

NOWHERE = World()
"""No lists, and no knowledge of where addresses are."""

FEW = 8
"""Rules that are asked one by one; where more may match, the sets decide."""

KEPT = 4096
"""Decisions that are kept for each direction; when there are more, all of them go."""


class Classifier:
    """Decides connections by a policy. It does no I/O of its own; ``world`` is what rules look things up in."""

    def __init__(self, policy: Policy, world: World = NOWHERE) -> None:
        """Compile a policy."""
        self._world = world
        self._policy = policy
        self._indexes: dict[tuple[str, int, bool], Index] = {}
        self._order: list[int] = []
        self._places: list[int] = []
        self._rules: list[Rule | None] = []
        self._others: list[
            tuple[tuple[Index, Sequence[Any]], ...]
        ] = []  # what is left to ask of a rule that was found
        self._unused: list[int] = []
        self._loose: set[int] = set()  # the rules that name nothing that they want
        self._decisions: list[Decision | None] = []
        with uncollected():
            self._order = [self._enter(rule) for rule in policy.rules]
        self._refresh(Change(0, 0, len(self._order), self._order))

    def decide(self, facts: Facts) -> Decision:
        """What the first rule that matches says, or the default of the connection's direction.

        Where that rule needs what is not known yet (``facts.pending``), the decision says what is ``missing``.
        """
        if facts.pending:
            return self._decide_partly(facts)
        if self._made_of is None:
            return self._decide(facts)
        kept, key = self._kept[facts.direction], self._made_of(facts)
        decision = kept.get(key)
        if decision is None:
            if len(kept) >= KEPT:
                kept.clear()
            decision = kept[key] = self._decide(facts)
        return decision

    def _decide(self, facts: Facts) -> Decision:
        if len(self._loose) > FEW:
            return self._decide_by_sets(facts)
        candidates = [*self._loose]
        for first, value in self._firsts:
            candidates += first(value(facts))
            if len(candidates) > FEW:
                return self._decide_by_sets(facts)
        if len(candidates) > 1:
            candidates.sort(key=self._places.__getitem__)
        for slot in candidates:
            if self._matches(slot, facts):
                return self._decision(self._places[slot])
        return self._default(facts.direction)

    def _matches(self, slot: int, facts: Facts) -> bool:
        for index, named in self._others[slot]:
            if index.holds(named, index.value(facts)) is index.negated:
                return False
        return self._places[slot] not in self._disabled

    def _decide_by_sets(self, facts: Facts) -> Decision:
        matching = self._enabled
        for look, value in self._looks:
            matching &= look(value(facts))
        if not matching:
            return self._default(facts.direction)
        return self._decision((matching & -matching).bit_length() - 1)

    def update(self, policy: Policy, world: World | None = None) -> None:
        """Takes another policy, at the price of what lies between its first and its last change; and a world."""
        self._world = self._world if world is None else world
        old, new = self._policy.rules, policy.rules
        first, last = same_ends(old, new)
        end, new_end = len(old) - last, len(new) - last
        for slot in self._order[first:end]:
            self._leave(slot)
        with uncollected():
            entered = [self._enter(rule) for rule in new[first:new_end]]
        self._order[first:end] = entered
        self._policy = policy
        self._refresh(Change(first, end, new_end, entered))

    def look_into(self, world: World) -> None:
        """Takes another world: the rules stay, and what they are looked up in is new."""
        self._world = world
        # the one that most rules name first: what it leaves is short, and what follows is quick
        ordered = sorted(self._indexes.values(), key=lambda index: -len(index.named))
        for index in ordered:
            index.value = index.dimension.getter(world)
        self._looks = [(index.look, index.value) for index in ordered]
        self._firsts = [(index.first, index.value) for index in ordered if index.has_firsts]
        made_of = {attribute for index in ordered for attribute in index.dimension.of} - {"direction"}
        lasting = all(index.dimension.of for index in ordered)  # no rule names the time
        self._made_of = attrgetter(*sorted(made_of or {"protocol"})) if lasting else None
        self._kept: list[dict[Hashable, Decision]] = [{} for _ in Direction]

    @property
    def dimensions(self) -> frozenset[str]:
        """The dimensions that some rule names: what has to be found out about connections."""
        return frozenset(name for name, _, _ in self._indexes)

    def _enter(self, rule: Rule) -> int:
        if self._unused:
            slot = self._unused.pop()
            self._rules[slot] = rule
        else:
            slot = len(self._rules)
            self._rules.append(rule)
            self._places.append(0)
            self._others.append(())
        found: list[tuple[Index, Collection[Key]]] = []
        rarest, fewest = -1, math.inf
        for at, (index, values) in enumerate(self._conditions(rule)):
            keys = index.keys(values)
            shared = index.add(slot, keys)
            if shared < fewest and not index.negated:
                rarest, fewest = at, shared
            found.append((index, keys))
        if rarest < 0:
            self._loose.add(slot)
        else:
            index, keys = found.pop(rarest)
            index.add_first(slot, keys)
        self._others[slot] = tuple([(index, tuple([key for _, key in keys])) for index, keys in found])
        return slot

    def _conditions(self, rule: Rule) -> Iterator[tuple[Index, tuple[Any, ...]]]:
        for name, layer, negated, values in rule.conditions():
            key = name, layer, negated
            index = self._indexes.get(key)
            if index is None:
                index = self._indexes[key] = Index(ALL[name], negated=negated)
            yield index, values

    def _leave(self, slot: int) -> None:
        rule = self._rules[slot]
        assert rule is not None
        for name, layer, negated, values in rule.conditions():
            index = self._indexes[name, layer, negated]
            index.remove(slot, index.keys(values))
            if not index.named:
                del self._indexes[name, layer, negated]
        self._loose.discard(slot)
        self._rules[slot] = None
        self._unused.append(slot)

    def _refresh(self, change: Change) -> None:
        places, rules = self._places, self._policy.rules
        for place, slot in enumerate(self._order):
            places[slot] = place
        length = len(rules)
        off = self._policy.groups_off
        self._enabled = (1 << length) - 1
        disabled = [place for place, rule in enumerate(rules) if not rule.enabled or rule.group in off]
        self._disabled = frozenset(disabled)
        if disabled:
            self._enabled ^= bit_set(disabled, length)
        for index in self._indexes.values():
            index.refresh(places, length, change)
        self._decisions = [None] * len(rules)
        self.look_into(self._world)

    def _default(self, direction: Direction) -> Decision:
        return Decision(self._policy.default(direction), "", len(self._order) + direction, default=True)

    def _decision(self, place: int) -> Decision:
        decision = self._decisions[place]
        if decision is None:
            rule = self._policy.rules[place]
            decision = self._decisions[place] = Decision(
                rule.answer, rule.name, place, function=rule.function
            )
        return decision

    def _decide_partly(self, facts: Facts) -> Decision:
        """The first rule that may match decides if it matches for certain; otherwise something is missing."""
        matching = self._enabled
        unknown: list[tuple[str, int]] = []  # the dimension, and the rules that it will satisfy in any case
        for (name, _, _), index in self._indexes.items():
            if found := may_be(index.dimension, facts, self._world):
                least, most = index.look(found[0]), index.look(found[-1])
                matching &= least | most
                unknown.append((name, least & most))
            else:
                unknown.append((name, index.free))
        if not matching:
            return self._default(facts.direction)
        place = (matching & -matching).bit_length() - 1
        decision = self._decision(place)
        missing = {name for name, certain in unknown if not certain >> place & 1}
        if not missing:
            return decision
        return Decision(Answer.ASK, decision.rule, place, missing=tuple(sorted(missing)))


def lowest_bit(bits: int) -> int:
    """The index of the lowest bit of a set that is not empty."""
    return (bits & -bits).bit_length() - 1
