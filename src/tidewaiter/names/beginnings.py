"""Where in its stream a TCP segment lies: the sequence numbers with which both sides begin."""

from __future__ import annotations


class Beginnings:
    """Both streams of one connection (RFC 9293 section 3.4)."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first: list[int | None] = [None, None]  # of ours, of theirs

    def begin(self, ours: bool, sequence: int) -> None:
        """The first byte that one side says has this number: one more than that of its SYN."""
        self._first[not ours] = sequence % 2**32

    def offset(self, ours: bool, sequence: int) -> int | None:
        """Where the byte with this number lies in its stream, from 0; None if that cannot be told."""
        first = self._first[not ours]
        if first is None:
            return None
        offset = (sequence - first) % 2**32
        return offset if offset < 2**31 else None
