"""The info decoder: any split, any bytes, nothing lost and nothing kept that need not be."""

from __future__ import annotations

import tracemalloc
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.protocol import _native
from tidewaiter.protocol.errors import RemoteProtocolError
from tidewaiter.protocol.info import (
    HEADER,
    MAX_INFO_LENGTH,
    BandwidthEntry,
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    Info,
    LogLine,
    Skipped,
    encode,
)
from tidewaiter.protocol.stream import _FIXED, InfoDecoder, read_one

U8, U16, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 64))


def of_family(size: int) -> st.SearchStrategy[Info]:
    ip = st.binary(min_size=size, max_size=size)
    entry = st.builds(BandwidthEntry, ip, U16, ip, U16, U64, U64)
    version = st.just(4 if size == 4 else 6)
    return st.one_of(
        st.builds(ConnectionInfo, U64, U64, U8, U8, ip, ip, U16, U16, U8, st.binary(max_size=80)),
        st.builds(ConnectionEnd, U64, U8, U8, ip, ip, U16, U16),
        st.builds(BandwidthStats, version, U8, st.lists(entry, max_size=4).map(tuple)),
    )


INFOS = of_family(4) | of_family(16) | st.builds(LogLine, U8, st.text(max_size=20))
FOREIGN = st.tuples(U8, st.binary(max_size=70)).map(lambda one: HEADER.pack(one[0], len(one[1])) + one[1])


def decode(data: bytes) -> list[Info | Skipped]:
    decoder = InfoDecoder()
    infos = decoder.feed(data)
    decoder.close()
    return infos


def info(number: int, data: bytes) -> bytes:
    return HEADER.pack(number, len(data)) + data


@given(st.lists(INFOS, max_size=6))
def test_every_info_comes_back(infos: list[Info]) -> None:
    decoded = decode(b"".join(map(encode, infos)))
    assert decoded == infos
    assert [type(one) for one in decoded] == [type(one) for one in infos]


@settings(deadline=None)
@given(st.lists(INFOS.map(encode) | FOREIGN, max_size=6).map(b"".join), st.data())
def test_every_split_gives_the_same_and_encodes_to_the_same_bytes(raw: bytes, data: st.DataObject) -> None:
    decoder, infos, position = InfoDecoder(), [], 0
    while position < len(raw):
        size = data.draw(st.integers(0, min(60, len(raw) - position)))
        infos += decoder.feed(raw[position : position + size])
        position += size
    decoder.close()
    assert infos == decode(raw)
    assert b"".join(map(encode, infos)) == raw


@settings(max_examples=300 * FUZZ, deadline=None)
@given(st.binary(max_size=300))
def test_hostile_bytes_are_read_or_reported(raw: bytes) -> None:
    decoder = InfoDecoder()
    infos = decoder.feed(raw)
    try:
        decoder.close()
    except RemoteProtocolError:
        return
    if all(one.length <= MAX_INFO_LENGTH for one in infos if isinstance(one, Skipped)):
        assert b"".join(map(encode, infos)) == raw


@settings(max_examples=300 * FUZZ, deadline=None)
@given(
    st.lists(INFOS.map(encode) | FOREIGN | st.binary(max_size=60), max_size=8).map(b"".join),
    st.integers(0, 10),
)
def test_c_reads_what_python_reads(raw: bytes, position: int) -> None:
    infos: list[Info | Skipped] = []
    stopped = _native.read(raw, position, 1 << 16, _FIXED, partial(read_one, raw), infos)
    expected = []
    while len(raw) - position >= HEADER.size:
        _, length = HEADER.unpack_from(raw, position)
        stop = position + HEADER.size + length
        if length > 1 << 16 or stop > len(raw):
            break
        expected.append(read_one(raw, position, stop))
        position = stop
    assert (stopped, infos) == (position, expected)
    assert [type(one) for one in infos] == [type(one) for one in expected]


def test_an_error_of_the_other_reader_comes_through() -> None:
    def fail(start: int, stop: int) -> Info:
        raise ZeroDivisionError((start, stop))

    infos: list[Info] = []
    with pytest.raises(ZeroDivisionError, match=r"\(27, 33\)"):
        _native.read(encode(END) + encode(LogLine(3, "")), 0, 99, _FIXED, fail, infos)
    assert infos == [END]


def test_a_decoded_info_is_as_frozen_as_one_that_was_built() -> None:
    built = ConnectionEnd(1, 0, 6, bytes(4), bytes(4), 1, 2)
    (read,) = decode(encode(built))
    assert read == built
    assert hash(read) == hash(built)
    with pytest.raises(AttributeError):
        read.protocol = 17  # type: ignore[misc]


END = ConnectionEnd(1, 0, 6, bytes(4), bytes(4), 1, 2)
END_V4 = encode(END)[5:]
CONNECTION_V6 = encode(ConnectionInfo(1, 1, 0, 6, bytes(16), bytes(16), 1, 2, 3, b"abc"))[5:]
STATS_V4 = encode(BandwidthStats(4, 6, (BandwidthEntry(bytes(4), 1, bytes(4), 2, 3, 4),)))[5:]


@pytest.mark.parametrize(
    ("number", "data", "reason"),
    [
        (7, b"", "type 7 is not known"),
        (255, b"abc", "type 255 is not known"),
        (0, b"", "0 bytes do not fit, the type has at least 1"),
        (0, b"\3ab\xff", "the text is not UTF-8 at its byte 2"),
        (1, bytes(34), "34 bytes do not fit, the type has at least 35"),
        (2, bytes(58), "58 bytes do not fit, the type has at least 59"),
        (2, CONNECTION_V6 + b"d", "payload_size is 3, but 4 bytes of payload are there"),
        (2, CONNECTION_V6[:-1], "payload_size is 3, but 2 bytes of payload are there"),
        (3, END_V4 + b"\0", "23 bytes do not fit, the type has 22"),
        (3, END_V4[:-1], "21 bytes do not fit, the type has 22"),
        (4, END_V4, "22 bytes do not fit, the type has 46"),
        (5, bytes(4), "4 bytes do not fit, the type has at least 5"),
        (5, STATS_V4 + b"\0", "count is 1, which takes 28 bytes, but 29 are there"),
        (5, b"\6\xff\xff\xff\xff", "count is 4294967295, which takes 120259084260 bytes, but 0 are there"),
        (6, STATS_V4, "count is 1, which takes 52 bytes, but 28 are there"),
    ],
)
def test_what_does_not_fit_is_skipped_and_the_next_is_read(number: int, data: bytes, reason: str) -> None:
    after = LogLine(3, "after")
    raw = info(number, data) + encode(after)
    assert decode(raw) == [Skipped(number, len(data), reason, data), after]


def test_an_info_over_the_bound_passes_by_without_being_kept() -> None:
    length, piece = MAX_INFO_LENGTH + 1, bytes(1 << 16)
    decoder = InfoDecoder()
    expected = Skipped(0, length, f"{length} bytes are more than {MAX_INFO_LENGTH}", b"")
    assert decoder.feed(HEADER.pack(0, length)) == [expected]
    tracemalloc.start()
    for _ in range(length // len(piece)):
        assert decoder.feed(piece) == []
    assert tracemalloc.get_traced_memory()[1] < 4 * len(piece)
    tracemalloc.stop()
    assert decoder.feed(b"\0" + encode(LogLine(1, "after"))) == [LogLine(1, "after")]
    decoder.close()


def test_an_info_over_the_bound_is_the_same_in_one_piece() -> None:
    raw = info(3, bytes(MAX_INFO_LENGTH + 1)) + encode(LogLine(1, "after"))
    skipped, after = decode(raw)
    assert isinstance(skipped, Skipped)
    assert (skipped.type, skipped.length, skipped.data) == (3, MAX_INFO_LENGTH + 1, b"")
    assert after == LogLine(1, "after")


def test_a_long_info_in_small_pieces_takes_linear_time() -> None:
    """16 MiB in pieces of 256 bytes: were each piece to copy the rest, this would move half a terabyte."""
    raw = info(9, bytes(MAX_INFO_LENGTH))
    decoder, infos = InfoDecoder(), []
    for position in range(0, len(raw), 256):
        infos += decoder.feed(raw[position : position + 256])
    assert len(infos) == 1


@pytest.mark.parametrize("cut", range(1, 5 + 9))
def test_close_reports_a_tail_that_was_cut(cut: int) -> None:
    decoder = InfoDecoder()
    assert decoder.feed(encode(LogLine(1, "x")) + encode(LogLine(1, "12345678"))[:cut]) == [LogLine(1, "x")]
    with pytest.raises(RemoteProtocolError, match=f"{cut} of at least {5 if cut < 5 else 14} bytes are here"):
        decoder.close()


def test_close_reports_a_long_info_that_was_cut() -> None:
    decoder = InfoDecoder()
    decoder.feed(HEADER.pack(0, MAX_INFO_LENGTH + 10) + b"1234567890")
    with pytest.raises(RemoteProtocolError, match=f"{MAX_INFO_LENGTH} bytes are missing"):
        decoder.close()
