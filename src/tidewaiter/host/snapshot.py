"""What is open now, read from the pinned maps of a firewall that runs in another process."""

from __future__ import annotations

from typing import Self

from tidewaiter.host import state
from tidewaiter.host.owners import Owners
from tidewaiter.host.state import State, StateError
from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.objects import Mode
from tidewaiter.kernel.records import Flag, Home
from tidewaiter.kernel.totals import Totals
from tidewaiter.model.connection import Connection


class Snapshot:
    """Reads the connections of one instance, without disturbing it."""

    def __init__(self, found: State) -> None:
        self._state = found
        self._kernel = Kernel.adopt(found.pins, Mode(found.mode))
        self._totals = Totals(self._kernel)
        self._owners = Owners(self._kernel)

    @classmethod
    def open(cls, name: str) -> Self | None:
        """The instance of that name, or None if there is none. Raises KernelError, StateError."""
        found = state.load(name)
        return cls(found) if found is not None and (found.pins / "maps").is_dir() else None

    def read(self) -> list[Connection]:
        """Every connection that is open or waits, oldest first. Raises StateError when the firewall is gone."""
        now = state.load(self._state.name)  # a new policy has other rules
        if now is None or now.pins != self._state.pins:
            raise StateError(
                f"the firewall {self._state.name!r} has stopped, or another one has taken its place"
            )
        found = [
            (data[records.FLOW], records.unpack(data))
            for data in open_connections(self._kernel, self._totals)
        ]
        found.sort(key=lambda one: one[1].opened)
        return [
            records.connection(flow, record, self._owners.of(record), now.rules) for flow, record in found
        ]

    def close(self) -> None:
        """Closes our handles."""
        self._totals.close()
        self._kernel.close()


def open_connections(kernel: Kernel, totals: Totals) -> list[bytes]:
    """struct tw_connection of all that is open or waits: datagram flows, questions and adopted sockets, sockets."""
    found: dict[bytes, bytes] = {}
    for data in kernel.map("flows").values():
        if data[records.HOME] == Home.PEER:
            found[data[records.FLOW]] = data
    for data in kernel.map("pending").values():
        if not data[records.FLAGS] & Flag.MARKER:
            found[data[records.FLOW]] = data
    for data in totals.read():
        found[data[records.FLOW]] = data
    return list(found.values())
