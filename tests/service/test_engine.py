"""service/engine.py: the loop on the live kernel, with everything that may go wrong in it."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from livelab import PATIENCE, Agent, capture_at, eventually, left_of, new_name, scope_of
from tidewaiter.driver.core import Asked, Decided, Ended
from tidewaiter.host import install, policy_maps
from tidewaiter.host.machine import Machine
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Direction
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, KernelTables, Policy, Rule
from tidewaiter.service import engine as module
from tidewaiter.service.engine import Counted, Engine
from tidewaiter.service.settings import Settings

pytestmark = pytest.mark.live

ASK = Policy(defaults=dict.fromkeys(Direction, Answer.ASK))
BLOCK = Policy(defaults=dict.fromkeys(Direction, Answer.BLOCK))
ECHO, ECHO6, WEB = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7), (plan.WEB.v4, 80)


def accept(_: Connection) -> Verdict:
    return Verdict.PERMANENT_ACCEPT


@contextmanager
def engine_in(world: World, policy: Policy = ASK, **options: Any) -> Iterator[Engine]:
    """An engine in force; settings by their names, the rest goes to the engine."""
    names = ("decide", "ask", "listener", "ended", "notice", "packet_socket")
    calls = {name: options.pop(name) for name in names if name in options}
    settings = Settings(name=new_name(world), scope=scope_of(world), **options)
    engine = Engine(policy, settings, **calls)
    engine.start()
    try:
        yield engine
    finally:
        assert engine.stop() == []
        assert not engine.running
        assert left_of(world, settings.name) == []


def test_it_runs_until_it_is_stopped(world: World) -> None:
    ended: list[bool] = []
    with engine_in(world, ended=lambda: ended.append(True)) as engine:
        assert engine.running
        assert engine.statistics()["held"] == 0
        assert ended == []
    assert ended == [True]
    assert engine.failure is None
    assert engine.stop() == []


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict.PERMANENT_ACCEPT, None),
        (Verdict.PERMANENT_BLOCK, "ConnectionRefusedError"),
        (Verdict.PERMANENT_DROP, "TimeoutError"),
    ],
)
def test_a_question_that_nobody_answers_is_answered_in_time(
    world: World, agent: Agent, verdict: Verdict, outcome: str | None
) -> None:
    seen: list[Any] = []
    with engine_in(world, timeout=0.4, on_timeout=verdict, listener=seen.append) as engine:
        result = agent.do("tcp", ECHO, timeout=1.5)
        assert result.error == outcome
        assert 0.35 < result.seconds < 1.6
        assert outcome == "TimeoutError" or result.seconds < 1.0
        assert engine.statistics()["timed_out"] == 1
        eventually(lambda: any(type(event) is Decided for event in seen), "it is told")
        (decided,) = [event for event in seen if type(event) is Decided]
        assert (decided.connection.verdict, decided.connection.rule) == (verdict, "time-out")
        assert decided.held >= 400_000_000


@pytest.mark.parametrize("open_", [True, False], ids=["open", "closed"])
def test_what_waits_at_the_end_is_resolved_as_fail_says(world: World, agent: Agent, open_: bool) -> None:
    asked: list[Asked] = []
    with engine_in(world, fail="open" if open_ else "closed", ask=asked.append) as engine:
        waiting = agent.start("tcp", ECHO, timeout=3)
        eventually(lambda: bool(asked), "the question")
    statistics = engine.driver.statistics
    assert (statistics.released, statistics.refused) == ((1, 0) if open_ else (0, 1))
    result = waiting.result(5)
    assert result.error is None  # closed: its SYN was lost, the next one finds no firewall any more
    assert (result.seconds < 0.9) is open_


def test_the_oldest_gives_way_to_the_newest(world: World, agent: Agent) -> None:
    asked: list[Asked] = []
    with engine_in(world, held=2, ask=asked.append) as engine:
        waiting = []
        for number in range(3):
            waiting.append(agent.start("tcp", ECHO, timeout=0.8))
            eventually(lambda count=number: len(asked) > count, "the question")  # type: ignore[misc]
        engine.answer(asked[0].packet, Verdict.PERMANENT_ACCEPT)
        for one in asked[1:3]:
            engine.answer(one.packet, Verdict.PERMANENT_ACCEPT)
        eventually(lambda: engine.statistics()["released"] >= 2, "the other two are let go")
        found = engine.statistics()
        assert found["gave_way"] == 1
        assert found["unknown_ids"] == 1
        ports = {asked[1].connection.key.local_port, asked[2].connection.key.local_port}
        assert {one.result(5).port for one in waiting} >= ports


def test_deciding_may_fail(world: World, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    def decide(_: Connection) -> Verdict:
        raise ZeroDivisionError("in the user's function")

    with (
        caplog.at_level(logging.CRITICAL + 1, "tidewaiter"),
        engine_in(world, decide=decide, on_timeout=Verdict.PERMANENT_BLOCK) as engine,
    ):
        result = agent.do("tcp", ECHO)
        assert result.error == "ConnectionRefusedError"
        assert result.seconds < 0.5
        assert engine.running


@pytest.mark.parametrize("nothing", [None, Verdict.UNDECIDED])
def test_deciding_nothing_is_no_answer(world: World, agent: Agent, nothing: Verdict | None) -> None:
    calls: list[Connection] = []

    def decide(connection: Connection) -> Verdict | None:
        calls.append(connection)
        return nothing

    with engine_in(world, decide=decide, timeout=0.4) as engine:
        result = agent.do("tcp", ECHO)
        assert result.error == "ConnectionRefusedError"
        assert result.seconds >= 0.4
        assert engine.statistics()["timed_out"] == 1
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [(Verdict.ACCEPT, None), (Verdict.BLOCK, "ConnectionRefusedError"), (Verdict.DROP, "TimeoutError")],
)
def test_a_verdict_for_one_packet_is_carried_out_and_asked_again(
    world: World, agent: Agent, verdict: Verdict, outcome: str | None
) -> None:
    calls: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        calls.append(connection)
        return verdict

    with engine_in(world, decide=decide):
        result = agent.do("tcp", ECHO, say="hello", timeout=1.5)
        assert result.error == outcome
        assert result.heard == ("" if outcome else "hello")
        assert outcome == "TimeoutError" or result.seconds < 1
    assert len(calls) >= (1 if verdict is Verdict.BLOCK else 2)


def test_a_listener_may_fail(world: World, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    def listener(_: object) -> None:
        raise ZeroDivisionError("in the user's listener")

    with (
        caplog.at_level(logging.CRITICAL + 1, "tidewaiter"),
        engine_in(world, decide=accept, listener=listener) as engine,
    ):
        for _ in range(2):
            assert agent.do("tcp", ECHO, say="x").heard == "x"
        assert engine.running


@pytest.mark.parametrize("decide", [accept, None], ids=["decide", "kernel"])
def test_the_life_of_a_connection_is_told_in_order(world: World, agent: Agent, decide: Any) -> None:
    seen: list[Any] = []
    policy = ASK if decide else Policy()
    with engine_in(world, policy, decide=decide, listener=seen.append, count_every=0.05):
        opened = agent.do("tcp", ECHO, say="x" * 10)
        eventually(lambda: any(type(event) is Counted for event in seen), "its bytes")
        agent.do("close", of=opened.id)
        eventually(lambda: any(type(event) is Ended for event in seen), "its end")
    names = [type(event).__name__ for event in seen if type(event) is not Counted]
    assert names == ["Decided", "Established", "Ended"]
    connection = seen[0].connection
    assert all(event.connection is connection for event in seen)
    assert (connection.sent, connection.received) == (10, 10)
    assert connection.rule == "default"
    assert connection.tier == (Tier.PYTHON if decide else Tier.KERNEL)


def test_totals_are_told_only_when_they_move(world: World, agent: Agent) -> None:
    seen: list[Any] = []

    def listener(event: object) -> None:
        if isinstance(event, Counted):
            seen.append((event.connection.key.protocol, event.connection.sent, event.connection.received))

    with engine_in(world, Policy(), listener=listener, count_every=0.05):
        tcp, udp = agent.do("tcp", ECHO, say="12345"), agent.do("udp", ECHO6, say="123")
        eventually(lambda: {(6, 5, 5), (17, 3, 3)} <= set(seen), "they are counted", PATIENCE)
        agent.do("say", of=tcp.id, say="12345")
        agent.do("say", of=udp.id, say="123")
        eventually(lambda: {(6, 10, 10), (17, 6, 6)} <= set(seen), "they are counted again", PATIENCE)
        time.sleep(0.2)  # several counts without a move
    for protocol, said in ((6, 5), (17, 3)):
        told = [totals for kind, *totals in seen if kind == protocol]
        halfway = [[said, 0], [2 * said, said]]  # a count between a question and its answer
        assert [totals for totals in told if totals not in halfway] == [[said, said], [2 * said, 2 * said]]
        assert len({tuple(totals) for totals in told}) == len(told)


def test_a_policy_is_changed_under_open_connections(world: World, agent: Agent) -> None:
    with capture_at(world) as capture, engine_in(world, Policy()) as engine:
        opened = agent.do("tcp", ECHO, say="first")
        engine.load(BLOCK)
        assert agent.do("tcp", ECHO).error == "PermissionError"
        capture.packets()
        refused = agent.do("say", of=opened.id, say="second", timeout=0.5)
        assert refused.error is not None
        assert [packet.payload for packet in capture.to_port(7) if packet.payload] == []
        engine.load(Policy())
        assert agent.do("tcp", ECHO, say="x").heard == "x"


def test_open_connections_are_asked_about_again(world: World, agent: Agent) -> None:
    asked: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection)
        return Verdict.PERMANENT_ACCEPT

    with engine_in(world, Policy(), decide=decide) as engine:
        opened = agent.do("tcp", ECHO, say="first")
        assert asked == []
        engine.load(ASK)
        assert agent.do("say", of=opened.id, say="second").heard == "second"
        assert [connection.key.local_port for connection in asked] == [opened.port]
        held = engine.statistics()["kernel_held"]
        assert agent.do("say", of=opened.id, say="x", times=100).error is None
        assert engine.statistics()["kernel_held"] == held


@pytest.mark.parametrize("do", ["tcp", "udp", "sendto"])
def test_an_answer_to_what_was_asked_before_another_policy_counts(
    world: World, agent: Agent, do: str
) -> None:
    asked: list[Asked] = []
    with engine_in(world, ASK, ask=asked.append) as engine:
        going = agent.start(do, ECHO, say="x", timeout=PATIENCE)
        eventually(lambda: bool(asked), "it is asked about", PATIENCE)
        engine.load(ASK)
        eventually(lambda: engine._recheck is None, "the pass over open connections ends", PATIENCE)
        engine.answer(asked[0].packet, Verdict.PERMANENT_ACCEPT)
        assert going.result(PATIENCE).heard == "x"
    assert len(asked) == 1


def test_a_policy_that_the_kernel_refuses_leaves_the_old_one(
    world: World, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_in(world, BLOCK) as engine:

        def refuse(*_: object) -> int:
            raise KernelError(7, "writing map policy_ranges: Argument list too long")

        with monkeypatch.context() as patched, pytest.raises(KernelError, match="policy_ranges"):
            patched.setattr(install, "load_policy", refuse)
            engine.load(Policy())
        assert engine.running
        assert agent.do("tcp", ECHO).error == "PermissionError"
        engine.load(Policy())
        assert agent.do("tcp", ECHO).error is None


def test_a_policy_can_only_be_loaded_while_it_runs(world: World) -> None:
    engine = Engine(ASK, Settings(name=new_name(world), scope=scope_of(world)))
    with pytest.raises(RuntimeError, match="no firewall is in force"):
        engine.load(BLOCK)
    engine.start()
    engine.stop()
    with pytest.raises(RuntimeError, match="no firewall is in force"):
        engine.load(BLOCK)


def test_an_answer_after_the_end_does_nothing(world: World, agent: Agent) -> None:
    asked: list[Asked] = []
    with engine_in(world, fail="open", ask=asked.append) as engine:
        waiting = agent.start("tcp", ECHO)
        eventually(lambda: bool(asked), "the question")
    engine.answer(asked[0].packet, Verdict.PERMANENT_BLOCK)
    assert waiting.result(5).error is None


def test_a_loop_that_dies_says_so_and_can_be_taken_away(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[bool] = []

    def fails(*_: object) -> None:
        raise KernelError(9, "a defect")

    with (
        caplog.at_level(logging.CRITICAL + 1, "tidewaiter"),
        engine_in(world, ended=lambda: ended.append(True)) as engine,
    ):
        monkeypatch.setattr(Machine, "collect", fails)
        eventually(lambda: not engine.running, "the loop has ended")
        assert isinstance(engine.failure, KernelError)
        eventually(lambda: ended == [True], "who waits is told")


def test_what_cannot_start_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = new_name(world)
    engine = Engine(ASK, Settings(name=name, scope=scope_of(world)))

    def fails(*_: object, **__: object) -> None:
        raise KernelError(12, "attaching the iterator: Cannot allocate memory")

    monkeypatch.setattr(module, "Machine", fails)
    with pytest.raises(KernelError, match="iterator"):
        engine.start()
    assert not engine.running
    assert left_of(world, name) == []
    assert engine.stop() == []


def test_a_packet_of_which_the_kernels_word_was_lost_has_its_owner_all_the_same(
    world: World, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the ring is full, what is known of the packet is searched for."""
    judged: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        judged.append(connection)
        return Verdict.PERMANENT_ACCEPT

    with engine_in(world, decide=decide, timeout=20) as engine:
        ring = engine.machine._ring

        def lose() -> list[bytes]:
            ring.skip()
            return []

        monkeypatch.setattr(ring, "drain", lose)
        result = agent.do("tcp", ECHO, say="x")
        assert result.heard == "x"
        assert result.seconds < 0.9  # its SYN was not sent twice
        (connection,) = judged
        assert connection.process.pid == agent.pid
        assert (str(connection.key.remote), connection.key.remote_port) == ECHO


def test_rules_that_the_kernel_has_no_room_for_hold_too(
    world: World, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bit that consults is not the rule that would have been there: it must be decided by all of them."""
    # as if there were room for so few
    monkeypatch.setattr(policy_maps, "KernelTables", lambda policy, _: KernelTables(policy, 256))
    unused = ip_network("192.0.2.0/24")
    rules = [Rule(name=f"{number}", answer=Answer.ACCEPT, remote=(unused,)) for number in range(300)]
    rules[252] = Rule(name="never asked", answer=Answer.ASK, remote=(unused,))
    rules[260] = Rule(name="no web", answer=Answer.BLOCK, remote=(ip_network(plan.WEB.v4),))
    seen: list[Any] = []
    asked: list[Asked] = []
    with engine_in(world, Policy(tuple(rules)), ask=asked.append, listener=seen.append, timeout=2):
        assert agent.do("tcp", WEB).error == "ConnectionRefusedError"
        assert agent.do("tcp", ECHO, say="x").heard == "x"
        eventually(lambda: len([event for event in seen if type(event) is Decided]) == 2, "both decisions")
    assert asked == []
    decided = [event.connection for event in seen if type(event) is Decided]
    assert [(one.verdict, one.rule, one.tier) for one in decided] == [
        (Verdict.PERMANENT_BLOCK, "no web", Tier.PYTHON),
        (Verdict.PERMANENT_ACCEPT, "default", Tier.PYTHON),
    ]


def test_who_goes_past_is_said_once_and_each_time_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Though who is told may fail."""
    said: list[str] = []
    heard: list[PacketSocket] = []

    def tell(one: PacketSocket) -> None:
        heard.append(one)
        raise ZeroDivisionError

    code = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).send(bytes(60))"
    with engine_in(world, notice=said.append, packet_socket=tell) as engine:
        for number in (1, 2):
            # it is bound to nothing, so nothing is sent: it is named all the same
            assert world.popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL).wait(PATIENCE) == 1
            eventually(lambda least=2 * number: len(heard) >= least, "it has ended", PATIENCE)  # type: ignore[misc]
        assert engine.running
    assert [bool(one.ended) for one in heard] == [False, True] * 2
    assert {(one.sent, one.received) for one in heard} == {(0, 0)}
    assert len([text for text in said if "packet socket" in text]) == 1
    assert caplog.text.count("a listener failed on a packet socket") == 4


def test_many_programs_that_go_past_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(module, "_TOLD", 2)
    engine = Engine(ASK, Settings(name=new_name(world), scope=scope_of(world)), notice=said.append)
    for name in ("a", "b", "b", "c", "a"):
        engine._goes_past(PacketSocket(1, Process(pid=1, path=f"/bin/{name}"), "", 1))
        assert len(engine._told_of) <= 2
    assert [text[0] for text in said] == ["a", "b", "c", "a"]
