"""Protocols other than TCP and UDP are decided packet by packet (portmaster-kext §2.3.7): ping, and a raw socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.harness import fill_makers, guard, write
from livelab import PATIENCE, Capture, eventually, scope_of
from tidewaiter import Connection, Direction, Firewall, Protocol, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.packet import Packet

pytestmark = pytest.mark.live

BOTH = pytest.mark.parametrize("to", plan.WEB, ids=["v4", "v6"])
ECHO_REQUESTS = {4: (Protocol.ICMP, 8), 6: (Protocol.ICMPV6, 128)}
EXPERIMENTAL = 253  # RFC 3692 section 2.1
PING = os.path.realpath(shutil.which("ping") or "/usr/bin/ping")
RAW = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for word in sys.stdin:
    try:
        made.sendto(word.strip().encode(), (sys.argv[1], 0))
        print("sent", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


def ping(world: World, to: str, *options: str, count: int = 3) -> subprocess.CompletedProcess[str]:
    """As a person would, but not as patient."""
    command = ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", "2", *options, to]
    with world.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(command, process.returncode, output)


def echo_requests(capture: Capture) -> list[Packet]:
    """What of a ping has reached the server."""
    return [
        packet
        for packet in capture.packets()
        if (packet.protocol, packet.icmp_type) == ECHO_REQUESTS[packet.version]
    ]


def policy(tmp_path: Path, verdict: str) -> Path:
    return write(
        tmp_path / "policy.toml",
        f'[[rule]]\nname = "ping"\nport = ["icmp", "icmpv6"]\nverdict = "{verdict}"\n',
    )


@BOTH
def test_ping_is_accepted_by_a_rule_in_the_kernel(
    world: World, name: str, capture: Capture, tmp_path: Path, to: str
) -> None:
    with guard(world, name, "--policy", policy(tmp_path, "accept")) as firewall:
        done = ping(world, to)
        assert "3 received" in done.stdout, done.stdout
        end = firewall.wait_for(event="end", program=PING, rule="ping")
        firewall.stop()
    assert len(echo_requests(capture)) == 3
    (line,) = firewall.about(event="verdict", program=PING, rule="ping")
    assert (line["verdict"], line["tier"], line["direction"]) == ("accept", "kernel", "out")
    assert line["arguments"][-1] == to
    assert (end["sent"], end["received"]) == (3 * 56, 3 * 56)
    assert firewall.about(event="stats")[-1]["kernel_held"] == 0


@BOTH
def test_a_blocked_ping_is_told_at_once(
    world: World, name: str, capture: Capture, tmp_path: Path, to: str
) -> None:
    with guard(world, name, "--policy", policy(tmp_path, "block")) as firewall:
        done = ping(world, to, count=1)
        assert done.returncode != 0
        assert "Packet filtered" in done.stdout or "Administratively prohibited" in done.stdout, done.stdout
        line = firewall.wait_for(event="verdict", program=PING, rule="ping")
        firewall.stop()
    assert line["verdict"] == "block"
    assert echo_requests(capture) == []


@BOTH
def test_a_dropped_ping_waits_in_vain(
    world: World, name: str, capture: Capture, tmp_path: Path, to: str
) -> None:
    with guard(world, name, "--policy", policy(tmp_path, "drop")) as firewall:
        done = ping(world, to, "-W", "0.5", count=2)
        assert "2 packets transmitted, 0 received" in done.stdout, done.stdout
        assert "sendmsg" not in done.stdout, "silence is not an error"
        line = firewall.wait_for(event="verdict", program=PING, rule="ping")
        firewall.stop()
    assert line["verdict"] == "drop"
    assert echo_requests(capture) == []


@BOTH
def test_each_packet_of_a_ping_is_asked_about(world: World, name: str, capture: Capture, to: str) -> None:
    """§2.3.7: Both ways; errors and what makes the local link work are not: ping finds its neighbour."""
    asked: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        if connection.key.protocol == Protocol.UDP:  # ping looks for its own address so
            return Verdict.PERMANENT_ACCEPT
        asked.append(connection)
        return Verdict.PERMANENT_ACCEPT

    with Firewall(decide=decide, scope=scope_of(world), name=name) as firewall:
        done = ping(world, to)
        assert "3 received" in done.stdout, done.stdout
        assert firewall.statistics()["unheld_dropped"] == 0
    assert len(asked) == 6
    assert {connection.process.path for connection in asked} == {PING}
    assert {connection.direction for connection in asked} == {Direction.OUT}
    assert {str(connection.key.remote) for connection in asked} == {to}
    assert len(echo_requests(capture)) == 3


@BOTH
@pytest.mark.parametrize(
    "verdict", [Verdict.PERMANENT_BLOCK, Verdict.BLOCK, Verdict.PERMANENT_DROP, Verdict.DROP]
)
def test_a_refused_answer_is_for_one_packet(
    world: World, name: str, capture: Capture, to: str, verdict: Verdict
) -> None:
    answers = iter([verdict])

    def decide(connection: Connection) -> Verdict:
        if connection.key.protocol == Protocol.UDP:
            return Verdict.PERMANENT_ACCEPT
        return next(answers, Verdict.PERMANENT_ACCEPT)

    with Firewall(decide=decide, scope=scope_of(world), name=name):
        done = ping(world, to)
    assert "2 received" in done.stdout, done.stdout
    assert len(echo_requests(capture)) == 2
    refused = "Packet filtered" in done.stdout or "Administratively prohibited" in done.stdout
    assert refused == (verdict in {Verdict.PERMANENT_BLOCK, Verdict.BLOCK}), done.stdout


def test_two_programs_that_ping_one_host(world: World, name: str) -> None:
    """They share its addresses, and the one that began last ends first. Replies may be lost between them, no more."""
    asked: list[int] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection.process.pid)
        return Verdict.PERMANENT_ACCEPT

    with Firewall(decide=decide, listener=lambda _: None, scope=scope_of(world), name=name) as firewall:
        command = ["ping", "-n", "-i", "0.2", "-W", "5"]
        long = world.popen([*command, "-c", "12", plan.WEB.v4], stdout=subprocess.PIPE, text=True)
        short = world.popen([*command, "-c", "3", plan.WEB.v4], stdout=subprocess.PIPE, text=True)
        said = [process.communicate(timeout=PATIENCE)[0] for process in (short, long)]
        assert firewall.engine.running
        assert "3 received" in ping(world, plan.WEB.v4).stdout, "the next one has it for itself"
    assert [" 0 received" in text for text in said] == [False, False]
    assert {long.pid, short.pid} <= set(asked)


def test_a_raw_socket_that_makes_up_tcp_is_blocked(
    world: World, name: str, capture: Capture, tmp_path: Path
) -> None:
    """Not only what opens a connection: whatever has no connection of its own."""
    code = """
import socket, struct
made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
for flags in (0x02, 0x10, 0x12, 0x18, 0x04):
    try:
        made.sendto(struct.pack("!HHIIBBHHH", 4000, 80, 1, 1, 0x50, flags, 100, 0, 0), ("10.77.0.10", 0))
        print("sent")
    except PermissionError:
        print("refused")
made.sendto(bytes(4), ("10.77.0.10", 0))  # no header that could be read
"""
    with guard(
        world, name, "--policy", write(tmp_path / "policy.toml", '[default]\nout = "block"\n')
    ) as firewall:
        with world.popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            output, _ = process.communicate(timeout=PATIENCE)
        firewall.stop()
    assert output.split() == ["refused"] * 5
    assert [packet for packet in capture.packets() if packet.protocol == Protocol.TCP] == []


@pytest.mark.parametrize("to", [plan.WEB.v4, "224.0.0.1", "255.255.255.255"], ids=["one", "group", "all"])
def test_whatever_a_raw_socket_sends_is_asked_about(
    world: World, name: str, capture: Capture, to: str
) -> None:
    """§2.2.2, §2.3.7: A protocol that nobody knows, of a program whose path is known, from the making of its socket.

    To a group or to all, this host gets a copy, which passes the gate first: the answer is for both.
    """
    asked: list[Connection] = []
    answers = iter([Verdict.ACCEPT, Verdict.PERMANENT_DROP, Verdict.PERMANENT_ACCEPT])

    def decide(connection: Connection) -> Verdict:
        asked.append(connection)
        return next(answers)

    with (
        Firewall(decide=decide, scope=scope_of(world), name=name),
        world.popen(
            [sys.executable, "-c", RAW, to], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for number, word in enumerate(["first", "second", "third"]):
            process.stdin.write(word + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "sent\n"
            eventually(lambda least=number: len(asked) > least, "it is asked about", PATIENCE)  # type: ignore[misc]
        heard: list[bytes] = []

        def last_has_come() -> bool:
            heard.extend(packet.payload for packet in capture.packets() if packet.protocol == EXPERIMENTAL)
            return b"third" in heard

        eventually(last_has_come, "the last one reaches the server", PATIENCE)
        process.stdin.close()
    assert heard == [b"first", b"third"]
    assert {connection.process.pid for connection in asked} == {process.pid}
    assert {connection.key.protocol for connection in asked} == {EXPERIMENTAL}


def test_where_no_maker_can_be_noted_nothing_is_accepted_by_accident(
    world: World, name: str, capture: Capture
) -> None:
    """The map `makers` is full: the packets are not held, and the gate has the last word."""
    asked: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection)
        return Verdict.PERMANENT_ACCEPT

    with Firewall(decide=decide, scope=scope_of(world), name=name) as firewall:
        others = fill_makers(firewall)
        done = ping(world, plan.WEB.v4, "-W", "0.5", count=1)
        assert done.returncode != 0, done.stdout
        assert (echo_requests(capture), asked) == ([], [])
        found = firewall.statistics()
        assert found["makers_full"] > 0
        assert found["unheld_dropped"] > 0
        others()
        assert "1 received" in ping(world, plan.WEB.v4, count=1).stdout
        assert asked
