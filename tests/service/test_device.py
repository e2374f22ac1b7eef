"""service/device.py: another program owns the driver through a Unix socket, on the live kernel."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from livelab import PATIENCE, Agent, capture_at, eventually, new_name, scope_of
from owning import Owner, owned, serving, update
from tidewaiter.driver.core import Decided
from tidewaiter.host.redirect import RedirectPorts
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol.command import (
    ClearCache,
    GetBandwidthStats,
    GetLogs,
    PrintMemoryStats,
    Shutdown,
    Update,
    VerdictCommand,
    encode,
)
from tidewaiter.protocol.info import BandwidthStats, ConnectionEnd, ConnectionInfo, LogLine, Severity
from tidewaiter.service.device import Access, DeviceError, DeviceServer
from tidewaiter.service.settings import Settings

ECHO, ECHO6 = (plan.ECHO.v4, 7), (plan.ECHO.v6, 7)
BOTH = pytest.mark.parametrize("to", [ECHO, ECHO6], ids=["v4", "v6"])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])

pytestmark = pytest.mark.live


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device"


@BOTH
@KINDS
def test_an_owner_decides(world: World, agent: Agent, path: Path, to: tuple[str, int], kind: str) -> None:
    with owned(world, path) as owner:
        trying = agent.start(kind, to, say="hello")
        (asked,) = owner.answer(Verdict.PERMANENT_ACCEPT)
        assert asked.process_id == agent.pid
        assert (asked.direction, asked.protocol, asked.remote_port) == (0, 6 if kind == "tcp" else 17, 7)
        assert socket.inet_ntop(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, asked.remote_ip) == to[0]
        made = trying.result(PATIENCE)
        assert (made.heard, made.port) == ("hello", asked.local_port)
        assert agent.do("say", of=made.id, say="again").heard == "again"
        agent.do("close", of=made.id)
        end = owner.next(ConnectionEnd)
        assert (end.process_id, end.local_port, end.remote_ip) == (agent.pid, made.port, asked.remote_ip)
        assert owner.silent()


@KINDS
@pytest.mark.parametrize("verdict", [Verdict.PERMANENT_BLOCK, Verdict.BLOCK])
def test_an_owner_blocks(world: World, agent: Agent, path: Path, kind: str, verdict: Verdict) -> None:
    """portmaster-kext §2.3.2."""
    with capture_at(world) as capture, owned(world, path) as owner:
        trying = agent.start(kind, ECHO, say="hello")
        owner.answer(verdict)
        assert trying.result(PATIENCE).error == "ConnectionRefusedError"
        assert capture.to_port(7) == []


def test_a_verdict_that_is_not_permanent_holds_for_one_packet(world: World, agent: Agent, path: Path) -> None:
    """§2.3.5: Both directions are asked about, packet by packet, until the owner has had enough."""
    with owned(world, path) as owner:
        trying = agent.start("udp", ECHO, say="hello")
        out = owner.answer(Verdict.ACCEPT)[0]
        back = owner.answer(Verdict.ACCEPT)[0]
        made = trying.result(PATIENCE)
        assert made.heard == "hello"
        assert (out.local_port, back.local_port) == (made.port, made.port)
        again = agent.start("say", of=made.id, say="again")
        owner.answer(Verdict.PERMANENT_ACCEPT)
        assert again.result(PATIENCE).heard == "again"
        assert agent.do("say", of=made.id, say="and again").heard == "and again"
        assert owner.silent()


def test_a_verdict_that_is_not_permanent_lets_a_handshake_through_and_no_more(
    world: World, agent: Agent, path: Path
) -> None:
    """§2.3.5: What comes in: the answer to its SYN was for its SYN."""
    port = 8107
    agent.do("listen", (plan.CLIENT.v4, port))
    heard: list[bytes] = []

    def visit() -> None:
        with socket.create_connection((plan.CLIENT.v4, port), timeout=PATIENCE) as made:
            made.sendall(b"hello")
            heard.append(made.recv(10))

    with owned(world, path) as owner:
        visitor = threading.Thread(target=lambda: world.in_server(visit))
        visitor.start()
        (syn,) = owner.answer(Verdict.ACCEPT)
        assert (syn.direction, syn.local_port, syn.process_id) == (1, port, agent.pid)
        (data,) = owner.answer(Verdict.PERMANENT_ACCEPT)
        assert (data.local_port, data.remote_port) == (port, syn.remote_port)
        visitor.join(PATIENCE)
        assert heard == [b"hello"]
        assert owner.silent()


@pytest.mark.parametrize("here", plan.CLIENT, ids=["v4", "v6"])
def test_what_a_datagram_server_sends_back_is_asked_about_too(
    world: World, agent: Agent, path: Path, here: str
) -> None:
    """§2.3.5 for a socket that has said nothing yet: an answer for what came in is none for what goes out."""
    agent.do("bound", (here, 8108))
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    with (
        owned(world, path) as owner,
        world.in_server(lambda: socket.socket(family, socket.SOCK_DGRAM)) as peer,
    ):
        peer.connect((here, 8108))

        def say(text: bytes, coming: Verdict, going: Verdict) -> None:
            peer.send(text)
            came, went = owner.answer(coming)[0], owner.answer(going)[0]
            assert (came.process_id, came.local_port, came.direction) == (agent.pid, 8108, 1)
            assert (went.local_port, went.remote_port) == (8108, came.remote_port)
            assert went.payload.endswith(text), "the packet that goes out is the one that is asked about"

        for text in (b"one", b"two"):
            say(text, Verdict.ACCEPT, Verdict.ACCEPT)
            peer.settimeout(PATIENCE)
            assert peer.recv(10) == text
        for refusal in (Verdict.DROP, Verdict.BLOCK):
            say(b"three", Verdict.ACCEPT, refusal)
            peer.settimeout(0.3)
            with pytest.raises(TimeoutError):
                peer.recv(10)
        peer.send(b"four")
        owner.answer(Verdict.DROP)
        assert owner.silent(), "what was dropped is not answered"
        say(b"five", Verdict.ACCEPT, Verdict.PERMANENT_ACCEPT)
        peer.settimeout(PATIENCE)
        assert peer.recv(10) == b"five"
        peer.send(b"six")
        assert peer.recv(10) == b"six"
        assert owner.silent()


@BOTH
@KINDS
def test_an_update_holds_for_the_next_packet(
    world: World, agent: Agent, path: Path, to: tuple[str, int], kind: str
) -> None:
    """portmaster-kext §2.6."""
    with owned(world, path) as owner:
        trying = agent.start(kind, to, say="hello")
        (asked,) = owner.answer(Verdict.PERMANENT_ACCEPT)
        made = trying.result(PATIENCE)
        owner.obeyed(update(asked, Verdict.UNDECIDED))
        again = agent.start("say", of=made.id, say="asked")
        assert owner.answer(Verdict.PERMANENT_ACCEPT)[0].local_port == made.port
        assert again.result(PATIENCE).heard.endswith("asked")
        owner.obeyed(update(asked, Verdict.PERMANENT_DROP))
        assert agent.do("say", of=made.id, say="cut").error in {"ConnectionAbortedError", "OSError"}
        assert owner.silent()


def test_a_redirect_that_is_not_allowed_is_logged(world: World, agent: Agent, path: Path) -> None:
    with owned(world, path) as owner:
        trying = agent.start("udp", ECHO, say="hello")
        (asked,) = owner.answer(Verdict.REDIRECT_TUNNEL)
        owner.send(GetLogs())
        line = owner.next(LogLine)
        assert (line.severity, "redirects nothing" in line.text) == (Severity.ERROR, True)
        owner.send(VerdictCommand(asked.id, Verdict.PERMANENT_ACCEPT))
        assert trying.result(PATIENCE).heard == "hello"


def test_an_owner_redirects(world: World, agent: Agent, path: Path) -> None:
    """§2.5: To a proxy of the client's own, which says where it was."""
    agent.do("bound", ("127.0.0.1", 7171))
    with serving(world, path, redirect=RedirectPorts(tunnel=7171)), Owner(path) as owner:
        owner.obeyed()
        with capture_at(world) as capture:
            trying = agent.start("udp", ("203.0.113.5", 4433), say="hello")
            (asked,) = owner.answer(Verdict.REDIRECT_TUNNEL)
            assert socket.inet_ntop(socket.AF_INET, asked.remote_ip) == "203.0.113.5"
            assert trying.result(PATIENCE).heard == "hello"
            assert capture.to_port(4433) == []


def test_an_update_of_nothing_is_logged(world: World, path: Path) -> None:
    with owned(world, path) as owner:
        owner.send(
            Update(6, bytes(4), 1, bytes(4), 2, Verdict.PERMANENT_BLOCK),
            VerdictCommand(9, Verdict.DROP),
            GetLogs(),
        )
        first, second = owner.next(LogLine), owner.next(LogLine)
        assert {first.severity, second.severity} == {Severity.ERROR}
        assert "No connection" in first.text
        assert "id 9" in second.text


def test_a_cleared_cache_asks_about_live_connections(world: World, agent: Agent, path: Path) -> None:
    """§2.6: All of them, and once: the new verdict is kept as the first one was."""
    with owned(world, path) as owner:
        made = []
        for to in (ECHO, ECHO6):
            trying = agent.start("tcp", to, say="hello")
            owner.answer(Verdict.PERMANENT_ACCEPT)
            made.append(trying.result(PATIENCE))
        owner.obeyed(ClearCache())
        for one in made:
            again = agent.start("say", of=one.id, say="again")
            assert owner.answer(Verdict.PERMANENT_ACCEPT)[0].local_port == one.port
            assert again.result(PATIENCE).heard == "again"
        assert [agent.do("say", of=one.id, say="more").heard for one in made] == ["more", "more"]
        assert owner.silent()


@KINDS
@pytest.mark.parametrize(
    "verdict", [Verdict.UNDETERMINABLE, Verdict.FAILED], ids=lambda verdict: verdict.name
)
def test_what_cannot_be_known_is_refused_for_good(
    world: World, agent: Agent, path: Path, kind: str, verdict: Verdict
) -> None:
    """§2.2.3: as a permanent block, and nobody is asked again."""
    with owned(world, path) as owner, capture_at(world) as capture:
        trying = agent.start(kind, ECHO, say="hello")
        owner.answer(verdict)
        assert trying.result(PATIENCE).error == "ConnectionRefusedError"
        if kind == "udp":
            assert agent.do("say", of=1, say="again", timeout=1).error is not None
        assert owner.silent()
        assert capture.to_port(7) == []


@BOTH
@pytest.mark.parametrize("verdict", [Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_DROP])
def test_a_fragmented_datagram_is_one_question(
    world: World, agent: Agent, path: Path, to: tuple[str, int], verdict: Verdict
) -> None:
    """§2.3.1: of a refused one no fragment leaves."""
    with owned(world, path) as owner, capture_at(world) as capture:
        trying = agent.start("udp", to, say="x" * 4000, timeout=1 if verdict.passes is False else PATIENCE)
        (asked,) = owner.answer(verdict)
        assert (asked.protocol, asked.remote_port) == (17, 7)
        made = trying.result(PATIENCE)
        assert made.heard == "x" * 4000 * verdict.passes
        assert owner.silent()
        sent = [one for one in capture.packets() if str(one.destination) == to[0] and one.protocol == 17]
        assert len(sent) > 1 if verdict.passes else sent == []


def test_the_oldest_question_gives_way(world: World, agent: Agent, path: Path) -> None:
    """§2.5: on the live kernel: the packet is dropped, and its connection asked about again."""
    with serving(world, path, held=2) as server, Owner(path) as owner:
        owner.obeyed()
        trying, asked = [], []
        for text in ("one", "two", "three"):
            trying.append(agent.start("udp", ECHO, say=text, timeout=6))
            asked.append(owner.next(ConnectionInfo))
        assert server.engine.statistics()["gave_way"] == 1
        for one in asked:  # the first id is known no more
            owner.send(VerdictCommand(one.id, Verdict.PERMANENT_ACCEPT))
        results = [one.result(PATIENCE) for one in trying]
        assert [result.error for result in results] == ["TimeoutError", None, None]
        again = agent.start("say", of=1, say="again", timeout=PATIENCE)
        owner.answer(Verdict.PERMANENT_ACCEPT)
        assert again.result(PATIENCE).heard == "again"


def test_bandwidth_is_what_has_passed_since(world: World, agent: Agent, path: Path) -> None:
    """portmaster-kext §2.5."""
    with owned(world, path) as owner:
        trying = agent.start("tcp", ECHO6, say="hello")
        owner.answer(Verdict.PERMANENT_ACCEPT)
        made = trying.result(PATIENCE)
        totals = []
        for text in ("", "123"):
            if text:
                agent.do("say", of=made.id, say=text)
            owner.send(GetBandwidthStats())
            stats = owner.next(BandwidthStats)
            assert (stats.version, stats.protocol) == (6, 6)
            (entry,) = stats.entries
            totals.append((entry.local_port, entry.transmitted_bytes, entry.received_bytes))
        assert totals == [(made.port, 5, 5), (made.port, 3, 3)]


@KINDS
def test_bytes_need_not_be_counted(world: World, agent: Agent, path: Path, kind: str) -> None:
    """§2.1: the rest goes on."""
    with serving(world, path, count=False) as server, Owner(path) as owner:
        owner.obeyed()
        trying = agent.start(kind, ECHO, say="hello")
        owner.answer(Verdict.PERMANENT_ACCEPT)
        made = trying.result(PATIENCE)
        assert made.heard == "hello"
        owner.obeyed(GetBandwidthStats())
        (connection,) = server.engine.driver.known.values()
        assert (connection.sent, connection.received) == (0, 0)
        agent.do("close", of=made.id)
        assert owner.next(ConnectionEnd).local_port == made.port
        owner.obeyed(GetBandwidthStats())
        assert not any(isinstance(info, BandwidthStats) for info in owner.infos)
        assert (connection.sent, connection.received) == (0, 0)


def test_there_is_one_owner_at_a_time(world: World, agent: Agent, path: Path) -> None:
    """portmaster-kext §2."""
    with serving(world, path):
        with Owner(path) as first:
            eventually(lambda: True, "")
            with Owner(path) as second:
                assert second.ended()
            trying = agent.start("tcp", ECHO, say="x")
            first.answer(Verdict.PERMANENT_ACCEPT)
            assert trying.result(PATIENCE).heard == "x"
        time.sleep(0.1)
        with Owner(path) as third:
            trying = agent.start("tcp", ECHO, say="x")
            third.answer(Verdict.PERMANENT_ACCEPT)
            assert trying.result(PATIENCE).heard == "x"


@pytest.mark.parametrize("fail_open", [True, False])
def test_without_an_owner_fail_decides_packet_by_packet(
    world: World, agent: Agent, path: Path, fail_open: bool
) -> None:
    with capture_at(world) as capture, serving(world, path, fail="open" if fail_open else "closed") as server:
        tried = agent.do("udp", ECHO, say="x", timeout=0.5)
        assert (tried.error is None) is fail_open
        if not fail_open:
            assert capture.to_port(7) == []
        with Owner(path) as owner:
            eventually(lambda: server._owner is not None, "it is the owner")
            trying = agent.start("say", of=tried.id, say="y", timeout=3)
            owner.answer(Verdict.ACCEPT)
            back = owner.next(ConnectionInfo)
            assert back.local_port
        # the packet that was held for the owner goes as `fail` says
        assert (trying.result(PATIENCE).error is None) is fail_open


def test_the_owners_own_traffic_is_never_held(world: World, path: Path) -> None:
    """portmaster-kext §2."""
    code = f"""
import socket, sys
device = socket.socket(socket.AF_UNIX); device.connect({str(path)!r})
for _ in range(20):
    with socket.create_connection({ECHO!r}, 5) as it:
        it.sendall(b"x")
        assert it.recv(10) == b"x"
device.setblocking(False)
try:
    data = device.recv(100)
except BlockingIOError:
    data = b""
sys.exit(any(kind in (1, 2) for kind in data[:1]))
"""
    with serving(world, path) as server:
        owner = world.popen([sys.executable, "-c", code])
        assert owner.wait(PATIENCE) == 0
        found = server.engine.statistics()
        assert (found["held"], found["timed_out"]) == (0, 0)
        assert found["kernel_held"] >= 20, "each was answered on sight"


@pytest.mark.parametrize("bad", [b"\x63", b"\xff" * 100])
def test_what_cannot_be_framed_ends_the_stream(world: World, agent: Agent, path: Path, bad: bytes) -> None:
    with serving(world, path):
        with Owner(path) as owner:
            owner.socket.sendall(bad)
            assert owner.ended()
        time.sleep(0.1)
        with Owner(path) as owner:
            owner.send(GetLogs())
            texts = [owner.next(LogLine).text for _ in range(2)]
            assert f"Command {bad[0]} is not known" in texts[0]


def test_a_verdict_out_of_range_changes_nothing_else(world: World, agent: Agent, path: Path) -> None:
    with owned(world, path) as owner:
        trying = agent.start("tcp", ECHO, say="x")
        asked = owner.next(ConnectionInfo)
        owner.socket.sendall(struct.pack("<BQB", 1, asked.id, 77) + encode(GetLogs()))
        assert owner.next(LogLine).severity == Severity.ERROR
        owner.send(VerdictCommand(asked.id, Verdict.PERMANENT_ACCEPT))
        assert trying.result(PATIENCE).heard == "x"


def test_the_log_has_errors_in_the_order_of_the_commands(world: World, path: Path) -> None:
    with owned(world, path) as owner:
        unknown = [encode(VerdictCommand(number, Verdict.ACCEPT)) for number in (8, 9)]
        owner.socket.sendall(struct.pack("<BQB", 1, 7, 77).join(unknown) + encode(GetLogs()))
        lines = [owner.next(LogLine).text for _ in range(3)]
        assert ["id 8:" in lines[0], "77 is out of range" in lines[1], "id 9:" in lines[2]] == [True] * 3, (
            lines
        )


def test_commands_may_come_byte_by_byte(world: World, agent: Agent, path: Path) -> None:
    with owned(world, path) as owner:
        trying = agent.start("tcp", ECHO, say="x")
        asked = owner.next(ConnectionInfo)
        for byte in encode(VerdictCommand(asked.id, Verdict.PERMANENT_ACCEPT)):
            owner.socket.sendall(bytes([byte]))
            time.sleep(0.01)
        assert trying.result(PATIENCE).heard == "x"


def test_shutdown_resolves_what_is_held_and_ends_the_stream(world: World, agent: Agent, path: Path) -> None:
    """portmaster-kext §2."""
    with serving(world, path) as server, Owner(path) as owner:
        trying = agent.start("tcp", ECHO, say="x", timeout=3)
        owner.next(ConnectionInfo)
        owner.send(Shutdown())
        assert server.finished.wait(PATIENCE)
        assert server.stop() == []
        assert owner.ended()
        assert trying.result(PATIENCE).heard == "x", "its SYN comes again, and nobody holds it"


def test_an_owner_that_reads_nothing_costs_nothing(world: World, agent: Agent, path: Path) -> None:
    """The events wait in the device and are bounded; other packets are served."""
    decided: list[Verdict] = []
    server = DeviceServer(
        path,
        Settings(name=new_name(world), scope=scope_of(world), timeout=0.2),
        listener=lambda event: (
            decided.append(event.connection.verdict) if isinstance(event, Decided) else None
        ),
    )
    server.start()
    try:
        with Owner(path) as owner:
            owner.obeyed()  # by then it is the owner; from now on it reads nothing
            flood = agent.do("flood", targets=[ECHO] * 20, timeout=1)
            assert flood.results is not None
            assert {error for error, _ in flood.results} == {"ConnectionRefusedError"}
        assert set(decided) == {Verdict.PERMANENT_BLOCK}
    finally:
        assert server.stop() == []


def closed_for(path: Path, *groups: int) -> bool:
    """Whether the device turns a user of these groups away, whatever the mode of its socket."""
    path.chmod(0o666)
    path.parent.chmod(0o755)
    code = f"""
import os, socket
os.chdir({str(path.parent)!r})
os.setgroups({list(groups)})
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
it = socket.socket(socket.AF_UNIX)
it.connect({path.name!r})
it.settimeout(0.5)
try:
    print(it.recv(1) == b"")
except TimeoutError:
    print(False)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=PATIENCE, check=True, capture_output=True, text=True
    )
    return done.stdout == "True\n"


def test_the_socket_is_for_whom_it_is(world: World, path: Path) -> None:
    for access, mode in (
        (Access(), 0o600),
        (Access(group=os.getgid()), 0o660),
        (Access(everybody=True), 0o666),
    ):
        with serving(world, path, access):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    with serving(world, path, Access()):
        assert closed_for(path)
    with serving(world, path, Access(everybody=True)):
        assert not closed_for(path)


def test_the_groups_of_a_peer_count(world: World, path: Path) -> None:
    with serving(world, path, Access(group=4242)):
        assert not closed_for(path, 5, 4242)
    with serving(world, path, Access(group=4242)):
        assert closed_for(path, 4243)


def test_who_may_be_the_owner() -> None:
    assert Access.parse("root") == Access()
    assert Access.parse("any").allows(1000, set())
    assert not Access.parse("root").allows(1000, {0})
    assert Access.parse("group:root").allows(1000, {5, 0})
    assert not Access.parse("group:root").allows(1000, {5})
    assert Access().allows(0, set())
    for wrong in ("", "group", "group:", "group:none-such", "everybody"):
        with pytest.raises(ValueError, match=r"is not root, group:NAME or any|no group"):
            Access.parse(wrong)


def test_a_device_that_cannot_be_had(world: World, path: Path, tmp_path: Path) -> None:
    settings = Settings(name=new_name(world), scope=scope_of(world))
    with serving(world, path), pytest.raises(DeviceError, match="another driver serves"):
        DeviceServer(path, settings).start()
    with pytest.raises(DeviceError, match="no device can be made at"):
        DeviceServer(tmp_path / "none" / "device", settings).start()
    path.write_text("a file of somebody's")
    with pytest.raises(DeviceError, match="is there already, and no socket: remove it"):
        DeviceServer(path, settings).start()
    assert path.read_text() == "a file of somebody's"


def test_what_a_killed_driver_left_is_replaced(world: World, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with owned(world, path) as owner:
        owner.send(PrintMemoryStats(), GetLogs())
        assert owner.next(LogLine).severity == Severity.INFO
