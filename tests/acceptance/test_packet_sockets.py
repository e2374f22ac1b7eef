"""Programs with packet sockets (AF_PACKET) go past every firewall: they are named and counted, and go on."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.harness import PYTHON, Guard, Line, guard, until, write
from livelab import PATIENCE, Agent, scope_of
from tidewaiter import Firewall, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.packet_socket import PacketSocket

pytestmark = pytest.mark.live

EXPERIMENTAL = 0x88B5  # IEEE 802: local experimental EtherType 1
FRAMES = 100
PAYLOAD = 500
FRAME = 14 + PAYLOAD
"""Bytes, with the Ethernet header."""

PROLOGUE = """
import socket, sys
frame = b"\\xff" * 12 + b"\\x88\\xb5" + bytes(500)
"""
SENDS = """
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
    made.bind(("lab0", 0))
    print(sum(made.send(frame) for _ in range(100)), 0)
"""
SENDS_UNBOUND = """
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as made:
    to = ("lab0", 0x88b5, 0, 0, b"\\xff" * 6)
    print(sum(made.sendto(bytes(500), to) for _ in range(100)), 0)
"""
TALKS = """
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
made.bind(("lo", 0x88b5))
made.settimeout(20)
sent = heard = 0
for _ in range(50):  # what leaves by the loopback interface comes back
    sent += made.send(frame)
    made.recv(10000, socket.MSG_PEEK)
    heard += len(made.recv(10000))
print(sent, heard, flush=True)
sys.stdin.read()
"""
SHARES_MEMORY = """
import struct
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
made.bind(("lab0", 0))
made.setsockopt(263, 5, struct.pack("IIII", 4096, 1, 2048, 2))  # SOL_PACKET, PACKET_RX_RING
print("ready", flush=True)
sys.stdin.read()
"""


def program(world: World, code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROLOGUE + code]
    return world.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end_of(firewall: Guard, pid: int) -> Line:
    return firewall.wait_for(PATIENCE, event="end", pid=pid, protocol="packet")


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize(
    ("code", "interface", "size"),
    [(SENDS, "lab0", FRAME), (SENDS_UNBOUND, "any", PAYLOAD)],
    ids=["bound", "not"],
)
def test_who_sends_and_how_much(
    world: World, name: str, mode: str, code: str, interface: str, size: int, tmp_path: Path
) -> None:
    """The strictest policy does not help: they arrive. So it must be known, however short the program lives."""
    policy = write(tmp_path / "policy.toml", '[default]\nout = "block"\nin = "block"\n')
    peer = world.in_server(
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EXPERIMENTAL))
    )
    with peer, guard(world, name, "--mode", mode, "--policy", policy) as firewall:
        peer.settimeout(PATIENCE)
        with program(world, code) as process:
            output, _ = process.communicate(timeout=PATIENCE)
        arrived = sum(len(peer.recv(10000)) for _ in range(FRAMES))
        end = end_of(firewall, process.pid)
        firewall.stop()
    sent, received = map(int, output.split())
    assert (sent, arrived) == (FRAMES * size, FRAMES * PAYLOAD)
    assert (end["sent"], end["received"]) == (sent, received)
    (beginning,) = firewall.about(event="connection", pid=process.pid)
    assert firewall.about(event="verdict", pid=process.pid) == []
    for line in (beginning, end):
        assert (line["program"], line["user"], line["id"]) == (PYTHON, "root", end["id"])
        assert line["arguments"][:2] == [sys.executable, "-c"]
        assert (line["protocol"], line["local"], line["remote"]) == ("packet", interface, "")
    (notice,) = [text for text in firewall.notices() if "packet socket" in text]
    assert f"(process {process.pid})" in notice
    assert ("on lab0" in notice) == (interface == "lab0")


def test_both_ways(world: World, name: str) -> None:
    """What it has only looked at (MSG_PEEK) counts when it takes it."""
    with guard(world, name) as firewall:
        with program(world, TALKS) as process:
            assert process.stdout is not None
            sent, received = map(int, process.stdout.readline().split())
            firewall.wait_for(PATIENCE, event="connection", pid=process.pid, local="lo")
            assert firewall.about(event="end", protocol="packet") == [], "it is still open"
            process.communicate(timeout=PATIENCE)
        end = end_of(firewall, process.pid)
        firewall.stop()
    assert sent == 50 * FRAME
    assert received == sent
    assert (end["sent"], end["received"]) == (sent, received)


def test_one_that_shares_memory_with_the_kernel_is_named(world: World, name: str) -> None:
    """As tcpdump does: it makes no system call for what it reads."""
    with guard(world, name) as firewall:
        with program(world, SHARES_MEMORY) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            line = firewall.wait_for(PATIENCE, event="connection", pid=process.pid)
            process.communicate(timeout=PATIENCE)
        end_of(firewall, process.pid)
        firewall.stop()
    assert (line["program"], line["protocol"], line["local"]) == (PYTHON, "packet", "lab0")


def test_one_that_was_open_before_us_is_named(world: World, name: str) -> None:
    with program(world, TALKS) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with guard(world, name) as firewall:
            line = firewall.wait_for(PATIENCE, event="connection", pid=process.pid)
            process.communicate(timeout=PATIENCE)
            end_of(firewall, process.pid)
            firewall.stop()
    assert (line["program"], line["protocol"], line["local"]) == (PYTHON, "packet", "lo")


def test_after_a_crash_it_is_still_counted(world: World, name: str) -> None:
    with guard(world, name) as first:
        with program(world, TALKS) as process:
            assert process.stdout is not None
            first.kill()
            sent, received = map(int, process.stdout.readline().split())
            process.communicate(timeout=PATIENCE)
        with guard(world, name) as second:
            end = end_of(second, process.pid)
            second.stop()
    assert (end["sent"], end["received"]) == (sent, received)


def test_programs_elsewhere_are_not_ours(world: World, name: str) -> None:
    """Of another control group, and of another namespace."""
    with guard(world, name) as firewall:
        command = [sys.executable, "-c", PROLOGUE + SENDS]
        outside = world.popen_server(command, stdout=subprocess.PIPE, text=True)
        assert outside.communicate(timeout=PATIENCE)[0].split() == [str(FRAMES * FRAME), "0"]
        with program(world, SENDS) as inside:
            inside.communicate(timeout=PATIENCE)
        end_of(firewall, inside.pid)
        firewall.stop()
    assert {line["pid"] for line in firewall.about(protocol="packet")} == {inside.pid}


def test_people_see_it() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "tidewaiter", "lab", "--", sys.executable, "-c", PROLOGUE + SENDS],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "uses a packet socket on lab0" in said.stderr
    assert "→ lab0 packet" in said.stderr


def test_a_function_hears_of_it(world: World, name: str, agent: Agent) -> None:
    heard: list[PacketSocket] = []
    with Firewall(
        decide=lambda _: Verdict.PERMANENT_ACCEPT,
        packet_socket=heard.append,
        scope=scope_of(world),
        name=name,
    ) as firewall:
        assert agent.do("tcp", (plan.ECHO.v4, 7), say="x").error is None
        with program(world, SENDS) as process:
            process.communicate(timeout=PATIENCE)
        until(lambda: any(one.ended for one in heard), "the end of it")
        assert firewall.statistics()["packet_sockets_full"] == 0
    begun, ended = heard
    assert begun.id == ended.id
    assert (begun.ended, begun.interface, begun.process.pid) == (0, "lab0", process.pid)
    assert (ended.sent, ended.received) == (FRAMES * FRAME, 0)
    assert ended.opened <= ended.ended
