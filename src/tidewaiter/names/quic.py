"""The ClientHello in the Initial packets of QUIC versions 1 and 2.

An Initial packet is encrypted with keys that anybody can derive from its own header: that keeps out what has no
business to look, not us. Sources: RFC 9000 (packets 17.2, frames 19), RFC 9001 section 5 (which keys), RFC 9369
(version 2), RFC 9368 (a client may change to version 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tidewaiter.names.cursor import Cursor, EndOfBytes
from tidewaiter.names.pieces import Pieces, PiecesError
from tidewaiter.names.tls import Hello, MalformedHello, NotTls, hello_of_handshake

if TYPE_CHECKING:
    from tidewaiter.names.initial_keys import Keys

PACKETS = 64
"""How many Initial packets of a connection are decrypted."""

KEYS = 4
"""How many keys are derived for it: one, and others after a Retry or a change of version."""

_LONG, _FIXED = 0x80, 0x40
_PADDING, _PING, _ACK, _ACK_ECN, _CRYPTO, _CLOSE = 0, 1, 2, 3, 6, 0x1C
_LONGEST_ID = 20
_SHORTEST = 20  # of packet number, frames and tag: header protection needs so much (RFC 9001 section 5.4.2)


class NotQuic(ValueError):  # noqa: N818 - it names what the datagram is
    """The datagram does not begin as a QUIC connection does."""


class UnreadableInitial(ValueError):  # noqa: N818 - it names what it is
    """It does, and cannot be read: another version, or no ClientHello in it."""


class Version(NamedTuple):
    """What differs from version to version. ``initial`` are the two bits of a long header that say Initial."""

    number: int
    salt: bytes
    initial: int
    label: bytes


VERSIONS = {
    version.number: version
    for version in (
        Version(1, bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), 0b00, b"quic "),
        Version(0x6B3343CF, bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), 0b01, b"quicv2 "),
    )
}


class _Packet(NamedTuple):
    """An Initial packet in a datagram, still encrypted; its number is at ``at``."""

    version: Version
    connection_id: bytes
    data: bytes
    at: int


class InitialReader:
    """Reads the ClientHello of one QUIC connection from the client's datagrams, in whatever order they come."""

    def __init__(self) -> None:
        self._keys: dict[tuple[int, bytes], Keys] = {}
        self._connection_id: bytes | None = None
        self._expected = 0
        self._packets = 0
        self._crypto = Pieces()

    def feed(self, datagram: bytes) -> Hello | None:
        """The ClientHello once it is whole, None before. Raises NotQuic and UnreadableInitial."""
        for packet in _initials(datagram, begins=self._connection_id is None):
            self._packets += 1
            if self._packets > PACKETS:
                raise UnreadableInitial(f"its ClientHello is not whole after {PACKETS} packets")
            frames = self._decrypt(packet)
            if frames is not None:
                self._read(frames)
        try:
            hello = hello_of_handshake(self._crypto.beginning())
        except (NotTls, MalformedHello) as error:
            raise UnreadableInitial(str(error)) from None
        if hello is None and self._crypto.full:
            raise UnreadableInitial("its ClientHello is too large")
        return hello

    def _decrypt(self, packet: _Packet) -> bytes | None:
        """The frames of a packet, or None: what cannot be decrypted is ignored (RFC 9001 section 5.5)."""
        if self._connection_id is None:
            self._connection_id = packet.connection_id
        # The first id stays good when the server has chosen its own; after a Retry it is the new one (RFC 9001, 5.2).
        for connection_id in dict.fromkeys((self._connection_id, packet.connection_id)):
            which = packet.version.number, connection_id
            keys = self._keys.get(which)
            if keys is None:
                if len(self._keys) >= KEYS:
                    continue
                keys = self._keys[which] = _keys(packet.version, connection_id)
            try:
                number, frames = keys.decrypt(packet.data, packet.at, self._expected)
            except ValueError:  # WrongKeys
                continue
            self._expected = max(self._expected, number + 1)
            return frames
        return None

    def _read(self, frames: bytes) -> None:
        try:
            for offset, data in _crypto(Cursor(frames)):
                self._crypto.add(offset, data)
        except (EndOfBytes, PiecesError) as error:
            raise UnreadableInitial(f"an Initial packet of it is malformed: {error}") from None


def begins_as_quic(datagram: bytes) -> bool:
    """Whether a datagram looks like the first of a QUIC connection of any version (RFC 8999, RFC 9000 section 14.1).

    A client fills its first datagrams up to 1,200 bytes, which tells them from others that begin alike.
    """
    return len(datagram) >= 1200 and datagram[0] & (_LONG | _FIXED) == _LONG | _FIXED and any(datagram[1:5])


def _initials(datagram: bytes, *, begins: bool) -> Iterator[_Packet]:
    """The Initial packets of a datagram. Others may follow in it (RFC 9000 section 12.2).

    Raises NotQuic for what is no QUIC, or no beginning of it, where it has to be one.
    """
    if begins and not begins_as_quic(datagram):
        raise NotQuic("it does not look like the first datagram of a QUIC connection")
    at = 0
    while len(datagram) - at >= 7 and datagram[at] & (_LONG | _FIXED) == _LONG | _FIXED:
        number = int.from_bytes(datagram[at + 1 : at + 5], "big")
        version = VERSIONS.get(number)
        if version is None:
            if begins and not at:
                raise UnreadableInitial(f"it is QUIC of the unknown version {number:#x}")
            return
        initial = datagram[at] >> 4 & 3 == version.initial
        cursor = Cursor(datagram, at + 5)
        try:
            connection_id = cursor.vector(1)
            source = cursor.vector(1)
            if len(connection_id) > _LONGEST_ID or len(source) > _LONGEST_ID:
                raise EndOfBytes("a connection id is too long")
            if initial:
                cursor.skip(cursor.varint())  # token
            length = cursor.varint()
            begin = cursor.at
            cursor.skip(length)
        except EndOfBytes as error:
            if begins and not at:
                raise NotQuic(f"its first packet is none: {error}") from None
            return
        if initial and length >= _SHORTEST:
            yield _Packet(version, connection_id, datagram[at : cursor.at], begin - at)
        elif begins and not at:
            raise NotQuic("it does not begin with an Initial packet")
        at = cursor.at


def _crypto(cursor: Cursor) -> Iterator[tuple[int, bytes]]:
    """Offset and data of each CRYPTO frame. Raises EndOfBytes where the frames are malformed."""
    while cursor.left:
        kind = cursor.varint()
        if kind == _CRYPTO:
            offset = cursor.varint()
            yield offset, cursor.take(cursor.varint())
        elif kind in (_ACK, _ACK_ECN):
            cursor.varint()
            cursor.varint()
            ranges = cursor.varint()
            for _ in range(min(2 * ranges + 1 + 3 * (kind == _ACK_ECN), cursor.left + 1)):
                cursor.varint()
        elif kind == _CLOSE:
            cursor.varint()
            cursor.varint()
            cursor.skip(cursor.varint())
        elif kind not in (_PADDING, _PING):
            raise EndOfBytes(f"a frame of type {kind:#x} must not be in it")  # RFC 9000 section 12.4


def _keys(version: Version, connection_id: bytes) -> Keys:
    from tidewaiter.names.initial_keys import Keys  # noqa: PLC0415 - it says why

    return Keys(version.salt, version.label, connection_id)
