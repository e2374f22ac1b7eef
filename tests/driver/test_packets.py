"""driver/packets.py: the cache of held packets."""

from __future__ import annotations

import pytest

from tidewaiter.driver.packets import CAPACITY, HeldPacket, PacketCache

A, B = b"flow a", b"flow b"


def filled(capacity: int, *flows: bytes) -> PacketCache:
    """A cache that was given a packet of each flow, with tokens t1, t2, … at times 1, 2, …."""
    cache = PacketCache(capacity)
    for number, flow in enumerate(flows, 1):
        cache.add(flow, f"t{number}", bytes([number]), number)
    return cache


def held(number: int, flow: bytes) -> HeldPacket:
    """What `filled` has put in under a number."""
    return HeldPacket(number, flow, f"t{number}", bytes([number]), number)


def test_ids_begin_at_one_and_are_never_used_again() -> None:
    cache = PacketCache()
    assert cache.capacity == CAPACITY
    numbers = []
    for _ in range(3):
        packet, evicted = cache.add(A, None, b"", 0)
        assert evicted is None
        numbers.append(packet.id)
        assert cache.take(packet.id) == packet
    assert numbers == [1, 2, 3]
    assert cache.newest == 3


def test_a_packet_is_kept_until_it_is_taken() -> None:
    cache = filled(5, A, B)
    assert cache.get(1) == cache.get(1) == held(1, A)
    assert len(cache) == 2
    assert cache.take(1) == held(1, A)
    assert cache.take(1) is None
    assert cache.get(1) is None
    assert len(cache) == 1


@pytest.mark.parametrize("number", [0, -1, 3, 2**64])
def test_an_unknown_id_is_nobody(number: int) -> None:
    cache = filled(5, A, B)
    assert cache.get(number) is None
    assert cache.take(number) is None
    assert len(cache) == 2


def test_a_flow_is_taken_in_order_and_alone() -> None:
    cache = filled(5, A, B, A, A)
    cache.take(3)
    assert (cache.waiting(A), cache.waiting(B)) == (2, 1)
    assert cache.take_flow(A) == [held(1, A), held(4, A)]
    assert cache.waiting(A) == 0
    assert cache.take_flow(A) == []
    assert cache.oldest() == held(2, B)
    assert len(cache) == 1


def test_the_oldest_gives_way_to_the_newest() -> None:
    cache = filled(2, A, B)
    packet, evicted = cache.add(A, "t3", b"\3", 3)
    assert (packet, evicted) == (held(3, A), held(1, A))
    assert cache.take_flow(A) == [packet]
    assert cache.take_flow(B) == [held(2, B)]


def test_a_cache_for_one_packet_holds_the_newest() -> None:
    cache = filled(1, A, A, B)
    assert len(cache) == 1
    assert cache.oldest() == held(3, B)
    assert cache.take_flow(A) == []


def test_the_oldest_is_the_one_that_came_first_of_those_left() -> None:
    cache = filled(5, A, B, A)
    assert cache.oldest() == held(1, A)
    cache.take_flow(A)
    assert cache.oldest() == held(2, B)
    cache.take(2)
    assert cache.oldest() is None


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_cache_holds_something(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least one packet"):
        PacketCache(capacity)
