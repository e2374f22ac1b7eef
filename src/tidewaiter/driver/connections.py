"""The connection cache: what is known of each connection, by its flow.

Bounded. When it is full the connection that came first gives way to the newest. What has ended stays known for a
minute, and what has no socket, whose end nobody would tell, until it was idle for ten (portmaster-kext section 2.5).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction, Protocol

CAPACITY = 65536

KEEP_ENDED = 60_000_000_000
"""How long an ended connection stays known, in nanoseconds."""

ENDED_CAPACITY = 4096
"""How many ended connections are kept; with more of them in a minute, the oldest go sooner."""

_AHEAD = 1024
"""How many of the oldest are looked up at once: a dict passes over all that have left it to find its first."""

KEEP_IDLE = 600_000_000_000
"""How long a connection without a socket stays open when nothing is heard of it, in nanoseconds."""


class ConnectionCache:
    """Connections by flow, in the order in which they came."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Raises ValueError for a capacity below 1."""
        if capacity < 1:
            raise ValueError(f"a connection cache knows at least one connection, not {capacity}")
        self.capacity = capacity
        self._connections: dict[bytes, Connection] = {}  # in order too, and 85 bytes a connection smaller
        self._oldest: deque[tuple[bytes, Connection]] = deque()
        self.get = self._connections.get
        """The connection of a flow, or None."""
        self.by_flow: Mapping[bytes, Connection] = self._connections
        """The same, to be read only."""
        self._numbers = itertools.count(1)
        self._ended: deque[tuple[int, bytes, Connection]] = deque()
        self.used: OrderedDict[bytes, int] = (
            OrderedDict()
        )  # of those that may have no socket: oldest use first

    def __len__(self) -> int:
        """How many are known."""
        return len(self._connections)

    def __getitem__(self, flow: bytes) -> Connection:
        """The connection of a flow that is known. Raises KeyError."""
        return self._connections[flow]

    def __contains__(self, flow: bytes) -> bool:
        """Whether there is one."""
        return flow in self._connections

    def open(self) -> Iterator[tuple[bytes, Connection]]:
        """Flow and connection of all that have not ended, oldest first."""
        return ((flow, known) for flow, known in self._connections.items() if not known.ended)

    def number(self) -> int:
        """The id of the next one: from 1, and never used again. Safe from any thread."""
        return next(self._numbers)

    def add(self, flow: bytes, connection: Connection, now: int) -> bytes | None:
        """A new one, in the place of another one on its flow. Returns the flow that has to give way, if any."""
        if flow in self._connections:
            self.remove(flow)
        self._connections[flow] = connection
        if connection.direction is not _OUT or not connection.cookie:
            self.used[flow] = now
        return self._first() if len(self._connections) > self.capacity else None

    def _first(self) -> bytes:
        while True:
            while self._oldest:
                flow, connection = self._oldest[0]
                if self._connections.get(flow) is connection:
                    return flow
                self._oldest.popleft()
            self._oldest.extend(islice(self._connections.items(), _AHEAD))

    def establish(self, flow: bytes, now: int) -> bool:
        """The other end has answered; whether that is new. What came in has a socket of its own from now on."""
        connection = self._connections[flow]
        if connection.established:
            return False
        connection.established = now
        if _has_socket(connection):
            self.used.pop(flow, None)
        return True

    def use(self, flow: bytes, now: int) -> None:
        """Something was heard of one that is in `used`."""
        self.used[flow] = now
        self.used.move_to_end(flow)

    def end(self, flow: bytes, now: int) -> Iterator[bytes]:
        """It has ended. Returns the flows of those that ended first, if there are too many: they have to be removed."""
        connection = self._connections[flow]
        connection.ended = now
        self.used.pop(flow, None)
        self._ended.append((now + KEEP_ENDED, flow, connection))
        return self._take_ended(len(self._ended) - ENDED_CAPACITY)

    def remove(self, flow: bytes) -> None:
        """It is known no more."""
        self._connections.pop(flow, None)
        self.used.pop(flow, None)

    def take_aged(self, now: int) -> Iterator[bytes]:
        """The flows of those that ended a minute ago: they have to be removed."""
        return self._take_ended(sum(1 for _ in takewhile(lambda ended: ended[0] <= now, self._ended)))

    def _take_ended(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            _, flow, connection = self._ended.popleft()
            if self._connections.get(flow) is connection:  # else its flow is another's by now
                yield flow

    def idle(self, now: int) -> list[bytes]:
        """The flows without a socket of which nothing was heard for so long."""
        old = [flow for flow, _ in takewhile(lambda used: used[1] + KEEP_IDLE <= now, self.used.items())]
        for flow in old:
            if _has_socket(self._connections[flow]):
                del self.used[flow]  # it got one since
        return [flow for flow in old if flow in self.used]

    def deadlines(self) -> Iterator[int]:
        """When there is something to take: `take_aged`, and `idle`."""
        if self._ended:
            yield self._ended[0][0]
        if self.used:
            yield next(iter(self.used.values())) + KEEP_IDLE

    def describe(self) -> str:
        """How full it is."""
        still_open = sum(1 for _ in self.open())
        return f"{still_open} open and {len(self) - still_open} ended of {self.capacity}"


_OUT, _TCP = Direction.OUT, int(Protocol.TCP)


def _has_socket(connection: Connection) -> bool:
    """Whether the kernel will tell of its end. What comes in by TCP has but its listener's socket until it is
    established.
    """
    waits = connection.protocol == _TCP and connection.direction is not _OUT
    return connection.cookie != 0 and not (waits and not connection.established)
