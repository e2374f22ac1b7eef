"""host/queue.py: the messages byte by byte, and the queue of a namespace of a lab.

That the codec does what the native module does, for any bytes, is in tests/kernel/test_native.py.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from livelab import Capture, capture_at, eventually
from tidewaiter.host import namespace, queue
from tidewaiter.host.queue import (
    BATCH,
    NF_ACCEPT,
    NF_DROP,
    Config,
    Held,
    Hook,
    Queue,
    QueueError,
    decode,
    flow_of,
)
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.packet import build_udp, parse_packet

NUMBER = 7390
PORT = 4390
WEB = ip_address(plan.WEB.v4)
CLIENT = ip_address(plan.CLIENT.v4)
DATAGRAM = build_udp(CLIENT, WEB, 1000, PORT, b"hello")

# --- the codec -------------------------------------------------------------------------------------


def test_a_packet_message() -> None:
    """NFULNL packet: struct nlmsghdr, nfgenmsg; packet header 12 bytes; a mark; interfaces; the payload, padded."""
    payload = build_udp(CLIENT, WEB, 1000, PORT, b"odd")
    attributes = (
        bytes.fromhex("0b00 0100 0000002a 0800 03 00")
        + bytes.fromhex("0800 0300 00000001")
        + bytes.fromhex("0800 0500 00000003")
        + bytes.fromhex("0800 0600 00000004")
        + struct.pack("=HH", 4 + len(payload), 10)
        + payload
        + b"\0"
    )
    message = struct.pack("=IHHII", 20 + len(attributes), 0x0300, 0, 0, 0) + b"\2\0\x1c\xde" + attributes
    held = decode(message, 5)
    assert held == Held(42, Hook.LOCAL_OUT, flow_of(payload, 5, incoming=False), payload, 4)
    assert decode(message[:-20], 5) is None


def test_the_flow_of_a_packet_begins_here() -> None:
    out = flow_of(DATAGRAM, 7, incoming=False)
    here, there = CLIENT.packed.ljust(16, b"\0"), WEB.packed.ljust(16, b"\0")
    assert out == struct.pack("=I16s16sBBHH", 7, here, there, 4, 17, 1000, PORT)
    into = flow_of(DATAGRAM, 7, incoming=True)
    assert into == struct.pack("=I16s16sBBHH", 7, there, here, 4, 17, PORT, 1000)


@pytest.mark.parametrize("bad", [b"", b"hello", DATAGRAM[:27]], ids=["nothing", "text", "cut"])
def test_what_cannot_be_read_has_no_flow(bad: bytes) -> None:
    assert flow_of(bad, 1, incoming=False) == b""


def test_a_later_fragment_has_no_flow() -> None:
    fragment = bytearray(DATAGRAM)
    fragment[6:8] = b"\0\1"
    assert flow_of(bytes(fragment), 1, incoming=False) == b""


def test_the_first_settings_of_a_queue_byte_by_byte() -> None:
    bind = queue._message(2, 7300, queue._attribute(Config.COMMAND, struct.pack(">BxH", 1, 0)), 4)
    assert bind == bytes.fromhex("1c000000 0203 0500 00000000 00000000 00 00 1c84 0800 0100 01 00 0000")


# --- on the live kernel ----------------------------------------------------------------------------


@contextmanager
def held_datagrams(world: World, *options: str) -> Iterator[None]:
    """Datagrams to `PORT` that leave the client go to the queue."""
    rule = ["-p", "udp", "--dport", str(PORT), "-j", "NFQUEUE", "--queue-num", str(NUMBER), *options]
    tables = ("iptables", "ip6tables")

    def change(action: str) -> None:
        for table in tables:
            subprocess.run([table, "-w", "5", "-t", "mangle", action, "OUTPUT", *rule], check=True)

    namespace.run_inside(world.client_namespace, lambda: change("-I"))
    try:
        yield
    finally:
        namespace.run_inside(world.client_namespace, lambda: change("-D"))


class Lab:
    """A sender in the client, a capture at the server, and queues that are closed in the end."""

    def __init__(self, world: World, capture: Capture, stack: ExitStack) -> None:
        self.world, self.capture, self._stack = world, capture, stack
        self._senders = {
            family: stack.enter_context(world.in_client(partial(socket.socket, family, socket.SOCK_DGRAM)))
            for family in (socket.AF_INET, socket.AF_INET6)
        }

    def queue(self, **options: object) -> Queue:
        made = Queue(self.world.client_namespace, 1, NUMBER, **options)  # type: ignore[arg-type]
        self._stack.callback(made.close)
        return made

    def send(self, *texts: str, six: bool = False) -> None:
        for text in texts:
            family, address = (socket.AF_INET6, plan.WEB.v6) if six else (socket.AF_INET, plan.WEB.v4)
            self._senders[family].sendto(text.encode(), (address, PORT))

    def arrived(self) -> list[bytes]:
        return [packet.payload for packet in self.capture.to_port(PORT)]


@pytest.fixture
def lab(world: World) -> Iterator[Lab]:
    with ExitStack() as stack:
        capture = stack.enter_context(capture_at(world))
        stack.enter_context(held_datagrams(world))
        yield Lab(world, capture, stack)


@pytest.mark.live
@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
def test_a_packet_waits_for_its_verdict(lab: Lab, six: bool) -> None:
    there = lab.queue()
    assert there.receive() == []
    lab.send("keep", "let go", six=six)
    assert select.select([there], [], [], 5)[0] == [there]
    held = [Held(*each) for each in there.receive()]
    assert [parse_packet(each.payload).payload for each in held] == [b"keep", b"let go"]
    for each in held:
        assert each.hook == Hook.LOCAL_OUT
        assert each.flow == flow_of(each.payload, 1, incoming=False)
        assert int.from_bytes(each.flow[:4], "little") == 1
    assert lab.arrived() == []
    there.answer([(held[1].packet, NF_ACCEPT), (held[0].packet, NF_DROP)])
    assert lab.arrived() == [b"let go"]


@pytest.mark.live
def test_answers_in_any_order_release_in_that_order(lab: Lab) -> None:
    there = lab.queue()
    texts = [f"{number:03}" for number in range(100)]
    lab.send(*texts)
    held = []
    while batch := there.receive():
        assert len(batch) <= BATCH
        held += batch
    assert len(held) == 100
    backwards = [(packet, NF_ACCEPT) for packet, *_ in reversed(held)]
    there.answer(backwards)
    assert lab.arrived() == [text.encode() for text in reversed(texts)]
    there.answer(backwards)  # they are gone: the kernel says so, and `receive` passes over it
    lab.send("more")
    more: list[bytes] = []
    for _ in range(100 // BATCH + 1):
        more += [payload for _, _, _, payload, _ in there.receive()]
    assert [parse_packet(payload).payload for payload in more] == [b"more"]


@pytest.mark.live
def test_what_is_held_is_dropped_when_the_queue_is_given_up(lab: Lab) -> None:
    there = lab.queue()
    lab.send("held")
    there.close()
    lab.send("nobody listens")
    assert lab.arrived() == []


@pytest.mark.live
def test_with_bypass_packets_pass_when_nobody_listens(world: World) -> None:
    with ExitStack() as stack:
        capture = stack.enter_context(capture_at(world))
        stack.enter_context(held_datagrams(world, "--queue-bypass"))
        lab = Lab(world, capture, stack)
        lab.send("through")
        assert lab.arrived() == [b"through"]
        lab.queue()
        lab.send("held")
        assert lab.arrived() == []


@pytest.mark.live
def test_what_comes_while_the_queue_is_set_up_does_not_stay_in_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when a firewall takes over under load: the rules are there already."""
    configure = Queue._configure

    def busy(self: Queue, attributes: bytes) -> list[int]:
        early = configure(self, attributes)
        lab.send("at once")
        return early

    monkeypatch.setattr(Queue, "_configure", busy)
    there = lab.queue()
    table = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    (row,) = lab.world.in_client(table.read_text).splitlines()
    assert int(row.split()[2]) == 1  # the last one, after which the queue was as it shall be
    assert [parse_packet(payload).payload for _, _, _, payload, _ in there.receive()] == [b"at once"]
    assert lab.arrived() == []


@pytest.mark.live
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_full_queue_drops_or_passes_what_comes_next(lab: Lab, fail_open: bool) -> None:
    there = lab.queue(length=3, fail_open=fail_open)
    lab.send("1", "2", "3", "4", "5")
    assert lab.arrived() == ([b"4", b"5"] if fail_open else [])
    held = there.receive()
    assert [parse_packet(payload).payload for _, _, _, payload, _ in held] == [b"1", b"2", b"3"]


@pytest.mark.live
def test_a_queue_has_one_owner(lab: Lab) -> None:
    first = lab.queue()
    with pytest.raises(QueueError, match=f"queue {NUMBER} cannot be used") as caught:
        lab.queue()
    assert caught.value.errno in (errno.EBUSY, errno.EPERM)
    assert "another program has it" in str(caught.value)
    assert "`tidewaiter doctor`" in str(caught.value)
    lab.send("still held by the first")
    assert len(first.receive()) == 1
    first.close()
    lab.queue()


@pytest.mark.live
def test_without_a_place_it_is_the_namespace_that_we_are_in(lab: Lab) -> None:
    there = namespace.run_inside(lab.world.client_namespace, lambda: Queue(None, 9, NUMBER))
    lab.send("here")
    eventually(lambda: bool(select.select([there], [], [], 0)[0]), "the packet is held")
    ((_, _, flow, _, _),) = there.receive()
    assert flow[:4] == b"\x09\0\0\0"
    there.close()


@pytest.mark.live
def test_a_namespace_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        Queue(Path("/run/netns/tidewaiter-never-made"), 1, NUMBER)


@pytest.mark.live
def test_a_refused_queue_leaves_no_socket_open(lab: Lab) -> None:
    lab.queue()
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        with pytest.raises(QueueError):
            lab.queue()
    assert len(list(descriptors.iterdir())) == before
