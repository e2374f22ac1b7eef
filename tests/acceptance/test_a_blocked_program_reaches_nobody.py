"""Ten thousand attempts of a blocked program, through crashes and policy reloads: zero packets at the peer."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from acceptance.harness import PYTHON, Guard, queued, rule, until, write
from livelab import PATIENCE, Capture, eventually, left_of
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

ATTEMPTS = 10_000
_BETWEEN = 300  # attempts between two troubles
_TROUBLES = 4  # of each kind
_PORT = 7  # where a server would answer
_DEFAULT_BLOCK = '[default]\nout = "block"\n'


class Blocked:
    """attempts.py in the client, asked from here how far it is."""

    def __init__(self, world: World) -> None:
        script = Path(__file__).with_name("attempts.py")
        self._process = world.popen(
            [sys.executable, script, str(_PORT), *plan.ECHO],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def report(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    @property
    def attempts(self) -> int:
        return int(self.report()["attempts"])

    def go_on(self, count: int = _BETWEEN) -> None:
        """Waits for that many attempts more."""
        goal = self.attempts + count
        until(lambda: self.attempts >= goal, f"{count} more attempts")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(PATIENCE) == 0


class Peer:
    """Counts what arrives for the port, without end."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._lock = threading.Lock()
        self.arrived: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def look(self) -> list[str]:
        with self._lock:
            self.arrived += [str(packet) for packet in self._capture.to_port(_PORT)]
        return self.arrived

    def close(self) -> None:
        self._done.set()
        self._thread.join(PATIENCE)

    def _watch(self) -> None:
        while not self._done.wait(0.01):  # before the capture's buffer is full
            self.look()


@contextmanager
def _blocked(world: World) -> Iterator[Blocked]:
    program = Blocked(world)
    try:
        yield program
    finally:
        program.close()


@contextmanager
def _peer(capture: Capture) -> Iterator[Peer]:
    peer = Peer(capture)
    try:
        yield peer
    finally:
        peer.close()


def _through_troubles(
    world: World, name: str, capture: Capture, policies: list[Callable[[], Path]], fails: list[str]
) -> None:
    """Crash, restart, reload by signal, reload by itself: each several times, while the program tries."""
    options: list[str | Path] = ["--policy", policies[0](), "--quiet"]
    options += ["--timeout", "0.02", "--on-timeout", "block"]
    firewall = Guard(world, name, *options, "--fail", fails[0])
    try:
        with _peer(capture) as peer, _blocked(world) as program:
            for number in range(_TROUBLES):
                program.go_on()
                firewall.kill()
                program.go_on()
                assert peer.look() == [], f"after crash {number}"
                firewall = Guard(world, name, *options, "--fail", fails[(number + 1) % len(fails)])
                program.go_on()
                assert peer.look() == [], f"after restart {number}"
                policies[(2 * number + 1) % len(policies)]()
                assert "is in force" in firewall.reload()
                program.go_on()
                assert peer.look() == [], f"after reload {number}"
                seen = len(firewall.notices())
                policies[(2 * number + 2) % len(policies)]()
                eventually(lambda: len(firewall.notices()) > seen, "the file is read again")  # noqa: B023
                program.go_on()
                assert peer.look() == [], f"after change {number}"
            until(lambda: program.attempts >= ATTEMPTS, f"{ATTEMPTS} attempts")
            report = program.report()
            assert report["successes"] == []
            assert peer.look() == []
            # the peer could have seen something, and the program could have succeeded
            firewall.stop()
            program.go_on()
            assert program.report()["successes"] != []
            assert peer.look() != []
    finally:
        firewall.end()
    assert left_of(world, name) == []


def _policies(path: Path, *texts: str) -> list[Callable[[], Path]]:
    return [lambda text=text: write(path, text) for text in texts]  # type: ignore[misc]


OTHERS = rule("others", "accept", port="80")
BY_KERNEL = {
    "by what it wants": [
        rule("by port", "block", port="7"),
        _DEFAULT_BLOCK + OTHERS,
        OTHERS + rule("by port again", "drop", port=["7/udp", "7/tcp"]),
        rule("by address", "block", remote=[*plan.ECHO]),
        rule("by address and port", "drop", remote=[*plan.ECHO], port="1-79"),
    ],
    "by who it is": [
        rule("by port", "block", port="7"),
        OTHERS + rule("by program", "drop", program=PYTHON),
        rule("by user", "block", user="root"),
        rule("by program and port", "block", program=["/usr/bin/curl", PYTHON], port="7"),
    ],
}


@pytest.mark.parametrize("kind", BY_KERNEL)
def test_by_the_kernel(world: World, name: str, capture: Capture, tmp_path: Path, kind: str) -> None:
    """The verdict is the policy's; the next firewall is now one that takes over, now one that replaces."""
    policies = _policies(tmp_path / "policy.toml", *BY_KERNEL[kind])
    _through_troubles(world, name, capture, policies, ["closed", "closed", "open"])


def test_by_python(world: World, name: str, capture: Capture, tmp_path: Path) -> None:
    """The verdict is given in user space: while nobody is there to give it, undecided ones wait in vain."""
    path = tmp_path / "policy.toml"
    policies = _policies(
        path,
        rule("ask me", "ask", port="7"),
        '[default]\nout = "ask"\n',
        rule("others", "accept", port="80") + rule("by address", "ask", remote=[*plan.ECHO]),
    )
    _through_troubles(world, name, capture, policies, ["closed"])


def test_what_was_on_its_way_when_the_firewall_died(
    world: World, name: str, capture: Capture, tmp_path: Path
) -> None:
    """Programs that wait for an answer when the firewall is killed do not get through behind its back."""
    policy = write(tmp_path / "policy.toml", rule("ask me", "ask", port="7"))
    firewall = Guard(world, name, "--policy", policy, "--timeout", "60")
    try:
        script = "import socket,sys; s=socket.socket(); s.settimeout(6); s.connect((sys.argv[1], 7))"
        programs = [
            world.popen([sys.executable, "-c", script, plan.ECHO.v4], stderr=subprocess.DEVNULL)
            for _ in range(5)
        ]
        until(lambda: len(firewall.about(event="connection")) == len(programs), "all of them wait")
        assert sum(queued(world).values()) >= len(programs)
        firewall.kill()
        time.sleep(1.5)  # TCP sends its SYN again after a second
        assert capture.to_port(_PORT) == []
        # another --fail: the next firewall is a new one, which finds these sockets open
        firewall = Guard(world, name, "--policy", policy, "--timeout", "60", "--fail", "open")
        assert all(program.wait(PATIENCE) != 0 for program in programs)
        assert capture.to_port(_PORT) == []
        firewall.stop()
    finally:
        firewall.end()
