"""driver/states.py: every pair of the table, tried on the driver itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tidewaiter.driver.connections import KEEP_ENDED
from tidewaiter.driver.core import (
    Action,
    Asked,
    Decided,
    Driver,
    Ended,
    Established,
    Event,
    Release,
    Remember,
    Renew,
)
from tidewaiter.driver.states import CHANGES, STEPS, Happening, State, Step
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.verdict import Verdict

FLOW, OTHER = b"flow", b"other"
KEY = ConnectionKey(Protocol.TCP, ip_address("192.0.2.1"), 4000, ip_address("192.0.2.2"), 443)
SOON = 10
OPEN = (State.UNDECIDED, State.ASKED, State.DECIDED)

Fire = Callable[[Driver], list[Action] | None]


def told(verdict: Verdict = Verdict.UNDECIDED, epoch: int = 1, protocol: int = Protocol.TCP) -> Connection:
    """A connection as the kernel tells of it."""
    key = KEY._replace(protocol=protocol)
    return Connection(id=0, key=key, direction=Direction.OUT, cookie=1, verdict=verdict, epoch=epoch)


def driver_in(state: State, before: Happening | None = None) -> Driver:
    """A driver whose connection FLOW is in a state (of ASKED two packets wait), with a reason for what comes next."""
    driver = Driver(
        packets=2 if before is Happening.GIVES_WAY else 9,
        connections=1 if before is Happening.EVICTED else 9,
        timeout=SOON if before is Happening.VERDICT else 2 * KEEP_ENDED,
        timeout_verdict=Verdict.PERMANENT_DROP,
    )
    if state in OPEN or state is State.ENDED:
        by_itself = before is Happening.VERDICT_ON_PACKET and state is State.ASKED
        driver.decided(FLOW, told(protocol=Protocol.ICMP if by_itself else Protocol.TCP), 1)
    if state is State.ASKED:
        driver.packet(FLOW, told(), "t1", b"t1", 1)
        driver.packet(FLOW, told(), "t2", b"t2", 1)
    if state in (State.DECIDED, State.ENDED):
        driver.update(FLOW, Verdict.PERMANENT_ACCEPT, 1)
    if state is State.ENDED:
        driver.ended(FLOW, 0, 0, 1)
    driver.events()
    assert driver.state(FLOW) is state
    return driver


def hold(epoch: int, given: Verdict) -> Fire:
    return lambda driver: driver.packet(FLOW, told(given, epoch), "new", b"new", 2)


def answer(verdict: Verdict) -> Fire:
    return lambda driver: driver.verdict(1, verdict, 2)


def update(verdict: Verdict) -> Fire:
    return lambda driver: driver.update(FLOW, verdict, 2)


def kernel(verdict: Verdict) -> Fire:
    return lambda driver: driver.decided(FLOW, replace(told(verdict, 2), rule="new"), 2)


def empty(driver: Driver) -> list[Action]:
    return [*driver.verdict(1, Verdict.ACCEPT, 2), *driver.verdict(2, Verdict.ACCEPT, 2)]


def another_packet(driver: Driver) -> list[Action]:
    return driver.packet(OTHER, told(), "other", b"", 2)


# Every way in which something can happen.
WAYS: dict[Happening, list[Fire]] = {
    Happening.PACKET: [hold(1, Verdict.UNDECIDED), hold(2, Verdict.PERMANENT_ACCEPT)],
    Happening.NEWER_QUESTION: [hold(2, Verdict.UNDECIDED)],
    Happening.VERDICT: [
        *(answer(verdict) for verdict in Verdict if verdict.permanent),
        lambda driver: driver.tick(SOON + 1),
        lambda driver: driver.rundown(Verdict.PERMANENT_DROP, 2),
    ],
    Happening.VERDICT_ONCE: [answer(verdict) for verdict in (Verdict.ACCEPT, Verdict.BLOCK, Verdict.DROP)],
    Happening.VERDICT_ON_PACKET: [
        lambda driver: driver.verdict(1 if driver.packets.first(FLOW) else 99, Verdict.PERMANENT_ACCEPT, 2),
        lambda driver: driver.verdict(1 if driver.packets.first(FLOW) else 99, Verdict.DROP, 2),
    ],
    Happening.NO_VERDICT: [answer(Verdict.UNDECIDED)],
    Happening.UPDATE: [update(verdict) for verdict in Verdict if verdict.permanent],
    Happening.UPDATE_ONCE: [update(verdict) for verdict in Verdict if not verdict.permanent],
    Happening.KERNEL_DECIDES: [kernel(verdict) for verdict in Verdict if verdict.permanent],
    Happening.KERNEL_ASKS: [kernel(verdict) for verdict in Verdict if not verdict.permanent],
    Happening.REFUSED: [lambda driver: driver.decided(b"", told(Verdict.PERMANENT_BLOCK), 2)],
    Happening.ESTABLISHED: [lambda driver: driver.established(FLOW, 2)],
    Happening.GIVES_WAY: [another_packet],
    Happening.EMPTIED: [empty],
    Happening.CLOSED: [lambda driver: driver.ended(FLOW, 0, 0, 2)],
    Happening.EVICTED: [another_packet],
    Happening.AGED: [
        lambda driver: driver.tick(KEEP_ENDED + 1),
        lambda driver: driver.clean_ended(KEEP_ENDED + 1),
    ],
}


def seen(actions: list[Action], events: list[Event]) -> set[Step]:
    """The steps that can be seen from outside."""
    steps = set()
    releases = [action for action in actions if isinstance(action, Release)]
    tokens = [release.token for release in releases]
    if any(isinstance(action, Remember) for action in actions):
        steps.add(Step.REMEMBER)
    if any(isinstance(action, Renew) for action in actions):
        steps.add(Step.RENEW)
    for event in events:
        if isinstance(event, Asked | Decided) and event.first:
            steps.add(Step.BEGIN)
        kinds = {Asked: Step.HOLD, Established: Step.TELL_ESTABLISHED, Ended: Step.TELL_ENDED}
        steps.add(kinds.get(type(event), Step.TELL_DECIDED))
    decided = any(isinstance(event, Decided) for event in events)
    if len(tokens) == 2:
        steps.add(Step.RELEASE_ALL if decided else Step.ABANDON)
    elif len(tokens) == 1:
        steps.add(Step.RELEASE if Step.REMEMBER in steps else Step.THROW_AWAY)
    return steps


@pytest.mark.parametrize("happening", Happening, ids=lambda happening: happening.name)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_a_pair_does_and_leads_where_the_table_says(state: State, happening: Happening) -> None:
    expected = CHANGES[state].get(happening)
    for fire in WAYS[happening]:
        driver = driver_in(state, happening)
        before = driver.find(FLOW)
        verdict = before.verdict if before else None
        actions = fire(driver) or []
        # of the connection on FLOW; one that was refused at connect never gets there
        refused = happening is Happening.REFUSED and state is State.UNKNOWN
        mine = [
            event for event in driver.events() if refused or event.connection in (before, driver.find(FLOW))
        ]
        after = driver.state(FLOW)
        if happening is Happening.EMPTIED and expected:
            assert (after, expected.steps) == (expected.state, ())
            continue
        own = [action for action in actions if not isinstance(action, Release) or action.token != "other"]
        steps = seen(own, mine) - ({Step.BEGIN} if refused else set())
        known = driver.find(FLOW)
        if before is not None and known is None:
            steps.add(Step.FORGET)
        if expected is None:
            assert (after, steps) == (state, set())
            assert (known and known.verdict) == verdict
            continue
        assert after is expected.state
        inner = {Step.REOPEN, Step.LEARN}
        assert steps - inner == set(expected.steps) - inner
        if known is not None and not inner & set(expected.steps):
            assert known.verdict == verdict
        if known is not None and Step.REOPEN in expected.steps:
            assert known.verdict is Verdict.UNDECIDED
        if known is not None and Step.LEARN in expected.steps:
            assert known.verdict is not verdict or known.decided == 2


def test_every_pair_has_its_steps_in_order() -> None:
    order = list(Step)
    for state in State:
        for happening in Happening:
            steps = STEPS[state][happening]
            assert list(steps) == sorted(steps, key=order.index), (state.name, happening.name)
            assert steps == (CHANGES[state][happening].steps if happening in CHANGES[state] else ())


def test_every_state_is_reached_and_left() -> None:
    reached = {to.state for changes in CHANGES.values() for to in changes.values()}
    assert reached == set(State)
    assert all(any(to.state is not state for to in CHANGES[state].values()) for state in State)


def test_every_happening_and_step_is_used() -> None:
    assert {happening for changes in CHANGES.values() for happening in changes} | {
        Happening.NO_VERDICT
    } == set(Happening)
    assert {step for changes in CHANGES.values() for to in changes.values() for step in to.steps} == set(Step)


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_a_verdict_on_a_packet_that_does_not_wait_is_counted(state: State) -> None:
    driver = driver_in(state)
    assert driver.verdict(99, Verdict.PERMANENT_ACCEPT, 2) == []
    assert driver.statistics.unknown_ids == 1
    assert driver.state(FLOW) is state
