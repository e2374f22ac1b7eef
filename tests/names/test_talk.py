"""What is said on connections to resolvers: whole, in pieces, out of order, and by whoever likes."""

from __future__ import annotations

from ipaddress import ip_address

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hellos import cut, vector
from tidewaiter.driver.core import SECOND
from tidewaiter.lab import plan
from tidewaiter.lab.dns import answer
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.process import Process
from tidewaiter.names import talk
from tidewaiter.names.table import Asker, Table
from tidewaiter.names.talk import Talks, Text, is_to_resolver

CURL = Asker(0, "/usr/bin/curl")
WEB = ip_address(plan.WEB.v4)
ENDS = ip_address("10.77.0.1"), 4000, ip_address(plan.DNS.v4), 53


def to_resolver(protocol: int = Protocol.UDP) -> Connection:
    """Curl's."""
    return Connection(1, ConnectionKey(protocol, *ENDS), Direction.OUT, Process(7, "/usr/bin/curl"))


def lookup(name: str = "web.lab", number: int = 7) -> tuple[bytes, bytes]:
    """A question and its answer."""
    query = dns.message.make_query(name, "A", id=number).to_wire()
    wire = answer(query)
    assert wire is not None
    return query, wire


def names(table: Table) -> list[str]:
    """Those of the web server's address, for curl."""
    return [known.name for known in table.find(CURL, WEB, SECOND)]


@given(st.lists(st.integers(1, 40), max_size=5))
def test_a_datagram_may_come_in_pieces(places: list[int]) -> None:
    table, (query, wire) = Table(), lookup()
    talks, of = Talks(table), to_resolver()
    talks.heard(1, Text(of, True, query, 0, len(query)), SECOND)
    at = 0
    for piece in cut(wire, sorted(set(places))):
        assert names(table) == []
        talks.heard(1, Text(of, False, piece, at, len(wire)), SECOND)
        at += len(piece)
    assert names(table) == ["web.lab"]


def test_a_datagram_of_which_a_piece_is_lost_teaches_nothing_and_the_next_does() -> None:
    table, (query, wire) = Table(), lookup()
    talks, of = Talks(table), to_resolver()
    talks.heard(1, Text(of, True, query, 0, len(query)), SECOND)
    talks.heard(1, Text(of, False, wire[:20], 0, len(wire)), SECOND)
    talks.heard(1, Text(of, False, wire[30:], 30, len(wire)), SECOND)
    assert names(table) == []
    talks.heard(1, Text(of, False, wire[:20], 0, len(wire)), SECOND)
    talks.heard(1, Text(of, False, wire, 0, len(wire)), SECOND)
    assert names(table) == ["web.lab"]


@given(st.lists(st.integers(1, 60), max_size=5), st.integers(0, 2**32 - 1), st.randoms())
def test_a_stream_may_come_in_any_order(places: list[int], first: int, dice: object) -> None:
    table, (query, wire) = Table(), lookup()
    talks, of = Talks(table), to_resolver(Protocol.TCP)
    framed = vector(2, query)
    talks.heard(1, Text(of, True, b"", 0, 0, first, begins=True), SECOND)
    talks.heard(1, Text(of, False, b"", 0, 0, 77, begins=True), SECOND)
    talks.heard(1, Text(of, True, framed, 0, len(framed), (first + 1) % 2**32), SECOND)
    framed, at, pieces = vector(2, wire), 0, []
    for piece in cut(framed, sorted(set(places))):
        pieces.append(Text(of, False, piece, at % 7, len(framed), 78 + at - at % 7))
        at += len(piece)
    dice.shuffle(pieces)  # type: ignore[attr-defined]
    for text in pieces:
        talks.heard(1, text, SECOND)
    assert names(table) == ["web.lab"]


def test_an_answer_that_nobody_asked_for_teaches_nothing() -> None:
    table, (_, wire) = Table(), lookup()
    talks = Talks(table)
    talks.heard(1, Text(to_resolver(), False, wire, 0, len(wire)), SECOND)
    assert names(table) == []


@given(st.lists(st.builds(Text, st.just(to_resolver(Protocol.TCP)) | st.just(to_resolver()), st.booleans(),
                          st.binary(max_size=80), st.integers(0, 99), st.integers(0, 99),
                          st.integers(0, 2**32 - 1), st.booleans())))  # fmt: skip
def test_whatever_is_said_does_no_harm(texts: list[Text]) -> None:
    table = Table()
    talks = Talks(table)
    for text in texts:
        talks.heard(text.connection.protocol, text, SECOND)
    assert len(talks) <= 2


def test_only_so_many_connections_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "TALKS", 1)
    table, (query, wire) = Table(), lookup()
    talks, of = Talks(table), to_resolver()
    talks.heard(1, Text(of, True, query, 0, len(query)), SECOND)
    talks.heard(2, Text(of, True, query, 0, len(query)), SECOND)
    talks.heard(1, Text(of, False, wire, 0, len(wire)), SECOND)
    assert len(talks) == 1
    assert names(table) == []
    talks.ended(1)
    talks.ended(2)
    assert len(talks) == 0


def test_what_is_asked_of_this_host_is_not_listened_to() -> None:
    there = Connection(1, ConnectionKey(17, *ENDS), Direction.IN)
    assert is_to_resolver(to_resolver())
    assert not is_to_resolver(there)
