"""`tidewaiter lab`: its options and refusals, whose line is whose, and a few runs; the rest is in tests/acceptance."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from click.testing import CliRunner, Result

from livelab import PATIENCE
from tidewaiter.cli import lab as module
from tidewaiter.cli.lab import lab
from tidewaiter.cli.output import Output
from tidewaiter.host.state import StateError
from tidewaiter.lab.world import LabError, World

BLOCK = 'version = 1\n[[rule]]\nname = "no web"\nport = "80"\nverdict = "block"\n'
WEB = ["--", "sh", "-c", "curl -s -m 5 -o /dev/null $LAB_HTTP"]
COMMAND = [sys.executable, "-m", "tidewaiter", "lab"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(lab, [str(argument) for argument in arguments])


@pytest.fixture
def no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """All privileges, but a world that must not be made."""

    def make() -> NoReturn:
        raise AssertionError("a world was made")

    monkeypatch.setattr(module, "missing_privileges", lambda: "")
    monkeypatch.setattr(module, "World", make)


# --- what it refuses


def test_without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_privileges", lambda: "This process lacks CAP_BPF.")
    result = run("true")
    assert (result.exit_code, result.stdout) == (1, "")
    expected = "The lab needs its own network and the live kernel. This process lacks CAP_BPF."
    assert result.stderr == f"Error: {expected}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'COMMAND...'."),
        (["--json"], "Missing argument 'COMMAND...'."),
        (["--mode", "watch", "true"], "'watch' is not one of 'observe', 'enforce'."),
        (["--fail", "x", "true"], "'x' is not one of 'open', 'closed'."),
        (["--timeout", "nan", "true"], "nan is no number of seconds."),
    ],
)
def test_mistakes_are_named(no_world: None, arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]


def test_a_bad_policy_is_said_before_a_world_is_made(no_world: None, tmp_path: Path, signals: None) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("version = 7\n")
    result = run("--policy", policy, "true")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {policy}:1:11: ")


def test_a_world_that_cannot_be_made(no_world: None, monkeypatch: pytest.MonkeyPatch, signals: None) -> None:
    def make() -> NoReturn:
        raise LabError("the lab needs the command ip: install the package iproute2")

    monkeypatch.setattr(module, "World", make)
    result = run("true")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: the lab needs the command ip: install the package iproute2\n"


# --- standard output for two


class Text(io.TextIOWrapper):
    """A standard output, to look at afterwards."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())

    @property
    def written(self) -> bytes:
        return cast("io.BytesIO", self.buffer).getvalue()


def test_a_line_of_ours_begins_on_its_own_line() -> None:
    stream = Text()
    shared = module._Shared(stream)
    shared.write("{1}\n")
    shared.pass_on(b"half ")
    shared.pass_on(b"a line")
    shared.write("{2}\n")
    shared.write("{3}\n")
    shared.pass_on(b"whole\n")
    shared.write("{4}\n")
    shared.flush()
    assert stream.written == b"{1}\nhalf a line\n{2}\n{3}\nwhole\n{4}\n"


def test_the_commands_bytes_pass_as_they_are() -> None:
    stream = Text()
    data = bytes(range(256)) * 3
    module._Shared(stream).pass_on(data)
    assert stream.written == data


def test_lines_of_two_threads_do_not_mix() -> None:
    stream = Text()
    shared = module._Shared(stream)
    output = Output(as_json=True, stream=shared)

    def speak() -> None:
        for _ in range(300):
            shared.pass_on(b"theirs\n")

    thread = threading.Thread(target=speak)
    thread.start()
    for _ in range(300):
        output.put({"event": "notice", "time": 0.0, "text": "ours"})
        output.flush()
    thread.join()
    lines = stream.written.splitlines()
    assert (len(lines), len(set(lines))) == (600, 2)


class Child:
    """A process of which only the standard output matters."""

    def __init__(self, data: bytes) -> None:
        read, write = os.pipe()
        os.write(write, data)
        os.close(write)
        self.stdout = os.fdopen(read, "rb")
        self.waited = False

    def wait(self) -> int:
        self.waited = True
        return 0


class Gone:
    """A standard output that nobody reads any more."""

    def pass_on(self, data: bytes) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("gone", [False, True])
def test_when_the_output_ends_the_command_is_waited_for(gone: bool) -> None:
    child, done, stream = Child(b"text\n"), threading.Event(), Text()
    shared = Gone() if gone else module._Shared(stream)
    module._copy(cast("Any", child), cast("Any", shared), done)
    assert stream.written == (b"" if gone else b"text\n")
    assert done.is_set()
    assert child.waited
    assert child.stdout.closed  # so that the command hears of it too


# --- on the live kernel


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


@pytest.mark.live
def test_observe_refuses_nothing(tmp_path: Path, signals: None) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(BLOCK)
    result = run("--mode", "observe", "--policy", policy, "--json", *WEB)
    assert result.exit_code == 0
    (verdict,) = [line for line in events(result) if line["event"] == "verdict"]
    assert (verdict["verdict"], verdict["rule"], verdict["tier"]) == ("block", "no web", "kernel")
    (end,) = [line for line in events(result) if line["event"] == "end"]
    assert end["received"] > 0


@pytest.mark.live
def test_options_behind_the_command_are_its_own(signals: None) -> None:
    result = run("--json", "--quiet", "echo", "--json", "--no-firewall")
    assert (result.exit_code, result.stdout) == (0, "--json --no-firewall\n")


@pytest.mark.live
def test_nobody_answers(tmp_path: Path, signals: None) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(BLOCK.replace("block", "ask"))
    result = run("--policy", policy, "--timeout", "0.2", "--on-timeout", "block", "--json", *WEB)
    assert result.exit_code == 7  # curl(1): failed to connect
    told = [(line["event"], line["verdict"]) for line in events(result) if "verdict" in line]
    assert told[:2] == [("connection", "undecided"), ("verdict", "block")]
    (verdict,) = [line for line in events(result) if line["event"] == "verdict"]
    assert 0.2 <= verdict["held"] < 2
    assert events(result)[-1]["timed_out"] == 1


@pytest.mark.live
def test_a_changed_policy_is_read_again(tmp_path: Path, signals: None) -> None:
    policy, new = tmp_path / "policy.toml", tmp_path / "new.toml"
    policy.write_text(BLOCK)
    new.write_text("version = 1\n")
    fetch = "curl -s -m 5 -o /dev/null $LAB_HTTP"
    until = f"{fetch} && exit 9; mv {new} {policy}; for i in $(seq 300); do {fetch} && exit 0; sleep 0.1; done; exit 8"
    result = run("--policy", policy, "--json", "--", "sh", "-c", until)
    assert result.exit_code == 0
    told = [line["text"] for line in events(result) if line["event"] == "notice"]
    assert f"{policy} is in force" in told


@pytest.mark.live
def test_what_could_not_be_started(monkeypatch: pytest.MonkeyPatch, signals: None) -> None:
    """The world goes, and one sentence says why."""
    worlds: list[World] = []

    class Seen(World):
        def __enter__(self) -> Seen:
            worlds.append(self)
            super().__enter__()
            return self

    def refuses(*_: object, **__: object) -> NoReturn:
        raise StateError("no room")

    monkeypatch.setattr(module, "World", Seen)
    monkeypatch.setattr("tidewaiter.host.install.install", refuses)
    result = run("true")
    assert (result.exit_code, result.stderr) == (1, "Error: no room\n")
    (world,) = worlds
    assert not world.cgroup.exists()
    assert not world.client_namespace.exists()


@pytest.mark.live
def test_a_reader_that_goes_away_ends_it() -> None:
    """As in `tidewaiter lab --json -- yes | head -1`."""
    with subprocess.Popen(
        [*COMMAND, "--json", "--", "yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "y\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 128 + 13  # SIGPIPE, as the command alone would end
        assert process.stderr.read() == ""


def test_an_owner_is_asked_so_nothing_is_only_observed() -> None:
    done = CliRunner().invoke(lab, ["--device", "/tmp/x", "--mode", "observe", "--", "true"])
    assert done.exit_code == 2
    assert "observing asks nobody: leave --mode away" in done.output
