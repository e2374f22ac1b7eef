"""service/recheck.py: a new policy cuts what it refuses of what is open, and nothing else notices."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from typing import Any

import pytest

from livelab import PATIENCE, Agent, capture_at, eventually
from service.test_engine import engine_in
from tidewaiter.driver.core import Decided, Ended
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy, Rule
from tidewaiter.service.engine import Engine

pytestmark = pytest.mark.live

ECHO, ECHO6, WEB = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7), (plan.WEB.v4, 7)
IN_PORT = 4711
LONG = 4 * PATIENCE
"""Seconds for which a program listens: to hear of a cut it needs next to none of them."""

FAMILIES = pytest.mark.parametrize("to", [ECHO, ECHO6], ids=["v4", "v6"])
REFUSALS = pytest.mark.parametrize("answer", [Answer.BLOCK, Answer.DROP])


def all_that_go_out(answer: Answer) -> Policy:
    return Policy((Rule(name="no more", answer=answer, directions=frozenset({Direction.OUT})),))


def settled(engine: Engine) -> None:
    """The pass over what was open is over."""
    eventually(lambda: engine._recheck is None, "the pass over open connections ends", PATIENCE)


@REFUSALS
@FAMILIES
@pytest.mark.parametrize("do", ["tcp", "udp"])
@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "listened to"])
def test_what_is_refused_now_is_cut_at_once(
    world: World, agent: Agent, do: str, to: tuple[str, int], answer: Answer, quiet: bool
) -> None:
    seen: list[Any] = []
    options = {} if quiet else {"listener": seen.append}
    with capture_at(world) as capture, engine_in(world, Policy(), **options) as engine:
        opened = agent.do(do, to, say="hello")
        hearing = agent.start("hear", of=opened.id, timeout=LONG)
        if not quiet:
            eventually(lambda: any(type(event) is Decided for event in seen), "it is told of", PATIENCE)
        capture.packets()
        engine.load(all_that_go_out(answer))
        result = hearing.result(PATIENCE)
        assert result.error == "ConnectionAbortedError"
        left = [one for one in capture.to_port(7) if one.payload or one.tcp_flags & 5]
        assert left == []  # no data, no FIN, no RST; an acknowledgement may have been on its way
        eventually(lambda: engine.statistics()["cut"] == 1, "it is counted", PATIENCE)
        if quiet:
            return
        eventually(lambda: len([1 for event in seen if type(event) is Decided]) == 2, "it is told", PATIENCE)
        said = [event.connection for event in seen if type(event) is Decided][1]
        wanted = Verdict.PERMANENT_BLOCK if answer is Answer.BLOCK else Verdict.PERMANENT_DROP
        assert (said.key.local_port, said.verdict, said.rule) == (opened.port, wanted, "no more")
        agent.do("close", of=opened.id)
        eventually(lambda: any(type(event) is Ended for event in seen), "its end", PATIENCE)


@FAMILIES
@pytest.mark.parametrize("do", ["tcp", "udp"])
def test_what_python_accepts_again_does_not_notice(
    world: World, agent: Agent, do: str, to: tuple[str, int]
) -> None:
    def accepting(name: str) -> Policy:
        """By a pattern, which the kernel cannot look at."""
        return Policy.parse(
            f'version = 1\n[default]\nout = "block"\n[[rule]]\nname = "{name}"\nprogram = "/**/*"\n'
            'verdict = "accept"\n'
        )

    with engine_in(world, accepting("first")) as engine:
        opened = agent.do(do, to, say="hello")
        assert opened.heard == "hello"
        for name in ("second", "third"):
            engine.load(accepting(name))
            settled(engine)
            held = engine.statistics()["held"]
            assert agent.do("say", of=opened.id, say="again", timeout=PATIENCE).heard == "again"
            if do == "udp":
                assert engine.statistics()["held"] == held  # nor does Python
        agent.do("close", of=opened.id)
        pending = engine.machine.installed.kernel.map("pending")
        eventually(lambda: list(pending.keys()) == [], "no answer is left behind", PATIENCE)


def test_a_connection_that_came_in_is_cut_too(world: World, agent: Agent) -> None:
    agent.do("listen", (plan.CLIENT.v4, IN_PORT))
    with engine_in(world, Policy()) as engine:
        visitor = world.in_server(lambda: socket.create_connection((plan.CLIENT.v4, IN_PORT), PATIENCE))
        with visitor:
            visitor.sendall(b"x")
            assert visitor.recv(1) == b"x"
            engine.load(Policy(defaults={Direction.IN: Answer.BLOCK}))
            eventually(lambda: engine.statistics()["cut"] == 1, "it is cut", PATIENCE)
            visitor.sendall(b"more")  # nobody is there any more, says the kernel
            with pytest.raises(ConnectionResetError):
                visitor.recv(1)
    agent.do("close", of=1)


@FAMILIES
@pytest.mark.parametrize("do", ["tcp", "udp", "sendto"])
def test_what_is_not_refused_does_not_notice(
    world: World, agent: Agent, do: str, to: tuple[str, int]
) -> None:
    web = Rule(name="no web", answer=Answer.BLOCK, remote=(ip_network(plan.WEB.v4),))
    with engine_in(world, Policy()) as engine:
        others = [agent.do(kind, WEB, say="x") for kind in ("tcp", "udp")]
        kept = agent.do(do, to, say="hello")
        hearing = [agent.start("hear", of=other.id, timeout=LONG) for other in others]
        engine.load(Policy((web,)))
        assert [one.result(PATIENCE).error for one in hearing] == ["ConnectionAbortedError"] * 2
        settled(engine)
        again = agent.do("sendto" if do == "sendto" else "say", to, of=kept.id, say="more")
        assert (again.error, again.heard, again.port) == (None, "more", kept.port)
        assert engine.statistics()["cut"] == 2


@pytest.mark.parametrize("do", ["tcp", "udp"])
def test_what_must_be_asked_about_waits_for_its_next_packet(world: World, agent: Agent, do: str) -> None:
    asked: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection)
        return Verdict.PERMANENT_ACCEPT

    with engine_in(world, Policy(), decide=decide) as engine:
        opened = agent.do(do, ECHO, say="hello")
        engine.load(Policy(defaults={Direction.OUT: Answer.ASK}))
        settled(engine)
        assert asked == []
        # of a datagram socket the first packet brings the question, and is lost: it is past the hold
        eventually(
            lambda: agent.do("say", of=opened.id, say="more", timeout=1).heard == "more",
            "it goes on",
            PATIENCE,
        )
        assert {connection.key.local_port for connection in asked} == {opened.port}
        assert engine.statistics()["cut"] == 0


def test_a_socket_with_many_peers_goes_on_with_the_others(world: World, agent: Agent) -> None:
    web = Rule(name="no web", answer=Answer.DROP, remote=(ip_network(plan.WEB.v4),))
    with capture_at(world) as capture, engine_in(world, Policy()) as engine:
        one = agent.do("sendto", WEB, say="x")
        many = agent.do("sendto", WEB, say="x")
        assert agent.do("sendto", ECHO, of=many.id, say="x").heard == "x"
        engine.load(Policy((web,)))
        settled(engine)
        capture.packets()
        for opened in (one, many):
            assert agent.do("sendto", WEB, of=opened.id, say="y", timeout=0.3).error == "TimeoutError"
            assert agent.do("sendto", ECHO, of=opened.id, say="z").heard == "z"
        assert [packet.payload for packet in capture.to_port(7)] == [b"z", b"z"]
        assert engine.statistics()["cut"] == 0


def test_what_waits_and_is_refused_now_is_let_go(world: World, agent: Agent) -> None:
    """Its SYN never left: the program is refused as it would be now, and nothing is cut."""
    ask = Policy(defaults={Direction.OUT: Answer.ASK})
    with capture_at(world) as capture, engine_in(world, ask, timeout=LONG) as engine:
        waiting = agent.start("tcp", ECHO, timeout=LONG)
        eventually(lambda: len(engine.driver.packets) == 1, "it is held", PATIENCE)
        engine.load(all_that_go_out(Answer.BLOCK))
        assert waiting.result(PATIENCE).error == "ConnectionRefusedError"
        assert capture.to_port(7) == []
        assert engine.statistics()["cut"] == 0


def test_what_was_dropped_before_stays_silent(world: World, agent: Agent) -> None:
    with engine_in(world, all_that_go_out(Answer.DROP)) as engine:
        waiting = agent.start("tcp", ECHO, timeout=2)
        eventually(lambda: engine.statistics()["kernel_refused"] > 0, "its SYN is dropped", PATIENCE)
        engine.load(all_that_go_out(Answer.DROP))
        assert waiting.result(PATIENCE).error == "TimeoutError"
        assert engine.statistics()["cut"] == 0


def test_hundreds_are_cut_in_slices(world: World, agent: Agent) -> None:
    with engine_in(world, Policy()) as engine:
        opened = [agent.start("tcp", ECHO) for _ in range(200)]
        assert {one.result(PATIENCE).error for one in opened} == {None}
        engine.load(Policy((Rule(name="no echo", answer=Answer.BLOCK, remote=(ip_network(plan.ECHO.v4),)),)))
        assert agent.do("tcp", WEB, say="x").heard == "x"
        eventually(lambda: engine.statistics()["cut"] == 200, "all are cut", PATIENCE)
        settled(engine)


def test_the_newest_policy_counts(world: World, agent: Agent) -> None:
    with engine_in(world, Policy()) as engine:
        opened = agent.do("tcp", ECHO, say="x")
        engine.load(Policy((Rule(name="web", answer=Answer.BLOCK, remote=(ip_network(plan.WEB.v4),)),)))
        engine.load(Policy())
        settled(engine)
        assert agent.do("say", of=opened.id, say="more").heard == "more"
