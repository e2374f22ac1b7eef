"""Connections on which something is said all the time, and which nothing may disturb."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from livelab import PATIENCE, Agent, Result
from tidewaiter.lab import plan

KNOWN, ASKED = 7, 80  # ports: of the echo, which answers what is said, and of the web server
Target = tuple[str, tuple[str, int]]
OPEN: list[Target] = [
    (do, (address, port))
    for address in plan.ECHO
    for do, port in (("tcp", KNOWN), ("udp", KNOWN), ("tcp", ASKED))
]
"""What is opened, and to where. Those to `KNOWN` are talked on."""


class Traffic:
    """Begins with being made, and goes on until `close`."""

    def __init__(self, agent: Agent, targets: list[Target]) -> None:
        self._agent = agent
        self.open: list[Result] = []
        self.asked: list[Result] = []
        self.rounds = 0
        self.errors: list[str] = []
        for do, target in targets:
            said = "hello" if target[1] == KNOWN else ""
            made = agent.do(do, target, say=said)
            assert made.error is None, (do, target, made.error)
            (self.open if said else self.asked).append(made)  # the web server answers other things
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        while not self._done.wait(0.01):
            for one in self.open:
                said = self._agent.do("say", of=one.id, say="more", times=20, timeout=PATIENCE / 2)
                if said.error is not None:
                    self.errors.append(f"{said.error} after {self.rounds} rounds")
            self.rounds += 1

    def close(self) -> None:
        self._done.set()
        self._thread.join(PATIENCE)

    def goes_on(self) -> None:
        """Nothing has been disturbed so far, nor is it now."""
        goal = self.rounds + 3
        done = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if self.rounds >= goal or self.errors:
                break
            done.wait(0.01)
        assert self.errors == []
        assert self.rounds >= goal


@contextmanager
def traffic_of(agent: Agent, targets: list[Target] = OPEN) -> Iterator[Traffic]:
    traffic = Traffic(agent, targets)
    try:
        yield traffic
    finally:
        traffic.close()
