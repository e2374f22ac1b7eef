"""cli/output.py: lines for people of any width, lines for programs, and readers that are slow or gone."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tidewaiter.cli import output as module
from tidewaiter.cli.output import Output, render, size
from tidewaiter.cli.printable import printable
from tidewaiter.service.report import Line

NOTICE: Line = {"event": "notice", "time": 0.0, "text": "Guarding every program; Ctrl-C to stop."}
CONNECTION: Line = {
    "event": "verdict",
    "time": 0.0,
    "id": 1,
    "program": "/usr/bin/curl",
    "pid": 4711,
    "arguments": ["curl"],
    "user": "anna",
    "direction": "out",
    "protocol": "tcp",
    "local": "[fd00::1]:4000",
    "remote": "[fd00:ab::2]:443",
    "interface": "eth0",
    "name": "",
    "hidden": "",
    "verdict": "block",
    "rule": "curl stays in the house",
    "tier": "kernel",
}
CLOCK = re.compile(r"^\d\d:\d\d:\d\d ")
ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 80 columns, without what the terminal around the tests says."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "LINES"):
        monkeypatch.delenv(name, raising=False)


def line(**fields: Any) -> Line:
    return CONNECTION | fields


def shown(*lines: Line, as_json: bool = False) -> str:
    stream = io.StringIO()
    output = Output(as_json=as_json, stream=stream)
    for one in lines:
        output.put(one)
    output.flush()
    return stream.getvalue()


def text(one: Line) -> str:
    """A line as it is shown where there is room, without its time."""
    rendered = render(one)
    assert rendered is not None
    assert CLOCK.match(rendered.plain)
    return CLOCK.sub("", rendered.plain)


class Gone(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError


# --- for people


def test_a_verdict() -> None:
    assert text(line()) == ("block    curl (4711) → [fd00:ab::2]:443 tcp  curl stays in the house · kernel")


def test_a_name_is_shown_in_the_place_of_its_address() -> None:
    assert "→ www.example:443 tcp" in text(line(name="www.example"))
    assert "→ www.example icmp" in text(line(name="www.example", protocol="icmp", remote="[fd00:ab::2]:0"))
    assert "→ fd00:ab::2 icmp" in text(line(protocol="icmp", remote="[fd00:ab::2]:0"))


def test_without_a_rule_or_a_tier() -> None:
    assert text(line(rule="")) == "block    curl (4711) → [fd00:ab::2]:443 tcp · kernel"
    assert text(line(rule="", tier="")) == "block    curl (4711) → [fd00:ab::2]:443 tcp"


@pytest.mark.parametrize(("direction", "arrow"), [("out", "→"), ("in", "←"), ("forward", "↔")])
def test_who_began(direction: str, arrow: str) -> None:
    assert f" {arrow} [fd00:ab::2]:443 " in text(line(direction=direction))


def test_programs_that_are_not_known() -> None:
    assert text(line(program="")).startswith("block    unknown (4711) →")
    assert text(line(program="", pid=0)).startswith("block    unknown →")


def test_a_beginning_is_shown_only_where_it_waits() -> None:
    assert text(line(event="connection", verdict="undecided")).startswith("held     curl")
    assert render(line(event="connection", verdict="accept")) is None
    assert shown(line(event="connection", verdict="accept")) == ""


def test_an_end_has_its_totals() -> None:
    end = line(event="end", sent=999, received=12_345, duration=1.234)
    assert text(end) == "end      curl (4711) → [fd00:ab::2]:443 tcp  ↑999 B ↓12.3 kB in 1.23 s"


def test_counters_that_moved() -> None:
    assert text({"event": "stats", "time": 0.0, "held": 3, "lost": 0, "sent": 1}) == "held 3, sent 1"
    assert text({"event": "stats", "time": 0.0, "held": 0}) == "no packet was held, refused or lost"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_connection_is_one_line_of_any_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = line(program="/opt/" + "wide程" * 30, rule="a rule with a long name " * 9)
    for one in (line(), long, long | {"event": "end", "sent": 1, "received": 1, "duration": 1.0}):
        (row,) = shown(one).splitlines()
        assert cell_len(row) <= columns
    assert shown(long).rstrip().endswith("…")
    assert ("…" in shown(line())) == (columns < 86)


def test_a_terminal_that_is_too_narrow_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    assert "block    curl (4711)" in shown(line()).replace("\n", "")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_notices_are_said_in_full(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = " ".join(f"word{number}" for number in range(60))
    rows = shown(NOTICE | {"text": words}).splitlines()
    assert len(rows) > 1
    assert max(map(len, rows)) <= columns
    assert CLOCK.sub("", " ".join(" ".join(rows).split())) == words


def test_a_file_has_room_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    words = " ".join(f"word{number}" for number in range(60))
    for one in (line(program="/x/" + "y" * 300), NOTICE | {"text": words}):
        (row,) = shown(one).splitlines()
        assert CLOCK.sub("", row).strip() == CLOCK.sub("", text(one)).strip()


def test_a_full_disk_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        output = Output(as_json=True, stream=full)
        output.put(line())
        output.flush()
        assert output.broken
    assert "nothing more can be printed: No space left on device" in caplog.text


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ESCAPE not in shown(line(), NOTICE)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert f"{ESCAPE}[1;31mblock" in shown(line())
    assert f"{ESCAPE}[32maccept" in shown(line(verdict="accept"))


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    colours = re.compile(r"\x1b\[[\d;]*\b(3[0-7]|9[0-7]|38)\b")
    assert not colours.search(shown(line(), line(verdict="accept"), NOTICE))


def test_names_are_no_markup() -> None:
    row = shown(line(program="/x/[red]a", rule="[/b] :smile:"))
    assert "[red]a (4711)" in row
    assert "[/b] :smile:" in row


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "a\rb", "\x9b2J", "caf\udce9", "a\u202eb", "\x00"])
def test_names_do_not_steer_the_terminal(name: str) -> None:
    for one in (line(program=f"/x/{name}"), line(rule=name), NOTICE | {"text": name}):
        (row,) = shown(one).splitlines()
        assert row.isprintable()
        assert ascii(name)[1:-1] in row
        row.encode()  # it can be written


@given(st.text(st.characters()))
def test_printable(name: str) -> None:
    said = printable(name)
    assert said.isprintable()
    assert printable(said) == said
    assert (said == name) == name.isprintable()


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2 * 10**9, "2.0 GB"),
        (5 * 10**12, "5000.0 GB"),
    ],
)
def test_size(count: int, words: str) -> None:
    assert size(count) == words


# --- for programs


def test_json_is_one_object_a_line() -> None:
    lines = [line(program="/x/\udce9\n\x1b"), NOTICE, line(event="connection", verdict="accept")]
    rows = shown(*lines, as_json=True).splitlines()
    assert [json.loads(row) for row in rows] == lines
    assert all(row.isascii() for row in rows)


def test_json_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert json.loads(shown(line(rule="x" * 5000), as_json=True))["rule"] == "x" * 5000


# --- readers that are slow, or gone


def test_what_nobody_read_is_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 3)
    stream = io.StringIO()
    output = Output(as_json=True, stream=stream)
    for number in range(5):
        output.put(line(id=number))
    output.flush()
    *kept, notice = [json.loads(row) for row in stream.getvalue().splitlines()]
    assert [one["id"] for one in kept] == [0, 1, 2]
    assert (notice["event"], notice["text"]) == (
        "notice",
        "2 lines were not printed: nobody read them in time",
    )
    assert abs(notice["time"] - time.time()) < 10
    output.put(line(id=9))
    output.flush()
    assert len(stream.getvalue().splitlines()) == 5  # said once


def test_the_queue_is_large_enough_for_a_burst() -> None:
    stream = io.StringIO()
    output = Output(as_json=True, stream=stream)
    for number in range(10_000):
        output.put({"event": "stats", "time": 0.0, "n": number})
    output.flush()
    assert stream.getvalue().count("\n") == 10_000


def test_waiting_ends_when_a_line_comes() -> None:
    stream = io.StringIO()
    output = Output(as_json=True, stream=stream)
    sender = threading.Timer(0.05, output.put, [NOTICE])
    begun = time.monotonic()
    sender.start()
    output.wait(20)
    assert time.monotonic() - begun < 10
    assert json.loads(stream.getvalue()) == NOTICE
    sender.join()


def test_waiting_ends_without_a_line() -> None:
    stream = io.StringIO()
    Output(as_json=True, stream=stream).wait(0.01)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_a_broken_pipe_is_noted(as_json: bool) -> None:
    output = Output(as_json=as_json, stream=Gone())
    assert not output.broken
    output.put(line())
    output.flush()
    assert output.broken
    output.put(line())
    output.flush()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_broken_pipe_of_a_process_is_silent(as_json: bool) -> None:
    """`tidewaiter run | head -1` ends without a trace of Python, and with its status."""
    script = (
        "from tidewaiter.cli.output import Output\n"
        f"output = Output(as_json={as_json})\n"
        "for _ in range(3): output.put({'event': 'notice', 'time': 0.0, 'text': 'x'})\n"
        "output.flush()\n"
        "assert output.broken\n"
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_each_flush_reaches_the_reader() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "w") as writer:
        output = Output(as_json=True, stream=writer)
        output.put(NOTICE)
        output.flush()
        assert json.loads(reader.read(4096)) == NOTICE
