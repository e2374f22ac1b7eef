"""The device: how long a program waits for its connection when the owner is in another process, beside `decide` in this
one; and what a hundred thousand cached connections take.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from harness import PORT, SERVER, medians, numbers, percentile, ratio, rounds, save, server, show, world

from tidewaiter import Connection, Direction, Firewall, Process, Protocol, Scope, Verdict
from tidewaiter.driver.core import Driver
from tidewaiter.lab.world import World
from tidewaiter.model.key import ConnectionKey
from tidewaiter.protocol.command import VerdictCommand, encode
from tidewaiter.protocol.info import ConnectionInfo
from tidewaiter.protocol.stream import InfoDecoder
from tidewaiter.service.device import DeviceServer
from tidewaiter.service.engine import Settings

CONNECTS = 1500
CONNECTIONS = 100_000


def accept(_: Connection) -> Verdict:
    """The decision, such as it is."""
    return Verdict.PERMANENT_ACCEPT


@contextmanager
def in_process(made: World) -> Iterator[None]:
    """A function of this process answers."""
    with Firewall(decide=accept, scope=Scope.of(made.cgroup, made.client_namespace), name="bench"):
        yield


@contextmanager
def by_device(made: World) -> Iterator[None]:
    """An owner in a process of its own answers, over the wire."""
    path = Path(f"/tmp/tidewaiter-bench-{os.getpid()}")
    device = DeviceServer(path, Settings(name="bench", scope=Scope.of(made.cgroup, made.client_namespace)))
    device.start()
    owner = subprocess.Popen([sys.executable, __file__, "owner", path], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        yield
    finally:
        owner.kill()
        owner.wait()
        device.stop()


def own(path: str) -> None:
    """Accepts everything that it is asked about."""
    decoder = InfoDecoder()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as device:
        device.connect(path)
        print("ready", flush=True)
        while data := device.recv(1 << 16):
            answers = [
                encode(VerdictCommand(info.id, Verdict.PERMANENT_ACCEPT))
                for info in decoder.feed(data)
                if isinstance(info, ConnectionInfo)
            ]
            device.sendall(b"".join(answers))


def memory() -> dict[str, float]:
    """MB that the driver's caches take for so many connections, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "memory"], capture_output=True, text=True, check=True)
    rest, full = map(float, done.stdout.split())
    return {"rest": rest, "full": full}


def fill() -> None:
    """Prints how much memory this process takes, in MB, without and with the connections."""

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    driver, curl = Driver(connections=CONNECTIONS), Process(4242, path="/usr/bin/curl")
    here = ip_address("192.0.2.1")
    before = resident()
    for number in range(CONNECTIONS):
        there = ip_address(0x0A000000 + number)
        key = ConnectionKey(Protocol.TCP, here, 1024 + number % 60000, there, 443, 1)
        connection = Connection(
            0, key, Direction.OUT, curl, Verdict.PERMANENT_ACCEPT, opened=number, cookie=number
        )
        driver.decided(number.to_bytes(42, "little"), connection, number)
        driver.events()
    print(before, resident())


def main() -> None:
    """Two ways in turn, then memory."""
    ways = {"decide, in process": in_process, "owner, by device": by_device}
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    with world() as (made, load), server(made, load, "accept"):
        for number in range(rounds()):
            for name in ways if number % 2 == 0 else list(reversed(ways)):
                print(f"\rround {number + 1} of {rounds()}: {name:<20}", end="", file=sys.stderr, flush=True)
                with ways[name](made):
                    _, *waits = numbers(made, load, "connect", SERVER, PORT, CONNECTS)
                for figure, share in (("p50", 0.5), ("p99", 0.99)):
                    figures[name].setdefault(figure, []).append(percentile(waits, share) / 1000)
    print(file=sys.stderr)
    middle, (direct, remote) = medians(figures), ways
    rows: list[tuple[str, ...]] = [
        (name, f"{middle[name]['p50']:.0f}", f"{middle[name]['p99']:.0f}") for name in ways
    ]
    ratios = {figure: ratio(figures, figure, remote, direct) for figure in ("p50", "p99")}
    rows.append(("ratio", *(f"{ratios[figure]:.2f}" for figure in ("p50", "p99"))))
    show("connect() with a question, microseconds", ("who answers", "p50", "p99"), rows)
    used = memory()
    taken = used["full"] - used["rest"]
    show(
        "the driver's caches",
        ("connections", "MB over rest"),
        [(f"{CONNECTIONS:,}", f"{taken:.1f}")],
    )
    save("device", {"microseconds": middle, "ratio": ratios, "connections": CONNECTIONS, "megabytes": taken})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["owner", path]:
            own(path)
        case ["memory"]:
            fill()
        case _:
            main()
