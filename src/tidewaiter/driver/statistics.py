"""The counters of a driver (docs/reference/statistics.md)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Statistics:
    """What has happened so far. Everything that was not done as asked has a number here.

    Of the packets that were ``held``, some still wait; each of the others was ``released`` or ``refused`` by
    a verdict, ``gave_way`` to a newer one, or was ``abandoned``: its connection ended or was forgotten.
    """

    held: int = 0
    released: int = 0
    refused: int = 0
    gave_way: int = 0
    abandoned: int = 0
    timed_out: int = 0
    unknown_ids: int = 0
    events_dropped: int = 0
    connections_forgotten: int = 0
