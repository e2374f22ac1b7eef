"""The device: how long a program waits for its connection when the owner is in another process, beside `decide` in this
one.

Each connect() is held, its owner is told, the verdict comes back, and the packet is released: by one way and the other
in turn, several rounds; the ratios are medians of those of the rounds.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import PORT, SERVER, medians, numbers, percentile, ratio, rounds, save, server, show, world

from tidewaiter import Connection, Firewall, Scope, Verdict
from tidewaiter.lab.world import World
from tidewaiter.protocol.command import VerdictCommand, encode
from tidewaiter.protocol.info import ConnectionInfo
from tidewaiter.protocol.stream import InfoDecoder
from tidewaiter.service.device import DeviceServer
from tidewaiter.service.settings import Settings

CONNECTS = 1500


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


def main() -> None:
    """Two ways in turn."""
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
    save("device", {"microseconds": middle, "ratio": ratios})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["owner", path]:
            own(path)
        case _:
            main()
