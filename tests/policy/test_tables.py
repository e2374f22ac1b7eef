"""The tables of the kernel half, looked up as the kernel does, against the classifier."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.host.policy_maps import CAPACITY
from tidewaiter.model.key import Direction
from tidewaiter.policy import Answer, Classifier, Facts, Policy, PortSpan, Rule, RuleAction, compile_tables
from tidewaiter.policy.tables import KERNEL_CAPACITY

Cases = st.SearchStrategy[tuple[Policy, list[Facts]]]

NEVER = Rule(name="never", answer=Answer.DROP, programs=("/nothing",))
FACTS = Facts("/bin/sh", 0, Direction.OUT, 6, ip_address("10.0.0.1"), 40000, ip_address("192.0.2.1"), 443)


@given(st.data())
@settings(max_examples=200 * FUZZ)
def test_they_agree_with_the_classifier(policy_cases: Cases, data: st.DataObject) -> None:
    policy, connections = data.draw(policy_cases)
    classifier, tables = Classifier(policy), compile_tables(policy)
    assert tables.rules == len(policy.rules)
    for facts in connections:
        decision = classifier.decide(facts)
        assert tables.lookup(facts) == decision.index
        assert tables.actions[decision.index] == RuleAction(decision.answer, decision.answer is Answer.ASK)


@given(st.data())
@settings(max_examples=100 * FUZZ)
def test_what_does_not_fit_is_consulted(policy_cases: Cases, data: st.DataObject) -> None:
    policy, connections = data.draw(policy_cases)
    policy = replace(policy, rules=(NEVER,) * data.draw(st.integers(54, 64)) + policy.rules)
    classifier, tables = Classifier(policy), compile_tables(policy, capacity=64)
    for facts in connections:
        index, bit = classifier.decide(facts).index, tables.lookup(facts)
        if index < 60 or len(policy.rules) <= 60:
            assert bit == index
        else:
            assert bit == 60
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
            assert any(rule.local for rule in policy.rules)
            continue
        for local in locals_:
            if local.version == facts.remote.version:
                assert classifier.decide(facts._replace(local=local)).index == bit


def test_the_kernel_has_so_many_bits() -> None:
    assert KERNEL_CAPACITY == CAPACITY


def test_at_connect_only_a_first_match_that_names_local_is_consulted() -> None:
    rules = (
        Rule(name="a", answer=Answer.DROP, ports=(PortSpan(22, 22),)),
        Rule(name="b", answer=Answer.BLOCK, users=(0,), local=(ip_network("10.0.0.0/8"),)),
    )
    tables = compile_tables(Policy(rules))
    assert tables.local_mask == 0b10
    assert tables.lookup_at_connect(FACTS) is None
    assert tables.lookup_at_connect(FACTS._replace(remote_port=22)) == 0
    assert tables.lookup_at_connect(FACTS._replace(uid=1)) == 2
    assert tables.lookup(FACTS) == 1


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
            name="c", answer=Answer.BLOCK, directions=frozenset({Direction.IN}), ports=(PortSpan(6, 7, 17),)
        ),
    )
    tables = compile_tables(Policy(rules, {Direction.FORWARD: Answer.ASK}))
    assert (tables.words, tables.rules, len(tables.actions)) == (4, 3, 6)
    assert tables.actions == (
        RuleAction(Answer.ASK, consult=True),
        RuleAction(Answer.DROP, consult=False),
        RuleAction(Answer.BLOCK, consult=False),
        RuleAction(Answer.ACCEPT, consult=False),
        RuleAction(Answer.ACCEPT, consult=False),
        RuleAction(Answer.ASK, consult=True),
    )
    assert (tables.any_program, tables.programs) == (0b111_110, {"/bin/sh": 0b111_111})
    assert (tables.any_user, tables.users) == (0b111_101, {5: 0b111_111})
    assert tables.kinds == {Direction.OUT: 0b001_011, Direction.IN: 0b010_111, Direction.FORWARD: 0b100_011}
    assert tables.remote == {
        ip_network("0.0.0.0/0"): 0b111_100,
        ip_network("10.0.0.0/8"): 0b111_101,
        ip_network("10.1.0.0/16"): 0b111_111,
        ip_network("::/0"): 0b111_100,
        ip_network("fd00::/8"): 0b111_110,
    }
    assert tables.local == {ip_network("0.0.0.0/0"): 0b111_111, ip_network("::/0"): 0b111_111}
    assert tables.ports == {(0, 0, 0): 0b111_011, (17, 6, 23): 0b111_111}
    assert tables.local_mask == 0


def test_the_layout_of_too_many_rules() -> None:
    policy = Policy((NEVER,) * 253, {Direction.OUT: Answer.BLOCK})
    tables = compile_tables(policy)
    assert (tables.words, tables.rules, len(tables.actions)) == (4, 252, 253)
    assert tables.actions[252].consult
    assert tables.any_program == 1 << 252
    assert tables.kinds == dict.fromkeys(Direction, (1 << 253) - 1)
    assert len(compile_tables(Policy((NEVER,) * 252)).actions) == 255


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
    tables = compile_tables(Policy((Rule(name="a", answer=Answer.DROP, ports=(span,)),)))
    assert set(tables.ports) == prefixes | {(0, 0, 0)}


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535))
def test_the_prefixes_of_a_span_hold_its_ports_and_no_other(one: int, other: int, port: int) -> None:
    low, high = sorted((one, other))
    tables = compile_tables(Policy((Rule(name="a", answer=Answer.DROP, ports=(PortSpan(low, high, 6),)),)))
    assert len(tables.ports) <= 31
    for number in {port, low, high, max(0, low - 1), min(65535, high + 1)}:
        assert (tables.lookup(FACTS._replace(remote_port=number)) == 0) is (low <= number <= high)
