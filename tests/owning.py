"""Owners of a driver in another process, by the wire, for tests on the live kernel."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from livelab import PATIENCE, left_of, new_name, scope_of
from tidewaiter.lab.world import World
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol.command import Command, GetLogs, Update, VerdictCommand, encode
from tidewaiter.protocol.info import ConnectionInfo, Info, LogLine
from tidewaiter.protocol.stream import InfoDecoder
from tidewaiter.service.device import Access, DeviceServer
from tidewaiter.service.settings import Settings

_I = TypeVar("_I")


class Owner:
    """An owner by hand: what it reads waits in ``infos``; what it has passed over is in ``passed``."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.infos: list[Info] = []
        self.passed: list[Info] = []
        self._decoder = InfoDecoder()
        self._mark = 1 << 40

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *commands: Command) -> None:
        self.socket.sendall(b"".join(map(encode, commands)))

    def next(self, kind: type[_I]) -> _I:
        """The next info of a kind; those of other kinds before it are passed over."""
        while True:
            while self.infos:
                info = self.infos.pop(0)
                if isinstance(info, kind):
                    return info
                self.passed.append(info)
            data = self.socket.recv(1 << 16)
            assert data, "the driver has ended the stream"
            self.infos += self._decoder.feed(data)  # type: ignore[arg-type]

    def obeyed(self, *commands: Command) -> None:
        """Sends commands, and waits until they are carried out: the log says so of one that changes nothing.

        What came until then is in ``passed``.
        """
        self._mark += 1
        self.passed.clear()
        self.send(*commands, VerdictCommand(self._mark, Verdict.ACCEPT), GetLogs())
        while f"id {self._mark}:" not in self.next(LogLine).text:
            pass

    def ended(self) -> bool:
        """Whether the driver has closed the stream; waits for it."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True

    def answer(self, verdict: Verdict, count: int = 1) -> list[ConnectionInfo]:
        """Gives the next questions this answer."""
        asked = []
        for _ in range(count):
            asked.append(self.next(ConnectionInfo))
            self.send(VerdictCommand(asked[-1].id, verdict))
        return asked

    def attend(self, verdict: Verdict, over: Callable[[], bool]) -> None:
        """Gives every question this answer until it is over. What else comes is in ``passed``."""
        self.socket.settimeout(0.05)
        try:
            while not over():
                with suppress(TimeoutError):
                    self.answer(verdict)
        finally:
            self.socket.settimeout(PATIENCE)

    def silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing is asked for a while."""
        self.socket.settimeout(seconds)
        try:
            self.next(ConnectionInfo)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False


@contextmanager
def serving(
    world: World, path: Path, access: Access | None = None, **options: object
) -> Iterator[DeviceServer]:
    name = new_name(world)
    server = DeviceServer(path, Settings(name=name, scope=scope_of(world), **options), access)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        assert server.stop() == []
    assert left_of(world, name) == []
    assert not path.exists()


@contextmanager
def owned(world: World, path: Path) -> Iterator[Owner]:
    with serving(world, path), Owner(path) as owner:
        owner.obeyed()  # by then it is the owner
        yield owner


def update(asked: ConnectionInfo, verdict: Verdict) -> Update:
    return Update(
        asked.protocol, asked.local_ip, asked.local_port, asked.remote_ip, asked.remote_port, verdict
    )
