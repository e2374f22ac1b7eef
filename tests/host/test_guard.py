"""host/guard.py: what others flush, detach or take is noticed, said in a sentence and put back under traffic."""

from __future__ import annotations

import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from livelab import (
    HOLDS,
    PATIENCE,
    Agent,
    attach_foreign,
    capture_at,
    eventually,
    holds_in,
    left_of,
    new_name,
    scope_of,
)
from tidewaiter.host import guard, hold, namespace
from tidewaiter.host.admission import WINDOW
from tidewaiter.host.hold import HoldError, HoldRules, Method, Standing
from tidewaiter.host.queue import _MSG_CONFIG, Config, _attribute, _message
from tidewaiter.host.redirect import RedirectPorts
from tidewaiter.kernel.maps import possible_cpus
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy
from tidewaiter.service.engine import Engine
from tidewaiter.service.settings import Settings

pytestmark = pytest.mark.live

ASK = Policy(defaults={Direction.OUT: Answer.ASK})
ECHO, ECHO6 = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7)
BACK_ENDS = pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY])


@pytest.fixture
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Method:
    """The back end by which the rules are installed."""
    wanted: Method = getattr(request, "param", Method.IPTABLES_NFT)
    put_back = hold.put_back

    def only(rules: HoldRules, method: Method) -> None:
        if method is not wanted:
            raise HoldError("not in this test")
        put_back(rules, method)

    monkeypatch.setattr(hold, "put_back", only)
    return wanted


@contextmanager
def guarded(world: World, **options: Any) -> Iterator[tuple[Engine, list[str]]]:
    """A firewall in force, and what it has said."""
    said: list[str] = []
    name = new_name(world)
    policy = options.pop("policy", ASK)
    settings = Settings(name=name, scope=scope_of(world), redirect=RedirectPorts())
    engine = Engine(policy, settings, notice=said.append, **options)
    engine.start()
    try:
        yield engine, said
    finally:
        assert engine.stop() == []
        assert left_of(world, name) == []


def accept(_: Connection) -> Verdict:
    return Verdict.PERMANENT_ACCEPT


def others(world: World, command: str) -> None:
    """Another program changes rules in the client's namespace."""
    namespace.run_inside(world.client_namespace, lambda: subprocess.run(command, shell=True, check=True))


def stands(engine: Engine) -> Callable[[], bool]:
    ((rules, method),) = engine.machine.installed.state.hold_rules()
    return lambda: hold.standing(rules, method) is Standing.FIRST


FLUSHES = [
    "iptables{0} -F; iptables{0} -t mangle -F; ip6tables{0} -t mangle -F",
    "iptables{0} -t mangle -F OUTPUT",
    "ip6tables{0} -t mangle -F; ip6tables{0} -t mangle -X",
    "iptables{0} -t nat -F; ip6tables{0} -t nat -F",
    "printf '*mangle\nCOMMIT\n' | iptables{0}-restore",
]


@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY], indirect=True)
@pytest.mark.parametrize("flush", FLUSHES, ids=["all", "a chain", "IPv6", "redirects", "restore"])
def test_flushed_rules_are_put_back(world: World, method: Method, flush: str) -> None:
    with guarded(world, decide=accept) as (engine, said):
        for times in (1, 2):
            others(world, flush.format(method.value.removeprefix("iptables")))
            eventually(stands(engine), "the rules are back", PATIENCE)
            assert len(holds_in(world.client_namespace)) == HOLDS
            eventually(lambda count=times: len(said) == count, "it is said", PATIENCE)  # type: ignore[misc]
        assert said == [f"the hold rules in {world.client_namespace} were gone; they are put back"] * 2


@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY], indirect=True)
def test_rules_that_are_flushed_again_at_once_are_put_back_again(world: World, method: Method) -> None:
    """With iptables-legacy the table then looks as it did at the last look."""
    with guarded(world, decide=accept) as (engine, said):
        looking = engine._guard
        looking._stop.set()
        looking._thread.join()
        (place,) = looking._places
        for times in (1, 2, 3):
            others(world, f"{method} -t mangle -F")
            place.next_question = 0
            looking.look()
            assert len(said) == times
            assert stands(engine)()


@pytest.mark.parametrize("method", [Method.IPTABLES_NFT], indirect=True)
def test_a_flushed_ruleset_is_put_back(world: World, method: Method) -> None:
    with guarded(world, decide=accept) as (engine, said):
        others(world, "nft flush ruleset")
        eventually(stands(engine), "the rules are back", PATIENCE)
        eventually(lambda: len(said) == 1, "it is said", PATIENCE)


@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY], indirect=True)
def test_a_rule_before_ours_comes_behind(world: World, agent: Agent, method: Method) -> None:
    suffix = method.value.removeprefix("iptables")
    asked: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection)
        return Verdict.PERMANENT_ACCEPT

    with guarded(world, decide=decide) as (engine, said):
        others(world, f"iptables{suffix} -t mangle -I OUTPUT 1 -j ACCEPT")
        eventually(stands(engine), "ours are first again", PATIENCE)
        eventually(lambda: len(said) == 1, "it is said", PATIENCE)
        assert said == [
            f"the hold rules in {world.client_namespace} stood behind the rules of another program; they are put back"
        ]
        assert agent.do("tcp", ECHO, say="x").heard == "x"
        assert len(asked) == 1
        rules = namespace.run_inside(
            world.client_namespace,
            lambda: subprocess.check_output([f"iptables{suffix}-save", "-t", "mangle"], text=True),
        )
        assert rules.count("-A OUTPUT -j ACCEPT") == 1  # it is not ours to remove
        others(world, f"iptables{suffix} -t mangle -D OUTPUT -j ACCEPT")


@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY], indirect=True)
def test_while_rules_are_gone_nothing_undecided_passes(
    world: World, agent: Agent, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody puts them back here: the gate alone stands."""
    monkeypatch.setattr(guard, "EVERY", 10 * PATIENCE)
    looked = threading.Event()
    look = guard.Guard.look

    def look_once(self: guard.Guard) -> None:
        look(self)
        looked.set()

    monkeypatch.setattr(guard.Guard, "look", look_once)
    with capture_at(world) as capture, guarded(world, decide=accept) as (engine, said):
        assert looked.wait(PATIENCE)
        opened = [agent.do(do, to, say="x") for do in ("tcp", "udp") for to in (ECHO, ECHO6)]
        suffix = method.value.removeprefix("iptables")
        others(world, f"iptables{suffix} -t mangle -F; ip6tables{suffix} -t mangle -F")
        capture.packets()
        waiting = [
            agent.start(do, to, say="y", timeout=1.5)
            for do in ("tcp", "udp", "sendto")
            for to in (ECHO, ECHO6)
        ]
        for one in opened:  # what was decided goes on
            assert agent.do("say", of=one.id, say="more").heard == "more"
        assert [one.result(PATIENCE).error for one in waiting] == ["TimeoutError"] * 6
        ports = {one.port for one in opened}
        assert {packet.source_port for packet in capture.to_port(7)} == ports
        assert said == []
        found = engine.statistics()
        assert found["unheld_dropped"] + found["kernel_refused"] >= 6


def test_traffic_while_rules_are_flushed(world: World, agent: Agent) -> None:
    """Only what was accepted is ever seen at the other end, and what was open goes on all the time."""
    accepted: set[int] = set()

    def decide(connection: Connection) -> Verdict:
        if connection.key.remote_port != 7 or connection.key.local_port % 2:
            return Verdict.PERMANENT_DROP
        accepted.add(connection.key.local_port)
        return Verdict.PERMANENT_ACCEPT

    with capture_at(world) as capture, guarded(world, decide=decide) as (engine, said):
        opened = agent.do("tcp", ECHO, say="x", timeout=1)
        while opened.error:
            opened = agent.do("tcp", ECHO, say="x", timeout=1)
        for _ in range(3):
            before = len(said)
            others(world, "nft flush ruleset")
            tries = [agent.start("tcp", ECHO, say="y", timeout=4) for _ in range(20)]
            assert agent.do("say", of=opened.id, say="more", timeout=PATIENCE).heard == "more"
            eventually(lambda count=before: len(said) > count, "the rules are back", PATIENCE)  # type: ignore[misc]
            for one in tries:
                one.result(PATIENCE)
        assert {packet.source_port for packet in capture.to_port(7)} <= accepted
        assert accepted
        again = agent.do("tcp", ECHO, say="z", timeout=1)
        assert again.error is None or again.port % 2
        assert engine.running


def test_a_detached_program_is_attached_again(world: World) -> None:
    with guarded(world, decide=accept) as (engine, said):
        pin = engine.machine.installed.kernel.pins / "links" / "tw_egress"
        subprocess.run(["bpftool", "link", "detach", "pinned", pin], check=True)
        eventually(lambda: bool(said), "it is put back", PATIENCE)
        assert said == [
            f"tw_egress was detached from {world.cgroup} by another program; it is attached again"
        ]
        pin.unlink()
        eventually(lambda: len(said) == 2 and pin.exists(), "it is pinned again", PATIENCE)
        assert said[1] == "the pin of tw_egress was removed by another program; it is there again"


def test_who_is_in_the_way_is_said_once(world: World, tmp_path: Any) -> None:
    with guarded(world, decide=accept) as (engine, said):
        pin = engine.machine.installed.kernel.pins / "links" / "tw_connect4"
        stop = engine._guard
        stop._stop.set()  # so that the foreign program is quicker
        stop._thread.join()
        subprocess.run(["bpftool", "link", "detach", "pinned", pin], check=True)
        with attach_foreign(world.cgroup, tmp_path):
            for _ in range(2):
                stop.look()
            assert len(said) == 1
            assert said[0].startswith("tw_connect4 is not in force: ")
            assert "in the way is stranger" in said[0]
        stop.look()
        assert said[1:] == [
            f"tw_connect4 was detached from {world.cgroup} by another program; it is attached again"
        ]


def test_a_queue_that_is_lost_is_taken_back(world: World, agent: Agent) -> None:
    with guarded(world, decide=accept) as (engine, said):
        (queue,) = engine.machine.installed.queues
        unbind = _attribute(Config.COMMAND, b"\x02\0\0\0")
        queue._socket.send(_message(_MSG_CONFIG, queue.number, unbind))
        eventually(lambda: len(said) == 2, "it is ours again", PATIENCE)
        assert said == [
            f"queue {queue.number} in {world.client_namespace} is not ours any more: it was taken away; taking it back",
            f"queue {queue.number} in {world.client_namespace} is ours again",
        ]
        assert agent.do("tcp", ECHO, say="x").heard == "x"


def test_an_overrun_is_counted_said_and_survived(world: World, agent: Agent) -> None:
    asked = threading.Event()
    go_on = threading.Event()

    def decide(connection: Connection) -> Verdict:
        asked.set()
        go_on.wait(PATIENCE)
        return Verdict.PERMANENT_ACCEPT

    with guarded(world, decide=decide) as (engine, said):
        (queue,) = engine.machine.installed.queues
        queue._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        waiting = [agent.start("udp", ECHO, say="x" * 1200, timeout=1)]
        assert asked.wait(PATIENCE)
        waiting += [agent.start("udp", ECHO, say="x" * 1200, timeout=1) for _ in range(60)]
        eventually(lambda: engine._guard.overrun > 0, "packets do not fit", PATIENCE)
        go_on.set()
        for one in waiting:
            one.result(PATIENCE)
        eventually(lambda: bool(said), "it is said", PATIENCE)
        assert "statistics count them as queue_full and queue_overrun" in said[0]
        assert engine.statistics()["queue_overrun"] > 0
        eventually(lambda: agent.do("udp", ECHO, say="x", timeout=1).heard == "x", "it goes on", PATIENCE)


def test_more_than_is_answered_is_said_once(world: World) -> None:
    with guarded(world, decide=accept) as (engine, said):
        looking = engine._guard
        looking._stop.set()
        looking._thread.join()
        kernel = engine.machine.installed.kernel
        counter, full = (1).to_bytes(4, "little"), {"asked": WINDOW, "taken": 0}  # unheld_dropped

        def look(more: int, **line: int) -> int:
            count = (kernel.map("counters").sum(value=1) + more).to_bytes(8, "little")
            kernel.map("counters").put(counter, count.ljust(8 * possible_cpus(), b"\0"))
            kernel.map("admission").write({"value": 0}, line)
            looking.look()
            kernel.map("admission").write({"value": 0}, {"asked": 0, "taken": 0})
            return len(said)

        assert look(0, **full) == 0, "nothing was turned away"
        assert look(1, asked=9, taken=0) == 0, "it had another reason"
        assert look(1, **full) == 1
        assert look(1, **full) == 1, "that is known"
        assert look(0, asked=0, taken=0) == 1
        assert look(1, **full) == 2
    assert said[0].startswith("more comes in than anybody answers")


def test_what_cannot_be_looked_after_is_said_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(world, decide=accept) as (engine, said):
        looking = engine._guard
        looking._stop.set()
        looking._thread.join()
        with monkeypatch.context() as patched:
            patched.setenv("PATH", "/nowhere")
            for place in looking._places:
                place.stamp = b""
            for times in range(guard._FAILURES + 1):
                for place in looking._places:
                    place.next_question = 0
                looking.look()
                assert len(said) == (times + 1 >= guard._FAILURES)
        assert said[0].startswith(f"the hold rules in {world.client_namespace} cannot be looked after")
        assert said[0].endswith("iptables-nft-save is not installed")


def test_two_that_want_to_be_first_do_not_keep_each_other_busy(world: World) -> None:
    with guarded(world, decide=accept) as (engine, said):
        looking = engine._guard
        looking._stop.set()
        looking._thread.join()
        (place,) = looking._places
        for _ in range(guard._STUBBORN):
            others(world, "iptables-nft -t mangle -I OUTPUT 1 -j RETURN")
            place.next_question = 0
            looking.look()
        assert len(said) == guard._STUBBORN
        assert place.next_question - time.monotonic() > 1
        others(world, "iptables-nft -t mangle -F")
        place.next_question = 0
        looking.look()


def test_looking_starts_no_program(world: World) -> None:
    """As long as nothing has changed; a look then takes about 0.3 ms."""
    with guarded(world, decide=accept) as (engine, _):
        looking = engine._guard
        looking._stop.set()
        looking._thread.join()
        looking.look()
        (place,) = looking._places
        place.next_question = 0
        looking.look()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        for _ in range(100):
            place.next_question = 0
            looking.look()
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime == usage
