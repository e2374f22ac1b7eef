"""Directions, protocols, endpoints and connection keys."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import pairs_of_addresses, ports
from tidewaiter.model.key import (
    PROTOCOL,
    Address,
    ConnectionKey,
    Direction,
    Protocol,
    endpoint,
    parse_endpoint,
    protocol_name,
)

V4 = ip_address("192.0.2.1"), ip_address("198.51.100.2")
V6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")


def test_directions() -> None:
    assert [(direction.value, direction.word) for direction in Direction] == [
        (0, "out"),
        (1, "in"),
        (2, "forward"),
    ]


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "icmp"), (2, "igmp"), (6, "tcp"), (17, "udp"), (58, "icmpv6"), (132, "sctp"), (47, "47"), (0, "0")],
)
def test_protocol_names(number: int, name: str) -> None:
    assert protocol_name(number) == name


@given(pairs_of_addresses(), ports)
def test_an_endpoint_is_read_back(pair: tuple[Address, Address], port: int) -> None:
    assert parse_endpoint(endpoint(pair[0], port)) == (pair[0], port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:-1",
        "192.0.2.1:65536",
        "192.0.2.1:http",
        "192.0.2.1:\N{SUPERSCRIPT TWO}",
        "[192.0.2.1]:80",
        "2001:db8::1:80",
        "[2001:db8::1]",
        "[2001:db8::1:80",
        "2001:db8::1]:80",
        ":80",
        "host:80",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_endpoint(text)


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    try:
        address, port = parse_endpoint(text)
    except ValueError:
        return
    assert parse_endpoint(endpoint(address, port)) == (address, port)


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (V4, "tcp 192.0.2.1:4000 - 198.51.100.2:443"),
        (V6, "tcp [2001:db8::1]:4000 - [2001:db8::2]:443"),
    ],
)
def test_key_as_text(pair: tuple[Address, Address], text: str) -> None:
    key = ConnectionKey(Protocol.TCP, pair[0], 4000, pair[1], 443)
    assert str(key) == text
    assert text == f"tcp {key.local_endpoint} - {key.remote_endpoint}"
    assert key.version == pair[0].version


def test_keys_are_equal_by_value_and_apart_by_namespace() -> None:
    key = ConnectionKey(Protocol.UDP, *(V4[0], 1), *(V4[1], 2))
    again = ConnectionKey(17, ip_address("192.0.2.1"), 1, ip_address("198.51.100.2"), 2)
    assert key == again
    assert hash(key) == hash(again)
    assert key != ConnectionKey(Protocol.UDP, V4[0], 1, V4[1], 2, namespace=1)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_has_sixteen_bits(port: int) -> None:
    with pytest.raises(ValueError, match=f"{port} is not a port"):
        ConnectionKey(Protocol.TCP, V4[0], port, V4[1], 1)
    with pytest.raises(ValueError, match=f"{port} is not a port"):
        ConnectionKey(Protocol.TCP, V4[0], 1, V4[1], port)


def test_both_ends_are_of_one_family() -> None:
    with pytest.raises(ValueError, match="two address families"):
        ConnectionKey(Protocol.TCP, V4[0], 1, V6[0], 2)


@given(pairs_of_addresses(), ports, ports, st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_a_key_comes_back_from_its_bytes(
    pair: tuple[Address, Address], here: int, there: int, protocol: int, namespace: int
) -> None:
    key = ConnectionKey(protocol, pair[0], here, pair[1], there, namespace)
    data = key.pack()
    assert (len(data), data[PROTOCOL]) == (42, protocol)
    assert ConnectionKey.unpack(data) == key
    assert type(ConnectionKey.unpack(data)) is ConnectionKey


@pytest.mark.parametrize("change", [{"protocol": 256}, {"namespace": 1 << 32}])
def test_what_has_no_room_in_the_bytes(change: dict[str, int]) -> None:
    with pytest.raises(struct.error):
        ConnectionKey(6, V4[0], 1, V4[1], 2)._replace(**change).pack()  # type: ignore[arg-type]
