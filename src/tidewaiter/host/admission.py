"""Admission control: strangers can neither fill the queue of held packets nor keep us busy.

The kernel half (kernel/hold.bpf.c) lets at most `WINDOW` packets that come in be on their way to us, and of those that
the queue has no room for it sends no word. We say how many we have taken: as many as there are, as long as somebody
answers. When packets give way to newer ones, unanswered, more of them are of no use to anybody: then it is `_PACE` a
second, and the processor is left to those who have work to do.

Map ``admission`` (struct tw_admission) is read and written in memory: this is done for each batch of packets.
"""

from __future__ import annotations

import mmap

from tidewaiter.host.queue import BATCH, Hook
from tidewaiter.kernel.loader import Kernel

WINDOW = 1024  # TW_WINDOW

_SECOND = 1_000_000_000
_PACE = 1024  # packets a second while some give way
_CHUNK = 128  # at least so many at once: to be woken for each would take longer than to look at it
_CALM = _SECOND // 4  # so long nothing has given way: full speed again

_IN_ASKED, _IN_TAKEN, _ASKED, _TAKEN = range(4)  # enum tw_way, struct tw_admission

Batches = list[list[tuple[int, int, bytes, bytes, int]]]
"""What each queue gave (`Queue.receive`)."""


class Admission:
    """What has been asked, and what we have taken. Used by one thread: `begin`, look at the queues, `end`."""

    def __init__(self, kernel: Kernel) -> None:
        self._memory = mmap.mmap(
            kernel.map("admission").fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        words = self._words = memoryview(self._memory).cast("Q")
        # what was asked before our time went with the queue of the firewall before us
        self._asked = self._taken = words[_TAKEN] = words[_ASKED]
        self._came = self._in_taken = self._said = words[_IN_TAKEN] = words[_IN_ASKED]
        self._gave_way = self._last = 0
        self._slow_until = -1

    def begin(self) -> None:
        """Before a look at the queues: what has been asked by now is in them, or was lost on its way."""
        self._asked, self._came = self._words[_ASKED], self._words[_IN_ASKED]

    def end(self, batches: Batches, gave_way: int, now: int) -> None:
        """Behind it. ``gave_way`` is the driver's counter; ``now`` is in nanoseconds."""
        if self._asked != self._taken or self._came != self._in_taken:
            self._count(batches)
        if self._said != self._in_taken:
            self._admit(gave_way, now)

    def _count(self, batches: Batches) -> None:
        for batch in batches:
            if len(batch) >= BATCH:  # there may be more
                came_in = sum(hook == Hook.LOCAL_IN for batch in batches for _, hook, _, _, _ in batch)
                self._taken = min(self._taken + sum(map(len, batches)), self._asked)
                self._in_taken = min(self._in_taken + came_in, self._came)
                break
        else:
            self._taken, self._in_taken = self._asked, self._came
        self._words[_TAKEN] = self._taken

    def _admit(self, gave_way: int, now: int) -> None:
        if gave_way != self._gave_way:
            self._gave_way, self._slow_until = gave_way, now + _CALM
        if now < self._slow_until:
            more = min((now - self._last) * _PACE // _SECOND, self._in_taken - self._said, 2 * _CHUNK)
            if more < _CHUNK:
                return
            self._said += more
        else:
            self._said = self._in_taken
        self._words[_IN_TAKEN], self._last = self._said, now

    def close(self) -> None:
        """Unmaps it."""
        self._words.release()
        self._memory.close()


def is_full(kernel: Kernel) -> bool:
    """Whether nothing more that comes in is asked about at the moment."""
    said = kernel.map("admission").read(value=0) or {"asked": 0, "taken": 0}
    return bool(said["asked"] - said["taken"] >= WINDOW)
