"""Messages as JSON lines: names, shapes, the way back, and errors that name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol import command, info
from tidewaiter.protocol.command import CommandType, Update, VerdictCommand
from tidewaiter.protocol.errors import LocalProtocolError, RemoteProtocolError
from tidewaiter.protocol.info import (
    HEADER,
    BandwidthEntry,
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    Info,
    LogLine,
    Skipped,
)
from tidewaiter.protocol.stream import InfoDecoder
from tidewaiter.protocol.text import format_command, format_info, parse_command, parse_info

A4, B4 = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
A6, B6 = bytes.fromhex("20010db8" + "0" * 23 + "1"), bytes.fromhex("fe80" + "0" * 27 + "2")

CONNECTION_V4: dict[str, Any] = {
    "type": "ConnectionIpv4",
    "id": 1,
    "process_id": 2,
    "direction": 0,
    "protocol": 6,
    "local_ip": "192.0.2.1",
    "remote_ip": "198.51.100.2",
    "local_port": 3,
    "remote_port": 4,
    "payload_layer": 3,
    "payload_size": 2,
    "payload": "0aff",
}
STATS_V6: dict[str, Any] = {
    "type": "BandwidthStatsV6",
    "protocol": 17,
    "count": 1,
    "entries": [
        {
            "local_ip": "2001:db8::1",
            "local_port": 1,
            "remote_ip": "fe80::2",
            "remote_port": 2,
            "transmitted_bytes": 3,
            "received_bytes": 18446744073709551615,
        }
    ],
}
INFOS: list[tuple[Info | Skipped, dict[str, Any]]] = [
    (LogLine(4, "é\n"), {"type": "LogLine", "severity": 4, "text": "é\n"}),
    (ConnectionInfo(1, 2, 0, 6, A4, B4, 3, 4, 3, b"\x0a\xff"), CONNECTION_V4),
    (
        ConnectionInfo(1, 2, 0, 6, A6, B6, 3, 4, 3, b"\x0a\xff"),
        CONNECTION_V4 | {"type": "ConnectionIpv6", "local_ip": "2001:db8::1", "remote_ip": "fe80::2"},
    ),
    (
        ConnectionEnd(1, 255, 6, A4, B4, 2, 3),
        {
            "type": "ConnectionEndEventV4",
            "process_id": 1,
            "direction": 255,
            "protocol": 6,
            "local_ip": "192.0.2.1",
            "remote_ip": "198.51.100.2",
            "local_port": 2,
            "remote_port": 3,
        },
    ),
    (BandwidthStats(6, 17, (BandwidthEntry(A6, 1, B6, 2, 3, (1 << 64) - 1),)), STATS_V6),
    (
        BandwidthStats(4, 6, ()),
        {"type": "BandwidthStatsV4", "protocol": 6, "count": 0, "entries": []},
    ),
    (
        Skipped(200, 2, "type 200 is not known", b"\1\2"),
        {"type": 200, "length": 2, "reason": "type 200 is not known", "data": "0102"},
    ),
    (
        Skipped(3, 1, "too short", b"\1"),
        {"type": "ConnectionEndEventV4", "length": 1, "reason": "too short", "data": "01"},
    ),
]
COMMANDS: list[tuple[command.Command, dict[str, Any]]] = [
    (command.Shutdown(), {"type": "Shutdown"}),
    (VerdictCommand(7, Verdict.PERMANENT_ACCEPT), {"type": "Verdict", "id": 7, "verdict": 3}),
    (
        Update(6, A4, 1, B4, 2, Verdict.BLOCK),
        {
            "type": "UpdateV4",
            "protocol": 6,
            "local_address": "192.0.2.1",
            "local_port": 1,
            "remote_address": "198.51.100.2",
            "remote_port": 2,
            "verdict": 4,
        },
    ),
    (
        Update(6, A6, 1, B6, 2, Verdict.BLOCK),
        {
            "type": "UpdateV6",
            "protocol": 6,
            "local_address": "2001:db8::1",
            "local_port": 1,
            "remote_address": "fe80::2",
            "remote_port": 2,
            "verdict": 4,
        },
    ),
    (command.ClearCache(), {"type": "ClearCache"}),
    (command.GetLogs(), {"type": "GetLogs"}),
    (command.GetBandwidthStats(), {"type": "GetBandwidthStats"}),
    (command.PrintMemoryStats(), {"type": "PrintMemoryStats"}),
    (command.CleanEndedConnections(), {"type": "CleanEndedConnections"}),
]


@pytest.mark.parametrize(("message", "expected"), INFOS, ids=lambda value: type(value).__name__)
def test_an_info_as_json(message: Info | Skipped, expected: dict[str, Any]) -> None:
    line = format_info(message)
    assert json.loads(line) == expected
    assert list(json.loads(line)) == list(expected)
    assert "\n" not in line
    assert parse_info(line) == message
    assert parse_info(line.encode() + b"\n") == message


@pytest.mark.parametrize(("message", "expected"), COMMANDS, ids=lambda value: type(value).__name__)
def test_a_command_as_json(message: command.Command, expected: dict[str, Any]) -> None:
    line = format_command(message)
    assert json.loads(line) == expected
    assert list(json.loads(line)) == list(expected)
    assert parse_command(line) == message


def test_every_command_type_is_covered() -> None:
    assert [message.type for message, _ in COMMANDS] == list(CommandType)


_FRAMES = st.tuples(st.integers(0, 8), st.binary(max_size=130))


@settings(max_examples=300 * FUZZ, deadline=None)
@given(st.lists(_FRAMES, max_size=4))
def test_any_framed_bytes_survive_the_way_through_json(frames: list[tuple[int, bytes]]) -> None:
    raw = b"".join(HEADER.pack(number, len(data)) + data for number, data in frames)
    lines = [format_info(one) for one in InfoDecoder().feed(raw)]
    assert len(lines) == len(frames)
    assert b"".join(info.encode(parse_info(line)) for line in lines) == raw


@given(st.binary(max_size=120))
def test_any_commands_survive_the_way_through_json(raw: bytes) -> None:
    decoder, back = command.CommandDecoder(), b""
    try:
        for one in decoder.feed(raw):
            back += command.encode(parse_command(format_command(one)))
        decoder.close()
    except RemoteProtocolError:
        assert raw.startswith(back)
    else:
        assert back == raw


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([fields for _, fields in INFOS]), st.data())
def test_a_line_with_any_value_anywhere_is_a_message_or_one_sentence(
    fields: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(fields)))
    line = json.dumps(fields | {name: data.draw(_JSON)})
    try:
        info.encode(parse_info(line))
    except LocalProtocolError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=60))
def test_a_line_of_any_bytes_is_an_error(line: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        parse_info(line)


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


ENTRY: dict[str, Any] = STATS_V6["entries"][0]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "this is not JSON at column 1: Expecting value"),
        ("[1]", "this is not a JSON object"),
        ('{"type": "GetLogs"}', "field 'type' is not one of LogLine, "),
        ("{}", "field 'type' is not one of LogLine, "),
        ('{"type": 0, "type": 1}', "field 'type' is there twice"),
        (without(CONNECTION_V4, "id"), "field 'id' is missing"),
        (CONNECTION_V4 | {"ttl": 1}, "field 'ttl' does not belong to ConnectionIpv4"),
        (CONNECTION_V4 | {"id": 1 << 64}, "field 'id' is not a whole number from 0 to 18446744073709551615"),
        (CONNECTION_V4 | {"direction": True}, "field 'direction' is not a whole number from 0 to 255"),
        (CONNECTION_V4 | {"local_port": 1.0}, "field 'local_port' is not a whole number from 0 to 65535"),
        (CONNECTION_V4 | {"local_ip": "::1"}, "field 'local_ip' is not an IPv4 address"),
        (CONNECTION_V4 | {"local_ip": 1}, "field 'local_ip' is not an IPv4 address"),
        (CONNECTION_V4 | {"payload": "abc"}, "field 'payload' is not hexadecimal text, two digits a byte"),
        (CONNECTION_V4 | {"payload": "0a ff"}, "field 'payload' is not hexadecimal text, two digits a byte"),
        (CONNECTION_V4 | {"payload_size": 3}, "field 'payload_size' is not 2, the size of 'payload'"),
        ({"type": "LogLine", "severity": 1, "text": 2}, "field 'text' is not text"),
        ({"type": "LogLine", "severity": 1, "text": "\ud800"}, "field 'text' has half a surrogate pair"),
        (STATS_V6 | {"entries": {}}, "field 'entries' is not a list"),
        (STATS_V6 | {"entries": [ENTRY, 1]}, "field 'entries' has at [1] no object"),
        (
            STATS_V6 | {"entries": [ENTRY | {"local_ip": "fe80::1%eth0"}]},
            "field 'entries' is wrong at [0]: field 'local_ip' is not an IPv6 address",
        ),
        (STATS_V6 | {"count": 2}, "field 'count' is not 1, the size of 'entries'"),
        ({"type": 256, "length": 0, "reason": "", "data": ""}, "field 'type' is not a whole number from 0"),
    ],
)
def test_a_wrong_info_is_one_sentence_that_names_the_field(line: str | dict[str, Any], sentence: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        parse_info(line if isinstance(line, str) else json.dumps(line))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verdict", [12, -1, "3", True, None])
def test_a_wrong_verdict_is_named(verdict: object) -> None:
    line = json.dumps({"type": "Verdict", "id": 1, "verdict": verdict})
    with pytest.raises(LocalProtocolError, match="field 'verdict' is not a verdict number from 0 to 11"):
        parse_command(line)


def test_sizes_that_follow_may_be_left_out() -> None:
    connection = parse_info(json.dumps(without(CONNECTION_V4, "payload_size")))
    assert connection == INFOS[1][0]
    assert parse_info(json.dumps(without(STATS_V6, "count"))) == INFOS[4][0]


@pytest.mark.parametrize(
    "line", [b'{"type": "\xff"}', b"[" * 100_000, b"1" * 10_000], ids=["not UTF-8", "nested", "long number"]
)
def test_a_line_that_json_cannot_hold(line: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="not JSON that can be read"):
        parse_info(line)
