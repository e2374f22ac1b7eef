"""cli/replayed.py: what a newcomer without privileges sees is real packets, and is said to be a replay."""

from __future__ import annotations

import io
import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from captures import pcap
from tidewaiter.cli import replayed
from tidewaiter.cli.errors import Failure
from tidewaiter.cli.output import Output
from tidewaiter.cli.replayed import EXAMPLE, replay_example
from tidewaiter.model.packet import TcpFlag, build_tcp, build_udp
from tidewaiter.policy import Policy
from tidewaiter.service.report import Line

MISSING = "This process lacks CAP_BPF."
BEGAN = 1_700_000_000  # seconds since 1970
HERE, THERE = ip_address("192.0.2.1"), ip_address("198.51.100.2")
RULE = '[[rule]]\nname = "{}"\nport = "{}"\nverdict = "{}"\n'


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A capture of one TCP connection by curl, and one datagram by nobody known."""
    path = tmp_path / "example.pcap"
    segments = [(TcpFlag.SYN, 0), (TcpFlag.SYN | TcpFlag.ACK, 1), (TcpFlag.RST, 0)]
    ends = ((HERE, THERE, 4000, 80), (THERE, HERE, 80, 4000))
    frames = [build_tcp(*ends[side], flags) for flags, side in segments]
    frames.append(build_udp(HERE, THERE, 5000, 53, b"hello"))
    path.write_bytes(pcap([((BEGAN + number) * 10**9, frame) for number, frame in enumerate(frames)]))
    programs = {"4000/tcp": {"program": "/usr/bin/curl", "pid": 7, "user": "anna"}}
    path.with_suffix(".programs.json").write_text(json.dumps(programs))
    monkeypatch.setattr(replayed, "EXAMPLE", path)
    return path


def replay(policy: str = "", *, as_json: bool = True) -> str:
    stream = io.StringIO()
    output = Output(as_json=as_json, stream=stream)
    replay_example(MISSING, Policy.parse(f"version = 1\n{policy}"), output)
    return stream.getvalue()


def events(policy: str = "") -> list[Line]:
    return [json.loads(line) for line in replay(policy).splitlines()]


def test_it_says_what_is_missing_and_that_this_is_a_replay(example: Path) -> None:
    first, second, *_, last = events()
    assert first["text"] == MISSING
    assert second["text"] == "This is a replay of example.pcap, not your traffic:"
    assert last["text"] == "End of the replay."
    assert {line["event"] for line in (first, second, last)} == {"notice"}


def test_connections_go_through_the_policy(example: Path) -> None:
    told = events(RULE.format("no web", "80", "block"))[2:-1]
    assert [(line["event"], line["protocol"], line["verdict"]) for line in told] == [
        ("connection", "tcp", "block"),
        ("verdict", "tcp", "block"),
        ("end", "tcp", "block"),
        ("connection", "udp", "accept"),
        ("verdict", "udp", "accept"),
        ("end", "udp", "accept"),
    ]
    assert [line["rule"] for line in told] == ["no web"] * 3 + ["default"] * 3
    assert [line["program"] for line in told] == ["/usr/bin/curl"] * 3 + [""] * 3
    assert [line["time"] for line in told] == [BEGAN, BEGAN, BEGAN + 2, *[BEGAN + 3] * 3]
    assert (told[2]["duration"], told[5]["sent"]) == (2, 5)
    assert told[0]["user"] == "anna"


def test_what_the_policy_would_ask_is_said(example: Path) -> None:
    told = events(RULE.format("who is it", "80", "ask"))[2:-1]
    assert [line["verdict"] for line in told] == ["ask"] * 3 + ["accept"] * 3
    assert {line["rule"] for line in told[:3]} == {"who is it"}


def test_for_people_nothing_is_held(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rows = [row[9:] for row in replay(RULE.format("who", "80", "ask"), as_json=False).splitlines()]
    assert rows == [
        MISSING,
        "This is a replay of example.pcap, not your traffic:",
        "ask      curl (7) → 198.51.100.2:80 tcp  who · python",
        "end      curl (7) → 198.51.100.2:80 tcp  ↑0 B ↓0 B in 2.00 s",
        "accept   unknown → 198.51.100.2:53 udp  default · python",
        "end      unknown → 198.51.100.2:53 udp  ↑5 B ↓0 B in 0.00 s",
        "End of the replay.",
    ]


def test_without_the_capture_only_what_is_missing_is_said(example: Path) -> None:
    example.unlink()
    with pytest.raises(Failure) as caught:
        replay()
    assert (caught.value.message, caught.value.exit_code) == (MISSING, 1)


def test_a_damaged_capture_is_said(example: Path) -> None:
    example.write_bytes(b"no capture at all, but long enough")
    with pytest.raises(Failure) as caught:
        replay()
    assert caught.value.message.startswith(f"{example}: ")
    assert len(caught.value.message.splitlines()) == 1


def test_damaged_programs_are_said(example: Path) -> None:
    example.with_suffix(".programs.json").write_text("[]")
    with pytest.raises(Failure, match=r"example\.programs\.json"):
        replay()


def test_the_capture_that_is_shipped() -> None:
    assert EXAMPLE.stat().st_size < 1 << 20
    told = [line for line in events() if line["event"] != "notice"]
    assert {line["protocol"] for line in told} == {"tcp", "udp"}
    assert {line["remote"].startswith("[") for line in told} == {True, False}
    assert {"curl", "dig"} <= {Path(line["program"]).name for line in told}
    counts = [sum(line["event"] == kind for line in told) for kind in ("connection", "verdict", "end")]
    assert counts[0] == counts[1] == counts[2] > 3


def test_lists_are_looked_into(example: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text(f"{THERE}\n")
    lists = f'[list.bad]\npath = ["{tmp_path}/bad.txt", "{tmp_path}/none.txt"]\n'
    missing, _, said, *told = events(lists + '[[rule]]\nname = "listed"\nlist = "bad"\nverdict = "drop"\n')
    assert missing["text"] == MISSING
    assert said["text"] == f"list 'bad' cannot be used: {tmp_path}/none.txt: No such file or directory"
    assert {line["rule"] for line in told[:-1]} == {"listed"}
