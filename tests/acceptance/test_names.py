"""Rules by name on live traffic: whoever asked for the name, whatever it says first, and for how long."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest

from acceptance.harness import guard, rule, write
from acceptance.test_containers import Container, container_in
from hellos import MANY, of_aioquic, of_ssl
from livelab import PATIENCE, capture_at, eventually, new_name, scope_of
from tidewaiter import Connection, Ended, Firewall, Policy, Verdict
from tidewaiter.driver.core import Decided, Event
from tidewaiter.host import namespace
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.key import Protocol
from tidewaiter.model.name import By
from tidewaiter.names import first, table
from tidewaiter.service.engine import Counted

pytestmark = pytest.mark.live

SAY = """
import json, socket, sys, time
resolver, ask, kind, address, port, data, timeout = json.loads(sys.argv[1])
def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET
for way, query in ask:
    query = bytes.fromhex(query)
    made = socket.socket(family(resolver), socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM)
    made.settimeout(timeout)
    if way == "unconnected":
        made.sendto(query, (resolver, 53))
        made.recvfrom(4096)
    elif way == "tcp":
        made.connect((resolver, 53))
        made.sendall(len(query).to_bytes(2, "big") + query)
        made.recv(4096)
    else:
        made.connect((resolver, 53))
        made.send(query)
        made.recv(4096)
    made.close()
made = socket.socket(family(address), socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
made.settimeout(timeout)
if kind == "tcp":
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
heard, whole = b"", b"".join(map(bytes.fromhex, data))
try:
    made.connect((address, port))
    for piece in data:
        made.send(bytes.fromhex(piece))
    while len(heard) < len(whole):
        got = made.recv(65536)
        if not got:
            break
        heard += got
    outcome = "answered" if heard == whole else "cut"
except OSError as error:
    outcome = type(error).__name__
print(outcome, flush=True)
if sys.stdin.readline():
    try:
        made.send(b"again")
        print("answered" if made.recv(100) else "cut", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@contextmanager
def resolver_in(where: Path, address: str, *records: str) -> Iterator[str]:
    """A DNS server in a network namespace: ``records`` as ``web.test 300 CNAME other.test.`` are all its answers."""

    def bind() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 53))
        return made

    def serve() -> None:
        while True:
            query, sender = server.recvfrom(4096)
            if query == b"stop":
                return
            response = dns.message.make_response(dns.message.from_wire(query))
            for record in records:
                owner, ttl, kind, value = record.split()
                response.answer.append(dns.rrset.from_text(owner + ".", int(ttl), "IN", kind, value))
            server.sendto(response.to_wire(), sender)

    def stop() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.sendto(b"stop", (address, 53))

    with namespace.run_inside(where, bind) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            namespace.run_inside(where, stop)
            thread.join(PATIENCE)


@contextmanager
def lab_resolver(world: World, *records: str) -> Iterator[str]:
    """The same beside the lab's own, at another address."""
    address = "10.77.0.53"
    command = ["ip", "address", "replace", f"{address}/24", "dev", plan.LINK]
    subprocess.run(["nsenter", f"--net={world.server_namespace}", *command], check=True, timeout=PATIENCE)
    with resolver_in(world.server_namespace, address, *records):
        yield address


@dataclass
class Program:
    """A Python of its own path, so that it is a program of its own; what it does is what it is told."""

    world: World
    path: Path
    resolver: str = plan.DNS.v4

    def start(
        self,
        *names: str,
        to: str = plan.ECHO.v4,
        data: tuple[bytes, ...] = (b"hello",),
        kind: str = "tcp",
        way: str = "udp",
        timeout: float = PATIENCE,
        port: int = 7,
    ) -> subprocess.Popen[str]:
        """Asks for names, then says ``data`` to an echo server; what came of it is its first line."""
        of = "AAAA" if ":" in to else "A"
        questions = [dns.message.make_query(name, of, id=number) for number, name in enumerate(names, 1)]
        asked = [(way, question.to_wire().hex()) for question in questions]
        told = [self.resolver, asked, kind, to, port, [piece.hex() for piece in data], timeout]
        return self.world.popen(
            [self.path, "-S", "-E", "-c", SAY, json.dumps(told)],
            env=os.environ | {"PYTHONHOME": sys.base_prefix},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, *names: str, **told: Any) -> str:
        """What came of it."""
        with self.start(*names, **told) as process:
            output, _ = process.communicate(timeout=2 * PATIENCE)
        return output.strip()


@pytest.fixture
def programs(world: World, tmp_path: Path) -> Callable[[str], Program]:
    """Makes programs by their names."""
    tmp_path.chmod(0o755)

    def make(name: str) -> Program:
        path = tmp_path / name
        shutil.copy(os.path.realpath(sys.executable), path)
        return Program(world, path)

    return make


@dataclass
class Heard:
    """What a firewall has told, and what it calls connections."""

    events: list[Event | Counted] = field(default_factory=list)

    def __call__(self, event: Event | Counted) -> None:
        self.events.append(event)

    def verdicts(self, port: int = 7) -> list[tuple[Verdict, str, str]]:
        """Of all that was decided about connections to a port: verdict, rule, name."""
        return [
            (one.connection.verdict, one.connection.rule, one.connection.name.name)
            for one in self.events
            if type(one) is Decided and one.connection.key.remote_port == port
        ]

    def tells(self, *wanted: tuple[Verdict, str, str], port: int = 7) -> None:
        """Waits until these are the last verdicts: a program may know before us."""
        eventually(lambda: self.verdicts(port)[-len(wanted) :] == list(wanted), f"{wanted}", PATIENCE)

    def calls(self, name: str) -> None:
        """Waits until the last connection is called so."""
        eventually(lambda: bool(self.verdicts()) and self.verdicts()[-1][2] == name, name, PATIENCE)

    def connection(self) -> Connection:
        """The last one to the echo server."""
        return [one.connection for one in self.events if one.connection.key.remote_port == 7][-1]


@contextmanager
def firewall_in(world: World, *rules: str, heard: Heard | None = None, **options: Any) -> Iterator[Firewall]:
    policy = Policy.parse("version = 1\n" + "\n".join(rules))
    with Firewall(policy, scope=scope_of(world), name=new_name(world), listener=heard, **options) as firewall:
        yield firewall
        assert firewall.statistics()["texts_lost"] == 0


NO_BAD = rule("no bad", "block", host=".bad.test")
ECHO4, ECHO6 = plan.ECHO
BOTH = pytest.mark.parametrize("to", plan.ECHO, ids=["v4", "v6"])


@BOTH
@pytest.mark.parametrize("way", ["udp", "unconnected", "tcp"])
def test_two_programs_that_know_an_address_by_two_names_are_told_apart(
    world: World, programs: Callable[[str], Program], way: str, to: str
) -> None:
    heard = Heard()
    one, two = programs("one"), programs("two")
    if ":" in to:
        one.resolver = two.resolver = plan.DNS.v6
    with firewall_in(world, rule("no echo", "block", host="echo.lab"), heard=heard):
        assert one.say("echo.lab", to=to, way=way) == "ConnectionRefusedError"
        heard.tells((Verdict.PERMANENT_BLOCK, "no echo", "echo.lab"))
        assert two.say("all.lab", to=to, way=way) == "answered"
        heard.tells((Verdict.PERMANENT_ACCEPT, "default", "all.lab"))
        assert heard.connection().name.by is By.DNS
        assert one.say("echo.lab", to=to, way=way) == "ConnectionRefusedError"


def test_a_connection_without_a_name_is_decided_by_its_first_bytes(
    world: World, programs: Callable[[str], Program]
) -> None:
    heard, one = Heard(), programs("one")
    with capture_at(world) as capture, firewall_in(world, NO_BAD, heard=heard) as firewall:
        assert one.say(data=(of_ssl("www.bad.test"),)) == "ConnectionResetError"
        heard.tells((Verdict.PERMANENT_BLOCK, "no bad", "www.bad.test"))
        assert [packet.payload for packet in capture.to_port(7) if packet.payload] == []
        assert one.say(data=(of_ssl("www.good.test"),)) == "answered"
        heard.tells((Verdict.PERMANENT_ACCEPT, "default", "www.good.test"))
        assert one.say(data=(b"GET / HTTP/1.1\r\nHost: bad.test\r\n\r\n",)) == "ConnectionResetError"
        assert one.say(data=(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n",)) == "answered"
        assert one.say(data=(b"\0nothing of a name",)) == "answered"
        held = firewall.statistics()["held"]
    assert held <= 5 * 5  # three of the handshake, the first data, and now and then one behind it


@pytest.mark.parametrize(
    ("name", "outcome"), [("www.bad.test", "ConnectionResetError"), ("good.test", "answered")]
)
def test_a_hello_over_three_segments_is_read(
    world: World, programs: Callable[[str], Program], name: str, outcome: str
) -> None:
    heard, hello = Heard(), of_ssl(name)
    with capture_at(world) as capture, firewall_in(world, NO_BAD, heard=heard):
        assert programs("one").say(data=(hello[:40], hello[40:90], hello[90:])) == outcome
        heard.calls(name)
        arrived = [packet.payload for packet in capture.to_port(7) if packet.payload]
    assert b"".join(arrived) == (hello if outcome == "answered" else b"")


@pytest.mark.parametrize(
    "hello", [of_aioquic("www.bad.test"), of_aioquic("www.bad.test", MANY)], ids=["one", "two"]
)
def test_quic_is_named_by_its_initial(
    world: World, programs: Callable[[str], Program], hello: list[bytes]
) -> None:
    heard, one = Heard(), programs("one")
    good = of_aioquic("good.test")
    with capture_at(world) as capture, firewall_in(world, NO_BAD, heard=heard):
        assert one.say(kind="udp", data=tuple(hello), timeout=5) == "ConnectionRefusedError"
        heard.tells((Verdict.PERMANENT_BLOCK, "no bad", "www.bad.test"))
        assert heard.connection().name.by is By.QUIC
        assert capture.to_port(7) == []
        assert one.say(kind="udp", data=tuple(good)) == "answered"
        heard.tells((Verdict.PERMANENT_ACCEPT, "default", "good.test"))


@pytest.mark.parametrize("blocked", ["track.test", "alias.test", "last.test"])
def test_a_chain_of_aliases_is_blocked_by_any_link(
    world: World, programs: Callable[[str], Program], blocked: str
) -> None:
    one = programs("one")
    chain = ("track.test 60 CNAME alias.test.", "alias.test 60 CNAME last.test.", f"last.test 60 A {ECHO4}")
    with lab_resolver(world, *chain) as resolver, firewall_in(world, rule("no", "block", host=blocked)):
        one.resolver = resolver
        assert one.say("track.test") == "ConnectionRefusedError"
        assert one.say() == "ConnectionRefusedError"  # the program knows it still


def test_a_name_expires(
    world: World, programs: Callable[[str], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "SHORTEST", 0)
    monkeypatch.setattr(table, "GRACE", 0)
    one, heard = programs("one"), Heard()
    records = (f"bad.test 2 A {ECHO4}",)
    with lab_resolver(world, *records) as resolver, firewall_in(world, NO_BAD, heard=heard):
        one.resolver = resolver
        assert one.say("bad.test") == "ConnectionRefusedError"

        def forgotten() -> bool:
            return one.say() == "answered"  # decided by its first bytes, which have no name

        eventually(forgotten, "the name is over", PATIENCE)
        heard.calls("")
        assert one.say("bad.test") == "ConnectionRefusedError"


def test_dns_in_secret_is_blocked_by_its_list(world: World, programs: Callable[[str], Program]) -> None:
    heard, one = Heard(), programs("one")
    with firewall_in(world, rule("no secrets", "block", list="encrypted-dns"), heard=heard):
        assert one.say(data=(of_ssl("dns.google"),)) == "ConnectionResetError"
        heard.tells((Verdict.PERMANENT_BLOCK, "no secrets", "dns.google"))
        assert heard.connection().name.hidden == "doh"
        assert one.say(data=(of_ssl("www.good.test"),)) == "answered"


def test_where_the_server_speaks_first_nothing_waits(
    world: World, programs: Callable[[str], Program]
) -> None:
    def listen() -> socket.socket:
        return socket.create_server((ECHO4, 2222))

    banner = b"SSH-2.0-lab\r\n"
    server, heard = world.in_server(listen), Heard()
    with (
        server,
        firewall_in(world, NO_BAD, heard=heard),
        programs("one").start(port=2222, data=()) as process,
    ):
        server.settimeout(PATIENCE)
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(banner)
            eventually(lambda: bool(heard.verdicts(2222)), "it is decided", PATIENCE)
            heard.tells((Verdict.PERMANENT_ACCEPT, "default", ""), port=2222)
        process.communicate(timeout=PATIENCE)


def test_half_a_hello_is_let_go_in_time(
    world: World, programs: Callable[[str], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first, "TIME", 500_000_000)
    heard = Heard()
    with firewall_in(world, NO_BAD, heard=heard):
        assert programs("one").say(data=(of_ssl("www.bad.test")[:60],)) == "answered"
        heard.tells((Verdict.PERMANENT_ACCEPT, "default", ""))
        assert heard.connection().name.hidden == "unreadable"


def test_a_person_is_asked_with_the_name_and_once(world: World, programs: Callable[[str], Program]) -> None:
    asked: list[str] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection.name.name)
        return Verdict.PERMANENT_ACCEPT

    hello = of_ssl("www.odd.test")
    with firewall_in(world, rule("ask", "ask", host=".odd.test"), decide=decide):
        assert programs("one").say(data=(hello[:50], hello[50:])) == "answered"
    assert asked == ["www.odd.test"]


def test_a_new_policy_cuts_what_is_called_so_and_nothing_else(
    world: World, programs: Callable[[str], Program]
) -> None:
    by_dns, by_hello, other = (programs(name) for name in ("dns", "hello", "other"))
    nothing = rule("nothing", "block", host=".nothing.test")
    with firewall_in(world, nothing) as firewall:
        running = [
            by_dns.start("echo.lab"),
            by_hello.start(data=(of_ssl("www.bad.test"),)),
            other.start("all.lab"),
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "answered"
        firewall.load(Policy.parse("version = 1\n" + NO_BAD + rule("no echo", "block", host="echo.lab")))
        outcomes = []
        for process in running:
            output, _ = process.communicate("go on\n", timeout=PATIENCE)
            outcomes.append(output.strip())
    assert outcomes[2] == "answered"
    assert "answered" not in outcomes[:2]


@pytest.mark.parametrize("inside", [False, True], ids=["resolver elsewhere", "resolver in the container"])
def test_a_container_is_told_apart_by_what_it_asked(world: World, inside: bool) -> None:
    heard = Heard()
    with ExitStack() as stack:
        one = stack.enter_context(container_in(world))
        resolvers = {}
        for number, name in enumerate(("echo.lab", "all.lab"), 1):
            address = f"127.0.0.{number}"
            resolvers[name] = address if inside else plan.DNS.v4
            if inside:
                stack.enter_context(resolver_in(one.network, address, f"{name} 60 A {ECHO4}"))
        stack.enter_context(firewall_in(world, rule("no echo", "block", host="echo.lab"), heard=heard))
        for name, outcome in (("echo.lab", "ConnectionRefusedError"), ("all.lab", "answered")):
            with _in_container(one, resolvers[name], name) as process:
                output, _ = process.communicate(timeout=2 * PATIENCE)
            assert output.strip() == outcome
            heard.calls(name)


def _in_container(one: Container, resolver: str, name: str) -> subprocess.Popen[str]:
    """The same program each time: the name that it has asked for last counts."""
    query = dns.message.make_query(name, "A", id=9).to_wire().hex()
    hello = of_ssl(name).hex()  # where it knows two names
    told = [resolver, [("udp", query)], "tcp", ECHO4, 7, [hello], PATIENCE]
    return namespace.popen(
        [sys.executable, "-c", SAY, json.dumps(told)],
        namespace=one.network,
        cgroup=one.group,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_curl_is_named_by_its_resolver_and_shown_so(world: World, tmp_path: Path) -> None:
    """The whole way: a policy file, the command, the system's resolver library, events as JSON."""
    policy = write(tmp_path / "policy.toml", rule("no web", "block", host="web.lab"))

    def curl(name: str) -> int:
        command = ["curl", "-4sS", "-o", "/dev/null", "--max-time", "15", f"http://{name}/"]
        return world.popen(command, stderr=subprocess.DEVNULL).wait(PATIENCE)

    with guard(world, new_name(world), "--policy", policy) as running:
        assert curl("web.lab") == 7  # could not connect
        assert running.wait_for(event="verdict", verdict="block")["name"] == "web.lab"
        assert curl("tls.lab") == 0
        line = running.wait_for(event="end", name="tls.lab")
        assert ip_address(plan.TLS.v4) == ip_address(line["remote"].rpartition(":")[0])
        running.stop()


def test_observing_names_too(world: World, programs: Callable[[str], Program]) -> None:
    with guard(world, new_name(world), "--mode", "observe") as running:
        assert programs("one").say("echo.lab") == "answered"
        assert running.wait_for(event="end", remote=f"{ECHO4}:7")["name"] == "echo.lab"
        running.stop()


def test_all_that_was_said_is_over_with_the_connection(
    world: World, programs: Callable[[str], Program]
) -> None:
    heard = Heard()
    with firewall_in(world, NO_BAD, heard=heard) as firewall:
        for _ in range(3):
            assert programs("one").say("echo.lab", data=(of_ssl("good.test"),)) == "answered"

        def ended() -> int:
            return sum(type(one) is Ended and one.connection.protocol == Protocol.TCP for one in heard.events)

        eventually(lambda: ended() == 3, "all end", PATIENCE)
        names = firewall.engine._naming._names
        assert not names._named
        assert not names._beginning
        assert not names._said
