"""``tidewaiter wire`` from bytes to lines and back, and the promises of its reference page."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.cli.wire import wire
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol import command, info
from tidewaiter.protocol.info import HEADER, MAX_INFO_LENGTH, LogLine

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "wire.md"


def run(*arguments: str, data: bytes = b"") -> Result:
    return CliRunner().invoke(wire, arguments, input=data)


def worked(kind: str) -> tuple[bytes, bytes]:
    """The bytes and the JSON lines of a worked example in the reference page."""
    section = REFERENCE.read_text().split(f"### {kind}s, worked\n")[1]
    hexadecimal, lines = re.findall(r"```(?:hex|json)\n(.*?)```", section, re.DOTALL)[:2]
    return bytes.fromhex(hexadecimal), lines.encode()


@pytest.mark.parametrize("kind", ["Info", "Command"])
def test_the_worked_examples_of_the_reference_are_true(kind: str) -> None:
    raw, lines = worked(kind)
    decoded, encoded = run("decode", kind.lower(), data=raw), run("encode", kind.lower(), data=lines)
    assert (decoded.exit_code, decoded.stdout_bytes) == (0, lines)
    assert (encoded.exit_code, encoded.stdout_bytes) == (0, raw)


def test_the_offsets_in_the_reference_are_the_sums_of_the_sizes() -> None:
    rows = [line.strip("|").split("|") for line in REFERENCE.read_text().splitlines() if "|" in line]
    checked = 0
    for above, row in pairwise(rows):
        for column in range(0, 4 if len(row) == 6 else 2, 2):
            offset, size = above[column].strip(), above[column + 1].strip()
            if len(above) == len(row) >= 4 and row[column].strip().isdigit() and size.isdigit():
                assert int(row[column]) == int(offset) + int(size), row
                checked += 1
    assert checked > 40


def test_decode_and_encode_read_files(tmp_path: Path) -> None:
    raw = info.encode(LogLine(3, "one")) + info.encode(LogLine(3, "two"))
    binary, lines = tmp_path / "infos", tmp_path / "infos.jsonl"
    binary.write_bytes(raw)
    result = run("decode", "info", str(binary))
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["one", "two"]
    lines.write_bytes(result.stdout_bytes)
    assert run("encode", "info", str(lines)).stdout_bytes == raw


_FRAMES = st.lists(st.tuples(st.integers(0, 8), st.binary(max_size=80)), max_size=4)


@settings(max_examples=50 * FUZZ, deadline=None)
@given(_FRAMES.map(lambda all_: b"".join(HEADER.pack(number, len(data)) + data for number, data in all_)))
def test_infos_come_back_whatever_they_hold(raw: bytes) -> None:
    decoded = run("decode", "info", data=raw)
    assert decoded.exit_code == 0
    assert run("encode", "info", data=decoded.stdout_bytes).stdout_bytes == raw


def test_more_than_one_read_of_input() -> None:
    raw = b"".join(info.encode(LogLine(3, "x" * size)) for size in range(0, 3000, 7))
    decoded = run("decode", "info", data=raw)
    assert len(decoded.stdout.splitlines()) == len(range(0, 3000, 7))
    assert run("encode", "info", data=decoded.stdout_bytes).stdout_bytes == raw


def test_a_cut_info_is_an_error_after_the_lines_before_it() -> None:
    raw = info.encode(LogLine(3, "whole")) + info.encode(LogLine(3, "cut"))[:-1]
    result = run("decode", "info", data=raw)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"type": "LogLine", "severity": 3, "text": "whole"}
    assert result.stderr == "Error: The stream ends inside an info: 8 of at least 9 bytes are here\n"


def test_an_unknown_command_is_an_error_after_the_lines_before_it() -> None:
    result = run("decode", "command", data=b"\4\5\x63\4")
    assert result.exit_code == 1
    assert result.stdout == '{"type": "ClearCache"}\n{"type": "GetLogs"}\n'
    assert result.stderr == "Error: Command 99 is not known, so its length is not known either\n"


def test_a_cut_command_is_an_error() -> None:
    raw = command.encode(command.VerdictCommand(1, Verdict.ACCEPT))[:4]
    result = run("decode", "command", data=raw)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: The stream ends inside a command: 4 of 10 bytes are here\n"


def test_a_wrong_line_is_named_and_the_lines_before_it_are_written() -> None:
    result = run(
        "encode", "command", data=b'{"type": "GetLogs"}\n{"type": "Verdict", "id": 1, "verdict": 12}\n'
    )
    assert (result.exit_code, result.stdout_bytes) == (1, b"\5")
    assert result.stderr == "Error: Line 2: field 'verdict' is not a verdict number from 0 to 11\n"


def test_an_info_that_was_not_kept_cannot_be_encoded() -> None:
    length = MAX_INFO_LENGTH + 1
    decoded = run("decode", "info", data=HEADER.pack(1, length) + bytes(length))
    assert decoded.exit_code == 0
    assert json.loads(decoded.stdout) == {
        "type": "ConnectionIpv4",
        "length": length,
        "reason": f"{length} bytes are more than {MAX_INFO_LENGTH}",
        "data": "",
    }
    encoded = run("encode", "info", data=decoded.stdout_bytes)
    assert encoded.exit_code == 1
    assert encoded.stderr.startswith(f"Error: Line 1: A skipped info of {length} bytes cannot be sent")


@pytest.mark.parametrize("what", ["decode", "encode"])
@pytest.mark.parametrize("kind", ["info", "command"])
def test_nothing_in_is_nothing_out(what: str, kind: str) -> None:
    result = run(what, kind)
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, b"", "")


def test_the_example_of_the_help_is_true() -> None:
    page = run("decode", "--help").stdout
    escaped, line = re.findall(r"printf '(.*?)'.*\n\s*(\{.*\})", page)[0]
    raw = bytes(int(octal, 8) for octal in escaped.split("\\")[1:])
    assert run("decode", "command", data=raw).stdout == line + "\n"
