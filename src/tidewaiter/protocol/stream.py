"""Reading infos from a stream of bytes, however it was cut on its way.

One info that cannot be read does not end the stream: its header says how long it is, so it is
reported as `Skipped` and the next one is read. What an info may hold is in info.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from tidewaiter.protocol import _native
from tidewaiter.protocol.errors import RemoteProtocolError
from tidewaiter.protocol.info import (
    BANDWIDTH_ENTRY,
    BANDWIDTH_STATS,
    CONNECTION,
    CONNECTION_END,
    FIXED,
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
        one = partial(read_one, data)
        while True:
            position = _native.read(data, position, MAX_INFO_LENGTH, _FIXED, one, infos)
            if end - position < HEADER.size:
                break
            number, length = HEADER.unpack_from(data, position)
            if length <= MAX_INFO_LENGTH:
                needed = HEADER.size + length
                break
            infos.append(Skipped(number, length, f"{length} bytes are more than {MAX_INFO_LENGTH}", b""))
            stop = position + HEADER.size + length
            self._passing = max(0, stop - end)
            position = min(stop, end)
        self._kept += data[position:]
        self._needed = needed
        return infos


def read_one(data: bytes, start: int, stop: int) -> Info | Skipped:
    """The info from ``start`` (its header) to ``stop``, in Python: C does not know its type, or it does not fit."""
    try:
        return _READERS[data[start]](data, start, stop)
    except RemoteProtocolError as error:
        first = start + HEADER.size
        return Skipped(data[start], stop - first, str(error), data[first:stop])


# A reader gets a buffer and where the info (header included) begins and stops in it.
_Reader = Callable[[bytes, int, int], Info]


def _read_unknown(data: bytes, start: int, stop: int) -> Info:
    raise RemoteProtocolError(f"type {data[start]} is not known")


def _read_log_line(data: bytes, start: int, stop: int) -> LogLine:
    text = start + LOG_LINE.size
    if text > stop:
        raise _too_few(stop - start, LOG_LINE.size, "at least ")
    try:
        return LogLine(data[text - 1], data[text:stop].decode())
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"the text is not UTF-8 at its byte {error.start}") from None


def _connection_reader(address: int) -> _Reader:
    size, unpack = CONNECTION[address].size, CONNECTION[address].unpack_from

    def read(data: bytes, start: int, stop: int) -> ConnectionInfo:
        payload = start + size
        if payload > stop:
            raise _too_few(stop - start, size, "at least ")
        _, _, *fields, declared = unpack(data, start)
        if payload + declared != stop:
            raise RemoteProtocolError(
                f"payload_size is {declared}, but {stop - payload} bytes of payload are there"
            )
        return ConnectionInfo._make([*fields, data[payload:stop]])

    return read


def _end_reader(address: int) -> _Reader:
    size, unpack = CONNECTION_END[address].size, CONNECTION_END[address].unpack_from

    def read(data: bytes, start: int, stop: int) -> ConnectionEnd:
        if stop - start != size:
            raise _too_few(stop - start, size, "")
        return ConnectionEnd._make(unpack(data, start)[2:])

    return read


_entry = cast(
    "Callable[[tuple[Any, ...]], BandwidthEntry]",
    partial(tuple.__new__, BandwidthEntry),  # `_make` without its call of Python
)


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
        entries = map(_entry, layout.iter_unpack(data[first:stop]))
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
_LAYOUTS = {layout[0]: layout for layouts in FIXED.values() for layout in layouts}
_FIXED = tuple(_LAYOUTS.get(number) for number in range(256))
