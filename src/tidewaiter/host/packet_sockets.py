"""Follows the packet sockets (AF_PACKET) of programs in scope: whose they are, how much they carry, and when they end.

The kernel half writes down who sends or receives (kernel/frames.bpf.c). Which are open is in /proc/net/packet, a file
that is looked at four times a second: so the end of each is noticed, and those are found that were there before us, or
move nothing by system calls.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tidewaiter.host import cgroup, namespace
from tidewaiter.host.install import Installed
from tidewaiter.host.owners import Owners
from tidewaiter.host.processes import owners_of
from tidewaiter.kernel import records
from tidewaiter.kernel.records import Record
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.process import UNKNOWN, Process

log = logging.getLogger("tidewaiter")

EVERY = 0.25
"""Seconds between two looks."""

_TABLE = "/proc/thread-self/net/packet"
_READ = 1 << 16


class Place(NamedTuple):
    """Where an open packet socket is: the number of its namespace, and the index of its interface, 0 for any."""

    namespace: int
    interface: int


def parse(table: bytes, number: int) -> dict[int, Place]:
    """The packet sockets of a namespace by inode, from its /proc/net/packet (packet_seq_show() in af_packet.c).

    A line that is none is left out.
    """
    found = {}
    for line in table.splitlines()[1:]:
        with suppress(ValueError, IndexError):
            fields = line.split()
            found[int(fields[8])] = Place(number, max(0, int(fields[4])))
    return found


class PacketSockets:
    """Looks after one installed firewall from `start` to `stop`. ``tell`` hears, in that thread, of each packet socket
    when it is found and when it has ended; ``number`` gives it an id.
    """

    def __init__(
        self, installed: Installed, number: Callable[[], int], tell: Callable[[PacketSocket], object]
    ) -> None:
        """Raises OSError."""
        self._number, self._tell = number, tell
        self._counted = installed.kernel.map("packet_sockets")
        self._owners = Owners(installed.kernel)
        self._group = Path(installed.state.cgroup)
        self._known: dict[int, PacketSocket | None] = {}  # None: not of a program in scope
        self._stop = threading.Event()
        self._namespaces = [Path(path) for path in installed.state.namespaces]
        with ExitStack() as stack:
            self._tables = []
            for number_of, where in enumerate(self._namespaces, start=1):
                with suppress(FileNotFoundError):  # this kernel has no packet sockets
                    table = namespace.run_inside(where, lambda: os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC))
                    stack.callback(os.close, table)
                    self._tables.append((number_of, table))
            self._closing = stack.pop_all()
        self._thread = threading.Thread(target=self._run, name="tidewaiter-packet-sockets", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks once more, and no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._closing.close()

    def look(self) -> None:
        """Looks once. Raises OSError."""
        counted = [int.from_bytes(key, "little") for key in self._counted.keys()]  # noqa: SIM118 - before the tables
        there: dict[int, Place] = {}
        for number, table in self._tables:
            there |= parse(_read(table), number)
        new = [inode for inode in (*counted, *there) if inode not in self._known]
        if new:
            self._meet(new, there)
        for inode in [inode for inode in self._known if inode not in there]:
            self._end(inode, self._known.pop(inode))
        for inode in counted:  # of one that moved nothing before
            if self._known.get(inode, UNKNOWN) is None:
                del self._known[inode]

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(EVERY)
            try:
                self.look()
            except Exception:
                log.exception("looking for packet sockets failed; it goes on")

    def _meet(self, new: list[int], there: dict[int, Place]) -> None:
        now = time.monotonic_ns()
        found = {inode: self._record(inode) for inode in new}
        owners = owners_of({inode for inode, record in found.items() if record is None})
        for inode, record in found.items():
            process = owners.get(inode, UNKNOWN) if record is None else self._owners.of(record)
            if record is None and not self._in_scope(process):
                self._known[inode] = None
                continue
            place = there.get(inode)
            if place is None:
                assert record is not None
                place = Place(record.namespace, _interface(record))
            opened = record.opened if record else now
            one = PacketSocket(self._number(), process, self._name(place), opened)
            self._known[inode] = one
            self._tell(one)

    def _end(self, inode: int, one: PacketSocket | None) -> None:
        record = self._record(inode)
        if record is not None:
            self._counted.delete(struct.pack("<Q", inode))
        if one is None:
            return
        sent, received = (record.sent, record.received) if record else (0, 0)
        self._tell(replace(one, ended=time.monotonic_ns(), sent=sent, received=received))

    def _record(self, inode: int) -> Record | None:
        data = self._counted.get(struct.pack("<Q", inode))
        return records.unpack(data) if data else None

    def _in_scope(self, process: Process) -> bool:
        if process is UNKNOWN:
            return False
        place = cgroup.root() / process.cgroup.lstrip("/")
        return self._group in (place, *place.parents)

    def _name(self, place: Place) -> str:
        if not place.interface:
            return ""
        where = self._namespaces[place.namespace - 1]
        try:
            return namespace.run_inside(where, lambda: socket.if_indextoname(place.interface))
        except OSError:  # it is gone
            return f"interface {place.interface}"


def _read(table: int) -> bytes:
    text = b""
    while part := os.pread(table, _READ, len(text)):
        text += part
    return text


def _interface(record: Record) -> int:
    return max(0, int.from_bytes(record.local[:4], "little", signed=True))
