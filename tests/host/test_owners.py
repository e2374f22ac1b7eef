"""host/owners.py: the kernel's record first, then /proc, and each process is looked up once."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from typing import Any, cast

import pytest

from tidewaiter.host import owners as module
from tidewaiter.host.owners import Owners
from tidewaiter.host.processes import TICK, read_process
from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Record
from tidewaiter.model.process import UNKNOWN, Process

GONE = 2**22 + 1  # above every pid (PID_MAX_LIMIT)
EMPTY = Record._make((0,) * len(Record._fields))


class Processes:
    """Stands for the map ``processes`` of the kernel half, and counts what it is asked."""

    def __init__(self) -> None:
        self.there: dict[int, bytes] = {}
        self.asked: list[int] = []

    def map(self, name: str) -> Processes:
        assert name == "processes"
        return self

    def get(self, key: bytes) -> bytes | None:
        (pid,) = struct.unpack("<I", key)
        self.asked.append(pid)
        return self.there.get(pid)

    def put(self, pid: int, path: str, **fields: Any) -> None:
        name = path.encode()
        size = len(records.PROCESS.unpack(bytes(records.PROCESS.size))["path"])
        fields |= {"path": name.rjust(size, b"\0"), "path_start": size - len(name)}
        fields |= {"arguments": b"one\0two\0", "arguments_length": 8}
        self.there[pid] = records.PROCESS.pack(fields)


@pytest.fixture
def kernel() -> Processes:
    return Processes()


@pytest.fixture
def owners(kernel: Processes) -> Owners:
    return Owners(cast("Kernel", kernel))


def record(pid: int, started: int = 5, image: int = 1) -> Record:
    return EMPTY._replace(pid=pid, started=started, image=image)


def test_without_a_pid_nobody_knows(owners: Owners, kernel: Processes) -> None:
    assert owners.of(EMPTY) is UNKNOWN
    assert kernel.asked == []


@pytest.mark.parametrize("later", [0, 1, TICK - 1, TICK, -1])
def test_who_had_a_socket_before_us_is_known_by_the_tick(
    owners: Owners, kernel: Processes, later: int
) -> None:
    """/proc says neither the nanosecond nor the image."""
    began = 5 * TICK
    kernel.put(GONE, "/usr/bin/true", started=began + later, image=7)
    found = owners.of(record(GONE, began, image=0))
    assert found.path == ("/usr/bin/true" if 0 <= later < TICK else "")


def test_the_kernels_record(owners: Owners, kernel: Processes) -> None:
    kernel.put(GONE, "/usr/bin/true", started=5, image=1, inode=9, parents=(7, 1) + (0,) * 6)
    found = owners.of(record(GONE))
    assert (found.pid, found.path, found.arguments) == (GONE, "/usr/bin/true", ("one", "two"))
    assert (found.uid, found.user, found.started, found.inode) == (0, "root", 5, 9)
    assert found.parents == (7, 1)


def test_a_process_is_looked_up_once(owners: Owners, kernel: Processes) -> None:
    kernel.put(GONE, "/usr/bin/true", started=5, image=1)
    first = owners.of(record(GONE))
    kernel.there.clear()  # it has ended
    assert owners.of(record(GONE)) is first
    assert kernel.asked == [GONE]


def test_after_an_exec_it_is_another_program(owners: Owners, kernel: Processes) -> None:
    kernel.put(GONE, "/bin/sh", started=5, image=1)
    shell = owners.of(record(GONE))
    kernel.put(GONE, "/usr/bin/curl", started=5, image=2)
    assert owners.of(record(GONE, image=2)).path == "/usr/bin/curl"
    assert owners.of(record(GONE, image=1)) is shell


@pytest.mark.parametrize("others", [{"started": 6, "image": 1}, {"started": 5, "image": 2}])
def test_a_record_of_another_process_is_not_taken(
    owners: Owners, kernel: Processes, others: dict[str, int]
) -> None:
    kernel.put(GONE, "/usr/bin/other", **others)
    assert owners.of(record(GONE)) == Process(pid=GONE, started=5)


def test_without_a_record_proc_is_asked(owners: Owners) -> None:
    us = read_process(os.getpid())
    assert us is not None
    found = owners.of(record(us.pid, us.started + 1))  # the kernel half knows it to the nanosecond
    assert replace(found, parents=()) == replace(us, parents=())


def test_a_connection_has_its_process_known_before_or_not(owners: Owners, kernel: Processes) -> None:
    kernel.put(GONE, "/usr/bin/true", started=5, image=1)
    fields = {"owner_pid": GONE, "owner_started": 5, "owner_image": 1, "protocol": 6, "rule": 1, "cookie": 9}
    data = records.CONNECTION.pack(fields | {"family": 4, "namespace": 1})
    first, second = (owners.connection(data[records.FLOW], data, ("a", "b")) for _ in range(2))
    assert (
        first
        == second
        == records.connection(data[records.FLOW], records.unpack(data), first.process, ("a", "b"))
    )
    assert first.process is second.process
    assert (first.process.path, first.rule, first.cookie) == ("/usr/bin/true", "b", 9)
    assert kernel.asked == [GONE]
    nobody = bytes(records.CONNECTION_SIZE)
    assert owners.connection(nobody[records.FLOW], nobody, ()).process is UNKNOWN


def test_the_cache_is_bounded(owners: Owners, monkeypatch: pytest.MonkeyPatch, kernel: Processes) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    for pid in range(GONE, GONE + 4):
        owners.of(record(pid))
    kernel.asked.clear()
    for pid in range(GONE + 1, GONE + 4):
        owners.of(record(pid))
    assert kernel.asked == []
    owners.of(record(GONE))
    assert kernel.asked == [GONE]
