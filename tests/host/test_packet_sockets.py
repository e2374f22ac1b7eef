"""host/packet_sockets.py: the kernel's table of packet sockets, and who is behind them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livelab import PATIENCE, loaded
from tidewaiter.host import install, packet_sockets
from tidewaiter.host.install import Installed
from tidewaiter.host.packet_sockets import PacketSockets, Place, parse
from tidewaiter.host.policy_maps import PolicyMaps
from tidewaiter.host.state import State
from tidewaiter.kernel import frames
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.loader import Kernel
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.packet_socket import PacketSocket

HEAD = b"sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
LINES = (
    b"00000000f28a9520 2      3    0003   2     1 0      0      6787840\n"
    b"00000000f28a9521 2      2    88b5   0     0 4096   1000   77     \n"
    b"00000000f28a9522 2      3    0003   -1    0 0      0      78\n"
)


def test_the_table() -> None:
    assert parse(HEAD, 1) == {}
    assert parse(HEAD + LINES, 3) == {6787840: Place(3, 2), 77: Place(3, 0), 78: Place(3, 0)}


def test_a_line_that_is_none_is_left_out() -> None:
    assert parse(HEAD + b"what is this\n\n" + LINES[:66] + b"\n", 1) == {6787840: Place(1, 2)}


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_any_bytes(table: bytes) -> None:
    for place in parse(HEAD + table, 2).values():
        assert place.namespace == 2
        assert place.interface >= 0


# --- on the live kernel ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with loaded() as kernel:
        yield kernel


@pytest.fixture
def heard() -> list[PacketSocket]:
    return []


@pytest.fixture
def following(world: World, kernel: Kernel, heard: list[PacketSocket]) -> Iterator[PacketSockets]:
    """With a kernel half that counts nothing: what is found is found by looking."""
    namespaces = (str(world.client_namespace),)
    state = State(
        name="test", pid=1, started=1, serial=1, build="", mode="observe", fail_open=False,
        cgroup=str(world.cgroup), namespaces=namespaces, rules=(), redirect=(),
    )  # fmt: skip
    installed = Installed(state, kernel, PolicyMaps(kernel), [], taken_over=False)
    one = PacketSockets(installed, count(1).__next__, heard.append)
    yield one
    one.stop()


OPEN = """
import socket, sys
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.bind((sys.argv[1], 0)) if sys.argv[1:] else None
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.live
@pytest.mark.parametrize("interface", [plan.LINK, ""])
def test_one_that_moves_nothing(
    world: World, following: PacketSockets, heard: list[PacketSocket], interface: str
) -> None:
    command = [sys.executable, "-c", OPEN, *filter(None, [interface])]
    with world.popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        following.look()
        following.look()
        (one,) = heard
        process.communicate(timeout=PATIENCE)
    following.look()
    following.look()
    assert (one.id, one.process.pid, one.interface, one.ended) == (1, process.pid, interface, 0)
    assert one.process.arguments == tuple(command)
    assert len(heard) == 2
    assert (heard[1].id, heard[1].sent, heard[1].received) == (1, 0, 0)
    assert heard[1].ended > one.opened


@pytest.mark.live
def test_one_of_a_program_that_is_not_in_scope(
    world: World, following: PacketSockets, heard: list[PacketSocket]
) -> None:
    with closing(world.in_client(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))):
        following.look()
    following.look()
    assert heard == []


@pytest.mark.live
def test_more_than_one_read_can_hold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def table() -> int:
        return os.open(packet_sockets._TABLE, os.O_RDONLY)

    monkeypatch.setattr(packet_sockets, "_READ", 100)
    made = [world.in_client(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) for _ in range(20)]
    inodes = {os.fstat(one.fileno()).st_ino for one in made}
    fd = world.in_client(table)
    try:
        assert inodes <= parse(packet_sockets._read(fd), 1).keys()
    finally:
        os.close(fd)
        for one in made:
            one.close()


def test_where_the_kernel_cannot_count_everything_else_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise KernelError(1, "loading the frames layer: Operation not permitted")

    monkeypatch.setattr(frames, "attach", refuse)
    install._count_frames(object(), tmp_path)  # type: ignore[arg-type]
