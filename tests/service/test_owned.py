"""service/owned.py: who the owner is. What the owner does is tested with each device, on the live kernel."""

from __future__ import annotations

import errno
from ipaddress import ip_address
from typing import Any

import pytest

from tidewaiter.driver.core import Asked
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.packet import build_tcp
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy, Rule
from tidewaiter.protocol.stream import InfoDecoder
from tidewaiter.service.owned import OwnedDriver
from tidewaiter.service.settings import Settings

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
KEY = ConnectionKey(Protocol.TCP, HERE, 4000, THERE, 443)


def driver(fail: str = "closed") -> OwnedDriver:
    return OwnedDriver(Settings(fail=fail), lambda: None)


def of(pid: int) -> Connection:
    return Connection(0, KEY, Direction.OUT, Process(pid=pid))


def test_there_is_one_owner() -> None:
    owned = driver()
    owned.take(7)
    with pytest.raises(OSError, match="process 7 owns the driver already") as caught:
        owned.take(8)
    assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize(("fail", "verdict"), [("open", Verdict.ACCEPT), ("closed", Verdict.DROP)])
def test_without_an_owner_each_packet_goes_as_fail_says(fail: str, verdict: Verdict) -> None:
    assert driver(fail)._decide(of(1)) is verdict


def test_an_owner_is_asked_about_everybody_else() -> None:
    owned = driver()
    owned.take(7)
    assert owned._decide(of(8)) is None
    assert owned._decide(of(7)) is Verdict.PERMANENT_ACCEPT


def test_a_new_owner_begins_at_an_info() -> None:
    owned = driver()
    connection = of(8)
    owned.engine.driver.packet(b"f", connection, None, build_tcp(HERE, THERE, 4000, 443, 2), 1)
    owned.device.tell(Asked(connection, 1, first=True, waiting=1))
    assert owned.device.waiting
    owned.take(7)
    assert owned.device.waiting == 0


def test_the_owner_hears_of_what_is_not_for_the_log() -> None:
    """Its device has to know all connections; whoever listens besides does not."""
    heard: list[Any] = []
    quiet = Rule(name="quiet", answer=Answer.ASK, log=False)
    owned = OwnedDriver(Settings(), lambda: None, heard.append, Policy((quiet,)))
    owned.take(7)
    for number, rule in enumerate(("quiet", "default"), start=1):
        connection = of(8)
        connection.rule = rule
        owned.engine.driver.packet(b"%d" % number, connection, None, build_tcp(HERE, THERE, 4000, 443, 2), 1)
        owned.engine._tell(owned._hear, Asked(connection, number, first=True, waiting=1))
    assert [event.connection.rule for event in heard] == ["default"]
    assert len(list(InfoDecoder().feed(owned.device.read(1 << 16)))) == 2
