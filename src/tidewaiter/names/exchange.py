"""What one connection to a resolver asks and gets: an answer counts only if its question was asked.

Whoever may send a datagram to a program's socket may also make up an answer; the question that is still open
is what tells the resolver's own (RFC 5452 section 9.1).
"""

from __future__ import annotations

from collections import OrderedDict

from tidewaiter.model.key import Protocol
from tidewaiter.names.dns import Frames, MalformedMessage, Message, Question, parse_message
from tidewaiter.names.pieces import Pieces, PiecesError

DNS_PORT = 53

OPEN = 64
"""How many questions of a connection may be open; then the oldest is forgotten, and its answer teaches nothing."""


class Exchange:
    """Both sides of one connection. Of TCP only the beginning is read, as far as `Pieces` go."""

    def __init__(self, protocol: int) -> None:
        self._open: OrderedDict[tuple[int, tuple[Question, ...]], None] = OrderedDict()
        self._asking: _Messages | None = None
        self._answering: _Messages | None = None
        if protocol == Protocol.TCP:
            self._asking, self._answering = _Messages(), _Messages()

    def asks(self, data: bytes, offset: int = 0) -> None:
        """What the client sends: a datagram, or a piece of its stream at ``offset``."""
        for message in _parsed(self._asking, data, offset):
            if not message.response and message.questions:
                self._open[message.id, message.questions] = None
                if len(self._open) > OPEN:
                    self._open.popitem(last=False)

    def answers(self, data: bytes, offset: int = 0) -> list[Message]:
        """What the resolver sends: the answers in it, each to an open question."""
        found = []
        numbers = {number for number, _ in self._open}
        for message in _parsed(self._answering, data, offset, numbers):
            which = message.id, message.questions
            if message.response and which in self._open:
                if not message.truncated:
                    del self._open[which]
                found.append(message)
        return found


class _Messages:
    """The messages of one direction of a TCP connection."""

    def __init__(self) -> None:
        self._pieces = Pieces()
        self._frames = Frames()
        self._read = 0

    def feed(self, offset: int, data: bytes) -> list[bytes]:
        self._pieces.add(offset, data)
        fresh = self._pieces.beginning(self._read)
        self._read += len(fresh)
        return self._frames.feed(fresh)


def _parsed(
    stream: _Messages | None, data: bytes, offset: int, numbers: set[int] | None = None
) -> list[Message]:
    """The messages in it; of those that do not bear one of ``numbers`` no more is read, which is what a flood costs."""
    try:
        whole = [data] if stream is None else stream.feed(offset, data)
    except PiecesError:
        return []
    found = []
    for one in whole:
        if numbers is not None and int.from_bytes(one[:2], "big") not in numbers:
            continue
        try:
            found.append(parse_message(one))
        except MalformedMessage:
            continue
    return found
