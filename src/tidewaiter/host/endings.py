"""Which of some processes have ended: by a file descriptor for each (pidfd_open(2)), without a look at the others."""

from __future__ import annotations

import os
import select
from collections.abc import Hashable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

from tidewaiter.host.processes import TICK, read_process
from tidewaiter.model.process import Process

ROOM = 1024
"""Processes that are watched at once."""

_K = TypeVar("_K", bound=Hashable)


class Endings(Generic[_K]):
    """What ends with a process: each thing under a key of yours. Used by one thread."""

    def __init__(self) -> None:
        self._handles: dict[tuple[int, int], int] = {}
        self._waiting: dict[int, list[_K]] = {}
        self._poll = select.poll()

    def watch(self, key: _K, process: Process) -> bool:
        """Tells of ``key`` when a process has ended. False if it has ended already, or there is no room for it."""
        name = process.pid, process.started
        handle = self._handles.get(name)
        if handle is None:
            if len(self._handles) >= ROOM or (handle := _open(process)) is None:
                return False
            self._handles[name] = handle
            self._waiting[handle] = []
            self._poll.register(handle, select.POLLIN)
        self._waiting[handle].append(key)
        return True

    def over(self) -> list[_K]:
        """The keys whose process has ended since the last call."""
        found = []
        for handle, _ in self._poll.poll(0) if self._handles else ():
            found += self._waiting[handle]
            self._forget(handle)
        return found

    def keep(self, keys: Iterable[_K]) -> None:
        """Forgets all other keys."""
        wanted = set(keys)
        for handle, waiting in list(self._waiting.items()):
            waiting[:] = [key for key in waiting if key in wanted]
            if not waiting:
                self._forget(handle)

    def close(self) -> None:
        """Forgets everything."""
        self.keep(())

    def __len__(self) -> int:
        """How many processes are watched."""
        return len(self._handles)

    def _forget(self, handle: int) -> None:
        self._poll.unregister(handle)
        os.close(handle)
        del self._waiting[handle]
        self._handles = {name: other for name, other in self._handles.items() if other != handle}


def _open(process: Process) -> int | None:
    """A descriptor that is readable when the process has ended; None if it is there no more."""
    with suppress(OSError):
        handle = os.pidfd_open(process.pid)
        now = read_process(process.pid)  # its id may be another's by now
        if now is not None and now.started == process.started // TICK * TICK:
            return handle
        os.close(handle)
    return None
