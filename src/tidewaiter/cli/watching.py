"""What a command that runs until it is told to stop looks at meanwhile: its signals, and a file that may change."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def changes(path: str | None) -> Iterator[bool]:
    """Whether a file has changed since the last call; never for None."""

    def stamp() -> tuple[int, int, int] | None:
        try:
            found = os.stat(path) if path else None  # noqa: PTH116
        except OSError:
            return None  # between two versions, for an editor that renames
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None

    last = stamp()
    while True:
        now = stamp()
        yield now is not None and now != last
        last = now or last


@contextmanager
def signals() -> Iterator[set[int]]:
    """The signals that have come: SIGINT and SIGTERM both as SIGTERM, and SIGHUP."""
    seen: set[int] = set()
    stops = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGHUP}
    before = {
        number: signal.signal(number, lambda n, _: seen.add(stops[signal.Signals(n)])) for number in stops
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
