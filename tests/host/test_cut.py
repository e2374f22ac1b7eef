"""host/cut.py: another verdict on an open connection, and the end of its socket when that verdict refuses it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from livelab import PATIENCE, Agent, capture_at, eventually, left_of, new_name, scope_of
from tidewaiter.driver.core import Action, Ended
from tidewaiter.host import cut
from tidewaiter.host.cut import Cutter
from tidewaiter.kernel import records
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy
from tidewaiter.service.engine import Engine
from tidewaiter.service.settings import Settings

pytestmark = pytest.mark.live

ECHO, ECHO6, WEB = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7), (plan.WEB.v4, 7)
FAMILIES = pytest.mark.parametrize("to", [ECHO, ECHO6], ids=["v4", "v6"])
LONG = 4 * PATIENCE
"""Seconds for which a program listens: to hear of a cut it needs next to none of them."""

FIN_OR_RST = 5


@contextmanager
def asking(world: World) -> Iterator[tuple[Engine, list[Any]]]:
    """A driver whose owner accepts everything, and what is told of it."""
    seen: list[Any] = []
    name = new_name(world)
    engine = Engine(
        Policy(defaults={Direction.OUT: Answer.ASK}),
        Settings(name=name, scope=scope_of(world)),
        decide=lambda _: Verdict.PERMANENT_ACCEPT,
        listener=seen.append,
    )
    engine.start()
    try:
        yield engine, seen
    finally:
        assert engine.stop() == []
        assert left_of(world, name) == []


def flow_of(engine: Engine, port: int) -> bytes:
    """The flow of the connection with this local port, when the driver knows of it."""

    def found() -> list[bytes]:
        return [flow for flow, connection in list(engine.driver.flows()) if connection.key.local_port == port]

    eventually(lambda: bool(found()), "the driver knows the connection", PATIENCE)
    return found()[0]


def update(engine: Engine, port: int, verdict: Verdict) -> None:
    carry_out(engine, flow_of(engine, port), verdict)


def carry_out(engine: Engine, flow: bytes, verdict: Verdict) -> None:
    """An update by the owner; returns when the kernel has it."""
    done = threading.Event()

    def tell() -> list[Action]:
        done.set()
        return []

    engine.command(lambda: engine.driver.update(flow, verdict, 0))
    engine.command(tell)
    assert done.wait(PATIENCE)


@FAMILIES
@pytest.mark.parametrize("do", ["tcp", "udp"])
@pytest.mark.parametrize("verdict", [Verdict.PERMANENT_BLOCK, Verdict.PERMANENT_DROP])
def test_what_an_update_refuses_ends_at_once(
    world: World, agent: Agent, do: str, to: tuple[str, int], verdict: Verdict
) -> None:
    """portmaster-kext §2.6."""
    with capture_at(world) as capture, asking(world) as (engine, seen):
        opened, other = (agent.do(do, to, say="hello") for _ in range(2))
        hearing = agent.start("hear", of=opened.id, timeout=LONG)
        capture.packets()
        update(engine, opened.port, verdict)
        assert hearing.result(PATIENCE).error == "ConnectionAbortedError"
        left = [one for one in capture.to_port(7) if one.payload or one.tcp_flags & FIN_OR_RST]
        assert left == []  # not even the reset that the kernel makes of it: the gate stops it
        eventually(lambda: engine.statistics()["cut"] == 1, "it is counted", PATIENCE)
        assert agent.do("say", of=other.id, say="more").heard == "more"
        agent.do("close", of=opened.id)
        eventually(lambda: any(type(event) is Ended for event in seen), "its end is told", PATIENCE)


@pytest.mark.parametrize("do", ["tcp", "udp", "sendto"])
@pytest.mark.parametrize("verdict", [Verdict.PERMANENT_ACCEPT, Verdict.ACCEPT, Verdict.UNDECIDED])
def test_another_update_ends_nothing(world: World, agent: Agent, do: str, verdict: Verdict) -> None:
    with asking(world) as (engine, _):
        opened = agent.do(do, ECHO, say="hello")
        update(engine, opened.port, verdict)
        order = "sendto" if do == "sendto" else "say"
        # of a datagram socket the first packet brings the question, and may be lost: it is past the hold
        eventually(
            lambda: agent.do(order, ECHO, of=opened.id, say="more", timeout=1).heard == "more",
            "it goes on",
            PATIENCE,
        )
        assert engine.statistics()["cut"] == 0


def test_of_a_socket_with_many_peers_one_is_refused(world: World, agent: Agent) -> None:
    with capture_at(world) as capture, asking(world) as (engine, _):
        opened = agent.do("sendto", WEB, say="x")
        assert agent.do("sendto", ECHO, of=opened.id, say="x").heard == "x"
        eventually(lambda: len(engine.driver.flows()) == 2, "both flows", PATIENCE)
        (web,) = [flow for flow, one in engine.driver.flows() if str(one.key.remote) == plan.WEB.v4]
        carry_out(engine, web, Verdict.PERMANENT_DROP)
        capture.packets()
        assert agent.do("sendto", WEB, of=opened.id, say="y", timeout=0.3).error == "TimeoutError"
        assert agent.do("sendto", ECHO, of=opened.id, say="z").heard == "z"
        assert [packet.payload for packet in capture.to_port(7)] == [b"z"]
        assert engine.statistics()["cut"] == 0


@pytest.mark.parametrize("do", ["tcp", "udp"])
def test_another_socket_at_the_same_place_lives_on(world: World, agent: Agent, do: str) -> None:
    """What is known by its addresses may be a new connection meanwhile; the cookie tells."""
    with asking(world) as (engine, _):
        opened = agent.do(do, ECHO, say="hello")
        data = next(one for one in engine.machine.cutter.live())
        record = records.unpack(data)
        assert record.local_port == opened.port
        cookie = (record.cookie + 1).to_bytes(8, "little")
        stale = data[: records.COOKIE.start] + cookie + data[records.COOKIE.stop :]
        cutter = engine.machine.cutter
        assert cutter.cut(stale) is False
        assert agent.do("say", of=opened.id, say="more").heard == "more"
        assert cutter.cut(data) is True
        assert agent.do("hear", of=opened.id, timeout=LONG).error == "ConnectionAbortedError"
        assert (cutter.cut(data), cutter.count) == (do == "udp" and False, 1)


def test_a_socket_that_has_turned_to_another_peer_lives_on(world: World, agent: Agent) -> None:
    with asking(world) as (engine, _):
        opened = agent.do("sendto", ECHO, say="hello")
        (data,) = engine.machine.cutter.live()
        assert engine.machine.cutter.cut(data) is False  # it is not connected
        assert agent.do("sendto", ECHO, of=opened.id, say="more").heard == "more"


@pytest.mark.parametrize("do", ["tcp", "udp"])
def test_a_socket_bound_to_a_device_is_found(world: World, agent: Agent, do: str) -> None:
    with asking(world) as (engine, _):
        opened = agent.do(do, ECHO, say="hello", device=plan.LINK)
        hearing = agent.start("hear", of=opened.id, timeout=LONG)
        update(engine, opened.port, Verdict.PERMANENT_DROP)
        assert hearing.result(PATIENCE).error == "ConnectionAbortedError"


def test_a_kernel_that_cannot_end_sockets_is_told_once(
    world: World, agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Cannot:
        def __init__(self, _: object) -> None:
            pass

        def find(self, item: object) -> object:
            return item

        def destroy(self, _: object) -> bool:
            raise OSError(95, "the tcp socket 10.77.0.1:1 cannot be ended: Operation not supported")

        def close(self) -> None:
            pass

    monkeypatch.setattr(cut, "Channel", Cannot)
    with asking(world) as (engine, _), caplog.at_level(logging.WARNING, "tidewaiter"):
        for _ in range(2):
            agent.do("tcp", ECHO, say="x")
        cutter: Cutter = engine.machine.cutter
        assert [cutter.cut(data) for data in cutter.live()] == [False, False]
    assert [one.getMessage() for one in caplog.records if "not ended" in one.getMessage()] == [
        "open connections that are refused now are stopped, but not ended: "
        "[Errno 95] the tcp socket 10.77.0.1:1 cannot be ended: Operation not supported"
    ]
