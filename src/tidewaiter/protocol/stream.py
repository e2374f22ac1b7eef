"""Reading infos from a stream of bytes, however it was cut on its way.

One info that cannot be read does not end the stream: its header says how long it is, so it is
reported as `Skipped` and the next one is read. What an info may hold is in info.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, make_dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from tidewaiter.protocol.errors import RemoteProtocolError
from tidewaiter.protocol.info import (
    BANDWIDTH_ENTRY,
    BANDWIDTH_STATS,
    CONNECTION,
    CONNECTION_END,
    HEADER,
    LOG_LINE,
    MAX_INFO_LENGTH,
    BandwidthEntry,
    BandwidthStats,
    ConnectionEnd,
    ConnectionInfo,
    Info,
    InfoType,
    LogLine,
    Skipped,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    _T = TypeVar("_T", bound=DataclassInstance)


class InfoDecoder:
    """Turns the bytes of an info stream into infos; the same ones for every way of cutting the bytes.

    It keeps at most one unfinished info, which is at most `MAX_INFO_LENGTH` bytes of data. A longer one
    is reported when its header is there, and passes by without being kept.
    """

    def __init__(self) -> None:
        """Begin where an info begins."""
        self._kept = bytearray()
        self._needed = HEADER.size
        self._passing = 0

    def feed(self, data: bytes) -> list[Info | Skipped]:
        """The infos that ``data`` completes, in order."""
        if self._passing:
            passed = min(self._passing, len(data))
            self._passing -= passed
            data = data[passed:]
        if self._kept:
            self._kept += data
            # Only a copy that completes something is worth making: many small pieces stay linear.
            if len(self._kept) < self._needed:
                return []
            data = bytes(self._kept)
            self._kept.clear()
        return self._read(data)

    def close(self) -> None:
        """Say that the stream has ended. Raises RemoteProtocolError where that cuts an info short."""
        if self._kept:
            raise RemoteProtocolError(
                f"The stream ends inside an info: {len(self._kept)} of at least {self._needed} bytes are here"
            )
        if self._passing:
            raise RemoteProtocolError(
                f"The stream ends inside an info that was skipped: {self._passing} bytes are missing"
            )

    def _read(self, data: bytes) -> list[Info | Skipped]:
        infos: list[Info | Skipped] = []
        position, end = 0, len(data)
        needed = HEADER.size
        while end - position >= HEADER.size:
            number, length = HEADER.unpack_from(data, position)
            stop = position + HEADER.size + length
            if length > MAX_INFO_LENGTH:
                infos.append(Skipped(number, length, f"{length} bytes are more than {MAX_INFO_LENGTH}", b""))
                self._passing = max(0, stop - end)
            elif stop > end:
                needed = HEADER.size + length
                break
            else:
                try:
                    infos.append(_READERS[number](data, position, stop))
                except RemoteProtocolError as error:
                    infos.append(Skipped(number, length, str(error), data[position + HEADER.size : stop]))
            position = stop
        self._kept += data[position:]
        self._needed = needed
        return infos


def _quick(frozen: type[_T]) -> type[_T]:
    """A class like ``frozen``, a frozen dataclass with slots, whose objects cost a seventh to make.

    The constructor of a frozen dataclass writes each field through ``object.__setattr__``. Objects of
    the open twin become ``frozen`` by assigning ``__class__``, which Python allows since both have the
    same slots.
    """
    names = [field.name for field in fields(frozen)]
    return cast("type[_T]", make_dataclass(f"Open{frozen.__name__}", names, slots=True))


_OpenLogLine = _quick(LogLine)
_OpenConnection = _quick(ConnectionInfo)
_OpenEnd = _quick(ConnectionEnd)
_OpenEntry = _quick(BandwidthEntry)

# A reader gets a buffer and where the info (header included) begins and stops in it.
_Reader = Callable[[bytes, int, int], Info]


def _read_unknown(data: bytes, start: int, stop: int) -> Info:
    raise RemoteProtocolError(f"type {data[start]} is not known")


def _read_log_line(data: bytes, start: int, stop: int) -> LogLine:
    text = start + LOG_LINE.size
    if text > stop:
        raise _too_few(stop - start, LOG_LINE.size, "at least ")
    try:
        info = _OpenLogLine(data[text - 1], data[text:stop].decode())
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"the text is not UTF-8 at its byte {error.start}") from None
    info.__class__ = LogLine
    return info


def _connection_reader(address: int) -> _Reader:
    size, unpack = CONNECTION[address].size, CONNECTION[address].unpack_from

    def read(data: bytes, start: int, stop: int) -> ConnectionInfo:
        payload = start + size
        if payload > stop:
            raise _too_few(stop - start, size, "at least ")
        # One name a field: a starred target would build a list, which is a third slower in all.
        _, _, id_, pid, direction, protocol, local, remote, local_port, remote_port, layer, declared = unpack(
            data, start
        )
        if payload + declared != stop:
            raise RemoteProtocolError(
                f"payload_size is {declared}, but {stop - payload} bytes of payload are there"
            )
        info = _OpenConnection(
            id_, pid, direction, protocol, local, remote, local_port, remote_port, layer, data[payload:stop]
        )
        info.__class__ = ConnectionInfo
        return info

    return read


def _end_reader(address: int) -> _Reader:
    size, unpack = CONNECTION_END[address].size, CONNECTION_END[address].unpack_from

    def read(data: bytes, start: int, stop: int) -> ConnectionEnd:
        if stop - start != size:
            raise _too_few(stop - start, size, "")
        _, _, pid, direction, protocol, local, remote, local_port, remote_port = unpack(data, start)
        info = _OpenEnd(pid, direction, protocol, local, remote, local_port, remote_port)
        info.__class__ = ConnectionEnd
        return info

    return read


def _stats_reader(version: int, address: int) -> _Reader:
    layout = BANDWIDTH_ENTRY[address]

    def read(data: bytes, start: int, stop: int) -> BandwidthStats:
        first = start + BANDWIDTH_STATS.size
        if first > stop:
            raise _too_few(stop - start, BANDWIDTH_STATS.size, "at least ")
        _, _, protocol, count = BANDWIDTH_STATS.unpack_from(data, start)
        if first + count * layout.size != stop:
            raise RemoteProtocolError(
                f"count is {count}, which takes {count * layout.size} bytes, but {stop - first} are there"
            )
        entries = []
        for values in layout.iter_unpack(data[first:stop]):
            entry = _OpenEntry(*values)
            entry.__class__ = BandwidthEntry
            entries.append(entry)
        return BandwidthStats(version, protocol, tuple(entries))

    return read


def _too_few(size: int, expected: int, least: str) -> RemoteProtocolError:
    here, wanted = size - HEADER.size, expected - HEADER.size
    return RemoteProtocolError(f"{here} bytes do not fit, the type has {least}{wanted}")


_KNOWN: Mapping[int, _Reader] = {
    InfoType.LOG_LINE: _read_log_line,
    InfoType.CONNECTION_IPV4: _connection_reader(4),
    InfoType.CONNECTION_IPV6: _connection_reader(16),
    InfoType.CONNECTION_END_EVENT_V4: _end_reader(4),
    InfoType.CONNECTION_END_EVENT_V6: _end_reader(16),
    InfoType.BANDWIDTH_STATS_V4: _stats_reader(4, 4),
    InfoType.BANDWIDTH_STATS_V6: _stats_reader(6, 16),
}
_READERS = tuple(_KNOWN.get(number, _read_unknown) for number in range(256))
