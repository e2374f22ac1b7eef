"""A firewall whose driver is another process: an `Owner` at the device, with the face of an `Engine`.

It needs no privilege but to be let in. While there is no driver, nobody is asked here: the kernel enforces what it
knows, and the driver's ``--fail`` says what becomes of the rest.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tidewaiter.driver.core import SECOND, Event
from tidewaiter.host.privileges import USEFUL, effective_capabilities
from tidewaiter.host.processes import read_process, user_name
from tidewaiter.host.wake import Wake
from tidewaiter.model.process import Process
from tidewaiter.policy.document import Policy
from tidewaiter.service.device import DeviceError
from tidewaiter.service.engine import Listener
from tidewaiter.service.keeper import Keeper
from tidewaiter.service.owner import Owner
from tidewaiter.service.remote_device import become_owner, reach
from tidewaiter.service.settings import Settings
from tidewaiter.service.world import Sources

log = logging.getLogger("tidewaiter")

_CHUNK = 1 << 16
_AGAIN = 0.2
"""Seconds between two attempts to reach a driver that has gone."""


class RemoteEngine:
    """Decides by ``policy`` for the driver that serves ``path``, from `start` to `stop`.

    Of ``settings`` it takes ``timeout`` and ``on_timeout``; the rest is the driver's. ``notice`` is told sentences for
    people. Both it and ``listener`` run in a thread of its own.
    """

    def __init__(
        self,
        path: Path,
        policy: Policy,
        settings: Settings,
        *,
        listener: Listener | None,
        notice: Callable[[str], object],
    ) -> None:
        self._path, self._listener, self._notice = path, listener, notice
        self._keeper = Keeper(settings.state, notice, self._world_changed)
        self._owner = Owner(
            policy,
            timeout=int(settings.timeout * SECOND),
            on_timeout=settings.on_timeout,
            identify=lambda pid: read_process(pid) or Process(pid=pid),
            world=self._keeper.use(self._keeper.read(policy)),
        )
        self._policies: deque[Sources] = deque()
        self._stopping = False
        self.failure: BaseException | None = None
        self._warn(policy)

    def start(self) -> None:
        """Becomes the owner of the device. Raises DeviceError."""
        try:
            self._device, data = become_owner(self._path, self._owner.commands())
        except OSError as error:
            raise DeviceError(error.strerror) from error
        self._owner.receive(data, time.monotonic_ns())
        self._wake = Wake()
        self._thread = threading.Thread(target=self._run, name="tidewaiter-owner", daemon=True)
        self._thread.start()
        self._keeper.start()

    def stop(self) -> list[str]:
        """Lets go of the device; the driver goes on. Returns [], as there is nothing that could be left behind."""
        self._keeper.stop()
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._device.close()
        self._wake.close()
        return []

    @property
    def running(self) -> bool:
        """False after `stop`, or when the thread ended by an error (see ``failure``)."""
        return self._thread.is_alive()

    def load(self, policy: Policy) -> None:
        """Puts another policy in force, from any thread; open connections are decided again by it."""
        self._warn(policy)
        self._policies.append(self._keeper.read(policy))
        self._wake.set()

    def statistics(self) -> dict[str, int]:
        """What has happened so far at this end: see docs/reference/statistics.md."""
        counters = self._owner.statistics
        names = ("held", "released", "refused", "timed_out", "connections_forgotten")
        return {name: getattr(counters, name) for name in names}

    # --- in our own thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._serve()
                if not self._stopping:
                    self._notice(
                        f"The driver at {self._path} has gone: it decides without us until it is back"
                    )
                    self._come_back()
        except BaseException as error:
            self.failure = error
            log.critical("the owner has ended: %s", error, exc_info=True)

    def _serve(self) -> None:
        """Until the stream ends, or we shall stop."""
        owner, device = self._owner, self._device
        poll = select.poll()
        poll.register(device, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._stopping:
            owner.tick(time.monotonic_ns())
            try:
                if commands := owner.commands():
                    device.sendall(commands)
                for event in owner.events():
                    self._tell(event)
                ready = {number for number, _ in poll.poll(self._pause())}
                if self._wake.fileno() in ready:
                    self._take_policies()
                if device.fileno() in ready:
                    data = device.recv(_CHUNK)
                    if not data:
                        return
                    owner.receive(data, time.monotonic_ns())
            except OSError:  # the stream ends, or takes nothing any more
                return

    def _tell(self, event: Event) -> None:
        try:
            if self._listener is not None:
                self._listener(event)
        except Exception:
            log.exception("a listener failed on %s", type(event).__name__)

    def _pause(self) -> int | None:
        """Milliseconds until there is something to do by itself."""
        deadline = self._owner.deadline()
        return None if deadline is None else max(0, (deadline - time.monotonic_ns()) // 1_000_000 + 1)

    def _come_back(self) -> None:
        """A new stream, as soon as a driver takes us for its owner."""
        wake = select.poll()
        wake.register(self._wake, select.POLLIN)
        while not self._stopping:
            self._device.close()
            if wake.poll(_AGAIN * 1000):
                self._take_policies()
            self._owner.restart()
            try:
                self._device = self._connect()
                self._device.sendall(self._owner.commands())
                if self._stopping or not self._first_word():
                    continue
            except (DeviceError, OSError):
                continue
            self._notice(f"The driver at {self._path} is back")
            return

    def _first_word(self) -> bool:
        """Whether the driver says anything; we may be told to stop meanwhile."""
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._stopping:
            ready = {number for number, _ in poll.poll()}
            if self._device.fileno() in ready:
                data = self._device.recv(_CHUNK)
                self._owner.receive(data, time.monotonic_ns())
                return bool(data)
            self._take_policies()
        return False

    def _take_policies(self) -> None:
        self._wake.clear()
        while self._policies:
            sources = self._policies.popleft()
            self._owner.load(sources.policy, self._keeper.use(sources))
        if (world := self._keeper.world()) is not None:
            self._owner.look_into(world)

    def _world_changed(self) -> None:
        self._wake.set()

    def _connect(self) -> socket.socket:
        try:
            return reach(self._path)
        except OSError as error:
            raise DeviceError(error.strerror) from error

    def _warn(self, policy: Policy) -> None:
        named = [rule.name for rule in policy.rules if rule.programs]
        if named and not effective_capabilities() >> USEFUL["CAP_SYS_PTRACE"] & 1:
            self._notice(
                f"Rules that name programs ({named[0]!r}, say) match only those that {_user()} runs: "
                "give them to the driver's --policy, or CAP_SYS_PTRACE to this process"
            )


def _user() -> str:
    return f"user {user_name(os.geteuid()) or os.geteuid()}"
