"""names/exchange.py: answers count once, and only to what was asked."""

from __future__ import annotations

import dns.flags
import dns.message
from hypothesis import given
from hypothesis import strategies as st

from hellos import cut, vector
from tidewaiter.lab.dns import answer
from tidewaiter.model.key import Protocol
from tidewaiter.names.exchange import OPEN, Exchange

TCP, UDP = Protocol.TCP, Protocol.UDP


def asked(name: str = "web.lab", number: int = 7) -> bytes:
    """A question to the lab's resolver."""
    return dns.message.make_query(name, "A", id=number, use_edns=True).to_wire()


def answered(name: str = "web.lab", number: int = 7) -> bytes:
    """What it answers."""
    wire = answer(asked(name, number))
    assert wire is not None
    return wire


def test_an_answer_counts_once_and_to_its_question() -> None:
    exchange = Exchange(UDP)
    assert exchange.answers(answered()) == []
    exchange.asks(asked())
    assert exchange.answers(answered(number=8)) == []
    assert exchange.answers(answered("tls.lab")) == []
    assert exchange.answers(asked()) == []
    (message,) = exchange.answers(answered())
    assert [record.owner for record in message.records] == ["web.lab"]
    assert exchange.answers(answered()) == []


def test_a_cut_answer_leaves_the_question_open() -> None:
    exchange = Exchange(UDP)
    exchange.asks(asked())
    cut_off = bytearray(answered())
    cut_off[2] |= dns.flags.TC >> 8
    assert [message.truncated for message in exchange.answers(bytes(cut_off))] == [True]
    assert len(exchange.answers(answered())) == 1


def test_open_questions_have_an_end() -> None:
    exchange = Exchange(UDP)
    for number in range(OPEN + 1):
        exchange.asks(asked(number=number))
    assert exchange.answers(answered(number=0)) == []
    assert len(exchange.answers(answered(number=1))) == 1


@given(st.lists(st.integers(0, 200), max_size=5), st.lists(st.integers(0, 300), max_size=5))
def test_two_questions_by_tcp(asking: list[int], answering: list[int]) -> None:
    questions = vector(2, asked()) + vector(2, asked("tls.lab", 8))
    answers = vector(2, answered("tls.lab", 8)) + vector(2, answered())
    exchange = Exchange(TCP)
    at = 0
    for piece in cut(questions, [place % len(questions) for place in asking]):
        exchange.asks(piece, at)
        at += len(piece)
    pieces, at = [], 0
    for piece in cut(answers, [place % len(answers) for place in answering]):
        pieces.append((at, piece))
        at += len(piece)
    found = [message for at, piece in reversed(pieces) for message in exchange.answers(piece, at)]
    assert [message.id for message in found] == [8, 7]


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60), st.integers(0, 60)), max_size=10))
def test_hostile_bytes_teach_nothing(steps: list[tuple[bool, bytes, int]]) -> None:
    for protocol in (TCP, UDP):
        exchange = Exchange(protocol)
        for ours, data, offset in steps:
            if ours:
                exchange.asks(data, offset)
            else:
                assert all(message.response for message in exchange.answers(data, offset))
