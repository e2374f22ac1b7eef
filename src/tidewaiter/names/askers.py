"""Who asks for names: for whom what a resolver answers counts."""

from __future__ import annotations

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction
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
    key, process = connection.key, connection.process
    path = process.path
    if connection.direction is Direction.FORWARD:
        host = Asker(key.namespace, str(key.local))
        return (Asker(GUESTS, f"{process.cgroup} {path}"), host) if path else (host,)
    if key.namespace == GUESTS and process.cgroup:
        return (Asker(GUESTS, f"{process.cgroup} {path}"),)
    return (Asker(key.namespace) if asks_for_others(path) else Asker(key.namespace, path),)
