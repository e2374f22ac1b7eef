"""kernel/totals.py: bytes of connections that are still open."""

from __future__ import annotations

import os
import time

import pytest

from livelab import Agent, eventually, loaded, new_name, scope_of
from tidewaiter import Firewall, Verdict
from tidewaiter.kernel import records
from tidewaiter.kernel.records import Home, Record
from tidewaiter.kernel.totals import Totals
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection
from tidewaiter.policy import Policy

pytestmark = pytest.mark.live
ECHO, ECHO6 = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7)


def accept(_: Connection) -> Verdict:
    return Verdict.PERMANENT_ACCEPT


def read(firewall: Firewall) -> list[Record]:
    return [records.unpack(data) for data in firewall.engine.machine._totals.read()]


def test_nothing_is_open_before_anything_is_attached() -> None:
    with loaded() as kernel:
        totals = Totals(kernel)
        assert list(totals.read()) == []
        assert list(totals.read()) == []  # each reading is a new pass
        totals.close()


@pytest.mark.parametrize("to", [ECHO, ECHO6], ids=["v4", "v6"])
@pytest.mark.parametrize("policy", [None, Policy()], ids=["asked", "kernel"])
def test_an_open_connection_has_the_bytes_it_carried_so_far(
    world: World, agent: Agent, to: tuple[str, int], policy: Policy | None
) -> None:
    """portmaster-kext §2.1."""
    decide = None if policy else accept
    with Firewall(policy, decide=decide, scope=scope_of(world), name=new_name(world)) as firewall:
        opened = agent.do("tcp", to, say="x" * 1000)
        assert opened.error is None
        (record,) = read(firewall)
        assert (record.sent, record.received) == (1000, 1000)
        assert (record.remote_port, record.local_port) == (7, opened.port)
        assert (record.family, record.protocol, record.home) == (4 if to is ECHO else 6, 6, Home.SOCKET)
        assert record.pid == agent.pid
        assert agent.do("say", of=opened.id, say="y" * 500, times=3).error is None
        (record,) = read(firewall)
        assert (record.sent, record.received) == (2500, 2500)
        agent.do("close", of=opened.id)
        eventually(lambda: read(firewall) == [], "a closed connection is not listed")


def test_more_connections_than_one_reading_holds(world: World, agent: Agent) -> None:
    """One read(2) brings a part of them only."""
    with Firewall(Policy(), scope=scope_of(world), name=new_name(world)) as firewall:
        many = [agent.start("tcp", ECHO, say="z" * 10) for _ in range(700)]
        ports = {one.result(20).port for one in many}
        assert len(ports) == 700
        found = read(firewall)
        assert {record.local_port for record in found} == ports
        assert {(record.sent, record.received) for record in found} == {(10, 10)}


def test_a_reading_that_is_given_up_leaves_nothing_open(world: World, agent: Agent) -> None:
    with Firewall(Policy(), scope=scope_of(world), name=new_name(world)) as firewall:
        agent.do("tcp", ECHO, say="a")
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(5):
            next(iter(firewall.engine.machine._totals.read()))
        deadline = time.monotonic() + 2
        while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:  # noqa: PTH208
            time.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
