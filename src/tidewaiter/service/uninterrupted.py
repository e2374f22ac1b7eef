"""Ctrl-C while a firewall starts or stops: it waits until that is done, so that nothing is left half in force.

Python raises KeyboardInterrupt between any two instructions of the main thread. One that is raised while a thread is
being started, say, leaves a thread of which nobody knows.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GLANCE = 0.5
"""Seconds that a thread may sleep on a lock. A signal that comes just before it falls asleep does not wake it: Python
notices that one only afterwards."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that end a program come when the block is done: handlers in Python are called then, and may raise.

    Does nothing in other threads than the main one, where no handler is ever called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in handlers.items() if callable(handler)]
    for number in ours:
        signal.signal(number, lambda *call: came.append(call))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, handlers[number])
    for signalled, frame in came:
        handler = handlers[signal.Signals(signalled)]
        assert callable(handler)
        handler(signalled, frame)
