"""A decision that takes two seconds holds the connection for two seconds, and then the queue is out of the way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from acceptance.harness import queued
from livelab import PATIENCE, Agent, Capture, Result, scope_of
from tidewaiter import Connection, Firewall, HeldConnection, Protocol, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.packet import Packet

pytestmark = pytest.mark.live

_LONG = 2.0
_LATER = 1.0  # seconds after the decision by which a busy machine has carried it out


class Slow:
    """Decides after two seconds, and notes what had reached the peer by then."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.early: list[Packet] = []
        self.asked: list[Connection] = []

    def __call__(self, connection: Connection) -> Verdict:
        self.asked.append(connection)
        time.sleep(_LONG)
        self.early += [one for one in self._capture.packets() if one.protocol in (Protocol.TCP, Protocol.UDP)]
        return Verdict.PERMANENT_ACCEPT


@pytest.fixture
def slow(world: World, capture: Capture, name: str) -> Iterator[Slow]:
    decide = Slow(capture)
    with Firewall(decide=decide, scope=scope_of(world), name=name):
        yield decide


def _check_quiet(world: World, agent: Agent, made: Result) -> None:
    """A thousand packets go out and come back without the queue."""
    before = queued(world)
    assert sum(before.values()) > 0, "the first packet was not queued?"
    assert agent.do("say", of=made.id, say="more", times=1000).error is None
    assert queued(world) == before


@pytest.mark.parametrize("address", plan.ECHO)
def test_tcp(world: World, agent: Agent, capture: Capture, slow: Slow, address: str) -> None:
    """portmaster-kext §2.2.4."""
    made = agent.do("tcp", (address, 7))
    assert made.error is None
    assert _LONG <= made.seconds < _LONG + _LATER
    assert slow.early == []
    assert [packet.source_port for packet in capture.to_port(7)][:1] == [made.port]
    assert [(one.process.pid, one.key.local_port) for one in slow.asked] == [(agent.pid, made.port)]
    _check_quiet(world, agent, made)


@pytest.mark.parametrize("address", plan.ECHO)
def test_connected_udp(world: World, agent: Agent, slow: Slow, address: str) -> None:
    made = agent.do("udp", (address, 7), say="hello")
    assert (made.error, made.heard) == (None, "hello")
    assert _LONG <= made.seconds < _LONG + _LATER
    assert slow.early == []
    assert len(slow.asked) == 1
    _check_quiet(world, agent, made)


@pytest.mark.parametrize("address", plan.ECHO)
def test_udp_without_a_peer(world: World, agent: Agent, slow: Slow, address: str) -> None:
    made = agent.do("sendto", (address, 7), say="hello")
    assert (made.error, made.heard) == (None, "hello")
    assert _LONG <= made.seconds < _LONG + _LATER
    assert slow.early == []
    before = queued(world)
    for _ in range(100):
        assert agent.do("sendto", (address, 7), say="more", of=made.id).error is None
    assert queued(world) == before
    assert len(slow.asked) == 1


def test_with_asyncio(world: World, agent: Agent, capture: Capture, name: str) -> None:
    """One held connection does not stand in the way of another."""

    async def answer(firewall: Firewall, delays: dict[int, float], early: list[Packet]) -> None:
        async def one(held: HeldConnection) -> None:
            await asyncio.sleep(delays[held.key.remote_port])
            if held.key.remote_port == 7:
                early.extend(capture.to_port(7))
            await held.accept()

        async with asyncio.TaskGroup() as group:
            seen = 0
            async for held in firewall.connections():
                group.create_task(one(held))
                seen += 1
                if seen == len(delays):
                    return

    async def main() -> tuple[Result, Result, list[Packet]]:
        early: list[Packet] = []
        async with Firewall(scope=scope_of(world), name=name) as firewall:
            slow = asyncio.wrap_future(agent.start("tcp", (plan.ECHO.v4, 7)))
            quick = asyncio.wrap_future(agent.start("tcp", (plan.WEB.v6, 80)))
            await answer(firewall, {7: _LONG, 80: 0.0}, early)
            made = await slow
            await asyncio.to_thread(_check_quiet, world, agent, made)
            return made, await quick, early

    slow, quick, early = asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert (slow.error, quick.error, early) == (None, None, [])
    assert _LONG <= slow.seconds < _LONG + _LATER
    assert quick.seconds < _LATER


def test_a_server_in_the_client_waits_too(world: World, agent: Agent, slow: Slow) -> None:
    """§2.3.6: Inbound it is the peer who waits, and the server does not see it before."""
    server = agent.do("listen", (plan.CLIENT.v4, 0))
    command = f"import socket; socket.create_connection(('{plan.CLIENT.v4}', {server.port}), 10)"
    begun = time.monotonic()
    peer = world.popen_server(["python3", "-c", command])
    assert peer.wait(PATIENCE) == 0
    assert _LONG <= time.monotonic() - begun < _LONG + 2 * _LATER  # with the start of a program
    assert [one.direction.word for one in slow.asked] == ["in"]
    assert slow.asked[0].process.pid == agent.pid


def test_nobody_answers_in_time(world: World, agent: Agent, name: str) -> None:
    """The time-out has a named answer."""

    async def main(on_timeout: Verdict) -> Result:
        async with Firewall(scope=scope_of(world), name=name, timeout=0.5, on_timeout=on_timeout):
            return await asyncio.wrap_future(agent.start("tcp", (plan.ECHO.v4, 7)))

    accepted = asyncio.run(asyncio.wait_for(main(Verdict.PERMANENT_ACCEPT), PATIENCE))
    assert accepted.error is None
    assert 0.5 <= accepted.seconds < 0.5 + _LATER
    blocked = asyncio.run(asyncio.wait_for(main(Verdict.PERMANENT_BLOCK), PATIENCE))
    assert blocked.error in ("ConnectionRefusedError", "PermissionError")
    assert 0.5 <= blocked.seconds < 0.5 + _LATER


_RESOLVE = """
import socket, time
begun = time.monotonic()
assert len(socket.getaddrinfo("web.lab", 80, type=socket.SOCK_STREAM)) == 2
print(time.monotonic() - begun)
"""


def test_what_is_sent_behind_the_first_packet_goes_with_it(world: World, name: str) -> None:
    """A resolver asks for both families at once from one socket; an accepted one loses neither question."""
    with Firewall(decide=lambda _: Verdict.PERMANENT_ACCEPT, scope=scope_of(world), name=name):
        for _ in range(10):
            program = world.popen([sys.executable, "-c", _RESOLVE], stdout=subprocess.PIPE, text=True)
            output, _ = program.communicate(timeout=PATIENCE)
            assert program.returncode == 0
            assert float(output) < 2.5, "a question was lost: the resolver asked again"
