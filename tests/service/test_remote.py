"""service/remote.py: a firewall whose driver is elsewhere, and what it says when it is not let in."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from livelab import PATIENCE, Agent, eventually
from mmdb import write_mmdb
from owning import serving
from tidewaiter.driver.core import Decided, Ended
from tidewaiter.host.processes import user_name
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy
from tidewaiter.protocol import command
from tidewaiter.protocol.command import VerdictCommand
from tidewaiter.protocol.info import ConnectionInfo, LogLine, PayloadLayer, Severity, encode
from tidewaiter.service import keeper, remote, remote_device
from tidewaiter.service.device import DeviceError
from tidewaiter.service.remote import RemoteEngine
from tidewaiter.service.settings import Settings

NO_TELNET = Policy.parse('version = 1\n[[rule]]\nname = "no telnet"\nport = "23/tcp"\nverdict = "block"')
NOTHING = Policy.parse('version = 1\n[default]\nout = "block"')
ASK = Policy.parse('version = 1\n[default]\nout = "ask"')
PROGRAMS = Policy.parse('version = 1\n[[rule]]\nname = "cats"\nprogram = "/bin/cat"\nverdict = "block"')


class Remote:
    """A remote engine with what it has told."""

    def __init__(self, path: Path, policy: Policy, **options: object) -> None:
        self.events: list[object] = []
        self.notices: list[str] = []
        settings = Settings(**options)  # type: ignore[arg-type]
        self.engine = RemoteEngine(
            path, policy, settings, listener=self.events.append, notice=self.notices.append
        )

    def about(self, kind: type[Decided | Ended], port: int) -> list[Connection]:
        return [
            event.connection
            for event in list(self.events)
            if isinstance(event, kind) and event.connection.key.remote_port == port
        ]


@contextmanager
def owning(path: Path, policy: Policy, **options: object) -> Iterator[Remote]:
    remote = Remote(path, policy, **options)
    remote.engine.start()
    try:
        yield remote
        assert remote.engine.running
    finally:
        assert remote.engine.stop() == []
    assert not remote.engine.running
    assert remote.engine.failure is None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device"


@pytest.mark.live
def test_it_decides_by_its_policy(world: World, agent: Agent, path: Path) -> None:
    with serving(world, path), owning(path, NO_TELNET) as remote:
        made = agent.do("tcp", (plan.ECHO.v4, 7), say="hello")
        assert made.heard == "hello"
        assert agent.do("tcp", (plan.ECHO.v6, 23)).error == "ConnectionRefusedError"
        agent.do("close", of=made.id)
        eventually(lambda: bool(remote.about(Ended, 7)), "its end is told", PATIENCE)
        (ended,) = remote.about(Ended, 7)
        assert (ended.sent, ended.received, ended.verdict) == (5, 5, Verdict.PERMANENT_ACCEPT)
        assert (ended.process.pid, ended.rule) == (agent.pid, "default")
        (blocked,) = remote.about(Decided, 23)
        assert (blocked.verdict, blocked.rule) == (Verdict.PERMANENT_BLOCK, "no telnet")
        statistics = remote.engine.statistics()
        assert (statistics["released"], statistics["refused"]) == (1, statistics["held"] - 1)
    assert remote.notices == []


@pytest.mark.live
def test_another_policy_holds_for_open_connections(world: World, agent: Agent, path: Path) -> None:
    with serving(world, path), owning(path, NO_TELNET) as remote:
        made = agent.do("tcp", (plan.ECHO.v4, 7), say="hello")
        remote.engine.load(NOTHING)
        eventually(
            lambda: agent.do("say", of=made.id, say="again", timeout=0.3).error is not None,
            "it is cut off",
            PATIENCE,
        )
        assert agent.do("tcp", (plan.ECHO.v4, 7)).error is not None


@pytest.mark.live
def test_it_looks_into_lists_and_where_addresses_are(
    world: World, agent: Agent, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK", 0.05)
    policy, bad = tmp_path / "policy.toml", tmp_path / "bad.txt"
    write_mmdb(tmp_path / "c.mmdb", {f"{plan.TLS.v4}/32": {"country": {"iso_code": "KP"}}})
    bad.write_text("198.51.100.1\n")
    policy.write_text(
        "version = 1\n[list.bad]\npath = 'bad.txt'\n[geography]\ncountry = 'c.mmdb'\n"
        "[[rule]]\nname = 'listed'\nlist = 'bad'\nverdict = 'block'\n"
        "[[rule]]\nname = 'there'\ncountry = 'KP'\nverdict = 'block'\n"
    )
    with serving(world, path), owning(path, Policy.load(policy)) as remote:
        made = agent.do("tcp", (plan.ECHO.v4, 7), say="hello")
        other = agent.do("tcp", (plan.WEB.v4, 7), say="hello")
        assert (made.heard, other.heard) == ("hello", "hello")
        assert agent.do("tcp", (plan.TLS.v4, 7)).error == "ConnectionRefusedError"
        (tmp_path / "new").write_text(f"{plan.ECHO.v4}\n")
        (tmp_path / "new").replace(bad)
        eventually(
            lambda: agent.do("say", of=made.id, say="again", timeout=0.3).error is not None,
            "it is cut off",
            PATIENCE,
        )
        assert agent.do("tcp", (plan.ECHO.v4, 7)).error == "ConnectionRefusedError"
        assert agent.do("say", of=other.id, say="more").heard == "more"
        rules = {connection.rule for connection in remote.about(Decided, 7)}
        assert rules == {"default", "listed", "there"}
    assert remote.notices == [f"list 'bad' from {bad}: 0 names and 1 ranges of addresses (networks)"]


@pytest.mark.live
def test_what_the_policy_says_to_ask_is_answered_by_the_time_out(
    world: World, agent: Agent, path: Path
) -> None:
    with serving(world, path), owning(path, ASK, timeout=0.2, on_timeout=Verdict.PERMANENT_ACCEPT) as remote:
        assert agent.do("tcp", (plan.ECHO.v4, 7), say="hello", timeout=PATIENCE).heard == "hello"
        (decided,) = remote.about(Decided, 7)
        assert decided.rule == "time-out"


@pytest.mark.live
def test_it_comes_back_to_a_driver_that_starts_again(world: World, agent: Agent, path: Path) -> None:
    with serving(world, path):
        remote = Remote(path, NO_TELNET)
        remote.engine.start()
    try:
        eventually(lambda: bool(remote.notices), "it says so", PATIENCE)
        remote.engine.load(NOTHING)  # meanwhile
        with serving(world, path):
            eventually(lambda: len(remote.notices) == 2, "it is back", PATIENCE)
            assert agent.do("tcp", (plan.ECHO.v4, 7)).error == "ConnectionRefusedError"
        eventually(lambda: len(remote.notices) == 3, "it says so again", PATIENCE)
    finally:
        remote.engine.stop()
    assert remote.notices == [
        f"The driver at {path} has gone: it decides without us until it is back",
        f"The driver at {path} is back",
        f"The driver at {path} has gone: it decides without us until it is back",
    ]


@pytest.mark.live
def test_a_device_has_one_owner(world: World, path: Path) -> None:
    with (
        serving(world, path),
        owning(path, NO_TELNET),
        pytest.raises(DeviceError, match="does not let us own it: it has another owner"),
    ):
        Remote(path, NO_TELNET).engine.start()


def test_no_driver(path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no driver serves .*: start one with `tidewaiter driver`"):
        Remote(path, NO_TELNET).engine.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with pytest.raises(DeviceError, match="no driver serves"):
        Remote(path, NO_TELNET).engine.start()
    with pytest.raises(DeviceError, match="cannot be reached: "):
        Remote(path / "below", NO_TELNET).engine.start()


def test_one_that_does_not_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_device, "_PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(DeviceError, match="does not answer"):
            Remote(path, NO_TELNET).engine.start()


@pytest.mark.other_users
@pytest.mark.live
def test_a_socket_that_is_not_for_this_user(path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from tidewaiter.service.remote import *
os.chdir({str(path.parent)!r})
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
try:
    RemoteEngine(Path("device"), Policy(), Settings(), listener=None, notice=print).start()
except DeviceError as error:
    print(error)
"""
    path.parent.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as private:
        private.bind(str(path))
        private.listen()
        path.chmod(0o600)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    user = user_name(65534) or "65534"
    assert done.stdout == f"user {user} may not connect to device: see --access of its driver\n"


@pytest.mark.parametrize("may", [True, False])
def test_rules_about_programs_that_cannot_be_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch, may: bool
) -> None:
    monkeypatch.setattr(remote, "effective_capabilities", lambda: (1 << 19) * may)
    assert Remote(path, NO_TELNET).notices == []
    notices = Remote(path, PROGRAMS).notices
    if may:
        assert notices == []
    else:
        user = user_name(os.geteuid())
        assert notices == [
            f"Rules that name programs ('cats', say) match only those that user {user} runs: "
            "give them to the driver's --policy, or CAP_SYS_PTRACE to this process"
        ]


def test_a_question_in_the_first_word_is_answered(path: Path) -> None:
    """The wire by hand: a log line and a question in one piece."""
    asked = ConnectionInfo(9, 1, 0, 6, bytes(4), bytes(4), 1, 2, PayloadLayer.TRANSPORT, b"")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as driver:
        driver.bind(str(path))
        driver.listen()
        remote = Remote(path, NO_TELNET)
        starting = threading.Thread(target=remote.engine.start)
        starting.start()
        peer, _ = driver.accept()
        with peer:
            peer.settimeout(PATIENCE)
            peer.sendall(encode(LogLine(Severity.INFO, "a line")) + encode(asked))
            starting.join()
            verdict, received = command.encode(VerdictCommand(9, Verdict.PERMANENT_ACCEPT)), b""
            while not received.endswith(verdict):
                received += peer.recv(100)
        remote.engine.stop()


def test_told_to_stop_while_the_driver_is_gone(path: Path) -> None:
    """Wherever it is then: between two attempts, or waiting for the first word of one that says nothing."""
    for listens in (False, True):
        remote = Remote(path, NO_TELNET)
        accepted = itertools.count()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as driver:
            driver.bind(str(path))
            driver.listen()

            def answer(driver: socket.socket = driver, accepted: itertools.count[int] = accepted) -> None:
                peer, _ = driver.accept()
                peer.sendall(bytes([0, 2, 0, 0, 0, 3, 65]))  # a log line
                peer.recv(100)
                peer.close()
                next(accepted)

            answering = threading.Thread(target=answer)
            answering.start()
            remote.engine.start()
            answering.join()
            if not listens:
                driver.close()
                path.unlink()
            eventually(lambda remote=remote: bool(remote.notices), "it says so", PATIENCE)  # type: ignore[misc]
            remote.engine.stop()
        path.unlink(missing_ok=True)
        assert len(remote.notices) == 1
