"""kernel/frames.py and frames.bpf.c: packet sockets of programs in scope are counted on the live kernel."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from livelab import PATIENCE, loaded
from tidewaiter.host import namespace
from tidewaiter.kernel import frames, records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Record
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

CODE = """
import os, socket, sys
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.bind((sys.argv[1], 0))
sent = sum(made.send(bytes(size)) for size in range(14, 100))
datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
datagrams[0].send(b"of no packet socket")
print(os.fstat(made.fileno()).st_ino, sent)
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def counting(world: World) -> Iterator[Kernel]:
    with loaded() as kernel:
        cookie = namespace.cookie(world.client_namespace)
        kernel.map("namespaces").put(struct.pack("<Q", cookie), struct.pack("<I", 7))
        frames.attach(kernel, world.cgroup)
        yield kernel


def counted(kernel: Kernel) -> dict[int, Record]:
    items = kernel.map("packet_sockets").items()
    return {int.from_bytes(key, "little"): records.unpack(value) for key, value in items}


def test_whose_it_is_and_how_much_it_sends(world: World, counting: Kernel) -> None:
    before = time.monotonic_ns()
    with world.popen([sys.executable, "-c", CODE, "lo"], stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    inode, sent = map(int, output.split())
    found = counted(counting)
    assert list(found) == [inode]
    record = found[inode]
    assert (record.pid, record.cgroup) == (process.pid, world.cgroup.stat().st_ino)
    assert (record.uid, record.gid) == (os.getuid(), os.getgid())
    assert (record.namespace, record.cookie, record.sent, record.received) == (7, inode, sent, 0)
    assert before < record.opened < time.monotonic_ns()
    assert int.from_bytes(record.local[:4], "little") == 1, "the index of lo"


def test_of_others_nothing_is_counted(world: World, counting: Kernel) -> None:
    """We are in the client's namespace, but not in its control group; and a peer is in neither."""
    with closing(world.in_client(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))) as made:
        made.bind(("lo", 0))
        assert made.send(bytes(100)) == 100
    peer = world.popen_server([sys.executable, "-c", CODE, "lo"], stdout=subprocess.DEVNULL)
    assert peer.wait(PATIENCE) == 0
    assert counted(counting) == {}


def test_it_goes_with_its_pins(world: World) -> None:
    with loaded() as kernel:
        frames.attach(kernel, world.cgroup)
        pins = kernel.pins / "frames"
        assert {path.name for path in pins.iterdir()} == {"tw_frames_sent", "tw_frames_received"}
    assert not pins.exists()
