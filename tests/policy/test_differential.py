"""The classifier against a plain loop over the words of the rules, for policies of hundreds of rules.

A run tries eight thousand pairs of a policy and a connection, and `./dev fuzz` more than a million. That the kernel
half agrees too is tried by tests/kernel/test_policy.py.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.crowd import Crowd, smallest
from policy.homes import CONNECTIONS, EDITS, PHASES, POLICIES, WORLD, classified, in_kernel, parse
from policy.material import LISTS, WORDS
from policy.oracle import Loop, Seen, Words
from tidewaiter.policy import Classifier
from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.dimensions import DIMENSIONS
from tidewaiter.policy.tables import needs_python
from tidewaiter.policy.writing import toml_policy


def explained(words: Words, one: Words) -> str:
    """What somebody has to look at where the two differ: as few rules as still make them differ."""

    def differs(fewer: Words) -> bool:
        policy = parse(fewer)
        expected = Loop.over(fewer).first(Seen(one, LISTS))
        return classified(policy, Classifier(policy, WORLD), facts_of(one)) != expected

    if not differs(words):
        return (
            "a classifier made anew agrees: what was decided before, or the change of the policy, went wrong"
        )
    small = smallest(words, differs)
    policy = parse(small)
    found = classified(policy, Classifier(policy, WORLD), facts_of(one))
    return f"{toml_policy(small)}\n{json.dumps(one)}\nfound {found}, not {Loop.over(small).first(Seen(one, LISTS))}"


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=POLICIES, deadline=None, phases=PHASES)
def test_the_first_rule_of_hundreds_decides(seed: int) -> None:
    """4 policies, each with 3 changes, and 500 connections: 8,000 pairs. `./dev fuzz`: 1,200,000."""
    crowd = Crowd(seed)
    those = []
    for _ in range(CONNECTIONS):
        one = crowd.connection()
        if crowd.dice.random() < 0.1:
            one["pending"] = crowd.dice.sample(["sha256", "package", "list", "country"], 2)
        those.append((one, Seen(one, LISTS), facts_of(one)))
    classifier = Classifier(parse(crowd.words), WORLD)
    for edit in range(EDITS + 1):
        if edit:
            crowd.edit()
        policy, loop = parse(crowd.words), Loop.over(crowd.words)
        classifier.update(policy)
        for one, seen, facts in those:
            if classified(policy, classifier, facts) != loop.first(seen):
                pytest.fail(explained(crowd.words, one))


def test_what_is_drawn_reaches_everything() -> None:
    """Rules of every block, every dimension, the defaults; and connections that a rule misses by one thing."""
    blocks: Counter[int] = Counter()
    deciding: Counter[str] = Counter()
    failing: Counter[str] = Counter()
    pairs = defaults = 0
    for seed, size in enumerate([600, 600, 600, *[12] * 120]):
        crowd = Crowd(seed, size=size, loose=int(size == 12))
        loop = Loop.over(crowd.words)
        for _ in range(200 if size == 600 else 30):
            seen = Seen(crowd.connection(), LISTS)
            index, _ = loop.first(seen)
            pairs += 1
            if index == len(loop.rules):
                defaults += 1
                continue
            blocks[index // 256] += 1
            deciding.update({one.dimension for one in loop.rules[index][1]})
            for on, demands in loop.rules[:index]:
                unmet = [one.dimension for one in demands if not one.holds(seen)] if on else []
                if len(unmet) == 1:
                    failing[unmet[0]] += 1
    dimensions = {*DIMENSIONS, "until"}
    assert set(deciding) == dimensions
    assert set(failing) == dimensions
    assert blocks[0] > pairs / 4
    assert blocks[1] > pairs / 50
    assert blocks[2] > pairs / 500
    assert defaults > pairs / 20


def test_every_dimension_is_drawn() -> None:
    assert {*WORDS, "program", "user", "direction", "port", "remote", "local"} == set(DIMENSIONS)


def held(demand: Words, one: Words) -> bool:
    """Whether the plain loop says that a rule matches."""
    one = {"remote": "192.0.2.1:443", "local": "10.0.0.1:40000"} | one
    return Loop.over({"rule": [demand]}).first(Seen(one, LISTS)).place == 0


@pytest.mark.parametrize(
    ("demand", "one", "expected"),
    [
        # each is a sentence of docs/reference/policy.md
        ({"program": "/usr/bin/curl"}, {"program": "/usr/bin/curl"}, True),
        ({"program": "/usr/bin/curl"}, {"program": "/usr/bin/curl2"}, False),
        ({"program": "/opt/vendor/"}, {"program": "/opt/vendor/a/b"}, True),
        ({"program": "/opt/vendor/"}, {"program": "/opt/vendor"}, False),
        ({"program": "/opt/*/b"}, {"program": "/opt/a/c/b"}, False),
        ({"program": "/opt/**/b"}, {"program": "/opt/a/c/b"}, True),
        ({"unit": "a/*"}, {"unit": "a/b/c"}, True),
        ({"script": "/srv/[x"}, {"script": "/srv/[x"}, True),
        ({"host": ".example.com"}, {"name": "example.com"}, True),
        ({"host": ".example.com"}, {"name": "a.b.EXAMPLE.com"}, True),
        ({"host": ".example.com"}, {"name": "anexample.com"}, False),
        ({"host": "b.example"}, {"name": "a.example", "aliases": ["b.example"]}, True),
        ({"asked_host": "b.example"}, {"name": "a.example", "aliases": ["b.example"]}, False),
        ({"host": "re:^METRICS"}, {"name": "metrics.example"}, False),
        ({"host": "re:(?i)^METRICS"}, {"name": "metrics.example"}, True),
        ({"remote": "re:^192[.]"}, {}, True),
        ({"program": ""}, {}, True),
        ({"package": "*"}, {}, False),
        ({"not": {"program": "/usr/bin/curl"}}, {}, True),
        ({"not": {"program": ""}}, {}, False),
        ({"port": "443/tcp"}, {"direction": "out"}, True),
        ({"port": "443/tcp"}, {"direction": "forward"}, True),
        ({"port": "443/tcp"}, {"direction": "in"}, False),
        ({"port": 40000}, {"direction": "in"}, True),
        ({"remote_port": 443}, {"direction": "in"}, True),
        ({"port": 443}, {"protocol": "sctp"}, True),
        ({"port": "0-65535"}, {"protocol": "icmp", "remote": "192.0.2.1:0"}, False),
        ({"port": "icmp"}, {"protocol": "icmp", "remote": "192.0.2.1:0"}, True),
        ({"port": "https/udp"}, {}, False),
        ({"protocol": "tcp6"}, {}, False),
        ({"remote": "internet"}, {}, True),
        ({"remote": "lan"}, {"remote": "100.127.255.255:1"}, True),
        ({"remote": "lan"}, {"remote": "100.128.0.0:1"}, False),
        ({"remote": "localhost"}, {"remote": "0.0.0.0:1"}, True),
        ({"remote": ["10.0.0.0/8", "192.0.2.0/24"]}, {}, True),
        ({"also": [{"remote": "192.0.2.0/24"}, {"not": {"remote": "192.0.2.1"}}]}, {}, False),
        ({"list": "ads"}, {"remote": "198.51.100.255:1"}, True),
        ({"time": "22:00-06:00"}, {}, False),
        ({"network": "elsewhere"}, {}, True),
        ({"container": "0123456789ab"}, {"container": "0123456789abc"}, True),
        ({"enabled": False}, {}, False),
    ],
)  # fmt: skip
def test_the_loop_reads_the_reference(demand: Words, one: dict[str, Any], expected: bool) -> None:
    assert held(demand, one) is expected
    rule = {"name": "x", "verdict": "drop"} | demand
    policy = parse({"list": {name: {"path": name} for name in LISTS}, "rule": [rule]})
    one = {"remote": "192.0.2.1:443", "local": "10.0.0.1:40000"} | one
    assert (Classifier(policy, WORLD).decide(facts_of(one)).index == 0) is expected


@pytest.mark.parametrize(
    ("demand", "expressed"),
    [
        ({"program": ["/usr/bin/curl", "/usr/bin/wget"]}, True),
        ({"program": ["/usr/bin/curl", "/opt/"]}, False),
        ({"program": "/usr/bin/c*"}, False),
        ({"program": ""}, False),
        ({"user": [0, "1000", "root"]}, True),
        ({"user": ["re:^1"]}, False),
        ({"direction": ["in", "forward"]}, True),
        ({"port": [443, "https/tcp", "1-1024", "icmp"]}, True),
        ({"remote": ["192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "lan", "internet"]}, True),
        ({"remote": "re:^10[.]"}, False),
        ({"local": ["192.0.2.1", "localhost"]}, True),
        ({"also": [{"port": 443}]}, False),
        *[({name: WORDS[name]}, False) for name in WORDS],
    ],
)
def test_the_kernel_expresses_what_the_reference_says(demand: Words, expressed: bool) -> None:
    """The table of "Where a rule is decided"."""
    tables = {"list": {name: {"path": name} for name in LISTS}, "network": {"home": {"wifi": "x"}}}
    (rule,) = parse(tables | {"rule": [{"verdict": "drop"} | demand]}).rules
    assert [in_kernel(rule, one) for one in rule.conditions()] == [expressed]


@pytest.mark.parametrize(
    ("verdict", "decided"),
    [
        ("accept", True), ("block", True), ("drop", True), ("limit", True), ("ask", False), ("redirect-tunnel", False),
        ("redirect-name-server", False), ("redirect-split-tunnel", False), ("python: my.function", False),
    ],
)  # fmt: skip
def test_the_kernel_decides_what_the_reference_says(verdict: str, decided: bool) -> None:
    limit = {"limit": "1 MB/s"} if verdict == "limit" else {}
    (rule,) = parse({"rule": [{"verdict": verdict} | limit]}).rules
    assert (needs_python(rule) == ()) is decided
