"""What live tests share: a lab, an obedient program in it, a capture at its peer, and a place for pins."""

from __future__ import annotations

import itertools
import json
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidewaiter.host import state
from tidewaiter.host.scope import Scope
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.objects import Mode
from tidewaiter.lab.world import World
from tidewaiter.model.packet import MalformedPacket, Packet, parse_packet

AGENT = Path(__file__).with_name("labagent.py")
PATIENCE = 20
"""Seconds after which a test has failed; nothing that works takes as long."""
HOLDS = 6
"""Rules that send packets to the queue: in OUTPUT, INPUT and FORWARD, for both families."""
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an order: the exception's name or None, what was heard, our port, how long it took."""

    id: int
    error: str | None
    heard: str
    port: int
    seconds: float
    results: list[tuple[str | None, float]] | None = None


class Agent:
    """The process of labagent.py in a world's control group. Orders from any thread, answers as futures."""

    def __init__(self, world: World, *prefix: str) -> None:
        self._process = world.popen(
            [*prefix, sys.executable, AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid: int = self._process.pid
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Result]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, do: str, to: tuple[str, int] | None = None, **options: Any) -> Future[Result]:
        number = next(self._numbers)
        future = self._waiting[number] = Future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": do, "to": to, **options}) + "\n")
        self._process.stdin.flush()
        return future

    def do(self, do: str, to: tuple[str, int] | None = None, **options: Any) -> Result:
        return self.start(do, to, **options).result(PATIENCE)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                answer = Result(**json.loads(line))
                self._waiting.pop(answer.id).set_result(answer)


@contextmanager
def agent_in(world: World, *prefix: str) -> Iterator[Agent]:
    """An agent; ``prefix`` is a command that runs it (setpriv, say)."""
    agent = Agent(world, *prefix)
    try:
        yield agent
    finally:
        agent.close()


class Capture:
    """Every IP packet that comes in at the server's end of the cable, from now on."""

    def __init__(self, world: World) -> None:
        kind = socket.SOCK_DGRAM  # without the Ethernet header
        self._socket = world.in_server(
            lambda: socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        )
        self._socket.setblocking(False)

    def packets(self) -> list[Packet]:
        """What has come in since the last call."""
        found: list[Packet] = []
        while True:
            try:
                data, (_, _, direction, *_) = self._socket.recvfrom(65536)
            except BlockingIOError:
                return found
            if direction == _PACKET_OUTGOING:
                continue
            try:
                found.append(parse_packet(data))
            except MalformedPacket:
                continue  # ARP

    def to_port(self, port: int) -> list[Packet]:
        """Those of `packets` that are for a port."""
        return [packet for packet in self.packets() if packet.destination_port == port]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def capture_at(world: World) -> Iterator[Capture]:
    capture = Capture(world)
    try:
        yield capture
    finally:
        capture.close()


def eventually(true: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Waits until something is so; fails with ``what`` when it does not become so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {what}"
        time.sleep(0.005)


def scope_of(world: World) -> Scope:
    return Scope.of(world.cgroup, world.client_namespace)


def register(world: World, name: str) -> str:
    """A name for a firewall whose remains go with the world, whatever happens."""
    world.also_remove(state.PINS / name)
    world.also_remove(state.RUN / f"{name}.json")
    return name


def new_name(world: World) -> str:
    """A name for one more firewall in a world."""
    return register(world, f"{world.name}-{secrets.token_hex(2)}")


def left_of(world: World, name: str) -> list[str]:
    """What there still is of a firewall: pins, state, links at the cgroup, rules in the namespace."""
    left = [str(path) for path in (state.PINS / name, state.RUN / f"{name}.json") if path.exists()]
    attached = subprocess.run(
        ["bpftool", "cgroup", "show", world.cgroup], capture_output=True, text=True, check=True
    )
    left += [line for line in attached.stdout.splitlines() if "tw_" in line]
    return left + rules_in(world.client_namespace)


def holds_in(namespace: Path) -> list[str]:
    """The rules of netfilter in a namespace that send packets to a queue."""
    return [line for line in rules_in(namespace) if "queue" in line.lower()]


def rules_in(namespace: Path) -> list[str]:
    """Every rule and chain of ours in a namespace, of both back ends of netfilter, a line each."""
    commands = (["nft", "list", "ruleset"], ["iptables-legacy-save"], ["ip6tables-legacy-save"])
    enter = ["nsenter", f"--net={namespace}"]
    outputs = [
        subprocess.run([*enter, *command], capture_output=True, text=True, check=True).stdout
        for command in commands
    ]
    lines = [line.strip() for output in outputs for line in output.splitlines()]
    return [line for line in lines if "queue" in line.lower() or "tidewaiter" in line.lower()]


@contextmanager
def loaded(mode: Mode = Mode.ENFORCE) -> Iterator[Kernel]:
    """The kernel half, loaded below pins of its own and attached nowhere."""
    pins = new_pins()
    try:
        kernel = Kernel.load(pins, mode)
        try:
            yield kernel
        finally:
            kernel.remove()
    finally:
        shutil.rmtree(pins, ignore_errors=True)


def new_pins() -> Path:
    """A pin directory that is not there yet."""
    return state.PINS / f"test-{secrets.token_hex(4)}"


PROGRAM_OF_OTHERS = "stranger"
"""The name of the eBPF program that `attach_foreign` attaches."""


def compile_bpf(output: Path, program: str, includes: Path | None = None) -> None:
    """An eBPF object of one program; ``includes`` is a folder with headers of its own."""
    source = output.with_suffix(".c")
    common = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
    source.write_text(f'{common}{program}\nchar LICENSE[] SEC("license") = "GPL";\n')
    asm = f"/usr/include/{platform.machine()}-linux-gnu"
    own = ["-I", str(includes)] if includes else []
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", *own, "-idirafter", asm, "-c", source, "-o", output],
        check=True,
    )


@contextmanager
def attach_foreign(group: Path, folder: Path, *flags: str) -> Iterator[None]:
    """Somebody else's program at connect(2) of a control group; without the flag ``multi`` it excludes us."""
    built = folder / f"{PROGRAM_OF_OTHERS}.o"
    compile_bpf(built, f'SEC("cgroup/connect4") int {PROGRAM_OF_OTHERS}(void *ctx) {{ return 1; }}')
    pin = new_pins()
    pin.parent.mkdir(exist_ok=True)
    program = ["cgroup_inet4_connect", "pinned", str(pin)]
    subprocess.run(["bpftool", "prog", "load", built, pin], check=True)
    try:
        subprocess.run(["bpftool", "cgroup", "attach", group, *program, *flags], check=True)
        try:
            yield
        finally:
            subprocess.run(["bpftool", "cgroup", "detach", group, *program], check=True)
    finally:
        pin.unlink()
