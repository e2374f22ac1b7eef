"""host/snapshot.py: what is open, read beside a firewall that runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from livelab import Agent, eventually, new_name, new_pins, scope_of
from tidewaiter.host import install, state
from tidewaiter.host.install import Installed
from tidewaiter.host.snapshot import Snapshot
from tidewaiter.host.state import State, StateError
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.objects import Mode
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy, Rule

ECHO = (plan.ECHO.v4, 7)
ECHO6 = (plan.ECHO.v6, 7)


def a_state(name: str) -> State:
    return State(name, os.getpid(), 0, 1, "build", "observe", False, "/", ())


@contextmanager
def installed(world: World, policy: Policy | None = None) -> Iterator[Installed]:
    """A firewall in the kernel, and nobody who answers."""
    one = install.install(
        new_name(world), scope_of(world), Mode.ENFORCE, policy or Policy(), fail_open=False, events=False
    )
    try:
        yield one
    finally:
        assert install.remove(one) == []


@contextmanager
def snapshot_of(one: Installed) -> Iterator[Snapshot]:
    found = Snapshot.open(one.state.name)
    assert found is not None
    try:
        yield found
    finally:
        found.close()


def of_port(found: list[Connection], port: int) -> list[Connection]:
    return [connection for connection in found if connection.key.local_port == port]


def test_there_is_none_of_that_name() -> None:
    assert Snapshot.open("nobody-has-this-name") is None


def test_a_name_that_is_none() -> None:
    with pytest.raises(StateError, match="cannot name a firewall"):
        Snapshot.open("../host")


def test_a_state_without_maps(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> None:
    monkeypatch.setattr(state, "load", a_state)
    monkeypatch.setattr(state, "PINS", tmp_path)
    assert Snapshot.open("half") is None


@pytest.mark.live
def test_maps_that_are_no_longer_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = new_pins()
    monkeypatch.setattr(state, "load", a_state)
    monkeypatch.setattr(state, "PINS", pins.parent)
    (pins / "1" / "maps" / "totals").mkdir(parents=True)  # a folder where a map should be
    try:
        with pytest.raises(KernelError, match="opening map totals"):
            Snapshot.open(pins.name)
    finally:
        shutil.rmtree(pins)


@pytest.mark.live
def test_open_connections_with_their_program_and_bytes(world: World, agent: Agent) -> None:
    rule = Rule(name="echo is free", answer=Answer.ACCEPT)
    with installed(world, Policy(rules=(rule,))) as one, snapshot_of(one) as snapshot:
        for do, protocol in (("tcp", Protocol.TCP), ("udp", Protocol.UDP)):
            for to in (ECHO, ECHO6):
                made = agent.do(do, to, say="hello", times=2)
                assert made.error is None
                (found,) = of_port(snapshot.read(), made.port)
                assert (found.key.protocol, found.direction) == (protocol, Direction.OUT)
                assert (str(found.key.remote), found.key.remote_port) == to
                assert found.process.pid == agent.pid
                assert (found.rule, found.tier) == ("echo is free", Tier.KERNEL)
                assert found.verdict is Verdict.PERMANENT_ACCEPT
                assert (found.sent, found.received) == (10, 10)
                assert agent.do("close", of=made.id).error is None
                eventually(lambda port=made.port: not of_port(snapshot.read(), port), "it is gone")  # type: ignore[misc]


@pytest.mark.live
def test_they_come_in_the_order_in_which_they_began(world: World, agent: Agent) -> None:
    with installed(world) as one, snapshot_of(one) as snapshot:
        ports = [agent.do(do, ECHO, say="x").port for do in ("udp", "tcp", "udp", "tcp")]
        found = snapshot.read()
        assert [one.key.local_port for one in found if one.key.local_port in ports] == ports
        assert [one.opened for one in found] == sorted(one.opened for one in found)


@pytest.mark.live
def test_a_connection_that_waits_is_undecided(world: World, agent: Agent) -> None:
    ask = Policy(rules=(Rule(name="who is it", answer=Answer.ASK),))
    with installed(world, ask) as one, snapshot_of(one) as snapshot:
        trying = agent.start("tcp", ECHO, timeout=1)
        eventually(lambda: bool(snapshot.read()), "it is seen")
        (waiting,) = snapshot.read()
        assert waiting.verdict is Verdict.UNDECIDED
        assert (waiting.process.pid, waiting.key.remote_port) == (agent.pid, 7)
        assert trying.result(20).error == "TimeoutError"


@pytest.mark.live
def test_rules_have_the_names_of_the_policy_in_force(world: World, agent: Agent) -> None:
    names = [Policy(rules=(Rule(name=name, answer=Answer.ACCEPT),)) for name in ("before", "after")]
    with installed(world, names[0]) as one, snapshot_of(one) as snapshot:
        made = agent.do("tcp", ECHO, say="x")
        assert [found.rule for found in of_port(snapshot.read(), made.port)] == ["before"]
        install.replace_policy(one, names[1])
        assert agent.do("say", of=made.id, say="y").heard == "y"
        assert [found.rule for found in of_port(snapshot.read(), made.port)] == ["after"]


@pytest.mark.live
def test_a_firewall_that_has_stopped_is_no_empty_one(world: World) -> None:
    with installed(world) as one, snapshot_of(one) as snapshot:
        assert snapshot.read() == []
        one.state.forget()
        with pytest.raises(StateError, match="has stopped"):
            snapshot.read()


@pytest.mark.live
def test_closing_it_leaves_the_firewall_alone(world: World, agent: Agent) -> None:
    rule = Rule(name="no echo", answer=Answer.BLOCK)
    with installed(world, Policy(rules=(rule,))) as one:
        with snapshot_of(one):
            pass
        assert one.state.pins.is_dir()
        assert agent.do("tcp", ECHO).error in {"PermissionError", "ConnectionRefusedError"}
