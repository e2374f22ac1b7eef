"""What programs and resolvers say to each other, as the kernel half has copied it (text.h)."""

from __future__ import annotations

from collections.abc import Iterator

from tidewaiter.host.owners import Owners
from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.ring import Ring
from tidewaiter.model.packet import TcpFlag
from tidewaiter.names.talk import Text

RING_BYTES = 1 << 20
"""Of the ring. When it is full, the newest texts are lost, and counted: `texts_lost`."""

_CONNECTION = slice(
    records.TEXT.offset("connection_owner_started"),
    records.TEXT.offset("connection_owner_started") + records.CONNECTION_SIZE,
)
_BYTES = records.TEXT.offset("bytes")


class Texts:
    """One consumer of the ring; used by one thread."""

    def __init__(self, kernel: Kernel, owners: Owners, *, taken_over: bool) -> None:
        """``taken_over``: what is in the ring is from before our time."""
        self._ring = Ring(kernel.map("texts").fd, RING_BYTES)
        self._owners = owners
        if taken_over:
            self._ring.skip()

    def drain(self) -> Iterator[Text]:
        """What has been said since the last call, oldest first."""
        while found := self._ring.drain():
            for data in found:
                yield self._text(data)

    def _text(self, data: bytes) -> Text:
        fields = records.TEXT.unpack(data)
        connection = data[_CONNECTION]
        record = records.unpack(connection)
        return Text(
            records.connection(connection[records.FLOW], record, self._owners.of(record)),
            not fields["incoming"],
            data[_BYTES : _BYTES + fields["length"]],
            fields["at"],
            fields["whole"],
            fields["sequence"],
            bool(fields["tcp_flags"] & TcpFlag.SYN),
        )

    def close(self) -> None:
        """Unmaps the ring."""
        self._ring.close()
