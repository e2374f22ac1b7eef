"""driver/core.py, method by method. What they do together is in test_core_stateful.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tidewaiter.driver import connections as cache
from tidewaiter.driver.connections import KEEP_ENDED, KEEP_IDLE
from tidewaiter.driver.core import (
    SECOND,
    Action,
    Asked,
    Decided,
    Driver,
    Ended,
    Established,
    Release,
    Remember,
    Renew,
)
from tidewaiter.driver.states import State
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.verdict import Verdict

FLOW, OTHER = b"flow", b"other"
KEY = ConnectionKey(Protocol.TCP, ip_address("192.0.2.1"), 4000, ip_address("192.0.2.2"), 443)
PERMANENT = [verdict for verdict in Verdict if verdict.permanent]
TEMPORARY = [verdict for verdict in Verdict if verdict.decided and not verdict.permanent]


def connection(cookie: int = 0, verdict: Verdict = Verdict.UNDECIDED, epoch: int = 1) -> Connection:
    """A connection as the kernel tells of it."""
    return Connection(id=0, key=KEY, direction=Direction.OUT, cookie=cookie, verdict=verdict, epoch=epoch)


def hold(driver: Driver, flow: bytes, token: str, now: int = 1, epoch: int = 1) -> list[Action]:
    """A packet of a connection is held; its payload is its token."""
    return driver.packet(flow, connection(epoch=epoch), token, token.encode(), now)


def asked(driver: Driver) -> list[int]:
    """The ids of the packets that wait for an answer, since the last call; nothing else has happened."""
    events = driver.events()
    assert all(isinstance(event, Asked) for event in events)
    return [event.packet for event in events if isinstance(event, Asked)]


def released(actions: Sequence[Action]) -> list[tuple[object, bool, bytes | None]]:
    """The releases among actions, as plain tuples."""
    return [(one.token, one.passes, one.reject) for one in actions if isinstance(one, Release)]


# --- a packet is held ---------------------------------------------------------------------------------


def test_a_first_packet_is_asked_about() -> None:
    driver, new = Driver(), connection()
    assert driver.packet(FLOW, new, "t1", b"syn", 7) == []
    assert driver.events() == [Asked(new, 1, first=True, waiting=1)]
    assert driver.events() == []
    assert (new.id, new.opened, new.verdict) == (1, 7, Verdict.UNDECIDED)
    assert driver.find(FLOW) is new
    assert driver.flows() == [(FLOW, new)]
    assert driver.statistics.held == 1


def test_what_the_kernel_knows_of_the_beginning_stays() -> None:
    driver, new = Driver(), connection()
    new.opened = 3
    driver.packet(FLOW, new, "t1", b"", 7)
    assert new.opened == 3


def test_a_second_packet_belongs_to_the_same_connection() -> None:
    """portmaster-kext §2.2.3."""
    driver, new = Driver(), connection(cookie=5)
    driver.packet(FLOW, new, "t1", b"", 1)
    driver.packet(FLOW, connection(cookie=5), "t2", b"", 2)
    assert driver.events() == [
        Asked(new, 1, first=True, waiting=1),
        Asked(new, 2, first=False, waiting=2),
    ]
    assert driver.flows() == [(FLOW, new)]


def test_an_answer_that_was_on_the_way_releases_at_once() -> None:
    """portmaster-kext §2.5."""
    driver = Driver()
    hold(driver, FLOW, "t1")
    driver.verdict(1, Verdict.PERMANENT_BLOCK, 2)
    driver.events()
    known = driver.find(FLOW)
    assert known is not None
    actions = driver.packet(FLOW, known, "t2", b"again", 3)
    assert actions == [
        Remember(FLOW, known, Verdict.PERMANENT_BLOCK),
        Release("t2", passes=False, reject=b"again"),
    ]
    assert driver.events() == []
    assert len(driver.packets) == 0
    assert (driver.statistics.held, driver.statistics.refused) == (2, 2)


def test_the_kernel_asks_again_when_the_policy_has_changed() -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    driver.verdict(1, Verdict.PERMANENT_ACCEPT, 2)
    driver.events()
    known = driver.find(FLOW)
    assert known is not None
    assert hold(driver, FLOW, "t2", now=3, epoch=2) == []
    assert driver.events() == [Asked(known, 2, first=False, waiting=1)]
    assert (known.verdict, known.epoch) == (Verdict.UNDECIDED, 2)
    driver.verdict(2, Verdict.PERMANENT_DROP, 4)
    assert released(hold(driver, FLOW, "t3", now=5, epoch=2)) == [("t3", False, None)]


def test_the_kernel_does_not_know_yet_or_has_forgotten() -> None:
    """Whenever it asks: under one policy nobody is asked twice about what was decided for good."""
    driver = Driver()
    hold(driver, FLOW, "t1")
    driver.verdict(1, Verdict.PERMANENT_ACCEPT, 2)
    driver.events()
    actions = hold(driver, FLOW, "t2", now=3)
    known = driver.find(FLOW)
    assert known is not None
    assert actions == [
        Remember(FLOW, known, Verdict.PERMANENT_ACCEPT),
        Release("t2", passes=True, reject=None),
    ]
    assert driver.events() == []


def test_a_verdict_of_an_earlier_run_is_no_answer() -> None:
    driver = Driver()
    old = connection(verdict=Verdict.PERMANENT_ACCEPT)
    assert driver.packet(FLOW, old, "t1", b"", 1) == []
    assert old.verdict is Verdict.UNDECIDED
    assert driver.packet(FLOW, old, "t2", b"", 1) == []
    assert len(driver.packets) == 2


def test_a_flow_that_is_used_again_is_another_connection() -> None:
    driver, first, second = Driver(), connection(cookie=1), connection(cookie=2)
    driver.packet(FLOW, first, "t1", b"", 1)
    actions = driver.packet(FLOW, second, "t2", b"", 5)
    assert actions == [Release("t1", passes=False, reject=None)], "it must not get the other's answer"
    assert driver.events() == [
        Asked(first, 1, first=True, waiting=1),
        Ended(first),
        Asked(second, 2, first=True, waiting=1),
    ]
    assert (first.ended, driver.statistics.abandoned) == (5, 1)
    assert driver.flows() == [(FLOW, second)]
    driver.tick(5 + KEEP_ENDED)
    assert driver.find(FLOW) is second, "forgetting the first leaves the second"


def test_after_its_end_a_flow_begins_anew() -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    driver.ended(FLOW, 0, 0, 2)
    hold(driver, FLOW, "t2", now=3)
    found = driver.find(FLOW)
    assert found is not None
    assert (found.id, found.opened, found.ended) == (2, 3, 0)


def test_the_oldest_packet_gives_way() -> None:
    """§2.5: the ring of the old C driver."""
    driver = Driver(packets=2)
    assert hold(driver, FLOW, "t1") == []
    assert hold(driver, OTHER, "t2") == []
    assert hold(driver, FLOW, "t3") == [Release("t1", passes=False, reject=None)]
    assert driver.statistics.gave_way == 1
    assert driver.verdict(1, Verdict.PERMANENT_ACCEPT, 2) == []
    assert driver.statistics.unknown_ids == 1
    assert released(driver.verdict(3, Verdict.PERMANENT_ACCEPT, 2)) == [("t3", True, None)]


def test_the_connection_that_came_first_is_forgotten_with_its_packets() -> None:
    driver = Driver(connections=2)
    hold(driver, FLOW, "t1")
    hold(driver, OTHER, "t2")
    assert hold(driver, b"third", "t3") == [Release("t1", passes=False, reject=None)]
    assert driver.find(FLOW) is None
    assert [flow for flow, _ in driver.flows()] == [OTHER, b"third"]
    assert (driver.statistics.connections_forgotten, driver.statistics.abandoned) == (1, 1)


# --- the kernel decides -------------------------------------------------------------------------------


def test_what_the_kernel_decided_is_told_once() -> None:
    driver, new = Driver(), connection(verdict=Verdict.PERMANENT_ACCEPT)
    assert driver.decided(FLOW, new, 4) == []
    assert driver.events() == [Decided(new, 0, first=True)]
    assert (new.id, new.opened) == (1, 4)
    assert driver.find(FLOW) is new


def test_what_was_met_and_is_told_by_the_kernel_too_is_told_once() -> None:
    """The host meets what is open when it starts; the kernel's word on the newest of that is still on its way."""
    driver = Driver()
    met, told = (connection(verdict=Verdict.PERMANENT_ACCEPT) for _ in range(2))
    driver.decided(FLOW, met, 4)
    driver.decided(FLOW, told, 5)
    assert driver.events() == [Decided(met, 0, first=True)]
    driver.decided(FLOW, connection(verdict=Verdict.PERMANENT_DROP), 6)
    assert driver.events() == [Decided(met, 0, first=False)]


def test_what_the_host_decided_on_sight_has_waited() -> None:
    driver, new = Driver(), connection(verdict=Verdict.PERMANENT_ACCEPT)
    driver.decided(FLOW, new, 4, held=3)
    assert driver.events() == [Decided(new, 3, first=True)]


def test_a_connection_refused_at_connect_is_over_at_once() -> None:
    driver, new = Driver(), connection(verdict=Verdict.PERMANENT_BLOCK)
    assert driver.decided(b"", new, 4) == []
    assert driver.events() == [Decided(new, 0, first=True), Ended(new)]
    assert (new.id, new.opened, new.ended) == (1, 4, 4)
    assert driver.find(b"") is None
    assert driver.deadline() is None


def test_each_packet_keeps_the_interface_that_it_goes_or_comes_by() -> None:
    driver, new = Driver(), connection(cookie=9)
    for number, interface in enumerate(("tun0", "eth0"), 1):
        new.interface = interface
        driver.packet(FLOW, new, f"t{number}", b"", 1)
    found = [driver.packets.get(number) for number in (1, 2)]
    assert [held.interface for held in found if held] == ["tun0", "eth0"]


def test_the_kernel_decides_a_known_connection_by_a_new_policy() -> None:
    driver, new = Driver(), connection(cookie=9)
    driver.packet(FLOW, new, "t1", b"one", 1)
    driver.packet(FLOW, new, "t2", b"two", 1)
    driver.events()
    by_kernel = connection(cookie=9, verdict=Verdict.PERMANENT_BLOCK)
    by_kernel.rule, by_kernel.tier = "no mail", Tier.KERNEL
    actions = driver.decided(FLOW, by_kernel, 2)
    assert released(actions) == [("t1", False, b"one"), ("t2", False, b"two")]
    assert len(actions) == 2, "the kernel has decided: there is nothing for it to remember"
    assert driver.events() == [Decided(new, 0, first=False)]
    assert (new.id, new.verdict, new.rule, new.tier) == (1, Verdict.PERMANENT_BLOCK, "no mail", Tier.KERNEL)


def test_what_the_kernel_leaves_open_goes_on_waiting() -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    assert driver.decided(FLOW, connection(), 2) == []
    assert len(driver.packets) == 1


def test_the_kernel_decides_another_connection_on_the_same_flow() -> None:
    driver, first = Driver(), connection(cookie=1)
    second = connection(cookie=2, verdict=Verdict.PERMANENT_ACCEPT)
    driver.packet(FLOW, first, "t1", b"", 1)
    assert driver.decided(FLOW, second, 2) == [Release("t1", passes=False, reject=None)]
    assert driver.events() == [
        Asked(first, 1, first=True, waiting=1),
        Ended(first),
        Decided(second, 0, first=True),
    ]
    assert driver.tick(2 + driver.timeout) == [], "no time-out of the first overrules the second"
    assert second.verdict is Verdict.PERMANENT_ACCEPT


# --- established, counted, ended ----------------------------------------------------------------------


def test_established_is_told_once() -> None:
    driver = Driver()
    driver.established(FLOW, 1)
    hold(driver, FLOW, "t1")
    driver.events()
    driver.established(FLOW, 5)
    driver.established(FLOW, 6)
    known = driver.find(FLOW)
    assert known is not None
    assert driver.events() == [Established(known)]
    assert known.established == 5


def test_counted_says_what_has_moved() -> None:
    driver = Driver()
    assert driver.counted(FLOW, 1, 2) is None
    hold(driver, FLOW, "t1")
    assert driver.counted(FLOW, 0, 0) is None
    moved = driver.counted(FLOW, 10, 20)
    assert moved is driver.find(FLOW)
    assert moved is not None
    assert (moved.sent, moved.received) == (10, 20)
    assert driver.counted(FLOW, 10, 20) is None
    assert driver.counted(FLOW, 0, 0) is None, "its entry is gone: nothing has been taken back"
    assert (moved.sent, moved.received) == (10, 20)
    driver.ended(FLOW, 10, 20, 2)
    assert driver.counted(FLOW, 11, 20) is None


def test_the_end_has_totals_and_abandons_what_is_held() -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    hold(driver, FLOW, "t2")
    hold(driver, OTHER, "t3")
    driver.events()
    known = driver.find(FLOW)
    assert known is not None
    assert released(driver.ended(FLOW, 100, 200, 9)) == [("t1", False, None), ("t2", False, None)]
    assert driver.events() == [Ended(known)]
    assert (known.sent, known.received, known.ended) == (100, 200, 9)
    assert driver.statistics.abandoned == 2
    assert [flow for flow, _ in driver.flows()] == [OTHER]


def test_an_end_counts_once_and_only_for_the_known() -> None:
    driver = Driver()
    assert driver.ended(FLOW, 1, 1, 1) == []
    hold(driver, FLOW, "t1")
    driver.ended(FLOW, 1, 1, 2)
    driver.events()
    assert driver.ended(FLOW, 5, 5, 3) == []
    driver.established(FLOW, 3)
    assert driver.events() == []


def test_an_end_without_totals_keeps_what_was_counted() -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    known = driver.counted(FLOW, 10, 20)
    driver.ended(FLOW, 0, 25, 2)
    assert known is not None
    assert (known.sent, known.received) == (10, 25)


def test_the_ended_stay_known_for_a_minute() -> None:
    """portmaster-kext §2.5."""
    driver = Driver()
    hold(driver, FLOW, "t1")
    driver.ended(FLOW, 0, 0, 5)
    assert driver.deadline() == 5 + KEEP_ENDED == 5 + 60 * SECOND
    driver.tick(5 + KEEP_ENDED - 1)
    assert driver.find(FLOW) is not None
    driver.tick(5 + KEEP_ENDED)
    assert driver.find(FLOW) is None
    assert driver.deadline() is None


@pytest.mark.parametrize("clean", [Driver.tick, Driver.clean_ended], ids=["in time", "when told to"])
def test_what_has_no_socket_ends_when_it_was_idle_for_ten_minutes(
    clean: Callable[[Driver, int], object],
) -> None:
    """§2.5: CleanEndedConnections: never while its socket lives."""
    driver = Driver(timeout=3 * KEEP_IDLE)
    driver.decided(FLOW, connection(cookie=0, verdict=Verdict.PERMANENT_BLOCK), 1)
    driver.decided(OTHER, connection(cookie=7, verdict=Verdict.PERMANENT_ACCEPT), 1)
    driver.packet(b"third", connection(cookie=0), "t", b"", 1)
    driver.events()
    assert driver.deadline() == 1 + KEEP_IDLE
    clean(driver, KEEP_IDLE)
    assert driver.events() == []
    clean(driver, 1 + KEEP_IDLE)
    known = driver.find(FLOW)
    assert known is not None
    assert driver.events() == [Ended(known)]
    assert [flow for flow, _ in driver.flows()] == [OTHER, b"third"], "it has a socket; its packet waits"
    clean(driver, 1 + KEEP_IDLE + KEEP_ENDED)
    assert driver.find(FLOW) is None
    clean(driver, 2 * KEEP_IDLE)
    assert driver.find(OTHER) is not None


def test_a_packet_shows_that_a_connection_is_not_idle() -> None:
    driver = Driver()
    driver.decided(FLOW, connection(verdict=Verdict.PERMANENT_ACCEPT), 1)
    hold(driver, FLOW, "t1", now=500)
    driver.clean_ended(KEEP_IDLE + 499)
    assert driver.flows() != []
    driver.clean_ended(KEEP_IDLE + 500)
    assert driver.flows() == []


def test_of_too_many_ended_the_oldest_go_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ENDED_CAPACITY", 2)
    driver = Driver()
    flows = [b"a", b"b", b"c"]
    for flow in flows:
        hold(driver, flow, "t")
        driver.ended(flow, 0, 0, 5)
    assert [flow for flow in flows if driver.find(flow)] == [b"b", b"c"]


# --- verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", PERMANENT)
def test_a_permanent_verdict_holds_for_the_connection(verdict: Verdict) -> None:
    """§2.6, with its fix: what else is held for the connection goes too, in order."""
    driver = Driver()
    hold(driver, FLOW, "t1", now=1)
    hold(driver, OTHER, "t2", now=2)
    hold(driver, FLOW, "t3", now=3)
    driver.events()
    known = driver.find(FLOW)
    assert known is not None
    first, *rest = driver.verdict(3, verdict, 11, rule="a rule", tier=Tier.KERNEL)
    assert first == Remember(FLOW, known, verdict)
    reject = verdict in (Verdict.PERMANENT_BLOCK, Verdict.UNDETERMINABLE, Verdict.FAILED)  # it goes out
    assert released(rest) == [
        ("t1", verdict.passes, b"t1" if reject else None),
        ("t3", verdict.passes, b"t3" if reject else None),
    ]
    assert driver.events() == [Decided(known, 10, first=False)]
    assert (known.verdict, known.rule, known.tier) == (verdict, "a rule", Tier.KERNEL)
    assert driver.packets.oldest() == driver.packets.get(2)


@pytest.mark.parametrize("verdict", TEMPORARY)
def test_another_verdict_holds_for_one_packet(verdict: Verdict) -> None:
    """portmaster-kext sections 1.3 and 2.3: the next packet asks again."""
    driver = Driver()
    hold(driver, FLOW, "t1")
    hold(driver, FLOW, "t2")
    driver.events()
    known = driver.find(FLOW)
    assert known is not None
    assert driver.verdict(2, verdict, 3) == [
        Remember(FLOW, known, verdict),
        Release("t2", passes=verdict is Verdict.ACCEPT, reject=b"t2" if verdict is Verdict.BLOCK else None),
    ]
    assert driver.events() == []
    assert known.verdict is Verdict.UNDECIDED
    assert driver.packets.get(1) is not None


@pytest.mark.parametrize("verdict", [Verdict.UNDETERMINABLE, Verdict.FAILED])
def test_undeterminable_and_failed_are_kept_and_drop(verdict: Verdict) -> None:
    """portmaster-kext section 2.2, ALE: what goes out is blocked; section 2.3, packet layer: what comes in is dropped.

    Section 2.6: the cached verdict becomes this one, and so the next packet is not asked about.
    """
    driver = Driver()
    for flow, direction in ((FLOW, Direction.OUT), (OTHER, Direction.IN)):
        reject = flow if direction is Direction.OUT else None
        for token in ("t1", "t2"):
            driver.packet(flow, replace(connection(), direction=direction), token, flow, 1)
            driver.verdict(driver.packets.newest, Verdict.ACCEPT if token == "t1" else verdict, 2)
        assert driver.state(flow) is State.DECIDED
        driver.events()
        remember, release = driver.packet(flow, connection(), "t3", flow, 3)
        assert isinstance(remember, Remember)
        assert remember.verdict is verdict
        assert release == Release("t3", passes=False, reject=reject)
        assert driver.events() == []


def test_undecided_is_no_answer() -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    assert driver.verdict(1, Verdict.UNDECIDED, 2) == []
    assert driver.packets.get(1) is not None
    assert driver.statistics.unknown_ids == 0


def an_echo() -> Connection:
    """Of a protocol that has no connections."""
    return replace(connection(), key=KEY._replace(protocol=Protocol.ICMP, local_port=0, remote_port=0))


def test_other_protocols_are_decided_packet_by_packet() -> None:
    """portmaster-kext section 2.3, number 7: never cached; every packet is held and asked about."""
    driver = Driver()
    decided = []
    for number, verdict in enumerate(
        (Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_BLOCK), 1
    ):
        assert driver.packet(FLOW, an_echo(), f"t{number}", b"echo", 1) == []
        assert driver.packet(FLOW, an_echo(), "behind", b"echo", 1) == []
        driver.events()
        remember, release = driver.verdict(driver.packets.ids()[-2], verdict, 2, rule="r")
        assert isinstance(remember, Remember)
        assert release == Release(
            f"t{number}", passes=verdict.passes, reject=None if verdict.passes else b"echo"
        )
        decided.append(len(driver.events()))
        assert driver.state(FLOW) is State.ASKED
    assert decided == [1, 0, 1], "told when it fares otherwise than the last"
    assert driver.update(FLOW, Verdict.PERMANENT_ACCEPT, 3) != []
    assert len(driver.packets) == 3, "an update is for connections"


@pytest.mark.parametrize("number", [0, 2, -1, 2**64 - 1])
def test_an_unknown_id_changes_nothing(number: int) -> None:
    """portmaster-kext section 2.6."""
    driver = Driver()
    hold(driver, FLOW, "t1")
    driver.events()
    assert driver.verdict(number, Verdict.PERMANENT_ACCEPT, 2) == []
    assert driver.statistics.unknown_ids == 1
    assert driver.packets.get(1) is not None
    assert driver.events() == []


def test_without_a_rule_the_one_that_said_to_ask_is_named() -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    known = driver.find(FLOW)
    assert known is not None
    known.rule = "ask about curl"
    driver.verdict(1, Verdict.PERMANENT_ACCEPT, 2)
    assert (known.rule, known.tier) == ("ask about curl", Tier.PYTHON)


def test_answers_are_counted_by_what_they_did() -> None:
    driver = Driver()
    for token in ("t1", "t2", "t3"):
        hold(driver, token.encode(), token)
    driver.verdict(1, Verdict.ACCEPT, 2)
    driver.verdict(2, Verdict.REDIRECT_TUNNEL, 2)
    driver.verdict(3, Verdict.DROP, 2)
    assert (driver.statistics.released, driver.statistics.refused) == (2, 1)


# --- time and the end ---------------------------------------------------------------------------------


def test_a_packet_waits_as_long_as_it_may() -> None:
    driver = Driver(timeout=10, timeout_verdict=Verdict.PERMANENT_ACCEPT)
    hold(driver, FLOW, "t1", now=1)
    hold(driver, OTHER, "t2", now=2)
    hold(driver, FLOW, "t3", now=3)
    assert driver.deadline() == 11
    assert driver.tick(10) == []
    driver.events()
    known = driver.find(FLOW)
    assert known is not None
    assert driver.tick(11) == [
        Remember(FLOW, known, Verdict.PERMANENT_ACCEPT),
        Release("t1", passes=True, reject=None),
        Release("t3", passes=True, reject=None),
    ]
    assert driver.events() == [Decided(known, 10, first=False)]
    assert (known.rule, driver.statistics.timed_out) == ("time-out", 1)
    assert driver.deadline() == 12


def test_a_temporary_verdict_may_be_that_of_the_time_out() -> None:
    driver = Driver(timeout=10, timeout_verdict=Verdict.BLOCK)
    hold(driver, FLOW, "t1", now=1)
    hold(driver, FLOW, "t2", now=5)
    assert released(driver.tick(14)) == [("t1", False, b"t1")]
    assert released(driver.tick(15)) == [("t2", False, b"t2")]
    assert driver.statistics.timed_out == 2


def test_the_deadline_is_whatever_comes_first() -> None:
    driver = Driver(timeout=10)
    assert driver.deadline() is None
    hold(driver, OTHER, "t1", now=1)
    driver.ended(OTHER, 0, 0, 2)
    hold(driver, FLOW, "t2", now=3)
    assert driver.deadline() == 13
    driver.tick(13)
    assert driver.deadline() == 2 + KEEP_ENDED


def test_the_rundown_leaves_nothing_waiting() -> None:
    """portmaster-kext §2."""
    driver = Driver()
    hold(driver, FLOW, "t1")
    hold(driver, OTHER, "t2")
    hold(driver, FLOW, "t3")
    actions = driver.rundown(Verdict.PERMANENT_DROP, 9)
    assert released(actions) == [("t1", False, None), ("t3", False, None), ("t2", False, None)]
    assert len(driver.packets) == 0
    assert {connection.rule for _, connection in driver.flows()} == {"shutdown"}
    assert driver.rundown(Verdict.PERMANENT_DROP, 10) == []


def test_events_that_nobody_reads_are_counted() -> None:
    driver = Driver(events=2)
    for number in range(5):
        hold(driver, bytes([number]), "t")
    assert asked(driver) == [1, 2]
    assert driver.statistics.events_dropped == 3
    hold(driver, FLOW, "t")
    assert asked(driver) == [6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_verdict": Verdict.UNDECIDED}, "must decide"),
        ({"connections": 0}, "at least one connection"),
        ({"packets": 0}, "at least one packet"),
    ],
)
def test_a_driver_that_cannot_work_is_not_made(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Driver(**options)  # type: ignore[arg-type]


# --- updates ----------------------------------------------------------------------------------------


def decided_driver() -> Driver:
    """One connection, decided and told of."""
    driver = Driver()
    hold(driver, FLOW, "t")
    driver.verdict(1, Verdict.PERMANENT_ACCEPT, 5)
    driver.events()
    return driver


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict.decided])
def test_an_update_of_a_decided_connection_is_written_anew(verdict: Verdict) -> None:
    driver = decided_driver()
    (renew,) = driver.update(FLOW, verdict, 9)
    known = driver.find(FLOW)
    assert known is not None
    assert renew == Renew(FLOW, known, verdict)
    assert driver.events() == ([Decided(known, 0, first=False)] if verdict.permanent else [])
    assert known.verdict is (verdict if verdict.permanent else Verdict.UNDECIDED)


def test_an_update_may_forget_a_verdict() -> None:
    driver = decided_driver()
    (renew,) = driver.update(FLOW, Verdict.UNDECIDED, 9)
    assert isinstance(renew, Renew)
    assert driver.events() == []
    driver.packet(FLOW, connection(), "t2", b"t2", 10)
    assert asked(driver) == [2]


@pytest.mark.parametrize("verdict", PERMANENT)
def test_an_update_answers_what_is_held(verdict: Verdict) -> None:
    driver = Driver()
    hold(driver, FLOW, "t1")
    hold(driver, FLOW, "t2")
    remember, *releases = driver.update(FLOW, verdict, 9)
    assert isinstance(remember, Remember)
    assert [token for token, _, _ in released(releases)] == ["t1", "t2"]


def test_an_update_of_what_is_not_known_changes_nothing() -> None:
    driver = decided_driver()
    assert driver.update(OTHER, Verdict.PERMANENT_DROP, 9) == []
    driver.ended(FLOW, 0, 0, 9)
    assert driver.update(FLOW, Verdict.PERMANENT_DROP, 10) == []


def test_the_payload_of_a_held_packet_can_be_read() -> None:
    """portmaster-kext section 2.5: GetPayload, until it is decided."""
    driver = Driver(packets=1)
    hold(driver, FLOW, "abc")
    assert driver.payload(1) == driver.payload(1) == b"abc"
    hold(driver, OTHER, "def")
    assert (driver.payload(1), driver.payload(2)) == (None, b"def"), "the first one gave way"
    driver.verdict(2, Verdict.ACCEPT, 2)
    assert driver.payload(2) is None
    assert driver.payload(0) is None


def test_memory_is_described() -> None:
    driver = decided_driver()
    hold(driver, OTHER, "abc")
    driver.ended(FLOW, 0, 0, 9)
    assert driver.describe_memory() == [
        "packets: 1 of 1024 held, 3 bytes, 1 at the most",
        "connections: 1 open and 1 ended of 65536",
        "events: 2 of 65536",
    ]
