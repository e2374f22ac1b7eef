"""service/rules.py: which rules decide, how they end, and what nobody is told of."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from livelab import PATIENCE, Agent, agent_in, eventually
from service.test_engine import engine_in
from tidewaiter.driver.core import Asked, Decided
from tidewaiter.host.processes import read_process
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Policy
from tidewaiter.policy.details import BLIND
from tidewaiter.policy.rule import World as Nothing
from tidewaiter.service import rules as module
from tidewaiter.service.facts import LiveFacts
from tidewaiter.service.rules import Rules

ECHO = (plan.ECHO.v4, 7)
ENDS = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def policy(rules: str) -> Policy:
    return Policy.parse("version = 1\n" + rules)


def rule(name: str, verdict: str, text: str = "") -> str:
    return f'[[rule]]\nname = "{name}"\nverdict = "{verdict}"\n{text}\n'


def rules_of(text: str, before: Rules | None = None) -> Rules:
    facts = LiveFacts(BLIND, None, lambda: None, lambda _text: None)
    made = Rules(policy(text), Nothing(), facts, before)
    made.enter()
    return made


_ports = itertools.count(1024)


def a_connection(port: int = 443, protocol: int = 6, **fields: Any) -> Connection:
    """From another port each time."""
    key = ConnectionKey(protocol, ENDS[0], next(_ports), ENDS[1], port)
    return Connection(1, key, Direction.OUT, **fields)


ONCE = rule("once", "accept", 'until = "once"\nport = 443') + rule("else", "block")


def said(rules: Rules, *connections: Connection) -> list[str]:
    return [rules.decide(one).rule for one in connections]


def test_once_is_for_one_connection() -> None:
    rules = rules_of(ONCE)
    other, first, second = a_connection(80), a_connection(), a_connection()
    assert said(rules, other, first, second, first) == ["else", "once", "else", "once"]
    assert rules.ended() == [0]
    assert rules.ended() == []
    again = replace(first, epoch=1)  # under another policy it is decided as any other
    assert said(rules, again) == ["else"]
    assert said(rules_of(ONCE, rules), a_connection()) == ["else"]


def test_of_what_has_no_connections_it_is_one_packet() -> None:
    rules = rules_of(rule("once", "accept", 'until = "once"') + rule("else", "block"))
    ping = a_connection(0, 1)
    assert said(rules, ping, ping) == ["once", "else"]


def test_a_pass_over_what_is_open_uses_nothing_up() -> None:
    rules = rules_of(ONCE)
    assert rules.decide_open(a_connection()).rule == "once"
    assert said(rules, a_connection()) == ["once"]


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as made:
        yield made


def process_of(program: subprocess.Popen[bytes]) -> Process:
    found = read_process(program.pid)
    assert found is not None
    return found


def test_process_end(program: subprocess.Popen[bytes]) -> None:
    rules = rules_of(rule("while it runs", "accept", 'until = "process-end"') + rule("else", "block"))
    ours = read_process(os.getpid())
    assert ours is not None
    unknown, first, other = (
        a_connection(),
        a_connection(process=process_of(program)),
        a_connection(process=ours),
    )
    assert said(rules, unknown, first, other, first) == ["while it runs"] * 4
    assert rules.ended() == []
    program.communicate()
    assert said(rules, other, unknown) == ["else", "else"]
    assert rules.ended() == [0]
    rules.close()


def test_a_later_policy_goes_on_with_the_same_program(program: subprocess.Popen[bytes]) -> None:
    text = rule("while it runs", "accept", 'until = "process-end"')
    before = rules_of(text)
    said(before, a_connection(process=process_of(program)))
    later = rules_of(rule("new", "block", "port = 1") + text, before)
    assert len(later._endings) == 1
    program.communicate()
    eventually(lambda: later.ended() == [1], "it ends", PATIENCE)
    gone = rules_of(text, rules_of("", later))
    assert len(gone._endings) == 0


def test_a_program_that_is_gone_already_has_its_one_connection() -> None:
    rules = rules_of(rule("gone", "accept", 'until = "process-end"') + rule("else", "block"))
    first = a_connection(process=Process(2**22 - 1, started=1))
    assert said(rules, first, first, a_connection()) == ["gone", "gone", "else"]


def test_dates_and_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.5]
    monkeypatch.setattr(time, "time", lambda: now[0])
    date = datetime.fromtimestamp(1_000_060, UTC).isoformat().replace("+00:00", "Z")
    text = rule("for a while", "drop", 'until = "30s"') + rule("to a date", "accept", f"until = {date}")
    rules = rules_of(text + rule("else", "block"))
    found = []
    for seconds in (0, 29.4, 29.5, 59, 59.5):
        now[0] = 1_000_000.5 + seconds
        found.append((*said(rules, a_connection()), *rules.ended()))
    assert found == [("for a while",), ("for a while",), ("to a date", 0), ("to a date",), ("else", 1)]


def test_silent_rules_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = "log = false"
    one = rules_of(rule("a", "accept", quiet) + rule("b", "accept"))
    assert one.silent == {"a"}
    assert rules_of(rule("c", "accept", quiet), one).silent == {"a", "c"}
    assert rules_of(rule("a", "accept"), one).silent == set()
    monkeypatch.setattr(module, "_REMEMBERED", 0)
    assert rules_of("", one).silent == set()


# --- the whole firewall ----------------------------------------------------------------------------

BLOCKED = '[default]\nout = "block"\n'


@pytest.mark.live
def test_once_in_a_running_firewall(world: World, agent: Agent) -> None:
    seen: list[Any] = []
    with engine_in(
        world, policy(BLOCKED + rule("once", "accept", 'until = "once"')), listener=seen.append
    ) as engine:
        opened = agent.do("tcp", ECHO, say="x")
        assert opened.heard == "x"
        assert agent.do("tcp", ECHO).error is not None
        assert agent.do("say", of=opened.id, say="more", times=20).error is None  # what is open goes on
        # the kernel does not ask any more: it refuses by itself, at connect()
        eventually(lambda: agent.do("tcp", ECHO).error == "PermissionError", "it knows", PATIENCE)
        assert agent.do("say", of=opened.id, say="more").heard == "more"
        engine.load(
            policy(BLOCKED + rule("once", "accept", 'until = "once"') + rule("new", "drop", "port = 1"))
        )
        assert agent.do("tcp", ECHO).error == "PermissionError"  # in a later policy too


@pytest.mark.live
def test_a_question_under_a_rule_for_once_is_one_question(world: World, agent: Agent) -> None:
    """More datagrams come while somebody thinks: it is the same connection."""
    asked: list[Asked] = []
    text = BLOCKED + rule("once", "ask", 'until = "once"')
    with engine_in(world, policy(text), ask=asked.append) as engine:
        first = agent.start("udp", ECHO, say="x", timeout=PATIENCE)
        eventually(lambda: len(asked) == 1, "it is asked about", PATIENCE)
        second = agent.start("say", of=1, say="y", timeout=PATIENCE)
        eventually(lambda: engine.statistics()["held"] == 2, "both wait", PATIENCE)
        engine.answer(asked[0].packet, Verdict.PERMANENT_ACCEPT)
        assert {first.result(PATIENCE).heard, second.result(PATIENCE).heard} == {"x", "y"}
        assert agent.do("tcp", ECHO).error is not None
    assert len(asked) == 1


@pytest.mark.live
def test_process_end_in_a_running_firewall(world: World) -> None:
    text = BLOCKED + rule("while it runs", "accept", 'until = "process-end"')
    with engine_in(world, policy(text)), agent_in(world) as other:
        with agent_in(world) as first:
            assert first.do("tcp", ECHO, say="x").heard == "x"
            opened = other.do("tcp", ECHO, say="x")
            assert opened.heard == "x"
        assert other.do("tcp", ECHO).error is not None
        assert other.do("say", of=opened.id, say="more").heard == "more"
        eventually(lambda: other.do("tcp", ECHO).error == "PermissionError", "the kernel knows", PATIENCE)


@pytest.mark.live
def test_a_date_that_passes_takes_its_rule_out_of_the_kernel(world: World, agent: Agent) -> None:
    """And what the rule has decided goes on, without a look."""
    seen: list[Any] = []
    text = rule("for a while", "accept", 'until = "8s"\nport = 7')
    with engine_in(world, policy(""), listener=seen.append) as engine:
        engine.load(policy(text))
        opened = agent.do("tcp", ECHO, say="x")
        assert opened.heard == "x"

        def by_the_kernel() -> bool:
            time.sleep(0.1)
            agent.do("close", of=agent.do("tcp", ECHO, say="x").id)
            return any(one.tier is Tier.KERNEL for one in decided(seen))

        eventually(by_the_kernel, "the kernel decides alone", PATIENCE)
        held = engine.statistics()["kernel_held"]
        assert agent.do("say", of=opened.id, say="more", times=20).error is None
        assert agent.do("tcp", ECHO, say="x").heard == "x"
        assert engine.statistics()["kernel_held"] == held
    found = [(one.rule, one.tier) for one in decided(seen)]
    assert found[0] == ("for a while", Tier.PYTHON)
    assert found[-1] == ("default", Tier.KERNEL)


@pytest.mark.live
@pytest.mark.parametrize("verdict", ["accept", "block", "ask"])
def test_what_is_not_for_the_log_is_not_told(world: World, agent: Agent, verdict: str) -> None:
    seen: list[Any] = []
    asked: list[Asked] = []
    text = rule("quiet", verdict, "log = false\nport = 7") + rule("loud", "accept")
    with engine_in(
        world, policy(text), listener=seen.append, ask=asked.append, timeout=0.2, count_every=0.05
    ) as engine:
        before = engine.statistics()
        agent.do("close", of=agent.do("tcp", ECHO).id)
        agent.do("close", of=agent.do("tcp", (plan.WEB.v4, 80)).id)
        eventually(lambda: any(one.rule == "loud" for one in decided(seen)), "the other is told", PATIENCE)
        after = engine.statistics()
    told = {event.connection.rule for event in seen}
    assert told == {"loud"} if verdict != "ask" else told <= {"loud", "time-out"}
    assert bool(asked) == (verdict == "ask")
    counted = {"accept": "kernel_held", "block": "kernel_refused", "ask": "held"}[verdict]
    assert after[counted] >= before[counted] + (verdict != "accept")


def decided(seen: list[Any]) -> list[Connection]:
    return [event.connection for event in seen if type(event) is Decided]
