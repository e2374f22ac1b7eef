"""Redirects (portmaster-kext §2.4): to a real name server, and to a small proxy on the tunnel ports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from livelab import PATIENCE, Agent, Capture, eventually, left_of, rules_in, scope_of
from tidewaiter import Connection, Direction, Ended, Firewall, RedirectPorts, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

GOOGLE = {"v4": "8.8.8.8", "v6": "2001:4860:4860::8888"}
BOTH = pytest.mark.parametrize("family", ["v4", "v6"])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])
TARGETS = pytest.mark.parametrize("target", [Verdict.REDIRECT_TUNNEL, Verdict.REDIRECT_SPLIT_TUNNEL])
PORTS = RedirectPorts(name_server=53, tunnel=7170, split_tunnel=7190)
PROXY = """
import json, socket, sys
from tidewaiter import original_destination

kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
server = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((address, port))
if kind == "tcp":
    server.listen()
print(json.dumps("ready"), flush=True)
while True:
    if kind == "tcp":
        made, peer = server.accept()
        local, data = made.getsockname(), made.recv(65536)
    else:
        (data, peer), local, made = server.recvfrom(65536), server.getsockname(), None
    meant = original_destination(6 if kind == "tcp" else 17, local[:2], peer[:2])
    print(json.dumps({"peer": peer[:2], "meant": meant}), flush=True)
    if made:
        made.sendall(b"proxied " + data)
        made.close()
    else:
        server.sendto(b"proxied " + data, peer)
"""


class Proxy:
    """A server of the client's own on a loopback port: one line for each connection that it gets."""

    def __init__(self, world: World, kind: str, address: str, port: int) -> None:
        command = [sys.executable, "-c", PROXY, kind, address, str(port)]
        self.process = world.popen(command, stdout=subprocess.PIPE, text=True)
        assert self.line() == "ready"

    def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def proxy(world: World, kind: str, family: str, port: int) -> Iterator[Proxy]:
    one = Proxy(world, kind, "127.0.0.1" if family == "v4" else "::1", port)
    try:
        yield one
    finally:
        one.close()


@contextmanager
def dnsmasq(world: World) -> Iterator[None]:
    options = [
        "--no-daemon",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
    ]
    places = ["--bind-interfaces", "--listen-address=127.0.0.1", "--listen-address=::1"]
    names = ["--address=/redirected.lab/192.0.2.7", "--log-facility=-"]
    with world.popen(["dnsmasq", *options, *places, *names], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "started" not in (line := process.stderr.readline()):
                assert line, "dnsmasq has ended"
            yield
        finally:
            process.terminate()


def dig(world: World, *options: str) -> str:
    command = ["dig", "+tries=1", "+time=5", "+short", *options, "redirected.lab"]
    with world.popen(command, stdout=subprocess.PIPE, text=True) as process:
        output: str = process.communicate(timeout=PATIENCE)[0]
    return output


@pytest.fixture
def asked() -> list[Connection]:
    return []


@contextmanager
def redirecting(
    world: World, name: str, asked: list[Connection], to: Verdict, ended: list[Connection] | None = None
) -> Iterator[Firewall]:
    """What goes to the world's other end is redirected; who comes in is asked about, and accepted."""

    def decide(connection: Connection) -> Verdict:
        asked.append(connection)
        return to if connection.direction is Direction.OUT else Verdict.PERMANENT_ACCEPT

    def listen(event: object) -> None:
        if isinstance(event, Ended) and ended is not None:
            ended.append(event.connection)

    with Firewall(
        decide=decide, listener=listen, scope=scope_of(world), name=name, redirect=PORTS
    ) as firewall:
        yield firewall
    assert left_of(world, name) == []
    assert not [line for line in rules_in(world.client_namespace) if "REDIRECT" in line]


@BOTH
@pytest.mark.parametrize("options", [[], ["+tcp"]], ids=["udp", "tcp"])
def test_any_name_server_is_ours(
    world: World, name: str, capture: Capture, asked: list[Connection], family: str, options: list[str]
) -> None:
    """portmaster-kext §2.3.4, §2.4."""
    ended: list[Connection] = []
    with (
        dnsmasq(world),
        redirecting(world, name, asked, Verdict.REDIRECT_NAME_SERVER, ended),
    ):
        assert dig(world, *options, f"@{GOOGLE[family]}") == "192.0.2.7\n"  # and dig checks who answers
        eventually(lambda: bool(ended), "it has ended", PATIENCE)
    (query,) = asked
    assert query.ended
    assert (query.verdict, query.sent > 30, query.received > 30) == (Verdict.REDIRECT_NAME_SERVER, True, True)
    assert query.process.path.endswith("/dig")
    assert (str(query.key.remote), query.key.remote_port) == (GOOGLE[family], 53)
    assert capture.to_port(53) == []


@BOTH
@KINDS
@TARGETS
def test_a_connection_goes_to_the_proxy_and_knows_nothing_of_it(
    world: World,
    agent: Agent,
    name: str,
    capture: Capture,
    asked: list[Connection],
    family: str,
    kind: str,
    target: Verdict,
) -> None:
    """portmaster-kext §2.4."""
    port = PORTS.tunnel if target is Verdict.REDIRECT_TUNNEL else PORTS.split_tunnel
    to = (GOOGLE[family], 4433)
    with (
        redirecting(world, name, asked, target),
        proxy(world, kind, family, port) as server,
    ):
        made = agent.do(kind, to, say="hello")
        assert (made.error, made.heard) == (None, "proxied hello")
        assert agent.do("peer", of=made.id).heard == f"{to[0]} {to[1]}"
        line = server.line()
        assert tuple(line["meant"]) == to
        assert line["peer"][1] == made.port
    assert [(str(one.key.remote), one.key.remote_port) for one in asked] == [to]
    assert asked[0].process.pid == agent.pid
    assert capture.to_port(4433) == []


@BOTH
def test_a_datagram_socket_with_many_peers_is_redirected_peer_by_peer(
    world: World, agent: Agent, name: str, capture: Capture, family: str
) -> None:
    """§2.4, §2.5: Replies come from whom the program has written to, each."""
    first, second = (plan.ECHO.v4, plan.WEB.v4) if family == "v4" else (plan.ECHO.v6, plan.WEB.v6)

    def decide(connection: Connection) -> Verdict:
        if connection.direction is Direction.OUT and str(connection.key.remote) == second:
            return Verdict.REDIRECT_TUNNEL
        return Verdict.PERMANENT_ACCEPT

    with (
        Firewall(decide=decide, scope=scope_of(world), name=name, redirect=PORTS),
        proxy(world, "udp", family, PORTS.tunnel) as server,
    ):
        made = agent.do("sendto", (first, 7), say="plain")
        assert made.heard == "plain"
        again = agent.do("sendto", (second, 4433), of=made.id, say="hello", from_there=True)
        assert again.heard == "proxied hello"
        assert tuple(server.line()["meant"]) == (second, 4433)
        assert (
            agent.do("sendto", (first, 7), of=made.id, say="plain again", from_there=True).heard
            == "plain again"
        )
    assert capture.to_port(4433) == []


@KINDS
def test_without_its_rules_a_redirect_does_not_leak(
    world: World, agent: Agent, name: str, capture: Capture, asked: list[Connection], kind: str
) -> None:
    """Whoever flushes the rules cuts what is redirected; it does not go where it was not to go."""
    with redirecting(world, name, asked, Verdict.REDIRECT_TUNNEL):
        flush = ["nsenter", f"--net={world.client_namespace}", "iptables", "-t", "nat", "-F"]
        subprocess.run(flush, check=True, timeout=PATIENCE)
        made = agent.do(kind, (plan.ECHO.v4, 7), say="hello", timeout=1)
        assert made.error is not None
        eventually(lambda: bool(asked), "it was asked about")
    assert capture.to_port(7) == []
