"""The first bytes of all connections that are being read at this moment, with room for so many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from tidewaiter.model.name import Name, unreadable
from tidewaiter.names.first import First

CONNECTIONS = 1024
"""How many connections are read at once, of 32 KiB each at most; then the oldest becomes unreadable."""

_Key = TypeVar("_Key", bound=Hashable)


class Readings(Generic[_Key]):
    """Connections by whatever names them. `settled` gives each its name, once. Times are nanoseconds."""

    def __init__(self, connections: int = CONNECTIONS) -> None:
        self._room = connections
        self._reading: OrderedDict[_Key, First] = OrderedDict()  # in the order of their deadlines
        self._settled: list[tuple[_Key, Name]] = []

    def __len__(self) -> int:
        return len(self._reading)

    def __contains__(self, key: object) -> bool:
        """Whether a connection has begun to say something, and no name is settled yet."""
        return key in self._reading

    def feed(self, key: _Key, protocol: int, data: bytes, now: int, offset: int = 0) -> None:
        """What the client of a connection sends; no more of it once `settled` has told its name."""
        if not data:
            return
        first = self._reading.get(key)
        self.expire(now)
        if first is None:
            first = First(protocol)
            if len(self._reading) >= self._room:
                oldest, _ = self._reading.popitem(last=False)
                self._settled.append((oldest, unreadable("too many connections begin at once")))
            self._reading[key] = first
        if key in self._reading:  # else its time was over
            self._settle(key, first.feed(data, now, offset))

    def expire(self, now: int) -> None:
        """Ends the waiting for those whose time is over."""
        while self._reading:
            key, first = next(iter(self._reading.items()))
            if first.deadline is None or now < first.deadline:
                break
            self._settle(key, first.late(now))

    def ended(self, key: _Key) -> None:
        """A connection is over; what it had begun to say is never told."""
        self._reading.pop(key, None)

    def settled(self) -> list[tuple[_Key, Name]]:
        """The names that have been found since the last call."""
        settled, self._settled = self._settled, []
        return settled

    @property
    def deadline(self) -> int | None:
        """When `expire` has something to do next, or None."""
        return next(iter(self._reading.values())).deadline if self._reading else None

    def _settle(self, key: _Key, name: Name | None) -> None:
        if name is not None:
            del self._reading[key]
            self._settled.append((key, name))
