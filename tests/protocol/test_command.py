"""Commands as bytes: one at a time as the device gets them, and back to back as a file holds them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol.command import (
    CleanEndedConnections,
    ClearCache,
    Command,
    CommandDecoder,
    GetBandwidthStats,
    GetLogs,
    PrintMemoryStats,
    Shutdown,
    Update,
    VerdictCommand,
    decode,
    encode,
)
from tidewaiter.protocol.errors import CommandError, LocalProtocolError, RemoteProtocolError

V4_LOCAL, V4_REMOTE = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
V6_LOCAL, V6_REMOTE = bytes(range(16)), bytes(range(16, 32))

# Written out by hand from the tables of docs/reference/wire.md, not by the code under test.
EXACT: list[tuple[Command, str]] = [
    (Shutdown(), "00"),
    (VerdictCommand(0x0102030405060708, Verdict.PERMANENT_BLOCK), "01 0807060504030201 05"),
    (Update(6, V4_LOCAL, 0x2122, V4_REMOTE, 443, Verdict.DROP), "02 06 c0000201 2221 c6336402 bb01 06"),
    (
        Update(17, V6_LOCAL, 1, V6_REMOTE, 2, Verdict.REDIRECT_SPLIT_TUNNEL),
        "03 11 000102030405060708090a0b0c0d0e0f 0100 101112131415161718191a1b1c1d1e1f 0200 0b",
    ),
    (ClearCache(), "04"),
    (GetLogs(), "05"),
    (GetBandwidthStats(), "06"),
    (PrintMemoryStats(), "07"),
    (CleanEndedConnections(), "08"),
]

U8, U16, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 64))
VERDICTS = st.sampled_from(Verdict)


def updates(size: int) -> st.SearchStrategy[Update]:
    ip = st.binary(min_size=size, max_size=size)
    return st.builds(Update, U8, ip, U16, ip, U16, VERDICTS)


COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.sampled_from([command for command, text in EXACT if len(text) == 2]),
    st.builds(VerdictCommand, U64, VERDICTS),
    updates(4),
    updates(16),
)


@pytest.mark.parametrize(("command", "expected"), EXACT, ids=lambda value: type(value).__name__)
def test_every_byte(command: Command, expected: str) -> None:
    raw = bytes.fromhex(expected)
    assert encode(command) == raw
    assert raw[0] == command.type
    assert decode(raw) == command


@given(COMMANDS)
def test_every_command_comes_back(command: Command) -> None:
    decoded = decode(encode(command))
    assert decoded == command
    assert type(decoded) is type(command)


@given(st.binary(max_size=60))
def test_hostile_bytes_are_a_command_or_an_error(raw: bytes) -> None:
    try:
        command = decode(raw)
    except CommandError as error:
        assert "\n" not in str(error)
    else:
        assert encode(command) == raw


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ("", "A command of 0 bytes has no type"),
        ("09", "Command 9 is not known, so its length is not known either"),
        ("ff00", "Command 255 is not known, so its length is not known either"),
        ("0000", "Command 0 has a payload of 0 bytes, but 1 came"),
        ("01 0100000000000000", "Command 1 has a payload of 9 bytes, but 8 came"),
        ("01 0100000000000000 02 00", "Command 1 has a payload of 9 bytes, but 10 came"),
        ("01 0100000000000000 0c", "Verdict 12 is out of range, the last is 11"),
        ("02 06 c0000201 2221 c6336402 bb01 ff", "Verdict 255 is out of range, the last is 11"),
        ("03 06 c0000201 2221 c6336402 bb01 06", "Command 3 has a payload of 38 bytes, but 14 came"),
    ],
)
def test_what_is_no_command_is_one_sentence(raw: str, sentence: str) -> None:
    with pytest.raises(CommandError) as caught:
        decode(bytes.fromhex(raw))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "command",
    [
        VerdictCommand(1 << 64, Verdict.ACCEPT),
        VerdictCommand(-1, Verdict.ACCEPT),
        Update(256, V4_LOCAL, 1, V4_REMOTE, 2, Verdict.ACCEPT),
        Update(6, V4_LOCAL, 65536, V4_REMOTE, 2, Verdict.ACCEPT),
        Update(6, V4_LOCAL, 1, V6_REMOTE, 2, Verdict.ACCEPT),
        Update(6, b"12345", 1, b"12345", 2, Verdict.ACCEPT),
    ],
)
def test_what_the_wire_cannot_carry_is_one_sentence(command: Command) -> None:
    with pytest.raises(LocalProtocolError, match=r"\A[A-Z][^\n]+[^.\n]\Z"):
        encode(command)


@settings(deadline=None)
@given(st.lists(COMMANDS, max_size=8), st.data())
def test_a_stream_frames_itself_however_it_is_split(commands: list[Command], data: st.DataObject) -> None:
    raw = b"".join(map(encode, commands))
    decoder, position = CommandDecoder(), 0
    decoded: list[Command] = []
    while position < len(raw):
        size = data.draw(st.integers(0, min(60, len(raw) - position)))
        decoded += decoder.feed(raw[position : position + size])
        position += size
    decoder.close()
    assert decoded == commands


@given(st.binary(max_size=120))
def test_a_hostile_stream_is_commands_and_then_perhaps_an_error(raw: bytes) -> None:
    decoder, read = CommandDecoder(), b""
    try:
        for command in decoder.feed(raw):
            read += encode(command)
        decoder.close()
    except RemoteProtocolError:
        assert raw.startswith(read)
    else:
        assert read == raw


def test_commands_before_an_unknown_one_are_read_and_none_after() -> None:
    decoder = CommandDecoder()
    commands = decoder.feed(b"\4\5\x20\4")
    assert [next(commands), next(commands)] == [ClearCache(), GetLogs()]
    with pytest.raises(CommandError, match="Command 32 is not known"):
        next(commands)
    with pytest.raises(CommandError, match="Command 32 is not known"):
        list(decoder.feed(b"\4"))
    with pytest.raises(CommandError, match="Command 32 is not known"):
        decoder.close()


def test_a_verdict_out_of_range_ends_with_its_command() -> None:
    decoder = CommandDecoder()
    with pytest.raises(CommandError, match="Verdict 12"):
        list(decoder.feed(b"\1" + bytes(8) + b"\x0c" + b"\5"))
    assert list(decoder.feed(b"")) == [GetLogs()]
    decoder.close()


@pytest.mark.parametrize("cut", range(1, 10))
def test_close_reports_a_command_that_was_cut(cut: int) -> None:
    decoder = CommandDecoder()
    assert list(decoder.feed(encode(VerdictCommand(1, Verdict.ACCEPT))[:cut])) == []
    with pytest.raises(RemoteProtocolError, match=f"{cut} of 10 bytes are here"):
        decoder.close()


def test_many_small_commands_in_one_piece_take_linear_time() -> None:
    assert sum(1 for _ in CommandDecoder().feed(b"\5" * 400_000)) == 400_000


def test_a_stream_is_framed_until_a_command_is_unknown() -> None:
    decoder = CommandDecoder()
    assert decoder.framed
    assert list(decoder.feed(b"\x01\x09")) == []
    assert decoder.framed
    with pytest.raises(CommandError, match="Verdict 77"):
        list(decoder.feed(bytes(7) + b"\x4d"))
    assert decoder.framed
    assert list(decoder.feed(b"\x05")) == [GetLogs()]
    with pytest.raises(CommandError, match="Command 99"):
        list(decoder.feed(b"\x63"))
    assert not decoder.framed
