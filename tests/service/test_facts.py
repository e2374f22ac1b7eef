"""service/facts.py: what a running firewall knows of connections, and of the network that it is in."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from livelab import PATIENCE, Agent, eventually
from service.test_engine import engine_in
from tidewaiter.driver.core import Decided
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.policy import Policy
from tidewaiter.policy.details import BLIND
from tidewaiter.service.engine import Engine
from tidewaiter.service.facts import LiveFacts

ECHO, ECHO6 = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7)
GATEWAY = plan.SERVERS[0].v4
KEY = ConnectionKey(6, ip_address("192.0.2.1"), 4000, ip_address("198.51.100.2"), 443)
CONNECTION = Connection(1, KEY, Direction.OUT, interface="eth0")
OTHER = "lab1"


def policy(rules: str) -> Policy:
    return Policy.parse("version = 1\n" + rules)


def rule(name: str, verdict: str, text: str = "") -> str:
    return f'[[rule]]\nname = "{name}"\nverdict = "{verdict}"\n{text}\n'


def facts_in(where: Path | None, moved: Callable[[], object] = lambda: None) -> LiveFacts:
    said: list[str] = []
    made = LiveFacts(BLIND, where, moved, said.append)
    made.said = said  # type: ignore[attr-defined]
    return made


HOME = f'[network.home]\ngateway = "{GATEWAY}"\n'
AT_HOME = rule("home", "block", 'network = "home"')
BY_ETH = rule("ways", "block", 'not.interface = "eth0"')


@pytest.mark.parametrize(
    ("text", "network", "interface"),
    [("", False, False), (HOME + AT_HOME, True, False), (BY_ETH, False, True),
     (HOME + rule("both", "block", 'also = {not.network = "home", interface = "a"}'), True, True)],
)  # fmt: skip
def test_what_a_policy_names(text: str, network: bool, interface: bool) -> None:
    made = policy(text)
    assert ("network" in made.further, "interface" in made.further) == (network, interface)


def test_by_which_interface_is_known_of_a_packet_and_not_yet_of_what_is_open() -> None:
    facts = facts_in(None)
    assert facts.of(CONNECTION).interface == "eth0"
    assert facts.of_open(CONNECTION).pending == frozenset()
    facts.use(policy(BY_ETH))
    assert facts.of(CONNECTION).pending == frozenset()
    assert facts.of_open(CONNECTION).pending == {"interface"}


def test_a_network_that_cannot_be_looked_after_is_said(tmp_path: Path) -> None:
    facts = facts_in(tmp_path / "none")
    facts.prepare(policy(BY_ETH))
    assert "Which network this host is in is not known" in facts.said[0]  # type: ignore[attr-defined]
    facts.use(policy(HOME + AT_HOME))
    assert facts.of(CONNECTION).network == ()
    facts.close()


def ip(world: World, *lines: str) -> None:
    for line in lines:
        command = ["nsenter", f"--net={world.client_namespace}", "ip", *line.split()]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def second_way(world: World) -> Iterator[None]:
    """Another interface of the client, without a route by it."""
    ip(world, f"link add {OTHER} type veth peer name {OTHER} netns {world.server_namespace.name}")
    ip(world, f"link set {OTHER} addrgenmode none", f"link set {OTHER} up")
    server = ["nsenter", f"--net={world.server_namespace}", "ip", "link", "set", OTHER, "up"]
    try:
        subprocess.run(server, check=True)
        yield
    finally:
        ip(world, f"link del {OTHER}")


def mac(world: World) -> str:
    """The address of the second cable's other end."""
    with world.in_server(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as one:
        one.bind((OTHER, 0))
        address: bytes = one.getsockname()[4]
    return address.hex(":")


@contextmanager
def without_way_out(world: World) -> Iterator[None]:
    ip(world, "route del default")
    try:
        yield
    finally:
        ip(world, f"route add default via {GATEWAY}")


@pytest.mark.live
def test_only_what_rules_name_is_looked_after(world: World) -> None:
    facts = facts_in(world.client_namespace)
    facts.prepare(policy(rule("other", "block")))
    assert facts._watch is None
    facts.prepare(policy(HOME + AT_HOME))
    facts.use(policy(HOME + AT_HOME))
    assert facts.of(CONNECTION).network == ("home",)
    facts.close()


@pytest.mark.live
def test_what_moves_and_what_does_not(world: World) -> None:
    moved: list[bool] = []
    facts = facts_in(world.client_namespace, lambda: moved.append(True))
    both = policy(HOME + AT_HOME)
    facts.prepare(both)
    facts.use(both)
    try:
        assert not facts.arrive()
        with second_way(world):
            eventually(lambda: len(moved) >= 1, "it is told", PATIENCE)
            assert not facts.arrive()  # still at home
        eventually(
            lambda: facts._watch is not None and OTHER not in facts._watch.now.interfaces, "gone", PATIENCE
        )
        with without_way_out(world):
            eventually(facts.arrive, "we are elsewhere", PATIENCE)
            assert facts.of(CONNECTION).network == ()
        facts.use(policy(BY_ETH))
        eventually(facts.arrive, "there is a way out again", PATIENCE)
        assert not facts.arrive()
    finally:
        facts.close()


# --- the whole firewall ----------------------------------------------------------------------------


def decided(seen: list[Any]) -> list[Connection]:
    return [event.connection for event in seen if type(event) is Decided]


def settled(engine: Engine) -> None:
    eventually(lambda: engine._recheck is None, "the pass over open connections ends", PATIENCE)


@pytest.mark.live
@pytest.mark.parametrize("to", [ECHO, ECHO6], ids=["v4", "v6"])
@pytest.mark.parametrize("do", ["tcp", "udp", "sendto"])
def test_a_rule_about_the_interface(world: World, agent: Agent, do: str, to: tuple[str, int]) -> None:
    seen: list[Any] = []
    text = rule("by another", "block", 'interface = "eth*"') + rule(
        "by the cable", "accept", 'interface = "lab0"'
    )
    with engine_in(world, policy(text + '[default]\nout = "drop"\n'), listener=seen.append):
        assert agent.do(do, to, say="x").heard == "x"
        eventually(lambda: bool(decided(seen)), "it is told", PATIENCE)
    assert [(one.rule, one.interface) for one in decided(seen)] == [("by the cable", plan.LINK)]


@pytest.mark.live
def test_a_rule_about_the_interface_of_what_comes_in(world: World, agent: Agent) -> None:
    seen: list[Any] = []
    opened = agent.do("listen", (plan.CLIENT.v4, 0))
    text = rule("in by the cable", "block", 'direction = "in"\ninterface = "lab0"')
    port = opened.port
    with engine_in(world, policy(text), listener=seen.append):

        def visit() -> None:
            socket.create_connection((plan.CLIENT.v4, port), PATIENCE).close()

        with pytest.raises(ConnectionRefusedError):
            world.in_server(visit)
        assert agent.do("tcp", (plan.CLIENT.v4, port), say="x").heard == "x"  # by the loopback
        eventually(lambda: len(decided(seen)) == 3, "it is told", PATIENCE)
    agent.do("close", of=opened.id)
    found = {(one.direction, one.interface, one.verdict.word) for one in decided(seen)}
    assert found == {
        (Direction.IN, plan.LINK, "block"),
        (Direction.IN, "lo", "accept"),
        (Direction.OUT, "", "accept"),  # by the kernel alone
    }


@pytest.mark.live
def test_in_another_network_what_is_open_is_decided_again(world: World, agent: Agent) -> None:
    text = HOME + rule("only at home", "block", 'network = "elsewhere"\nport = 7')
    with engine_in(world, policy(text)) as engine:
        kept, other = agent.do("tcp", ECHO, say="x"), agent.do("tcp", (plan.WEB.v4, 80))
        assert (kept.heard, other.error) == ("x", None)
        hearing = agent.start("hear", of=kept.id, timeout=4 * PATIENCE)
        with without_way_out(world):
            assert hearing.result(PATIENCE).error == "ConnectionAbortedError"
            assert agent.do("tcp", ECHO).error == "ConnectionRefusedError"
            assert agent.do("tcp", (plan.WEB.v4, 80)).error is None
            settled(engine)
            assert engine.statistics()["cut"] == 1
        eventually(lambda: agent.do("tcp", ECHO).error is None, "at home again", PATIENCE)


@pytest.mark.live
def test_a_policy_that_is_loaded_later_knows_where_we_are(world: World, agent: Agent) -> None:
    with engine_in(world, policy("")) as engine:
        kept = agent.do("tcp", ECHO, say="x")
        hearing = agent.start("hear", of=kept.id, timeout=4 * PATIENCE)
        engine.load(policy(HOME + AT_HOME))
        assert hearing.result(PATIENCE).error == "ConnectionAbortedError"
        assert agent.do("tcp", ECHO).error == "ConnectionRefusedError"


@pytest.mark.live
def test_who_may_speak_by_one_interface_only_does_not_go_on_by_another(world: World, agent: Agent) -> None:
    """Of what is open it is known with its next packet: by the new way it is refused."""
    seen: list[Any] = []

    def last() -> tuple[str, str, str]:
        found = decided(seen)
        return (found[-1].rule, found[-1].interface, found[-1].verdict.word) if found else ("", "", "")

    text = rule("by the cable", "accept", 'interface = "lab0"') + rule("never else", "block", "port = 7")
    with second_way(world), engine_in(world, policy(text), listener=seen.append) as engine:
        opened = agent.do("tcp", ECHO, say="x")
        eventually(lambda: last() == ("by the cable", plan.LINK, "accept"), "it goes by the cable", PATIENCE)
        settled(engine)
        held = engine.statistics()["kernel_held"]
        ip(world, f"route add default dev {OTHER} metric 5")
        eventually(
            lambda: (
                agent.do("say", of=opened.id, say="y").heard == "y"
                and engine.statistics()["kernel_held"] > held
            ),
            "there is one more way: it is decided again, and goes on by the cable",
            PATIENCE,
        )
        assert last() == ("by the cable", plan.LINK, "accept")
        neighbour = f"neigh add {plan.ECHO.v4} lladdr {mac(world)} dev {OTHER}"
        ip(world, neighbour, f"route add {plan.ECHO.v4}/32 dev {OTHER}")
        agent.start("say", of=opened.id, say="z", times=10**6, timeout=1)  # it goes on until it is refused
        eventually(lambda: last() == ("never else", OTHER, "block"), "it is refused", PATIENCE)


@pytest.mark.live
def test_a_changed_program_is_said(world: World, tmp_path: Path) -> None:
    """In a running firewall, where a rule names checksums."""
    notices: list[str] = []
    program = tmp_path / "nc"
    text = rule("that one", "block", f'sha256 = "{"0" * 64}"')

    def run() -> None:
        done = world.popen([program, "-w5", plan.ECHO.v4, "7"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with done:
            assert done.stdin is not None
            assert done.stdout is not None
            done.stdin.write(b"x")
            done.stdin.flush()
            assert done.stdout.read(1) == b"x"
            done.kill()

    def put(more: bytes) -> None:
        new = tmp_path / "new"
        new.write_bytes(Path("/usr/bin/nc.openbsd").read_bytes() + more)
        new.chmod(0o755)
        new.rename(program)

    with engine_in(world, policy(text), notice=notices.append):
        put(b"")
        run()
        run()
        assert notices == []
        put(b"more")
        run()
        run()
    assert len(notices) == 1
    assert notices[0].startswith(f"{program} has changed: its SHA-256 was ")
