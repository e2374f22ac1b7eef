"""The policy as the kernel half evaluates it: the classifier's bit sets in hash and longest-prefix tables.

This is pure data with a lookup in Python that does step by step what the kernel program does; writing it
into maps is the business of the kernel half. In a longest-prefix table each entry's set already holds the
sets of all prefixes that cover it, so one lookup gives the whole answer of a dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, NamedTuple, TypeVar

from tidewaiter.model.key import Address, Direction
from tidewaiter.policy.classifier import lowest_bit
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer, Facts, PortSpan, Rule
from tidewaiter.policy.scopes import Network
from tidewaiter.policy.words import ENDING, duration

V = TypeVar("V", bound=Hashable)

Prefix = tuple[int, int]
"""A number whose low bits are 0, and how many of its high bits count."""

PORT_KEY_BITS = 24
"""The key of the port table: the protocol number (8 bits), then the port (16 bits)."""

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


@dataclass(frozen=True, slots=True)
class KernelTables:
    """A policy compiled for the kernel half.

    Bit i of every set is rule i of the policy for i below ``rules``; after them come the defaults of the
    directions out, in and forward, or, if the policy has more rules than fit, one bit that consults and
    matches everything. ``actions`` has one entry for each bit.

    ``any_program`` and so on are the rules that do not look at a dimension: they are in each of its sets, and are
    the set of a program or a user that is not in the table. ``remote``
    and ``local`` always have 0.0.0.0/0 and ::/0; ``ports`` is keyed by protocol, port and prefix length
    (0 to 24, see PORT_KEY_BITS) and always has (0, 0, 0). ``local_mask`` are the rules that constrain the
    local address.
    """

    words: int
    rules: int
    actions: tuple[RuleAction, ...]
    any_program: int
    programs: Mapping[str, int]
    any_user: int
    users: Mapping[int, int]
    kinds: Mapping[Direction, int]
    any_remote: int
    remote: Mapping[Network, int]
    any_local: int
    local: Mapping[Network, int]
    any_port: int
    ports: Mapping[tuple[int, int, int], int]
    local_mask: int

    def lookup(self, facts: Facts) -> int:
        """The bit that decides a connection whose addresses are both known, as at its first packet."""
        return lowest_bit(self._apart_from_local(facts) & _longest_network(self.local, facts.local))

    def lookup_at_connect(self, facts: Facts) -> int | None:
        """The bit that decides a connection before its local address is chosen; None means to consult.

        The first match is sure only if it does not depend on the local address; the rules above it have
        failed in another dimension.
        """
        bit = lowest_bit(self._apart_from_local(facts))
        return None if self.local_mask >> bit & 1 else bit

    def _apart_from_local(self, facts: Facts) -> int:
        return (
            self.programs.get(facts.program, self.any_program)
            & self.users.get(facts.uid, self.any_user)
            & self.kinds[facts.direction]
            & self._longest_port(facts.protocol, facts.port)
            & _longest_network(self.remote, facts.remote)
        )

    def _longest_port(self, protocol: int, port: int) -> int:
        key = protocol << 16 | port
        lengths = range(PORT_KEY_BITS, -1, -1)
        prefixes = (_cut(key, length, PORT_KEY_BITS) for length in lengths)
        keys = ((prefix >> 16, prefix & 0xFFFF, length) for prefix, length in prefixes)
        return next(self.ports[entry] for entry in keys if entry in self.ports)


def compile_tables(policy: Policy, capacity: int = 256) -> KernelTables:
    """The tables of a policy for bit sets of ``capacity`` bits.

    Raises ValueError if the capacity is not a multiple of 64 above 0.
    """
    if capacity <= 0 or capacity % _WORD_BITS:
        raise ValueError(f"the capacity {capacity} is not a multiple of {_WORD_BITS}")
    first = policy.rules[: capacity - NOT_RULES]
    whole = len(first) == len(policy.rules)
    actions = [_action(rule) for rule in first]
    off = sum(1 << index for index, rule in enumerate(first) if not policy.is_on(rule))
    rules = [_expressible(rule) for rule in first]
    if whole:
        answers = [policy.default(direction) for direction in Direction]
        actions += [RuleAction(answer, answer is Answer.ASK) for answer in answers]
    else:
        actions.append(RuleAction(Answer.ASK, consult=True))
    last = (0b111 if whole else 1) << len(rules)
    any_program, programs = bit_sets(rules, lambda rule: rule.programs, last)
    any_user, users = bit_sets(rules, lambda rule: rule.users, last)
    kinds = {direction: bits & ~off for direction, bits in direction_sets(rules, defaults=whole).items()}
    return KernelTables(
        words=capacity // _WORD_BITS,
        rules=len(rules),
        actions=tuple(actions),
        any_program=any_program,
        programs=programs,
        any_user=any_user,
        users=users,
        kinds=kinds if whole else {direction: bits | last for direction, bits in kinds.items()},
        any_remote=_others(rules, lambda rule: rule.remote, last),
        remote=_network_table(rules, lambda rule: rule.remote, last),
        any_local=_others(rules, lambda rule: rule.local, last),
        local=_network_table(rules, lambda rule: rule.local, last),
        any_port=_others(rules, lambda rule: rule.ports, last),
        ports=_port_table(rules, last),
        local_mask=sum(1 << index for index, rule in enumerate(rules) if rule.local),
    )


def _others(
    rules: Sequence[Expressible], values: Callable[[Expressible], Sequence[object]], always: int
) -> int:
    """The rules that do not look at a dimension."""
    return always | sum(1 << index for index, rule in enumerate(rules) if not values(rule))


def needs_python(rule: Rule) -> tuple[str, ...]:
    """What of a rule the kernel's tables cannot express; where such a rule would be the first match, Python decides."""
    reasons = [
        condition.dimension
        for condition in rule.conditions()
        if condition.layer
        or condition.negated
        or condition.dimension not in _IN_KERNEL
        or not all(isinstance(value, _IN_KERNEL[condition.dimension]) for value in condition.values)
    ]
    if rule.until in ENDING or duration(rule.until):
        reasons.append("until")
    if rule.answer not in _ANSWERED:
        reasons.append(f"verdict {rule.answer}")
    return tuple(dict.fromkeys(reasons))


_IN_KERNEL: dict[str, tuple[type, ...]] = {
    "program": (str,),
    "user": (int,),
    "direction": (Direction,),
    "remote": (IPv4Network, IPv6Network),
    "local": (IPv4Network, IPv6Network),
    "port": (PortSpan,),
}
"""The dimensions that have a table in the kernel, and what their values may be."""

_ANSWERED = {
    Answer.ACCEPT: Answer.ACCEPT,
    Answer.BLOCK: Answer.BLOCK,
    Answer.DROP: Answer.DROP,
    Answer.LIMIT: Answer.ACCEPT,
}
"""What the kernel does by itself. What is limited passes: the limit is kept elsewhere."""


def _action(rule: Rule) -> RuleAction:
    return RuleAction(_ANSWERED.get(rule.answer, Answer.ASK), bool(needs_python(rule)))


class Expressible(NamedTuple):
    """What the kernel can see of a rule: it matches at least what the rule does."""

    programs: tuple[str, ...]
    users: tuple[int, ...]
    directions: frozenset[Direction]
    remote: tuple[Network, ...]
    local: tuple[Network, ...]
    ports: tuple[PortSpan, ...]


def _expressible(rule: Rule) -> Expressible:
    """The rule without the dimensions that have a value that the kernel has no table for."""
    return Expressible(
        _all(rule.programs, str),
        _all(rule.users, int),
        rule.directions,
        _all(rule.remote, (IPv4Network, IPv6Network)),
        _all(rule.local, (IPv4Network, IPv6Network)),
        rule.ports,
    )


def _all(values: tuple[Any, ...], kinds: type | tuple[type, ...]) -> tuple[Any, ...]:
    return values if all(isinstance(value, kinds) for value in values) else ()


def bit_sets(
    rules: Sequence[Expressible], values: Callable[[Expressible], Iterable[V]], always: int
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


def direction_sets(rules: Sequence[Expressible], *, defaults: bool) -> dict[Direction, int]:
    """The rules for each direction, with its default as bit ``len(rules) + direction`` if wanted."""
    unnamed, named = bit_sets(rules, lambda rule: rule.directions, 0)
    return {
        direction: named.get(direction, unnamed) | (defaults << len(rules) + direction)
        for direction in Direction
    }


def _network_table(
    rules: Sequence[Expressible], networks: Callable[[Expressible], Sequence[Network]], always: int
) -> dict[Network, int]:
    """The longest-prefix table of an address dimension, both IP versions."""
    unnamed, named = bit_sets(rules, networks, always)
    table: dict[Network, int] = {}
    for kind, width in ((IPv4Network, 32), (IPv6Network, 128)):
        sets = {
            (int(network.network_address), network.prefixlen): bits
            for network, bits in named.items()
            if isinstance(network, kind)
        }
        closed = _closed(sets, width, unnamed)
        table.update({kind(prefix): bits for prefix, bits in closed.items()})
    return table


def _port_table(rules: Sequence[Expressible], always: int) -> dict[tuple[int, int, int], int]:
    """The longest-prefix table over protocol and port."""
    unnamed, named = bit_sets(rules, _port_prefixes, always)
    closed = _closed(named, PORT_KEY_BITS, unnamed)
    return {(key >> 16, key & 0xFFFF, length): bits for (key, length), bits in closed.items()}


def _port_prefixes(rule: Expressible) -> Iterator[Prefix]:
    """The prefixes over protocol and port that a rule's spans are made of."""
    for span in rule.ports:
        for protocol in span.protocols:
            low, end = span.low, span.high + 1
            while low < end:
                # The largest block that begins at low: by its alignment, and by what is left.
                size = min(low & -low or 1 << 16, 1 << (end - low).bit_length() - 1)
                yield protocol << 16 | low, PORT_KEY_BITS - size.bit_length() + 1
                low += size


def _closed(sets: Mapping[Prefix, int], width: int, unnamed: int) -> dict[Prefix, int]:
    """The same prefixes with the sets of all that cover them added, and the empty prefix always there."""
    closed: dict[Prefix, int] = {}
    covering: list[Prefix] = []
    for prefix in sorted({(0, 0), *sets}):  # a prefix comes after those that cover it
        while covering and _cut(prefix[0], covering[-1][1], width) != covering[-1]:
            covering.pop()
        inherited = closed[covering[-1]] if covering else unnamed
        closed[prefix] = inherited | sets.get(prefix, 0)
        covering.append(prefix)
    return closed


def _cut(number: int, length: int, width: int) -> Prefix:
    """The prefix of a number of ``width`` bits."""
    return number >> width - length << width - length, length


def _longest_network(table: Mapping[Network, int], address: Address) -> int:
    """The set of the longest prefix in the table that covers an address."""
    kind = IPv4Network if isinstance(address, IPv4Address) else IPv6Network
    width = address.max_prefixlen
    networks = (kind(_cut(int(address), length, width)) for length in range(width, -1, -1))
    return next(table[network] for network in networks if network in table)
