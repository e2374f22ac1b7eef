"""What the acceptance tests share: the commands as a user starts them, and what there is of a firewall."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livelab import PATIENCE, eventually
from tidewaiter import Firewall
from tidewaiter.host import state
from tidewaiter.lab.world import World

COMMAND = (sys.executable, "-m", "tidewaiter")
PYTHON = os.path.realpath(sys.executable)
"""This interpreter by the path that the kernel knows."""
HEADER = "version = 1\n"
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command that has ended left: its status, the events on its output, and the rest of its output."""

    status: int
    events: list[Line]
    output: str
    errors: str


def run(*arguments: str | Path, stdin: str = "", columns: int = 80) -> Finished:
    """Runs ``tidewaiter`` with arguments to its end; lines of its output that are events are told apart."""
    environment = os.environ | {"COLUMNS": str(columns)}
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    events, rest = [], []
    for line in done.stdout.splitlines(keepends=True):
        if line.startswith('{"event": '):
            events.append(json.loads(line))
        else:
            rest.append(line)
    return Finished(done.returncode, events, "".join(rest), done.stderr)


def scope_options(world: World) -> list[str | Path]:
    """What keeps a ``tidewaiter run`` inside a world."""
    return ["--cgroup", world.cgroup, "--netns", world.client_namespace]


class Guard:
    """A ``tidewaiter run`` that guards a world, and everything that it prints."""

    def __init__(self, world: World, name: str, *options: str | Path) -> None:
        self.lines: list[Line] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--json", "--name", name, *scope_options(world), *options],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        eventually(
            lambda: bool(self.notices()) or self.process.poll() is not None, "the firewall stands", PATIENCE
        )
        if self.process.poll() is not None:
            self._end()
            raise AssertionError(f"`tidewaiter run` ended with {self.process.returncode}: {self.errors}")

    errors = ""

    def notices(self) -> list[str]:
        return [line["text"] for line in self.lines if line["event"] == "notice"]

    def about(self, **fields: Any) -> list[Line]:
        """The lines that have these values."""
        return [line for line in self.lines if fields.items() <= line.items()]

    def wait_for(self, seconds: float = 10, **fields: Any) -> Line:
        """The first line that has these values, when it has come."""
        eventually(lambda: bool(self.about(**fields)), f"a line with {fields}", seconds)
        return self.about(**fields)[0]

    def reload(self) -> str:
        """SIGHUP; the notice that answers it."""
        before = len(self.notices())
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(self.notices()) > before, "an answer to SIGHUP")
        return self.notices()[before]

    def kill(self) -> None:
        """As a crash: kill -9."""
        self.process.kill()
        self._end()

    def stop(self) -> None:
        """A normal stop, which must succeed."""
        self.process.terminate()
        self._end()
        assert self.process.returncode == 0, self.errors
        assert not [text for text in self.notices() if "not removed" in text]

    def end(self) -> None:
        """Whatever it did: it runs no longer."""
        if self.process.poll() is None:
            self.kill()

    def _end(self) -> None:
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._errors.seek(0)
        self.errors = self._errors.read()
        self._errors.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(json.loads(line))


@contextmanager
def guard(world: World, name: str, *options: str | Path) -> Iterator[Guard]:
    """A firewall by the command line; the test stops it, or it is killed at the end."""
    one = Guard(world, name, *options)
    try:
        yield one
    finally:
        one.end()


def queued(world: World) -> dict[int, int]:
    """How many packets each NFQUEUE of the client has been given: queue number -> ``id_sequence``.

    The columns of /proc/net/netfilter/nfnetlink_queue are those of seq_show() in the kernel's nfnetlink_queue.c.
    """
    table = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    rows = [line.split() for line in world.in_client(table.read_text).splitlines()]
    return {int(row[0]): int(row[7]) for row in rows}


def links() -> dict[int, Line]:
    """Every eBPF link of this machine, by its id."""
    listed = subprocess.run(["bpftool", "-j", "link", "list"], capture_output=True, text=True, check=True)
    return {link["id"]: link for link in json.loads(listed.stdout or "[]")}


def links_of(name: str) -> set[int]:
    """The ids of the links that a firewall has pinned."""
    found = set()
    for path in (state.PINS / name).glob("*/links/*"):
        shown = subprocess.run(
            ["bpftool", "-j", "link", "show", "pinned", path], capture_output=True, text=True, check=True
        )
        found.add(json.loads(shown.stdout)["id"])
    return found


def write(path: Path, *parts: str) -> Path:
    """A policy file, written whole: a firewall that looks at it meanwhile never sees half of it."""
    new = path.with_suffix(".new")
    new.write_text(HEADER + "\n".join(parts))
    return new.replace(path)


def rule(name: str, verdict: str, **dimensions: str | list[str]) -> str:
    """One rule of a policy file."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in dimensions.items()]
    return "\n".join(["[[rule]]", f"name = {json.dumps(name)}", *lines, f'verdict = "{verdict}"\n'])


def endpoint(address: str, port: int) -> str:
    """As events write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def split(endpoint: str) -> tuple[str, int]:
    """The inverse of `endpoint`."""
    address, _, port = endpoint.rpartition(":")
    return address.strip("[]"), int(port)


def until(true: Callable[[], bool], what: str) -> None:
    """`eventually`, with the patience of a busy machine."""
    eventually(true, what, PATIENCE)


def fill_makers(firewall: Firewall) -> Callable[[], None]:
    """Takes all the room that there is to note whose sockets are; what it returns gives it back."""
    assert firewall.engine._installed is not None
    makers = firewall.engine._installed.kernel.map("makers")
    assert makers.value is not None
    taken = [((1 << 62) + number).to_bytes(8, "little") for number in range(16384)]
    there = sum(1 for _ in makers.keys())  # noqa: SIM118
    for cookie in taken[: 16384 - there]:
        makers.put(cookie, bytes(makers.value.size))

    def give_back() -> None:
        for cookie in taken:
            makers.delete(cookie)

    return give_back
