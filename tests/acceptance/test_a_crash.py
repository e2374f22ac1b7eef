"""kill -9 of the firewall during traffic: what stays, who takes over, and that a normal stop leaves nothing."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from random import choice

import pytest

from acceptance.harness import Guard, endpoint, links, links_of, rule, run, scope_options, write
from acceptance.traffic import ASKED, KNOWN, OPEN, traffic_of
from livelab import PATIENCE, Agent, Capture, Result, left_of
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

_REFUSALS = {"PermissionError", "ConnectionRefusedError"}
_BLOCKED = 443  # refused by the kernel, as `KNOWN` is accepted by it; Python is asked about `ASKED`
_SILENCE = 1.2
_AT_ONCE = 50
_REQUEST = "GET / HTTP/1.1\r\nHost: web.lab\r\n\r\n"
KILLS = max(50, int(os.environ.get("TIDEWAITER_KILLS", "50")))


def _policy(folder: Path) -> Path:
    """Asks about one port; nobody is there to answer, so the time-out accepts."""
    return write(
        folder / "policy.toml",
        rule("asked", "ask", port=["80", "53"]),
        rule("closed", "block", port="443"),
    )


def _options(policy: Path, fail: str) -> list[str | Path]:
    return ["--policy", policy, "--fail", fail, "--timeout", "0.05", "--on-timeout", "accept"]


def _known_is_enforced(agent: Agent, capture: Capture) -> None:
    """What needs nobody's answer: the policy in the kernel."""
    for address in plan.ECHO:
        assert agent.do("tcp", (address, KNOWN), say="new").heard == "new"
        assert agent.do("udp", (address, KNOWN), say="new").heard == "new"
        assert agent.do("sendto", (address, KNOWN), say="new").heard == "new"
        refused = agent.do("tcp", (address, _BLOCKED))
        assert refused.error in _REFUSALS
        assert refused.seconds < 0.1
        assert agent.do("udp", (address, _BLOCKED), say="x").error in _REFUSALS
    assert capture.to_port(_BLOCKED) == []


def _undecided(agent: Agent, capture: Capture, fail: str) -> None:
    """New ones that only Python could decide."""
    capture.packets()
    trying = [agent.start("tcp", (address, ASKED), timeout=_SILENCE) for address in plan.ECHO]
    trying += [agent.start("udp", (address, 53), say="x" * 12, timeout=_SILENCE) for address in plan.ECHO]
    for one in trying[:2]:
        assert one.result(PATIENCE).error == (None if fail == "open" else "TimeoutError")
    for one in trying[2:]:
        one.result(PATIENCE)  # the name server may have nothing to say to this
    arrived = {port for packet in capture.packets() if (port := packet.destination_port) in (ASKED, 53)}
    assert arrived == ({ASKED, 53} if fail == "open" else set())


@pytest.mark.parametrize("fail", ["open", "closed"])
@pytest.mark.parametrize("next_fail", ["the same", "the other"])
def test_kill_and_take_over(
    world: World, agent: Agent, capture: Capture, name: str, tmp_path: Path, fail: str, next_fail: str
) -> None:
    policy = _policy(tmp_path)
    other = {"open": "closed", "closed": "open"}[fail] if next_fail == "the other" else fail
    first = Guard(world, name, *_options(policy, fail))
    second = None
    try:
        with traffic_of(agent) as traffic:
            traffic.goes_on()
            first.kill()
            traffic.goes_on()
            _known_is_enforced(agent, capture)
            _undecided(agent, capture, fail)
            traffic.goes_on()

            second = Guard(world, name, *_options(policy, other))
            traffic.goes_on()
            _known_is_enforced(agent, capture)
            for address in plan.ECHO:
                assert agent.do("tcp", (address, ASKED)).error is None  # there is somebody to ask again
            shown = run("connections", "--name", name, "--json").events
            for made, (_, target) in zip(
                traffic.open, [one for one in OPEN if one[1][1] == KNOWN], strict=True
            ):
                mine = [line for line in shown if line["local"].endswith(f":{made.port}")]
                assert [line["remote"] for line in mine] == [endpoint(*target)]
                assert (mine[0]["pid"], mine[0]["verdict"]) == (agent.pid, "accept")

            held = links_of(name)
            assert held
            second.stop()
            traffic.goes_on()  # without a firewall
        assert left_of(world, name) == []
        assert not held & set(links())
        assert agent.do("tcp", (plan.ECHO.v4, _BLOCKED)).error is None
    finally:
        first.end()
        if second is not None:
            second.end()


def test_a_connection_from_before_ends_with_its_owner_and_totals(
    world: World, agent: Agent, name: str, tmp_path: Path
) -> None:
    """Who takes over knows what it took over."""
    options = _options(_policy(tmp_path), "closed")
    first = Guard(world, name, *options)
    try:
        made = [agent.do(do, (plan.ECHO.v4, KNOWN), say="x" * 100) for do in ("tcp", "udp")]
    finally:
        first.kill()
    second = Guard(world, name, *options)
    try:
        for do, one in zip(("tcp", "udp"), made, strict=True):
            assert agent.do("say", of=one.id, say="x" * 100).error is None
            assert agent.do("close", of=one.id).error is None
            end = second.wait_for(event="end", protocol=do, local=endpoint(plan.CLIENT.v4, one.port))
            assert (end["pid"], end["direction"], end["verdict"]) == (agent.pid, "out", "accept")
            assert (end["sent"], end["received"]) == (200, 200)
        second.stop()
    finally:
        second.end()


class Asking:
    """New connections that somebody must be asked about, one after another, whether somebody is there or not."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.errors: Counter[str | None] = Counter()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        waiting: deque[Future[Result]] = deque()
        while not self._done.wait(0.02):
            waiting.append(self._agent.start("tcp", (choice(plan.ECHO), ASKED), timeout=2))
            while len(waiting) > _AT_ONCE or (waiting and waiting[0].done()):
                self._end(waiting.popleft())
        while waiting:
            self._end(waiting.popleft())

    def _end(self, one: Future[Result]) -> None:
        made = one.result(PATIENCE)
        self.errors[made.error] += 1
        self._agent.do("close", of=made.id)

    def close(self) -> None:
        self._done.set()
        self._thread.join(PATIENCE)


@contextmanager
def _asking(agent: Agent) -> Iterator[Asking]:
    asking = Asking(agent)
    try:
        yield asking
    finally:
        asking.close()


@pytest.mark.timeout(max(120, KILLS * 4))
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_killed_again_and_again(
    world: World, agent: Agent, capture: Capture, name: str, tmp_path: Path, fail: str
) -> None:
    """Under load. Each takes over from the one before; the last leaves nothing.

    No verdict is lost: what the kernel refuses is refused, with a firewall or without; what must be asked about follows
    ``fail`` while nobody is there, is answered by each new firewall, and is never refused. What is open goes on.
    """
    policy = _policy(tmp_path)
    firewall = Guard(world, name, *_options(policy, fail))
    try:
        with traffic_of(agent) as traffic, _asking(agent) as asking:
            for _ in range(KILLS):
                traffic.goes_on()
                firewall.kill()
                for address in plan.ECHO:
                    assert agent.do("tcp", (address, KNOWN), say="new").heard == "new"
                    assert agent.do("tcp", (address, _BLOCKED)).error in _REFUSALS
                    undecided = agent.do(
                        "tcp", (address, ASKED), timeout=0.1 if fail == "closed" else PATIENCE
                    )
                    assert undecided.error == (None if fail == "open" else "TimeoutError")
                traffic.goes_on()
                firewall = Guard(world, name, *_options(policy, fail))
                for address in plan.ECHO:  # it stands: so it answers
                    assert agent.do("tcp", (address, ASKED), timeout=PATIENCE).error is None
                    assert agent.do("tcp", (address, _BLOCKED)).error in _REFUSALS
                assert capture.to_port(_BLOCKED) == []
            traffic.goes_on()
            for one in traffic.asked:  # accepted before the first crash
                said = agent.do("say", of=one.id, say=_REQUEST, timeout=PATIENCE)
                assert said.error is None
                assert said.heard.startswith("HTTP/1.1 200")
            asking.close()
            assert asking.errors[None] >= KILLS
            assert set(asking.errors) <= {None, "TimeoutError"}
            firewall.stop()
            traffic.goes_on()
    finally:
        firewall.end()
    assert left_of(world, name) == []


def test_two_of_one_name_do_not_run(world: World, name: str, tmp_path: Path) -> None:
    options = _options(_policy(tmp_path), "closed")
    first = Guard(world, name, *options)
    try:
        finished = run("run", "--name", name, *scope_options(world), *options)
        assert finished.status == 1
        assert f"already runs as process {first.process.pid}" in finished.errors
        assert len(finished.errors.strip().splitlines()) == 1
        first.stop()
    finally:
        first.end()
    assert left_of(world, name) == []
