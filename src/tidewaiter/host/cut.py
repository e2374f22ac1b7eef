"""Another verdict on a connection that is open. What is refused now is cut: its program hears of it at once.

The kernel ends the socket (SOCK_DESTROY, sock_diag(7)) and its program gets ECONNABORTED. What the kernel then sends to
the peer is of the refused connection, and stops at the gate as everything of it does.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from tidewaiter.driver.core import Renew
from tidewaiter.host import namespace
from tidewaiter.host.diag import Channel, OpenSocket, State
from tidewaiter.host.install import Installed
from tidewaiter.host.verdict_cache import VerdictCache
from tidewaiter.kernel import records
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.records import Flag, Home
from tidewaiter.kernel.totals import Totals
from tidewaiter.model.key import Protocol, address
from tidewaiter.model.verdict import Verdict

log = logging.getLogger("tidewaiter")

_IN_A_SOCKET = frozenset({Home.SOCKET, Home.ADDRESSES})
_CONNECTS = frozenset({Protocol.TCP, Protocol.UDP})


class Cutter:
    """Renews verdicts, and ends the sockets of what they refuse. ``count``: how many. Used by one thread."""

    def __init__(self, installed: Installed, verdicts: VerdictCache, totals: Totals) -> None:
        self._pending = installed.kernel.map("pending")
        self._verdicts, self._totals = verdicts, totals
        self._namespaces = [Path(where) for where in installed.state.namespaces]
        self._channels: dict[int, Channel] = {}
        self._failed = False
        self.count = 0

    def renew(self, data: bytes, action: Renew) -> None:
        """Puts another verdict on a connection (struct tw_connection) into the kernel."""
        try:
            self._verdicts.renew(data, action.verdict, self._totals)
        except KernelError as error:  # no room, say: everything else goes on
            log.error("the verdict on %s stays as it was: %s", action.connection.key, error)  # noqa: TRY400
            return
        if action.verdict.permanent and not action.verdict.passes:
            self.cut(data)

    def keep(self, data: bytes, verdict: Verdict) -> None:
        """Tells the kernel that a connected datagram socket goes on under a new policy, before it asks."""
        self._verdicts.keep(data, verdict)

    def live(self) -> Generator[bytes, None, None]:
        """struct tw_connection of all that lives in a socket, or waits; read piece by piece as it is asked for.

        What comes or goes meanwhile may be missing, and one that moves between two maps may come twice.
        """
        waiting = (self._pending.get(key) for key in self._pending.keys())  # noqa: SIM118
        for data in chain(waiting, self._totals.read()):
            if data is not None and not data[records.FLAGS] & Flag.MARKER:
                yield data

    def cut(self, data: bytes) -> bool:
        """Ends the socket of a connection, if it still is that connection's; whether it did.

        A datagram socket is ended only when it is connected to this peer: what has many peers goes on with the others.
        Another socket with the same addresses is not touched: its cookie differs.
        """
        record = records.unpack(data)
        if record.home not in _IN_A_SOCKET or record.protocol not in _CONNECTS or not record.cookie:
            return False
        local, remote = (address(end, record.family) for end in (record.local, record.remote))
        ends = local, record.local_port, remote, record.remote_port
        wanted = OpenSocket(record.protocol, State.ESTABLISHED, *ends, record.cookie, 0, 0)
        try:
            channel = self._channel(record.namespace)
            found = self._find(channel, record.namespace, wanted)
            if found is None or not channel.destroy(found):
                return False
        except OSError as error:
            if not self._failed:  # said once
                self._failed = True
                log.warning("open connections that are refused now are stopped, but not ended: %s", error)
            return False
        self.count += 1
        return True

    def close(self) -> None:
        """Closes what it has opened."""
        for channel in self._channels.values():
            channel.close()

    def _channel(self, number: int) -> Channel:
        if number not in self._channels:
            self._channels[number] = Channel(self._namespaces[number - 1])
        return self._channels[number]

    def _find(self, channel: Channel, number: int, wanted: OpenSocket) -> OpenSocket | None:
        """The socket as it is now. One that is bound to a device is found by that device alone."""
        found = channel.find(wanted)
        if found is None:
            devices = namespace.run_inside(self._namespaces[number - 1], socket.if_nameindex)
            tries = (channel.find(replace(wanted, interface=index)) for index, _ in devices)
            found = next(filter(None, tries), None)
        if found is None or found.protocol != Protocol.UDP:
            return found
        return found if (found.remote, found.remote_port) == (wanted.remote, wanted.remote_port) else None
