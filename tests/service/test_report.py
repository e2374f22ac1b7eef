"""service/report.py: the lines of each event, their fields, types and times."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from tidewaiter.driver.core import SECOND, Asked, Decided, Ended, Established, Event
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.name import By, Hidden, Name
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.connection import read_connection
from tidewaiter.service import report
from tidewaiter.service.engine import Counted
from tidewaiter.service.report import Clock, Line, Reporter, describe

BEGAN, HELD = 1_000 * SECOND, SECOND // 4
KEY = ConnectionKey(Protocol.TCP, ip_address("192.0.2.1"), 4000, ip_address("198.51.100.2"), 443)
KEY6 = ConnectionKey(Protocol.UDP, ip_address("2001:db8::1"), 53, ip_address("2001:db8::2"), 9)
CURL = Process(
    pid=4711,
    path="/usr/bin/curl",
    arguments=("curl", "-s", "https://example.org"),
    uid=1000,
    user="anna",
    cgroup="/user.slice/session-1.scope",
)
TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("event", "program", "user", "cgroup", "unit", "container", "direction", "protocol"), str
    ),
    **dict.fromkeys(("local", "remote", "interface", "name", "hidden", "verdict", "rule", "tier"), str),
    **dict.fromkeys(("id", "pid"), int),
    "time": float,
    "arguments": list,
    "aliases": list,
}
"""The fields that each line of a connection has (docs/reference/events.md)."""


def a_connection(**fields: Any) -> Connection:
    return replace(Connection(3, KEY, Direction.OUT, CURL, opened=BEGAN), **fields)


def accepted(**fields: Any) -> Connection:
    """Decided ``HELD`` nanoseconds after it began."""
    answer = {"verdict": Verdict.PERMANENT_ACCEPT, "rule": "web", "tier": Tier.PYTHON}
    return a_connection(**(answer | {"decided": BEGAN + HELD} | fields))


def lines(event: Event | Counted, *, observe: bool = False) -> list[Line]:
    return list(Reporter(observe=observe, clock=Clock(offset=0)).lines(event))


def test_what_every_line_of_a_connection_says() -> None:
    assert describe(accepted(interface="eth0")) == {
        "id": 3,
        "program": "/usr/bin/curl",
        "pid": 4711,
        "arguments": ["curl", "-s", "https://example.org"],
        "user": "anna",
        "cgroup": "/user.slice/session-1.scope",
        "unit": "session-1.scope",
        "container": "",
        "direction": "out",
        "protocol": "tcp",
        "local": "192.0.2.1:4000",
        "remote": "198.51.100.2:443",
        "interface": "eth0",
        "name": "",
        "aliases": [],
        "hidden": "",
        "verdict": "accept",
        "rule": "web",
        "tier": "python",
    }


def test_a_name_and_what_is_hidden() -> None:
    said = describe(a_connection(name=Name("front.example", By.TLS, Hidden.ECH)))
    assert (said["name"], said["hidden"]) == ("front.example", "ech")
    assert json.loads(json.dumps(said))["hidden"] == "ech"


def test_an_event_is_explained_by_its_aliases_and_its_control_group() -> None:
    """As `policy explain` reads it again."""
    name = Name("www.shop.test", By.DNS, chain=("edge.cdn.test", "last.cdn.test"))
    (line,) = lines(Asked(a_connection(name=name), 1, True, 1))
    facts = read_connection(json.dumps(line))
    assert facts.names == ("www.shop.test", "edge.cdn.test", "last.cdn.test")
    assert facts.details.cgroup == CURL.cgroup


def test_nothing_known_of_the_program() -> None:
    said = describe(a_connection(key=KEY6, direction=Direction.IN, process=UNKNOWN))
    assert (said["program"], said["pid"], said["arguments"], said["user"]) == ("", 0, [], "")
    assert (said["direction"], said["protocol"]) == ("in", "udp")
    assert (said["local"], said["remote"]) == ("[2001:db8::1]:53", "[2001:db8::2]:9")
    assert (said["verdict"], said["rule"], said["tier"]) == ("undecided", "", "")


def test_a_user_without_a_name_is_a_number() -> None:
    assert describe(a_connection(process=Process(pid=1, uid=1234)))["user"] == "1234"
    assert describe(a_connection(process=Process(pid=1, uid=0)))["user"] == "0"


@pytest.mark.parametrize(
    "event",
    [
        Asked(a_connection(), 1, True, 1),
        Decided(accepted(), HELD, True),
        Decided(accepted(), HELD, False),
        Ended(accepted(ended=BEGAN + SECOND)),
    ],
)
def test_fields_and_types(event: Event) -> None:
    found = lines(event)
    assert found
    for line in found:
        assert {name: type(value) for name, value in line.items() if name in TYPES} == TYPES
        assert json.loads(json.dumps(line)) == line


def test_a_question_is_a_beginning() -> None:
    (line,) = lines(Asked(a_connection(), 1, True, 1))
    assert (line["event"], line["verdict"], line["time"]) == ("connection", "undecided", 1000.0)
    assert line.keys() == TYPES.keys()
    assert lines(Asked(a_connection(), 2, False, 2)) == []  # a second packet of it


def test_a_question_that_was_answered_meanwhile_is_still_one() -> None:
    (line,) = lines(Asked(accepted(), 1, True, 1))
    assert line["verdict"] == "undecided"


def test_a_verdict_of_python_comes_after_its_question() -> None:
    (line,) = lines(Decided(accepted(), HELD, False))
    assert (line["event"], line["verdict"]) == ("verdict", "accept")
    assert (line["held"], line["time"]) == (0.25, 1000.25)
    assert line.keys() == TYPES.keys() | {"held"}


def test_a_verdict_of_the_kernel_is_a_beginning_too() -> None:
    connection = accepted(tier=Tier.KERNEL, decided=BEGAN)
    begin, verdict = lines(Decided(connection, 0, True))
    assert (begin["event"], begin["verdict"], begin["time"]) == ("connection", "accept", 1000.0)
    assert (verdict["event"], verdict["verdict"], verdict["time"]) == ("verdict", "accept", 1000.0)
    assert "held" not in begin


def test_an_end_has_totals() -> None:
    connection = accepted(ended=BEGAN + 5 * SECOND // 2, sent=10, received=2**40)
    (line,) = lines(Ended(connection))
    assert (line["event"], line["time"], line["duration"]) == ("end", 1002.5, 2.5)
    assert (line["sent"], line["received"], line["verdict"]) == (10, 2**40, "accept")
    assert line.keys() == TYPES.keys() | {"sent", "received", "duration"}


@pytest.mark.parametrize(("interface", "said"), [("eth0", "eth0"), ("", "any")])
def test_a_packet_socket_is_a_connection_that_nobody_decides(interface: str, said: str) -> None:
    reporter = Reporter(clock=Clock(offset=0))
    one = PacketSocket(9, CURL, interface, BEGAN)
    beginning = reporter.packet_socket(one)
    assert beginning.keys() == TYPES.keys()
    assert (beginning["event"], beginning["time"], beginning["id"]) == ("connection", 1000.0, 9)
    assert (beginning["program"], beginning["protocol"]) == ("/usr/bin/curl", "packet")
    assert (beginning["local"], beginning["remote"], beginning["verdict"]) == (said, "", "accept")
    end = reporter.packet_socket(replace(one, ended=BEGAN + 3 * SECOND, sent=5, received=6))
    assert end.keys() == TYPES.keys() | {"sent", "received", "duration"}
    assert (end["event"], end["time"], end["duration"]) == ("end", 1003.0, 3.0)
    assert (end["id"], end["sent"], end["received"]) == (9, 5, 6)


def test_no_connection_lasts_less_than_nothing() -> None:
    (line,) = lines(Ended(accepted(ended=BEGAN - 1)))
    assert line["duration"] == 0


@pytest.mark.parametrize("event", [Established(accepted()), Counted(accepted())])
def test_what_has_no_line(event: Event | Counted) -> None:
    assert lines(event) == []


@pytest.mark.parametrize(
    ("verdict", "live", "observed"),
    [
        (Verdict.UNDECIDED, "undecided", "ask"),
        (Verdict.PERMANENT_ACCEPT, "accept", "accept"),
        (Verdict.PERMANENT_BLOCK, "block", "block"),
        (Verdict.PERMANENT_DROP, "drop", "drop"),
        (Verdict.FAILED, "drop", "drop"),
    ],
)
def test_words_of_a_verdict(verdict: Verdict, live: str, observed: str) -> None:
    connection = accepted(verdict=verdict, ended=BEGAN + SECOND)
    for event in (Decided(connection, 0, True), Ended(connection)):
        assert {line["verdict"] for line in lines(event)} == {live}
        assert {line["verdict"] for line in lines(event, observe=True)} == {observed}


def test_statistics_and_notices() -> None:
    before = time.time()
    stats = Reporter().statistics({"held": 3, "released": 2})
    notice = Reporter().notice("policy.toml is in force")
    assert stats.keys() == {"event", "time", "held", "released"}
    assert (stats["event"], stats["held"], stats["released"]) == ("stats", 3, 2)
    assert notice == {"event": "notice", "time": notice["time"], "text": "policy.toml is in force"}
    for line in (stats, notice):
        assert before - 0.001 < line["time"] <= time.time() + 0.001
        assert re.fullmatch(r"\d+(\.\d{1,6})?", repr(line["time"]))


def test_the_time_of_an_event_is_that_of_the_wall() -> None:
    clock = Clock()
    before, at, after = time.time(), time.monotonic_ns(), time.time()
    assert before - 0.001 <= clock.wall(at) <= after + 0.001
    assert re.fullmatch(r"\d+(\.\d{1,6})?", repr(clock.wall(at)))


def test_the_clock_follows_when_the_machine_has_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    parted = {"ns": 500 * SECOND}
    monkeypatch.setattr(report, "_to_wall", lambda: parted["ns"])
    clock = Clock()
    assert clock.wall(SECOND) == 501
    parted["ns"] += 1000  # the noise of two clocks: what came first stays first
    assert clock.wall(SECOND) == 501
    parted["ns"] += 8 * 3600 * SECOND
    assert clock.wall(SECOND) == 501.000001 + 8 * 3600


def test_the_clock_of_a_capture_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(offset=2 * SECOND)
    monkeypatch.setattr(report, "_to_wall", lambda: 10**18)
    assert clock.wall(SECOND) == 3.0
