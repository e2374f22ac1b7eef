"""The program behind a kernel record: from our cache, else from the kernel's map of processes, else from /proc."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from tidewaiter.host.processes import TICK, Processes
from tidewaiter.kernel import _native, records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Record
from tidewaiter.model.connection import Connection
from tidewaiter.model.process import UNKNOWN, Process

_KEPT = 4096


class Owners:
    """Finds the process of a connection, and keeps the last few thousand of them.

    A process is known by its pid, its start and its image, since after an exec it is another program; and by
    its user, group and control group, which it may change.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._map = kernel.map("processes")
        self._processes = Processes()
        self.known: OrderedDict[bytes, Process] = OrderedDict()
        """By `records.owner`."""

    def of(self, record: Record) -> Process:
        """The process as it was when the connection began; UNKNOWN if nobody knows."""
        if not record.pid:
            return UNKNOWN
        name = records.owner(record)
        process = self.known.get(name)
        if process is None:
            process = self.known[name] = self._find(record)
            if len(self.known) > _KEPT:
                self.known.popitem(last=False)
        return process

    def connection(self, flow: bytes, data: bytes, rules: tuple[str, ...]) -> Connection:
        """`records.connection` of struct tw_connection, with its process."""
        found = _native.connection(Connection, flow, data, self.known, rules)
        if found is None:  # nobody has asked for this process yet
            record = records.unpack(data)
            found = records.connection(flow, record, self.of(record), rules)
        return found

    def _find(self, record: Record) -> Process:
        data = self._map.get(struct.pack("<I", record.pid))
        fields = records.PROCESS.unpack(data) if data else None
        if fields is None or not _is_same(fields, record):
            return self._processes.of_pid(record.pid, record.started)
        return self._processes.of_record(fields, record.pid, record.uid, record.gid, record.cgroup)


def _is_same(fields: Mapping[str, Any], record: Record) -> bool:
    """As tw_is_same_process (policy.h): of a socket that was open before us, the owner is what /proc says."""
    if not record.image:
        return bool(0 <= fields["started"] - record.started < TICK)
    return (fields["started"], fields["image"]) == (record.started, record.image)
