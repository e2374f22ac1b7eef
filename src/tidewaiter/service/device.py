"""The device as a Unix socket: one owner at a time decides for this driver, in any language (docs/reference/wire.md).

The socket carries infos one way and commands the other, and nothing else. A thread of its own reads and writes; what a
command means is carried out in the engine's thread (owned.py).
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import selectors
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

from tidewaiter.host import state
from tidewaiter.host.wake import Wake
from tidewaiter.policy.document import Policy
from tidewaiter.protocol.command import Command, CommandDecoder, Shutdown
from tidewaiter.protocol.errors import CommandError, RemoteProtocolError
from tidewaiter.service.engine import Listener
from tidewaiter.service.owned import ASK, OwnedDriver
from tidewaiter.service.settings import Settings

log = logging.getLogger("tidewaiter")

_CREDENTIALS = struct.Struct("3i")
_CHUNK = 1 << 16
_SO_PEERGROUPS = 59  # <asm-generic/socket.h>
_GROUPS = 1024  # bytes: the most that getsockopt() of Python takes


class DeviceError(Exception):
    """The device cannot be had; one sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may own the device: ``root`` alone, the members of a group (``group:NAME``), or ``any`` user."""

    everybody: bool = False
    group: int | None = None

    @classmethod
    def parse(cls, text: str) -> Access:
        """Of ``root``, ``group:NAME`` or ``any``. Raises ValueError."""
        kind, _, name = text.partition(":")
        if text in ("root", "any"):
            return cls(everybody=text == "any")
        if kind != "group" or not name:
            raise ValueError(f"{text!r} is not root, group:NAME or any")
        try:
            return cls(group=grp.getgrnam(name).gr_gid)
        except KeyError:
            raise ValueError(f"there is no group {name!r}") from None

    @property
    def mode(self) -> int:
        """Of the socket file."""
        return 0o666 if self.everybody else 0o660 if self.group is not None else 0o600

    def allows(self, uid: int, groups: set[int]) -> bool:
        """Whether a peer may own the device. The mode of the file says the same, unless somebody changed it."""
        return uid == 0 or self.everybody or self.group in groups


class DeviceServer:
    """A driver in force from `start` to `stop`, whose owner is whoever connects to ``path``."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        access: Access | None = None,
        *,
        policy: Policy = ASK,
        passed: socket.socket | None = None,
        listener: Listener | None = None,
    ) -> None:
        """``listener`` hears of everything besides the owner, in the engine's thread.

        The owner is asked about what ``policy`` says to ask about. ``passed`` is a socket that listens at ``path``
        already and belongs to who made it: it stays.
        """
        self.path, self._access = path, access or Access()
        self._listener, self._passed = passed, passed is not None
        self._driver = OwnedDriver(settings, self._wake_up, listener, policy)
        self.engine, self.device = self._driver.engine, self._driver.device
        self._owner: socket.socket | None = None
        self._decoder = CommandDecoder()
        self._stopping = False
        self.failure: BaseException | None = None
        self.finished = threading.Event()
        """Set when the owner has shut the driver down, or it has ended by an error."""

    def listen(self) -> None:
        """Makes the socket, as `start` does; before it, where the right to give it to a group will be gone by then.

        Raises DeviceError.
        """
        self._listener = self._listener or _listen(self.path, self._access)

    def start(self) -> None:
        """Makes the socket, then puts the driver into the kernel. Raises DeviceError and what `Engine.start` does."""
        self.listen()
        assert self._listener is not None
        self._wake = Wake()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        try:
            self.engine.start()
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="tidewaiter-device", daemon=True)
        self._thread.start()

    def stop(self) -> list[str]:
        """Resolves what is held, removes everything, and ends the owner's stream. Returns what could not be removed."""
        if not self.engine.installed:
            return []
        self._stopping = True
        self._wake.set()
        self._thread.join()
        failures = self.engine.stop()
        self._send()  # what the rundown has told
        return failures + self._close()

    def load(self, policy: Policy) -> None:
        """Puts another policy in force. Raises what `Engine.load` does."""
        self._driver.load(policy)

    def _wake_up(self) -> None:
        self._wake.set()

    # --- in our own ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping and self.engine.running:
                self._step()
        except BaseException as error:
            self.failure = error
            log.critical("the device has ended: %s", error, exc_info=True)
        finally:
            self.finished.set()

    def _step(self) -> None:
        for key, _ in self._selector.select():
            if key.fileobj is self._wake:
                with contextlib.suppress(BlockingIOError):
                    self._wake.clear()
            elif key.fileobj is self._listener:
                self._accept()
            else:
                self._receive()
        self._send()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # who connected has gone already
        pid, uid, gid = _CREDENTIALS.unpack(
            peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        try:
            if not self._access.allows(uid, {gid, *_groups_of(peer)}):
                raise PermissionError
            self._driver.take(pid)
        except OSError:  # there is one already
            peer.close()
            return
        peer.setblocking(False)
        self._decoder = CommandDecoder()
        self._owner = peer
        self._selector.register(peer, selectors.EVENT_READ)

    def _receive(self) -> None:
        assert self._owner is not None
        try:
            data = self._owner.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            with contextlib.suppress(RemoteProtocolError):
                self._decoder.close()
            self._lose_owner()
            return
        commands = self._decoder.feed(data)
        while self._owner is not None:
            try:
                command = next(commands, None)
            except CommandError as error:
                self._driver.refuse(str(error))
                if not self._decoder.framed:  # what follows cannot be told apart
                    self._lose_owner()
                    return
                commands = self._decoder.feed(b"")
                continue
            if command is None:
                return
            self._obey(command)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Shutdown):
            self._stopping = True
        else:
            self._driver.obey(command)

    def _lose_owner(self) -> None:
        assert self._owner is not None
        self._selector.unregister(self._owner)
        self._owner.close()
        self._owner = None
        self._driver.give_up()

    def _send(self) -> None:
        """As much as the owner takes; the rest when it takes more."""
        if self._owner is None:
            return
        try:
            while data := self.device.peek(_CHUNK):
                self.device.read(self._owner.send(data))
        except BlockingIOError:
            pass
        except OSError:
            return  # its end is read next
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.device.waiting else 0)
        if self._owner in self._selector.get_map():
            self._selector.modify(self._owner, wanted)

    def _close(self) -> list[str]:
        """Returns what could not be removed."""
        self._selector.close()
        if self._owner is not None:
            self._owner.close()
            self._owner = None
        assert self._listener is not None
        self._listener.close()
        self._listener = None
        self._wake.close()
        try:
            if not self._passed:
                self.path.unlink(missing_ok=True)
        except OSError as error:  # in a folder of somebody else's, where only all of root's rights would do
            return [f"{self.path}: {error.strerror}"]
        return []


def _listen(path: Path, access: Access) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.parent == state.RUN:
            state.RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.is_socket():
            _remove_if_dead(path)
        elif os.path.lexists(path):
            raise DeviceError(f"{path} is there already, and no socket: remove it, or choose another path")
        before = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        if access.group is not None:
            os.chown(path, 0, access.group)
        path.chmod(access.mode)
        made.listen(8)
        made.setblocking(False)
    except DeviceError:
        made.close()
        raise
    except OSError as error:
        made.close()
        raise DeviceError(f"no device can be made at {path}: {error.strerror or error}") from error
    return made


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # of a driver that was killed
            return
    raise DeviceError(f"another driver serves {path}: stop it, or choose another path")


def _groups_of(peer: socket.socket) -> tuple[int, ...]:
    """The supplementary groups that the peer had when it connected; none if it has more than Python can be told of."""
    try:
        data = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
