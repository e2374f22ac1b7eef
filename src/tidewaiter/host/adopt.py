"""Sockets that were open before us: adopted with their owners, and accepted, since nobody was asked in time.

Each connection gets its verdict under its socket's cookie, where the gate finds it with its next packet; each
listening socket its owner. Found through sock_diag and one scan of /proc, once, before and after attaching.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

from tidewaiter.host import cgroup
from tidewaiter.host.diag import OpenSocket, State, open_sockets
from tidewaiter.host.processes import owners_of
from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Flag, Home
from tidewaiter.kernel.totals import Totals
from tidewaiter.model.key import Direction
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict

_U32 = 0xFFFFFFFF
_HANDSHAKE = frozenset({State.SYN_RECV, State.NEW_SYN_RECV})
_LISTENER_KEY = struct.Struct("<IHBB16s")


def adopt_open_sockets(
    kernel: Kernel,
    group: Path,
    namespace: Path,
    number: int,
    epoch: int,
    accepted: frozenset[int] | None = None,
) -> int:
    """Adopts what programs of a control group have open in a guarded namespace; returns how many sockets.

    ``accepted`` are the cookies that a firewall before this one had accepted: what it had not is decided
    again, with its next packet. Raises OSError.
    """
    found = _in_use(namespace)
    known = _known(kernel)  # read after the list: a verdict that the kernel half gave meanwhile stays
    owners = owners_of({item.inode for item in found if item.inode})
    listeners, pending = kernel.map("listeners"), kernel.map("pending")
    listening = {(item.protocol, item.local_port) for item in found if item.listening}
    now = time.monotonic_ns()
    for item in found:
        owner = owners.get(item.inode, UNKNOWN)
        if owner is not UNKNOWN and not _below(owner.cgroup, group):
            continue
        place = _LISTENER_KEY.pack(
            number, item.local_port, item.protocol, item.local.version, records.address_bytes(item.local)
        )
        if item.listening and listeners.get(place) is None:
            listeners.put(place, _owner(owner) + struct.pack("<Q", item.cookie))
        elif item.connected and item.cookie not in known:
            incoming = (item.protocol, item.local_port) in listening
            settled = accepted is None or item.cookie in accepted
            since = epoch if settled else epoch - 1 & _U32  # a verdict of another policy is no verdict
            pending.put(
                struct.pack("<Q", item.cookie), _connection(item, owner, incoming, number, since, now)
            )
    return len(found)


def forget_closed_sockets(kernel: Kernel, namespace: Path, number: int) -> None:
    """Forgets what was adopted and closed before the programs were attached, which would have told of it."""
    pending = kernel.map("pending")
    adopted = [
        (key, record)
        for key, data in pending.items()
        if (record := records.unpack(data)).flags & Flag.ADOPTED and record.namespace == number
    ]
    there = {item.cookie for item in _in_use(namespace)}  # read after the map
    for key, record in adopted:
        if record.cookie not in there:
            pending.delete(key)


def _in_use(namespace: Path) -> list[OpenSocket]:
    """Without an inode a socket is the kernel's alone, and nobody would say when it ends; but a handshake goes on."""
    return [
        item for item in open_sockets(namespace) if item.cookie and (item.inode or item.state in _HANDSHAKE)
    ]


def _below(inner: str, group: Path) -> bool:
    place = cgroup.root() / inner.lstrip("/")
    return group in (place, *place.parents)


def _known(kernel: Kernel) -> set[int]:
    """The cookies of connected sockets that the kernel half has met already."""
    totals = Totals(kernel)
    try:
        met = {int.from_bytes(data[records.COOKIE], "little") for data in totals.read()}
    finally:
        totals.close()
    return met | {int.from_bytes(key, "little") for key in kernel.map("pending").keys()}  # noqa: SIM118


def _owner(owner: Process) -> bytes:
    return struct.pack(
        "<QQIIIIII", owner.started, owner.cgroup_id, owner.pid, owner.uid & _U32, owner.gid & _U32, 0, 0, 0
    )


def _connection(item: OpenSocket, owner: Process, incoming: bool, number: int, epoch: int, now: int) -> bytes:
    return records.CONNECTION.pack(
        {
            "owner_started": owner.started,
            "owner_cgroup": owner.cgroup_id,
            "owner_pid": owner.pid,
            "owner_uid": owner.uid & _U32,
            "owner_gid": owner.gid & _U32,
            "cookie": item.cookie,
            "opened": now,
            "established": now,
            "epoch": epoch,
            "rule": records.NO_RULE,
            "namespace": number,
            "verdict": Verdict.PERMANENT_ACCEPT,
            "tier": 1,
            "direction": Direction.IN if incoming else Direction.OUT,
            "flags": Flag.CONNECTED | Flag.ADOPTED | Flag.REPORTED,
            "local": records.address_bytes(item.local),
            "remote": records.address_bytes(item.remote),
            "family": item.local.version,
            "protocol": item.protocol,
            "local_port": item.local_port,
            "remote_port": item.remote_port,
            "home": Home.SOCKET,
        }
    )
