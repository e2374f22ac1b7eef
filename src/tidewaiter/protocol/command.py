"""Commands: what the owner tells the driver, as values and as bytes.

A command is ``u8 type`` and then a payload of a size that its type fixes; integers are little-endian
and nothing is padded (docs/reference/wire.md). On the device one write carries one command (`decode`);
in a file they stand back to back and frame themselves (`CommandDecoder`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from tidewaiter.model.verdict import Verdict as Verdict  # noqa: PLC0414 # for whoever writes commands
from tidewaiter.protocol.errors import CommandError, LocalProtocolError, RemoteProtocolError


class CommandType(IntEnum):
    """The first byte of a command."""

    SHUTDOWN = 0
    VERDICT = 1
    UPDATE_V4 = 2
    UPDATE_V6 = 3
    CLEAR_CACHE = 4
    GET_LOGS = 5
    GET_BANDWIDTH_STATS = 6
    PRINT_MEMORY_STATS = 7
    CLEAN_ENDED_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop: readers wake, every held packet is resolved."""

    type: ClassVar[CommandType] = CommandType.SHUTDOWN


@dataclass(frozen=True, slots=True)
class VerdictCommand:
    """The verdict on the packet that is held under ``id``."""

    id: int
    verdict: Verdict

    type: ClassVar[CommandType] = CommandType.VERDICT


@dataclass(frozen=True, slots=True)
class Update:
    """A new verdict for a live connection, from its next packet on.

    Both addresses are 4 or 16 bytes in network order; ports are host integers.
    """

    protocol: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    verdict: Verdict

    @property
    def type(self) -> CommandType:
        """The type number on the wire, by the address family."""
        return CommandType.UPDATE_V4 if len(self.local_address) == 4 else CommandType.UPDATE_V6


@dataclass(frozen=True, slots=True)
class ClearCache:
    """Forget every verdict and decide live connections again."""

    type: ClassVar[CommandType] = CommandType.CLEAR_CACHE


@dataclass(frozen=True, slots=True)
class GetLogs:
    """Send the log lines that have gathered."""

    type: ClassVar[CommandType] = CommandType.GET_LOGS


@dataclass(frozen=True, slots=True)
class GetBandwidthStats:
    """Send the bytes that each connection carried since the last such command."""

    type: ClassVar[CommandType] = CommandType.GET_BANDWIDTH_STATS


@dataclass(frozen=True, slots=True)
class PrintMemoryStats:
    """Write the driver's use of memory to its log."""

    type: ClassVar[CommandType] = CommandType.PRINT_MEMORY_STATS


@dataclass(frozen=True, slots=True)
class CleanEndedConnections:
    """Remove the connections that ended, or were last used, long ago."""

    type: ClassVar[CommandType] = CommandType.CLEAN_ENDED_CONNECTIONS


Command = (
    Shutdown
    | VerdictCommand
    | Update
    | ClearCache
    | GetLogs
    | GetBandwidthStats
    | PrintMemoryStats
    | CleanEndedConnections
)

_BARE = struct.Struct("<B")
_VERDICT = struct.Struct("<BQB")
_UPDATE = {address: struct.Struct(f"<BB{address}sH{address}sHB") for address in (4, 16)}


def encode(command: Command) -> bytes:
    """The bytes of one command.

    Raises LocalProtocolError where a number is too large for its field or addresses are not of one
    family.
    """
    try:
        return _ENCODERS[type(command)](command)
    except struct.error as error:
        raise LocalProtocolError(f"{type(command).__name__} does not fit the wire: {error}") from None


def _encode_bare(command: Command) -> bytes:
    return _BARE.pack(command.type)


def _encode_verdict(command: VerdictCommand) -> bytes:
    return _VERDICT.pack(CommandType.VERDICT, command.id, command.verdict)


def _encode_update(command: Update) -> bytes:
    local, remote = command.local_address, command.remote_address
    if len(local) != len(remote) or len(local) not in _UPDATE:
        raise LocalProtocolError(
            f"Addresses of {len(local)} and {len(remote)} bytes are not two of 4 or two of 16"
        )
    return _UPDATE[len(local)].pack(
        command.type,
        command.protocol,
        local,
        command.local_port,
        remote,
        command.remote_port,
        command.verdict,
    )


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    Shutdown: _encode_bare,
    VerdictCommand: _encode_verdict,
    Update: _encode_update,
    ClearCache: _encode_bare,
    GetLogs: _encode_bare,
    GetBandwidthStats: _encode_bare,
    PrintMemoryStats: _encode_bare,
    CleanEndedConnections: _encode_bare,
}


def decode(data: bytes) -> Command:
    """The one command that ``data`` is, as one write to the device carries it.

    Raises CommandError for no bytes, an unknown type, a payload that is too short or too long, and a
    verdict out of range.
    """
    if not data:
        raise CommandError("A command of 0 bytes has no type")
    layout, make = _shape(data[0])
    if len(data) != layout.size:
        raise CommandError(
            f"Command {data[0]} has a payload of {layout.size - 1} bytes, but {len(data) - 1} came"
        )
    return make(layout.unpack(data))


class CommandDecoder:
    """Turns a stream of commands, back to back and cut anywhere, into commands."""

    def __init__(self) -> None:
        """Begin where a command begins."""
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[Command]:
        """The commands that ``data`` completes, in order, each decoded when it is asked for.

        Raises CommandError, after the commands before it, for a verdict out of range and for an
        unknown type. Nothing can be read after the latter, since its length is not known.
        """
        self._kept += data
        return self._commands()

    @property
    def framed(self) -> bool:
        """Whether what comes can still be told apart: not after a command of unknown type."""
        return not self._kept or self._kept[0] in _SHAPES

    def close(self) -> None:
        """Say that the stream has ended. Raises RemoteProtocolError where that cuts a command short."""
        if self._kept:
            layout, _ = _shape(self._kept[0])
            raise RemoteProtocolError(
                f"The stream ends inside a command: {len(self._kept)} of {layout.size} bytes are here"
            )

    def _commands(self) -> Iterator[Command]:
        kept = self._kept
        while kept:
            layout, make = _shape(kept[0])
            if len(kept) < layout.size:
                return
            values = layout.unpack_from(kept)
            del kept[: layout.size]
            yield make(values)


# How to read a command: its layout, and what makes the command of the values in it.
_Shape = tuple[struct.Struct, Callable[[tuple[Any, ...]], Command]]


def _shape(number: int) -> _Shape:
    shape = _SHAPES.get(number)
    if shape is None:
        raise CommandError(f"Command {number} is not known, so its length is not known either")
    return shape


def _bare(command: Command) -> _Shape:
    return _BARE, lambda _: command


def _make_verdict(values: tuple[Any, ...]) -> VerdictCommand:
    _, id_, verdict = values
    return VerdictCommand(id_, _verdict(verdict))


def _make_update(values: tuple[Any, ...]) -> Update:
    _, protocol, local, local_port, remote, remote_port, verdict = values
    return Update(protocol, local, local_port, remote, remote_port, _verdict(verdict))


def _verdict(number: int) -> Verdict:
    try:
        return Verdict(number)
    except ValueError:
        raise CommandError(f"Verdict {number} is out of range, the last is {max(Verdict)}") from None


_SHAPES: Mapping[int, _Shape] = {
    CommandType.SHUTDOWN: _bare(Shutdown()),
    CommandType.VERDICT: (_VERDICT, _make_verdict),
    CommandType.UPDATE_V4: (_UPDATE[4], _make_update),
    CommandType.UPDATE_V6: (_UPDATE[16], _make_update),
    CommandType.CLEAR_CACHE: _bare(ClearCache()),
    CommandType.GET_LOGS: _bare(GetLogs()),
    CommandType.GET_BANDWIDTH_STATS: _bare(GetBandwidthStats()),
    CommandType.PRINT_MEMORY_STATS: _bare(PrintMemoryStats()),
    CommandType.CLEAN_ENDED_CONNECTIONS: _bare(CleanEndedConnections()),
}
