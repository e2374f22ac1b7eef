"""A packet socket (AF_PACKET): it sends and receives past IP, so nothing of it can be held or refused."""

from __future__ import annotations

from dataclasses import dataclass

from tidewaiter.model.process import Process


@dataclass(frozen=True, slots=True)
class PacketSocket:
    """What is known of a packet socket.

    ``id`` is a number of the same series as those of connections. ``interface`` is the name of the one that it is bound
    to, "" for any. Times are nanoseconds of CLOCK_MONOTONIC; ``ended`` is 0 while it is open. ``sent`` and ``received``
    are bytes as the program counts them: with the link's header where it writes and reads that (SOCK_RAW); without what
    it reads from memory that it shares with the kernel (PACKET_RX_RING, as tcpdump does).
    """

    id: int
    process: Process
    interface: str
    opened: int
    ended: int = 0
    sent: int = 0
    received: int = 0

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else ""
        return f"{self.process.name} (process {self.process.pid}) uses a packet socket{where}"
