"""The names of live connections, as the kernel half copies what resolvers say, and as held packets tell."""

from __future__ import annotations

import time

from tidewaiter.driver.core import Asked, Decided, Ended, Event
from tidewaiter.host.install import Installed
from tidewaiter.host.owners import Owners
from tidewaiter.host.texts import Texts
from tidewaiter.model.connection import Connection
from tidewaiter.names.live import LiveNames, Wait


class Naming:
    """Used by the engine's thread, from `start` on; before it nothing has a name."""

    def __init__(self) -> None:
        self._names = LiveNames()
        self._texts: Texts | None = None

    def start(self, installed: Installed) -> None:
        """Listens to what is said with resolvers from now on."""
        kernel = installed.kernel
        self._texts = Texts(kernel, Owners(kernel), taken_over=installed.taken_over)

    def close(self) -> None:
        """Hears no more."""
        if self._texts is not None:
            self._texts.close()
            self._texts = None

    def call(self, connection: Connection) -> None:
        """Gives a connection its name, as far as it is known now."""
        self._names.call(connection, self._learn())

    def look(self, connection: Connection, payload: bytes) -> Wait | None:
        """What a held packet has to wait for until the name of its connection is certain (`LiveNames.look`)."""
        return self._names.look(connection, payload, self._learn())

    def waits(self, connection: Connection) -> bool:
        """Whether the name of a connection is still looked for."""
        return self._names.waits(connection)

    def follow(self, event: Event) -> None:
        """A connection has begun, and gets its name; or it is over."""
        now = time.monotonic_ns()
        if type(event) is Ended:
            self._names.ended(event.connection, now)
        elif type(event) is Asked or (type(event) is Decided and event.first):
            self.call(event.connection)
            self._names.opened(event.connection, now)

    def late(self) -> list[bytes]:
        """The flows of connections whose first bytes are not waited for any more."""
        return self._names.late(self._learn())

    @property
    def deadline(self) -> int | None:
        """When `late` has something to tell next (nanoseconds of the monotonic clock), or None."""
        return self._names.deadline

    def _learn(self) -> int:
        """Takes over what has been said; returns the time."""
        now = time.monotonic_ns()
        if self._texts is not None:
            for text in self._texts.drain():
                self._names.heard(text, now)
        return now
