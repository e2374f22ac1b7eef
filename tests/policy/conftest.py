"""Policies and connections drawn so that they often touch, and a plain loop over the rules to judge by."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import strategies as st

from tidewaiter.model.key import Address, Direction
from tidewaiter.policy import Answer, Facts, Network, Policy, PortSpan, Rule
from tidewaiter.policy.patterns import Pattern

PROGRAMS = st.sampled_from(["/usr/bin/curl", "/usr/bin/ssh", "/bin/sh"])
USERS = st.sampled_from([0, 1000, 1001])
PROTOCOLS = st.sampled_from([1, 6, 17, 47, 58, 132])
ANSWERS = [Answer.ACCEPT, Answer.BLOCK, Answer.DROP, Answer.ASK]
EDGES = {4: 10 << 24, 6: 0xFD00 << 112}
WIDTHS = {4: 32, 6: 128}


def address(version: int, number: int) -> Address:
    return (IPv4Address if version == 4 else IPv6Address)(number)


@st.composite
def numbers(draw: Any, version: int) -> int:
    """Addresses that share long prefixes with each other, so that networks nest."""
    width = WIDTHS[version]
    low = draw(st.integers(0, 3) | st.integers(0, 2**width - 1))
    return int((EDGES[version] ^ low << draw(st.integers(0, width - 2))) % 2**width)


@st.composite
def networks(draw: Any) -> Network:
    version = draw(st.sampled_from([4, 6]))
    length = draw(st.integers(0, WIDTHS[version]))
    return ip_network((address(version, draw(numbers(version))), length), strict=False)


@st.composite
def spans(draw: Any) -> PortSpan:
    protocol = draw(st.none() | PROTOCOLS)
    low = draw(st.sampled_from([0, 79, 80, 443, 8000, 65535]) | st.integers(0, 65535))
    high = min(65535, low + draw(st.sampled_from([0, 1, 100, 65535]) | st.integers(0, 65535)))
    return PortSpan(low, high, protocol)


def some(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.just(()) | st.lists(elements, max_size=3).map(tuple)


def any_of(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(elements, min_size=1, max_size=2).map(tuple)


REFUSED: st.SearchStrategy[dict[str, tuple[Any, ...]]] = (
    st.just({})
    | st.just({})
    | st.fixed_dictionaries(
        {},
        optional={
            "program": any_of(PROGRAMS),
            "user": any_of(USERS),
            "direction": any_of(st.sampled_from(Direction)),
            "remote": any_of(networks()),
            "local": any_of(networks()),
            "port": any_of(spans()),
        },
    )
)
RULES = st.builds(
    Rule,
    name=st.just("drawn"),
    answer=st.sampled_from(ANSWERS),
    programs=some(PROGRAMS),
    users=some(USERS),
    directions=st.frozensets(st.sampled_from(Direction)),
    remote=some(networks()),
    local=some(networks()),
    ports=some(spans()),
    none_of=REFUSED,
)
DEFAULTS = st.dictionaries(st.sampled_from(Direction), st.sampled_from(ANSWERS))


@st.composite
def addresses(draw: Any, version: int, near: list[Network]) -> Address:
    """Often the first or last address of a network, or the one before or after it."""
    near = [network for network in near if network.version == version]
    if not near or draw(st.booleans()):
        return address(version, draw(numbers(version)))
    network = draw(st.sampled_from(near))
    edge, step = draw(
        st.sampled_from([(network.network_address, 0), (network.network_address, -1)])
        | st.sampled_from([(network.broadcast_address, 0), (network.broadcast_address, 1)])
    )
    return address(version, (int(edge) + step) % 2 ** WIDTHS[version])


def named_networks(rules: list[Rule], dimension: str) -> list[Network]:
    """What rules want and what they refuse."""
    named = [one for rule in rules for one in (*getattr(rule, dimension), *rule.none_of.get(dimension, ()))]
    return [one for one in named if not isinstance(one, Pattern)]


@st.composite
def facts(draw: Any, rules: list[Rule]) -> Facts:
    version = draw(st.sampled_from([4, 6]))
    edges = [
        edge
        for rule in rules
        for span in (*rule.ports, *rule.none_of.get("port", ()))
        for edge in (span.low, span.high)
    ]
    ports = st.integers(0, 65535)
    if edges:
        near = st.builds(
            lambda edge, step: min(65535, max(0, edge + step)), st.sampled_from(edges), st.integers(-1, 1)
        )
        ports = near | ports
    return Facts(
        program=draw(PROGRAMS | st.just("")),
        uid=draw(USERS | st.just(-1)),
        direction=draw(st.sampled_from(Direction)),
        protocol=draw(PROTOCOLS),
        local=draw(addresses(version, named_networks(rules, "local"))),
        local_port=draw(ports),
        remote=draw(addresses(version, named_networks(rules, "remote"))),
        remote_port=draw(ports),
    )


@st.composite
def cases(draw: Any) -> tuple[Policy, list[Facts]]:
    rules = draw(st.lists(RULES, max_size=6))
    return Policy(tuple(rules), draw(DEFAULTS)), draw(st.lists(facts(rules), min_size=1, max_size=6))


def is_one_of(dimension: str, values: tuple[Any, ...], facts: Facts) -> bool:
    """Whether a connection is one of the values of a dimension."""
    if dimension in {"remote", "local"}:
        address = facts.remote if dimension == "remote" else facts.local
        return any(address in network for network in values if not isinstance(network, Pattern))
    if dimension == "port":
        port = facts.local_port if facts.direction == Direction.IN else facts.remote_port
        return any(
            span.low <= port <= span.high
            and (facts.protocol in {6, 17, 132} if span.protocol is None else facts.protocol == span.protocol)
            for span in values
        )
    return {"program": facts.program, "user": facts.uid, "direction": facts.direction}[dimension] in values


def matches(rule: Rule, facts: Facts) -> bool:
    wanted = {
        "program": rule.programs,
        "user": rule.users,
        "direction": tuple(rule.directions),
        "remote": rule.remote,
        "local": rule.local,
        "port": rule.ports,
    }
    return all(not values or is_one_of(name, values, facts) for name, values in wanted.items()) and not any(
        is_one_of(name, values, facts) for name, values in rule.none_of.items()
    )


def first_match(policy: Policy, facts: Facts) -> int:
    for index, rule in enumerate(policy.rules):
        if matches(rule, facts):
            return index
    return len(policy.rules) + facts.direction


@pytest.fixture(scope="session")
def policy_cases() -> st.SearchStrategy[tuple[Policy, list[Facts]]]:
    return cases()


@pytest.fixture(scope="session")
def plain_loop() -> Callable[[Policy, Facts], int]:
    """The index of the first rule that matches, or the number of rules plus the direction."""
    return first_match
