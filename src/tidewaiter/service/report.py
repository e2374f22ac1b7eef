"""What happens, as the objects that ``--json`` prints and the terminal shows: docs/reference/events.md.

One object an event: ``connection`` (somebody begins), ``verdict`` (what became of it), ``end`` (with totals),
``stats`` (counters), ``notice`` (a sentence for people).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tidewaiter.driver.core import SECOND, Asked, Decided, Ended, Event
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import protocol_name
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.service.engine import Counted

Line = dict[str, Any]

_STEP = SECOND // 10
"""Nanoseconds by which the clocks may part before it is noticed; below, events keep their order."""


class Clock:
    """Turns the nanoseconds of events into seconds since 1970.

    ``offset`` (ns) is what lies between the two; by default that of CLOCK_MONOTONIC, which stands still while the
    machine sleeps.
    """

    def __init__(self, offset: int | None = None) -> None:
        self._moves = offset is None
        self._offset = _to_wall() if offset is None else offset

    def wall(self, nanoseconds: int) -> float:
        """Seconds since 1970, to the microsecond."""
        if self._moves and abs(_to_wall() - self._offset) > _STEP:
            self._offset = _to_wall()
        return round((nanoseconds + self._offset) / SECOND, 6)


def _to_wall() -> int:
    return time.time_ns() - time.monotonic_ns()


def describe(connection: Connection) -> Line:
    """The fields that every event of a connection has."""
    key = connection.key
    return {
        "id": connection.id,
        **_program(connection.process),
        "direction": connection.direction.word,
        "protocol": protocol_name(key.protocol),
        "local": key.local_endpoint,
        "remote": key.remote_endpoint,
        "interface": connection.interface,
        "name": connection.name.name,
        "aliases": list(connection.name.chain),
        "hidden": connection.name.hidden or "",
        "verdict": connection.verdict.word,
        "rule": connection.rule,
        "tier": connection.tier.value if connection.tier else "",
    }


def _program(process: Process) -> Line:
    return {
        "program": process.path,
        "pid": process.pid,
        "arguments": list(process.arguments),
        "user": process.user or (str(process.uid) if process.uid >= 0 else ""),
        "cgroup": process.cgroup,
        "unit": process.unit,
        "container": process.container,
    }


class Reporter:
    """Events in, lines out. ``observe``: a connection that the policy would ask about is shown as ``ask``.

    Without ``count`` nobody knows how many bytes there were.
    """

    def __init__(self, *, observe: bool = False, count: bool = True, clock: Clock | None = None) -> None:
        self._observe, self._count = observe, count
        self._clock = clock or Clock()

    def lines(self, event: Event | Counted) -> Iterator[Line]:
        """The lines of one event: none, one or two."""
        connection = event.connection
        if isinstance(event, Asked) and event.first:
            undecided = {
                "verdict": "undecided",
                "tier": "",
            }  # an answer may have come at once, and be told next
            yield self._line("connection", connection.opened, connection) | undecided
        elif isinstance(event, Decided):
            word = self._word(connection)
            if event.first:
                yield self._line("connection", connection.opened, connection) | {"verdict": word}
            at = connection.decided or connection.opened
            yield self._line("verdict", at, connection) | {"verdict": word, "held": event.held / SECOND}
        elif isinstance(event, Ended):
            yield self._line("end", connection.ended, connection) | {
                "verdict": self._word(connection),
                "sent": connection.sent if self._count else None,
                "received": connection.received if self._count else None,
                "duration": max(0, connection.ended - connection.opened) / SECOND,
            }

    def packet_socket(self, one: PacketSocket) -> Line:
        """The ``connection`` line of a packet socket, or its ``end``: as a connection that nobody has to decide."""
        fields = {
            "id": one.id,
            **_program(one.process),
            "direction": "out",
            "protocol": "packet",
            "local": one.interface or "any",
            "remote": "",
            "interface": one.interface,
            "name": "",
            "aliases": [],
            "hidden": "",
            "verdict": Verdict.ACCEPT.word,
            "rule": "",
            "tier": "",
        }
        if not one.ended:
            return {"event": "connection", "time": self._clock.wall(one.opened)} | fields
        duration = max(0, one.ended - one.opened) / SECOND
        totals = {"sent": one.sent, "received": one.received, "duration": duration}
        return {"event": "end", "time": self._clock.wall(one.ended)} | fields | totals

    def statistics(self, counters: dict[str, int]) -> Line:
        """A ``stats`` line."""
        return {"event": "stats", "time": round(time.time(), 6)} | counters

    def notice(self, text: str) -> Line:
        """A ``notice`` line."""
        return {"event": "notice", "time": round(time.time(), 6), "text": text}

    def _line(self, kind: str, at: int, connection: Connection) -> Line:
        return {"event": kind, "time": self._clock.wall(at)} | describe(connection)

    def _word(self, connection: Connection) -> str:
        return "ask" if self._observe and connection.verdict is Verdict.UNDECIDED else connection.verdict.word
