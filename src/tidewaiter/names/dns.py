"""DNS messages, as far as they name addresses: questions, and answers A, AAAA, CNAME, SVCB and HTTPS.

Sources: RFC 1035 (message, TCP framing), RFC 2181 section 8 (lifetimes), RFC 3596 (AAAA), RFC 6891 (EDNS: passed
over), RFC 9460 (SVCB, HTTPS). Why this is ours: docs/dependencies.md.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from tidewaiter.model.key import Address
from tidewaiter.names.cursor import Cursor, EndOfBytes

RECORDS = 256
"""How many records of a message are read. Resolvers answer with a few dozen at most."""

WORK = 1024
"""How many labels of a message are read: pointers can make few bytes name many."""

MAX_TTL = 2**31 - 1
_HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")
_LONGEST = 255
_INTERNET = 1
_FLUSH = 0x8000  # of multicast DNS (RFC 6762 section 10.2)


class MalformedMessage(ValueError):  # noqa: N818 - it names what the message is
    """The bytes are no DNS message."""


class Kind(IntEnum):
    """The types of records that are read (IANA DNS parameters)."""

    A = 1
    CNAME = 5
    AAAA = 28
    SVCB = 64
    HTTPS = 65


class Service(NamedTuple):
    """What an SVCB or HTTPS record says. ``priority`` 0: ``target`` is another name for the owner.

    ``target`` is "" for the owner itself. ``addresses`` are its hints.
    """

    priority: int
    target: str
    addresses: tuple[Address, ...] = ()


class Record(NamedTuple):
    """One record: an address (A, AAAA), a name (CNAME) or a service (SVCB, HTTPS). ``ttl`` is in seconds."""

    owner: str
    kind: Kind
    ttl: int
    value: Address | str | Service


class Question(NamedTuple):
    """What is asked for. ``kind`` is the number of a type, not only of those that are read."""

    name: str
    kind: int


class Message(NamedTuple):
    """A message. ``records`` are those of the answer and additional sections that are read, in their order.

    ``code`` is the response code without what EDNS adds; 0 is "no error". ``truncated``: the rest is to be had
    by TCP. Names are in small letters without a dot at their end; bytes that a host name cannot have are
    written as ``\\DDD`` (RFC 1035 section 5.1). The root is ".".
    """

    id: int
    response: bool
    code: int
    truncated: bool
    questions: tuple[Question, ...]
    records: tuple[Record, ...]


def parse_message(data: bytes) -> Message:
    """The message in a datagram, or in a frame of TCP. Raises MalformedMessage.

    A message that is cut in its records is read up to there: resolvers do cut, and say so (``truncated``).
    """
    if len(data) < _HEADER.size:
        raise MalformedMessage(f"{len(data)} bytes are too few for a DNS header")
    number, flags, asked, answers, authorities, additionals = _HEADER.unpack_from(data)
    if asked > RECORDS:
        raise MalformedMessage(f"there are {asked} questions")
    reader = _Reader(data)
    try:
        questions = tuple(reader.question() for _ in range(asked))
    except EndOfBytes as error:
        raise MalformedMessage(f"a question is cut: {error}") from None
    records: list[Record] = []
    try:
        for count, wanted in ((answers, True), (authorities, False), (additionals, True)):
            for _ in range(count):
                record = reader.record(wanted)
                if record is not None:
                    records.append(record)
    except EndOfBytes as error:
        if not flags & 0x0200:
            raise MalformedMessage(f"a record is cut: {error}") from None
    return Message(number, bool(flags & 0x8000), flags & 15, bool(flags & 0x0200), questions, tuple(records))


class _Reader:
    """Reads one message from behind its header on. Remembers names, which are repeated by pointers."""

    def __init__(self, data: bytes) -> None:
        self._cursor = Cursor(data, _HEADER.size)
        self._names: dict[int, tuple[list[str], int]] = {}  # by where they begin
        self._labels = 0
        self._records = 0

    def question(self) -> Question:
        name = self._name(self._cursor)
        kind = self._cursor.number(2)
        self._cursor.skip(2)
        return Question(name, kind)

    def record(self, wanted: bool) -> Record | None:
        """The next record; None if it is of no use."""
        self._records += 1
        if self._records > RECORDS:
            raise MalformedMessage(f"there are more than {RECORDS} records")
        cursor = self._cursor
        owner = self._name(cursor)
        kind, group, ttl, length = _FIXED.unpack(cursor.take(_FIXED.size))
        content = cursor.within(length)
        if not wanted or group & ~_FLUSH != _INTERNET or kind not in _KINDS:
            return None
        try:
            value = self._value(kind, content)
        except EndOfBytes as error:
            raise MalformedMessage(f"the {Kind(kind).name} record of {owner} is cut: {error}") from None
        if content.left:
            raise MalformedMessage(f"the {Kind(kind).name} record of {owner} is too long")
        return Record(owner, Kind(kind), 0 if ttl > MAX_TTL else ttl, value)  # RFC 2181 section 8

    def _value(self, kind: int, content: Cursor) -> Address | str | Service:
        if kind == Kind.A:
            return IPv4Address(content.take(4))
        if kind == Kind.AAAA:
            return IPv6Address(content.take(16))
        if kind == Kind.CNAME:
            return self._name(content)
        return self._service(content)

    def _service(self, content: Cursor) -> Service:
        priority = content.number(2)
        target = self._name(content)
        addresses: list[Address] = []
        while content.left:
            key = content.number(2)
            value = content.within(content.number(2))
            if key == 4:
                while value.left:
                    addresses.append(IPv4Address(value.take(4)))
            elif key == 6:
                while value.left:
                    addresses.append(IPv6Address(value.take(16)))
        return Service(priority, "" if target == "." else target, tuple(addresses))

    def _name(self, cursor: Cursor) -> str:
        """The name at the cursor, which is moved behind it (RFC 1035 section 4.1.4).

        A pointer has to lead back, before where the name or the last pointer's target begins: so there is no circle.
        """
        data, begin, at, end = cursor.data, cursor.at, cursor.at, cursor.end
        floor, behind, size = begin, 0, 1
        labels: list[str] = []
        while True:
            if at >= end:
                raise EndOfBytes(f"a name runs beyond byte {end}")
            length = data[at]
            at += 1
            if not length:
                break
            self._labels += 1
            if self._labels > WORK:
                raise MalformedMessage(f"there are more than {WORK} labels")
            if length < 64:
                if at + length > end:
                    raise EndOfBytes(f"a label runs beyond byte {end}")
                labels.append(_label(data[at : at + length]))
                at, size = at + length, size + length + 1
            elif length < 0xC0:
                raise MalformedMessage(f"a label begins with {length:#x}, which has no meaning")
            else:
                target = self._target(at - 1, end, floor)
                behind = behind or at + 1
                if target in self._names:
                    rest, more = self._names[target]
                    labels += rest
                    size += more - 1
                    break
                at = floor = target
                end = len(data)
            if size > _LONGEST:
                break
        if size > _LONGEST:
            raise MalformedMessage(f"a name is longer than {_LONGEST} bytes")
        self._names[begin] = labels, size
        cursor.at = behind or at
        return ".".join(labels) or "."

    def _target(self, at: int, end: int, floor: int) -> int:
        """Where the pointer at ``at`` leads to."""
        if at + 2 > end:
            raise EndOfBytes(f"a pointer runs beyond byte {end}")
        target = int.from_bytes(self._cursor.data[at : at + 2], "big") & 0x3FFF
        if not _HEADER.size <= target < floor:
            raise MalformedMessage("a pointer does not lead back to another name")
        return target


_KINDS = frozenset(Kind)
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


def _label(data: bytes) -> str:
    lower = data.lower()
    if _PLAIN.issuperset(lower):
        return lower.decode("ascii")
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03}" for byte in lower)


class Frames:
    """DNS over TCP: each message behind its length (RFC 1035 section 4.2.2). Keeps one message, 65,537 bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole with these bytes."""
        self._buffer += data
        whole = []
        at = 0
        while len(self._buffer) - at >= 2:
            end = at + 2 + int.from_bytes(self._buffer[at : at + 2], "big")
            if end > len(self._buffer):
                break
            whole.append(bytes(self._buffer[at + 2 : end]))
            at = end
        del self._buffer[:at]
        return whole
