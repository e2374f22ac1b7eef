"""What the kernel says of links and of ways out: the messages of NETLINK_ROUTE, and of generic netlink. No I/O.

Sources: rtnetlink(7), include/uapi/linux/netlink.h, rtnetlink.h, if_link.h and genetlink.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from ipaddress import ip_address
from typing import NamedTuple

from tidewaiter.model.key import Address

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which of them have changed
_ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # struct rtmsg: family, lengths of destination and source, …, table, …, type, flags
_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, weight, interface
_NUMBER = struct.Struct("=I")
_TYPE_MASK = 0x3FFF
_REQUEST, _ACKNOWLEDGE, DUMP = 0x01, 0x04, 0x300
INTERRUPTED = 0x10
"""The flag of a message of a list that has changed while it was read."""


class Kind(IntEnum):
    """Types of messages."""

    ERROR = 2
    DONE = 3
    NEW_LINK = 16
    DEL_LINK = 17
    GET_LINK = 18
    NEW_ROUTE = 24
    DEL_ROUTE = 25
    GET_ROUTE = 26
    NEW_RULE = 32
    DEL_RULE = 33


LINKS = frozenset((Kind.NEW_LINK, Kind.DEL_LINK))
ROUTES = frozenset((Kind.NEW_ROUTE, Kind.DEL_ROUTE))
RULES = frozenset((Kind.NEW_RULE, Kind.DEL_RULE))
GROUPS = 0x1 | 0x40 | 0x400 | 0x80 | 1 << 18
"""What to be told of: links, routes of IPv4 and IPv6, rules of both that choose a table of routes (RTNLGRP_…)."""

_NAME = 3  # IFLA_IFNAME
_INTERFACE, _GATEWAY, _SEVERAL, _TABLE, _VIA = 4, 5, 9, 15, 18  # RTA_…
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40  # IFF_…
_UNICAST, _LOCAL_TABLE = 1, 255
_DEAD, _LINK_DOWN, _CLONED = 0x1, 0x10, 0x200  # RTNH_F_…, RTM_F_CLONED
_LENGTHS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}
WIDEST = 1
"""Bits of the destination up to which a route is a way out: 0.0.0.0/0, and both halves of it, as VPNs have them."""


class MalformedMessage(ValueError):  # noqa: N818 - it names what came, as model.packet.MalformedPacket does
    """What came over netlink does not hold together."""


class Message(NamedTuple):
    """One message, without its header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Link(NamedTuple):
    """An interface, by its index. ``up``: it is on, has a carrier, and is not the loopback."""

    number: int
    name: str
    up: bool


class Hop(NamedTuple):
    """Where packets go: by which interface (index), and to which gateway, if there is one."""

    interface: int
    gateway: Address | None


class Route(NamedTuple):
    """A route to the network of so many bits."""

    bits: int
    hops: tuple[Hop, ...]


def request(kind: int, body: bytes, sequence: int, *, dump: bool = True) -> bytes:
    """A message to the kernel: for a list of everything, or one question."""
    flags = _REQUEST | (DUMP if dump else _ACKNOWLEDGE)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def list_of_links(sequence: int) -> bytes:
    """The request for all interfaces."""
    return request(Kind.GET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0), sequence)


def list_of_routes(family: int, sequence: int) -> bytes:
    """The request for all routes of a family."""
    return request(Kind.GET_ROUTE, _ROUTE.pack(family, *[0] * 8), sequence)


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one read. Raises MalformedMessage."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise MalformedMessage(f"{len(data) - at} bytes are too few for a netlink message")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise MalformedMessage(f"a netlink message of {length} bytes in {len(data) - at} bytes")
        yield Message(kind, flags, sequence, data[at + _HEADER.size : at + length])
        at += length + 3 & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and values of attributes. Raises MalformedMessage."""
    at = 0
    while len(data) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise MalformedMessage(f"an attribute of {length} bytes in {len(data) - at} bytes")
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, to be sent."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) & 3)


def error(body: bytes) -> int:
    """The errno in the body of an ERROR or DONE, 0 for none. Raises MalformedMessage."""
    if len(body) < 4:
        raise MalformedMessage(f"{len(body)} bytes are too few for a netlink result")
    return -min(int.from_bytes(body[:4], "little", signed=True), 0)


def link(body: bytes) -> Link:
    """The interface of a NEW_LINK. Raises MalformedMessage."""
    if len(body) < _LINK.size:
        raise MalformedMessage(f"{len(body)} bytes are too few for a link")
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = dict(attributes(body[_LINK.size :]))
    name = found.get(_NAME, b"").split(b"\0")[0].decode(errors="surrogateescape")
    return Link(index, name, flags & (_UP | _RUNNING | _LOOPBACK) == _UP | _RUNNING)


def is_way_out(body: bytes) -> bool:
    """Whether the body of a NEW_ROUTE or DEL_ROUTE is about (nearly) everything, and so of interest."""
    return len(body) < 2 or body[1] <= WIDEST


def leads_elsewhere(body: bytes) -> bool:
    """Whether the body of a NEW_ROUTE or DEL_ROUTE is about packets to others, and was not made by the cache."""
    if len(body) < _ROUTE.size:
        return True
    _, _, _, _, table, _, _, _, flags = _ROUTE.unpack_from(body)
    return table != _LOCAL_TABLE and not flags & _CLONED


def route(body: bytes) -> Route | None:
    """The way out in a NEW_ROUTE; None for a route to less, and for one that leads nowhere. Raises MalformedMessage."""
    if len(body) < _ROUTE.size:
        raise MalformedMessage(f"{len(body)} bytes are too few for a route")
    family, bits, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    if bits > WIDEST or kind != _UNICAST or flags & _CLONED:
        return None
    found = dict(attributes(body[_ROUTE.size :]))
    if _TABLE in found:
        table = _number(found[_TABLE])
    if table == _LOCAL_TABLE:
        return None
    if _SEVERAL in found:
        hops = tuple(_hops(found[_SEVERAL], family))
    else:
        hops = (
            ()
            if flags & (_DEAD | _LINK_DOWN)
            else (_hop(_number(found.get(_INTERFACE, b"")), found, family),)
        )
    return Route(bits, hops) if hops else None


def _hops(data: bytes, family: int) -> Iterator[Hop]:
    """The next hops of a route with several."""
    at = 0
    while len(data) - at >= _HOP.size:
        length, flags, _, index = _HOP.unpack_from(data, at)
        if not _HOP.size <= length <= len(data) - at:
            raise MalformedMessage(f"a next hop of {length} bytes in {len(data) - at} bytes")
        if not flags & (_DEAD | _LINK_DOWN):
            yield _hop(index, dict(attributes(data[at + _HOP.size : at + length])), family)
        at += length + 3 & ~3


def _hop(interface: int, found: dict[int, bytes], family: int) -> Hop:
    """A gateway of the other family (IPv4 by way of IPv6) has its family before it."""
    gateway = None
    if _GATEWAY in found:
        gateway = _address(found[_GATEWAY], family)
    elif _VIA in found:
        gateway = _address(found[_VIA][2:], int.from_bytes(found[_VIA][:2], "little"))
    return Hop(interface, gateway)


def _address(data: bytes, family: int) -> Address | None:
    with suppress(ValueError):
        if len(data) == _LENGTHS.get(family):
            return ip_address(data)
    return None


def _number(value: bytes) -> int:
    return int(_NUMBER.unpack_from(value)[0]) if len(value) >= _NUMBER.size else 0
