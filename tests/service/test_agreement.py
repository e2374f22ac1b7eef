"""One classifier, two homes: real connections under random policies, decided as the classifier in Python says."""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livelab import Agent, agent_in, eventually, new_name, scope_of
from policy.crowd import Crowd
from policy.homes import PHASES, Expected, parse
from policy.material import LISTS, Material
from policy.oracle import Loop, Seen
from strategies import FUZZ
from tidewaiter import Decided, Firewall, Verdict
from tidewaiter.host.policy_maps import CAPACITY
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.policy import Answer, Classifier, Facts, Network, Policy, PortSpan, Rule, compile_tables

pytestmark = pytest.mark.live

PROGRAM = os.path.realpath(sys.executable)
ADDRESSES = [address for place in plan.SERVERS for address in place]
TARGETS = [*itertools.product(ADDRESSES, [7, 53, 80, 443])]
ANSWERS = {
    Answer.ACCEPT: Verdict.PERMANENT_ACCEPT,
    Answer.ASK: Verdict.PERMANENT_ACCEPT,  # what the function says
    Answer.BLOCK: Verdict.PERMANENT_BLOCK,
    Answer.LIMIT: Verdict.PERMANENT_ACCEPT,
}


def networks(addresses: list[str]) -> st.SearchStrategy[Network]:
    """Networks of any length around addresses of the lab."""
    return st.builds(
        lambda address, fewer: ip_network(
            f"{address}/{max(0, ip_address(address).max_prefixlen - fewer)}", strict=False
        ),
        st.sampled_from(addresses),
        st.sampled_from([0, 0, 1, 2, 3, 8, 64, 128]),
    )


def some(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.just(()) | st.lists(elements, min_size=1, max_size=2).map(tuple)


SPANS = st.builds(
    lambda low, more, protocol: PortSpan(low, min(65535, low + more), protocol),
    st.sampled_from([0, 7, 8, 53, 80, 443]),
    st.sampled_from([0, 0, 1, 80, 65535]),
    st.sampled_from([None, Protocol.TCP, Protocol.UDP]),
)
RULES = st.builds(
    Rule,
    name=st.just(""),
    answer=st.sampled_from([Answer.ACCEPT, Answer.ASK, Answer.BLOCK]),
    programs=some(st.sampled_from([PROGRAM, "/usr/bin/curl"])),
    users=some(st.sampled_from([0, 1000])),
    directions=st.sampled_from(
        [frozenset(), frozenset(), frozenset({Direction.OUT}), frozenset({Direction.IN})]
    ),
    remote=some(networks(ADDRESSES)),
    local=some(networks([*plan.CLIENT])),
    ports=some(SPANS),
)
POLICIES = st.builds(
    lambda rules, default: Policy(
        tuple(replace(rule, name=f"rule {number}") for number, rule in enumerate(rules)),
        {Direction.OUT: default},
    ),
    st.lists(RULES, max_size=7),
    st.sampled_from([Answer.ACCEPT, Answer.ASK, Answer.BLOCK]),
)


class Bench:
    """A firewall whose policy changes, and what it decided last."""

    def __init__(self, firewall: Firewall, agent: Agent, decided: list[Connection]) -> None:
        self.firewall, self.agent, self._decided = firewall, agent, decided

    def connect(
        self, targets: list[tuple[str, int]]
    ) -> tuple[list[str | None], dict[tuple[str, int], Connection]]:
        """The errors, and what was decided about each target."""
        self._decided.clear()
        results = self.agent.do("flood", targets=targets).results
        assert results is not None
        eventually(lambda: len(self._decided) >= len(targets), "every decision is told")
        found = {(str(one.key.remote), one.key.remote_port): one for one in self._decided}
        return [error for error, _ in results], found


@pytest.fixture(scope="module")
def bench(world: World) -> Iterator[Bench]:
    decided: list[Connection] = []

    def listener(event: object) -> None:
        if isinstance(event, Decided):
            decided.append(replace(event.connection))

    def decide(_: Connection) -> Verdict:
        return Verdict.PERMANENT_ACCEPT

    with (
        agent_in(world) as agent,
        Firewall(
            Policy(), decide=decide, listener=listener, scope=scope_of(world), name=new_name(world)
        ) as firewall,
    ):
        yield Bench(firewall, agent, decided)


def facts(target: tuple[str, int]) -> Facts:
    address, port = target
    remote = ip_address(address)
    local = ip_address(plan.CLIENT.v4 if remote.version == 4 else plan.CLIENT.v6)
    return Facts(PROGRAM, os.getuid(), Direction.OUT, Protocol.TCP, local, 0, remote, port)


@given(POLICIES, st.permutations(TARGETS))
@settings(max_examples=40 * FUZZ, suppress_health_check=[HealthCheck.too_slow])
def test_every_connection_is_decided_as_the_classifier_says(
    bench: Bench, policy: Policy, targets: list[tuple[str, int]]
) -> None:
    bench.firewall.load(policy)
    classifier, tables = Classifier(policy), compile_tables(policy, CAPACITY)
    targets = targets[:20]
    errors, decided = bench.connect(targets)
    for target, error in zip(targets, errors, strict=True):
        expected, connection = classifier.decide(facts(target)), decided[target]
        assert connection.verdict is ANSWERS[expected.answer], target
        assert connection.rule == (expected.rule or "default"), target
        at_connect = tables.lookup_at_connect(facts(target))
        in_kernel = at_connect is not None and not tables.actions[at_connect].consult
        assert connection.tier is (Tier.KERNEL if in_kernel else Tier.PYTHON), target
        if expected.answer is not Answer.BLOCK:
            assert error is None, target
        elif in_kernel:
            assert error == "PermissionError", target
        else:
            assert error == "ConnectionRefusedError", target


LAB = Material(
    programs=(PROGRAM, PROGRAM, "/usr/bin/curl", "/usr/bin/ssh"),
    users=(0, 0, 1000, 1001),
    addresses=(*ADDRESSES, *plan.CLIENT),
    ports=(7, 53, 80, 443),
    words={"protocol": ["tcp", "udp", "tcp6"], "remote_port": [443, "1-79"], "country": ["", "DE"]},
    in_tables=("accept", "block", "limit"),
    asking=("ask",),
)
"""Policies about what is in the lab; nothing in it is dropped, since a program notices that too late."""


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=15 * FUZZ, deadline=None, phases=PHASES)
def test_real_connects_are_decided_by_the_first_of_hundreds_of_rules(bench: Bench, seed: int) -> None:
    """300 connects of a real program, each as a plain loop over the words says, in the kernel where it can be."""
    dice = random.Random(seed)
    crowd = Crowd(seed, size=dice.choice([5, 40, 300]), loose=dice.choice([0, 0.05, 0.5]), of=LAB)
    policy = parse(crowd.words)
    bench.firewall.load(policy)
    loop, expected = Loop.over(crowd.words), Expected(crowd.words, policy)
    targets = crowd.dice.sample(TARGETS, 20)
    errors, decided = bench.connect(targets)
    for target, error in zip(targets, errors, strict=True):
        six = ":" in target[0]
        local, remote = (f"[{plan.CLIENT.v6}]", f"[{target[0]}]") if six else (plan.CLIENT.v4, target[0])
        one: dict[str, Any] = {"remote": f"{remote}:{target[1]}", "local": f"{local}:1"}
        one |= {"program": PROGRAM, "user": os.getuid(), "time": time.time()}
        seen = Seen(one, LISTS)
        index, connection = loop.first(seen).place, decided[target]
        rule = policy.rules[index] if index < len(policy.rules) else None
        answer = rule.answer if rule else policy.default(Direction.OUT)
        assert connection.rule == (rule.name if rule else "default"), target
        assert connection.verdict is ANSWERS[answer], target
        in_kernel = expected.at_connect(seen) is not None
        assert connection.tier is (Tier.KERNEL if in_kernel else Tier.PYTHON), target
        refused = "PermissionError" if in_kernel else "ConnectionRefusedError"
        assert error == (refused if answer is Answer.BLOCK else None), target


def test_the_programs_path_is_the_one_that_rules_name(bench: Bench) -> None:
    rule = Rule(name="python", answer=Answer.BLOCK, programs=(PROGRAM,))
    bench.firewall.load(Policy((rule,)))
    errors, decided = bench.connect(TARGETS[:2])
    assert errors == ["PermissionError"] * 2
    assert {connection.rule for connection in decided.values()} == {"python"}
    assert {connection.process.path for connection in decided.values()} == {PROGRAM}
