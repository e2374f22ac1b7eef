"""Connections that have ended, and of which packets wait still: they are over when these have gone."""

from __future__ import annotations

import time
from collections.abc import Callable

from tidewaiter.kernel import records

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
        """Its socket is closed, or both its ends have said so."""
        self._waiting[flow] = data, now

    def meet(self, flow: bytes, data: bytes, now: int) -> tuple[bytes, int] | None:
        """A packet is held. It may be a late one of what is over (forwarded TCP), after which nothing else will come.

        If it is of another connection with the same ends, the one that has ended is given back: it is over now.
        """
        if data[records.CLOSING] & records.OVER:
            self.add(flow, data, now)
            return None
        ended, _ = self._waiting.get(flow, (data, 0))
        another = ended[records.CLOSING] & records.OVER and ended[records.OPENED] != data[records.OPENED]
        return self._waiting.pop(flow) if another else None

    def forget(self, flow: bytes) -> None:
        """It is over."""
        self._waiting.pop(flow, None)

    def over(self, now: int, is_waited_for: Callable[[bytes], bool]) -> list[tuple[bytes, bytes, int]]:
        """Those of which no packet waits any more, if it is time to look (``now`` in nanoseconds)."""
        if now < self._next_look and len(self._waiting) <= self._many:
            return []
        begun = time.monotonic_ns()
        flows = [flow for flow in self._waiting if not is_waited_for(flow)]
        ended = time.monotonic_ns()
        self._next_look = ended + max(_ROUND, _PAUSE * (ended - begun))
        return [(flow, *self._waiting.pop(flow)) for flow in flows]
