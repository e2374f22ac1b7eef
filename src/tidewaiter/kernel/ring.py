"""The ring buffer in which the kernel half tells what happens (BPF_MAP_TYPE_RINGBUF).

Layout, from Documentation/bpf/ringbuf.rst: a page with the consumer's position, a page with the producer's,
then the data, mapped twice in a row so that a record never has to be put together from two ends.
A record is a header of eight bytes (length with two flag bits, page offset) and its data, rounded up to eight.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from functools import partial
from typing import Any

from tidewaiter.kernel import _native, records
from tidewaiter.kernel.records import EventKind, Home

_BUSY, _DISCARDED, _HEADER = 1 << 31, 1 << 30, 8
_LIMIT = 1024


class Ring:
    """One consumer of one ring buffer of ``size`` bytes. Bounded: what does not fit is counted in the kernel."""

    def __init__(self, fd: int, size: int) -> None:
        self._control = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._ring = mmap.mmap(
            fd, mmap.PAGESIZE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE
        )
        self.hear = partial(_native.hear, self._control, self._ring, _LIMIT)
        """The events that are there, oldest first, but those that are put in their places at once: `hear` below."""

    def drain(self, limit: int = _LIMIT) -> list[bytes]:
        """The records that are there, at most ``limit``, oldest first."""
        return _native.drain(self._control, self._ring, limit)

    def skip(self) -> None:
        """Forgets what is there: events from before our time."""
        self._control[:8] = self._ring[:8]

    def close(self) -> None:
        """Unmaps it."""
        self._control.close()
        self._ring.close()


def drain(control: mmap.mmap, ring: mmap.mmap, limit: int) -> list[bytes]:
    """The reference of `_native.drain`, which does the same with the memory barriers that C can have."""
    mask = (len(ring) - mmap.PAGESIZE) // 2 - 1
    (consumer,), (producer,) = struct.unpack_from("Q", control), struct.unpack_from("Q", ring)
    records: list[bytes] = []
    while limit > 0 and consumer < producer:
        limit -= 1
        at = mmap.PAGESIZE + (consumer & mask)
        (length,) = struct.unpack_from("I", ring, at)
        if length & _BUSY:
            break
        size = length & ~(_BUSY | _DISCARDED)
        if not length & _DISCARDED:
            records.append(ring[at + _HEADER : at + _HEADER + size])
        consumer += size + _HEADER + 7 & ~7
        struct.pack_into("Q", control, 0, consumer)
    return records


def hear(
    control: mmap.mmap,
    ring: mmap.mmap,
    limit: int,
    held: dict[bytes, tuple[bytes, int]],
    sighted: dict[bytes, Any],
    known: Mapping[bytes, object],
    quiet: bool,
    room: int,
) -> list[bytes]:
    """The events that are there, oldest first, but for those that can be put in their places at once.

    That of a packet on its way is put into ``held``: its connection as the kernel tells of it, and the time, by its
    flow; not when there are ``room`` already, and not when it may have been another's before: when its flow is
    among ``held``, ``sighted`` or ``known``. From such a one on all are returned. An end takes its connection out of
    ``sighted`` when nobody wants to hear of it (``quiet``). The reference of `_native.hear`.
    """
    rest: list[bytes] = []
    ordered = False
    for data in drain(control, ring, limit):
        if len(data) != records.EVENT.size or ordered:
            rest.append(data)
            continue
        kind, connection, now = records.event(data)
        flow, left_to_us = connection[records.FLOW], connection[records.HOME] == Home.RELEASED
        if kind == EventKind.HELD and not (
            flow in sighted or flow in known or flow in held or len(held) >= room
        ):
            held[flow] = connection, now
        elif kind == EventKind.ENDED and quiet and flow in sighted and not left_to_us:
            del sighted[flow]
        else:
            ordered = kind == EventKind.HELD
            rest.append(data)
    return rest
