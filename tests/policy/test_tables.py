"""The tables of the kernel half, looked up as the kernel does, against the classifier."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.host.policy_maps import CAPACITY
from tidewaiter.model.key import Direction
from tidewaiter.policy import Answer, Classifier, Facts, Policy, PortSpan, Rule, RuleAction, compile_tables
from tidewaiter.policy.named import network_prefix, port_prefixes
from tidewaiter.policy.tables import KERNEL_CAPACITY, KernelTables

Cases = st.SearchStrategy[tuple[Policy, list[Facts]]]

NEVER = Rule(name="never", answer=Answer.DROP, programs=("/nothing",))
FACTS = Facts("/bin/sh", 0, Direction.OUT, 6, ip_address("10.0.0.1"), 40000, ip_address("192.0.2.1"), 443)


@given(st.data())
@settings(max_examples=200 * FUZZ)
def test_they_agree_with_the_classifier(policy_cases: Cases, data: st.DataObject) -> None:
    policy, connections = data.draw(policy_cases)
    classifier, tables = Classifier(policy), compile_tables(policy)
    assert tables.rules == policy.rules
    for facts in connections:
        decision, bit = classifier.decide(facts), tables.lookup(facts)
        assert tables.index(bit) == decision.index
        assert tables.actions[bit] == RuleAction(decision.answer, decision.answer is Answer.ASK)


@given(st.data())
@settings(max_examples=100 * FUZZ)
def test_what_does_not_fit_is_consulted(policy_cases: Cases, data: st.DataObject) -> None:
    policy, connections = data.draw(policy_cases)
    policy = replace(policy, rules=(NEVER,) * data.draw(st.integers(54, 64)) + policy.rules)
    classifier, tables = Classifier(policy), compile_tables(policy, capacity=64)
    for facts in connections:
        index, bit = classifier.decide(facts).index, tables.lookup(facts)
        if index < 60 or len(policy.rules) <= 60:
            assert tables.index(bit) == index
        else:
            assert bit == tables.end == 60
            assert tables.actions[bit].consult


@given(st.data())
@settings(max_examples=100 * FUZZ)
def test_an_answer_at_connect_holds_for_every_local_address(policy_cases: Cases, data: st.DataObject) -> None:
    policy, connections = data.draw(policy_cases)
    classifier, tables = Classifier(policy), compile_tables(policy)
    locals_ = [facts.local for facts in connections]
    for facts in connections:
        bit = tables.lookup_at_connect(facts)
        if bit is None:
            assert any(rule.local or "local" in rule.none_of for rule in policy.rules)
            continue
        for local in locals_:
            if local.version == facts.remote.version:
                assert classifier.decide(facts._replace(local=local)).index == tables.index(bit)


def test_the_kernel_has_so_many_bits() -> None:
    assert KERNEL_CAPACITY == CAPACITY


def test_at_connect_only_a_first_match_that_names_local_is_consulted() -> None:
    rules = (
        Rule(name="a", answer=Answer.DROP, ports=(PortSpan(22, 22),)),
        Rule(name="b", answer=Answer.BLOCK, users=(0,), local=(ip_network("10.0.0.0/8"),)),
    )
    tables = compile_tables(Policy(rules))
    assert tables.bits == [0, 1]
    assert tables.named["local"].looking == 0b10
    assert tables.lookup_at_connect(FACTS) is None
    assert tables.lookup_at_connect(FACTS._replace(remote_port=22)) == 0
    assert tables.lookup_at_connect(FACTS._replace(uid=1)) == 2
    assert tables.lookup(FACTS) == 1


def test_a_rule_that_refuses_a_local_address_waits_for_it_too() -> None:
    rule = Rule(name="a", answer=Answer.BLOCK, none_of={"local": (ip_network("10.0.0.0/8"),)})
    tables = compile_tables(Policy((rule,)))
    assert tables.lookup_at_connect(FACTS) is None
    assert (tables.lookup(FACTS), tables.lookup(FACTS._replace(local=ip_address("192.0.2.9")))) == (1, 0)


def turned(tables: KernelTables, dimension: str) -> dict[Any, int | None]:
    """What the values of a dimension turn."""
    named = tables.named[dimension]
    return dict(named.turned(named.keys()))


def test_the_layout() -> None:
    rules = (
        Rule(name="a", answer=Answer.ASK, programs=("/bin/sh",), remote=(ip_network("10.0.0.0/8"),)),
        Rule(
            name="b",
            answer=Answer.DROP,
            users=(5,),
            remote=(ip_network("10.1.0.0/16"), ip_network("fd00::/8")),
        ),
        Rule(
            name="c",
            answer=Answer.BLOCK,
            directions=frozenset({Direction.IN}),
            ports=(PortSpan(6, 7, 17),),
            none_of={"user": (5, 6), "remote": (ip_network("10.0.0.0/7"),)},
        ),
    )
    tables = compile_tables(Policy(rules, {Direction.FORWARD: Answer.ASK}))
    assert (tables.bits, tables.rules, tables.end) == ([0, 2, 3], rules, 4)
    assert tables.actions == {
        0: RuleAction(Answer.ASK, consult=True),
        2: RuleAction(Answer.DROP, consult=False),
        3: RuleAction(Answer.BLOCK, consult=False),
        4: RuleAction(Answer.ACCEPT, consult=False),
        5: RuleAction(Answer.ACCEPT, consult=False),
        6: RuleAction(Answer.ASK, consult=True),
    }
    assert (tables.others("program"), turned(tables, "program")) == (0b111_1100, {"/bin/sh": 0b0001})
    assert (tables.others("user"), turned(tables, "user")) == (0b111_1001, {5: 0b1100, 6: 0b1000})
    assert tables.kinds == {
        Direction.OUT: 0b001_0101,
        Direction.IN: 0b010_1101,
        Direction.FORWARD: 0b100_0101,
    }
    assert tables.others("remote") == 0b111_1000
    assert turned(tables, "remote") == {
        network_prefix(ip_network("10.0.0.0/7")): 0b1000,
        network_prefix(ip_network("10.0.0.0/8")): 0b1001,
        network_prefix(ip_network("10.1.0.0/16")): 0b1101,
        network_prefix(ip_network("fd00::/8")): 0b0100,
    }
    assert (tables.others("local"), turned(tables, "local")) == (0b111_1101, {})
    assert (tables.others("port"), turned(tables, "port")) == (0b111_0101, {(17 << 16 | 6) << 8 | 23: 0b1000})
    assert tables.in_kernel == 2


def test_the_layout_of_too_many_rules() -> None:
    policy = Policy((NEVER,) * 253, {Direction.OUT: Answer.BLOCK})
    tables = compile_tables(policy)
    assert (tables.bits, len(tables.actions), tables.whole) == (list(range(252)), 253, False)
    assert tables.actions[252].consult
    assert tables.others("program") == 1 << 252
    assert tables.kinds == dict.fromkeys(Direction, (1 << 253) - 1)
    assert len(compile_tables(Policy((NEVER,) * 252)).actions) == 255


def wanted(policy: Policy, facts: Facts) -> tuple[int, RuleAction]:
    decision = Classifier(policy).decide(facts)
    return decision.index, RuleAction(decision.answer, decision.answer is Answer.ASK)


@given(st.data())
@settings(max_examples=30 * FUZZ)
def test_what_has_changed_is_told_whole(policy_cases: Cases, data: st.DataObject) -> None:
    """Tables that take one policy after the other decide as new ones do; what they do not tell has not changed."""
    policy, _ = data.draw(policy_cases)
    tables = KernelTables(policy, 64)
    for _ in range(data.draw(st.integers(1, 6))):
        before = {name: turned(tables, name) for name in tables.named}
        actions = dict(tables.actions)
        following, connections = data.draw(policy_cases)
        rules = [*policy.rules, *following.rules][-59:]
        policy = replace(
            following, rules=tuple(data.draw(st.permutations(rules)) if data.draw(st.booleans()) else rules)
        )
        at = data.draw(st.integers(0, len(policy.rules)))
        policy = replace(policy, rules=policy.rules[:at] + policy.rules[at + 1 :])
        change = tables.update(policy)
        assert tables.bits == sorted(set(tables.bits))
        for name in tables.named:
            after = turned(tables, name)
            different = {key for key in {*before[name], *after} if before[name].get(key) != after.get(key)}
            assert different <= change.values[name]
        assert {bit for bit in range(64) if actions.get(bit) != tables.actions.get(bit)} <= change.bits
        for facts in connections:
            bit = tables.lookup(facts)
            assert (tables.index(bit), tables.actions[bit]) == wanted(policy, facts)


def many(count: int) -> list[Rule]:
    return [
        Rule(
            name=f"{n}",
            answer=Answer.BLOCK,
            programs=(f"/bin/{n}",),
            users=(n,),
            remote=(ip_network((n << 12, 20)),),
            ports=(PortSpan(n, n),),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("at", [0, 999, 1000, 1999])
def test_a_change_touches_what_it_names_and_no_other_rule(at: int) -> None:
    rules = many(2000)
    tables = KernelTables(Policy(tuple(rules)), KERNEL_CAPACITY)
    other = Rule(name="new", answer=Answer.DROP, users=(70000,), remote=(ip_network("203.0.113.0/24"),))

    def touched(*changed: Rule) -> tuple[int, int]:
        change = tables.update(Policy(changed))
        return sum(map(len, change.values.values())), len(change.bits)

    defaults = 3 + 3  # they may have moved
    for changed in (
        [*rules[:at], other, *rules[at:]],
        rules,
        [*rules[:at], replace(rules[at], users=(70001,)), *rules[at + 1 :]],
        [*rules[:at], *rules[at + 1 :]],
        rules,
        [*rules[:at], *rules[at + 1 :], rules[at]],
    ):
        values, bits = touched(*changed)
        assert values <= 15 * 4  # a few neighbours make room
        assert bits <= 2 * 15 + defaults


def test_places_are_made_where_there_are_none_left() -> None:
    rules = many(200)
    tables = KernelTables(Policy(tuple(rules)), KERNEL_CAPACITY)
    for n in range(200, 600):
        rules.insert(100, replace(rules[0], name=f"{n}", users=(n,)))
        tables.update(Policy(tuple(rules)))
    facts = FACTS._replace(program="/bin/0", remote=ip_address(1), remote_port=0)
    assert [tables.index(tables.lookup(facts._replace(uid=uid))) for uid in (0, 599, 200)] == [0, 100, 499]
    assert tables.end < 600 * 3


@pytest.mark.parametrize("capacity", [-64, 0, 63, 100])
def test_a_capacity_is_whole_words(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"the capacity {capacity} is not a multiple of 64"):
        compile_tables(Policy(), capacity)


@pytest.mark.parametrize(
    ("span", "prefixes"),
    [
        (PortSpan(0, 65535, 6), {(6, 0, 8)}),
        (PortSpan(443, 443, 6), {(6, 443, 24)}),
        (PortSpan(53, 53), {(6, 53, 24), (17, 53, 24), (132, 53, 24)}),
        (PortSpan(1, 4, 17), {(17, 1, 24), (17, 2, 23), (17, 4, 24)}),
        (PortSpan(32768, 65535, 17), {(17, 32768, 9)}),
    ],
)
def test_a_span_becomes_prefixes(span: PortSpan, prefixes: set[tuple[int, int, int]]) -> None:
    found = {(key >> 24, key >> 8 & 0xFFFF, key & 255) for key in port_prefixes(span)}
    assert found == prefixes


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535))
def test_the_prefixes_of_a_span_hold_its_ports_and_no_other(one: int, other: int, port: int) -> None:
    low, high = sorted((one, other))
    tables = compile_tables(Policy((Rule(name="a", answer=Answer.DROP, ports=(PortSpan(low, high, 6),)),)))
    assert len(tables.named["port"]) <= 30
    for number in {port, low, high, max(0, low - 1), min(65535, high + 1)}:
        assert (tables.lookup(FACTS._replace(remote_port=number)) == 0) is (low <= number <= high)
