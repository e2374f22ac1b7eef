"""names/first.py: one reader for whatever comes first, with an end to bytes and to time."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hellos import MANY, V1, V2, of_aioquic, of_ssl
from strategies import FUZZ
from tidewaiter.model.key import Protocol
from tidewaiter.model.name import NO_NAME, By, Hidden
from tidewaiter.names.first import BYTES, TIME, First
from tidewaiter.names.pieces import LIMIT

TCP, UDP = Protocol.TCP, Protocol.UDP
HTTP = b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n"


def stream(*pieces: bytes) -> First:
    """A connection whose stream comes in pieces, in order."""
    first, offset = First(TCP), 0
    for piece in pieces:
        first.feed(piece, 1, offset)
        offset += len(piece)
    return first


def called(first: First) -> tuple[str, By | None]:
    """The name, and who said it."""
    assert first.name is not None
    return first.name.name, first.name.by


def test_tls_http_and_quic() -> None:
    assert called(stream(of_ssl("tls.example"))) == ("tls.example", By.TLS)
    assert called(stream(HTTP)) == ("web.example", By.HTTP)
    for version in (V1, V2):
        first = First(UDP)
        first.feed(of_aioquic("quic.example", version=version)[0], 1)
        assert called(first) == ("quic.example", By.QUIC)


def test_segments_in_any_order_and_twice() -> None:
    hello = of_ssl("tls.example", MANY)
    first = First(TCP)
    for offset in (2000, 1000, 1000, 3000, 0):
        assert first.name is None
        first.feed(hello[offset : offset + (1000 if offset < 3000 else len(hello))], 1, offset)
    assert called(first) == ("tls.example", By.TLS)


def test_quic_over_several_datagrams() -> None:
    first = First(UDP)
    *some, last = of_aioquic("quic.example", MANY)
    assert [first.feed(datagram, 1) for datagram in some] == [None] * len(some)
    first.feed(last, 1)
    assert called(first) == ("quic.example", By.QUIC)


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n", b"\0", b"EHLO mail.example\r\n", b"\x16\x02", b"\x17\x03\x03\0\5early"]
)
def test_a_stream_without_a_name(data: bytes) -> None:
    assert stream(data).name == NO_NAME


@pytest.mark.parametrize("data", [b"x", b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\0\0\1\0\1", bytes(1200)])
def test_datagrams_without_a_name(data: bytes) -> None:
    assert First(UDP).feed(data, 1) == NO_NAME


def test_other_protocols_have_no_name() -> None:
    assert First(Protocol.ICMP).name == NO_NAME
    assert First(Protocol.SCTP).feed(b"x", 1) == NO_NAME


def test_contradicting_segments_are_unreadable() -> None:
    first = stream(HTTP[:30])
    name = first.feed(b"X", 1, 3)
    assert name is not None
    assert name.hidden is Hidden.UNREADABLE
    assert "different bytes" in name.why


def test_a_name_stays() -> None:
    first = stream(HTTP)
    assert called(first) == ("web.example", By.HTTP)
    assert first.feed(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n", 1, len(HTTP)) == first.name
    assert first.late(10 * TIME) == first.name
    assert called(first) == ("web.example", By.HTTP)


def test_the_waiting_has_an_end() -> None:
    first = First(TCP)
    assert first.late(10 * TIME) is None  # nothing has come: nothing is waited for
    assert first.deadline is None
    first.feed(HTTP[:5], 100 + 10 * TIME)
    assert first.deadline == 100 + 11 * TIME
    assert first.late(first.deadline - 1) is None
    name = first.late(first.deadline)
    assert name is not None
    assert (name.hidden, first.deadline) == (Hidden.UNREADABLE, None)
    assert first.feed(HTTP[5:], 100 + 11 * TIME, 5) == name


def test_what_comes_late_does_not_count() -> None:
    first = stream(HTTP[:5])
    name = first.feed(HTTP[5:], 1 + TIME, 5)
    assert name is not None
    assert name.hidden is Hidden.UNREADABLE


def test_bytes_have_an_end() -> None:
    first = First(TCP)
    for _ in range(BYTES // 1000):
        assert first.feed(b"G" * 20 + b"x" * 980, 1, 5) is None  # never the beginning
    name = first.feed(b"G" * 20 + b"x" * 980, 1, 5)
    assert name is not None
    assert name.hidden is Hidden.UNREADABLE
    endless = stream(b"\x16\x03\x01" + struct.pack("!H", 16384) + b"\x01\0\x5f\0" + bytes(LIMIT))
    assert endless.name is not None
    assert endless.name.hidden is Hidden.UNREADABLE


PIECES = st.tuples(st.integers(0, 600), st.integers(0, 600), st.booleans())


@given(
    st.sampled_from([HTTP, of_ssl("tls.example"), b"\x16\x03\x01\0\xff" * 99]), st.lists(PIECES, max_size=12)
)
@settings(max_examples=150 * FUZZ)
def test_pieces_of_a_stream_never_give_another_name(
    whole: bytes, pieces: list[tuple[int, int, bool]]
) -> None:
    expected = stream(whole).name
    first = First(TCP)
    contradicted = False
    for offset, size, damaged in pieces:
        piece = whole[offset : offset + size]
        if damaged:
            piece, contradicted = piece[::-1], True
        name = first.feed(piece, 1, offset)
        if name is not None and not contradicted:
            assert name == expected


@given(st.lists(st.binary(max_size=50) | st.just(of_aioquic("quic.example", MANY)[0]), max_size=8))
@settings(max_examples=100 * FUZZ)
def test_any_datagrams_have_a_name_or_none(datagrams: list[bytes]) -> None:
    first = First(UDP)
    for datagram in datagrams:
        before = first.name
        after = first.feed(datagram, 1)
        assert before is None or after == before
