"""The sockets that are open in a network namespace, and the end of one of them: NETLINK_SOCK_DIAG.

The codec does no I/O: `encode_dump` and `encode_destroy` make a request, `Answer` reads what the kernel says
to it. `open_sockets`, `destroy` and `Channel` are the shell around it. Sources: sock_diag(7),
include/uapi/linux/sock_diag.h, inet_diag.h and netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from tidewaiter.host import namespace as netns
from tidewaiter.model.key import Address, Protocol, endpoint, protocol_name

MAX_SOCKETS = 1 << 22
"""How many sockets of one protocol and family are listed at most; more are an error, never cut off."""

_NETLINK_SOCK_DIAG = 4
_ATTEMPTS = 4  # a dump, and again when the table changed too much meanwhile
_TIMEOUT = 10.0  # seconds; the kernel answers as fast as it is read, so this is only a last resort
_READ = 1 << 16  # bytes; the kernel makes its messages half as long at most (netlink_dump)

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_CODE = struct.Struct("=i")
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2: family, protocol, extensions, set of states; id
_MESSAGE = struct.Struct("=BBxx")  # struct inet_diag_msg: family, state, timers; id, then `_COUNTERS`
_ENDS = struct.Struct("!HH16s16s")  # struct inet_diag_sockid: ports, addresses; then
_ID = struct.Struct("=III")  # the interface, and both halves of the cookie, the lower one first
_COUNTERS = struct.Struct("=12xII")  # expiry and queue lengths, which are not needed; user, inode

_ENDS_AT = _MESSAGE.size
_ID_AT = _ENDS_AT + _ENDS.size
_COUNTERS_AT = _ID_AT + _ID.size
_MESSAGE_SIZE = _COUNTERS_AT + _COUNTERS.size
_NO_IPV4 = IPv4Address(0)


class Kind(IntEnum):
    """Types of messages: of every netlink family below 16 (netlink.h), of this one above (sock_diag.h)."""

    ERROR = 2
    DONE = 3
    BY_FAMILY = 20
    DESTROY = 21


class Flag(IntFlag):
    """Flags of a message (netlink.h)."""

    REQUEST = 0x01
    ACKNOWLEDGE = 0x04
    INTERRUPTED = 0x10
    DUMP = 0x300


class State(IntEnum):
    """TCP states (include/net/tcp_states.h). A UDP socket is ESTABLISHED with a peer and CLOSE without."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


_ALL_STATES = sum(1 << state for state in State)


class MalformedReply(ValueError):  # noqa: N818 - it names what came, as model.packet.MalformedPacket does
    """What came over netlink does not hold together."""


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A TCP or UDP socket of one network namespace.

    ``state`` is one of `State`. An IPv4 connection of an IPv6 socket has IPv4 addresses; a socket that waits
    on ``::`` for both families has ``::``. ``cookie`` is what bpf_get_socket_cookie() gives. ``inode`` is
    that of ``socket:[N]`` in /proc/PID/fd, 0 when no process holds the socket any more. ``interface`` is
    the index of the device that it is bound to, or 0.
    """

    protocol: int
    state: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    cookie: int
    inode: int
    uid: int
    interface: int = 0

    @property
    def connected(self) -> bool:
        """Whether it has a peer."""
        return self.remote_port != 0 or not self.remote.is_unspecified

    @property
    def listening(self) -> bool:
        """Whether it waits for peers: a TCP socket that listens, or a UDP socket without a peer."""
        return not self.connected if self.protocol == Protocol.UDP else self.state == State.LISTEN


def encode_dump(family: int, protocol: int, sequence: int) -> bytes:
    """The request for all sockets of a family (AF_INET, AF_INET6) and a protocol (TCP, UDP)."""
    body = _REQUEST.pack(family, protocol, 0, _ALL_STATES) + bytes(_ENDS.size + _ID.size)
    return _message(Kind.BY_FAMILY, Flag.REQUEST | Flag.DUMP, sequence, body)


def encode_destroy(item: OpenSocket, sequence: int) -> bytes:
    """The request to end a socket. The kernel finds it by its ends, and refuses when its cookie differs."""
    return _message(Kind.DESTROY, Flag.REQUEST | Flag.ACKNOWLEDGE, sequence, _one(item))


def encode_find(item: OpenSocket, sequence: int) -> bytes:
    """The request for one socket as it is now, by its ends and cookie."""
    if (
        item.protocol == Protocol.UDP
    ):  # udp_dump_one() takes the ends the other way round, "for historical reasons"
        item = replace(
            item,
            local=item.remote,
            local_port=item.remote_port,
            remote=item.local,
            remote_port=item.local_port,
        )
    return _message(Kind.BY_FAMILY, Flag.REQUEST | Flag.ACKNOWLEDGE, sequence, _one(item))


def _one(item: OpenSocket) -> bytes:
    family = socket.AF_INET if item.local.version == 4 else socket.AF_INET6
    local, remote = (address.packed.ljust(16, b"\0") for address in (item.local, item.remote))
    return (
        _REQUEST.pack(family, item.protocol, 0, _ALL_STATES)
        + _ENDS.pack(item.local_port, item.remote_port, local, remote)
        + _ID.pack(item.interface, item.cookie & 0xFFFFFFFF, item.cookie >> 32)
    )


def _message(kind: Kind, flags: Flag, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


@dataclass(slots=True)
class Answer:
    """What the kernel has said so far to the request numbered ``sequence`` about sockets of ``protocol``.

    ``done`` is set with its last message, ``error`` is the errno of a refusal, or 0, and ``interrupted``
    says that the table changed so much meanwhile that a socket may be missing.
    """

    protocol: int
    sequence: int
    sockets: list[OpenSocket] = field(default_factory=list)
    done: bool = False
    error: int = 0
    interrupted: bool = False

    def feed(self, data: bytes) -> None:
        """Take what one read gave: whole messages. Those to other requests, and of other kinds, are skipped.

        Raises MalformedReply.
        """
        at = 0
        while at < len(data):
            if len(data) - at < _HEADER.size:
                raise MalformedReply(f"{len(data) - at} bytes are too few for a netlink message")
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if not _HEADER.size <= length <= len(data) - at:
                raise MalformedReply(f"a netlink message of {length} bytes in {len(data) - at} bytes")
            if sequence == self.sequence and not self.done:
                self.interrupted |= bool(flags & Flag.INTERRUPTED)
                self._take(kind, data[at + _HEADER.size : at + length])
            at += length + 3 & ~3

    def _take(self, kind: int, body: bytes) -> None:
        if kind == Kind.BY_FAMILY:
            self.sockets.append(_decode_socket(self.protocol, body))
        elif kind in {Kind.ERROR, Kind.DONE}:
            if len(body) < _CODE.size:
                raise MalformedReply(f"{len(body)} bytes are too few for a netlink result")
            (code,) = _CODE.unpack_from(body)
            self.error, self.done = -min(code, 0), True


def _decode_socket(protocol: int, body: bytes) -> OpenSocket:
    if len(body) < _MESSAGE_SIZE:
        raise MalformedReply(f"{len(body)} bytes are too few for a socket, which has {_MESSAGE_SIZE}")
    family, state = _MESSAGE.unpack_from(body)
    local_port, remote_port, source, destination = _ENDS.unpack_from(body, _ENDS_AT)
    interface, lower, upper = _ID.unpack_from(body, _ID_AT)
    uid, inode = _COUNTERS.unpack_from(body, _COUNTERS_AT)
    if family not in {socket.AF_INET, socket.AF_INET6}:
        raise MalformedReply(f"a socket of address family {family}, which was not asked for")
    local, remote = _addresses(family, source, destination)
    cookie = upper << 32 | lower
    return OpenSocket(protocol, state, local, local_port, remote, remote_port, cookie, inode, uid, interface)


def _addresses(family: int, source: bytes, destination: bytes) -> tuple[Address, Address]:
    if family == socket.AF_INET:
        return IPv4Address(source[:4]), IPv4Address(destination[:4])
    local, remote = IPv6Address(source), IPv6Address(destination)
    local4, remote4 = local.ipv4_mapped, remote.ipv4_mapped
    # Of a socket that is bound to a mapped address without having a peer, the other end is "::".
    if local4 and remote.is_unspecified:
        remote4 = _NO_IPV4
    return (local4, remote4) if local4 and remote4 else (local, remote)


def open_sockets(namespace: Path | None = None) -> list[OpenSocket]:
    """Every TCP and UDP socket, IPv4 and IPv6, of a network namespace (None: our own), in any state.

    The kernel may move while it is read: a socket opened or closed meanwhile may be in the list or not,
    and none is in it twice. Raises OSError, in one sentence: FileNotFoundError when the namespace or this
    kernel's sock_diag is not there, PermissionError when the namespace may not be entered.
    """
    found: dict[int, OpenSocket] = {}
    with _open(namespace) as channel:
        for protocol in (Protocol.TCP, Protocol.UDP):
            for family in (socket.AF_INET, socket.AF_INET6):
                found.update((item.cookie, item) for item in _dump(channel, family, protocol))
    return list(found.values())


def destroy(item: OpenSocket, namespace: Path | None = None) -> bool:
    """End a socket of a network namespace (None: our own): its program gets ECONNABORTED, a TCP peer a reset.

    False when it had gone before. Raises OSError: PermissionError without CAP_NET_ADMIN, and EOPNOTSUPP
    when the kernel was built without CONFIG_INET_DIAG_DESTROY.
    """
    with _open(namespace) as channel:
        return _destroy(channel, item)


class Channel:
    """Single sockets of a network namespace (None: our own), one request after another over one netlink socket."""

    def __init__(self, namespace: Path | None = None) -> None:
        self._socket = _make(namespace)

    def find(self, item: OpenSocket) -> OpenSocket | None:
        """The socket with these ends, this cookie and this interface as it is now; None when there is none.

        A socket that is bound to no device is found by any interface. Raises OSError.
        """
        answer = _ask(self._socket, encode_find(item, 1), Answer(item.protocol, 1))
        if answer.error and answer.error not in _GONE:
            raise OSError(answer.error, f"an open socket cannot be looked up: {os.strerror(answer.error)}")
        return next((found for found in answer.sockets if found.cookie == item.cookie), None)

    def destroy(self, item: OpenSocket) -> bool:
        """As the function `destroy`."""
        return _destroy(self._socket, item)

    def close(self) -> None:
        """Closes the netlink socket."""
        self._socket.close()


_GONE = frozenset({errno.ENOENT, errno.ESTALE})  # not there, or another one is at its place


def _destroy(channel: socket.socket, item: OpenSocket) -> bool:
    answer = _ask(channel, encode_destroy(item, 1), Answer(item.protocol, 1))
    if answer.error in _GONE:
        return False
    if answer.error:
        name = f"{protocol_name(item.protocol)} socket {endpoint(item.local, item.local_port)}"
        raise OSError(answer.error, f"the {name} cannot be ended: {os.strerror(answer.error)}")
    return True


def _make(namespace: Path | None) -> socket.socket:
    """A netlink socket that speaks of the sockets of a namespace: the one in which it was opened."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        made.settimeout(_TIMEOUT)
        return made

    return make() if namespace is None else netns.run_inside(namespace, make)


@contextmanager
def _open(namespace: Path | None) -> Iterator[socket.socket]:
    with _make(namespace) as channel:
        yield channel


def _dump(channel: socket.socket, family: int, protocol: int) -> list[OpenSocket]:
    for sequence in range(1, _ATTEMPTS + 1):
        answer = Answer(protocol, sequence)
        _ask(channel, encode_dump(family, protocol, sequence), answer)
        if answer.error:
            reason = f"{os.strerror(answer.error)}; modprobe tcp_diag udp_diag, or see `tidewaiter doctor`"
            raise OSError(answer.error, f"open {protocol_name(protocol)} sockets cannot be listed: {reason}")
        if not answer.interrupted:
            return answer.sockets
    raise OSError(errno.EAGAIN, f"the sockets changed during each of {_ATTEMPTS} attempts to list them")


def _ask(channel: socket.socket, request: bytes, answer: Answer) -> Answer:
    channel.sendto(request, (0, 0))
    while not answer.done:
        data, _, flags, sender = channel.recvmsg(_READ)
        if sender[0] != 0:  # only the kernel has port 0; any process may send to us
            continue
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, f"a netlink message is longer than {_READ} bytes")
        answer.feed(data)
        if len(answer.sockets) > MAX_SOCKETS:
            raise OSError(errno.E2BIG, f"more than {MAX_SOCKETS} sockets are open")
    return answer
