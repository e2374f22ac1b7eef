"""Who asks for names: for whom what a resolver answers counts."""

from __future__ import annotations

from functools import lru_cache

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import NAMESPACE, Direction
from tidewaiter.names.resolvers import asks_for_others
from tidewaiter.names.table import Asker

GUESTS = 0
"""The number that stands for every network namespace that has none: of containers, mostly."""


def askers(connection: Connection) -> tuple[Asker, ...]:
    """Whoever learns what this connection is answered, if it leads to a resolver, and otherwise whose names it goes by.

    It learns for the first of them, and has the names of the first that knows any. What is forwarded belongs to
    its program if that is known, and to the host that sends it. Programs of guests are told apart by their control
    groups, since two containers may have the same path.
    """
    process = connection.process
    path = process.path
    if connection.direction is Direction.FORWARD:
        key = connection.key
        host = Asker(key.namespace, str(key.local))
        return (Asker(GUESTS, f"{process.cgroup} {path}"), host) if path else (host,)
    return _askers(connection.flow[NAMESPACE], path, process.cgroup)


@lru_cache(maxsize=4096)
def _askers(namespace: bytes, path: str, cgroup: str) -> tuple[Asker, ...]:
    number = int.from_bytes(namespace, "little")
    if number == GUESTS and cgroup:
        return (Asker(GUESTS, f"{cgroup} {path}"),)
    return (Asker(number) if asks_for_others(path) else Asker(number, path),)
