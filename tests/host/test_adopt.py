"""host/adopt.py: what was open before the firewall goes on, and has its owner."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from livelab import Agent, eventually, new_name, scope_of
from tidewaiter import Firewall
from tidewaiter.driver.core import Asked, Decided, Ended
from tidewaiter.host.adopt import adopt_open_sockets, forget_closed_sockets
from tidewaiter.host.diag import State, open_sockets
from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Flag, Home, Record
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Tier
from tidewaiter.model.key import Direction, address
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy
from tidewaiter.service.engine import Counted

pytestmark = pytest.mark.live

BLOCK = Policy(defaults=dict.fromkeys(Direction, Answer.BLOCK))
DROP = Policy(defaults=dict.fromkeys(Direction, Answer.DROP))
ECHO, ECHO6 = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7)
FAMILIES = pytest.mark.parametrize("to", [ECHO, ECHO6], ids=["v4", "v6"])
IN_PORT = 4395


@pytest.fixture
def world() -> Iterator[World]:
    """Each test finds only its own sockets."""
    with World() as world:
        yield world


@contextmanager
def firewall(world: World, policy: Policy = BLOCK, **options: object) -> Iterator[Firewall]:
    name = new_name(world)
    with Firewall(policy, scope=scope_of(world), name=name, **options) as made:  # type: ignore[arg-type]
        yield made


def pending(firewall: Firewall) -> list[Record]:
    installed = firewall.engine.machine.installed
    return [records.unpack(data) for _, data in installed.kernel.map("pending").items()]


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_an_open_connection_goes_on_with_its_owner(
    world: World, agent: Agent, to: tuple[str, int], kind: str
) -> None:
    opened = agent.do(kind, to, say="before")
    assert opened.heard == "before"
    with firewall(world) as running:
        (record,) = pending(running)
        assert record.pid == agent.pid
        assert record.uid == os.getuid()
        assert (record.local_port, record.remote_port) == (opened.port, 7)
        assert (record.protocol, record.family) == (6 if kind == "tcp" else 17, 4 if to is ECHO else 6)
        assert str(address(record.remote, record.family)) == to[0]
        assert record.verdict == Verdict.PERMANENT_ACCEPT
        assert record.direction == Direction.OUT
        assert record.flags == Flag.CONNECTED | Flag.ADOPTED | Flag.REPORTED
        assert record.home == Home.SOCKET
        assert record.cgroup == world.cgroup.stat().st_ino
        assert 0 < record.opened <= time.monotonic_ns()
        assert agent.do("say", of=opened.id, say="after").heard == "after"
        assert agent.do("tcp", to).error == "PermissionError"  # a new one is not


def test_the_kernel_takes_over_what_was_adopted(world: World, agent: Agent) -> None:
    """With its next packet the connection is the kernel's: counted, and told of when it ends."""
    opened = agent.do("tcp", ECHO, say="before")
    seen: list[object] = []
    with firewall(world, listener=seen.append, count_every=0.05) as running:
        for _ in range(3):
            assert agent.do("say", of=opened.id, say="1234").heard == "1234"
        eventually(lambda: pending(running) == [], "the verdict has moved into the socket")
        agent.do("close", of=opened.id)
        time.sleep(0.3)
        assert running.engine.failure is None
        assert not any(isinstance(event, Asked) for event in seen)
        assert running.statistics()["kernel_held"] == 0
    told = [event for event in seen if isinstance(event, Decided | Ended | Counted)]
    assert {event.connection.verdict for event in told} <= {Verdict.PERMANENT_ACCEPT}


def test_what_is_silent_until_its_end_leaves_nothing(world: World, agent: Agent) -> None:
    opened = agent.do("udp", ECHO, say="x")
    with firewall(world) as running:
        assert len(pending(running)) == 1
        agent.do("close", of=opened.id)
        eventually(lambda: pending(running) == [], "its entry has gone with the socket")


def listener_at(firewall: Firewall, address: str, protocol: int) -> Mapping[str, Any] | None:
    waits = ip_address(address)
    return firewall.engine.machine.installed.kernel.map("listeners").read(
        namespace=1,
        port=IN_PORT,
        protocol=protocol,
        family=waits.version,
        address=records.address_bytes(waits),
    )


def incoming(world: World, kind: socket.SocketKind, address: str) -> socket.socket:
    """A connection from the server into the client."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def connect() -> socket.socket:
        made = socket.socket(family, kind)
        made.settimeout(3)
        made.connect((address, IN_PORT))
        return made

    return world.in_server(connect)


@pytest.mark.parametrize("address", plan.CLIENT, ids=["v4", "v6"])
def test_a_server_and_its_connections_are_known(world: World, agent: Agent, address: str) -> None:
    assert agent.do("listen", (address, IN_PORT)).error is None
    with incoming(world, socket.SOCK_STREAM, address) as peer:
        peer.sendall(b"before")
        assert peer.recv(100) == b"before"
        with firewall(world) as running:
            found = listener_at(running, address, 6)
            assert found is not None
            assert found["owner_pid"] == agent.pid
            (record,) = pending(running)
            assert (record.pid, record.direction) == (agent.pid, Direction.IN)
            assert (record.local_port, record.remote_port) == (IN_PORT, peer.getsockname()[1])
            peer.sendall(b"after")
            assert peer.recv(100) == b"after"


def test_a_connection_to_an_old_server_knows_its_owner(world: World, agent: Agent) -> None:
    agent.do("listen", (plan.CLIENT.v4, IN_PORT))
    asked: list[tuple[int, Direction]] = []

    def decide(connection: object) -> Verdict:
        asked.append((connection.process.pid, connection.direction))  # type: ignore[attr-defined]
        return Verdict.PERMANENT_ACCEPT

    policy = Policy(defaults={Direction.IN: Answer.ASK})
    with firewall(world, policy, decide=decide), incoming(world, socket.SOCK_STREAM, plan.CLIENT.v4) as peer:
        peer.sendall(b"x")
        assert peer.recv(10) == b"x"
    assert asked == [(agent.pid, Direction.IN)]


def test_a_datagram_server_is_known(world: World, agent: Agent) -> None:
    agent.do("bound", (plan.CLIENT.v4, IN_PORT))
    seen: list[tuple[int, Tier | None]] = []  # of the kernel's decision about the datagram

    def listener(event: object) -> None:
        if isinstance(event, Decided):
            seen.append((event.connection.process.pid, event.connection.tier))

    with firewall(world, Policy(), listener=listener) as running:
        found = listener_at(running, plan.CLIENT.v4, 17)
        assert found is not None
        assert found["owner_pid"] == agent.pid
        with incoming(world, socket.SOCK_DGRAM, plan.CLIENT.v4) as peer:
            peer.send(b"x")
            assert peer.recv(10) == b"x"
        eventually(lambda: seen == [(agent.pid, Tier.KERNEL)], "its first datagram has its owner")


def states(world: World) -> list[int]:
    return [item.state for item in open_sockets(world.client_namespace) if item.remote_port == 7]


def test_what_nobody_holds_any_more_is_left_alone_and_ends_well(world: World, agent: Agent) -> None:
    """TIME_WAIT and its like: their last packets pass, and nothing of them stays in the map."""
    opened = [agent.do("tcp", ECHO, say="x").id for _ in range(20)]
    for one in opened:
        agent.do("close", of=one)
    eventually(lambda: set(states(world)) == {State.TIME_WAIT}, "both ends have said goodbye")
    assert len(states(world)) == 20
    with firewall(world) as running:
        assert pending(running) == []


def test_nothing_is_adopted_of_other_namespaces(world: World, agent: Agent) -> None:
    agent.do("tcp", ECHO, say="x")
    with World() as other, firewall(other) as running:
        assert pending(running) == []
        listeners = running.engine.machine.installed.kernel.map("listeners")
        assert list(listeners.keys()) == []


def test_nothing_is_adopted_of_programs_that_are_not_guarded(world: World, agent: Agent) -> None:
    """This process has sockets in the namespace, but is not in the control group."""
    agent.do("tcp", ECHO, say="x")
    with (
        world.in_client(lambda: socket.create_connection(ECHO)) as ours,
        world.in_client(lambda: socket.create_server((plan.CLIENT.v4, IN_PORT))),
        firewall(world) as running,
    ):
        assert [record.pid for record in pending(running)] == [agent.pid]
        listeners = running.engine.machine.installed.kernel.map("listeners")
        assert list(listeners.keys()) == []
        ours.sendall(b"goes on")
        assert ours.recv(100) == b"goes on"


def test_adopting_twice_changes_nothing(world: World, agent: Agent, kernel: Kernel) -> None:
    opened = agent.do("tcp", ECHO, say="x")
    agent.do("listen", (plan.CLIENT.v4, IN_PORT))
    assert adopt_open_sockets(kernel, world.cgroup, world.client_namespace, 1, 0) == 2
    before = dict(kernel.map("pending").items()), dict(kernel.map("listeners").items())
    assert len(before[0]) == len(before[1]) == 1
    adopt_open_sockets(kernel, world.cgroup, world.client_namespace, 1, 7)
    assert (dict(kernel.map("pending").items()), dict(kernel.map("listeners").items())) == before
    assert records.unpack(next(iter(before[0].values()))).local_port == opened.port


def test_what_closes_meanwhile_is_forgotten(world: World, agent: Agent, kernel: Kernel) -> None:
    opened = [agent.do(kind, ECHO, say="x") for kind in ("tcp", "udp", "tcp", "udp")]
    adopt_open_sockets(kernel, world.cgroup, world.client_namespace, 3, 0)
    for one in opened[:2]:
        agent.do("close", of=one.id)
    forget_closed_sockets(kernel, world.client_namespace, 3)
    found = [records.unpack(data) for _, data in kernel.map("pending").items()]
    assert {one.local_port for one in found if one.namespace == 3} == {one.port for one in opened[2:]}


def test_a_verdict_that_the_kernel_gave_meanwhile_stays(world: World, agent: Agent) -> None:
    """Between attaching and the second look a connection may have been dropped: it is not let in by that look."""
    with firewall(world, DROP) as running:
        waiting = agent.start("tcp", ECHO, timeout=2)
        eventually(
            lambda: any(item.remote_port == 7 for item in open_sockets(world.client_namespace)),
            "a SYN was sent",
        )
        installed = running.engine.machine.installed
        epoch = struct.unpack("<I", (installed.kernel.map("config").get(bytes(4)) or b"")[:4])[0]
        adopt_open_sockets(installed.kernel, world.cgroup, world.client_namespace, 1, epoch)
        assert pending(running) == []
        assert waiting.result(10).error == "TimeoutError"
