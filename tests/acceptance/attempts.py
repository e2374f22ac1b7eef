"""A program that must reach nobody and never tires: ``attempts.py PORT ADDRESS...``.

Round after round it tries TCP and UDP, with new sockets and old ones, until its input ends. For each line of input
it answers with a JSON line: ``attempts`` so far, and ``successes``, what came of those that reached somebody.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time

_AT_ONCE = 32  # TCP attempts that wait together
_WAIT = 0.1  # seconds for what is neither refused nor answered
_PACE = 0.002  # seconds between two rounds: the attempts shall outlast the firewall's troubles

attempts = 0
successes: list[str] = []


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def streams(targets: list[tuple[str, int]]) -> None:
    """New TCP connections, several at once."""
    global attempts  # noqa: PLW0603
    trying = {}
    for number in range(_AT_ONCE):
        target = targets[number % len(targets)]
        made = socket.socket(_family(target[0]), socket.SOCK_STREAM)
        made.setblocking(False)
        attempts += 1
        try:
            made.connect(target)
        except BlockingIOError:
            trying[made] = target
        except OSError:
            made.close()
        else:
            successes.append(f"tcp {target}")
    deadline = time.monotonic() + _WAIT
    while trying and (left := deadline - time.monotonic()) > 0:
        for made in select.select([], list(trying), [], left)[1]:
            if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                successes.append(f"tcp {trying[made]}")
            del trying[made]
            made.close()
    for made in trying:
        made.close()


class Datagrams:
    """New and old sockets, connected ones and such without a peer."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._old = {"old": self._new(), "old connected": self._new()}

    def _new(self) -> socket.socket:
        return socket.socket(_family(self._target[0]), socket.SOCK_DGRAM)

    def _try(self, name: str, made: socket.socket) -> None:
        if not name.endswith("connected"):
            made.sendto(b"let me through", self._target)
            return
        try:
            made.getpeername()
        except OSError:
            made.connect(self._target)  # it never was, or that was refused
        made.send(b"let me through")

    def round(self) -> None:
        """Each of them once."""
        global attempts  # noqa: PLW0603
        new = {"new": self._new(), "new connected": self._new()}
        for name, made in (self._old | new).items():
            attempts += 1
            with contextlib.suppress(OSError):
                self._try(name, made)
            if select.select([made], [], [], 0)[0]:
                with contextlib.suppress(OSError):
                    made.recv(100)
                    successes.append(f"udp {name} {self._target}")
        for made in new.values():
            made.close()


def main() -> None:
    """Tries until there is no more input."""
    targets = [(address, int(sys.argv[1])) for address in sys.argv[2:]]
    datagrams = [Datagrams(target) for target in targets]
    while True:
        streams(targets)
        for one in datagrams:
            one.round()
        if select.select([sys.stdin], [], [], _PACE)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps({"attempts": attempts, "successes": successes[:10]}), flush=True)


if __name__ == "__main__":
    main()
