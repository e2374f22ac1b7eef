"""kernel/ring.py: a ring buffer in plain memory, laid out as the kernel does it, read by both twins."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livelab import loaded
from strategies import FUZZ
from tidewaiter.host.machine import RING_BYTES
from tidewaiter.kernel import _native, records, ring
from tidewaiter.kernel.records import EventKind, Home
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


# --- hear ------------------------------------------------------------------------------------------

HEAR = pytest.mark.parametrize("hear", [ring.hear, _native.hear], ids=["python", "native"])
Hear = Callable[..., list[bytes]]
ROOM = 4


def event(kind: int, number: int = 1, home: int = Home.SOCKET, time: int = 7) -> bytes:
    """An event about the connection of a flow with this number."""
    connection = records.CONNECTION.pack({"namespace": number, "cookie": time, "home": home, "protocol": 6})
    return records.EVENT.pack({"time": time, "kind": kind})[: -len(connection)] + connection


def flow(number: int) -> bytes:
    return event(0, number)[records.EVENT_FLOW]


class Places:
    """What `hear` is told to look at, and what became of it."""

    def __init__(self, sighted: tuple[int, ...] = (), known: tuple[int, ...] = ()) -> None:
        self.held: dict[bytes, tuple[bytes, int]] = {}
        self.sighted = {flow(number): "sighted" for number in sighted}
        self.known = {flow(number): None for number in known}

    def hear(self, hear: Hear, there: Fake, limit: int = 1024, *, quiet: bool = True) -> list[bytes]:
        return hear(there.control, there.ring, limit, self.held, self.sighted, self.known, quiet, ROOM)

    def tell(self, hear: Hear, *events: bytes, quiet: bool = True) -> list[bytes]:
        with fake() as there:
            assert all(there.put(data) for data in events)
            return self.hear(hear, there, quiet=quiet)


@HEAR
def test_whose_a_packet_is_gets_its_place(hear: Hear) -> None:
    places = Places(sighted=(3,), known=(4,))
    one, two = event(EventKind.HELD, 1), event(EventKind.HELD, 2, time=9)
    assert places.tell(hear, one, two) == []
    assert places.held == {
        flow(1): (one[records.EVENT_CONNECTION], 7),
        flow(2): (two[records.EVENT_CONNECTION], 9),
    }


@HEAR
@pytest.mark.parametrize("places", [Places(sighted=(1,)), Places(known=(1,))], ids=["sighted", "known"])
def test_from_a_question_about_addresses_of_another_on_all_is_returned(hear: Hear, places: Places) -> None:
    places.held.clear()
    events = [event(kind, number) for kind, number in ((2, 9), (1, 1), (1, 2), (4, 1), (3, 1))]
    assert places.tell(hear, event(EventKind.HELD, 5), *events) == events
    assert list(places.held) == [flow(5)]
    assert len(places.sighted) + len(places.known) == 1


@HEAR
def test_an_end_that_nobody_wants_to_hear_of_is_all_there_is(hear: Hear) -> None:
    end, left = event(EventKind.ENDED), event(EventKind.ENDED, home=Home.RELEASED)
    places = Places(sighted=(1, 2))
    assert places.tell(hear, end, quiet=False) == [end]
    assert places.tell(hear, left) == [left]  # its question is left to us
    assert len(places.sighted) == 2
    assert places.tell(hear, end) == []
    assert list(places.sighted) == [flow(2)]
    assert places.tell(hear, end) == [end]


@HEAR
def test_no_more_are_kept_than_there_is_room_for(hear: Hear) -> None:
    places = Places()
    events = [event(EventKind.HELD, number) for number in range(ROOM + 2)]
    assert places.tell(hear, *events) == events[ROOM:]
    assert len(places.held) == ROOM


@HEAR
def test_what_is_no_event_is_returned(hear: Hear) -> None:
    others = [b"", event(EventKind.HELD)[:-1], event(EventKind.ENDED) + b"x", event(77), event(0)]
    places = Places(sighted=(1,))
    assert places.tell(hear, *others) == others
    assert places.held == {}
    assert len(places.sighted) == 1


EVENTS = st.lists(
    st.binary(max_size=300)
    | st.builds(
        event,
        st.integers(1, 5) | st.integers(0, 255),
        st.integers(0, 5),
        st.sampled_from(Home),
        st.integers(0, 2**64 - 1),
    ),
    max_size=14,
)


@given(EVENTS, st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)), st.booleans(), st.integers(-1, 16))
@settings(max_examples=300 * FUZZ)
def test_the_twins_hear_the_same(
    events: list[bytes], sighted: set[int], known: set[int], quiet: bool, limit: int
) -> None:
    one, other = (Places(tuple(sighted), tuple(known)) for _ in range(2))
    with fake() as here, fake() as there:
        for data in events:
            assert here.put(data) == there.put(data)
        for up_to in (limit, 1024):
            expected = one.hear(ring.hear, here, up_to, quiet=quiet)
            assert other.hear(_native.hear, there, up_to, quiet=quiet) == expected
            assert (one.held, one.sighted) == (other.held, other.sighted)
            assert list(one.held) == list(other.held)
            assert here.consumer == there.consumer


@pytest.mark.parametrize("wrong", [[], None, "text"])
def test_places_are_dicts(wrong: object) -> None:
    with fake() as there:
        there.put(event(EventKind.HELD))
        for place in range(3):
            places: list[Any] = [{}, {}, {}]
            places[place] = wrong
            with pytest.raises(TypeError):
                _native.hear(there.control, there.ring, 9, places[0], places[1], places[2], True, ROOM)
        assert there.consumer < there.producer


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
