"""Pieces of a stream, put together in whatever order they come: TCP segments, CRYPTO frames of QUIC.

Only the beginning of a stream is of interest, so there is a limit. Two pieces that say different things about
the same place are an attempt to show one name here and another one to the server: that is an error, not a choice.
"""

from __future__ import annotations

LIMIT = 32768
"""How much of a stream is kept, in bytes: a ClientHello or the head of a request is far smaller."""

GAPS = 64
"""How many stretches may lie apart from each other. Chromium cuts its ClientHello into about ten, and shuffles them."""


class PiecesError(ValueError):
    """These pieces make no stream that can be read: they contradict each other, or there are too many."""


class Pieces:
    """The beginning of one stream, of ``limit`` bytes."""

    __slots__ = ("_data", "_limit", "_stretches")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._data = bytearray()
        self._stretches: list[tuple[int, int]] = []  # apart from each other, in order

    def add(self, offset: int, data: bytes) -> None:
        """Puts a piece at its place. What lies beyond the limit is left out.

        Raises PiecesError if it contradicts what was there, or leaves too many gaps.
        """
        end = min(offset + len(data), self._limit)
        if offset < 0 or offset >= end:
            return
        if end > len(self._data):
            self._data.extend(bytes(end - len(self._data)))
        apart, low, high = [], offset, end
        for begin, stop in self._stretches:
            if stop < offset or begin > end:
                apart.append((begin, stop))
                continue
            common = slice(max(begin, offset), min(stop, end))
            if self._data[common] != data[common.start - offset : common.stop - offset]:
                raise PiecesError("the same place of the stream was sent twice, with different bytes")
            low, high = min(low, begin), max(high, stop)
        self._data[offset:end] = data[: end - offset]
        self._stretches = sorted([*apart, (low, high)])
        if len(self._stretches) > GAPS:
            raise PiecesError(f"the stream comes in more than {GAPS} stretches apart from each other")

    @property
    def length(self) -> int:
        """How many bytes there are from the beginning to the first gap."""
        return self._stretches[0][1] if self._stretches and self._stretches[0][0] == 0 else 0

    def beginning(self, at: int = 0) -> bytes:
        """The bytes from the beginning, or from ``at``, to the first gap."""
        return bytes(self._data[at : self.length])

    @property
    def full(self) -> bool:
        """Whether all that is kept has come, so that nothing more will."""
        return self.length >= self._limit
