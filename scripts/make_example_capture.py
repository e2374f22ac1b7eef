"""Makes examples/capture.pcap and examples/capture.programs.json again. Needs root, tcpdump, dig, nc and ssh.

Real programs talk to the real servers of the lab, one after the other, while tcpdump listens in the same
network namespace. A connection belongs to the program that ran when its first packet was captured.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidewaiter.driver.core import Asked
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.key import protocol_name
from tidewaiter.policy.document import Policy
from tidewaiter.replay.capture import Capture
from tidewaiter.replay.player import play
from tidewaiter.replay.programs import programs_file

EXAMPLE = Path(__file__).parent.parent / "examples" / "capture.pcap"
LARGEST = 60_000
ECHO = """
import socket
for family, address in ((socket.AF_INET, "{v4}"), (socket.AF_INET6, "{v6}")):
    with socket.socket(family, socket.SOCK_DGRAM) as echo:
        echo.connect((address, 7))
        for number in range(3):
            echo.send(b"datagram %d" % number)
            echo.recv(100)
"""
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("/usr/bin/dig", "+short", "web.lab"),
    ("/usr/bin/dig", "+short", f"@{plan.DNS.v6}", "tls.lab", "AAAA"),
    ("/usr/bin/curl", "-sS", "-4", "http://web.lab/"),
    ("/usr/bin/curl", "-sS", "-6", "http://web.lab/bytes/12000"),
    ("/usr/bin/curl", "-sS", "https://tls.lab/"),
    ("/usr/bin/python3", "-c", ECHO.format(v4=plan.ECHO.v4, v6=plan.ECHO.v6)),
    ("/usr/bin/nc", "-N", "echo.lab", "7"),
    ("/usr/bin/ssh", "-F", "none", "web.lab"),  # nobody listens there: it is refused
)


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has run, from and to when (nanoseconds since 1970)."""

    argv: tuple[str, ...]
    pid: int
    begin: int
    end: int

    def describe(self) -> dict[str, Any]:
        """The command as the file of programs has it."""
        words = [word if "\n" not in word else "..." for word in self.argv]
        path = os.path.realpath(self.argv[0])
        return {"program": path, "pid": self.pid, "user": "root", "uid": 0, "arguments": words}


def run(world: World, argv: tuple[str, ...]) -> Ran:
    """Run a command in the lab's client to its end."""
    begin = time.time_ns()
    command = world.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command.communicate(b"over the counter and back\n", timeout=20)
    time.sleep(0.1)  # what is still on its way is this command's
    return Ran(argv, command.pid, begin, time.time_ns())


@contextmanager
def capturing(world: World, path: Path) -> Iterator[None]:
    """Capture everything on the client's end of the cable."""
    argv = ["tcpdump", "-U", "--immediate-mode", "-Z", "root", "-i", plan.LINK, "-w", str(path)]
    tcpdump = world.popen(argv, stderr=subprocess.PIPE)
    assert tcpdump.stderr is not None
    with tcpdump.stderr as messages:
        while b"listening on" not in messages.readline():
            if tcpdump.poll() is not None:
                raise SystemExit("tcpdump does not run: see that it is installed, and that you are root")
        yield
        tcpdump.send_signal(signal.SIGINT)
        tcpdump.wait(timeout=10)


def programs(path: Path, ran: list[Ran]) -> dict[str, dict[str, Any]]:
    """Who began the connections of a capture, by local port and protocol."""
    found = {}
    with path.open("rb") as file:
        for event in play(Capture(file), Policy()):
            if isinstance(event, Asked):
                connection = event.connection
                port = f"{connection.key.local_port}/{protocol_name(connection.key.protocol)}"
                owner = next(one for one in ran if one.begin <= connection.opened <= one.end)
                found[port] = owner.describe()
    return found


def main() -> None:
    """Make both files."""
    for program in sorted({argv[0] for argv in COMMANDS}):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing: install it (./dev test does)")
    with World() as world, capturing(world, EXAMPLE):
        ran = [run(world, argv) for argv in COMMANDS]
    size = EXAMPLE.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"the capture has {size} bytes: let the commands fetch less, {LARGEST} are the most")
    EXAMPLE.chmod(0o644)
    found = programs(EXAMPLE, ran)
    programs_file(EXAMPLE).write_text(json.dumps(found, indent=2) + "\n")
    print(f"{EXAMPLE.name}: {size} bytes, {len(found)} connections")


if __name__ == "__main__":
    main()
