"""host/machine.py, step by step: what it collects from the live kernel, and what it carries out."""

from __future__ import annotations

import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from livelab import PATIENCE, Agent, Capture, capture_at, eventually, left_of, new_name, scope_of
from tidewaiter.driver.core import (
    SECOND,
    Action,
    Asked,
    Decided,
    Driver,
    Ended,
    Established,
    Event,
    Release,
    Remember,
)
from tidewaiter.host import install
from tidewaiter.host import machine as machine_module
from tidewaiter.host.admission import WINDOW, is_full
from tidewaiter.host.machine import Machine
from tidewaiter.kernel import records
from tidewaiter.kernel.objects import Mode
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Direction
from tidewaiter.model.packet import TcpFlag
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy, Rule

pytestmark = pytest.mark.live

ASK = Policy(
    (Rule(name="ask", answer=Answer.ASK, directions=frozenset({Direction.OUT})),), {Direction.IN: Answer.ASK}
)
ECHO, ECHO6 = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7)
IN_PORT = 4396
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp", "sendto"])
FAMILIES = pytest.mark.parametrize("to", [ECHO, ECHO6], ids=["v4", "v6"])


class Stepper:
    """A machine that the test drives by hand; ``verdict`` is what is answered on sight (None: nothing)."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.driver = machine, machine.driver
        self.verdict: Verdict | None = None
        self.judged: list[Connection] = []
        self.events: list[Event] = []
        self.actions: list[Action] = []

    def judge(self, connection: Connection, _payload: bytes) -> Verdict | None:
        self.judged.append(replace(connection))
        return self.verdict

    def step(self) -> None:
        """What the engine does, once."""
        self.machine.wait(0.05)
        for actions in (self.machine.collect(self.judge), self.machine.settle()):
            self.actions += actions
            self.machine.carry_out(actions)
        self.events += self.driver.events()

    def until(self, kind: type[Any], count: int = 1) -> list[Any]:
        """Steps until so many events of a kind have come."""
        deadline = time.monotonic() + 10
        while len(found := [event for event in self.events if type(event) is kind]) < count:
            assert time.monotonic() < deadline, f"{kind.__name__} has not come: {self.events}"
            self.step()
        return found

    def answer(self, asked: Asked, verdict: Verdict) -> list[Action]:
        actions = self.driver.verdict(asked.packet, verdict, time.monotonic_ns())
        self.machine.carry_out(actions)
        return actions


@contextmanager
def machine_in(world: World, policy: Policy = ASK, *, fail_open: bool = False) -> Iterator[Stepper]:
    name = new_name(world)
    installed = install.install(name, scope_of(world), Mode.ENFORCE, policy, fail_open=fail_open, events=True)
    machine = Machine(installed, Driver(), quiet=False)
    try:
        yield Stepper(machine)
    finally:
        machine.close()
        assert install.remove(installed) == []
        assert left_of(world, name) == []


@pytest.fixture
def stepper(world: World) -> Iterator[Stepper]:
    with machine_in(world) as stepper:
        yield stepper


@pytest.fixture
def capture(world: World) -> Iterator[Capture]:
    with capture_at(world) as capture:
        yield capture


@KINDS
@FAMILIES
def test_a_held_packet_has_its_owner_and_waits(
    stepper: Stepper, agent: Agent, capture: Capture, kind: str, to: tuple[str, int]
) -> None:
    """portmaster-kext §2.1."""
    waiting = agent.start(kind, to, say="hello")
    (asked,) = stepper.until(Asked)
    connection = asked.connection
    assert connection.process.pid == agent.pid
    assert connection.process.path.rpartition("/")[2].startswith("python")
    assert "labagent.py" in connection.process.arguments[1]
    assert connection.process.user == "root"
    assert connection.direction is Direction.OUT
    assert connection.key.protocol == (6 if kind == "tcp" else 17)
    assert (str(connection.key.remote), connection.key.remote_port) == to
    assert str(connection.key.local) == (plan.CLIENT.v4 if to is ECHO else plan.CLIENT.v6)
    assert connection.key.namespace == 1
    assert connection.rule == "ask"
    assert asked.first
    assert stepper.judged[0].key == connection.key
    assert capture.to_port(7) == []
    actions = stepper.answer(asked, Verdict.PERMANENT_ACCEPT)
    assert [type(action) for action in actions][:2] == [Remember, Release]
    result = waiting.result(PATIENCE)
    assert result.heard == "hello"
    assert result.port == connection.key.local_port
    assert capture.to_port(7)
    decided = stepper.until(Decided)[0].connection
    assert (decided.verdict, decided.tier) == (Verdict.PERMANENT_ACCEPT, Tier.PYTHON)


@KINDS
@FAMILIES
def test_what_is_accepted_comes_no_more(
    stepper: Stepper, agent: Agent, kind: str, to: tuple[str, int]
) -> None:
    """portmaster-kext §2.2.3."""
    stepper.verdict = Verdict.PERMANENT_ACCEPT
    waiting = agent.start(kind, to, say="hello")
    stepper.until(Decided)
    opened = waiting.result(PATIENCE)
    assert opened.heard == "hello"
    held = stepper.machine.statistics()["kernel_held"]
    assert held == 1
    if kind != "sendto":
        assert agent.do("say", of=opened.id, say="x", times=1000).error is None
    else:
        for _ in range(20):
            assert agent.do("sendto", to, of=opened.id, say="x").heard == "x"
    stepper.step()
    assert stepper.machine.statistics()["kernel_held"] == held
    assert len(stepper.judged) == 1


@KINDS
@FAMILIES
@pytest.mark.parametrize("late", [False, True], ids=["on sight", "later"])
def test_what_is_blocked_is_noticed_at_once_and_nothing_leaves(
    stepper: Stepper, agent: Agent, capture: Capture, kind: str, to: tuple[str, int], late: bool
) -> None:
    """portmaster-kext §2.2.1, §2.3.2."""
    stepper.verdict = None if late else Verdict.PERMANENT_BLOCK
    waiting = agent.start(kind, to, say="hello", timeout=1.5)
    if late:
        stepper.answer(stepper.until(Asked)[0], Verdict.PERMANENT_BLOCK)
    stepper.until(Decided)
    result = waiting.result(PATIENCE)
    if kind == "sendto":  # a socket without a peer is told by its next datagram
        assert result.error == "TimeoutError"
        result = agent.do(kind, to, of=result.id, say="again")
        assert result.error == "PermissionError"
    assert result.error in ("ConnectionRefusedError", "PermissionError")
    assert result.seconds < 0.5
    assert capture.to_port(7) == []


@KINDS
def test_what_is_dropped_is_silence(stepper: Stepper, agent: Agent, capture: Capture, kind: str) -> None:
    """portmaster-kext §2.2.3."""
    stepper.verdict = Verdict.PERMANENT_DROP
    waiting = agent.start(kind, ECHO, say="hello", timeout=1.5)
    stepper.until(Decided)
    result = waiting.result(PATIENCE)
    assert result.error == "TimeoutError"
    assert result.seconds >= 1.5
    assert capture.to_port(7) == []


def test_what_comes_right_behind_is_answered_in_the_same_call(
    stepper: Stepper, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = stepper.machine
    monkeypatch.setattr(machine_module, "_STRETCH", 20 * SECOND)
    waiting = [agent.start("tcp", ECHO, say="x")]
    judged: list[Connection] = []

    def judge(connection: Connection, _: bytes) -> Verdict | None:
        judged.append(connection)
        if len(judged) == 2:
            return None
        waiting.append(agent.start("tcp", ECHO6, say="x"))
        assert select.select(machine._queues, [], [], PATIENCE)[0]
        return Verdict.PERMANENT_ACCEPT

    assert select.select(machine._queues, [], [], PATIENCE)[0]
    assert machine.collect(judge) == []
    assert [str(one.key.remote) for one in judged] == [ECHO[0], ECHO6[0]]
    assert machine.unsettled
    (asked,) = stepper.driver.events()  # the second is for others to act on: it does not wait for a third
    assert isinstance(asked, Asked)
    assert asked.connection is judged[1]
    stepper.answer(asked, Verdict.PERMANENT_ACCEPT)
    assert [one.result(PATIENCE).heard for one in waiting] == ["x", "x"]


def test_a_connection_is_followed_to_its_end(stepper: Stepper, agent: Agent) -> None:
    """portmaster-kext §2.1."""
    stepper.verdict = Verdict.PERMANENT_ACCEPT
    waiting = agent.start("tcp", ECHO, say="x" * 100)
    (decided,) = stepper.until(Decided)
    (established,) = stepper.until(Established)
    opened = waiting.result(PATIENCE)
    (moved,) = stepper.machine.count()
    assert (moved.sent, moved.received) == (100, 100)
    assert stepper.machine.count() == []
    agent.do("say", of=opened.id, say="y" * 11)
    agent.do("close", of=opened.id)
    (ended,) = stepper.until(Ended)
    assert ended.connection is established.connection is decided.connection
    assert (ended.connection.sent, ended.connection.received) == (111, 111)
    assert 0 < ended.connection.opened <= ended.connection.established <= ended.connection.ended
    assert ended.connection.ended - ended.connection.opened < 10 * SECOND


@pytest.mark.parametrize("kind", ["udp", "sendto"])
def test_datagrams_are_counted_and_end_with_their_socket(stepper: Stepper, agent: Agent, kind: str) -> None:
    """portmaster-kext §2.1."""
    stepper.verdict = Verdict.PERMANENT_ACCEPT
    waiting = agent.start(kind, ECHO, say="12345")
    stepper.until(Decided)
    opened = waiting.result(PATIENCE)
    for _ in range(3):
        agent.do("sendto" if kind == "sendto" else "say", ECHO, of=opened.id, say="12345")
    moved = stepper.machine.count()
    assert [(one.sent, one.received) for one in moved] == [(20, 20)]
    if kind == "udp":
        agent.do("close", of=opened.id)
        (ended,) = stepper.until(Ended)
        assert (ended.connection.sent, ended.connection.received) == (20, 20)


@pytest.mark.parametrize("address", plan.CLIENT, ids=["v4", "v6"])
@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict.PERMANENT_ACCEPT, None),
        (Verdict.PERMANENT_BLOCK, "ConnectionRefusedError"),
        (Verdict.PERMANENT_DROP, "TimeoutError"),
    ],
)
def test_what_comes_in_is_held_for_its_server(
    stepper: Stepper, world: World, agent: Agent, address: str, verdict: Verdict, outcome: str | None
) -> None:
    """portmaster-kext §2.1."""
    agent.do("listen", (address, IN_PORT))
    errors: list[str | None] = []

    def visit() -> None:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as made:
            made.settimeout(1.5 if verdict is Verdict.PERMANENT_DROP else PATIENCE)
            try:
                made.connect((address, IN_PORT))
                made.sendall(b"x")
                assert made.recv(10) == b"x"
            except OSError as error:
                errors.append(type(error).__name__)
            else:
                errors.append(None)

    visitor = threading.Thread(target=lambda: world.in_server(visit))
    visitor.start()
    (asked, *_) = stepper.until(Asked)
    assert asked.connection.direction is Direction.IN
    assert asked.connection.process.pid == agent.pid
    assert asked.connection.key.local_port == IN_PORT
    stepper.answer(asked, verdict)
    while visitor.is_alive():
        stepper.step()
    visitor.join()
    assert errors == [outcome]


def test_fifty_are_answered_in_any_order(stepper: Stepper, agent: Agent) -> None:
    waiting = [agent.start("tcp", ECHO, say="x") for _ in range(50)]
    asked = stepper.until(Asked, 50)
    assert len({each.connection.key for each in asked}) == 50
    accepted = set()
    for number, each in enumerate(reversed(asked)):
        verdict = Verdict.PERMANENT_ACCEPT if number % 2 else Verdict.PERMANENT_BLOCK
        if verdict.passes:
            accepted.add(each.connection.key.local_port)
        stepper.answer(each, verdict)
    results = [one.result(PATIENCE) for one in waiting]
    assert {one.port for one in results if one.error is None} == accepted
    assert {one.error for one in results if one.error} == {"ConnectionRefusedError"}
    assert len(accepted) == 25


def strangers(world: World, first: int, count: int, port: int = IN_PORT) -> None:
    """Datagrams from the ports from ``first`` on, each a flow of its own."""

    def send() -> None:
        for source in range(first, first + count):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.bind((plan.WEB.v4, source))
                one.sendto(b"x", (plan.CLIENT.v4, port))

    world.in_server(send)


def test_strangers_do_not_fill_the_queue(world: World, stepper: Stepper, agent: Agent) -> None:
    """What comes in beyond the window is dropped at the gate, and kept nowhere; our own programs find room."""
    agent.do("bound", (plan.CLIENT.v4, IN_PORT))
    machine = stepper.machine
    more = 50

    strangers(world, 20_000, WINDOW + more)
    found = machine.statistics()
    assert (found["kernel_held"], found["unheld_dropped"]) == (WINDOW, more)
    assert len(list(machine.installed.kernel.map("flows").keys())) == WINDOW
    waiting = agent.start("tcp", ECHO, say="x")
    asked = stepper.until(Asked, WINDOW + 1)
    assert {one.connection.direction for one in asked[:WINDOW]} == {Direction.IN}
    assert asked[WINDOW].connection.direction is Direction.OUT
    stepper.answer(asked[WINDOW], Verdict.PERMANENT_ACCEPT)
    assert waiting.result(PATIENCE).heard == "x"

    def there_is_room() -> bool:
        stepper.step()
        return not is_full(machine.installed.kernel)

    eventually(there_is_room, "there is room again")
    strangers(world, 30_000, 1)
    stepper.until(Asked, WINDOW + 2)


def test_strangers_who_come_for_nobody_do_not_fill_the_queue_either(
    world: World, stepper: Stepper, agent: Agent
) -> None:
    """Where every program is in scope. Beyond the window the hold rules drop them, those that come again too."""
    machine = stepper.machine
    config = machine.installed.kernel.map("config")
    config.write({"value": 0}, (config.read(value=0) or {}) | {"whole": 1})
    strangers(world, 20_000, WINDOW + 50, port=IN_PORT + 1)
    strangers(world, 20_000, 10, port=IN_PORT + 1)
    found = machine.statistics()
    assert (found["kernel_held"], found["unheld_dropped"]) == (WINDOW, 60)
    assert len(list(machine.installed.kernel.map("flows").keys())) == WINDOW
    waiting = agent.start("tcp", ECHO, say="x")
    *_, mine = stepper.until(Asked, WINDOW + 1)
    assert mine.connection.direction is Direction.OUT
    stepper.answer(mine, Verdict.PERMANENT_ACCEPT)
    assert waiting.result(PATIENCE).heard == "x"
    assert machine.statistics()["unheld_dropped"] == 60


def test_beyond_the_window_fail_open_lets_pass_and_counts(world: World, agent: Agent) -> None:
    agent.do("bound", (plan.CLIENT.v4, IN_PORT))
    with machine_in(world, fail_open=True) as stepper:
        strangers(world, 20_000, WINDOW + 5)
        found = stepper.machine.statistics()
        assert (found["unheld_passed"], found["unheld_dropped"]) == (5, 0)
        came_in = stepper.machine.installed.kernel.map("admission").read(value=0)
        assert came_in == {"asked": WINDOW, "taken": 0}


def test_a_packet_of_which_the_kernels_word_was_lost_is_searched_for(stepper: Stepper, agent: Agent) -> None:
    waiting = agent.start("tcp", ECHO, say="x")
    machine = stepper.machine
    eventually(lambda: machine.statistics()["kernel_held"] > 0, "the packet is held")
    machine._ring.skip()
    (asked, *_) = stepper.until(Asked)
    assert asked.connection.process.pid == agent.pid
    assert (str(asked.connection.key.remote), asked.connection.key.remote_port) == ECHO
    assert asked.connection.direction is Direction.OUT
    stepper.answer(asked, Verdict.PERMANENT_ACCEPT)
    assert waiting.result(PATIENCE).heard == "x"


def test_a_packet_of_which_the_kernel_knows_nothing_is_known_by_its_addresses(
    stepper: Stepper, agent: Agent
) -> None:
    waiting = agent.start("tcp", ECHO, timeout=0.5)
    machine = stepper.machine
    eventually(lambda: machine.statistics()["kernel_held"] > 0, "the packet is held")
    machine._ring.skip()
    for key in list(machine.installed.kernel.map("pending").keys()):
        machine.installed.kernel.map("pending").delete(key)
    (asked, *_) = stepper.until(Asked)
    assert asked.connection.process.pid == 0
    assert (str(asked.connection.key.remote), asked.connection.key.remote_port) == ECHO
    assert asked.connection.direction is Direction.OUT
    stepper.answer(asked, Verdict.PERMANENT_ACCEPT)
    assert waiting.result(PATIENCE).error == "TimeoutError"  # what the gate knows nothing of does not pass


def test_a_verdict_for_one_packet_is_asked_again(stepper: Stepper, agent: Agent) -> None:
    waiting = agent.start("tcp", ECHO, say="x")
    while not waiting.done():
        stepper.step()
        for event in stepper.events:
            if type(event) is Asked and stepper.driver.packets.get(event.packet):
                kinds = [type(action) for action in stepper.answer(event, Verdict.ACCEPT)]
                assert kinds == [Remember, Release]
    assert waiting.result(PATIENCE).heard == "x"
    asked = [event for event in stepper.events if type(event) is Asked]
    assert len(asked) > 1
    assert [event.first for event in asked] == [True] + [False] * (len(asked) - 1)


@pytest.mark.parametrize("incoming", [False, True], ids=["out", "in"])
def test_an_answer_for_one_packet_is_used_up_by_it(
    world: World, stepper: Stepper, agent: Agent, capture: Capture, incoming: bool
) -> None:
    """Though the hold rules are gone, what comes behind the SYN does not pass by the SYN's answer."""
    if incoming:
        agent.do("listen", (plan.CLIENT.v4, IN_PORT))
        peer = world.in_server(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with peer:
            peer.settimeout(PATIENCE)
            trying = threading.Thread(target=peer.connect_ex, args=((plan.CLIENT.v4, IN_PORT),))
            trying.start()
            (asked,) = stepper.until(Asked)
            flush_holds(world)
            stepper.answer(asked, Verdict.ACCEPT)
            trying.join(PATIENCE)
            before = unheld_dropped(stepper)
            assert peer.send(b"x") == 1
            eventually(lambda: unheld_dropped(stepper) > before, "its data is dropped", PATIENCE)
        return
    waiting = agent.start("tcp", ECHO, say="hello", timeout=2)
    (asked,) = stepper.until(Asked)
    flush_holds(world)
    stepper.answer(asked, Verdict.ACCEPT)
    assert waiting.result(PATIENCE).error == "TimeoutError"
    assert [(packet.tcp_flags, packet.payload) for packet in capture.to_port(7)] == [(TcpFlag.SYN, b"")]
    assert unheld_dropped(stepper) > 0


def unheld_dropped(stepper: Stepper) -> int:
    return stepper.machine.statistics()["unheld_dropped"]


def flush_holds(world: World) -> None:
    """As another program might; nobody puts them back here."""
    for command in ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"):
        subprocess.run(
            ["nsenter", f"--net={world.client_namespace}", command, "-w", "-t", "mangle", "-F"],
            check=True,
            capture_output=True,
        )


def test_a_program_that_gave_up_meanwhile_is_no_failure(stepper: Stepper, agent: Agent) -> None:
    waiting = agent.start("tcp", ECHO, timeout=0.2)
    (asked,) = stepper.until(Asked)
    assert waiting.result(PATIENCE).error == "TimeoutError"
    agent.do("close", of=waiting.result().id)
    stepper.answer(asked, Verdict.PERMANENT_ACCEPT)
    for _ in range(3):
        stepper.step()
    assert [records.unpack(data) for _, data in stepper.machine.installed.kernel.map("pending").items()] == []


def test_a_socket_that_was_asked_about_and_updated_ends(
    stepper: Stepper, agent: Agent, capture: Capture
) -> None:
    """An update to UNDECIDED while its datagram is held: the question, and that it was told, stay what they were."""
    waiting = agent.start("udp", ECHO, say="hello", timeout=0.2)
    (asked,) = stepper.until(Asked)
    (flow,) = [flow for flow, _ in stepper.driver.flows()]
    stepper.machine.carry_out(stepper.driver.update(flow, Verdict.UNDECIDED, time.monotonic_ns()))
    assert waiting.result(PATIENCE).error == "TimeoutError"
    agent.do("close", of=1)
    stepper.step()
    stepper.answer(asked, Verdict.PERMANENT_ACCEPT)  # its question outlives its socket
    (ended,) = stepper.until(Ended)
    assert ended.connection is asked.connection
    assert [packet.payload for packet in capture.to_port(7)] == [b"hello"]


@pytest.mark.parametrize("verdict", [Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_DROP])
def test_a_socket_that_closes_between_answer_and_release_ends(
    stepper: Stepper, agent: Agent, capture: Capture, verdict: Verdict
) -> None:
    waiting = agent.start("udp", ECHO, say="hello", timeout=0.2)
    (asked,) = stepper.until(Asked)
    assert waiting.result(PATIENCE).error == "TimeoutError"
    remember, *release = stepper.driver.verdict(asked.packet, verdict, time.monotonic_ns())
    assert type(remember) is Remember
    stepper.machine.carry_out([remember])
    agent.do("close", of=1)
    stepper.machine.carry_out(release)
    (ended,) = stepper.until(Ended)
    assert ended.connection is asked.connection
    assert [packet.payload for packet in capture.to_port(7)] == [b"hello"] * verdict.passes


def test_what_the_kernel_decides_alone_is_told_with_its_rule(world: World, agent: Agent) -> None:
    policy = Policy(
        (
            Rule(name="yes", answer=Answer.ACCEPT, ports=ASK.rules[0].ports, users=(0,)),
            Rule(name="never", answer=Answer.BLOCK),
        )
    )
    with machine_in(world, policy) as stepper:
        agent.do("tcp", ECHO, say="x")
        (decided,) = stepper.until(Decided)
        assert (decided.connection.rule, decided.connection.tier) == ("yes", Tier.KERNEL)
        assert decided.connection.verdict is Verdict.PERMANENT_ACCEPT
        assert stepper.judged == []
        stepper.machine.name_rules(("no", "more"))
        agent.do("tcp", ECHO6, say="x")
        assert stepper.until(Decided, 2)[1].connection.rule == "no"


@KINDS
def test_what_was_met_is_not_told_again_by_the_kernels_word(world: World, agent: Agent, kind: str) -> None:
    """A program may be quicker than the firewall's first look at what is open."""
    with machine_in(world, Policy()) as stepper:
        opened = agent.do(kind, ECHO, say="hello")
        stepper.machine.carry_out(stepper.machine.meet())
        agent.do("close", of=opened.id)
        stepper.until(Ended)
        decided = [event for event in stepper.events if type(event) is Decided]
        assert [(one.first, one.connection.key.local_port) for one in decided] == [(True, opened.port)]


def test_refused_at_connect_begins_and_ends_at_once(world: World, agent: Agent) -> None:
    with machine_in(world, Policy(defaults={Direction.OUT: Answer.BLOCK})) as stepper:
        for kind in ("tcp", "udp"):
            assert agent.do(kind, ECHO, say="x").error == "PermissionError"
        decided, ended = stepper.until(Decided, 2), stepper.until(Ended, 2)
        assert [event.connection for event in decided] == [event.connection for event in ended]
        for event in decided:
            assert event.connection.verdict is Verdict.PERMANENT_BLOCK
            assert event.connection.process.pid == agent.pid
        assert stepper.machine.statistics()["kernel_refused"] == 2


def test_waiting_ends_when_it_is_woken(stepper: Stepper) -> None:
    begun = time.monotonic()
    stepper.machine.wait(0)
    assert time.monotonic() - begun < 0.05
    stepper.machine.wake()
    stepper.machine.wake()
    begun = time.monotonic()
    stepper.machine.wait(5)
    assert time.monotonic() - begun < 0.05
    stepper.machine.wait(5)  # bounded, since not every event wakes us
    assert 0.05 < time.monotonic() - begun < 1


def test_statistics_have_the_drivers_counters_and_the_kernels(stepper: Stepper, agent: Agent) -> None:
    stepper.verdict = Verdict.PERMANENT_BLOCK
    waiting = agent.start("tcp", ECHO)
    stepper.until(Decided)
    waiting.result(PATIENCE)
    found = stepper.machine.statistics()
    assert found["kernel_held"] >= 1
    assert {
        "held",
        "released",
        "gave_way",
        "kernel_events_lost",
        "unheld_dropped",
        "pending_full",
    } <= found.keys()
    assert found["kernel_events_lost"] == found["pending_full"] == 0
