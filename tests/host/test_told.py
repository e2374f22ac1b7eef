"""What the kernel has told of packets that are on their way."""

from __future__ import annotations

from tidewaiter.host.told import Told
from tidewaiter.kernel import records


def test_packets_of_a_flow_are_told_in_their_order() -> None:
    told = Told(8)
    told.add(b"flow", (b"first", 1))
    told.add(b"flow", (b"second", 2))
    told.add(b"other", (b"x", 3))
    told.add(b"flow", (b"third", 4))
    assert [told.take(b"flow") for _ in range(4)] == [(b"first", 1), (b"second", 2), (b"third", 4), None]
    assert told.take(b"other") == (b"x", 3)
    assert not told
    assert not told._behind


def test_a_packet_is_behind_what_was_answered_if_it_is_of_the_same_socket() -> None:
    ours, theirs = (records.CONNECTION.pack({"cookie": cookie}) for cookie in (1, 2))
    told = Told(8)
    assert told.is_behind(b"flow", ours)
    told.add(b"flow", (ours, 1))
    told.add(b"flow", (theirs, 2))
    assert told.is_behind(b"flow", ours)
    assert not told.is_behind(b"flow", ours)
    assert told.take(b"flow") == (theirs, 2)


def test_when_there_is_no_room_all_are_forgotten() -> None:
    told = Told(2)
    for flow in (b"a", b"b", b"c"):
        told.add(flow, (b"x", 1))
    assert list(told) == [b"c"]


def test_what_is_forgotten_leaves_nothing() -> None:
    told = Told(8)
    for _ in range(2):
        told.add(b"a", (b"x", 1))
        told.add(b"b", (b"y", 1))
    told.forget(b"a")
    assert told.take(b"a") is None
    told.clear()
    assert told.take(b"b") is None
    assert not told._behind
