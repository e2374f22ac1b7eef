"""A place in foreign bytes that moves forward, and never beyond their end."""

from __future__ import annotations


class EndOfBytes(ValueError):  # noqa: N818 - it names what happened
    """Less is there than was to be read."""


class Cursor:
    """Reads ``data`` from ``at`` to ``end``, big-endian. Every method raises EndOfBytes where it ends first."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        """Raises EndOfBytes for a stretch that does not lie within ``data``."""
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end
        if not 0 <= at <= self.end <= len(data):
            raise EndOfBytes(f"bytes {at} to {self.end} of {len(data)}")

    @property
    def left(self) -> int:
        """How many bytes are still to come."""
        return self.end - self.at

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        begin = self.at
        self.skip(size)
        return self.data[begin : self.at]

    def skip(self, size: int) -> None:
        """Passes over ``size`` bytes."""
        if size > self.end - self.at:
            raise EndOfBytes(f"{size} bytes are announced, {self.end - self.at} are there")
        self.at += size

    def number(self, size: int) -> int:
        """An unsigned number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def varint(self) -> int:
        """A variable-length integer of QUIC (RFC 9000 section 16)."""
        first = self.number(1)
        size = 1 << (first >> 6)
        return (first & 0x3F) << 8 * (size - 1) | self.number(size - 1)

    def vector(self, size: int) -> bytes:
        """The bytes behind their own length, itself of ``size`` bytes (RFC 8446 section 3.4)."""
        return self.take(self.number(size))

    def within(self, length: int) -> Cursor:
        """A cursor over the next ``length`` bytes, which this one passes over."""
        begin = self.at
        self.skip(length)
        return Cursor(self.data, begin, self.at)
