"""What the kernel has told of packets that are on their way to us: whose each of them is, by its flow."""

from __future__ import annotations

from collections.abc import Container

from tidewaiter.kernel import records

Whose = tuple[bytes, int]
"""struct tw_connection of a packet, and since when it waits (ns)."""


class Told(dict[bytes, Whose]):
    """The first packet of each flow; those behind it wait in their order.

    Two sockets may have the same ends one shortly after the other, so that packets of both are on their way.
    """

    def __init__(self, room: int) -> None:
        """When there are ``room`` flows, packets that never came are among them: all are forgotten."""
        self._room = room
        self._behind: dict[bytes, list[Whose]] = {}

    def add(self, flow: bytes, whose: Whose) -> None:
        """One more packet of a flow is on its way."""
        if len(self) >= self._room:
            self.clear()
        if flow in self:
            self._behind.setdefault(flow, []).append(whose)
        else:
            self[flow] = whose

    def take(self, flow: bytes) -> Whose | None:
        """Whose the packet is that has come; None if nothing was told of it."""
        whose = self.pop(flow, None)
        if self._behind and (behind := self._behind.get(flow)) is not None:
            self[flow] = behind.pop(0)
            if not behind:
                del self._behind[flow]
        return whose

    def is_behind(self, flow: bytes, answered: bytes) -> bool:
        """Whether a packet that has come is of the socket that has just been ``answered`` (struct tw_connection)."""
        whose = self.get(flow)
        if whose is None:
            return True
        if whose[0][records.COOKIE] != answered[records.COOKIE]:
            return False
        self.take(flow)
        return True

    def through(self, flow: bytes, known: Container[bytes]) -> bytes:
        """The connection of a packet that is forwarded: its own flow, or one that it is a reply to."""
        if flow in self or not flow:
            return flow
        begun = records.reply(flow)
        return begun if begun in self or (flow not in known and begun in known) else flow

    def forget(self, flow: bytes) -> None:
        """Its packets were lost on their way."""
        self.pop(flow, None)
        self._behind.pop(flow, None)

    def clear(self) -> None:
        """All of them were."""
        super().clear()
        self._behind.clear()
