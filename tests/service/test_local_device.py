"""service/local_device.py: the device in the same process, on the live kernel (portmaster-kext sections 1 and 2)."""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from livelab import PATIENCE, Agent, eventually, left_of, new_name, scope_of
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.packet import parse_packet
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol.command import (
    CleanEndedConnections,
    Command,
    GetLogs,
    PrintMemoryStats,
    Shutdown,
    VerdictCommand,
    encode,
)
from tidewaiter.protocol.info import ConnectionEnd, ConnectionInfo, Info, LogLine, Severity, Skipped
from tidewaiter.protocol.stream import InfoDecoder
from tidewaiter.service.device import DeviceServer
from tidewaiter.service.local_device import Device
from tidewaiter.service.remote_device import RemoteDevice
from tidewaiter.service.settings import Settings

ECHO = (plan.ECHO.v4, 7)

pytestmark = pytest.mark.live


@contextmanager
def device_in(world: World, **options: object) -> Iterator[Device]:
    name = new_name(world)
    device = Device(scope=scope_of(world), name=name, **options)  # type: ignore[arg-type]
    try:
        yield device
    finally:
        assert device.close() == []
    assert left_of(world, name) == []


def in_thread(function: Callable[[], None]) -> Future[None]:
    """Runs something in a thread of its own; the future has what it raises."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            function()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


class Reader:
    """Reads infos in the thread that asks."""

    def __init__(self, device: Device | RemoteDevice, size: int = 1 << 16) -> None:
        self._device, self._size = device, size
        self._decoder = InfoDecoder()
        self._infos: list[Info | Skipped] = []

    def next(self) -> Info | Skipped | None:
        """The next info; None at the end of file."""
        while not self._infos:
            data = self._device.read(self._size)
            assert len(data) <= self._size
            if not data:
                return None
            self._infos += self._decoder.feed(data)
        return self._infos.pop(0)

    def line(self, *commands: Command) -> LogLine:
        """The next log line, after commands; what is not one is passed over."""
        for command in (*commands, GetLogs()):
            self._device.write(encode(command))
        while not isinstance(info := self.next(), LogLine):
            assert info is not None
        return info


def accept_everything(device: Device, size: int = 1 << 16) -> list[Info | Skipped]:
    """Reads and decides to the end of file; returns what was read."""
    read, reader = [], Reader(device, size)
    while (info := reader.next()) is not None:
        read.append(info)
        if isinstance(info, ConnectionInfo):
            device.write(encode(VerdictCommand(info.id, Verdict.PERMANENT_ACCEPT)))
    return read


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_a_thread_reads_and_decides_and_curl_passes(world: World, size: int) -> None:
    with device_in(world) as device:
        read: list[Info | Skipped] = []
        deciding = in_thread(lambda: read.extend(accept_everything(device, size)))
        curl = world.popen(
            ["curl", "-sS", "-m", str(PATIENCE), f"http://{plan.WEB.v4}/bytes/1000", "-o", "/dev/null"]
        )
        assert curl.wait(PATIENCE + 5) == 0
        eventually(lambda: device._driver.engine.driver.flows() == [], "it has ended", PATIENCE)
    deciding.result(PATIENCE)
    asked = [info for info in read if isinstance(info, ConnectionInfo)]
    assert {(info.process_id, info.remote_port) for info in asked} == {(curl.pid, 80)}
    assert any(isinstance(info, ConnectionEnd) for info in read)
    assert not any(isinstance(info, Skipped) for info in read)


def test_several_infos_come_with_one_read_and_what_is_left_first(world: World, agent: Agent) -> None:
    """portmaster-kext §2."""
    with device_in(world) as device:
        trying = [agent.start("udp", ECHO, say=text) for text in ("one", "two", "three")]
        eventually(lambda: device.statistics()["held"] == 3, "three are held", PATIENCE)
        eventually(lambda: device._driver.device.waiting > 3 * 45, "and told of", PATIENCE)
        begin = device.read(50)
        assert len(begin) == 50
        rest = device.read(1 << 16)
        infos = InfoDecoder().feed(begin + rest)
        assert [info.id for info in infos if isinstance(info, ConnectionInfo)] == [1, 2, 3]
        for number in (1, 2, 3):
            device.write(encode(VerdictCommand(number, Verdict.PERMANENT_ACCEPT)))
        assert {one.result(PATIENCE).heard for one in trying} == {"one", "two", "three"}


def test_the_payload_of_a_held_packet_can_be_read(world: World, agent: Agent) -> None:
    """§2.5: GetPayload."""
    with device_in(world) as device:
        trying = agent.start("udp", ECHO, say="what it says")
        asked = Reader(device).next()
        assert isinstance(asked, ConnectionInfo)
        payload = device.payload(asked.id)
        assert payload is not None
        assert parse_packet(payload).destination_port == 7
        assert payload.endswith(b"what it says")
        device.write(encode(VerdictCommand(asked.id, Verdict.PERMANENT_ACCEPT)))
        assert trying.result(PATIENCE).heard == "what it says"
        assert device.payload(asked.id) is None


BAD = {
    "nothing": (b"", "0 bytes"),
    "short": (struct.pack("<BQ", 1, 1), "payload of 9 bytes"),
    "long": (encode(VerdictCommand(1, Verdict.PERMANENT_ACCEPT)) + b"\0", "payload of 9 bytes"),
    "two": (encode(VerdictCommand(1, Verdict.PERMANENT_ACCEPT)) * 2, "payload of 9 bytes"),
    "unknown": (b"\x63", "Command 99 is not known"),
    "out of range": (struct.pack("<BQB", 1, 1, 77), "Verdict 77 is out of range"),
}


def test_what_is_no_command_is_logged_and_changes_nothing(world: World, agent: Agent) -> None:
    """portmaster-kext section 1.2."""
    with device_in(world) as device:
        trying = agent.start("tcp", ECHO, say="x")
        reader = Reader(device)
        asked = reader.next()
        assert isinstance(asked, ConnectionInfo)
        assert asked.id == 1
        for data, reason in BAD.values():
            device.write(data)
            line = reader.line()
            assert (line.severity, reason in line.text) == (Severity.ERROR, True), line
        assert device.payload(1) is not None
        assert device.statistics()["bad_commands"] == len(BAD)
        device.write(encode(VerdictCommand(1, Verdict.PERMANENT_ACCEPT)))
        assert trying.result(PATIENCE).heard == "x"


def test_there_is_one_owner_at_a_time(world: World, tmp_path: Path) -> None:
    """portmaster-kext §2."""
    with device_in(world) as device:
        name = device._driver.engine.settings.name
        with pytest.raises(OSError, match=name) as caught:
            Device(scope=scope_of(world), name=name)
        assert caught.value.errno == errno.EBUSY
        assert Reader(device).line(PrintMemoryStats()).severity == Severity.INFO, "the first one goes on"
    server = DeviceServer(tmp_path / "device", Settings(name=new_name(world), scope=scope_of(world)))
    server.start()
    try:
        with pytest.raises(OSError, match="already runs") as caught:
            Device(scope=scope_of(world), name=server.engine.settings.name)
        assert caught.value.errno == errno.EBUSY
    finally:
        assert server.stop() == []


@pytest.mark.parametrize("how", ["close", "shutdown"])
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_the_end_wakes_readers_and_resolves_what_is_held(
    world: World, agent: Agent, how: str, fail: str
) -> None:
    """§2: run the queue down, then resolve every held packet; end of file."""
    with device_in(world, fail=fail) as device:
        trying = agent.start("udp", ECHO, say="x", timeout=2)
        read: list[Info | Skipped] = []
        reading = in_thread(lambda: read.extend(iter(Reader(device).next, None)))
        eventually(lambda: bool(read), "it is asked about", PATIENCE)
        if how == "close":
            assert device.close() == []
        else:
            device.write(encode(Shutdown()))
        reading.result(PATIENCE)
        assert device.read(100) == b""
        with pytest.raises(BrokenPipeError):
            device.write(encode(CleanEndedConnections()))
        assert (trying.result(PATIENCE).heard == "x") is (fail == "open")
        assert len(device._driver.engine.driver.packets) == 0


def test_many_read_and_write_at_once(world: World, agent: Agent) -> None:
    """§2: Whole infos: each reader reads what it decides under a lock of its own making, others write meanwhile."""
    with device_in(world) as device:
        lock, reader = threading.Lock(), Reader(device, 61)
        answered: list[int] = []

        def decide() -> None:
            while True:
                with lock:
                    info = reader.next()
                if info is None:
                    return
                if isinstance(info, ConnectionInfo):
                    answered.append(info.id)
                    device.write(encode(VerdictCommand(info.id, Verdict.PERMANENT_ACCEPT)))

        owners = [in_thread(decide) for _ in range(3)]
        stop = threading.Event()

        def disturb() -> None:
            while not stop.wait(0.002):
                device.write(encode(PrintMemoryStats()))
                device.write(encode(GetLogs()))

        writers = [in_thread(disturb) for _ in range(2)]
        trying = [agent.start("udp", ECHO, say=str(number), timeout=PATIENCE) for number in range(40)]
        assert [one.result(PATIENCE).heard for one in trying] == [str(number) for number in range(40)]
        stop.set()
        for writer in writers:
            writer.result(PATIENCE)
        device.close()
        for owner in owners:
            owner.result(PATIENCE)
    assert sorted(answered) == sorted(set(answered))


@pytest.mark.parametrize("size", [0, -1])
def test_a_read_has_a_size(world: World, size: int) -> None:
    with device_in(world) as device, pytest.raises(ValueError, match="at least one byte"):
        device.read(size)


def test_a_driver_that_ended_by_an_error_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with device_in(world) as device:

        def fail() -> list[object]:
            raise RuntimeError("broken on purpose")

        device._driver.engine.command(fail)  # type: ignore[arg-type]
        with pytest.raises(OSError, match="broken on purpose") as caught:
            device.read(1)
        assert caught.value.errno == errno.EIO


def test_fail_is_open_or_closed() -> None:
    with pytest.raises(ValueError, match="'open' or 'closed'"):
        Device(fail="maybe")
