"""Which connections end with which socket: a datagram socket may have many, and the kernel tells of its end alone."""

from __future__ import annotations

from collections.abc import Iterator


class Sockets:
    """Names of connections (`records.name`) by the cookie of their socket. Most sockets have one, so no set is made."""

    def __init__(self) -> None:
        self._names: dict[int, bytes | set[bytes]] = {}

    def __len__(self) -> int:
        """How many sockets there are."""
        return len(self._names)

    def add(self, cookie: int, name: bytes) -> None:
        """A connection of this socket."""
        known = self._names.setdefault(cookie, name)
        if isinstance(known, set):
            known.add(name)
        elif known != name:
            self._names[cookie] = {known, name}

    def discard(self, cookie: int, name: bytes) -> None:
        """The connection is over, or another socket's."""
        known = self._names.get(cookie)
        if isinstance(known, set):
            known.discard(name)
        if known == name or not known:
            self._names.pop(cookie, None)

    def of(self, cookie: int) -> tuple[bytes, ...]:
        """The connections of a socket."""
        known = self._names.get(cookie, ())
        return (known,) if isinstance(known, bytes) else tuple(known)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Every connection, with its socket before it."""
        for cookie, known in self._names.items():
            for name in (known,) if isinstance(known, bytes) else known:
                yield cookie, name
