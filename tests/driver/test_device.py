"""driver/device.py: events become infos, commands become actions, and everything is bounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.driver import device as module
from tidewaiter.driver.connections import KEEP_ENDED
from tidewaiter.driver.core import Action, Driver, Release, Remember, Renew
from tidewaiter.driver.device import Device
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.packet import TcpFlag, build_tcp
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol.command import (
    CleanEndedConnections,
    ClearCache,
    Command,
    GetBandwidthStats,
    GetLogs,
    PrintMemoryStats,
    Shutdown,
    Update,
    VerdictCommand,
)
from tidewaiter.protocol.info import (
    BandwidthEntry,
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    Info,
    LogLine,
    PayloadLayer,
    Severity,
    Skipped,
)
from tidewaiter.protocol.stream import InfoDecoder

V4 = ConnectionKey(Protocol.TCP, ip_address("192.0.2.1"), 4000, ip_address("192.0.2.2"), 443, 1)
V6 = ConnectionKey(Protocol.UDP, ip_address("fd00::1"), 4001, ip_address("fd00::2"), 53, 1)
CURL = Process(pid=4711, path="/usr/bin/curl")
HERE, THERE = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
SYN = build_tcp(V4.local, V4.remote, V4.local_port, V4.remote_port, sequence=1, flags=TcpFlag.SYN)


@dataclass
class Bench:
    """A driver, its device, and what an owner reads of it."""

    driver: Driver = field(default_factory=Driver)
    room: int = module.ROOM

    def __post_init__(self) -> None:
        self.device = Device(self.driver, room=self.room)
        self.decoder = InfoDecoder()
        self.now = 0

    def hold(
        self, flow: bytes, key: ConnectionKey, direction: Direction = Direction.OUT, payload: bytes = SYN
    ) -> None:
        self.now += 1
        self.driver.packet(flow, Connection(0, key, direction, CURL), flow, payload, self.now)
        self.tell()

    def tell(self) -> None:
        for event in self.driver.events():
            self.device.tell(event)

    def command(self, command: Command) -> list[Action]:
        self.now += 1
        actions = self.device.command(command, self.now)
        self.tell()
        return actions

    def read(self) -> list[Info | Skipped]:
        return self.decoder.feed(self.device.read(1 << 20))

    def lines(self) -> list[tuple[int, str]]:
        self.command(GetLogs())
        return [(line.severity, line.text) for line in self.read() if isinstance(line, LogLine)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_goes_out_is_asked_about_by_its_transport(bench: Bench) -> None:
    bench.hold(b"f", V4)
    assert bench.read() == [
        ConnectionInfo(1, 4711, 0, 6, HERE, THERE, 4000, 443, PayloadLayer.TRANSPORT, SYN[20:])
    ]


def test_what_comes_in_is_asked_about_by_the_whole_packet(bench: Bench) -> None:
    bench.hold(b"f", V6, Direction.IN, b"whole packet")
    (info,) = bench.read()
    assert isinstance(info, ConnectionInfo)
    assert (info.direction, info.payload_layer, info.payload) == (1, PayloadLayer.NETWORK, b"whole packet")
    assert (info.local_ip, info.remote_ip) == (V6.local.packed, V6.remote.packed)


def test_what_cannot_be_read_is_told_whole(bench: Bench) -> None:
    bench.hold(b"f", V4, payload=b"no packet")
    (info,) = bench.read()
    assert isinstance(info, ConnectionInfo)
    assert (info.payload_layer, info.payload) == (PayloadLayer.NETWORK, b"no packet")


def test_other_protocols_have_no_ports_and_nothing_to_update(bench: Bench) -> None:
    """portmaster-kext §1.1: for protocols other than TCP and UDP both ports are 0; §2.3.7: they are never cached."""
    sctp = V4._replace(protocol=Protocol.SCTP)
    bench.hold(b"f", sctp)
    (info,) = bench.read()
    assert isinstance(info, ConnectionInfo)
    assert (info.protocol, info.local_port, info.remote_port) == (Protocol.SCTP, 0, 0)
    assert info.payload_layer == PayloadLayer.NETWORK
    bench.command(VerdictCommand(1, Verdict.PERMANENT_ACCEPT))
    assert bench.command(Update(132, HERE, 4000, THERE, 443, Verdict.PERMANENT_DROP)) == []
    bench.hold(b"f", sctp)
    assert len(bench.driver.packets) == 1


def test_every_held_packet_is_an_info(bench: Bench) -> None:
    for _ in range(3):
        bench.hold(b"f", V4)
    assert [info.id for info in bench.read() if isinstance(info, ConnectionInfo)] == [1, 2, 3]


def test_an_end_is_an_info(bench: Bench) -> None:
    bench.hold(b"f", V4)
    bench.driver.ended(b"f", 1, 2, 9)
    bench.tell()
    assert bench.read()[1:] == [ConnectionEnd(4711, 0, 6, HERE, THERE, 4000, 443)]


def test_what_never_had_two_ends_does_not_end(bench: Bench) -> None:
    bench.driver.decided(b"", Connection(0, V4._replace(local_port=0), Direction.OUT, CURL), 1)
    bench.tell()
    assert bench.read() == []


def test_a_verdict_releases_what_is_held(bench: Bench) -> None:
    bench.hold(b"f", V4)
    bench.hold(b"f", V4)
    remembered, *releases = bench.command(VerdictCommand(1, Verdict.PERMANENT_ACCEPT))
    assert isinstance(remembered, Remember)
    assert releases == [Release(b"f", passes=True, reject=None)] * 2


def test_a_verdict_for_an_unknown_id_is_logged_and_changes_nothing(bench: Bench) -> None:
    """portmaster-kext §2.6."""
    bench.hold(b"f", V4)
    assert bench.command(VerdictCommand(9, Verdict.PERMANENT_ACCEPT)) == []
    assert len(bench.driver.packets) == 1
    assert bench.lines() == [(Severity.ERROR, "No packet is held under id 9: the verdict changes nothing")]


def test_a_verdict_that_comes_too_late_is_no_error(bench: Bench) -> None:
    """Its packet has gone by itself: by its connection's end, say."""
    bench.hold(b"f", V4)
    bench.driver.ended(b"f", 0, 0, 9)
    assert bench.command(VerdictCommand(1, Verdict.PERMANENT_DROP)) == []
    assert bench.lines() == [(Severity.INFO, "No packet is held under id 1: the verdict changes nothing")]


def test_an_update_gives_a_live_connection_another_verdict(bench: Bench) -> None:
    bench.hold(b"f", V4)
    bench.command(VerdictCommand(1, Verdict.PERMANENT_ACCEPT))
    update = Update(6, HERE, 4000, THERE, 443, Verdict.PERMANENT_BLOCK)
    (renew,) = bench.command(update)
    assert isinstance(renew, Renew)
    assert (renew.flow, renew.verdict) == (b"f", Verdict.PERMANENT_BLOCK)
    known = bench.driver.find(b"f")
    assert known is not None
    assert known.verdict is Verdict.PERMANENT_BLOCK


def test_an_update_decides_what_is_held(bench: Bench) -> None:
    bench.hold(b"f", V4)
    remembered, release = bench.command(Update(6, HERE, 4000, THERE, 443, Verdict.PERMANENT_DROP))
    assert isinstance(remembered, Remember)
    assert release == Release(b"f", passes=False, reject=None)


@pytest.mark.parametrize("change", [{"protocol": 17}, {"local_port": 4}, {"remote_address": HERE}])
def test_an_update_of_nothing_is_logged(bench: Bench, change: dict[str, int | bytes]) -> None:
    bench.hold(b"f", V4)
    fields = {
        "protocol": 6,
        "local_address": HERE,
        "local_port": 4000,
        "remote_address": THERE,
        "remote_port": 443,
    }
    assert bench.command(Update(**fields | change, verdict=Verdict.PERMANENT_ACCEPT)) == []  # type: ignore[arg-type]
    assert bench.lines() == [(Severity.ERROR, "No connection has the key of this update: it changes nothing")]


def test_bandwidth_is_told_as_deltas_by_family_and_protocol(bench: Bench) -> None:
    """portmaster-kext §2.5."""
    bench.hold(b"4", V4)
    bench.hold(b"6", V6)
    bench.read()
    bench.driver.counted(b"4", 10, 20)
    bench.driver.counted(b"6", 1, 2)
    bench.command(GetBandwidthStats())
    four = BandwidthEntry(HERE, 4000, THERE, 443, 10, 20)
    six = BandwidthEntry(V6.local.packed, 4001, V6.remote.packed, 53, 1, 2)
    assert bench.read() == [BandwidthStats(4, 6, (four,)), BandwidthStats(6, 17, (six,))]
    bench.command(GetBandwidthStats())
    assert bench.read() == []
    bench.driver.ended(b"4", 15, 20, 9)
    bench.tell()
    bench.command(GetBandwidthStats())
    assert bench.read()[1:] == [BandwidthStats(4, 6, (BandwidthEntry(HERE, 4000, THERE, 443, 5, 0),))]
    bench.command(GetBandwidthStats())
    assert bench.read() == []


@pytest.mark.parametrize("ended", [False, True])
def test_totals_that_find_no_room_are_told_the_next_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    monkeypatch.setattr(module, "ENTRIES", 2)
    for number in range(5):
        bench.hold(bytes([number]), V4._replace(local_port=100 + number))
        bench.driver.counted(bytes([number]), 7, 8)
        if ended:
            bench.driver.ended(bytes([number]), 9, 8, 9)
    bench.tell()
    bench.read()
    ports: list[int] = []
    monkeypatch.setattr(bench.device, "_room", 100)  # for one info of two entries
    for _ in range(3):
        bench.command(GetBandwidthStats())
        (stats,) = bench.read()
        assert isinstance(stats, BandwidthStats)
        assert {(one.transmitted_bytes, one.received_bytes) for one in stats.entries} == {
            (9 if ended else 7, 8)
        }
        ports += [entry.local_port for entry in stats.entries]
    assert sorted(ports) == [100, 101, 102, 103, 104]
    bench.command(GetBandwidthStats())
    assert bench.read() == []


def test_those_who_ended_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENDED", 2)
    for number in range(5):
        flow = bytes([number])
        bench.hold(flow, V4._replace(local_port=100 + number))
        bench.driver.ended(flow, 7, 7, 9)
        bench.tell()
    bench.read()
    bench.command(GetBandwidthStats())
    (stats,) = bench.read()
    assert isinstance(stats, BandwidthStats)
    assert [entry.local_port for entry in stats.entries] == [103, 104]
    assert bench.device.statistics.totals_lost == 3


def test_what_was_counted_of_those_who_gave_way_goes_with_them() -> None:
    bench = Bench(Driver(connections=2))
    for number in range(5):
        bench.hold(bytes([number]), V4._replace(local_port=100 + number))
        bench.driver.counted(bytes([number]), 10, 10)
        bench.command(GetBandwidthStats())
    assert bench.driver.statistics.connections_forgotten == 3
    assert list(bench.device._counted) == [connection.id for _, connection in bench.driver.flows()] == [4, 5]
    bench.driver.counted(bytes([4]), 15, 10)
    bench.read()
    bench.command(GetBandwidthStats())
    assert bench.read() == [BandwidthStats(4, 6, (BandwidthEntry(HERE, 104, THERE, 443, 5, 0),))]


def test_memory_is_described_in_the_log(bench: Bench) -> None:
    bench.hold(b"f", V4)
    bench.command(PrintMemoryStats())
    lines = bench.lines()
    assert [severity for severity, _ in lines] == [Severity.INFO] * 3
    assert lines[0][1] == f"packets: 1 of 1024 held, {len(SYN)} bytes, 1 at the most"
    assert lines[1][1] == "connections: 1 open and 0 ended of 65536"


def test_the_oldest_lines_go_first(bench: Bench) -> None:
    """portmaster-kext §2.5."""
    for number in range(module.LINES + 3):
        bench.device.log(Severity.DEBUG, str(number))
    lines = bench.lines()
    assert len(lines) == module.LINES
    assert lines[0] == (Severity.DEBUG, "3")
    assert bench.device.statistics.lines_lost == 3
    assert bench.lines() == []


def test_cleaning_forgets_what_ended_a_minute_ago(bench: Bench) -> None:
    bench.hold(b"f", V4)
    bench.driver.ended(b"f", 0, 0, 5)
    bench.now = 5 + KEEP_ENDED - 2
    bench.command(CleanEndedConnections())
    assert bench.driver.find(b"f") is not None
    bench.command(CleanEndedConnections())
    assert bench.driver.find(b"f") is None


@pytest.mark.parametrize("command", [Shutdown(), ClearCache()])
def test_some_commands_are_the_hosts(bench: Bench, command: Command) -> None:
    bench.hold(b"f", V4)
    bench.read()
    assert bench.command(command) == []
    assert bench.read() == []
    assert len(bench.driver.packets) == 1


def test_without_room_an_info_is_not_sent_and_its_packet_waits() -> None:
    bench = Bench(room=150)
    for number in range(5):
        bench.hold(bytes([number]), V4._replace(local_port=number + 1))
    sent = [info.id for info in bench.read() if isinstance(info, ConnectionInfo)]
    assert 0 < len(sent) < 5
    assert bench.device.statistics.infos_lost == 5 - len(sent)
    assert len(bench.driver.packets) == 5


def test_a_new_reader_begins_at_an_info(bench: Bench) -> None:
    bench.hold(b"f", V4)
    assert bench.device.read(7) != b""
    bench.device.forget_reader()
    assert bench.device.waiting == 0
    bench.hold(b"f", V4)
    (info,) = InfoDecoder().feed(bench.device.read(1000))
    assert isinstance(info, ConnectionInfo)


@given(st.lists(st.integers(1, 200), max_size=40))
def test_however_it_is_read_it_is_the_same(sizes: list[int]) -> None:
    bench = Bench()
    for number in range(10):
        bench.hold(bytes([number]), V4._replace(local_port=number + 1))
    assert bench.device.peek(1 << 20) == bench.device.peek(1 << 20)
    pieces = [bench.device.read(size) for size in [*sizes, 1 << 20]]
    assert all(len(piece) <= size for piece, size in zip(pieces, sizes, strict=False))
    found = InfoDecoder().feed(b"".join(pieces))
    assert [info.id for info in found if isinstance(info, ConnectionInfo)] == list(range(1, 11))
    assert bench.device.read(10) == b""


def test_a_bad_command_is_logged(bench: Bench) -> None:
    bench.device.bad_command("Command 77 is not known")
    assert bench.lines() == [(Severity.ERROR, "Command 77 is not known")]
    assert bench.device.statistics.bad_commands == 1
