"""Direction, protocol, and the key that names a connection."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, Self

Address = IPv4Address | IPv6Address


class Direction(IntEnum):
    """Who began the connection, seen from this host. 0 and 1 are wire values; forward is ours."""

    OUT = 0
    IN = 1
    FORWARD = 2

    @property
    def word(self) -> str:
        """``out``, ``in`` or ``forward``, as the policy file spells it."""
        return self.name.lower()


class Protocol(IntEnum):
    """The transport protocols that have a name here (IANA protocol numbers); others stay integers."""

    ICMP = 1
    IGMP = 2
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    SCTP = 132


HAVE_CONNECTIONS = frozenset((Protocol.TCP, Protocol.UDP))
"""What a verdict can be remembered for. Each packet of another protocol is decided by itself."""


def protocol_name(number: int) -> str:
    """``tcp``, ``udp``, … or the decimal number for a protocol without a name here."""
    try:
        return Protocol(number).name.lower()
    except ValueError:
        return str(number)


def endpoint(address: Address, port: int) -> str:
    """An address and a port as text: ``192.0.2.1:443`` or ``[2001:db8::1]:443``."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def parse_endpoint(text: str) -> tuple[Address, int]:
    """The inverse of `endpoint`. Raises ValueError for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not ADDRESS:PORT or [ADDRESS]:PORT")
    bracketed = host.startswith("[") and host.endswith("]")
    if (":" in host) != bracketed:
        raise ValueError(f"{text!r} is not ADDRESS:PORT or [ADDRESS]:PORT")
    return ip_address(host[1:-1] if bracketed else host), int(port)


@lru_cache(maxsize=1024)
def address(data: bytes, version: int) -> Address:
    """An address in 16 bytes, as the kernel half has it: IPv4 takes the first four."""
    return IPv4Address(data[:4]) if version == 4 else IPv6Address(data)


_FLOW = struct.Struct("<I16s16sBBHH")
PROTOCOL = 37
"""Where in those bytes the protocol is."""

NAMESPACE, REMOTE, VERSION, REMOTE_PORT = slice(4), slice(20, 36), 36, slice(40, 42)
"""And the number of the namespace and the remote port, little-endian; the remote address; its version."""


class _Ends(NamedTuple):
    protocol: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    namespace: int = 0


class ConnectionKey(_Ends):
    """One connection, seen from this host: protocol number and both ends.

    ``namespace`` is the small number that a run gives to each network namespace it guards, so that the
    same addresses in two of them are two connections. Ports are host integers, 0 where the protocol
    has none. A named tuple, because one is made for each held packet; raises ValueError for ends that
    cannot be.
    """

    __slots__ = ()

    def __new__(
        cls,
        protocol: int,
        local: Address,
        local_port: int,
        remote: Address,
        remote_port: int,
        namespace: int = 0,
    ) -> Self:
        """Checks the ends."""
        if local.version != remote.version:
            raise ValueError(f"{local} and {remote} are of two address families")
        for port in (local_port, remote_port):
            if not 0 <= port <= 65535:
                raise ValueError(f"{port} is not a port (0 to 65535)")
        return super().__new__(cls, protocol, local, local_port, remote, remote_port, namespace)

    def pack(self) -> bytes:
        """It in 42 bytes: the flow of struct tw_connection (kernel/types.h), by which the kernel half names it.

        Raises struct.error where the namespace or the protocol is too large for its field.
        """
        return _FLOW.pack(
            self.namespace,
            self.local.packed,
            self.remote.packed,
            self.version,
            self.protocol,
            self.local_port,
            self.remote_port,
        )

    @classmethod
    def unpack(cls, flow: bytes) -> Self:
        """The inverse of `pack`."""
        namespace, local, remote, version, protocol, local_port, remote_port = _FLOW.unpack(flow)
        here, there = address(local, version), address(remote, version)
        # not checked again: it was when it was packed, or it is the kernel's word
        return tuple.__new__(cls, (protocol, here, local_port, there, remote_port, namespace))

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.local.version

    @property
    def local_endpoint(self) -> str:
        """``ADDRESS:PORT`` of this host's end."""
        return endpoint(self.local, self.local_port)

    @property
    def remote_endpoint(self) -> str:
        """``ADDRESS:PORT`` of the other end."""
        return endpoint(self.remote, self.remote_port)

    def __str__(self) -> str:
        """For people: ``tcp 192.0.2.1:4000 - 198.51.100.2:443``."""
        return f"{protocol_name(self.protocol)} {self.local_endpoint} - {self.remote_endpoint}"
