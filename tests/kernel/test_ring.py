"""kernel/ring.py: a ring buffer in plain memory, laid out as the kernel does it, read by both twins."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livelab import loaded
from strategies import FUZZ
from tidewaiter.host.machine import RING_BYTES
from tidewaiter.kernel import _native, ring
from tidewaiter.kernel.ring import Ring

SIZE = 4096
BUSY, DISCARDED = 1 << 31, 1 << 30
Drain = Callable[[mmap.mmap, mmap.mmap, int], list[bytes]]
TWINS = pytest.mark.parametrize("drain", [ring.drain, _native.drain], ids=["python", "native"])


class Fake:
    """What the two mappings of a ring show, and the kernel's side. ``start``: both positions."""

    def __init__(self, start: int = 0) -> None:
        self.control = mmap.mmap(-1, mmap.PAGESIZE)
        self.ring = mmap.mmap(-1, mmap.PAGESIZE + 2 * SIZE)
        self._set(self.control, start)
        self._set(self.ring, start)

    def close(self) -> None:
        self.control.close()
        self.ring.close()

    @property
    def consumer(self) -> int:
        return int.from_bytes(self.control[:8], "little")

    @property
    def producer(self) -> int:
        return int.from_bytes(self.ring[:8], "little")

    @property
    def room(self) -> int:
        return SIZE - (self.producer - self.consumer)

    def put(self, data: bytes, flags: int = 0) -> bool:
        """A record, if there is room for it, as bpf_ringbuf_reserve decides."""
        record = struct.pack("<II", len(data) | flags, 0) + data
        record += b"\xaa" * (-len(record) % 8)
        if len(record) > self.room:
            return False
        for offset, byte in enumerate(record):
            self._byte((self.producer + offset) % SIZE, byte)
        self._set(self.ring, self.producer + len(record))
        return True

    def commit(self, position: int, length: int) -> None:
        """A busy record is finished."""
        for offset, byte in enumerate(struct.pack("<I", length)):
            self._byte((position + offset) % SIZE, byte)

    def _byte(self, at: int, byte: int) -> None:
        for copy in (at, at + SIZE):  # the data is mapped twice in a row
            self.ring[mmap.PAGESIZE + copy] = byte

    @staticmethod
    def _set(where: mmap.mmap, position: int) -> None:
        where[:8] = struct.pack("<Q", position)


@contextmanager
def fake(start: int = 0) -> Iterator[Fake]:
    made = Fake(start)
    try:
        yield made
    finally:
        made.close()


@TWINS
def test_records_come_out_in_order_and_once(drain: Drain) -> None:
    with fake() as there:
        for data in (b"one", b"", b"twelve bytes", b"x" * 100):
            assert there.put(data)
        assert drain(there.control, there.ring, 10) == [b"one", b"", b"twelve bytes", b"x" * 100]
        assert drain(there.control, there.ring, 10) == []
        assert there.consumer == there.producer == 16 + 8 + 24 + 112


@TWINS
def test_the_limit_counts_records_and_the_rest_stays(drain: Drain) -> None:
    with fake() as there:
        for number in range(5):
            there.put(bytes([number]))
        assert drain(there.control, there.ring, 0) == []
        assert drain(there.control, there.ring, -1) == []
        assert drain(there.control, there.ring, 2) == [b"\0", b"\1"]
        assert drain(there.control, there.ring, 9) == [b"\2", b"\3", b"\4"]


@TWINS
def test_a_busy_record_holds_up_those_behind_it(drain: Drain) -> None:
    with fake() as there:
        there.put(b"first")
        busy = there.producer
        there.put(b"later", BUSY)
        there.put(b"last")
        assert drain(there.control, there.ring, 9) == [b"first"]
        assert drain(there.control, there.ring, 9) == []
        assert there.consumer == busy
        there.commit(busy, 5)
        assert drain(there.control, there.ring, 9) == [b"later", b"last"]


@TWINS
def test_a_discarded_record_is_passed_over(drain: Drain) -> None:
    with fake() as there:
        there.put(b"a")
        there.put(b"never mind", DISCARDED)
        there.put(b"b")
        assert drain(there.control, there.ring, 9) == [b"a", b"b"]
        assert there.consumer == there.producer


@TWINS
def test_a_record_across_the_end_is_whole(drain: Drain) -> None:
    with fake(start=7 * SIZE - 16) as there:
        data = bytes(range(200))
        assert there.put(data)
        assert drain(there.control, there.ring, 9) == [data]
        assert there.consumer == 7 * SIZE - 16 + 208


STEPS = st.lists(
    st.tuples(st.just("put"), st.binary(max_size=600), st.sampled_from([0, 0, 0, DISCARDED, BUSY]))
    | st.tuples(st.just("drain"), st.integers(0, 8), st.none()),
    max_size=40,
)


@given(st.integers(0, 2**40).map(lambda number: 8 * number), STEPS)
@settings(max_examples=150 * FUZZ)
def test_the_twins_agree_and_lose_nothing(start: int, steps: list[tuple[str, object, object]]) -> None:
    with fake(start) as one, fake(start) as other:
        sent: list[bytes] = []
        got: list[bytes] = []
        busy: tuple[int, bytes] | None = None
        for kind, value, flags in [*steps, ("finish", 0, None), ("drain", 1000, None)]:
            if kind == "put":
                assert isinstance(value, bytes)
                assert isinstance(flags, int)
                state = 0 if flags == BUSY and busy else flags
                position = one.producer
                accepted = one.put(value, state)
                assert other.put(value, state) == accepted
                if accepted and state == BUSY:
                    busy = (position, value)
                if accepted and state != DISCARDED:
                    sent.append(value)
            elif kind == "finish" and busy:
                for there in (one, other):
                    there.commit(busy[0], len(busy[1]))
            elif kind == "drain":
                assert isinstance(value, int)
                found = ring.drain(one.control, one.ring, value)
                assert _native.drain(other.control, other.ring, value) == found
                assert one.consumer == other.consumer
                got += found
        assert got == sent
        assert one.consumer == one.producer


@pytest.mark.live
def test_the_ring_of_the_kernel_can_be_mapped_and_is_empty() -> None:
    with loaded() as kernel:
        there = Ring(kernel.map("events").fd, RING_BYTES)
        assert there.drain() == []
        there.skip()
        assert there.drain(1) == []
        there.close()


def test_what_was_there_is_skipped() -> None:
    with fake(start=8) as there:
        skipping = Ring.__new__(Ring)
        skipping._control, skipping._ring = there.control, there.ring
        there.put(b"before our time")
        skipping.skip()
        there.put(b"ours")
        assert skipping.drain() == [b"ours"]
