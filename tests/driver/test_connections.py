"""driver/connections.py: the connection cache (portmaster-kext section 2.5)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tidewaiter.driver import connections as module
from tidewaiter.driver.connections import KEEP_ENDED, KEEP_IDLE, ConnectionCache
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol

A, B, C = b"a", b"b", b"c"


def connection(
    cookie: int = 1, protocol: int = Protocol.TCP, direction: Direction = Direction.OUT, established: int = 0
) -> Connection:
    key = ConnectionKey(protocol, ip_address("192.0.2.1"), 4000, ip_address("192.0.2.2"), 443)
    return Connection(0, key, direction, cookie=cookie, established=established)


def filled(*flows: bytes, capacity: int = 10, cookie: int = 1) -> ConnectionCache:
    """A cache that was told of each flow at 1, 2, …."""
    cache = ConnectionCache(capacity)
    for now, flow in enumerate(flows, 1):
        cache.add(flow, connection(cookie), now)
    return cache


def test_ids_begin_at_one() -> None:
    cache = ConnectionCache()
    assert [cache.number() for _ in range(3)] == [1, 2, 3]


def test_what_is_added_is_found_until_it_is_removed() -> None:
    cache = filled(A, B)
    assert (len(cache), A in cache, C in cache) == (2, True, False)
    assert cache.get(A) is cache[A]
    assert [flow for flow, _ in cache.open()] == [A, B]
    cache.remove(A)
    cache.remove(A)
    assert cache.get(A) is None
    assert cache.describe() == "1 open and 0 ended of 10"


def test_when_it_is_full_the_first_one_must_give_way() -> None:
    cache = filled(A, B, capacity=2)
    assert cache.add(A, connection(), 3) is None, "it takes the place of another one on its flow"
    assert cache.add(C, connection(), 4) == B, "which came last"


@pytest.mark.parametrize("ahead", [1, 3, 1024])
def test_the_oldest_gives_way_however_many_have_left(monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    monkeypatch.setattr(module, "_AHEAD", ahead)
    cache, model = ConnectionCache(5), list[bytes]()
    for number in range(200):
        flow = b"%d" % (number * 7 % 13)
        if number % 5 == 4 and model:
            cache.remove(model.pop(number % len(model)))
        model = [one for one in model if one != flow] + [flow]
        oldest = cache.add(flow, connection(), number)
        assert oldest == (model[0] if len(model) > 5 else None)
        if oldest is not None:
            cache.remove(oldest)
            del model[0]
        assert [flow for flow, _ in cache.open()] == model


def test_the_ended_stay_for_a_minute() -> None:
    cache = filled(A, B)
    assert list(cache.end(A, 5)) == []
    assert (cache[A].ended, [flow for flow, _ in cache.open()]) == (5, [B])
    assert list(cache.deadlines()) == [5 + KEEP_ENDED]
    assert list(cache.take_aged(5 + KEEP_ENDED - 1)) == []
    assert list(cache.take_aged(5 + KEEP_ENDED)) == [A]
    assert list(cache.deadlines()) == []


def test_an_ended_one_whose_flow_is_used_again_is_not_taken() -> None:
    cache = filled(A)
    list(cache.end(A, 5))
    cache.add(A, connection(), 6)
    assert list(cache.take_aged(5 + KEEP_ENDED)) == []
    assert A in cache


def test_of_too_many_ended_the_first_ones_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENDED_CAPACITY", 1)
    cache = filled(A, B)
    assert list(cache.end(A, 5)) == []
    assert list(cache.end(B, 5)) == [A]


def test_what_has_no_socket_is_idle_after_ten_minutes() -> None:
    cache = filled(A, B, cookie=0)
    assert cache.idle(KEEP_IDLE) == []
    assert list(cache.deadlines()) == [1 + KEEP_IDLE]
    assert cache.idle(1 + KEEP_IDLE) == [A]
    cache.use(A, 50)
    assert cache.idle(1 + KEEP_IDLE) == []
    assert cache.idle(50 + KEEP_IDLE) == [B, A]
    list(cache.end(B, 60))
    cache.remove(A)
    assert cache.idle(9 * KEEP_IDLE) == []


@pytest.mark.parametrize(
    ("one", "lives"),
    [
        (connection(), True),
        (connection(cookie=0), False),
        (connection(protocol=Protocol.UDP, direction=Direction.IN), True),
        (connection(cookie=0, protocol=Protocol.UDP, direction=Direction.IN), False),
        (connection(direction=Direction.IN, established=5), True),
        (connection(direction=Direction.IN), False),
        (connection(cookie=0, direction=Direction.FORWARD), False),
    ],
    ids=["out", "none known", "datagrams in", "unknown in", "established in", "a listener's", "forwarded"],
)
def test_never_while_its_socket_lives(one: Connection, lives: bool) -> None:
    """§2.5: What comes in by TCP has but the socket of its listener, until it is established."""
    cache = ConnectionCache()
    cache.add(A, one, 1)
    assert cache.idle(1 + KEEP_IDLE) == ([] if lives else [A])
    assert list(cache.deadlines()) == ([] if lives else [1 + KEEP_IDLE])


def test_what_has_come_in_has_its_socket_once_it_is_established() -> None:
    cache = ConnectionCache()
    cache.add(A, connection(direction=Direction.IN), 1)
    cache.add(B, connection(cookie=0), 2)
    assert [cache.establish(flow, 7) for flow in (A, A, B)] == [True, False, True]
    assert (cache[A].established, cache[B].established) == (7, 7)
    assert list(cache.used) == [B]


def test_one_that_got_its_socket_later_is_not_idle() -> None:
    cache = ConnectionCache()
    one = connection(direction=Direction.IN)
    cache.add(A, one, 1)
    one.established = 7
    assert cache.idle(9 * KEEP_IDLE) == []
    assert A in cache


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_cache_knows_something(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least one connection"):
        ConnectionCache(capacity)
