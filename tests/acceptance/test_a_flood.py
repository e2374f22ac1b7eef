"""More new flows than anybody can look at: what is decided goes on, nothing grows, and every packet is accounted for.

How fast it goes, and how much of its throughput a stream keeps, is measured by bench/flood.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acceptance.harness import until
from acceptance.traffic import ASKED, KNOWN, Target, traffic_of
from livelab import PATIENCE, Agent, left_of
from tidewaiter.driver import connections, packets
from tidewaiter.host import machine
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

SECONDS = max(10.0, float(os.environ.get("TIDEWAITER_FLOOD_SECONDS", "10")))
RATE = 100_000
_PORT = 9999
_SYNS = 20  # of our own attempts to connect, which found the queue full, at the most
_MEMORY = 100_000_000
"""Bytes that a firewall may grow by: twice what its full caches take."""

_SOURCE = Path(__file__).parents[2] / "bench" / "flood.c"
_STREAMS: list[Target] = [("tcp", (plan.ECHO.v4, KNOWN)), ("tcp", (plan.ECHO.v6, KNOWN))]
State = dict[str, int]


class Firewall:
    """The process of flooded.py."""

    def __init__(self, world: World, name: str) -> None:
        script = Path(__file__).with_name("flooded.py")
        self.process = subprocess.Popen(
            [sys.executable, script, world.cgroup, world.client_namespace, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def state(self) -> State:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def stop(self) -> State:
        assert self.process.stdin is not None
        self.process.stdin.close()
        last = self._read()
        assert self.process.wait(PATIENCE) == 0
        return last

    def end(self) -> None:
        """Whatever it did: it runs no longer."""
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.wait(PATIENCE)

    def _read(self) -> State:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the firewall has ended by itself"
        read: State = json.loads(line)
        return read


@contextmanager
def firewall_of(world: World, name: str) -> Iterator[Firewall]:
    firewall = Firewall(world, name)
    try:
        yield firewall
    finally:
        firewall.end()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("flood") / "flood"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", built, _SOURCE], check=True)
    return built


def queue(world: World) -> tuple[int, int, int]:
    """What waits in the one queue of the client, taken or not, and what it dropped: it was full, or overrun."""
    table = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    (row,) = world.in_client(table.read_text).splitlines()
    columns = [int(column) for column in row.split()]
    return columns[2], columns[5], columns[6]


def accounted_for(state: State, in_queue: int) -> bool:
    """Whether every packet that was sent to the queue is where it can be."""
    taken = state["answered"] + state["held"] + state["queue_full"] + state["queue_overrun"]
    # the queue counts what waits for an answer as well
    return state["kernel_held"] == taken + in_queue - state["waiting"]


def resolved(state: State) -> int:
    """How many of the held packets do not wait any more."""
    return sum(state[name] for name in ("released", "refused", "gave_way", "abandoned"))


def bounded(state: State, before: State) -> None:
    """Everything that grows is as large as it may be, at the most."""
    assert state["waiting"] <= packets.CAPACITY
    assert state["connections"] <= connections.CAPACITY
    assert state["told"] <= 2 * connections.CAPACITY
    assert state["ahead"] <= machine._KEPT
    assert (
        state["closed"] <= machine._KEPT + packets.CAPACITY + 2048
    )  # what came with the last look is not sorted yet
    assert state["memory"] <= before["memory"] + _MEMORY
    assert (
        state["held"] == resolved(state) + state["waiting"] or state["waiting"] > 0
    )  # they change while we look


def a_new_one_is_answered(agent: Agent) -> None:
    """It is asked about, and gets its answer. How soon, bench/flood.py measures: here it may take `PATIENCE`."""
    for address in plan.WEB:
        until(
            lambda address=address: agent.do("tcp", (address, ASKED), timeout=1).error is None,  # type: ignore[misc]
            "a new connection is answered",
        )


def flooded(
    world: World, agent: Agent, firewall: Firewall, flood: subprocess.Popen[str]
) -> tuple[int, int, State, State]:
    """Looks on while the flood goes on, and until it is over for us too.

    Returns what was sent and what the kernel refused, and the state before and after.
    """
    before = firewall.state()
    with traffic_of(agent, _STREAMS) as traffic:
        while flood.poll() is None:
            bounded(firewall.state(), before)
            traffic.goes_on()
        output, _ = flood.communicate()
        assert flood.returncode == 0
        sent, refused, _ = map(int, output.split())
        a_new_one_is_answered(agent)

        def settled() -> bool:
            state, (in_queue, full, overrun) = firewall.state(), queue(world)
            bounded(state, before)
            return (
                in_queue == state["waiting"]
                and (full, overrun) == (state["queue_full"], state["queue_overrun"])
                and accounted_for(state, in_queue)
                and state["held"] == resolved(state) + state["waiting"]
                and state["ahead"] == 0
            )

        until(settled, "every packet is accounted for")
        traffic.goes_on()
    return sent, refused, before, firewall.state()


@pytest.mark.parametrize("kind", ["udp", "syn", "both"])
def test_of_strangers(world: World, agent: Agent, name: str, program: Path, kind: str) -> None:
    """Datagrams and SYNs from sources that do not exist, to a program that waits for them."""
    for order in ("listen", "bound"):
        assert agent.do(order, ("0.0.0.0", _PORT)).error is None
    with firewall_of(world, name) as firewall:
        firewall.state()  # it stands
        words: list[str | Path] = [program, "in", plan.CLIENT.v4, str(_PORT), str(SECONDS), str(RATE), kind]
        flood = world.popen_server(words, stdout=subprocess.PIPE, text=True)
        sent, _, before, after = flooded(world, agent, firewall, flood)
        # each was asked about, or dropped since there was no room to ask
        new = {counter: after[counter] - before[counter] for counter in before}
        assert packets.CAPACITY < after["held"] <= after["kernel_held"]
        assert sent <= new["kernel_held"] + new["unheld_dropped"] <= sent + _SYNS
        assert after["queue_full"] == after["queue_overrun"] == after["kernel_events_lost"] == 0
        assert after["waiting"] == packets.CAPACITY
        assert after["gave_way"] == after["held"] - packets.CAPACITY
        last = firewall.stop()
        assert (last["waiting"], last["held"]) == (0, resolved(last))
    assert left_of(world, name) == []


@pytest.mark.parametrize("sockets", ["one", "many"])
def test_of_a_program(world: World, agent: Agent, name: str, program: Path, sockets: str) -> None:
    """Datagrams to ever-new peers, from one socket, or from one for each, which is closed at once."""
    with firewall_of(world, name) as firewall:
        firewall.state()
        words: list[str | Path] = [program, "out", str(_PORT), str(SECONDS), str(RATE), sockets]
        flood = world.popen(words, stdout=subprocess.PIPE, text=True)
        sent, refused, before, after = flooded(world, agent, firewall, flood)
        new = {counter: after[counter] - before[counter] for counter in before}
        ours = new["kernel_held"] - new["answered"] - sent
        assert 0 <= ours <= _SYNS
        assert new["pending_full"] <= refused
        if sockets == "many":
            assert new["held"] > packets.CAPACITY

        def cleared() -> bool:
            state = firewall.state()
            return state["questions"] <= state["waiting"] and state["closed"] <= state["waiting"]

        until(cleared, "no question is left of sockets whose packets are gone")
        last = firewall.stop()
        assert (last["waiting"], last["held"]) == (0, resolved(last))
    assert left_of(world, name) == []
