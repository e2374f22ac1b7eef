"""What a command that runs until it is told to stop looks at meanwhile: its signals, and a file that may change."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


def changes(path: str | None, others: Callable[[], Iterable[str]] = tuple) -> Iterator[bool]:
    """Whether a file, or one of the ``others``, has changed since the last call; never for None."""

    def stamp(one: str) -> tuple[int, int, int] | None:
        try:
            found = os.stat(one)  # noqa: PTH116
        except OSError:
            return None  # between two versions, for an editor that renames
        return found.st_mtime_ns, found.st_size, found.st_ino

    def stamps() -> dict[str, tuple[int, int, int]]:
        paths = dict.fromkeys((path, *others())) if path else {}
        return {one: found for one in paths if one and (found := stamp(one))}

    last = stamps()
    while True:
        now = stamps()
        # what is looked at for the first time has not changed, except for the file itself: it is there again
        yield any(last.get(one, None if one == path else found) != found for one, found in now.items())
        last |= now


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
