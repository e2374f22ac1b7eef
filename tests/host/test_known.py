"""host/known.py: what was told is found by name and by socket, and goes when the driver has forgotten it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.host.known import Known
from tidewaiter.kernel import records
from tidewaiter.kernel.records import Home
from tidewaiter.model.key import Direction, Protocol


def made(
    cookie: int, port: int, protocol: Protocol = Protocol.UDP, direction: Direction = Direction.OUT
) -> bytes:
    """struct tw_connection."""
    return records.CONNECTION.pack(
        {
            "cookie": cookie,
            "family": 4,
            "protocol": protocol,
            "local_port": 5000,
            "remote_port": port,
            "direction": list(Direction).index(direction),
            "home": Home.PEER,
        }
    )


def told(known: Known, *connections: bytes) -> list[bytes]:
    """Puts them, and returns their names."""
    names = [records.name(data) for data in connections]
    for name, data in zip(names, connections, strict=True):
        known.put(name, data)
    return names


def test_datagram_flows_are_found_by_their_socket() -> None:
    known = Known()
    first, second, other = told(known, made(1, 7), made(1, 53), made(2, 80))
    assert set(known.of_socket(1)) == {first, second}
    assert known.of_socket(3) == ()
    known.remove(first)
    assert known.of_socket(1) == (second,)
    assert first not in known.data
    assert dict(known.ending_with_sockets()) == {second: made(1, 53), other: made(2, 80)}


def test_a_stream_ends_by_itself_unless_it_is_forwarded() -> None:
    known = Known()
    told(known, made(1, 7, Protocol.TCP))
    assert known.of_socket(1) == ()
    (name,) = told(known, made(2, 7, Protocol.TCP, Direction.FORWARD))
    assert known.of_socket(2) == (name,)


def test_what_has_no_socket_ends_with_none() -> None:
    known = Known()
    told(known, made(0, 7))
    assert known.of_socket(0) == ()


def test_the_same_ends_of_another_socket_are_that_sockets() -> None:
    known = Known()
    (before,) = told(known, made(1, 7))
    (now,) = told(known, made(2, 7))
    assert before == now
    assert known.of_socket(1) == ()
    assert known.of_socket(2) == (now,)
    known.remove(now)
    assert known.of_socket(2) == ()
    assert known._of_socket == {}  # nothing is left of sockets that have nothing


def test_it_grows_no_larger_than_twice_what_is_known() -> None:
    known, open_ones = Known(), 10_000
    for number in range(60_000):
        known.put(number.to_bytes(42, "little"), made(number + 1, 7))
        known.trim(lambda name, newest=number: int.from_bytes(name, "little") > newest - open_ones)  # type: ignore[misc]
        assert len(known.data) <= 2 * open_ones + 1
        assert len(known._of_socket) == len(known.data)
    assert len(known.data) >= open_ones


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 4))))
def test_both_ways_to_find_agree(steps: list[tuple[bool, int, int]]) -> None:
    known = Known()
    for put, cookie, port in steps:
        data = made(cookie, port)
        if put:
            told(known, data)
        else:
            known.remove(records.name(data))
        by_socket = {
            cookie: {
                name
                for name, data in known.data.items()
                if int.from_bytes(data[records.COOKIE], "little") == cookie
            }
            for cookie in range(1, 4)
        }
        assert {cookie: set(known.of_socket(cookie)) for cookie in range(1, 4)} == by_socket
