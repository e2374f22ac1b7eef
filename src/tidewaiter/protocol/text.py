"""Infos and commands as JSON, one object a line, and back.

Types and fields have the names of docs/reference/wire.md; numbers stay numbers, addresses are text and
payloads hexadecimal. A size that follows from other fields (``payload_size``, ``count``) is shown, and
may be left out of a line that is read. Reading is strict: what a line says beyond its type, or not as
the type wants it, is an error that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Any, cast

from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol import command as commands
from tidewaiter.protocol.command import Command, CommandType, Update, VerdictCommand
from tidewaiter.protocol.errors import LocalProtocolError
from tidewaiter.protocol.info import (
    BandwidthEntry,
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    Info,
    InfoType,
    LogLine,
    Skipped,
)


def format_info(info: Info | Skipped) -> str:
    """One info as a line of JSON, without its newline. A skipped one is known by its ``reason``."""
    if isinstance(info, Skipped):
        shape = _INFOS.get(info.type)
        return _format(shape.name if shape else info.type, _SKIPPED, info)
    return _format(_INFOS[info.type].name, _INFOS[info.type], info)


def parse_info(line: str | bytes) -> Info | Skipped:
    """The inverse of `format_info`. Raises LocalProtocolError with one sentence that names the field."""
    values = _load(line)
    if "reason" in values:
        number = _skipped_type(values.get("type"))
        return Skipped(type=number, **_parse(_SKIPPED, values))
    shape = _named(_INFOS, values)
    return cast("Info", shape.make(**_parse(shape, values)))


def format_command(command: Command) -> str:
    """One command as a line of JSON, without its newline."""
    shape = _COMMANDS[command.type]
    return _format(shape.name, shape, command)


def parse_command(line: str | bytes) -> Command:
    """The inverse of `format_command`. Raises LocalProtocolError with one sentence that names the field."""
    values = _load(line)
    shape = _named(_COMMANDS, values)
    return cast("Command", shape.make(**_parse(shape, values)))


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a field's value becomes JSON, and back: ``read`` raises ValueError, "is not …", for another."""

    show: Callable[[Any], object]
    read: Callable[[object], object]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A type of message. A field whose kind is a string is the size of the field so named."""

    name: str
    make: Callable[..., object]
    fields: Mapping[str, _Kind | str]


def _format(name: str | int, shape: _Shape, message: object) -> str:
    return json.dumps({"type": name} | _show(shape, message))


def _show(shape: _Shape, message: object) -> dict[str, object]:
    return {
        name: len(getattr(message, kind)) if isinstance(kind, str) else kind.show(getattr(message, name))
        for name, kind in shape.fields.items()
    }


def _load(line: str | bytes) -> dict[str, object]:
    try:
        text = line if isinstance(line, str) else line.decode()
        values = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise LocalProtocolError(f"this is not JSON at column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise LocalProtocolError(f"this is not JSON that can be read: {error}") from None
    if not isinstance(values, dict):
        raise LocalProtocolError("this is not a JSON object")
    return values


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values:
            raise LocalProtocolError(f"field {name!r} is there twice")
        values[name] = value
    return values


def _named(shapes: Mapping[int, _Shape], values: Mapping[str, object]) -> _Shape:
    for shape in shapes.values():
        if shape.name == values.get("type"):
            return shape
    names = ", ".join(shape.name for shape in shapes.values())
    raise LocalProtocolError(f"field 'type' is not one of {names}")


def _skipped_type(value: object) -> int:
    for number, shape in _INFOS.items():
        if shape.name == value:
            return number
    try:
        return cast("int", _U8.read(value))
    except ValueError as error:
        raise LocalProtocolError(f"field 'type' {error}, nor the name of a type") from None


def _parse(shape: _Shape, values: Mapping[str, object]) -> dict[str, Any]:
    """The fields that make the message, each found to be there and right, and no other."""
    for name in values:
        if name not in shape.fields and name != "type":
            raise LocalProtocolError(f"field {name!r} does not belong to {shape.name}")
    found: dict[str, Any] = {}
    for name, kind in shape.fields.items():
        if isinstance(kind, _Kind):
            found[name] = _field(name, kind, values)
    for name, kind in shape.fields.items():
        if isinstance(kind, str) and name in values and _field(name, _U32, values) != len(found[kind]):
            raise LocalProtocolError(f"field {name!r} is not {len(found[kind])}, the size of {kind!r}")
    return found


def _field(name: str, kind: _Kind, values: Mapping[str, object]) -> object:
    if name not in values:
        raise LocalProtocolError(f"field {name!r} is missing")
    try:
        return kind.read(values[name])
    except ValueError as error:
        raise LocalProtocolError(f"field {name!r} {error}") from None


def _integer(bits: int) -> _Kind:
    def read(value: object) -> int:
        # bool is an int to Python, but true is no number in JSON.
        if type(value) is not int or not 0 <= value < 1 << bits:
            raise ValueError(f"is not a whole number from 0 to {(1 << bits) - 1}")
        return value

    return _Kind(int, read)


def _address(family: type[IPv4Address | IPv6Address], name: str) -> _Kind:
    def read(value: object) -> bytes:
        # A zone (fe80::1%eth0) has no place on the wire; a number would be an address to ipaddress.
        try:
            if isinstance(value, str) and "%" not in value:
                return family(value).packed
        except AddressValueError:
            pass
        raise ValueError(f"is not an {name} address")

    return _Kind(lambda packed: str(ip_address(packed)), read)


def _read_hex(value: object) -> bytes:
    try:
        if isinstance(value, str):
            data = bytes.fromhex(value)
            if len(value) == 2 * len(data):  # fromhex overlooks spaces
                return data
    except ValueError:
        pass
    raise ValueError("is not hexadecimal text, two digits a byte")


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")  # noqa: TRY004  (a kind raises ValueError)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a surrogate pair at character {error.start}") from None
    return value


def _read_verdict(value: object) -> Verdict:
    if type(value) is int and 0 <= value <= max(Verdict):
        return Verdict(value)
    raise ValueError(f"is not a verdict number from 0 to {max(Verdict)}")


_U8, _U16, _U32, _U64 = (_integer(bits) for bits in (8, 16, 32, 64))
_V4, _V6 = _address(IPv4Address, "IPv4"), _address(IPv6Address, "IPv6")
_HEX = _Kind(bytes.hex, _read_hex)
_TEXT = _Kind(str, _read_text)
_VERDICT = _Kind(int, _read_verdict)


def _connection(name: str, ip: _Kind) -> _Shape:
    fields: dict[str, _Kind | str] = {"id": _U64, "process_id": _U64, "direction": _U8, "protocol": _U8}
    fields |= {"local_ip": ip, "remote_ip": ip, "local_port": _U16, "remote_port": _U16}
    fields |= {"payload_layer": _U8, "payload_size": "payload", "payload": _HEX}
    return _Shape(name, ConnectionInfo, fields)


def _end(name: str, ip: _Kind) -> _Shape:
    fields: dict[str, _Kind | str] = {"process_id": _U64, "direction": _U8, "protocol": _U8}
    fields |= {"local_ip": ip, "remote_ip": ip, "local_port": _U16, "remote_port": _U16}
    return _Shape(name, ConnectionEnd, fields)


def _stats(name: str, version: int, ip: _Kind) -> _Shape:
    fields: dict[str, _Kind | str] = {
        "local_ip": ip,
        "local_port": _U16,
        "remote_ip": ip,
        "remote_port": _U16,
    }
    fields |= {"transmitted_bytes": _U64, "received_bytes": _U64}
    entry = _Shape("an entry", BandwidthEntry, fields)

    def read(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise ValueError("is not a list")  # noqa: TRY004  (a kind raises ValueError)
        entries = []
        for index, values in enumerate(value):
            if not isinstance(values, dict):
                raise ValueError(f"has at [{index}] no object")  # noqa: TRY004
            try:
                entries.append(entry.make(**_parse(entry, values)))
            except LocalProtocolError as error:
                raise ValueError(f"is wrong at [{index}]: {error}") from None
        return tuple(entries)

    entries = _Kind(lambda value: [_show(entry, one) for one in value], read)
    make = partial(BandwidthStats, version)
    return _Shape(name, make, {"protocol": _U8, "count": "entries", "entries": entries})


def _update(name: str, ip: _Kind) -> _Shape:
    fields: dict[str, _Kind | str] = {"protocol": _U8, "local_address": ip, "local_port": _U16}
    fields |= {"remote_address": ip, "remote_port": _U16, "verdict": _VERDICT}
    return _Shape(name, Update, fields)


_SKIPPED = _Shape("a skipped info", Skipped, {"length": _U32, "reason": _TEXT, "data": _HEX})

_INFOS: dict[int, _Shape] = {
    InfoType.LOG_LINE: _Shape("LogLine", LogLine, {"severity": _U8, "text": _TEXT}),
    InfoType.CONNECTION_IPV4: _connection("ConnectionIpv4", _V4),
    InfoType.CONNECTION_IPV6: _connection("ConnectionIpv6", _V6),
    InfoType.CONNECTION_END_EVENT_V4: _end("ConnectionEndEventV4", _V4),
    InfoType.CONNECTION_END_EVENT_V6: _end("ConnectionEndEventV6", _V6),
    InfoType.BANDWIDTH_STATS_V4: _stats("BandwidthStatsV4", 4, _V4),
    InfoType.BANDWIDTH_STATS_V6: _stats("BandwidthStatsV6", 6, _V6),
}

_COMMANDS: dict[int, _Shape] = {
    CommandType.SHUTDOWN: _Shape("Shutdown", commands.Shutdown, {}),
    CommandType.VERDICT: _Shape("Verdict", VerdictCommand, {"id": _U64, "verdict": _VERDICT}),
    CommandType.UPDATE_V4: _update("UpdateV4", _V4),
    CommandType.UPDATE_V6: _update("UpdateV6", _V6),
    CommandType.CLEAR_CACHE: _Shape("ClearCache", commands.ClearCache, {}),
    CommandType.GET_LOGS: _Shape("GetLogs", commands.GetLogs, {}),
    CommandType.GET_BANDWIDTH_STATS: _Shape("GetBandwidthStats", commands.GetBandwidthStats, {}),
    CommandType.PRINT_MEMORY_STATS: _Shape("PrintMemoryStats", commands.PrintMemoryStats, {}),
    CommandType.CLEAN_ENDED_CONNECTIONS: _Shape("CleanEndedConnections", commands.CleanEndedConnections, {}),
}
