"""What an owner in another process sees and decides, line by line of the Portmaster kernel extension's description.

The sections (§) are those of docs/reference/conformance.md.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from livelab import PATIENCE, Agent, Capture, capture_at
from owning import Owner, owned, serving, update
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.key import Protocol
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol.command import GetBandwidthStats, GetLogs, VerdictCommand
from tidewaiter.protocol.info import (
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    LogLine,
    PayloadLayer,
    Severity,
)

pytestmark = pytest.mark.live

ECHO = {"v4": (plan.ECHO.v4, 7), "v6": (plan.ECHO.v6, 7)}
BOTH = pytest.mark.parametrize("to", ECHO.values(), ids=ECHO)
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])
MANY = 40
"""Datagrams in a row: more than one batch of the queue."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device"


def asked(owner: Owner, count: int) -> list[ConnectionInfo]:
    """The next questions, unanswered."""
    return [owner.next(ConnectionInfo) for _ in range(count)]


def texts(capture: Capture) -> list[bytes]:
    """The payloads of the datagrams that have come to the echo server's port."""
    return [packet.payload for packet in capture.to_port(7) if packet.protocol == Protocol.UDP]


def datagrams(agent: Agent, to: tuple[str, int], *said: str) -> int:
    """A socket that sends them all without waiting for answers; its number."""
    made = agent.do("udp", to)
    agent.do("send", of=made.id, say=said)
    return made.id


@BOTH
def test_each_packet_of_an_undecided_connection_is_held_and_told(
    world: World, agent: Agent, path: Path, to: tuple[str, int]
) -> None:
    """§2.2.3, §2.6: a permanent verdict on any of them releases all, in order; ids grow by one."""
    with owned(world, path) as owner, capture_at(world) as capture:
        number = datagrams(agent, to, "one", "two", "three")
        first, second, third = asked(owner, 3)
        assert (second.id, third.id) == (first.id + 1, first.id + 2)
        assert [one.payload_layer for one in (first, second, third)] == [
            PayloadLayer.TRANSPORT,
            PayloadLayer.NETWORK,
            PayloadLayer.NETWORK,
        ]
        assert texts(capture) == []
        owner.obeyed(VerdictCommand(second.id, Verdict.PERMANENT_ACCEPT))
        assert texts(capture) == [b"one", b"two", b"three"]
        owner.obeyed(VerdictCommand(third.id, Verdict.PERMANENT_DROP))  # it is held no more: too late
        agent.do("send", of=number, say=["four"])
        owner.obeyed()
        assert texts(capture) == [b"four"]
        assert owner.silent()


def test_a_verdict_for_one_packet_leaves_the_others_waiting(world: World, agent: Agent, path: Path) -> None:
    """§2.6: each gets its own then, in whatever order."""
    with owned(world, path) as owner, capture_at(world) as capture:
        datagrams(agent, ECHO["v4"], "one", "two", "three")
        first, second, third = asked(owner, 3)
        owner.obeyed(VerdictCommand(third.id, Verdict.ACCEPT))
        assert texts(capture) == [b"three"]
        owner.obeyed(VerdictCommand(second.id, Verdict.DROP))
        assert texts(capture) == []
        owner.obeyed(VerdictCommand(first.id, Verdict.PERMANENT_ACCEPT))
        assert texts(capture) == [b"one"]


def test_a_packet_behind_a_verdict_is_not_lost(world: World, agent: Agent, path: Path) -> None:
    """§2.5: the original lost a second packet that was queued for a connection that had just been decided."""
    said = [f"{number}" for number in range(MANY)]
    with owned(world, path) as owner, capture_at(world) as capture:
        made = agent.do("udp", ECHO["v4"])
        sending = agent.start("send", of=made.id, say=said)
        owner.answer(Verdict.PERMANENT_ACCEPT)  # the rest is on its way
        assert sending.result(PATIENCE).error is None
        owner.obeyed()
        assert texts(capture) == [text.encode() for text in said]


def test_a_flow_that_gave_way_keeps_its_verdict(world: World, agent: Agent, path: Path) -> None:
    """§2.5: as where the kernel's cache is full of newer ones. Nothing passes by accident, and no second question."""
    with serving(world, path) as server, Owner(path) as owner, capture_at(world) as capture:
        owner.obeyed()
        number, elsewhere = 0, (plan.WEB.v4, 7)
        for to, verdict in ((ECHO["v4"], Verdict.PERMANENT_ACCEPT), (elsewhere, Verdict.PERMANENT_DROP)):
            trying = agent.start("sendto", to, of=number, say="hello", timeout=0.5)
            owner.answer(verdict)
            number = number or trying.result(PATIENCE).id
        assert trying.result(PATIENCE).error == "TimeoutError"
        assert server.engine._installed is not None
        flows = server.engine._installed.kernel.map("flows")
        given_way = [key for key in flows.keys() if flows.delete(key)]  # noqa: SIM118 - it is no dict
        assert len(given_way) >= 2
        texts(capture)
        assert agent.do("sendto", ECHO["v4"], of=number, say="again").heard == "again"
        lost = agent.do("sendto", elsewhere, of=number, say="lost", timeout=0.5)
        assert lost.error == "TimeoutError"
        assert texts(capture) == [b"again"]
        assert owner.silent()


def test_a_port_that_is_taken_is_noted_and_nothing_is_asked(world: World, agent: Agent, path: Path) -> None:
    """§2.1, resource assignment: it decides nothing. What comes in later has the program's number."""
    with owned(world, path) as owner:
        ports = [agent.do("listen", (plan.CLIENT.v4, 0)).port, agent.do("bound", (plan.CLIENT.v4, 0)).port]
        assert owner.silent()
        peer = world.in_server(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with peer:
            peer.sendto(b"hello", (plan.CLIENT.v4, ports[1]))
            (came,) = owner.answer(Verdict.PERMANENT_ACCEPT)
            assert (came.process_id, came.local_port) == (agent.pid, ports[1])


def test_a_verdict_is_for_one_remote_end_and_one_family(world: World, agent: Agent, path: Path) -> None:
    """§2.5: found by protocol and local port, then by the remote end; IPv4 and IPv6 apart."""
    with owned(world, path) as owner:
        one = agent.start("sendto", ECHO["v4"], say="hello")
        (first,) = owner.answer(Verdict.PERMANENT_ACCEPT)
        made = one.result(PATIENCE)
        assert made.heard == "hello"
        other = agent.start("sendto", (plan.WEB.v4, 7), of=made.id, say="other", timeout=0.5)
        (second,) = owner.answer(Verdict.PERMANENT_DROP)
        assert (second.local_port, second.local_ip) == (first.local_port, first.local_ip)
        assert second.remote_ip != first.remote_ip
        assert other.result(PATIENCE).error == "TimeoutError"
        assert agent.do("sendto", ECHO["v4"], of=made.id, say="again").heard == "again"
        six = agent.start("bound", (plan.CLIENT.v6, made.port))
        assert six.result(PATIENCE).port == made.port
        peer = world.in_server(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        with peer:
            peer.bind((plan.WEB.v6, 7007))
            peer.sendto(b"hello", (plan.CLIENT.v6, made.port))
            (third,) = owner.answer(Verdict.PERMANENT_ACCEPT)
        assert (len(third.local_ip), third.local_port) == (16, made.port)
        assert owner.silent()


def test_what_is_asked_about_by_the_port_is_another_by_tcp(world: World, agent: Agent, path: Path) -> None:
    """§2.5: the protocol is part of the key."""
    with owned(world, path) as owner:
        port = agent.do("listen", (plan.CLIENT.v4, 0)).port
        assert agent.do("bound", (plan.CLIENT.v4, port)).error is None
        seen = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with world.in_server(lambda kind=kind: socket.socket(socket.AF_INET, kind)) as peer:  # type: ignore[misc]
                peer.bind((plan.WEB.v4, 7007))
                peer.setblocking(False)
                peer.connect_ex((plan.CLIENT.v4, port))
                if kind == socket.SOCK_DGRAM:
                    peer.send(b"hello")
                seen += owner.answer(Verdict.PERMANENT_ACCEPT)
        assert [one.protocol for one in seen] == [6, 17]
        assert {(one.local_port, one.remote_port) for one in seen} == {(port, 7007)}


def test_bandwidth_comes_in_four_infos_and_none_for_nothing(world: World, agent: Agent, path: Path) -> None:
    """§2.5: TCP and UDP, IPv4 and IPv6; what has nothing to say is left out; reading sets back."""
    with owned(world, path) as owner:
        made = []
        for kind in ("tcp", "udp"):
            for to in ECHO.values():
                trying = agent.start(kind, to, say="hello")
                owner.answer(Verdict.PERMANENT_ACCEPT)
                made.append(trying.result(PATIENCE))
        owner.obeyed(GetBandwidthStats())
        stats = [info for info in owner.passed if isinstance(info, BandwidthStats)]
        assert [(one.protocol, one.version) for one in stats] == [(6, 4), (6, 6), (17, 4), (17, 6)]
        assert [
            (entry.transmitted_bytes, entry.received_bytes) for one in stats for entry in one.entries
        ] == [(5, 5)] * 4
        owner.obeyed(GetBandwidthStats())
        assert not [info for info in owner.passed if isinstance(info, BandwidthStats)]
        agent.do("say", of=made[3].id, say="123")
        owner.obeyed(GetBandwidthStats())
        (only,) = [info for info in owner.passed if isinstance(info, BandwidthStats)]
        assert (only.protocol, only.version, only.entries[0].transmitted_bytes) == (17, 6, 3)


@BOTH
@pytest.mark.parametrize("do", ["udp", "sendto", "tcp"])
def test_totals_are_whole_where_each_packet_was_asked_about(
    world: World, agent: Agent, path: Path, to: tuple[str, int], do: str
) -> None:
    """§2.1, §2.3.5: an answer for one packet sets nothing back."""
    with owned(world, path) as owner:
        number = 0
        for _ in range(3):
            trying = agent.start(do if not number or do == "sendto" else "say", to, of=number, say="hello")
            owner.attend(Verdict.ACCEPT, trying.done)
            number = number or trying.result().id
            assert trying.result().heard == "hello"
        agent.do("close", of=number)
        owner.attend(Verdict.ACCEPT, lambda: any(isinstance(info, ConnectionEnd) for info in owner.passed))
        owner.send(GetBandwidthStats())
        (entry,) = owner.next(BandwidthStats).entries
        assert (entry.transmitted_bytes, entry.received_bytes) == (15, 15)


@BOTH
def test_a_verdict_for_an_unknown_id_is_an_error_in_the_log(
    world: World, agent: Agent, path: Path, to: tuple[str, int]
) -> None:
    """§2.6: and nothing else."""
    with owned(world, path) as owner:
        trying = agent.start("tcp", to, say="hello")
        (question,) = asked(owner, 1)
        owner.send(VerdictCommand(question.id + 1, Verdict.PERMANENT_DROP), GetLogs())
        line = owner.next(LogLine)
        assert (line.severity, f"id {question.id + 1}:" in line.text) == (Severity.ERROR, True)
        assert not trying.done()
        owner.send(VerdictCommand(question.id, Verdict.PERMANENT_ACCEPT))
        assert trying.result(PATIENCE).heard == "hello"


@BOTH
@KINDS
def test_an_update_is_for_the_connection_with_its_key_alone(
    world: World, agent: Agent, path: Path, to: tuple[str, int], kind: str
) -> None:
    """§2.6, UpdateV4 and UpdateV6: the next packet meets it, and no other connection."""
    with owned(world, path) as owner:
        made, questions = [], []
        for _ in range(2):
            trying = agent.start(kind, to, say="hello")
            questions += owner.answer(Verdict.PERMANENT_ACCEPT)
            made.append(trying.result(PATIENCE))
        owner.obeyed(update(questions[0], Verdict.PERMANENT_DROP))
        assert agent.do("say", of=made[0].id, say="cut", timeout=0.5).error is not None
        assert agent.do("say", of=made[1].id, say="goes on").heard == "goes on"
        assert owner.silent()


def test_a_port_that_is_given_back_ends_each_of_its_connections(
    world: World, agent: Agent, path: Path
) -> None:
    """§2.1, resource release: one ConnectionEnd each."""
    remotes = [plan.ECHO.v4, plan.WEB.v4, plan.TLS.v4]
    with owned(world, path) as owner:
        number = 0
        for remote in remotes:
            trying = agent.start("sendto", (remote, 7), of=number, say="hello", timeout=0.5)
            owner.answer(Verdict.PERMANENT_ACCEPT)
            made = trying.result(PATIENCE)
            number = number or made.id
        agent.do("close", of=number)
        ends = [owner.next(ConnectionEnd) for _ in remotes]
        assert sorted(one.remote_ip for one in ends) == sorted(map(socket.inet_aton, remotes))
        assert len({one.local_port for one in ends}) == 1


def test_ids_begin_at_one_and_grow(world: World, agent: Agent, path: Path) -> None:
    """§1.1, and a refused one takes a number too."""
    with owned(world, path) as owner:
        ids = []
        for verdict in (Verdict.PERMANENT_BLOCK, Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_BLOCK):
            trying = agent.start("tcp", ECHO["v4"])
            ids += [one.id for one in owner.answer(verdict)]
            trying.result(PATIENCE)
        assert ids == [1, 2, 3]
