"""host/known.py: what was told is found by name and by socket, and goes when the driver has forgotten it."""

from __future__ import annotations

import pytest

from tidewaiter.host.known import Known
from tidewaiter.kernel import records
from tidewaiter.kernel.records import Home
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.model.process import UNKNOWN

ASKED = pytest.mark.parametrize("ask", [True, False], ids=["asked", "decided"])


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


class Bench(Known):
    """With a driver that knows what it is told."""

    def __init__(self) -> None:
        self.driver: dict[bytes, Connection] = {}
        super().__init__(self.driver.get)

    def tell(self, *connections: bytes, ask: bool = False) -> list[bytes]:
        """Puts them, and returns their names."""
        names = [records.name(data) for data in connections]
        for name, data in zip(names, connections, strict=True):
            (self.ask if ask else self.put)(name, data)
            self.driver[name] = records.connection(records.flow_of(name), records.unpack(data), UNKNOWN)
        return names

    def end(self, name: bytes) -> None:
        self.remove(name)
        self.driver.pop(name, None)


@ASKED
def test_datagram_flows_are_found_by_their_socket(ask: bool) -> None:
    known = Bench()
    first, second, other = known.tell(made(1, 7), made(1, 53), made(2, 80), ask=ask)
    assert set(known.of_socket(1)) == {first, second}
    assert known.of_socket(3) == ()
    known.end(first)
    assert known.of_socket(1) == (second,)
    assert known.get(first) is None
    assert {name for name, _ in known.ending_with_sockets()} == {second, other}


@ASKED
def test_of_what_is_not_asked_about_ends_and_socket_are_known(ask: bool) -> None:
    known = Bench()
    data = made(7, 53)
    (name,) = known.tell(data, ask=ask)
    found = known.get(name)
    assert found is not None
    assert records.unpack(found)._replace(home=Home.PEER) == records.unpack(data)
    assert (found == data) is ask
    known.driver[name].ended = 5
    assert (known.get(name) is None) is not ask


def test_a_stream_ends_by_itself_unless_it_is_forwarded() -> None:
    known = Bench()
    known.tell(made(1, 7, Protocol.TCP))
    assert known.of_socket(1) == ()
    (name,) = known.tell(made(2, 7, Protocol.TCP, Direction.FORWARD))
    assert known.of_socket(2) == (name,)


def test_what_has_no_socket_ends_with_none() -> None:
    known = Bench()
    known.tell(made(0, 7))
    assert known.of_socket(0) == ()


@ASKED
def test_the_same_ends_of_another_socket_are_that_sockets(ask: bool) -> None:
    known = Bench()
    (before,) = known.tell(made(1, 7), ask=ask)
    (now,) = known.tell(made(2, 7), ask=ask)
    assert before == now
    assert known.of_socket(1) == ()
    assert known.of_socket(2) == (now,)
    known.end(now)
    assert known.of_socket(2) == ()
    assert len(known) == 0  # nothing is left of sockets that have nothing


@ASKED
def test_what_the_driver_has_forgotten_goes(ask: bool) -> None:
    known, open_ones = Bench(), 3000
    for number in range(20_000):
        known.tell(made(number + 1, number % 65536), ask=ask)
        if len(known.driver) > open_ones:
            del known.driver[next(iter(known.driver))]
        known.trim()
        assert len(known) <= 4 * open_ones + 4  # each is counted by name and by socket
    assert len(known) >= open_ones
