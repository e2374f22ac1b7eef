"""What a hundred thousand connections take: the driver's cache, and what the host keeps beside it.

A real machine in a lab settles them, told as the kernel tells it: events of connections that the policy has decided,
then of those that were established. As on a desktop, most go out by TCP, each to another address; a seventh is UDP,
a twentieth came in; the programs are a few dozen.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from harness import rounds, save, show

from tidewaiter import Direction, Policy, Protocol, Scope, Verdict
from tidewaiter.driver.core import Driver
from tidewaiter.host import install
from tidewaiter.host.machine import Machine
from tidewaiter.kernel import records
from tidewaiter.kernel.objects import Mode
from tidewaiter.kernel.records import EventKind, Home
from tidewaiter.lab.world import World
from tidewaiter.model.key import PROTOCOL

CONNECTIONS = 100_000
PROGRAMS = 50
LIBC = ctypes.CDLL(None)
"""Its malloc_trim gives back what is free and still resident, wherever it lies."""

STEP = 1000


def connections() -> Iterator[bytes]:
    """struct tw_connection of each, ends and programs at random, always the same."""
    random = Random(7)
    for number in range(CONNECTIONS):
        name = number * 0x9E3779B1 & 0xFFFFFF  # odd: each another
        udp, incoming, six = random.random() < 0.15, random.random() < 0.05, random.random() < 0.3
        remote = (
            bytes([0x20, 1, 0xD, 0xB8]) + name.to_bytes(12, "big") if six else bytes([name >> 16 & 127 | 8])
        )
        fields = dict.fromkeys(records.CONNECTION.unpack(bytes(records.CONNECTION_SIZE)), 0)
        here, there = 32768 + random.randrange(28000), random.choice([443, 443, 443, 80, 53])
        program = random.randrange(PROGRAMS)
        yield records.CONNECTION.pack(
            fields
            | {
                "owner_pid": os.getpid(),
                "owner_image": program,
                "owner_uid": os.getuid(),
                "cookie": 0x10000 + number,
                "opened": 10**13 + number * 10**6,
                "rule": 0,
                "verdict": Verdict.PERMANENT_ACCEPT,
                "tier": 2,
                "direction": Direction.IN if incoming else Direction.OUT,
                "namespace": 1,
                "local": bytes([10, 77, 0, 2]).ljust(16, b"\0") if not six else bytes(15) + b"\1",
                "remote": remote if six else (remote + name.to_bytes(3, "big")).ljust(16, b"\0"),
                "family": 6 if six else 4,
                "protocol": Protocol.UDP if udp else Protocol.TCP,
                "local_port": there if incoming else here,
                "remote_port": here if incoming else there,
                "home": Home.SOCKET,
            }
        )


def event(kind: EventKind, time: int, data: bytes) -> bytes:
    """struct tw_event."""
    return time.to_bytes(8, "little") + bytes([kind]) + bytes(7) + data


def fill(machine: Machine) -> None:
    """Tells of them, a thousand at a time, as the ring would."""
    batch: list[bytes] = []
    for number, data in enumerate(connections(), 1):
        at = 10**13 + number * 10**6
        batch.append(event(EventKind.DECIDED, at, data))
        if data[records.FLOW][PROTOCOL] == Protocol.TCP:
            batch.append(event(EventKind.ESTABLISHED, at + 30_000_000, data))
        if number % STEP == 0 or number == CONNECTIONS:
            machine._backlog += batch  # the ring is not used, since its writer is the kernel
            machine.carry_out(machine.settle())
            machine.driver.events()
            batch = []


def resident() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def once(trace: bool) -> None:
    """Prints the MB of this process before and behind, or the largest users of them by line of code."""
    with World() as world:
        scope = Scope.of(world.cgroup, world.client_namespace)
        installed = install.install("memory", scope, Mode.OBSERVE, Policy(), fail_open=False, events=True)
        try:
            machine = Machine(installed, Driver(connections=CONNECTIONS), quiet=False)
            list(islice(connections(), STEP))  # what the load itself takes
            gc.collect()
            if trace:
                tracemalloc.start()
            before = resident()
            fill(machine)
            gc.collect()
            full = resident()
            LIBC.malloc_trim(0)
            trimmed = resident()
            assert len(machine.driver.flows()) == CONNECTIONS
            if trace:
                for line in tracemalloc.take_snapshot().statistics("lineno")[:15]:
                    print(f"{line.size / 1e6:8.2f} MB {line.count:8,} {line.traceback}")
            else:
                print(full - before, trimmed - before)
            machine.close()
        finally:
            install.remove(installed)


def main() -> None:
    """Each time in a process of its own."""
    taken: list[list[float]] = []
    for _ in range(rounds()):
        done = subprocess.run([sys.executable, __file__, "once"], capture_output=True, text=True, check=True)
        taken.append([float(number) for number in done.stdout.split()])
    resident_, used = (statistics.median(column) for column in zip(*taken, strict=True))
    rows = [(f"{CONNECTIONS:,}", f"{used:.1f}", f"{used * 1e6 / CONNECTIONS:.0f}", f"{resident_:.1f}")]
    show(
        "what is known of connections, over rest",
        ("connections", "MB in use", "bytes each", "MB resident"),
        rows,
    )
    save("memory", {"connections": CONNECTIONS, "megabytes": used, "megabytes resident": resident_})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["once"]:
            once(trace=False)
        case ["trace"]:
            once(trace=True)
        case _:
            main()
