"""The names of network interfaces by their index, in each guarded namespace.

The kernel is asked each time (SIOCGIFNAME, netdevice(7)): it answers quickly, and interfaces come and go.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tidewaiter.host import namespace

_SIOCGIFNAME = 0x8910
_REQUEST = struct.Struct("=16si20x")  # struct ifreq: name, index


class Interfaces:
    """Names for one thread; a namespace that is None is our own. ``wanted``: while it is false, all are ""."""

    def __init__(self, namespaces: Sequence[Path | None]) -> None:
        self._namespaces = namespaces
        self._sockets: dict[int, socket.socket] = {}
        self.wanted = False

    def name(self, number: int, index: int) -> str:
        """The name of an interface in the namespace with this place (from 0); "" for 0, and when it is gone."""
        if not self.wanted or not index:
            return ""
        with suppress(OSError):
            if number not in self._sockets:
                where = self._namespaces[number]
                self._sockets[number] = namespace.run_inside(where, _open) if where else _open()
            answer = fcntl.ioctl(self._sockets[number], _SIOCGIFNAME, _REQUEST.pack(b"", index))
            return answer[:16].split(b"\0")[0].decode(errors="surrogateescape")
        return ""

    def close(self) -> None:
        """Closes what it has opened."""
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()


def _open() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
