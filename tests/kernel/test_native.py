"""The native module against its twins in Python: the same answers for the same bytes, whatever they are."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livelab import loaded
from strategies import FUZZ, hostile_packets, packets
from tidewaiter.host.queue import Held, decode, encode_verdicts
from tidewaiter.kernel import _native, records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.model.connection import Tier
from tidewaiter.model.packet import MalformedPacket, parse_packet
from tidewaiter.model.verdict import Verdict

PACKET = 3 << 8
PACKET_HDR, MARK, CAME_IN, GOES_OUT, PAYLOAD = 1, 3, 5, 6, 10
BATCH = 32
NAMESPACE = 0x01020304
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """What is sent at the first is received at the second, message by message."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


# --- parse -----------------------------------------------------------------------------------------


def reference(data: bytes) -> tuple[object, ...] | None:
    """What `_native.parse` has to answer, by the parser in Python."""
    try:
        packet = parse_packet(data)
    except MalformedPacket:
        return None
    return (
        packet.version,
        packet.protocol,
        packet.fragment | packet.later_fragment << 1,
        packet.tcp_flags,
        packet.transport_offset,
        packet.payload_offset,
        packet.source_port,
        packet.destination_port,
        packet.length,
        packet.source.packed.ljust(16, b"\0"),
        packet.destination.packed.ljust(16, b"\0"),
    )


def parsed(data: bytes) -> tuple[object, ...] | None:
    try:
        return _native.parse(data)
    except ValueError as error:
        assert str(error) == "not an IP packet with whole headers"
        return None


@given(hostile_packets())
@settings(max_examples=1000 * FUZZ)
def test_packets_are_parsed_alike(data: bytes) -> None:
    assert parsed(data) == reference(data)


@given(packets())
@settings(max_examples=300 * FUZZ)
def test_a_packet_without_a_fault_is_parsed(made: object) -> None:
    assert parsed(made.data) is not None  # type: ignore[attr-defined]


def test_any_buffer_will_do_and_nothing_else() -> None:
    data = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20, 0, 0, 64, 47, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    assert _native.parse(bytearray(data)) == _native.parse(memoryview(data)) == _native.parse(data)  # type: ignore[arg-type]
    for wrong in ("text", 4, None):
        with pytest.raises(TypeError):
            _native.parse(wrong)  # type: ignore[arg-type]


# --- receive ---------------------------------------------------------------------------------------


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)


def message(attributes: bytes, kind: int = PACKET, length: int | None = None) -> bytes:
    body = struct.pack(">BBH", 2, 0, 7300) + attributes
    return struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, 0, 0, 0) + body


def packet_header(number: int, hook: int) -> bytes:
    return attribute(PACKET_HDR, struct.pack(">IHB", number, 0x800, hook))


BOTH = attribute(CAME_IN, struct.pack(">I", 2)) + attribute(GOES_OUT, struct.pack(">I", 9))
u32 = st.integers(0, 2**32 - 1)
HOOKS = st.sampled_from([0, 1, 2, 3, 255])


@st.composite
def whole_messages(draw: st.DrawFn) -> bytes:
    """What the kernel sends: the header, other attributes in between, the payload."""
    kinds = st.sampled_from([MARK, CAME_IN, GOES_OUT, 8, 0x8000 | 19])
    others = st.builds(attribute, kinds, st.binary(min_size=4, max_size=4) | st.binary(max_size=24))
    parts = [packet_header(draw(u32), draw(HOOKS)), attribute(PAYLOAD, draw(hostile_packets()))]
    for _ in range(draw(st.integers(0, 3))):
        parts.insert(draw(st.integers(0, len(parts))), draw(others))
    return message(b"".join(parts))


@st.composite
def damaged_messages(draw: st.DrawFn) -> bytes:
    """The same with some bytes changed, most of them lengths and kinds, and cut."""
    data = bytearray(draw(whole_messages()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, 27) | st.integers(0, len(data) - 1))
        data[at] = draw(st.sampled_from([0, 1, 3, 4, 5, 127, 255]) | st.integers(0, 255))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


@st.composite
def attributes_of_any_length(draw: st.DrawFn) -> bytes:
    """Attributes whose lengths say anything, in a message that is right otherwise."""
    number = st.sampled_from(
        [PACKET_HDR, PAYLOAD, MARK, CAME_IN, GOES_OUT, 0x4000 | PAYLOAD, 0xC000 | PACKET_HDR]
    )
    one = st.builds(
        lambda length, number, value: struct.pack("=HH", length, number) + value,
        st.integers(0, 40) | st.integers(0, 65535),
        number,
        st.binary(max_size=32),
    )
    return message(b"".join(draw(st.lists(one, max_size=5))))


MESSAGES = (
    whole_messages() | damaged_messages() | attributes_of_any_length() | st.binary(min_size=1, max_size=80)
)


def assert_received_alike(pair: Pair, sent: list[bytes]) -> None:
    ours, theirs = pair
    for data in sent:
        ours.send(data)
    received: list[tuple[int, int, bytes, bytes, int]] = []
    for _ in range(0, len(sent), BATCH):
        received += _native.receive(theirs.fileno(), NAMESPACE, 0)
    assert _native.receive(theirs.fileno(), NAMESPACE, 0) == []
    assert received == [held for data in sent if (held := decode(data, NAMESPACE)) is not None]


@given(st.lists(MESSAGES, max_size=9))
@settings(max_examples=250 * FUZZ)
def test_messages_are_received_alike(pair: Pair, sent: list[bytes]) -> None:
    assert_received_alike(pair, sent)


@given(whole_messages())
@settings(max_examples=200 * FUZZ)
def test_a_message_cut_anywhere_is_received_alike(pair: Pair, data: bytes) -> None:
    for cut in range(1, min(len(data), 60)):
        assert_received_alike(pair, [data[:cut], data[: -(cut % len(data)) or None]])


@given(whole_messages())
@settings(max_examples=200 * FUZZ)
def test_a_whole_message_is_never_lost(pair: Pair, data: bytes) -> None:
    held = decode(data, NAMESPACE)
    assert held is not None
    assert_received_alike(pair, [data])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (message(packet_header(7, 3)), Held(7, 3, b"", b"")),
        (message(attribute(PAYLOAD, b"x") + packet_header(7, 1)), Held(7, 1, b"", b"x")),
        (message(packet_header(7, 3) + packet_header(8, 1)), Held(8, 1, b"", b"")),
        (message(packet_header(7, 3) + BOTH), Held(7, 3, b"", b"", 9)),
        (message(BOTH + packet_header(7, 1)), Held(7, 1, b"", b"", 2)),
        (message(packet_header(7, 2) + BOTH), Held(7, 2, b"", b"", 9)),
        (message(packet_header(7, 1) + attribute(CAME_IN, b"\0\0\2")), Held(7, 1, b"", b"")),
        (message(attribute(PAYLOAD, b"xyz")), None),
        (message(attribute(PACKET_HDR, b"short!")), None),
        (message(packet_header(7, 3), kind=PACKET | 1), None),
        (message(packet_header(7, 3), kind=2), None),
        (message(packet_header(7, 3), length=4096), None),
        (message(packet_header(7, 3), length=19), None),
        (message(packet_header(7, 3), length=20), None),
        (message(b""), None),
    ],
    ids=str,
)
def test_messages_of_known_meaning(pair: Pair, data: bytes, expected: Held | None) -> None:
    assert decode(data, NAMESPACE) == expected
    assert_received_alike(pair, [data])


def test_the_largest_packet_arrives_whole(pair: Pair) -> None:
    payload = os.urandom(65531)  # an attribute's length has sixteen bits
    data = message(packet_header(1, 3) + attribute(PAYLOAD, payload))
    ours, theirs = pair
    ours.send(data)
    (found,) = _native.receive(theirs.fileno(), NAMESPACE, 0)
    assert found == decode(data, NAMESPACE)
    assert found[3] == payload


def test_at_most_a_batch_is_received_at_once() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for number in range(BATCH + 5):
            ours.send(message(packet_header(number, 3)))
        first = _native.receive(theirs.fileno(), 0, 0)
        assert [held[0] for held in first] == list(range(BATCH))
        assert [held[0] for held in _native.receive(theirs.fileno(), 0, 0)] == list(range(BATCH, BATCH + 5))


def test_a_socket_that_is_none_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _native.receive(-1, 0, 0)
    with open(os.devnull) as file, pytest.raises(OSError, match="non-socket"):  # noqa: PTH123
        _native.receive(file.fileno(), 0, 0)


# --- answer ----------------------------------------------------------------------------------------


@given(st.integers(0, 65535), st.lists(st.tuples(u32, st.integers(0, 1)), max_size=3 * BATCH))
@settings(max_examples=200 * FUZZ)
def test_verdicts_are_sent_alike(pair: Pair, queue: int, verdicts: list[tuple[int, int]]) -> None:
    ours, theirs = pair
    _native.answer(ours.fileno(), queue, verdicts)
    datagrams = [theirs.recv(65536) for _ in range(0, len(verdicts), BATCH)]
    assert b"".join(datagrams) == encode_verdicts(queue, verdicts)
    assert all(len(datagram) <= BATCH * 32 for datagram in datagrams)


def test_a_verdict_byte_by_byte(pair: Pair) -> None:
    """struct nlmsghdr, nfgenmsg, nlattr and nfqnl_msg_verdict_hdr."""
    ours, theirs = pair
    _native.answer(ours.fileno(), 7300, [(0x0A0B0C0D, 1)])
    assert theirs.recv(100) == bytes.fromhex(
        "20000000 0103 0100 00000000 00000000 00 00 1c84 0c00 0200 00000001 0a0b0c0d"
    )


def test_nothing_is_sent_for_nothing(pair: Pair) -> None:
    ours, theirs = pair
    _native.answer(ours.fileno(), 1, [])
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


@pytest.mark.parametrize("wrong", [[(1,)], [(1, 2, 3)], [("a", 1)], [(1, None)], ((1, 1),), None])
def test_what_is_no_verdict_is_refused(pair: Pair, wrong: object) -> None:
    ours, theirs = pair
    with pytest.raises(TypeError):
        _native.answer(ours.fileno(), 1, wrong)  # type: ignore[arg-type]
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


def test_a_peer_that_is_gone_is_an_error() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.close()
    with ours, pytest.raises(ConnectionRefusedError):
        _native.answer(ours.fileno(), 1, [(1, 1)])


# --- put -------------------------------------------------------------------------------------------

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2


@pytest.mark.live
def test_an_entry_is_put_as_the_map_does_it() -> None:
    with loaded() as kernel:
        namespaces = kernel.map("namespaces")
        key, value = struct.pack("<Q", 9), struct.pack("<I", 1)
        with pytest.raises(FileNotFoundError):
            _native.put(namespaces.fd, key, value, BPF_EXIST)
        assert namespaces.get(key) is None
        _native.put(namespaces.fd, key, value, BPF_ANY)
        assert namespaces.get(key) == value
        with pytest.raises(FileExistsError):
            _native.put(namespaces.fd, key, value, BPF_NOEXIST)
        _native.put(namespaces.fd, key, b"\2\0\0\0", BPF_EXIST)
        assert namespaces.get(key) == b"\2\0\0\0"
        with pytest.raises(OSError, match="Invalid argument") as caught:
            _native.put(namespaces.fd, key, value, 77)
        assert caught.value.errno == errno.EINVAL


# --- remember --------------------------------------------------------------------------------------


@pytest.mark.live
@given(
    st.binary(min_size=records.CONNECTION_SIZE, max_size=records.CONNECTION_SIZE),
    st.sampled_from(Verdict),
    st.sampled_from(Tier),
    u32,
)
@settings(max_examples=100 * FUZZ)
def test_an_answer_goes_to_its_question(
    kernel: Kernel, data: bytes, verdict: Verdict, tier: Tier, rule: int
) -> None:
    pending, cookie = kernel.map("pending"), data[records.COOKIE]
    answer = (rule, verdict, records.TIER_NUMBERS[tier])
    assert _native.remember(pending.fd, data, *answer) is False
    assert pending.get(cookie) is None
    pending.put(cookie, bytes(records.CONNECTION_SIZE))
    assert _native.remember(pending.fd, data, *answer) is True
    assert pending.get(cookie) == records.answered(data, verdict, tier, rule)
    pending.delete(cookie)


@pytest.mark.parametrize("size", [0, 1, records.CONNECTION_SIZE - 1, records.CONNECTION_SIZE + 1])
def test_an_answer_has_the_size_of_a_connection(size: int) -> None:
    with pytest.raises(ValueError, match=f"has {records.CONNECTION_SIZE} bytes, not {size}"):
        _native.remember(-1, bytes(size), 0, 3, 3)


def test_an_answer_for_a_map_that_is_none_is_an_error() -> None:
    with pytest.raises(OSError) as caught:
        _native.remember(-1, bytes(records.CONNECTION_SIZE), 0, 3, 3)
    assert caught.value.errno in (errno.EBADF, errno.EPERM)
    with pytest.raises(OverflowError):
        _native.remember(-1, bytes(records.CONNECTION_SIZE), 0, 256, 3)


def test_a_map_that_is_none_is_an_error() -> None:
    with pytest.raises(OSError) as caught:
        _native.put(-1, b"12345678", b"1234", BPF_ANY)
    assert caught.value.errno in (errno.EBADF, errno.EPERM)  # EPERM: without the right to use eBPF at all
    with pytest.raises(TypeError):
        _native.put(-1, "text", b"1234", BPF_ANY)  # type: ignore[arg-type]
