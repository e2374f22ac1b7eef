"""Sends the answer that a refused packet gets: a TCP reset or an ICMP "unreachable", built by model/answer.py.

Raw sockets that carry their own IP header (raw(7), ipv6(7)): the answer seems to come from whoever the packet was for.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from tidewaiter.host import namespace
from tidewaiter.model.answer import rejection
from tidewaiter.model.packet import MalformedPacket

_IPV6_HDRINCL = 36


class Refuser:
    """Refuses packets within one network namespace (None: our own)."""

    def __init__(self, where: Path | None) -> None:
        self._sockets = namespace.run_inside(where, _open) if where else _open()

    def refuse(self, packet: bytes) -> bool:
        """Answers a packet; False where no answer may or can be sent (the sender then waits in vain)."""
        try:
            answer = rejection(packet)
        except MalformedPacket:
            return False
        if answer is None:
            return False
        version = answer[0] >> 4
        target = (
            (socket.inet_ntop(socket.AF_INET, answer[16:20]), 0)
            if version == 4
            else (socket.inet_ntop(socket.AF_INET6, answer[24:40]), 0, 0, 0)
        )
        try:
            self._sockets[version].sendto(answer, target)
        except OSError:  # no route back to the sender: nothing more can be done for it
            return False
        return True

    def close(self) -> None:
        """Closes the sockets."""
        for item in self._sockets.values():
            item.close()


class Refusals:
    """Refused packets, by the number of their namespace, which wait until their verdicts have been given."""

    def __init__(self, places: Iterable[Path | None]) -> None:
        self._refusers = [Refuser(where) for where in places]
        self.waiting: list[tuple[int, bytes]] = []

    def send(self) -> None:
        """Answers all that wait."""
        while self.waiting:
            number, packet = self.waiting.pop()
            self._refusers[number].refuse(packet)

    def close(self) -> None:
        """Closes the sockets."""
        for refuser in self._refusers:
            refuser.close()


def _open() -> dict[int, socket.socket]:
    four = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    six.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    return {4: four, 6: six}
