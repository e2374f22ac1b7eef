"""host/verdict_cache.py: a verdict goes where the kernel looks for it, by the kernel's own maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest

from tidewaiter.host.verdict_cache import VerdictCache
from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.maps import Map
from tidewaiter.kernel.records import Flag, Home
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.model.process import UNKNOWN
from tidewaiter.model.verdict import Verdict

pytestmark = pytest.mark.live

COOKIE = 4711
KEY = COOKIE.to_bytes(8, "little")


def made(home: Home, protocol: Protocol = Protocol.UDP, **fields: Any) -> bytes:
    """struct tw_connection of a connection to 192.0.2.9:7."""
    return records.CONNECTION.pack(
        {
            "cookie": COOKIE,
            "namespace": 1,
            "family": 4,
            "protocol": protocol,
            "local": records.address_bytes(ip_address("192.0.2.1")),
            "remote": records.address_bytes(ip_address("192.0.2.9")),
            "local_port": 5000,
            "remote_port": 7,
            "home": home,
            "epoch": 3,
            "opened": 9,
        }
        | fields
    )


@dataclass
class Cache:
    """The cache on maps of its own, and one verdict written through it."""

    kernel: Kernel
    cache: VerdictCache = field(init=False)

    def __post_init__(self) -> None:
        self.cache = VerdictCache(self.kernel)

    @property
    def pending(self) -> Map:
        return self.kernel.map("pending")

    @property
    def flows(self) -> Map:
        return self.kernel.map("flows")

    def write(self, data: bytes) -> None:
        connection = Connection(0, data[records.FLOW], Direction.OUT, UNKNOWN)
        connection.rule, connection.tier = "web", Tier.PYTHON
        self.cache.write(data, connection, Verdict.PERMANENT_DROP, {"web": 2})


@pytest.fixture
def on(kernel: Kernel) -> Iterator[Cache]:
    made = Cache(kernel)
    yield made
    for used in (made.pending, made.flows):
        for key in list(used.keys()):
            used.delete(key)


def by_peer(data: bytes) -> bytes:
    return records.key_by_peer(records.unpack(data))


def decided(value: bytes | None) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    record = records.unpack(value)
    return record.verdict, record.rule, record.tier, record.epoch


DROPPED = (Verdict.PERMANENT_DROP, 2, 3, 3)


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_of_a_socket_it_goes_to_its_question(on: Cache, protocol: Protocol) -> None:
    data = made(Home.SOCKET, protocol)
    on.pending.put(KEY, data)
    on.write(data)
    assert decided(on.pending.get(KEY)) == DROPPED
    assert list(on.flows.keys()) == []


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_of_a_socket_that_is_gone_it_goes_nowhere(on: Cache, protocol: Protocol) -> None:
    on.write(made(Home.SOCKET, protocol))
    assert list(on.pending.keys()) == list(on.flows.keys()) == []


def test_of_a_socket_with_other_peers_since_it_goes_to_the_flow(on: Cache) -> None:
    data = made(Home.SOCKET)
    mark = made(Home.PEER, flags=Flag.MARKER, remote=records.address_bytes(ip_address("192.0.2.10")))
    on.pending.put(KEY, mark)
    on.write(data)
    assert on.pending.get(KEY) == mark
    assert decided(on.flows.get(by_peer(data))) == DROPPED


def test_of_such_a_socket_that_is_gone_it_goes_to_the_flow(on: Cache) -> None:
    data = made(Home.SOCKET)
    on.flows.put(by_peer(data), made(Home.PEER))
    on.write(data)
    assert decided(on.flows.get(by_peer(data))) == DROPPED
    assert list(on.pending.keys()) == []


def test_of_a_flow_it_goes_to_the_flow(on: Cache) -> None:
    peer, addresses = made(Home.PEER), made(Home.ADDRESSES, Protocol.TCP)
    on.write(peer)
    on.write(addresses)
    assert decided(on.flows.get(by_peer(peer))) == DROPPED
    assert decided(on.flows.get(records.key_by_addresses(addresses[records.FLOW]))) == DROPPED
    assert len(list(on.flows.keys())) == 2


@pytest.mark.parametrize("home", [Home.PEER, Home.ADDRESSES])
def test_what_a_flow_has_carried_meanwhile_stays(on: Cache, home: Home) -> None:
    data = made(home, Protocol.TCP)
    key = by_peer(data) if home is Home.PEER else records.key_by_addresses(data[records.FLOW])
    on.flows.put(key, made(home, Protocol.TCP, sent=5, received=8, closing=records.OVER))
    on.write(data)
    value = on.flows.get(key)
    assert value is not None
    assert decided(value) == DROPPED
    record = records.unpack(value)
    assert (record.sent, record.received, record.closing) == (5, 8, records.OVER)


def test_what_is_forwarded_ends_by_itself_if_it_passes(on: Cache) -> None:
    data = made(Home.ADDRESSES, Protocol.TCP)
    key = records.key_by_addresses(data[records.FLOW])
    assert not on.cache.ends_by_itself(data)
    for verdict in Verdict:
        on.flows.put(key, made(Home.ADDRESSES, Protocol.TCP, verdict=verdict))
        assert on.cache.ends_by_itself(data) is verdict.passes
    on.flows.put(key, made(Home.ADDRESSES, Protocol.TCP, cookie=COOKIE + 1))
    assert on.cache.ends_by_itself(data)


@pytest.mark.parametrize("home", [Home.PEER, Home.ADDRESSES])
def test_totals(on: Cache, home: Home) -> None:
    data = made(home)
    assert on.cache.total(data) == (0, 0)
    key = by_peer(data) if home is Home.PEER else records.key_by_addresses(data[records.FLOW])
    on.flows.put(key, made(home, sent=5, received=8))
    assert on.cache.total(data) == (5, 8)


@pytest.mark.parametrize("home", [Home.SOCKET, Home.RELEASED])
def test_forgetting(on: Cache, home: Home) -> None:
    """A question is the kernel's to clear away, unless it has left it to us."""
    data = made(home)
    on.pending.put(KEY, data)
    on.flows.put(by_peer(data), data)
    on.flows.put(records.key_by_addresses(data[records.FLOW]), data)
    on.cache.forget(data)
    assert list(on.flows.keys()) == []
    assert on.pending.get(KEY) == (data if home is Home.SOCKET else None)
