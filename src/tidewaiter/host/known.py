"""What the kernel has told of each connection last: struct tw_connection, by its name and by its socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tidewaiter.kernel import records

_FEW = 8192
"""So many are kept without a look at whether anybody still needs them."""


class Known:
    """As much as the driver knows, and as long: twice as much at the most, since `trim` looks only now and then."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        """struct tw_connection by name; to be read only."""
        self._of_socket: dict[int, set[bytes]] = {}
        self._room = _FEW

    def put(self, name: bytes, data: bytes) -> None:
        """What was told now."""
        before = self.data.get(name)
        if before is not None and before[records.COOKIE] != data[records.COOKIE]:
            self._let_go(name, before)  # another socket's of the same ends
        self.data[name] = data
        cookie = _cookie(data)
        if cookie and records.ends_with_socket(data):
            self._of_socket.setdefault(cookie, set()).add(name)

    def remove(self, name: bytes) -> None:
        """It is over."""
        data = self.data.pop(name, None)
        if data is not None:
            self._let_go(name, data)

    def of_socket(self, cookie: int) -> tuple[bytes, ...]:
        """The names of all that end with a socket."""
        return tuple(self._of_socket.get(cookie, ()))

    def ending_with_sockets(self) -> Iterator[tuple[bytes, bytes]]:
        """Name and struct tw_connection of all that end with some socket."""
        return ((name, self.data[name]) for names in self._of_socket.values() for name in names)

    def trim(self, is_known: Callable[[bytes], bool]) -> None:
        """Forgets what the driver has forgotten (``is_known``), when much has come since the last time."""
        if len(self.data) <= self._room:
            return
        for name in [name for name in self.data if not is_known(name)]:
            self.remove(name)
        self._room = max(_FEW, 2 * len(self.data))

    def _let_go(self, name: bytes, data: bytes) -> None:
        cookie = _cookie(data)
        names = self._of_socket.get(cookie)
        if names is not None:
            names.discard(name)
            if not names:
                del self._of_socket[cookie]


def _cookie(data: bytes) -> int:
    return int.from_bytes(data[records.COOKIE], "little")
