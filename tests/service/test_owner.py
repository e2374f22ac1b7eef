"""service/owner.py: an owner decides by its policy, with a virtual clock and infos made by hand."""

from __future__ import annotations

import socket
import time

import pytest

from tidewaiter.driver.core import SECOND, Asked, Decided, Ended
from tidewaiter.lists import FORMATS, Reader, Union
from tidewaiter.model.key import Direction
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import World
from tidewaiter.protocol.command import (
    ClearCache,
    Command,
    CommandDecoder,
    GetBandwidthStats,
    GetLogs,
    PrintMemoryStats,
    VerdictCommand,
)
from tidewaiter.protocol.info import (
    BandwidthEntry,
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    Info,
    LogLine,
    PayloadLayer,
    Severity,
    encode,
)
from tidewaiter.service.owner import COUNT_EVERY, Owner

POLICY = Policy.parse(
    """
    version = 1
    [default]
    out = "accept"
    in = "drop"
    [[rule]]
    name = "no telnet"
    port = "23/tcp"
    verdict = "block"
    [[rule]]
    name = "who?"
    port = "80/tcp"
    verdict = "ask"
    [[rule]]
    name = "curl may"
    program = "/usr/bin/curl"
    verdict = "accept"
    """
)
CURL = Process(7, "/usr/bin/curl", uid=1000)
US, THEM = b"\xc0\x00\x02\x01", b"\xc6\x33\x64\x02"


def owner(**options: int) -> Owner:
    made = Owner(
        POLICY,
        timeout=5 * SECOND,
        on_timeout=Verdict.PERMANENT_DROP,
        identify={7: CURL}.get if not options else Process,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )
    assert commands(made) == [PrintMemoryStats(), GetLogs()]
    return made


def commands(made: Owner) -> list[Command]:
    return list(CommandDecoder().feed(made.commands()))


def asked(number: int, port: int, direction: int = 0, local_port: int = 4000, protocol: int = 6) -> Info:
    ends = US, THEM, local_port, port
    if direction:
        ends = US, THEM, port, local_port
    return ConnectionInfo(number, 7, direction, protocol, *ends, PayloadLayer.NETWORK, b"packet")


def end(port: int, local_port: int = 4000) -> Info:
    return ConnectionEnd(7, 0, 6, US, THEM, local_port, port)


def carried(port: int, sent: int, received: int, local_port: int = 4000) -> Info:
    return BandwidthStats(4, 6, (BandwidthEntry(US, local_port, THEM, port, sent, received),))


LOG = LogLine(Severity.INFO, "packets: 0 of 1024 held")


def give(made: Owner, now: int, *infos: Info) -> list[Command]:
    made.receive(b"".join(map(encode, infos)), now)
    made.tick(now)
    return commands(made)


@pytest.mark.parametrize(
    ("port", "direction", "verdict", "rule"),
    [
        (443, 0, Verdict.PERMANENT_ACCEPT, "curl may"),
        (23, 0, Verdict.PERMANENT_BLOCK, "no telnet"),
        (22, 1, Verdict.PERMANENT_ACCEPT, "curl may"),
    ],
)
def test_the_policy_decides_at_once(port: int, direction: int, verdict: Verdict, rule: str) -> None:
    made = owner()
    assert give(made, 9, asked(5, port, direction)) == [VerdictCommand(5, verdict)]
    (event,) = made.events()
    assert isinstance(event, Decided)
    assert (event.first, event.held) == (True, 0)
    connection = event.connection
    assert (connection.verdict, connection.rule, connection.process) == (verdict, rule, CURL)
    assert connection.direction is Direction(direction)
    assert connection.key.local_endpoint == f"{socket.inet_ntoa(US)}:{22 if direction else 4000}"
    assert (connection.opened, connection.decided) == (9, 9)


def test_the_defaults_decide_where_no_rule_does() -> None:
    made = owner(room=10)  # programs are not known
    assert give(made, 0, asked(1, 443), asked(2, 22, 1)) == [
        VerdictCommand(1, Verdict.PERMANENT_ACCEPT),
        VerdictCommand(2, Verdict.PERMANENT_DROP),
    ]
    assert [event.connection.rule for event in made.events()] == ["default", "default"]


def test_what_is_to_be_asked_waits_and_gets_the_answer_of_the_time_out() -> None:
    made = owner()
    assert made.deadline() is None
    assert give(made, 10, asked(1, 80)) == []
    assert [type(event) for event in made.events()] == [Asked]
    assert made.deadline() == 10 + 5 * SECOND
    assert give(made, 9 + 5 * SECOND, asked(2, 80)) == []  # its SYN once more
    assert made.events() == []
    assert give(made, 10 + 5 * SECOND) == [VerdictCommand(1, Verdict.PERMANENT_DROP)]
    (event,) = made.events()
    assert isinstance(event, Decided)
    assert (event.first, event.held, event.connection.rule) == (False, 5 * SECOND, "time-out")
    assert give(made, 30 * SECOND) == [], "a permanent verdict has let the second packet go too"
    assert made.deadline() is None
    assert (made.statistics.held, made.statistics.timed_out, made.statistics.refused) == (2, 1, 1)


def test_one_that_is_asked_about_again_is_answered_and_told_once() -> None:
    made = owner()
    give(made, 0, asked(1, 443))
    assert len(made.events()) == 1
    assert give(made, 1, asked(2, 443)) == [VerdictCommand(2, Verdict.PERMANENT_ACCEPT)]
    assert made.events() == []


def test_another_policy_decides_open_connections_again() -> None:
    made = owner()
    give(made, 0, asked(1, 443))
    (before,) = made.events()
    made.load(Policy.parse('version = 1\n[default]\nout = "block"'))
    assert commands(made) == [ClearCache()]
    assert give(made, 1, asked(2, 443)) == [VerdictCommand(2, Verdict.PERMANENT_BLOCK)]
    (after,) = made.events()
    assert after.connection is before.connection
    assert (after.connection.verdict, after.connection.rule) == (Verdict.PERMANENT_BLOCK, "default")


def test_another_world_decides_open_connections_again() -> None:
    names = Policy.parse(
        "version = 1\n[list.bad]\npath = 'x'\n[[rule]]\nname = 'bad'\nlist = 'bad'\nverdict = 'block'"
    )
    made = Owner(
        names,
        timeout=SECOND,
        on_timeout=Verdict.PERMANENT_DROP,
        identify=Process,
        world=World({"bad": Union()}),
    )
    commands(made)
    assert give(made, 0, asked(1, 443)) == [VerdictCommand(1, Verdict.PERMANENT_ACCEPT)]
    reader = Reader("list", FORMATS["networks"])
    reader.feed(socket.inet_ntoa(THEM).encode())
    full = World({"bad": Union([reader.finish()])})
    made.look_into(full)
    assert commands(made) == [ClearCache()]
    assert give(made, 1, asked(2, 443)) == [VerdictCommand(2, Verdict.PERMANENT_BLOCK)]
    made.load(names)
    assert give(made, 2, asked(3, 443)) == [ClearCache(), VerdictCommand(3, Verdict.PERMANENT_ACCEPT)]
    made.load(names, full)
    assert give(made, 3, asked(4, 443))[1:] == [VerdictCommand(4, Verdict.PERMANENT_BLOCK)]


def test_an_end_is_told_with_its_totals() -> None:
    made = owner()
    give(made, 0, asked(1, 443))
    made.events()
    assert give(made, 5, end(443)) == [GetBandwidthStats(), PrintMemoryStats(), GetLogs()]
    assert made.events() == []
    assert give(made, 6, carried(443, 10, 20), LOG) == []
    (event,) = made.events()
    assert isinstance(event, Ended)
    connection = event.connection
    assert (connection.sent, connection.received, connection.ended) == (10, 20, 5)
    assert made.deadline() is None


def test_ends_are_counted_together_and_not_too_often() -> None:
    made = owner()
    give(made, 0, *(asked(number, 443, local_port=number) for number in (1, 2, 3)))
    made.events()
    assert len(give(made, 0, end(443, 1))) == 3
    assert give(made, 1, end(443, 2), end(443, 3), carried(443, 1, 1, 1), LOG) == []
    assert len(made.events()) == 1
    assert made.deadline() == 1 + COUNT_EVERY
    assert len(give(made, 1 + COUNT_EVERY)) == 3
    give(made, COUNT_EVERY + 2, carried(443, 2, 2, 2), carried(443, 3, 3, 3), LOG)
    assert [event.connection.sent for event in made.events()] == [2, 3]


def test_what_is_open_still_is_added_up() -> None:
    made = owner()
    give(made, 0, asked(1, 443), asked(2, 444))
    give(made, 0, end(444))
    give(made, 0, carried(443, 5, 5), LOG)
    give(made, SECOND, end(443))
    made.events()
    give(made, SECOND, carried(443, 1, 2), LOG)
    (event,) = made.events()
    assert (event.connection.sent, event.connection.received) == (6, 7)


def test_totals_that_come_with_those_of_others_are_not_lost() -> None:
    """The second ends when the driver has the question about the first: it tells of both, and of each once."""
    made = owner()
    give(made, 0, asked(1, 443, local_port=1), asked(2, 443, local_port=2))
    made.events()
    give(made, 5, end(443, 1))
    both = carried(443, 10, 1, 1), carried(443, 20, 2, 2)
    give(made, 6, end(443, 2), *both, LogLine(Severity.INFO, "full"))
    assert len(give(made, 6 + COUNT_EVERY)) == 3
    give(made, 7 + COUNT_EVERY, LogLine(Severity.INFO, "full"))
    ended = [event.connection for event in made.events() if isinstance(event, Ended)]
    assert [(one.key.local_port, one.sent, one.received) for one in ended] == [(1, 10, 1), (2, 20, 2)]


def test_totals_that_do_not_come_are_not_waited_for() -> None:
    made = owner()
    give(made, 0, asked(1, 443), end(443))
    made.events()
    assert made.deadline() == 2 * SECOND
    give(made, 2 * SECOND)
    (event,) = made.events()
    assert isinstance(event, Ended)


def test_the_end_of_what_was_never_asked_about_is_not_told() -> None:
    made = owner()
    assert give(made, 0, end(443), carried(443, 1, 1), LOG) == []
    assert made.events() == []


def test_one_that_ends_while_it_waits_is_not_answered() -> None:
    made = owner()
    give(made, 0, asked(1, 80))
    give(made, 1, end(80), LOG)
    assert give(made, 60 * SECOND) == []


def test_the_one_asked_about_longest_ago_gives_way() -> None:
    made = owner(room=2)
    give(made, 0, *(asked(number, 443, local_port=number) for number in (1, 2, 3)))
    assert made.statistics.connections_forgotten == 1
    made.events()
    give(made, 1, end(443, 1), end(443, 2), LOG)
    give(made, SECOND, LOG)
    assert [event.connection.key.local_port for event in made.events()] == [2]


def test_ends_that_wait_for_their_totals_are_bounded() -> None:
    made = owner(room=2)
    give(made, 0, asked(1, 443, local_port=1), end(443, 1))  # the first is being counted
    made.events()
    for number in (2, 3, 4):
        give(made, 1, asked(number, 443, local_port=number), end(443, number))
    ended = [event for event in made.events() if isinstance(event, Ended)]
    assert [event.connection.key.local_port for event in ended] == [2]


def test_a_new_stream_begins_with_nothing() -> None:
    made = owner()
    made.receive(encode(asked(1, 80))[:-3], 0)
    give(made, 0)
    made.restart()
    assert commands(made) == [PrintMemoryStats(), GetLogs()]
    assert give(made, 0, asked(1, 443)) == [VerdictCommand(1, Verdict.PERMANENT_ACCEPT)]
    assert made.deadline() is None


def test_ends_are_told_when_their_stream_has_ended() -> None:
    made = owner()
    give(made, 0, *(asked(number, 443, local_port=number) for number in (1, 2)))
    made.events()
    give(made, 1, end(443, 1))
    give(made, 1, end(443, 2))
    made.restart()
    assert [event.connection.key.local_port for event in made.events()] == [1, 2]


def test_other_protocols_have_no_ports() -> None:
    made = owner()
    icmp = ConnectionInfo(1, 7, 0, 1, US, THEM, 0, 0, PayloadLayer.NETWORK, b"ping")
    assert give(made, 0, icmp) == [VerdictCommand(1, Verdict.PERMANENT_ACCEPT)]


def test_what_is_not_for_the_log_and_what_lasts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    first = '[[rule]]\nname = "quiet"\nuntil = "1h"\nlog = false\nverdict = "block"\n'
    policy = Policy.parse(f'version = 1\n{first}[[rule]]\nname = "loud"\nverdict = "accept"\n')
    made = Owner(policy, timeout=SECOND, on_timeout=Verdict.PERMANENT_DROP, identify=Process)
    commands(made)
    assert give(made, 0, asked(1, 443, local_port=1)) == [VerdictCommand(1, Verdict.PERMANENT_BLOCK)]
    assert made.events() == []
    now[0] += 3599
    made.load(policy)
    assert give(made, 0, asked(2, 443, local_port=2))[-1] == VerdictCommand(2, Verdict.PERMANENT_BLOCK)
    now[0] += 1
    assert give(made, 0, asked(3, 443, local_port=3)) == [VerdictCommand(3, Verdict.PERMANENT_ACCEPT)]
    assert [event.connection.rule for event in made.events()] == ["loud"]
