"""The classifier: which rule decides a connection, at a cost that hardly depends on how many there are.

Rule i of a policy is bit i. Each dimension maps a value to the set of the rules that this value
satisfies, as one integer; the AND of these sets over all dimensions are the rules that match, and the
lowest bit is the first of them. The defaults are three more rules at the end, one for each direction, so
that there always is a bit. Addresses and ports are looked up in `Steps`: the sorted points at which the
set changes. `tidewaiter.policy.tables` puts the same sets into the form that the kernel half evaluates.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import accumulate
from operator import xor
from typing import TypeVar

from tidewaiter.model.key import Direction
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Decision, Facts, Network, Rule

V = TypeVar("V", bound=Hashable)

Steps = tuple[list[int], list[int]]
"""Numbers in ascending order from 0, and the bit set that holds from each one to the next."""

Span = tuple[int, int]
"""The numbers from the first to the second, both included."""


class Classifier:
    """Decides connections by a policy. It does no I/O and does not change once made."""

    def __init__(self, policy: Policy) -> None:
        """Compile a policy."""
        rules = policy.rules
        defaults = 0b111 << len(rules)
        self._any_program, self._programs = bit_sets(rules, lambda rule: rule.programs, defaults)
        self._any_user, self._users = bit_sets(rules, lambda rule: rule.users, defaults)
        self._directions = direction_sets(rules, defaults=True)
        self._remote = _address_steps(rules, lambda rule: rule.remote, defaults)
        self._local = _address_steps(rules, lambda rule: rule.local, defaults)
        self._any_port, self._ports = _port_steps(rules, defaults)
        self._decisions = [Decision(rule.answer, rule.name, bit) for bit, rule in enumerate(rules)]
        self._decisions += [
            Decision(policy.default(direction), "", len(rules) + direction, default=True)
            for direction in Direction
        ]

    def decide(self, facts: Facts) -> Decision:
        """What the first rule that matches says, or the default of the connection's direction."""
        direction = facts.direction
        port = facts.local_port if direction is Direction.IN else facts.remote_port
        remote = facts.remote
        starts, sets = self._remote[remote.version]
        matching = sets[bisect_right(starts, int(remote)) - 1]
        local = facts.local
        starts, sets = self._local[local.version]
        matching &= sets[bisect_right(starts, int(local)) - 1]
        starts, sets = self._ports.get(facts.protocol, self._any_port)
        matching &= sets[bisect_right(starts, port) - 1]
        matching &= self._directions[direction]
        matching &= self._users.get(facts.uid, self._any_user)
        matching &= self._programs.get(facts.program, self._any_program)
        return self._decisions[lowest_bit(matching)]


def lowest_bit(bits: int) -> int:
    """The index of the lowest bit of a set that is not empty."""
    return (bits & -bits).bit_length() - 1


def bit_sets(
    rules: Sequence[Rule], values: Callable[[Rule], Iterable[V]], always: int
) -> tuple[int, dict[V, int]]:
    """The sets of one dimension: for a value that no rule names, and for each one that some rule names.

    ``always`` are bits that are in every set.
    """
    unnamed = always
    named: dict[V, int] = {}
    for index, rule in enumerate(rules):
        bit = 1 << index
        constrained = False
        for value in values(rule):
            constrained = True
            named[value] = named.get(value, 0) | bit
        if not constrained:
            unnamed |= bit
    return unnamed, {value: bits | unnamed for value, bits in named.items()}


def direction_sets(rules: Sequence[Rule], *, defaults: bool) -> dict[Direction, int]:
    """The rules for each direction, with its default as bit ``len(rules) + direction`` if wanted."""
    unnamed, named = bit_sets(rules, lambda rule: rule.directions, 0)
    return {
        direction: named.get(direction, unnamed) | (defaults << len(rules) + direction)
        for direction in Direction
    }


def _steps(spans: Iterable[tuple[int, Sequence[Span]]], always: int) -> Steps:
    """The steps of a dimension from the index of each rule that constrains it and the rule's spans."""
    changes = {0: always}
    for index, rule_spans in spans:
        bit = 1 << index
        for low, high in _joined(rule_spans):
            changes[low] = changes.get(low, 0) ^ bit
            changes[high + 1] = changes.get(high + 1, 0) ^ bit
    starts = sorted(changes)
    return starts, list(accumulate((changes[start] for start in starts), xor))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """The same numbers in spans that do not overlap, so that each changes its rule's bit on and off once."""
    joined: list[Span] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def _address_steps(
    rules: Sequence[Rule], networks: Callable[[Rule], Sequence[Network]], always: int
) -> dict[int, Steps]:
    """The steps of an address dimension for IP version 4 and for 6."""
    always, _ = bit_sets(rules, networks, always)
    return {
        version: _steps(
            (
                (index, [_span(network) for network in networks(rule) if network.version == version])
                for index, rule in enumerate(rules)
            ),
            always,
        )
        for version in (4, 6)
    }


def _span(network: Network) -> Span:
    return int(network.network_address), int(network.broadcast_address)


def _port_steps(rules: Sequence[Rule], always: int) -> tuple[Steps, dict[int, Steps]]:
    """The steps over ports for a protocol that no rule names, and for each one that some rule names."""
    always, _ = bit_sets(rules, lambda rule: rule.ports, always)
    spans: dict[int, dict[int, list[Span]]] = {}
    for index, rule in enumerate(rules):
        for span in rule.ports:
            for protocol in span.protocols:
                spans.setdefault(protocol, {}).setdefault(index, []).append((span.low, span.high))
    return _steps((), always), {
        protocol: _steps(by_rule.items(), always) for protocol, by_rule in spans.items()
    }
