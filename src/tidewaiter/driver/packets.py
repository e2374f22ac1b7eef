"""The packet cache: packets that wait for a verdict, by id.

Bounded. When it is full the oldest packet gives way to the newest (portmaster-kext: the ring of the C
driver): whoever waits longest has most likely given up.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

CAPACITY = 1024


class HeldPacket(NamedTuple):
    """A packet that waits. ``token`` is the host's name for it; ``since`` is in nanoseconds. ``interface``: of the
    packet alone, since what comes back may come another way than what goes out."""

    id: int
    flow: bytes
    token: object
    payload: bytes
    since: int
    interface: str = ""


class PacketCache:
    """Held packets by id, and by the flow they belong to. Ids start at 1 and grow by one; 0 is invalid."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Raises ValueError for a capacity below 1."""
        if capacity < 1:
            raise ValueError(f"a packet cache holds at least one packet, not {capacity}")
        self.capacity = capacity
        self._next = 1
        self._packets: OrderedDict[int, HeldPacket] = OrderedDict()
        self.by_flow: dict[bytes, list[int]] = {}
        """The ids of the packets of each flow, oldest first; to be read only."""
        self.most = 0
        """How many have waited at once, at the most."""

    def __len__(self) -> int:
        """How many packets wait."""
        return len(self._packets)

    def add(
        self, flow: bytes, token: object, payload: bytes, now: int, interface: str = ""
    ) -> tuple[HeldPacket, HeldPacket | None]:
        """Keeps a packet; returns it and the one that had to give way, if any."""
        evicted = self.take(next(iter(self._packets))) if len(self._packets) >= self.capacity else None
        packet = HeldPacket(self._next, flow, token, payload, now, interface)
        self._next += 1
        self._packets[packet.id] = packet
        self.by_flow.setdefault(flow, []).append(packet.id)
        self.most = max(self.most, len(self._packets))
        return packet, evicted

    def describe(self) -> str:
        """How full it is."""
        size = sum(len(packet.payload) for packet in self._packets.values())
        return f"{len(self)} of {self.capacity} held, {size} bytes, {self.most} at the most"

    @property
    def newest(self) -> int:
        """The id that was given last."""
        return self._next - 1

    def ids(self) -> list[int]:
        """The ids of the packets that wait, oldest first."""
        return list(self._packets)

    def first(self, flow: bytes) -> int | None:
        """The id of the packet of a flow that has waited longest."""
        return next(iter(self.by_flow.get(flow, ())), None)

    def waiting(self, flow: bytes) -> int:
        """How many packets of a flow wait."""
        return len(self.by_flow.get(flow, ()))

    def get(self, number: int) -> HeldPacket | None:
        """A held packet, which stays held."""
        return self._packets.get(number)

    def payload(self, number: int) -> bytes | None:
        """The bytes of a held packet, which stays held; None if none is held under this id."""
        packet = self._packets.get(number)
        return None if packet is None else packet.payload

    def take(self, number: int) -> HeldPacket | None:
        """A held packet, which is no longer held."""
        packet = self._packets.pop(number, None)
        if packet is not None:
            numbers = self.by_flow[packet.flow]
            numbers.remove(number)
            if not numbers:
                del self.by_flow[packet.flow]
        return packet

    def take_flow(self, flow: bytes) -> list[HeldPacket]:
        """All packets of a flow, in the order in which they came; they are no longer held."""
        return [self._packets.pop(number) for number in self.by_flow.pop(flow, ())]

    def oldest(self) -> HeldPacket | None:
        """The packet that has waited longest."""
        return next(iter(self._packets.values()), None)
