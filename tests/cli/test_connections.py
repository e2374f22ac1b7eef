"""`tidewaiter connections`: the table for any width, JSON, the page that follows, and its errors."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from livelab import PATIENCE, Agent, new_name, scope_of
from tidewaiter.cli import connections as module
from tidewaiter.cli.connections import connections
from tidewaiter.host import state
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Policy
from tidewaiter.service.engine import Engine
from tidewaiter.service.settings import Settings

CURL = Process(pid=4711, path="/usr/bin/curl", arguments=("curl", "x"), uid=0, user="root")


class Fake:
    """Stands for the snapshot of a firewall that runs."""

    def __init__(self) -> None:
        self.found: list[Connection] = []
        self.names: list[str] = []
        self.closed = 0

    def open(self, name: str) -> Fake | None:
        self.names.append(name)
        return self if name != "nobody" else None

    def read(self) -> list[Connection]:
        return list(self.found)

    def close(self) -> None:
        self.closed += 1

    def add(self, remote: str = "192.0.2.9", **fields: Any) -> None:
        local = ip_address("fd00::1" if ":" in remote else "192.0.2.1")
        connection = Connection(
            id=0,
            key=ConnectionKey(Protocol.TCP, local, 4000, ip_address(remote), 443),
            direction=Direction.OUT,
            process=CURL,
            verdict=Verdict.PERMANENT_ACCEPT,
            tier=Tier.KERNEL,
            opened=time.monotonic_ns() - 2_000_000_000,
        )
        for name, value in fields.items():
            setattr(connection, name, value)
        self.found.append(connection)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    one = Fake()
    monkeypatch.setattr(module, "Snapshot", one)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return one


def run(*arguments: str) -> Result:
    return CliRunner().invoke(connections, arguments)


def rows(*arguments: str) -> list[str]:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_no_firewall_runs(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "names", list)
    result = run("--name", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: no firewall 'nobody' runs here; start one with `tidewaiter run`\n"


def test_a_name_that_is_none() -> None:
    result = run("--name", "../x")
    assert result.exit_code == 1
    assert "cannot name a firewall" in result.stderr


def test_nothing_is_open(fake: Fake) -> None:
    assert rows("--json") == []
    assert [line.split() for line in rows()] == [["verdict", "program", "remote", "rule", "sent", "received"]]
    assert fake.names == ["host", "host"]
    assert fake.closed == 2


def test_of_a_firewall_that_was_killed_it_is_said(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    left = state.State("host", 4711, 1, 1, "", "enforce", False, "", ())
    monkeypatch.setattr(state, "load", lambda _name: left)
    monkeypatch.setattr(state, "read_process", lambda _pid: None)
    fake.add()
    result = run("--once")
    assert "192.0.2.9:443" in result.stdout
    assert result.stderr.startswith("The firewall 'host' has ended (process 4711); its kernel half goes on")


def test_the_table(fake: Fake) -> None:
    fake.add(rule="web", sent=1500, received=3)
    (_, row) = rows("--once")
    assert row.split() == (
        "accept curl (4711) → 192.0.2.9:443 tcp web · kernel 1.5 kB 3 B".split()  # noqa: SIM905 - as it is shown
    )


def test_who_carries_most_comes_first(fake: Fake) -> None:
    for size in (5, 700, 60):
        fake.add(sent=size, received=size)
    assert [row.split()[-2] for row in rows()[1:]] == ["700", "60", "5"]


def test_what_is_not_known(fake: Fake) -> None:
    fake.add(process=UNKNOWN, verdict=Verdict.UNDECIDED, tier=None, direction=Direction.IN)
    (_, row) = rows()
    assert row.split() == "undecided unknown (0) ← 192.0.2.9:443 tcp 0 B 0 B".split()  # noqa: SIM905


@pytest.mark.parametrize("remote", ["fd00:ab::9", "2001:db8:ab:1::9", "fe80::1"])
def test_addresses_are_no_markup(fake: Fake, remote: str) -> None:
    fake.add(remote, process=Process(pid=1, path="/x/[red]a"), rule="[/b] :smile:")
    (_, row) = rows()
    assert f"→ [{remote}]:443 tcp" in row
    assert "[red]a (1)" in row
    assert "[/b] :smile: · kernel" in row


def test_names_do_not_steer_the_terminal(fake: Fake) -> None:
    fake.add(process=Process(pid=1, path="/x/\x1b[2J\n\udce9"), rule="a\rb")
    (_, row) = rows()
    assert row.isprintable()
    assert r"\x1b[2J\n\udce9 (1)" in row


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_each_connection_is_one_line(fake: Fake, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    fake.add("2001:db8:1234:5678:9abc:def0:1234:5678", rule="a rule with a long name " * 5, sent=10**9)
    fake.add(process=Process(pid=4_000_000, path="/opt/" + "程" * 100))
    found = rows()
    assert len(found) == 3
    assert max(map(cell_len, found)) <= columns
    assert "…" in found[1]


def test_json_is_one_object_a_line(fake: Fake) -> None:
    fake.add(rule="web", sent=10, received=20)
    fake.add("fd00::9", process=UNKNOWN, tier=Tier.PYTHON, opened=time.monotonic_ns() + 10**9)
    first, second = map(json.loads, rows("--json"))
    assert first["event"] == second["event"] == "connection"
    assert (first["id"], second["id"]) == (1, 2)
    assert (first["program"], first["pid"], first["arguments"]) == ("/usr/bin/curl", 4711, ["curl", "x"])
    assert (first["user"], first["direction"], first["protocol"]) == ("root", "out", "tcp")
    assert (first["local"], second["remote"]) == ("192.0.2.1:4000", "[fd00::9]:443")
    assert (first["verdict"], first["rule"], first["tier"]) == ("accept", "web", "kernel")
    assert (first["sent"], first["received"]) == (10, 20)
    assert 2 <= first["duration"] < 10
    assert abs(first["time"] + first["duration"] - time.time()) < 5
    assert second["duration"] == 0


def test_it_is_closed_whatever_happens(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[Connection]:
        raise PermissionError(1, "Operation not permitted", "/sys/fs/bpf/x")

    monkeypatch.setattr(fake, "read", fails)
    result = run("--json")
    assert (result.exit_code, fake.closed) == (1, 1)
    assert result.stderr == "Error: Operation not permitted (/sys/fs/bpf/x); run it as root\n"


@pytest.fixture
def name(world: World) -> Iterator[str]:
    """A firewall that accepts everything, and its name."""
    settings = Settings(name=new_name(world), scope=scope_of(world))
    engine = Engine(Policy(), settings)
    engine.start()
    yield settings.name
    assert engine.stop() == []


@pytest.mark.live
def test_a_live_connection(world: World, agent: Agent, name: str) -> None:
    made = agent.do("tcp", (plan.ECHO.v6, 7), say="hello")
    assert made.error is None
    result = run("--name", name, "--json")
    (line,) = [one for one in map(json.loads, result.stdout.splitlines()) if one["pid"] == agent.pid]
    assert line["local"] == f"[{plan.CLIENT.v6}]:{made.port}"
    assert line["remote"] == f"[{plan.ECHO.v6}]:7"
    assert (line["sent"], line["received"], line["rule"], line["tier"]) == (5, 5, "default", "kernel")


@pytest.mark.live
def test_the_page_follows_until_it_is_interrupted(world: World, agent: Agent, name: str) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "tidewaiter", "connections", "--name", name]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment) as page:
        os.close(follower)
        made = agent.do("udp", (plan.ECHO.v6, 7), say="hello")
        assert made.error is None
        shown = _until(leader, f"({agent.pid})")
        assert f"[{plan.ECHO.v6}]:7" in shown
        page.send_signal(signal.SIGINT)
        assert page.wait(PATIENCE) == 0
    os.close(leader)


@pytest.mark.live
def test_the_page_ends_with_the_firewall(world: World) -> None:
    leader, follower = pty.openpty()
    engine = Engine(Policy(), Settings(name=new_name(world), scope=scope_of(world)))
    engine.start()
    command = [sys.executable, "-m", "tidewaiter", "connections", "--name", engine.settings.name]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment) as page:
        os.close(follower)
        _until(leader, "verdict")
        assert engine.stop() == []
        _until(leader, f"the firewall '{engine.settings.name}' has stopped")
        assert page.wait(PATIENCE) == 1
    os.close(leader)


def _until(terminal: int, wanted: str) -> str:
    """What a terminal shows until ``wanted`` is there."""
    shown, deadline = "", time.monotonic() + PATIENCE
    while wanted not in shown:
        assert time.monotonic() < deadline, shown
        shown += os.read(terminal, 65536).decode()
    return shown
