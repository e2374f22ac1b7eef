"""Map `pending` as a whole: whose a packet is when the kernel's word of it was lost, and what nobody waits for.

Both happen only when more comes than can be taken. Reading the map may take longer than a hundred packets, so it is
done for many at once, and not often.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Home

_PAUSE = 9
"""Times as long as a reading took until the next one: a tenth of the time at the most goes into it."""

_LONG = 1_000_000_000  # nanoseconds between two looks while the queue is not empty

_EVENTS_LOST = 0  # enum tw_counter

AGE = 250_000_000
"""Nanoseconds after which, when the queue is empty, a packet of which the kernel has told is known to be lost."""


class Questions:
    """Used by one thread."""

    def __init__(self, kernel: Kernel) -> None:
        self._pending, self._flows = kernel.map("pending"), kernel.map("flows")
        self._counters = kernel.map("counters")
        self._cookies: dict[bytes, bytes] = {}  # by flow, as they were at the last reading
        self._next_reading = 0
        self._lost = self._count_lost()
        self._left: set[bytes] = set()
        self._idle_look = self._busy_look = 0

    def search(self, flow: bytes) -> bytes | None:
        """What the kernel knows of a held packet of which it has told nothing: struct tw_connection, or None."""
        found = self._look_up(flow)
        if found is None and time.monotonic_ns() >= self._next_reading:
            self._read()
            found = self._look_up(flow)
        return found or self._flows.get(records.key_by_addresses(flow))

    def clear(self, now: int, is_wanted: Callable[[bytes], bool], *, idle: bool) -> None:
        """Removes questions about closed sockets that were left to us, when word of them was lost.

        They would stay for ever. ``is_wanted``: whether there is a packet that waits for the answer, by the name of its
        connection. What is left in two looks in a row is not on its way to us: they are a moment apart when the queue
        is empty (``idle``). While it is not, a packet that needs longer than a second is given up.
        """
        if now < (self._idle_look if idle else self._busy_look):
            return
        begun = time.monotonic_ns()
        if idle:
            self._cookies = {}
        lost = self._count_lost()
        if lost != self._lost or self._left:
            self._lost = lost
            self._look(is_wanted)
        self._idle_look = now + AGE
        self._busy_look = now + _LONG + _PAUSE * (time.monotonic_ns() - begun)

    def _look(self, is_wanted: Callable[[bytes], bool]) -> None:
        left = {
            cookie
            for cookie, data in self._pending.items()
            if data[records.HOME] == Home.RELEASED and not is_wanted(records.name(data))
        }
        self._pending.delete_all(list(left & self._left))
        self._left = left - self._left

    def _look_up(self, flow: bytes) -> bytes | None:
        cookie = self._cookies.get(flow)
        data = None if cookie is None else self._pending.get(cookie)
        return data if data is not None and data[records.FLOW] == flow else None

    def _read(self) -> None:
        begun = time.monotonic_ns()
        self._cookies = {data[records.FLOW]: cookie for cookie, data in self._pending.items()}
        ended = time.monotonic_ns()
        self._next_reading = ended + _PAUSE * (ended - begun)

    def _count_lost(self) -> int:
        return self._counters.sum(value=_EVENTS_LOST)
