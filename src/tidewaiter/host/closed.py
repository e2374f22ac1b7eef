"""Closed sockets of which packets wait still: their connections are over when these have gone."""

from __future__ import annotations

import time
from collections.abc import Callable

_ROUND = 20_000_000
"""Nanoseconds between two looks at them, at least."""

_PAUSE = 9
"""And so many times as long as the last one took: there may be thousands."""


class Closed:
    """Connections by their flows, with what the kernel told of their end, and when."""

    def __init__(self, many: int) -> None:
        """When there are more than ``many`` they are looked at at once."""
        self._many = many
        self._waiting: dict[bytes, tuple[bytes, int]] = {}
        self._next_look = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, flow: bytes) -> bool:
        return flow in self._waiting

    def add(self, flow: bytes, data: bytes, now: int) -> None:
        """Its socket is closed."""
        self._waiting[flow] = data, now

    def over(self, now: int, is_waited_for: Callable[[bytes], bool]) -> list[tuple[bytes, bytes, int]]:
        """Those of which no packet waits any more, if it is time to look (``now`` in nanoseconds)."""
        if now < self._next_look and len(self._waiting) <= self._many:
            return []
        begun = time.monotonic_ns()
        flows = [flow for flow in self._waiting if not is_waited_for(flow)]
        ended = time.monotonic_ns()
        self._next_look = ended + max(_ROUND, _PAUSE * (ended - begun))
        return [(flow, *self._waiting.pop(flow)) for flow in flows]
