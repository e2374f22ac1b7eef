"""What the kernel has told of connections: struct tw_connection of what is asked about, what ends with which socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tidewaiter.host.sockets import Sockets
from tidewaiter.kernel import records
from tidewaiter.model.connection import Connection

_FEW = 8192
"""So many are kept without a look at whether anybody still needs them."""


Sighted = tuple[bytes, Connection, int]
"""A connection that was answered on sight, and of which the driver does not know yet: struct tw_connection, itself, and
since when its packet waited (ns).
"""


class Known:
    """As much as the driver knows (``find``), and as long: twice as much at the most, since `trim` looks only now and
    then. What is decided needs no more than the driver has of it: by far the most.
    """

    def __init__(self, find: Callable[[bytes], Connection | None]) -> None:
        self.asked: dict[bytes, bytes] = {}
        """struct tw_connection of what is asked about, by name: the kernel takes the answer in it."""
        self._find = find
        self._sockets = Sockets()
        self._room = _FEW

    def __len__(self) -> int:
        """How much there is at the most."""
        return len(self.asked) + len(self._sockets)

    def ask(self, name: bytes, data: bytes) -> None:
        """What was told now, with a question."""
        self.put(name, data)
        self.asked[name] = data

    def renew(self, name: bytes, epoch: int) -> None:
        """The policy is another: what is asked is asked under that one, and so will the answer be."""
        if name in self.asked:
            self.asked[name] = records.of_epoch(self.asked[name], epoch)

    def put(self, name: bytes, data: bytes) -> None:
        """What was told now, before the driver hears of it."""
        cookie, ends = _cookie(data), records.ends_with_socket(data)
        if ends:
            known = self._find(name)
            for before in {self._asked_cookie(name), known.cookie if known else 0} - {cookie}:
                self._sockets.discard(before, name)  # another socket's of the same ends
        if name in self.asked:
            self.asked[name] = data
        if cookie and ends:
            self._sockets.add(cookie, name)

    def get(self, name: bytes) -> bytes | None:
        """What was told of it, or as much as the driver knows: ends, socket, direction."""
        data = self.asked.get(name)
        if data is None:
            known = self._find(name)
            data = records.of_connection(known) if known is not None and not known.ended else None
        return data

    def remove(self, name: bytes) -> None:
        """It is over, and the driver does not know that yet."""
        known = self._find(name)
        for cookie in {self._asked_cookie(name), known.cookie if known else 0}:
            self._sockets.discard(cookie, name)
        self.asked.pop(name, None)

    def of_socket(self, cookie: int) -> tuple[bytes, ...]:
        """The names of all that end with a socket."""
        return self._sockets.of(cookie)

    def ending_with_sockets(self) -> Iterator[tuple[bytes, bytes]]:
        """Name and struct tw_connection of all that end with some socket."""
        return ((name, data) for _, name in self._sockets if (data := self.get(name)) is not None)

    def trim(self) -> None:
        """Forgets what the driver has forgotten, when much has come since the last time."""
        if len(self) <= self._room:
            return
        self.asked = {name: data for name, data in self.asked.items() if self._find(name) is not None}
        for cookie, name in [(cookie, name) for cookie, name in self._sockets if self._find(name) is None]:
            self._sockets.discard(cookie, name)
        self._room = max(_FEW, 2 * len(self))

    def _asked_cookie(self, name: bytes) -> int:
        data = self.asked.get(name)
        return 0 if data is None else _cookie(data)


def _cookie(data: bytes) -> int:
    return int.from_bytes(data[records.COOKIE], "little")
