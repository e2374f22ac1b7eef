"""The policy as the kernel half evaluates it: the classifier's bit sets in hash and longest-prefix tables.

This is pure data with a lookup in Python that does step by step what the kernel program does; writing it
into maps is the business of the kernel half. In a longest-prefix table each entry's set already holds the
sets of all prefixes that cover it, so one lookup gives the whole answer of a dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from tidewaiter.model.key import Address, Direction
from tidewaiter.policy.classifier import bit_sets, direction_sets, lowest_bit
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer, Facts, Network, Rule

Prefix = tuple[int, int]
"""A number whose low bits are 0, and how many of its high bits count."""

PORT_KEY_BITS = 24
"""The key of the port table: the protocol number (8 bits), then the port (16 bits)."""

_WORD_BITS = 64
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
    rules = policy.rules[: capacity - NOT_RULES]
    whole = len(rules) == len(policy.rules)
    actions = [RuleAction(rule.answer, rule.answer is Answer.ASK) for rule in rules]
    if whole:
        answers = [policy.default(direction) for direction in Direction]
        actions += [RuleAction(answer, answer is Answer.ASK) for answer in answers]
    else:
        actions.append(RuleAction(Answer.ASK, consult=True))
    last = (0b111 if whole else 1) << len(rules)
    any_program, programs = bit_sets(rules, lambda rule: rule.programs, last)
    any_user, users = bit_sets(rules, lambda rule: rule.users, last)
    kinds = direction_sets(rules, defaults=whole)
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


def _others(rules: Sequence[Rule], values: Callable[[Rule], Sequence[object]], always: int) -> int:
    """The rules that do not look at a dimension."""
    return always | sum(1 << index for index, rule in enumerate(rules) if not values(rule))


def _network_table(
    rules: Sequence[Rule], networks: Callable[[Rule], Sequence[Network]], always: int
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


def _port_table(rules: Sequence[Rule], always: int) -> dict[tuple[int, int, int], int]:
    """The longest-prefix table over protocol and port."""
    unnamed, named = bit_sets(rules, _port_prefixes, always)
    closed = _closed(named, PORT_KEY_BITS, unnamed)
    return {(key >> 16, key & 0xFFFF, length): bits for (key, length), bits in closed.items()}


def _port_prefixes(rule: Rule) -> Iterator[Prefix]:
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
