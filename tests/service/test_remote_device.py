"""service/remote_device.py: the device of a driver in another process, owned as the one in this process is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from livelab import PATIENCE, Agent, eventually
from owning import serving
from service.test_local_device import Reader, in_thread
from tidewaiter import Device, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.protocol.command import GetLogs, PrintMemoryStats, Shutdown, VerdictCommand, encode
from tidewaiter.protocol.info import ConnectionInfo, LogLine

ECHO = (plan.ECHO.v4, 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device"


def asked(reader: Reader) -> ConnectionInfo:
    """The next question, behind lines of the log."""
    while not isinstance(info := reader.next(), ConnectionInfo):
        assert isinstance(info, LogLine), info
    return info


def read_to_the_end(reader: Reader) -> None:
    while reader.next() is not None:
        pass


@pytest.mark.live
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_it_decides(world: World, agent: Agent, path: Path, size: int) -> None:
    with serving(world, path), Device.connect(path) as device:
        trying = agent.start("tcp", ECHO, say="hello")
        question = asked(Reader(device, size))
        assert (question.process_id, question.remote_port) == (agent.pid, 7)
        device.write(encode(VerdictCommand(question.id, Verdict.PERMANENT_ACCEPT)))
        assert trying.result(PATIENCE).heard == "hello"


@pytest.mark.live
def test_there_is_one_owner_at_a_time(world: World, path: Path) -> None:
    with serving(world, path):
        with Device.connect(str(path)):
            with pytest.raises(OSError, match="it has another owner") as caught:
                Device.connect(path)
            assert caught.value.errno == errno.EBUSY

        def let_in() -> bool:
            try:
                return Device.connect(path).close() == []
            except OSError:
                return False

        eventually(let_in, "who comes next may own it", PATIENCE)


@pytest.mark.live
def test_to_let_go_wakes_readers_and_the_driver_goes_on(world: World, agent: Agent, path: Path) -> None:
    with serving(world, path) as server:
        device = Device.connect(path)
        reader = Reader(device)
        trying = agent.start("udp", ECHO, say="x", timeout=1)
        asked(reader)
        reading = in_thread(lambda: read_to_the_end(reader))
        assert device.close() == device.close() == []
        reading.result(PATIENCE)
        assert device.read(100) == b""
        with pytest.raises(BrokenPipeError):
            device.write(encode(GetLogs()))
        assert trying.result(PATIENCE).error is not None, "nobody answers: --fail closed"
        assert not server.finished.is_set()


@pytest.mark.live
def test_shutdown_ends_the_stream(world: World, path: Path) -> None:
    with serving(world, path) as server:
        device = Device.connect(path)
        device.write(encode(Shutdown()))
        assert server.finished.wait(PATIENCE)
    with device:
        read_to_the_end(Reader(device))


@pytest.mark.live
@pytest.mark.parametrize("bad", [b"", b"\xff", encode(PrintMemoryStats()) * 2, bytes(3)])
def test_what_is_no_command_is_not_sent(world: World, path: Path, bad: bytes) -> None:
    with serving(world, path) as server, Device.connect(path) as device:
        with pytest.raises(ValueError, match=r"[Cc]ommand"):
            device.write(bad)
        device.write(encode(PrintMemoryStats()))
        device.write(encode(GetLogs()))
        assert isinstance(Reader(device).next(), LogLine)
        assert server.device.statistics.bad_commands == 0


@pytest.mark.live
def test_nothing_cannot_be_read(world: World, path: Path) -> None:
    with (
        serving(world, path),
        Device.connect(path) as device,
        pytest.raises(ValueError, match="at least one byte"),
    ):
        device.read(0)


def test_without_a_driver(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no driver serves .*: start one with `tidewaiter driver`"):
        Device.connect(path)
