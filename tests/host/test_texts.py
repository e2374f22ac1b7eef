"""What programs and resolvers say to each other, copied in the kernel."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host.test_machine import machine_in
from livelab import PATIENCE, eventually
from tidewaiter.host.owners import Owners
from tidewaiter.host.texts import Texts
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.key import Protocol
from tidewaiter.names.talk import Text
from tidewaiter.policy import Policy

pytestmark = pytest.mark.live

PLACES = pytest.mark.parametrize("place", [("10.77.0.53", 53), ("fd77::53", 53)], ids=["v4", "v6"])
SIZES = [1, 40, 1400, 1536, 1537, 9000, 60000]
PYTHON = str(Path(sys.executable).resolve())
SAY = """
import socket, sys
kind, address, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
made.settimeout(20)
data = bytes(number % 251 for number in range(size))
if kind == "unconnected":
    made.sendto(data, (address, port))
else:
    made.connect((address, port))
    made.sendall(data)
heard = 0
while heard < size:
    heard += len(made.recv(65536))
"""


@contextmanager
def echo_in(world: World, place: tuple[str, int]) -> Iterator[None]:
    """Says back whatever it is told at a port of its own, by TCP and by UDP."""
    address, _ = place
    family, length, more = (
        (socket.AF_INET6, "64", ["nodad"]) if ":" in address else (socket.AF_INET, "24", [])
    )
    command = ["ip", "address", "replace", f"{address}/{length}", "dev", plan.LINK, *more]
    subprocess.run(["nsenter", f"--net={world.server_namespace}", *command], check=True, timeout=PATIENCE)

    def bind() -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.bind(place)
        return datagrams, socket.create_server(place, family=family)

    datagrams, listener = world.in_server(bind)

    def answer() -> None:
        while True:
            data, sender = datagrams.recvfrom(65536)
            if data == b"stop":
                return
            datagrams.sendto(data, sender)

    def serve() -> None:
        while True:
            peer, _ = listener.accept()
            with peer:
                while data := peer.recv(65536):
                    if data == b"stop":
                        return
                    peer.sendall(data)

    def stop() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as made, socket.create_connection(place) as other:
            made.sendto(b"stop", place)
            other.sendall(b"stop")

    threads = [threading.Thread(target=work, daemon=True) for work in (answer, serve)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        world.in_server(stop)
        for thread in threads:
            thread.join(PATIENCE)
        datagrams.close()
        listener.close()


def run(world: World, kind: str, place: tuple[str, int], size: int) -> None:
    """A program says so many bytes, and hears as many."""
    told = [kind, place[0], str(place[1]), str(size)]
    assert world.popen([sys.executable, "-c", SAY, *told]).wait(PATIENCE) == 0


def joined(texts: list[Text], protocol: int) -> bytes:
    """What one side has said, put together."""
    whole = bytearray()
    first = next((text.sequence + 1 for text in texts if text.begins), 0)
    for text in texts:
        at = (text.sequence - first if protocol == Protocol.TCP and not text.begins else 0) + text.at
        whole[at : at + len(text.data)] = text.data
    return bytes(whole)


@PLACES
@pytest.mark.parametrize("kind", ["udp", "unconnected", "tcp"])
def test_every_byte_is_told_both_ways_with_its_program(
    world: World, kind: str, place: tuple[str, int]
) -> None:
    protocol = Protocol.TCP if kind == "tcp" else Protocol.UDP
    with echo_in(world, place), machine_in(world, Policy()) as stepper:
        kernel = stepper.machine.installed.kernel
        texts = Texts(kernel, Owners(kernel), taken_over=False)
        try:
            for size in SIZES:
                run(world, kind, place, size)
                told = complete(texts, 2 * size)
                assert {text.connection.protocol for text in told} == {protocol}
                ends = {(str(text.connection.key.remote), text.connection.key.remote_port) for text in told}
                assert ends == {place}
                assert {text.connection.process.path for text in told} == {PYTHON}
                for ours in (True, False):
                    side = [text for text in told if text.ours is ours]
                    assert joined(side, protocol) == bytes(number % 251 for number in range(size))
                    assert protocol == Protocol.TCP or {text.whole for text in side} == {size}
        finally:
            texts.close()


def complete(texts: Texts, size: int) -> list[Text]:
    """What is told, when it is so many bytes."""
    told: list[Text] = []

    def enough() -> bool:
        told.extend(texts.drain())
        return sum(len(text.data) for text in told) >= size

    eventually(enough, "all is told", PATIENCE)
    return told


def test_what_others_say_is_not_told(world: World) -> None:
    with machine_in(world, Policy()) as stepper:
        kernel = stepper.machine.installed.kernel
        texts = Texts(kernel, Owners(kernel), taken_over=False)
        try:
            for kind in ("udp", "tcp"):
                run(world, kind, (plan.ECHO.v4, 7), 100)
            assert list(texts.drain()) == []
        finally:
            texts.close()


def test_when_the_ring_is_full_it_is_counted_and_the_traffic_goes_on(world: World) -> None:
    place = ("10.77.0.53", 53)
    with echo_in(world, place), machine_in(world, Policy()) as stepper:
        for _ in range(8):
            run(world, "udp", place, 60000)
        run(world, "tcp", place, 1_000_000)
        assert stepper.machine.statistics()["texts_lost"] > 0
