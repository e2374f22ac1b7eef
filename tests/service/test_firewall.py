"""service/firewall.py: what a programmer sees, with asyncio and without."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from livelab import Agent, capture_at, eventually, left_of, new_name, scope_of
from tidewaiter import (
    Asked,
    Counted,
    Decided,
    Ended,
    Established,
    Firewall,
    HeldConnection,
    PolicyError,
    Verdict,
)
from tidewaiter.host.guard import Guard
from tidewaiter.host.machine import Machine
from tidewaiter.host.packet_sockets import PacketSockets
from tidewaiter.host.scope import Scope
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction
from tidewaiter.policy import Answer, Policy
from tidewaiter.service import firewall as module
from tidewaiter.service.keeper import Keeper

ECHO, ECHO6 = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7)
Build = Callable[..., Firewall]
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])


@pytest.fixture
def build(world: World, request: pytest.FixtureRequest) -> Build:
    """A firewall for the lab, of which nothing may be left in the end."""

    def make(*arguments: Any, **options: Any) -> Firewall:
        name = new_name(world)

        def check() -> None:
            assert left_of(world, name) == []

        request.addfinalizer(check)
        return Firewall(*arguments, scope=scope_of(world), name=name, **options)

    return make


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def accept(_: Connection) -> Verdict:
    return Verdict.PERMANENT_ACCEPT


# --- without asyncio -------------------------------------------------------------------------------


@pytest.mark.live
@KINDS
def test_a_function_decides(build: Build, agent: Agent, kind: str) -> None:
    seen: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        seen.append(connection)
        allowed = connection.key.version == 4
        return Verdict.PERMANENT_ACCEPT if allowed else Verdict.PERMANENT_BLOCK

    with build(decide=decide):
        assert agent.do(kind, ECHO, say="hello").heard == "hello"
        refused = agent.do(kind, ECHO6, say="hello")
        assert refused.error in ("ConnectionRefusedError", "PermissionError")
        assert refused.seconds < 0.1
    assert [connection.process.pid for connection in seen] == [agent.pid] * 2


@pytest.mark.live
def test_a_policy_file_is_read_and_read_again(build: Build, agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('version = 1\n[default]\nout = "block"\n')
    with build(path) as firewall:
        refused = agent.do("tcp", ECHO)
        assert refused.error == "PermissionError"
        assert refused.seconds < 0.1
        path.write_text('version = 1\n[default]\nout = "accept"\n')
        firewall.load(str(path))
        assert agent.do("tcp", ECHO).error is None
        path.write_text('version = 1\n[default]\nout = "perhaps"\n')
        with pytest.raises(PolicyError, match=r"policy\.toml:3:7"):
            firewall.load(path)
        assert agent.do("tcp", ECHO).error is None


@pytest.mark.live
def test_dropping_is_silence(build: Build, world: World, agent: Agent) -> None:
    with build(Policy(defaults={Direction.OUT: Answer.DROP})), capture_at(world) as capture:
        for kind in ("tcp", "udp"):
            for to in (ECHO, ECHO6):
                assert agent.do(kind, to, say="x", timeout=0.4).error == "TimeoutError"
        assert capture.packets() == []


@pytest.mark.live
def test_statistics_are_counters_by_name(build: Build, agent: Agent) -> None:
    with build(decide=accept) as firewall:
        agent.do("tcp", ECHO)
        eventually(lambda: firewall.statistics()["kernel_held"] == 1, "the packet is counted")
        found = firewall.statistics()
        assert found["questions_dropped"] == found["watched_events_dropped"] == found["unheld_dropped"] == 0
        assert all(type(value) is int for value in found.values())


@pytest.mark.live
def test_leaving_by_an_error_takes_it_away_too(build: Build, agent: Agent) -> None:
    with pytest.raises(ZeroDivisionError), build(Policy(defaults={Direction.OUT: Answer.BLOCK})):
        raise ZeroDivisionError
    assert agent.do("tcp", ECHO).error is None


@pytest.mark.live
@pytest.mark.parametrize("part", [Guard, PacketSockets, Keeper])
def test_what_fails_on_its_way_in_leaves_nothing(
    build: Build, agent: Agent, monkeypatch: pytest.MonkeyPatch, part: type
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(part, "start", fails)
    with pytest.raises(RuntimeError, match="can't start"), build(decide=accept):
        pytest.fail("it is not in force")
    assert agent.do("tcp", ECHO).error is None, "nothing holds it"


@pytest.mark.live
def test_interrupted_on_its_way_in_it_is_taken_away(
    build: Build, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Guard.start

    def starts_after_a_signal(guard: Guard) -> None:
        signal.raise_signal(signal.SIGINT)
        start(guard)

    monkeypatch.setattr(Guard, "start", starts_after_a_signal)
    with pytest.raises(KeyboardInterrupt), build(decide=accept):
        pytest.fail("it is not in force")
    assert agent.do("tcp", ECHO).error is None, "nothing holds it"


@pytest.mark.live
def test_interrupted_on_its_way_out_it_is_taken_away(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Guard.stop

    def stops_after_a_signal(guard: Guard) -> None:
        signal.raise_signal(signal.SIGINT)
        stop(guard)

    monkeypatch.setattr(Guard, "stop", stops_after_a_signal)
    with pytest.raises(KeyboardInterrupt), build(decide=accept) as firewall:
        pass
    assert not firewall.engine.installed


@pytest.mark.live
def test_one_may_wait_for_its_end(build: Build) -> None:
    firewall = build(decide=accept)
    with firewall:
        assert not firewall.wait(0.01)
    assert firewall.wait()


@pytest.mark.live
def test_who_waits_for_its_end_learns_of_a_failure(
    build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise OSError("a defect")

    with caplog.at_level(logging.CRITICAL + 1, "tidewaiter"), build(decide=accept) as firewall:
        monkeypatch.setattr(Machine, "collect", fails)
        with pytest.raises(OSError, match="a defect"):
            firewall.wait(10)


def test_what_cannot_be_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    nowhere = Scope(tmp_path, ())
    with pytest.raises(ValueError, match="fail is 'open' or 'closed', not 'ajar'"):
        Firewall(fail="ajar", scope=nowhere)
    with pytest.raises(PolicyError, match="cannot be read"):
        Firewall(tmp_path / "nothing.toml", scope=nowhere)
    with pytest.raises(ValueError, match="must decide something"):
        Firewall(on_timeout=Verdict.UNDECIDED, scope=nowhere)
    with pytest.raises(ValueError, match="at least one packet"):
        Firewall(held=0, scope=nowhere)
    with pytest.raises(ValueError, match="`decide` answers already"):
        Firewall(decide=accept, scope=nowhere).connections()
    with pytest.raises(ValueError, match="make the firewall with watch=True"):
        Firewall(scope=nowhere).events()


# --- with asyncio ----------------------------------------------------------------------------------


@pytest.mark.live
@KINDS
def test_each_connection_is_held_until_it_is_answered(build: Build, agent: Agent, kind: str) -> None:
    async def main() -> None:
        async with build() as firewall:
            connections = firewall.connections()
            orders = [
                (HeldConnection.accept, None),
                (HeldConnection.block, "ConnectionRefusedError"),
                (HeldConnection.drop, "TimeoutError"),
            ]
            for answer, outcome in orders:
                waiting = agent.start(kind, ECHO, say="hello", timeout=1)
                held = await anext(connections)
                assert held.process.pid == agent.pid
                assert held.direction is Direction.OUT
                assert held.key is held.connection.key
                assert str(held.key.remote) == ECHO[0]
                assert held.process.name in str(held)
                assert plan.ECHO.v4 in str(held)
                await answer(held)
                result = await asyncio.wrap_future(waiting)
                assert result.error == outcome
                assert result.heard == ("" if outcome else "hello")

    run(main())


@pytest.mark.live
def test_two_seconds_of_thought_hold_connect_for_two_seconds(
    build: Build, world: World, agent: Agent
) -> None:
    async def main() -> None:
        async with build() as firewall:
            with capture_at(world) as capture:
                waiting = agent.start("tcp", ECHO, say="hello", timeout=10)
                held = await anext(firewall.connections())
                await asyncio.sleep(2)
                assert not waiting.done()
                assert capture.to_port(7) == []
                await held.accept()
                result = await asyncio.wrap_future(waiting)
                assert result.heard == "hello"
                assert 2 <= result.seconds < 3.5
                assert capture.to_port(7)
            queued = firewall.statistics()["kernel_held"]
            talk = agent.start("say", of=result.id, say="x", times=500)
            assert (await asyncio.wrap_future(talk)).error is None
            assert firewall.statistics()["kernel_held"] == queued

    run(main())


@pytest.mark.live
def test_many_wait_at_once_and_each_gets_its_own_answer(build: Build, agent: Agent) -> None:
    async def main() -> None:
        async with build() as firewall:
            connections = firewall.connections()
            waiting = [agent.start("tcp", ECHO, say="x") for _ in range(50)]
            held = [await anext(connections) for _ in waiting]
            accepted = {one.key.local_port for one in held[::2]}
            for one in reversed(held):
                await (one.accept() if one.key.local_port in accepted else one.block())
            results = [await asyncio.wrap_future(one) for one in waiting]
            assert {one.port for one in results if one.error is None} == accepted
            assert {one.error for one in results} == {None, "ConnectionRefusedError"}

    run(main())


@pytest.mark.live
def test_the_first_answer_counts(build: Build, agent: Agent) -> None:
    async def main() -> None:
        async with build() as firewall:
            waiting = agent.start("tcp", ECHO, say="hello")
            held = await anext(firewall.connections())
            with pytest.raises(ValueError, match="UNDECIDED is no answer"):
                held.answer(Verdict.UNDECIDED)
            await held.accept()
            await held.block()
            result = await asyncio.wrap_future(waiting)
            assert result.heard == "hello"
            again = agent.start("say", of=result.id, say="more")
            assert (await asyncio.wrap_future(again)).heard == "more"
        await held.drop()  # long gone

    run(main())


@pytest.mark.live
def test_events_come_with_their_types(build: Build, agent: Agent) -> None:
    async def main() -> None:
        async with build(watch=True, count_every=0.05) as firewall:
            waiting = agent.start("tcp", ECHO, say="hello")
            await (await anext(firewall.connections())).accept()
            opened = await asyncio.wrap_future(waiting)
            seen: list[Any] = []
            async for event in firewall.events():
                seen.append(event)
                if isinstance(event, Counted) and event.connection.sent == 5 and not event.connection.ended:
                    agent.start("close", of=opened.id)
                if isinstance(event, Ended):
                    break
            kinds = [type(event) for event in seen if not isinstance(event, Counted)]
            assert kinds == [Asked, Decided, Established, Ended]
            assert len({id(event.connection) for event in seen}) == 1
            decided = seen[kinds.index(Decided)]
            assert decided.connection.verdict is Verdict.PERMANENT_ACCEPT
            assert decided.held > 0
            assert (decided.connection.sent, decided.connection.received) == (5, 5)

    run(main())


@pytest.mark.live
def test_a_listener_and_a_watcher_hear_the_same(build: Build, agent: Agent) -> None:
    heard: list[Any] = []

    async def main() -> None:
        async with build(Policy(), listener=heard.append, watch=True) as firewall:
            await asyncio.wrap_future(agent.start("tcp", ECHO))
            events = firewall.events()
            watched = [await anext(events) for _ in range(2)]
            assert watched == heard[:2]

    run(main())


@pytest.mark.live
def test_waiting_for_connections_ends_with_the_firewall(build: Build) -> None:
    async def main() -> None:
        async def count(firewall: Firewall) -> int:
            return len([held async for held in firewall.connections()])

        async with build() as firewall:
            counting = asyncio.create_task(count(firewall))
            await asyncio.sleep(0)
        assert await counting == 0

    run(main())


@pytest.mark.live
def test_who_waits_learns_of_a_failure(
    build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise OSError("a defect")

    async def main() -> None:
        async with build() as firewall:
            monkeypatch.setattr(Machine, "collect", fails)
            with pytest.raises(OSError, match="a defect"):
                await anext(firewall.connections())

    with caplog.at_level(logging.CRITICAL + 1, "tidewaiter"):
        run(main())


@pytest.mark.live
@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.25])
def test_cancelled_on_its_way_in_it_leaves_nothing(build: Build, after: float) -> None:
    async def main() -> None:
        async def enter() -> None:
            async with build(timeout=1):
                await asyncio.sleep(30)

        entering = asyncio.create_task(enter())
        await asyncio.sleep(after)
        entering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await entering
        assert entering.cancelled()

    run(main())


@pytest.mark.live
def test_the_event_loop_goes_on_while_it_starts_and_stops(build: Build) -> None:
    async def main() -> None:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            last = time.monotonic()
            while True:
                await asyncio.sleep(0.005)
                now = time.monotonic()
                longest, last = max(longest, now - last), now

        ticking = asyncio.create_task(tick())
        begun = time.monotonic()
        async with build():
            pass
        took = time.monotonic() - begun
        ticking.cancel()
        assert longest < took / 2

    run(main())


def test_what_nobody_reads_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 3)
    stream: module._Stream[int] = module._Stream()

    async def main() -> None:
        stream.open(asyncio.get_running_loop())
        for number in range(5):
            stream.put(number)
        stream.end(None)
        assert [item async for item in stream.items()] == [2, 3, 4]

    run(main())
    assert stream.dropped == 2
