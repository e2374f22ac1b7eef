"""Cheap looks at what others may change in a network namespace: its netfilter rules, and its queues.

A look costs a system call or two and starts no program. Sources: include/uapi/linux/netfilter/nf_tables.h,
include/uapi/linux/netfilter_ipv4/ip_tables.h and its twin for IPv6, and seq_show() of nfnetlink_queue.c.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from tidewaiter.host import namespace
from tidewaiter.host.hold import Method

_T = TypeVar("_T")
_LIBC = ctypes.CDLL(None, use_errno=True)

_NETLINK_NETFILTER = 12
_GET_GENERATION = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_REQUEST = struct.pack("=IHHIIBBH", 20, _GET_GENERATION, 1, 0, 0, 0, 0, 0)
_ATTRIBUTES = 20
_GENERATION = 4 + 4  # NFTA_GEN_ID, the first attribute; who has changed it last does not matter
_PATIENCE = 2.0

_GET_INFO, _GET_ENTRIES = 64, 65  # of both families
_INFO = struct.Struct("=32sI5I5III")
_ENTRIES = struct.Struct("=32sI4x")
_HOOKS = (1, 2, 3)  # NF_INET_LOCAL_IN, _FORWARD, _LOCAL_OUT
LARGE = 1 << 20
"""Bytes of an iptables-legacy table above which only its shape is looked at, not its first rules."""


class Family(NamedTuple):
    """Where things are in struct ipt_entry and struct ip6t_entry."""

    family: int
    level: int
    next_offset: int
    counters: int


_FAMILIES = (Family(socket.AF_INET, 0, 90, 96), Family(socket.AF_INET6, 41, 142, 152))
_COUNTERS = 16


class Watch(Protocol):
    """Says whether rules may have changed."""

    def stamp(self) -> bytes:
        """Another one than before when the rules may have changed. Raises OSError."""

    def close(self) -> None:
        """Closes what it has opened."""


def watch(where: Path | None, method: Method, tables: tuple[str, ...]) -> Watch:
    """A look at the rules of a network namespace (None: our own) that are installed by a method in some tables."""
    return LegacyWatch(where, tables) if method is Method.IPTABLES_LEGACY else NftWatch(where)


class NftWatch:
    """nftables counts the changes of a namespace's rules, whoever makes them: its generation."""

    def __init__(self, where: Path | None) -> None:
        self._socket = _inside(
            where, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        )
        self._socket.settimeout(_PATIENCE)

    def stamp(self) -> bytes:
        """The generation."""
        self._socket.send(_REQUEST)
        return self._socket.recv(4096)[_ATTRIBUTES : _ATTRIBUTES + _GENERATION]

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


class LegacyWatch:
    """iptables-legacy tells nobody of changes: the tables' shape and the first rules of three chains are read."""

    def __init__(self, where: Path | None, tables: tuple[str, ...]) -> None:
        self._tables = [table.encode() for table in tables]
        self._sockets = _inside(
            where,
            lambda: [
                socket.socket(one.family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
                for one in _FAMILIES
            ],
        )

    def stamp(self) -> bytes:
        """What is read, without the counters."""
        both = tuple(zip(self._sockets, _FAMILIES, strict=True))
        return b"".join(
            _first_rules(one.fileno(), family, table) for one, family in both for table in self._tables
        )

    def close(self) -> None:
        """Closes the sockets."""
        for one in self._sockets:
            one.close()


def _first_rules(fd: int, family: Family, table: bytes) -> bytes:
    info = ctypes.create_string_buffer(table, _INFO.size)
    if not _get(fd, family.level, _GET_INFO, info):
        return b"no table"
    _, valid, *places, _, size = _INFO.unpack(info.raw)
    if size > LARGE:
        return info.raw
    data = ctypes.create_string_buffer(_ENTRIES.pack(table, size), _ENTRIES.size + size)
    if not _get(fd, family.level, _GET_ENTRIES, data):
        return b"changes"  # between the two calls: the next look is another one
    entries = data.raw[_ENTRIES.size :]
    hooks = [hook for hook in _HOOKS if valid >> hook & 1]  # table nat has no FORWARD
    return info.raw + b"".join(_rule(entries, places[hook], family) for hook in hooks)


def _rule(entries: bytes, at: int, family: Family) -> bytes:
    (length,) = struct.unpack_from("=H", entries, at + family.next_offset)
    rule = entries[at : at + length]
    return rule[: family.counters] + rule[family.counters + _COUNTERS :]


def _get(fd: int, level: int, option: int, data: ctypes.Array[ctypes.c_char]) -> bool:
    """getsockopt(2) with something to ask in its buffer, which Python's own does not take."""
    size = ctypes.c_uint32(len(data))
    return bool(_LIBC.getsockopt(fd, level, option, data, ctypes.byref(size)) == 0)


class Row(NamedTuple):
    """A queue: who has it (a netlink port, mostly a process id), and how many packets were dropped since then.

    ``full``: too many waited; ``overrun``: they did not fit into the buffer of its socket.
    """

    port: int
    full: int
    overrun: int


class QueueTable:
    """The queues of a network namespace (None: our own)."""

    def __init__(self, where: Path | None) -> None:
        path = "/proc/thread-self/net/netfilter/nfnetlink_queue"
        self._fd = _inside(where, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def read(self) -> dict[int, Row]:
        """Every queue that somebody has, by its number."""
        rows = (line.split() for line in os.pread(self._fd, 1 << 16, 0).splitlines())
        return {int(row[0]): Row(int(row[1]), int(row[5]), int(row[6])) for row in rows}

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def queue_owner(where: Path | None, number: int) -> str:
    """Who has a queue, for people; "" for nobody."""
    table = QueueTable(where)
    try:
        row = table.read().get(number)
    finally:
        table.close()
    if row is None:
        return ""
    try:
        name = Path(f"/proc/{row.port}/comm").read_text().strip()
    except OSError:  # the port need not be a process id
        return f"the program with netlink port {row.port}"
    return f"{name} ({row.port})"


def _inside(where: Path | None, make: Callable[[], _T]) -> _T:
    return namespace.run_inside(where, make) if where else make()
