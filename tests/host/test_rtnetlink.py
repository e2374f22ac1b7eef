"""host/rtnetlink.py: the kernel's word on links and ways out, and what is none."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.host import rtnetlink
from tidewaiter.host.rtnetlink import Hop, Kind, Link, MalformedMessage, Route, attribute, attributes

UP, LOOPBACK, RUNNING = 1, 8, 64
GATEWAY4, GATEWAY6 = ip_address("192.0.2.1"), ip_address("fe80::1")


def link(index: int = 2, name: bytes = b"eth0\0", flags: int = UP | RUNNING) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute(13, b"x") + attribute(3, name)


def route(
    *parts: bytes,
    family: int = socket.AF_INET,
    bits: int = 0,
    table: int = 254,
    kind: int = 1,
    flags: int = 0,
) -> bytes:
    return struct.pack("=BBBBBBBBI", family, bits, 0, 0, table, 3, 0, kind, flags) + b"".join(parts)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


BY_ETH = number(4, 2)
VIA = attribute(5, GATEWAY4.packed)


def hop(index: int, *parts: bytes, flags: int = 0) -> bytes:
    body = b"".join(parts)
    return struct.pack("=HBBi", 8 + len(body), flags, 0, index) + body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (link(), Link(2, "eth0", True)),
        (link(flags=UP), Link(2, "eth0", False)),
        (link(flags=RUNNING), Link(2, "eth0", False)),
        (link(1, b"lo\0", UP | RUNNING | LOOPBACK), Link(1, "lo", False)),
    ],
)
def test_links(body: bytes, expected: Link) -> None:
    assert rtnetlink.link(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (route(BY_ETH, VIA), Route(0, (Hop(2, GATEWAY4),))),
        (route(BY_ETH), Route(0, (Hop(2, None),))),
        (route(BY_ETH, VIA, bits=1), Route(1, (Hop(2, GATEWAY4),))),  # half of all, as VPNs have it
        (route(BY_ETH, VIA, bits=2), None),
        (route(BY_ETH, VIA, flags=0x10), None),  # the link is down
        (route(BY_ETH, VIA, flags=0x200), None),  # a copy for one peer
        (route(BY_ETH, VIA, kind=7), None),  # unreachable
        (route(BY_ETH, VIA, table=255), None),  # this host itself
        (route(BY_ETH, number(15, 51820), table=0), Route(0, (Hop(2, None),))),
        (route(BY_ETH, number(15, 255), table=0), None),
        (
            route(BY_ETH, attribute(5, GATEWAY6.packed), family=socket.AF_INET6),
            Route(0, (Hop(2, GATEWAY6),)),
        ),
        (
            route(BY_ETH, attribute(18, struct.pack("=H", socket.AF_INET6) + GATEWAY6.packed)),
            Route(0, (Hop(2, GATEWAY6),)),
        ),
        (
            route(attribute(9, hop(2, VIA) + hop(3, attribute(5, ip_address("192.0.2.2").packed)) + hop(4, flags=1))),
            Route(0, (Hop(2, GATEWAY4), Hop(3, ip_address("192.0.2.2")))),
        ),
        (route(attribute(9, hop(4, flags=1))), None),
        (route(BY_ETH, attribute(5, b"odd")), Route(0, (Hop(2, None),))),
    ],
)  # fmt: skip
def test_routes(body: bytes, expected: Route | None) -> None:
    assert rtnetlink.route(body) == expected
    assert rtnetlink.is_way_out(body) or expected is None


def test_a_request_is_a_message() -> None:
    for data, kind in (
        (rtnetlink.list_of_links(7), Kind.GET_LINK),
        (rtnetlink.list_of_routes(socket.AF_INET6, 7), Kind.GET_ROUTE),
    ):
        (message,) = rtnetlink.messages(data)
        assert (message.kind, message.flags, message.sequence) == (kind, 0x301, 7)


@pytest.mark.parametrize(("code", "errno"), [(0, 0), (-2, 2), (5, 0)])
def test_results(code: int, errno: int) -> None:
    assert rtnetlink.error(struct.pack("=i", code)) == errno


@pytest.mark.parametrize(
    ("read", "data", "sentence"),
    [
        (rtnetlink.messages, b"\1", "1 bytes are too few for a netlink message"),
        (rtnetlink.messages, struct.pack("=IHHII", 40, 0, 0, 0, 0), "a netlink message of 40 bytes in 16 bytes"),
        (rtnetlink.messages, struct.pack("=IHHII", 3, 0, 0, 0, 0), "a netlink message of 3 bytes in 16 bytes"),
        (attributes, struct.pack("=HH", 9, 1), "an attribute of 9 bytes in 4 bytes"),
        (attributes, struct.pack("=HH", 3, 1), "an attribute of 3 bytes in 4 bytes"),
        (rtnetlink.link, b"", "0 bytes are too few for a link"),
        (rtnetlink.route, b"\0" * 11, "11 bytes are too few for a route"),
        (rtnetlink.error, b"\0", "1 bytes are too few for a netlink result"),
        (rtnetlink.route, route(attribute(9, struct.pack("=HBBi", 99, 0, 0, 0))), "a next hop of 99 bytes in 8 bytes"),
    ],
)  # fmt: skip
def test_what_does_not_hold_together(read: object, data: bytes, sentence: str) -> None:
    with pytest.raises(MalformedMessage, match=sentence):
        found = read(data)  # type: ignore[operator]
        if isinstance(found, Iterator):
            list(found)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=6))
def test_attributes_come_back(given_: list[tuple[int, bytes]]) -> None:
    assert list(attributes(b"".join(attribute(kind, value) for kind, value in given_))) == given_


GOOD = st.sampled_from([link(), route(BY_ETH, VIA), route(attribute(9, hop(2, VIA) + hop(3)))])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(GOOD))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(
            st.sampled_from([0, 1, 4, 255]) | st.integers(0, 255)
        )
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(damaged() | st.binary(max_size=200))
def test_anything_may_come(data: bytes) -> None:
    """It is read, or is said not to hold together: nothing else, and in no more steps than there are bytes."""
    for read in (rtnetlink.link, rtnetlink.route, rtnetlink.error):
        with contextlib.suppress(MalformedMessage):
            read(data)
    rtnetlink.is_way_out(data)
    for cut in (rtnetlink.messages, attributes):
        found: list[object] = []
        with contextlib.suppress(MalformedMessage):
            found.extend(cut(data))
        assert len(found) <= len(data)
