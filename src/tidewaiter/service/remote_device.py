"""The device of a driver in another process, as bytes: what `Device` is for a driver in this one.

It needs no privilege but to be let in. The bytes are those of the Unix socket (docs/reference/wire.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tidewaiter.host.processes import user_name
from tidewaiter.protocol import command as commands
from tidewaiter.protocol.command import GetLogs, PrintMemoryStats, encode
from tidewaiter.protocol.errors import CommandError

_CHUNK = 1 << 16
_PATIENCE = 30.0
"""Seconds that a driver has to answer at first; it may be starting."""


class RemoteDevice:
    """The driver that serves ``path``, of which this process is the owner until `close`: made by `Device.connect`.

    Every method may be called from any thread, several at once.
    """

    def __init__(self, path: str | Path) -> None:
        """Becomes the owner. Raises OSError: EBUSY while there is another, ENOENT or ECONNREFUSED without a driver."""
        self._socket, self._rest = become_owner(Path(path), encode(PrintMemoryStats()) + encode(GetLogs()))
        self._socket.settimeout(None)
        self._reading, self._writing = threading.Lock(), threading.Lock()

    def read(self, size: int) -> bytes:
        """From 1 to ``size`` bytes of infos, as soon as there are any: several infos, or a part of one.

        The first are lines of the driver's log so far. b"" when the driver has gone, or was let go of, and all is read.
        Raises ValueError for a size below 1.
        """
        if size < 1:
            raise ValueError(f"at least one byte must be read, not {size}")
        with self._reading:
            if self._rest:
                taken, self._rest = self._rest[:size], self._rest[size:]
                return taken
            try:
                return self._socket.recv(size)
            except OSError:
                return b""

    def write(self, data: bytes) -> None:
        """Exactly one command; returns when it is on its way.

        Raises ValueError for anything else, which is not sent: behind it the driver could not tell commands apart.
        Raises BrokenPipeError when the driver has gone, or was let go of.
        """
        try:
            commands.decode(data)
        except CommandError as error:
            raise ValueError(str(error)) from error
        with self._writing:
            try:
                self._socket.sendall(data)
            except OSError as error:
                raise BrokenPipeError(errno.EPIPE, "the device is closed") from error

    def close(self) -> list[str]:
        """Lets go of the device and wakes who reads; the driver goes on. Once more does nothing.

        Returns [], as there is nothing that could be left behind.
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._reading, self._writing:
            self._socket.close()
        return []

    def __enter__(self) -> Self:
        """It is owned already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets go of it."""
        self.close()


def become_owner(path: Path, question: bytes) -> tuple[socket.socket, bytes]:
    """A stream to the driver that serves ``path``, and the beginning of its answer to commands: by that we own it.

    Raises OSError with one sentence that says what to do.
    """
    device = reach(path)
    try:
        device.sendall(question)
        answer = device.recv(_CHUNK)
    except TimeoutError as error:
        device.close()
        raise TimeoutError(errno.ETIMEDOUT, f"the driver at {path} does not answer") from error
    except ConnectionError:
        answer = b""
    if not answer:
        device.close()
        reason = f"it has another owner, or its --access leaves {_user()} out"
        raise OSError(errno.EBUSY, f"the driver at {path} does not let us own it: {reason}")
    return device, answer


def reach(path: Path) -> socket.socket:
    """A stream to whoever serves ``path``. Raises OSError with one sentence that says what to do."""
    device = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    device.settimeout(_PATIENCE)
    try:
        device.connect(str(path))
    except OSError as error:
        device.close()
        if isinstance(error, PermissionError):
            reason = f"{_user()} may not connect to {path}: see --access of its driver"
        elif isinstance(error, FileNotFoundError | ConnectionRefusedError):
            reason = f"no driver serves {path}: start one with `tidewaiter driver`"
        else:
            reason = f"{path} cannot be reached: {error.strerror or error}"
        raise OSError(error.errno, reason) from error
    return device


def _user() -> str:
    return f"user {user_name(os.geteuid()) or os.geteuid()}"
