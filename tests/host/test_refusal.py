"""host/refusal.py: a program whose packet is refused in user space learns of it at once."""

from __future__ import annotations

import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tidewaiter.host import namespace
from tidewaiter.host.queue import NF_DROP, Queue
from tidewaiter.host.refusal import Refuser
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.packet import TcpFlag, build_tcp, build_udp

pytestmark = pytest.mark.live
NUMBER, PORT = 7391, 4391
FAMILIES = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def refuser(world: World) -> Iterator[Refuser]:
    made = Refuser(world.client_namespace)
    yield made
    made.close()


def family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def pick(pair: plan.Pair, version: int) -> str:
    return pair.v4 if version == 4 else pair.v6


@FAMILIES
def test_a_datagram_is_refused(world: World, refuser: Refuser, version: int) -> None:
    with world.in_client(lambda: socket.socket(family(version), socket.SOCK_DGRAM)) as sender:
        sender.settimeout(2)
        sender.connect((pick(plan.WEB, version), PORT))
        source, port, *_ = sender.getsockname()
        refused = build_udp(ip_address(source), ip_address(pick(plan.WEB, version)), port, PORT, b"hello")
        assert refuser.refuse(refused)
        with pytest.raises(ConnectionRefusedError):
            sender.recv(10)


@FAMILIES
@pytest.mark.parametrize("incoming", [False, True], ids=["out", "in"])
def test_a_connection_is_refused(world: World, refuser: Refuser, version: int, incoming: bool) -> None:
    """The SYN is held and dropped, as the machine does it; without an answer connect(2) would wait."""
    tool = "iptables" if version == 4 else "ip6tables"
    chain = "INPUT" if incoming else "OUTPUT"
    rule = ["-p", "tcp", "--dport", str(PORT), "-j", "NFQUEUE", "--queue-num", str(NUMBER)]
    change = [tool, "-w", "5", "-t", "mangle"]
    world.in_client(lambda: subprocess.run([*change, "-I", chain, *rule], check=True))
    there = Queue(world.client_namespace, 1, NUMBER)
    outcome: list[BaseException | float] = []
    where = world.in_server if incoming else world.in_client
    to = (pick(plan.CLIENT if incoming else plan.WEB, version), PORT)

    def connect() -> None:
        begun = time.monotonic()
        with socket.socket(family(version), socket.SOCK_STREAM) as made:
            made.settimeout(5)
            try:
                made.connect(to)
            except OSError as error:
                outcome.extend([error, time.monotonic() - begun])

    program = threading.Thread(target=lambda: where(connect))
    program.start()
    try:
        held: list[tuple[int, int, bytes, bytes, int]] = []
        while not held:
            held += there.receive()
        there.answer([(held[0][0], NF_DROP)])
        assert refuser.refuse(held[0][3])
        program.join(5)
        assert isinstance(outcome[0], ConnectionRefusedError)
    finally:
        there.close()
        world.in_client(lambda: subprocess.run([*change, "-D", chain, *rule], check=True))
        program.join()


HERE, THERE = ip_address(plan.CLIENT.v4), ip_address(plan.WEB.v4)


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x45", b"\xff" * 99, build_tcp(HERE, THERE, 1, 2, TcpFlag.RST)],
    ids=["nothing", "short", "noise", "reset"],
)
def test_what_gets_no_answer(refuser: Refuser, packet: bytes) -> None:
    assert refuser.refuse(packet) is False


@FAMILIES
def test_a_sender_that_cannot_be_reached(version: int) -> None:
    name = f"tw-test-{secrets.token_hex(4)}"
    path = namespace.create(name)
    try:
        lost = Refuser(path)
        source, destination = ip_address(pick(plan.CLIENT, version)), ip_address(pick(plan.WEB, version))
        assert lost.refuse(build_tcp(source, destination, 1, 2, TcpFlag.SYN)) is False
        lost.close()
    finally:
        namespace.delete(name)


def test_its_sockets_are_closed(world: World) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    made = world.in_client(lambda: Refuser(None))
    assert len(list(descriptors.iterdir())) == before + 2
    made.close()
    assert len(list(descriptors.iterdir())) == before
