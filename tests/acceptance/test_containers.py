"""Programs in a network namespace of their own, behind a bridge, as a container engine sets them up."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from acceptance.harness import PYTHON, fill_makers, guard, rule, write
from livelab import PATIENCE, Capture, eventually, left_of, scope_of
from tidewaiter import Connection, Direction, Ended, Firewall, Policy, Verdict
from tidewaiter.driver.core import Event
from tidewaiter.host import cgroup, namespace
from tidewaiter.host.guard import Guard
from tidewaiter.host.policy_maps import set_config
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.key import Protocol
from tidewaiter.model.packet import Packet, TcpFlag, parse_packet
from tidewaiter.service.engine import Counted

pytestmark = pytest.mark.live

BOTH = pytest.mark.parametrize("to", plan.ECHO, ids=["v4", "v6"])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])
ASK = Policy.parse('version = 1\n[default]\nforward = "ask"\n')
SAY = """
import json, socket, sys
kind, address, timeout = sys.argv[1], sys.argv[2], float(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
made.settimeout(timeout)
try:
    made.connect((address, 7))
    made.sendall(b"hello")
    print(json.dumps([None, made.recv(100).decode()]))
except OSError as error:
    print(json.dumps([type(error).__name__, ""]))
"""

AGAIN = """
import socket, struct, sys
for _ in range(3):
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(10)
        made.bind(("0.0.0.0", 4711))
        made.connect((sys.argv[1], 7))
        made.sendall(b"hello")
        print(made.recv(100).decode(), flush=True)
    input()
"""


ONCE = """
import socket, sys
with socket.create_connection((sys.argv[1], 7), 10) as made:
    made.sendall(b"hello")
    print(made.recv(100).decode(), flush=True)
    input()
"""


@dataclass(frozen=True)
class Container:
    """A namespace behind a bridge of the client's, and a control group that is named as an engine does it."""

    id: str
    network: Path
    group: Path | None

    def run(self, script: str, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *words]
        return namespace.popen(
            command,
            namespace=self.network,
            cgroup=self.group,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, kind: str, to: str, timeout: float = PATIENCE) -> subprocess.Popen[str]:
        return self.run(SAY, kind, to, str(timeout))

    def say(self, kind: str, to: str, timeout: float = PATIENCE) -> list[str | None]:
        """The error's name or None, and what was heard."""
        with self.start(kind, to, timeout) as process:
            output, _ = process.communicate(timeout=2 * PATIENCE)
        answer: list[str | None] = json.loads(output)
        return answer


def openings(capture: Capture, kind: str) -> list[Packet]:
    """What begins a connection to the echo server; of those before, the last packets may still be on their way."""
    wanted = Protocol.TCP if kind == "tcp" else Protocol.UDP
    arrived = [packet for packet in capture.to_port(7) if packet.protocol == wanted]
    return [packet for packet in arrived if kind == "udp" or packet.tcp_flags & TcpFlag.SYN]


def _run(where: Path, *lines: str) -> None:
    for line in lines:
        subprocess.run(["nsenter", f"--net={where}", *line.split()], check=True, timeout=PATIENCE)


@contextmanager
def container_in(world: World) -> Iterator[Container]:
    number, name = secrets.token_hex(32), f"tw-{os.getpid()}-{secrets.token_hex(3)}"
    with ExitStack() as stack:
        network = namespace.create(name)
        stack.callback(namespace.delete, name)
        group = world.cgroup / f"docker-{number}.scope"
        group.mkdir()
        stack.callback(cgroup.remove, group)
        _run(
            world.client_namespace,
            "ip link add br0 type bridge",
            f"ip link add veth0 type veth peer name eth0 netns {name}",
            "ip link set veth0 master br0 up",
            "ip address add 10.88.0.1/24 dev br0",
            "ip address add fd88::1/64 dev br0 nodad",
            "ip link set br0 up",
            "iptables -t nat -A POSTROUTING -s 10.88.0.0/24 -j MASQUERADE",
            "ip6tables -t nat -A POSTROUTING -s fd88::/64 -j MASQUERADE",
        )
        _run(
            network,
            "ip address add 10.88.0.2/24 dev eth0",
            "ip address add fd88::2/64 dev eth0 nodad",
            "ip link set lo up",
            "ip link set eth0 up",
            "ip route add default via 10.88.0.1",
            "ip route add default via fd88::1",
        )

        def forward() -> None:
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

        namespace.run_inside(world.client_namespace, forward)
        one = Container(number, network, group)
        for to in plan.ECHO:  # the bridge and the neighbours need a moment
            eventually(lambda to=to: one.say("tcp", to, 1) == [None, "hello"], f"{to} is reached", PATIENCE)  # type: ignore[misc]
        yield one


@pytest.fixture
def container(world: World) -> Iterator[Container]:
    with container_in(world) as one:
        yield one


@BOTH
@KINDS
def test_a_container_is_held_and_known(
    world: World, name: str, capture: Capture, container: Container, kind: str, to: str
) -> None:
    asked: list[Connection] = []
    before: list[int] = []

    def decide(connection: Connection) -> Verdict:
        before.append(len(openings(capture, kind)))
        asked.append(connection)
        return Verdict.PERMANENT_ACCEPT

    capture.packets()
    with Firewall(ASK, decide=decide, scope=scope_of(world), name=name):
        with container.start(kind, to) as process:
            output, _ = process.communicate(timeout=PATIENCE)
        assert json.loads(output) == [None, "hello"]
        assert openings(capture, kind)
    assert left_of(world, name) == []
    (connection,) = asked
    assert before == [0]
    assert connection.direction is Direction.FORWARD
    assert connection.process.pid == process.pid
    assert connection.process.path == PYTHON
    assert connection.process.container == container.id
    assert str(connection.key.local) == ("fd88::2" if ":" in to else "10.88.0.2")
    assert (str(connection.key.remote), connection.key.remote_port) == (to, 7)


@BOTH
@pytest.mark.parametrize(
    ("kind", "verdict", "outcome"),
    [
        ("tcp", Verdict.PERMANENT_BLOCK, "ConnectionRefusedError"),
        ("udp", Verdict.PERMANENT_BLOCK, "ConnectionRefusedError"),
        ("tcp", Verdict.PERMANENT_DROP, "TimeoutError"),
        ("udp", Verdict.PERMANENT_DROP, "TimeoutError"),
    ],
)
def test_a_container_is_refused(
    world: World,
    name: str,
    capture: Capture,
    container: Container,
    to: str,
    kind: str,
    verdict: Verdict,
    outcome: str,
) -> None:
    capture.packets()
    with Firewall(ASK, decide=lambda _: verdict, scope=scope_of(world), name=name):
        assert container.say(kind, to, 1.5 if outcome == "TimeoutError" else PATIENCE)[0] == outcome
    assert openings(capture, kind) == []


@KINDS
@pytest.mark.parametrize("fail", ["closed", "open"])
def test_a_container_that_cannot_be_noted_is_refused(
    world: World, name: str, capture: Capture, container: Container, kind: str, fail: str
) -> None:
    """The map `makers` is full: its packets would come through as nobody's."""
    capture.packets()
    with Firewall(
        ASK, decide=lambda _: Verdict.PERMANENT_ACCEPT, scope=scope_of(world), name=name, fail=fail
    ) as firewall:
        others = fill_makers(firewall)
        said = container.say(kind, plan.ECHO.v4)
        assert said == ([None, "hello"] if fail == "open" else ["PermissionError", ""])
        assert bool(capture.to_port(7)) is (fail == "open")
        assert firewall.statistics()["makers_full"] > 0
        others()
        assert container.say(kind, plan.ECHO.v4) == [None, "hello"]


@BOTH
@KINDS
def test_an_answer_for_one_packet_asks_about_the_reply(
    world: World, name: str, container: Container, to: str, kind: str
) -> None:
    """Each packet of a forwarded connection is a question, whichever way it goes."""
    seen: list[bool] = []

    async def answer(firewall: Firewall, replies: Verdict) -> None:
        async for held in firewall.connections():
            assert (str(held.connection.key.remote), held.direction) == (to, Direction.FORWARD)
            back = str(parse_packet(held.payload or b"").source) == to
            seen.append(back)
            held.answer(replies if back else Verdict.ACCEPT)

    async def say(firewall: Firewall, replies: Verdict, patience: float) -> str | None:
        answering = asyncio.create_task(answer(firewall, replies))
        said = await asyncio.to_thread(container.say, kind, to, patience)
        answering.cancel()
        return said[0]

    async def run() -> None:
        async with Firewall(ASK, scope=scope_of(world), name=name) as firewall:
            assert await say(firewall, Verdict.ACCEPT, PATIENCE) is None
            assert seen.count(True) >= (1 if kind == "udp" else 2)  # a SYN-ACK, and data both ways
            assert seen.count(False) >= (1 if kind == "udp" else 3)
            seen.clear()
            assert await say(firewall, Verdict.DROP, 1.5) == "TimeoutError"
            assert True in seen

    asyncio.run(run())


@pytest.mark.parametrize("ours", [True, False], ids=["a program's", "another host's"])
@pytest.mark.parametrize(
    "verdict",
    [Verdict.PERMANENT_ACCEPT, Verdict.ACCEPT, None],
    ids=["held", "packet by packet", "by the kernel"],
)
def test_a_forwarded_connection_ends_once_with_its_totals(
    world: World, name: str, container: Container, ours: bool, verdict: Verdict | None
) -> None:
    """By FIN both ways, whether or not we know its socket. What waits of it goes first."""
    seen: list[Event | Counted] = []
    options: dict[str, Any] = {"listener": seen.append, "scope": scope_of(world), "name": name}
    policy = ASK if verdict else Policy()
    with Firewall(policy, decide=lambda _: verdict or Verdict.PERMANENT_ACCEPT, **options) as firewall:
        if not ours:
            assert firewall.engine._installed is not None
            set_config(firewall.engine._installed.kernel, whole=True)
        where = container if ours else replace(container, group=None)
        for to in plan.ECHO:
            assert where.say("tcp", to) == [None, "hello"]
        eventually(lambda: sum(type(event) is Ended for event in seen) >= 2, "both ends", PATIENCE)
        eventually(lambda: firewall.engine.driver.flows() == [], "nothing is left", PATIENCE)
    ended = [event.connection for event in seen if isinstance(event, Ended)]
    assert [(one.direction, one.sent, one.received) for one in ended] == [(Direction.FORWARD, 5, 5)] * 2
    assert [bool(one.process.pid) for one in ended] == [ours] * 2
    assert len({event.connection.id for event in seen}) == 2


def test_a_forwarded_connection_that_ends_under_a_new_policy_ends_once(
    world: World, name: str, container: Container
) -> None:
    """Its FIN is the first packet that the new policy decides."""
    seen: list[Event | Counted] = []
    with Firewall(Policy(), listener=seen.append, scope=scope_of(world), name=name) as firewall:
        for to in plan.ECHO:
            with container.run(ONCE, to) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "hello\n"
                firewall.load(Policy(groups={"new": True}))
                process.communicate("\n", PATIENCE)
        eventually(lambda: firewall.engine.driver.flows() == [], "nothing is left", PATIENCE)
    ended = [event.connection for event in seen if isinstance(event, Ended)]
    assert [(one.direction, one.sent, one.received) for one in ended] == [(Direction.FORWARD, 5, 5)] * 2


def test_the_ends_of_a_forwarded_connection_are_another_ones_next(
    world: World, name: str, container: Container
) -> None:
    """One that ends by RST, about which there is a question too, is followed by the next SYN."""
    seen: list[Event | Counted] = []

    def ended() -> list[Connection]:
        return [event.connection for event in seen if isinstance(event, Ended)]

    options: dict[str, Any] = {"listener": seen.append, "scope": scope_of(world), "name": name}
    with Firewall(ASK, decide=lambda _: Verdict.ACCEPT, **options) as firewall:
        with container.run(AGAIN, plan.ECHO.v4) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for number in (1, 2, 3):
                assert process.stdout.readline() == "hello\n"
                eventually(lambda number=number: len(ended()) == number, f"end {number}", PATIENCE)  # type: ignore[misc]
                process.stdin.write("\n")
                process.stdin.flush()
        eventually(lambda: firewall.engine.driver.flows() == [], "nothing is left", PATIENCE)
    assert [(one.key.local_port, one.sent, one.received) for one in ended()] == [(4711, 5, 5)] * 3
    assert len({event.connection.id for event in seen}) == 3


@KINDS
def test_without_hold_rules_what_is_forwarded_passes_until_they_are_back(
    world: World, name: str, container: Container, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate sees it before it is known whether it will be forwarded: docs/design.md, Limits."""
    look = Guard.look
    monkeypatch.setattr(Guard, "look", lambda _: None)
    policy = Policy.parse('version = 1\n[default]\nforward = "block"\n')
    with Firewall(policy, scope=scope_of(world), name=name) as firewall:
        assert container.say(kind, plan.ECHO.v4)[0] == "ConnectionRefusedError"
        _run(world.client_namespace, "iptables-nft -t mangle -F")
        assert container.say(kind, plan.ECHO.v4) == [None, "hello"]
        assert firewall.statistics()["unheld_passed"] == 0
        assert firewall.engine._guard is not None
        look(firewall.engine._guard)
        assert container.say(kind, plan.ECHO.v4)[0] == "ConnectionRefusedError"


@KINDS
def test_a_rule_for_what_is_forwarded(
    world: World, name: str, capture: Capture, container: Container, tmp_path: Path, kind: str
) -> None:
    """By its program; other programs in the container go on."""
    blocked = rule("no python", "block", program=PYTHON, direction="forward", remote=plan.ECHO.v4)
    with guard(world, name, "--policy", write(tmp_path / "policy.toml", blocked)) as firewall:
        capture.packets()
        assert container.say(kind, plan.ECHO.v4)[0] == "ConnectionRefusedError"
        assert openings(capture, kind) == []
        assert container.say(kind, plan.ECHO.v6) == [None, "hello"]
        line = firewall.wait_for(event="verdict", rule="no python")
        firewall.stop()
    assert (line["direction"], line["container"]) == ("forward", container.id)
    assert line["verdict"] == "block"
