"""model/connection.py: what is known of a connection from its beginning."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address

import pytest

from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.process import UNKNOWN
from tidewaiter.model.verdict import Verdict

KEY = ConnectionKey(Protocol.TCP, ip_address("192.0.2.1"), 4000, ip_address("198.51.100.2"), 443)


def test_at_first_nothing_is_known_but_its_ends() -> None:
    connection = Connection(7, KEY, Direction.OUT)
    assert (connection.id, connection.key, connection.direction) == (7, KEY, Direction.OUT)
    assert connection.process is UNKNOWN
    assert connection.verdict is Verdict.UNDECIDED
    assert (connection.rule, connection.tier) == ("", None)
    times = (connection.opened, connection.established, connection.ended)
    assert (*times, connection.sent, connection.received) == (0, 0, 0, 0, 0)


def test_it_changes_but_gets_no_new_fields() -> None:
    connection = Connection(1, KEY, Direction.IN)
    connection.verdict, connection.tier = Verdict.PERMANENT_BLOCK, Tier.PYTHON
    assert connection.verdict.word == "block"
    with pytest.raises(AttributeError):
        connection.reason = "none"  # type: ignore[attr-defined]


def test_its_fields_come_in_the_order_in_which_the_kernels_record_is_read() -> None:
    names = [field.name for field in fields(Connection)]
    assert names[:7] == ["id", "key", "direction", "process", "verdict", "rule", "tier"]
    assert names[7:13] == ["cookie", "opened", "established", "ended", "sent", "received"]


def test_tiers_are_the_words_of_the_events() -> None:
    assert [tier.value for tier in Tier] == ["cache", "kernel", "python"]
    assert f"{Tier.KERNEL}" == "kernel"
