"""Where a redirected connection was going: asked by the program it was redirected to.

The kernel's connection tracking knows both sides of a translated connection; ctnetlink
(include/uapi/linux/netfilter/nfnetlink_conntrack.h) gives one by the addresses of its replies. Needs CAP_NET_ADMIN; for
TCP a program without it may ask its socket instead (SO_ORIGINAL_DST of linux/netfilter_ipv4.h), which says the same.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

from tidewaiter.model.key import Address

_NETLINK_NETFILTER = 12
_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NESTED = 0x8000
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*
_IP, _PROTOCOL = 1, 2
_ADDRESSES = {4: (1, 2), 6: (3, 4)}  # CTA_IP_*: source, destination
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def original_destination(
    protocol: int, local: tuple[str, int], peer: tuple[str, int]
) -> tuple[str, int] | None:
    """Where the connection was going that came from ``peer`` (address, port) to ``local``.

    None: it was not redirected. ``protocol`` is 6 for TCP, 17 for UDP; ``local`` is the address that the connection has
    reached (127.0.0.1 or ::1 and the target's port). To be asked in the network namespace of the connection. Raises
    PermissionError without CAP_NET_ADMIN, OSError if the kernel has no connection tracking.
    """
    ours, theirs = (ip_address(local[0]), local[1]), (ip_address(peer[0]), peer[1])
    family = _FAMILY[ours[0].version]
    request = struct.pack("!BBH", family, 0, 0) + _nest(_REPLY, _tuple(protocol, ours, theirs))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asked:
        asked.settimeout(5)
        asked.send(_HEADER.pack(_HEADER.size + len(request), _GET, _NLM_F_REQUEST, 0, 0) + request)
        answer = asked.recv(65536)
    return decode(answer, ours)


def decode(answer: bytes, local: tuple[Address, int]) -> tuple[str, int] | None:
    """The original destination in one netlink message; None where there is none, or it is ``local`` itself.

    Raises OSError for an error message other than "no such entry", ValueError for one that does not hold together.
    """
    if len(answer) < _HEADER.size + 4:
        raise ValueError("the kernel's answer about a connection is cut off")
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, os.strerror(-code))
    for number, value in _attributes(answer[_HEADER.size + 4 :]):
        if number == _ORIGINAL:
            found = _destination(value)
            return None if found == local else (str(found[0]), found[1])
    raise ValueError("the kernel's answer about a connection names no destination")


def _tuple(protocol: int, source: tuple[Address, int], destination: tuple[Address, int]) -> bytes:
    here, there = _ADDRESSES[source[0].version]
    ends = _attribute(here, source[0].packed) + _attribute(there, destination[0].packed)
    ports = _attribute(_SOURCE_PORT, struct.pack("!H", source[1]))
    ports += _attribute(_DESTINATION_PORT, struct.pack("!H", destination[1]))
    return _nest(_IP, ends) + _nest(_PROTOCOL, _attribute(_NUMBER, bytes([protocol])) + ports)


def _destination(value: bytes) -> tuple[Address, int]:
    address, port = None, None
    for kind, inner in _attributes(value):
        for number, data in _attributes(inner):
            if kind == _IP and number in (_ADDRESSES[4][1], _ADDRESSES[6][1]) and len(data) in (4, 16):
                address = ip_address(data)
            elif kind == _PROTOCOL and number == _DESTINATION_PORT and len(data) == 2:
                (port,) = struct.unpack("!H", data)
    if address is None or port is None:
        raise ValueError("the kernel's answer about a connection has no whole destination")
    return address, port


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) & 3)


def _nest(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """struct nlattr after struct nlattr, as far as they hold together (include/uapi/linux/netlink.h)."""
    at = 0
    while len(data) - at >= 4:
        size, kind = struct.unpack_from("=HH", data, at)
        if not 4 <= size <= len(data) - at:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += size + 3 & ~3
