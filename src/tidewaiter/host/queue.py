"""NFQUEUE: the kernel hands held packets over and waits for a verdict on each.

Our own codec of the netlink messages (include/uapi/linux/netfilter/nfnetlink_queue.h), and the socket. `decode` and
`encode_verdicts` are the reference of `_native.receive` and `_native.answer`, which do the same for many
packets in one system call; the same tests run against both.
"""

from __future__ import annotations

import os
import socket
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from tidewaiter.host import namespace
from tidewaiter.kernel import _native
from tidewaiter.model.packet import MalformedPacket, parse_packet

NF_DROP, NF_ACCEPT = 0, 1

LENGTH = 8192
"""Packets that the kernel keeps for us: TW_QUEUE."""

BATCH = 32
"""Packets that one `Queue.receive` takes at the most: MESSAGES in native/queue.c."""

_NFNL_SUBSYS_QUEUE = 3
_MSG_PACKET, _MSG_VERDICT, _MSG_CONFIG = 0, 1, 2
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
_NETLINK_NETFILTER = 12
_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_GENERAL = struct.Struct(">BBH")  # struct nfgenmsg: family, version, queue number
_ATTRIBUTE = struct.Struct("=HH")
_PACKET = struct.Struct(">IHB")  # struct nfqnl_msg_packet_hdr: id, protocol, hook
_INDEX = struct.Struct(">I")
_FLOW = struct.Struct("=I16s16sBBHH")
_TYPE_MASK = 0x3FFF


class Attribute(IntEnum):
    """enum nfqnl_attr_type, as far as it is used."""

    PACKET_HDR = 1
    VERDICT_HDR = 2
    IFINDEX_INDEV = 5
    IFINDEX_OUTDEV = 6
    PAYLOAD = 10


class Config(IntEnum):
    """enum nfqnl_attr_config."""

    COMMAND = 1
    PARAMS = 2
    QUEUE_MAXLEN = 3
    MASK = 4
    FLAGS = 5


class Hook(IntEnum):
    """Where the packet was held (enum nf_inet_hooks)."""

    LOCAL_IN = 1
    FORWARD = 2
    LOCAL_OUT = 3


_BIND, _COPY_PACKET = 1, 2
_FAIL_OPEN, _GSO = 1, 4


class Held(NamedTuple):
    """A held packet: the kernel's id of it, the hook, its flow (b"" if it cannot be read), its bytes; the index of
    the interface that it came in by or is to go out by, 0 when the kernel does not say.
    """

    packet: int
    hook: int
    flow: bytes
    payload: bytes
    interface: int = 0


def decode(message: bytes, namespace: int) -> Held | None:
    """A packet message; None for any other message and for one that does not hold together."""
    if len(message) < _HEADER.size + _GENERAL.size:
        return None
    length, kind, _, _, _ = _HEADER.unpack_from(message)
    if kind != _NFNL_SUBSYS_QUEUE << 8 | _MSG_PACKET or not _HEADER.size + _GENERAL.size <= length <= len(
        message
    ):
        return None
    header, payload, at = None, b"", _HEADER.size + _GENERAL.size
    came_in, goes_out = 0, 0
    while length - at >= _ATTRIBUTE.size:
        size, number = _ATTRIBUTE.unpack_from(message, at)
        if not _ATTRIBUTE.size <= size <= length - at:
            break
        value = message[at + _ATTRIBUTE.size : at + size]
        if number & _TYPE_MASK == Attribute.PACKET_HDR and len(value) >= _PACKET.size:
            header = _PACKET.unpack_from(value)
        elif number & _TYPE_MASK == Attribute.IFINDEX_INDEV and len(value) >= _INDEX.size:
            (came_in,) = _INDEX.unpack_from(value)
        elif number & _TYPE_MASK == Attribute.IFINDEX_OUTDEV and len(value) >= _INDEX.size:
            (goes_out,) = _INDEX.unpack_from(value)
        elif number & _TYPE_MASK == Attribute.PAYLOAD:
            payload = value
        at += size + 3 & ~3
    if header is None:
        return None
    packet, _, hook = header
    incoming = hook == Hook.LOCAL_IN
    flow = flow_of(payload, namespace, incoming=incoming)
    return Held(packet, hook, flow, payload, came_in if incoming else goes_out)


def flow_of(payload: bytes, namespace: int, *, incoming: bool) -> bytes:
    """The 42 bytes that name the packet's connection (kernel/records.py); b"" if it has none that can be read."""
    try:
        packet = parse_packet(payload)
    except MalformedPacket:
        return b""
    if packet.later_fragment:
        return b""
    source, destination = packet.source.packed.ljust(16, b"\0"), packet.destination.packed.ljust(16, b"\0")
    kind = (packet.version, packet.protocol)
    if incoming:
        return _FLOW.pack(namespace, destination, source, *kind, packet.destination_port, packet.source_port)
    return _FLOW.pack(namespace, source, destination, *kind, packet.source_port, packet.destination_port)


def encode_verdicts(queue: int, verdicts: list[tuple[int, int]]) -> bytes:
    """Verdict messages for (packet id, NF_ACCEPT or NF_DROP), back to back."""
    return b"".join(
        _message(_MSG_VERDICT, queue, _attribute(Attribute.VERDICT_HDR, struct.pack(">II", verdict, packet)))
        for packet, verdict in verdicts
    )


def _message(kind: int, queue: int, attributes: bytes, flags: int = 0) -> bytes:
    body = _GENERAL.pack(socket.AF_UNSPEC, 0, queue) + attributes
    return (
        _HEADER.pack(_HEADER.size + len(body), _NFNL_SUBSYS_QUEUE << 8 | kind, _NLM_F_REQUEST | flags, 0, 0)
        + body
    )


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + b"\0" * (-size & 3)


class QueueError(OSError):
    """The queue cannot be had; the message says why and what to do."""


class Queue:
    """The queue of one network namespace. ``length`` bounds what the kernel keeps before it drops the newest.

    With ``fail_open`` a full queue lets packets go (to the gate, which counts them) instead of dropping them.
    """

    def __init__(
        self,
        where: Path | None,
        namespace_number: int,
        number: int,
        *,
        length: int = LENGTH,
        fail_open: bool = False,
    ) -> None:
        self.number, self._namespace = number, namespace_number
        self._socket = namespace.run_inside(where, _open) if where else _open()
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
            self._settings = _settings(length, fail_open=fail_open)
            early = [packet for attributes in self._settings for packet in self._configure(attributes)]
            if early:
                self._socket.send(encode_verdicts(number, [(packet, NF_DROP) for packet in early]))
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._fd = self._socket.fileno()

    def fileno(self) -> int:
        """For select and epoll."""
        return self._socket.fileno()

    def receive(self, linger: int = 0) -> list[tuple[int, int, bytes, bytes, int]]:
        """Held packets that wait, as `Held` without the name: at most `BATCH`. Does not sleep.

        When nothing is there it tries again for ``linger`` microseconds.
        """
        return _native.receive(self._fd, self._namespace, linger)

    def answer(self, verdicts: list[tuple[int, int]]) -> None:
        """Sends verdicts. One for a packet that is no longer there does nothing; `receive` passes over the error."""
        _native.answer(self._fd, self.number, verdicts)

    def close(self) -> None:
        """Gives the queue up; the kernel drops what it still holds."""
        self._socket.close()

    @property
    def port(self) -> int:
        """Our netlink port, by which the kernel knows whose the queue is."""
        return int(self._socket.getsockname()[0])

    def bind_again(self) -> None:
        """Asks for the queue once more, from any thread. Whether it is ours then, the kernel's table of queues says."""
        for attributes in self._settings:
            self._socket.send(_message(_MSG_CONFIG, self.number, attributes))

    def _configure(self, attributes: bytes) -> list[int]:
        """Returns the packets that came before the queue was as it shall be: they may lack their bytes."""
        early = []
        self._socket.send(_message(_MSG_CONFIG, self.number, attributes, _NLM_F_ACK))
        while True:
            reply = self._socket.recv(1 << 17)
            if len(reply) >= _HEADER.size + 4 and _HEADER.unpack_from(reply)[1] == _NLMSG_ERROR:
                break
            held = decode(reply, self._namespace)
            if held is not None:
                early.append(held.packet)
        (code,) = struct.unpack_from("=i", reply, _HEADER.size)
        if code:
            raise QueueError(
                -code,
                f"queue {self.number} cannot be used ({os.strerror(-code)}): another program has it, or "
                "this process lacks CAP_NET_ADMIN; see `tidewaiter doctor`",
            )
        return early


def _settings(length: int, *, fail_open: bool) -> list[bytes]:
    """The attributes of the messages that take a queue and set it up, in their order."""
    flags = _GSO | (_FAIL_OPEN if fail_open else 0)
    return [
        _attribute(Config.COMMAND, struct.pack(">BxH", _BIND, 0)),
        _attribute(Config.PARAMS, struct.pack(">IB", 0xFFFF, _COPY_PACKET)),
        _attribute(Config.QUEUE_MAXLEN, struct.pack(">I", length)),
        _attribute(Config.FLAGS, struct.pack(">I", flags))
        + _attribute(Config.MASK, struct.pack(">I", _GSO | _FAIL_OPEN)),
    ]


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
