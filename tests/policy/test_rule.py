"""The words of the policy file, and what a rule is held against."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.name import Name
from tidewaiter.model.process import Process
from tidewaiter.policy.rule import (
    Facts,
    PortSpan,
)

KEY = ConnectionKey(Protocol.TCP, ip_address("10.0.0.1"), 40000, ip_address("192.0.2.1"), 443)


def test_a_port_without_protocol_means_those_that_have_ports() -> None:
    assert PortSpan(53, 53).protocols == (6, 17, 132)
    assert PortSpan(53, 53, 17).protocols == (17,)


@pytest.mark.parametrize("span", [(-1, 5, None), (5, 4, None), (0, 65536, None), (0, 1, 256), (0, 1, -1)])
def test_impossible_spans_are_refused(span: tuple[int, int, int | None]) -> None:
    with pytest.raises(ValueError, match="is not a"):
        PortSpan(*span)


def test_names_come_with_what_they_are_aliases_of() -> None:
    connection = Connection(1, KEY, Direction.OUT)
    assert Facts.of(connection).names == ()
    connection.name = Name("www.example", chain=("cdn.example", "www.example"))
    assert Facts.of(connection).names == ("www.example", "cdn.example")


def test_facts_come_from_a_connection() -> None:
    connection = Connection(1, KEY, Direction.OUT, Process(7, path="/usr/bin/curl", uid=1000))
    facts = Facts.of(connection)
    assert (
        facts[:8]
        == Facts(
            "/usr/bin/curl", 1000, Direction.OUT, 6, KEY.local, KEY.local_port, KEY.remote, KEY.remote_port
        )[:8]
    )


@pytest.mark.parametrize(
    ("direction", "port"), [(Direction.OUT, 443), (Direction.IN, 40000), (Direction.FORWARD, 443)]
)
def test_the_port_that_counts(direction: Direction, port: int) -> None:
    assert Facts.of(Connection(1, KEY, direction)).port == port
