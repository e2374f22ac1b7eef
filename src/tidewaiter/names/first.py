"""The first bytes that a client sends, and the name in them: whatever protocol it turns out to be.

Bytes go in with their time, and a `Name` comes out, or None: more is needed. What is kept, and for how long, is
bounded; what was then begun and not finished is *unreadable*, which is not the same as having no name.
"""

from __future__ import annotations

from tidewaiter.model.key import Protocol
from tidewaiter.model.name import NO_NAME, By, Name, unreadable
from tidewaiter.names.http import NotHttp, RequestReader, begins_as_http
from tidewaiter.names.pieces import Pieces, PiecesError
from tidewaiter.names.quic import InitialReader, NotQuic, UnreadableInitial
from tidewaiter.names.tls import HelloReader, MalformedHello, NotTls, begins_as_tls

BYTES = 65_536
"""How many bytes of one connection are looked at, those that come twice counted twice."""

TIME = 5_000_000_000
"""How long its first bytes may take from the first to the last, in nanoseconds."""

Result = Name | None


class FirstOfStream:
    """The first bytes of a TCP connection, from the end that opened it.

    TLS and HTTP are told apart by the first byte, so that nothing else is ever waited for: a server that speaks first
    gets its answer at once.
    """

    def __init__(self) -> None:
        self._pieces = Pieces()
        self._read = 0
        self._reader: HelloReader | RequestReader | None = None

    def feed(self, offset: int, data: bytes) -> Result:
        """A piece of the stream; ``offset`` is 0 for its first byte."""
        try:
            self._pieces.add(offset, data)
            fresh = self._pieces.beginning(self._read)
            self._read += len(fresh)
            return self._understand(fresh) if fresh else None
        except (NotTls, NotHttp):
            return NO_NAME
        except (PiecesError, MalformedHello) as error:
            return unreadable(str(error))

    def _understand(self, fresh: bytes) -> Result:
        if self._reader is None:
            if begins_as_tls(fresh):
                self._reader = HelloReader()
            elif begins_as_http(fresh):
                self._reader = RequestReader()
            else:
                return NO_NAME
        found = self._reader.feed(fresh)
        name = found.named(By.TLS) if found is not None and not isinstance(found, Name) else found
        if name is None and self._pieces.full:
            return unreadable("its beginning is too long")
        return name


class FirstOfDatagrams:
    """The first datagrams of a UDP connection, from the end that opened it: QUIC, or nothing."""

    def __init__(self) -> None:
        self._reader = InitialReader()

    def feed(self, data: bytes) -> Result:
        """A datagram."""
        try:
            hello = self._reader.feed(data)
        except NotQuic:
            return NO_NAME
        except UnreadableInitial as error:
            return unreadable(str(error))
        return hello and hello.named(By.QUIC)


class First:
    """The first bytes of one connection. Times are nanoseconds of any clock that does not go back."""

    def __init__(self, protocol: int) -> None:
        """``protocol`` is the transport's number. Anything but TCP and UDP has no name."""
        self.name: Result = None if protocol in (Protocol.TCP, Protocol.UDP) else NO_NAME
        self._stream = FirstOfStream() if protocol == Protocol.TCP else None
        self._datagrams = FirstOfDatagrams() if protocol == Protocol.UDP else None
        self._begun: int | None = None
        self._seen = 0

    def feed(self, data: bytes, now: int, offset: int = 0) -> Result:
        """What the client sends: a datagram, or a piece of its stream at ``offset``. Returns `name`.

        Once there is a name it stays, and what else is fed is not looked at.
        """
        if self.late(now) is not None or not data:
            return self.name
        if self._begun is None:
            self._begun = now
        self._seen += len(data)
        if self._stream is not None:
            name = self._stream.feed(offset, data)
        else:
            assert self._datagrams is not None
            name = self._datagrams.feed(data)
        if name is None and self._seen > BYTES:
            name = unreadable(f"there is no name in its first {BYTES} bytes")
        return self._settle(name)

    def late(self, now: int) -> Result:
        """The same without anything new: to be asked at `deadline`."""
        if self.name is None and self._begun is not None and now - self._begun >= TIME:
            self._settle(unreadable(f"its first bytes take longer than {TIME // 1_000_000_000} seconds"))
        return self.name

    @property
    def deadline(self) -> int | None:
        """When the waiting is over, in nanoseconds; None while nothing is waited for."""
        return None if self._begun is None or self.name is not None else self._begun + TIME

    def _settle(self, name: Result) -> Result:
        if name is not None:
            self.name = name
            self._stream = self._datagrams = None  # the bytes are of no more use
        return name
