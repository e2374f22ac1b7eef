"""The device for an owner in the same process: blocking reads of infos, writes of commands (docs/reference/wire.md).

The bytes are those of the Unix socket, so an owner can move out of this process by changing where it reads and writes.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tidewaiter.host import state
from tidewaiter.host.redirect import RedirectPorts
from tidewaiter.host.scope import Scope
from tidewaiter.host.state import StateError
from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol import command as commands
from tidewaiter.protocol.command import Shutdown
from tidewaiter.protocol.errors import CommandError
from tidewaiter.service.owned import OwnedDriver
from tidewaiter.service.remote_device import RemoteDevice
from tidewaiter.service.settings import Settings
from tidewaiter.service.uninterrupted import GLANCE


class Device:
    """A driver in force, from its making to `close`, of which this process is the owner.

    The arguments are those of `Firewall`. Raises OSError (EBUSY) while a firewall or driver of this name is in force,
    and else what `Firewall` raises when it is entered. Every method may be called from any thread, several at once.
    """

    def __init__(
        self,
        *,
        scope: Scope | None = None,
        fail: str = "closed",
        timeout: float = 30.0,
        on_timeout: Verdict = Verdict.PERMANENT_BLOCK,
        held: int = 1024,
        redirect: RedirectPorts | None = None,
        name: str = "host",
    ) -> None:
        settings = Settings(
            name=name,
            scope=scope or Scope.host(),
            fail=fail,
            timeout=timeout,
            on_timeout=on_timeout,
            held=held,
            redirect=redirect,
        )
        self._changed = threading.Condition()
        self._stopping = threading.Lock()
        self._driver = OwnedDriver(settings, self._wake_up)
        self._driver.take(os.getpid())
        try:
            self._driver.engine.start()
        except StateError as error:
            found = state.load(name)
            if found is None or not found.alive:
                raise
            raise OSError(errno.EBUSY, str(error)) from error

    @staticmethod
    def connect(path: str | Path) -> RemoteDevice:
        """The device of a driver in another process: ``tidewaiter driver --device PATH``. Raises OSError (EBUSY, say).

        It is read and written as this one; `payload` and `statistics` stay with that driver.
        """
        return RemoteDevice(path)

    def read(self, size: int) -> bytes:
        """From 1 to ``size`` bytes of infos, as soon as there are any: several infos, or a part of one.

        What did not fit comes first next time. b"" when the device is shut down and all is read. Raises ValueError for
        a size below 1, and OSError (EIO) where the driver has ended by an error.
        """
        if size < 1:
            raise ValueError(f"at least one byte must be read, not {size}")
        engine, device = self._driver.engine, self._driver.device
        with self._changed:
            while not self._changed.wait_for(lambda: device.waiting or self._driver.over, GLANCE):
                pass
            data = device.read(size)
        if not data and engine.failure is not None:
            raise OSError(errno.EIO, f"the driver ended by an error: {engine.failure}") from engine.failure
        return data

    def write(self, data: bytes) -> None:
        """Exactly one command. Anything else is logged (severity error) and changes nothing.

        Returns when a Shutdown or ClearCache is done, and when anything else is on its way. Raises BrokenPipeError when
        the device is shut down.
        """
        if self._driver.over:
            raise BrokenPipeError(errno.EPIPE, "the device is shut down")
        try:
            command = commands.decode(data)
        except CommandError as error:
            self._driver.refuse(str(error))
            return
        if isinstance(command, Shutdown):
            self.close()
        else:
            self._driver.obey(command)

    def payload(self, packet: int) -> bytes | None:
        """The whole packet that is held under an id, or None when none is (any more)."""
        return self._driver.engine.driver.payload(packet)

    def statistics(self) -> dict[str, int]:
        """Counters by name, while it is in force: docs/reference/statistics.md."""
        return self._driver.statistics()

    def close(self) -> list[str]:
        """Resolves what is held as ``fail`` says, takes everything away, and wakes who reads. Once more does nothing.

        Returns what could not be removed, a sentence each.
        """
        with self._stopping:
            failures = self._driver.engine.stop()
        self._wake_up()
        return failures

    def __enter__(self) -> Self:
        """It is in force already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def _wake_up(self) -> None:
        with self._changed:
            self._changed.notify_all()
