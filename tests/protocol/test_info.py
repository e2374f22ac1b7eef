"""Infos as bytes: the layouts to the byte, and what the wire cannot carry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.protocol import _native
from tidewaiter.protocol.errors import LocalProtocolError
from tidewaiter.protocol.info import (
    FIXED,
    HEADER,
    MAX_INFO_LENGTH,
    BandwidthEntry,
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    Info,
    InfoType,
    LogLine,
    PayloadLayer,
    Severity,
    Skipped,
    encode,
    encode_one,
)

V4_LOCAL, V4_REMOTE = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
V6_LOCAL, V6_REMOTE = bytes(range(16)), bytes(range(16, 32))

CONNECTION = ConnectionInfo(
    id=0x0102030405060708,
    process_id=0x1112131415161718,
    direction=1,
    protocol=6,
    local_ip=V4_LOCAL,
    remote_ip=V4_REMOTE,
    local_port=0x2122,
    remote_port=0x3132,
    payload_layer=PayloadLayer.TRANSPORT,
    payload=b"\xaa\xbb\xcc",
)
END = ConnectionEnd(
    process_id=9,
    direction=0,
    protocol=17,
    local_ip=V4_LOCAL,
    remote_ip=V4_REMOTE,
    local_port=1,
    remote_port=2,
)
ENTRY = BandwidthEntry(V4_LOCAL, 1, V4_REMOTE, 2, transmitted_bytes=3, received_bytes=4)


def v6(info: ConnectionInfo) -> ConnectionInfo:
    return info._replace(local_ip=V6_LOCAL, remote_ip=V6_REMOTE)


# Written out by hand from the tables of docs/reference/wire.md, not by the code under test.
EXACT: list[tuple[Info, str]] = [
    (LogLine(Severity.WARNING, "é"), "00 03000000 04 c3a9"),
    (
        CONNECTION,
        "01 26000000 0807060504030201 1817161514131211 01 06 c0000201 c6336402 2221 3231 04 03000000 aabbcc",
    ),
    (
        v6(CONNECTION),
        "02 3e000000 0807060504030201 1817161514131211 01 06 000102030405060708090a0b0c0d0e0f "
        "101112131415161718191a1b1c1d1e1f 2221 3231 04 03000000 aabbcc",
    ),
    (END, "03 16000000 0900000000000000 00 11 c0000201 c6336402 0100 0200"),
    (
        END._replace(local_ip=V6_LOCAL, remote_ip=V6_REMOTE),
        "04 2e000000 0900000000000000 00 11 000102030405060708090a0b0c0d0e0f "
        "101112131415161718191a1b1c1d1e1f 0100 0200",
    ),
    (
        BandwidthStats(4, 6, (ENTRY,)),
        "05 21000000 06 01000000 c0000201 0100 c6336402 0200 0300000000000000 0400000000000000",
    ),
    (
        BandwidthStats(6, 6, (BandwidthEntry(V6_LOCAL, 1, V6_REMOTE, 2, 3, 4),)),
        "06 39000000 06 01000000 000102030405060708090a0b0c0d0e0f 0100 "
        "101112131415161718191a1b1c1d1e1f 0200 0300000000000000 0400000000000000",
    ),
    (BandwidthStats(6, 17, ()), "06 05000000 11 00000000"),
]


@pytest.mark.parametrize(("info", "expected"), EXACT, ids=lambda value: type(value).__name__)
def test_every_byte(info: Info, expected: str) -> None:
    assert encode(info) == bytes.fromhex(expected)
    assert encode(info)[0] == info.type


def test_the_type_follows_the_family() -> None:
    assert CONNECTION.type is InfoType.CONNECTION_IPV4
    assert v6(CONNECTION).type is InfoType.CONNECTION_IPV6


def test_an_info_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        CONNECTION.id = 2  # type: ignore[misc]


def test_a_log_line_is_never_lost_to_a_path_that_is_not_utf8() -> None:
    assert encode(LogLine(3, "/tmp/\udcff"))[6:] == b"/tmp/\\udcff"


def test_a_skipped_info_is_passed_on_as_it_came() -> None:
    assert encode(Skipped(200, 2, "type 200 is not known", b"\1\2")) == b"\xc8\2\0\0\0\1\2"


@pytest.mark.parametrize(
    "info",
    [
        CONNECTION._replace(id=1 << 64),
        CONNECTION._replace(process_id=-1),
        CONNECTION._replace(direction=256),
        CONNECTION._replace(local_port=65536),
        CONNECTION._replace(local_ip=V6_LOCAL),
        CONNECTION._replace(local_ip=b"12345", remote_ip=b"12345"),
        CONNECTION._replace(local_ip=b"123456", remote_ip=b"12"),
        CONNECTION._replace(payload=bytes(MAX_INFO_LENGTH)),
        END._replace(remote_ip=V6_REMOTE),
        BandwidthStats(6, 6, (ENTRY,)),
        BandwidthStats(4, 6, (ENTRY._replace(received_bytes=-1),)),
        LogLine(256, ""),
        Skipped(200, 20_000_000, "too long", b""),
    ],
)
def test_what_the_wire_cannot_carry_is_one_sentence(info: Info | Skipped) -> None:
    with pytest.raises(LocalProtocolError, match=r"\A[A-Z][^\n]+[^.\n]\Z"):
        encode(info)


def test_the_longest_info_fits() -> None:
    text = "x" * (MAX_INFO_LENGTH - 1)
    assert len(encode(LogLine(1, text))) == 5 + MAX_INFO_LENGTH
    with pytest.raises(LocalProtocolError, match="more than"):
        encode(LogLine(1, text + "x"))


u8, u16, u64 = (st.integers(-1, 1 << bits) for bits in (8, 16, 64))  # and a little beyond
ips = st.sampled_from([V4_LOCAL, V6_LOCAL, V4_REMOTE, b"", b"123", bytes(300)])
payloads = st.binary(max_size=80) | st.binary(max_size=80).map(bytearray)
WILD = st.builds(ConnectionInfo, u64, u64, u8, u8, ips, ips, u16, u16, u8, payloads) | st.builds(
    ConnectionEnd, u64, u8, u8, ips, ips, u16, u16
)


@settings(max_examples=300 * FUZZ)
@given(WILD)
def test_c_writes_what_python_writes_or_leaves_it_to_it(info: ConnectionInfo | ConnectionEnd) -> None:
    try:
        expected = encode_one(info)
    except LocalProtocolError:
        with pytest.raises(LocalProtocolError):
            encode(info)
        return
    assert encode(info) == expected
    written = _native.write(info, FIXED[type(info)], MAX_INFO_LENGTH)
    assert written == (None if isinstance(info[-1], bytearray) else expected)


@pytest.mark.parametrize("change", [{"id": 1.5}, {"id": None}, {"local_ip": "1234"}, {"payload": "text"}])
def test_what_is_no_field_at_all_does_not_go_through_c(change: dict[str, Any]) -> None:
    info = CONNECTION._replace(**change)
    assert _native.write(info, FIXED[ConnectionInfo], MAX_INFO_LENGTH) is None


def test_a_longer_info_is_left_to_python() -> None:
    layout = FIXED[ConnectionInfo]
    size = len(encode(CONNECTION)) - HEADER.size
    assert _native.write(CONNECTION, layout, size - 1) is None
    assert _native.write(CONNECTION, layout, size) == encode(CONNECTION)


def test_a_tuple_that_is_too_short_for_its_layout() -> None:
    assert _native.write((), FIXED[ConnectionEnd], 100) is None
    assert _native.write((1, b"1"), FIXED[ConnectionInfo], 100) is None


@pytest.mark.parametrize(
    "arguments", [(), ((), (), "1"), ([], (), 1), ((1, b"1234"), ((1, 2),), 1), ((), [], 1)]
)
def test_what_c_cannot_write_by(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        _native.write(*arguments)
