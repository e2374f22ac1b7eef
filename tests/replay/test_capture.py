"""replay/capture.py: pcap and pcapng, well made and not, and as another program wrote them."""

from __future__ import annotations

import io
import itertools
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captures import block, enhanced, ethernet, interface, pcap, section, simple
from strategies import FUZZ
from tidewaiter.model.packet import build_udp
from tidewaiter.replay.capture import MAX_BLOCK, MAX_PACKET, Capture, CaptureError

SECOND = 1_000_000_000
NOON = 1_700_000_000 * SECOND
ORDERS = pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])


def packet(text: bytes = b"hello") -> bytes:
    """An IP packet."""
    return build_udp(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 4000, 53, text)


ONE, TWO, THREE = packet(b"1"), packet(b"twotwo"), packet(b"three")


def read(data: bytes) -> list[tuple[int, bytes]]:
    """The packets of a whole capture."""
    capture = Capture(io.BytesIO(data))
    packets = [tuple(captured) for captured in capture]
    assert (capture.truncated, capture.skipped) == ("", 0)
    return packets  # type: ignore[return-value]


# --- pcap -----------------------------------------------------------------------------------------------


@ORDERS
@pytest.mark.parametrize("nanoseconds", [False, True], ids=["µs", "ns"])
def test_pcap(order: str, nanoseconds: bool) -> None:
    records = [(NOON + 123_456_789, ONE), (NOON + 2 * SECOND, TWO)]
    unit = 1 if nanoseconds else 1000
    expected = [(time // unit * unit, data) for time, data in records]
    assert read(pcap(records, order=order, nanoseconds=nanoseconds)) == expected


def test_pcap_of_ethernet() -> None:
    records = [
        (NOON, ethernet(ONE)),
        (NOON, bytes(12) + b"\x08\x06" + bytes(28)),
        (NOON, ethernet(TWO, 0x8100)),
    ]
    capture = Capture(io.BytesIO(pcap(records, link=1)))
    assert [data for _, data in capture] == [ONE, TWO]
    assert capture.skipped == 1


def test_flags_above_the_link_type_are_not_its_number() -> None:
    assert [data for _, data in Capture(io.BytesIO(pcap([(NOON, ONE)], link=0x2400_0065)))] == [ONE]


def test_a_capture_of_nothing() -> None:
    assert read(pcap([])) == []
    assert read(section() + interface()) == []


# --- pcapng ---------------------------------------------------------------------------------------------


@ORDERS
def test_pcapng(order: str) -> None:
    data = (
        section(order)
        + interface(101, order=order)
        + enhanced(NOON // 1000, ONE, order=order)
        + block(5, b"statistics", order)
        + simple(TWO, order=order)
        + enhanced(NOON // 1000 + 5, THREE, order=order)
    )
    assert read(data) == [(NOON, ONE), (NOON, TWO), (NOON + 5000, THREE)]


@pytest.mark.parametrize(
    ("options", "ticks", "time"),
    [
        ([], 1_500_000, 1_500_000_000),
        ([(9, b"\x09")], 1_500_000, 1_500_000),
        ([(9, b"\x03")], 1_500_000, 1500 * SECOND),
        ([(9, b"\x00")], 7, 7 * SECOND),
        ([(9, b"\x8a")], 1536, 1_500_000_000),
        ([(9, b"\x80")], 7, 7 * SECOND),
        ([(2, b"eth0"), (9, b"\x09"), (14, struct.pack("<q", 100))], 5, 100 * SECOND + 5),
        ([(14, struct.pack("<q", -1))], 2_000_000, SECOND),
        ([(0, b""), (9, b"\x09")], 2, 2000),
    ],
)
def test_the_clock_of_an_interface(options: list[tuple[int, bytes]], ticks: int, time: int) -> None:
    assert read(section() + interface(options=options) + enhanced(ticks, ONE)) == [(time, ONE)]


def test_each_interface_has_its_own_link_type_and_clock() -> None:
    data = (
        section()
        + interface(1)
        + interface(101, options=[(9, b"\x09")])
        + interface(147)
        + enhanced(3, ethernet(ONE), number=0)
        + enhanced(3, TWO, number=1)
        + enhanced(3, THREE, number=2)
    )
    capture = Capture(io.BytesIO(data))
    assert [tuple(captured) for captured in capture] == [(3000, ONE), (3, TWO)]
    assert capture.skipped == 1


def test_a_section_has_its_own_byte_order_and_interfaces() -> None:
    data = section("<") + interface(1) + enhanced(1, ethernet(ONE))
    data += section(">") + interface(101, order=">") + enhanced(2, TWO, order=">")
    assert read(data) == [(1000, ONE), (2000, TWO)]
    with pytest.raises(CaptureError, match="does not describe interface 0"):
        read(section() + interface() + section() + enhanced(1, ONE))


def test_a_simple_packet_may_have_been_cut() -> None:
    cut = ONE[:28]
    assert read(section() + interface(snap=28) + simple(cut, length=len(ONE))) == [(0, cut)]
    padded = simple(ONE)  # 29 bytes, filled up to 32
    assert read(section() + interface() + padded) == [(0, ONE)]


# --- what is wrong --------------------------------------------------------------------------------------


def changed(data: bytes, at: int, value: bytes) -> bytes:
    """The same bytes with others from ``at`` on."""
    return data[:at] + value + data[at + len(value) :]


def le(number: int) -> bytes:
    """Four bytes, little end first."""
    return struct.pack("<I", number)


HEAD = section() + interface()
PCAP = pcap([(NOON, ONE)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends within its header"),
        (PCAP[:23], "ends within its header"),
        (b"GET / HTTP/1.1\r\n\r\n" + bytes(40), "neither as pcap nor as pcapng"),
        (changed(PCAP, 4, b"\x01\x00"), r"version 1\.4, of which only 2\.4"),
        (changed(PCAP, 20, le(147)), "link type 147"),
        (changed(PCAP, 32, le(MAX_PACKET + 1)), f"packet of {MAX_PACKET + 1} bytes"),
        (changed(section(), 8, bytes(4)), "no byte-order magic"),
        (changed(section(), 4, le(12)), "a length of 12 bytes"),
        (HEAD + changed(enhanced(1, ONE), 4, le(8)), "a length of 8 bytes"),
        (HEAD + changed(enhanced(1, ONE), 4, le(61)), "a length of 61 bytes"),
        (HEAD + changed(enhanced(1, ONE), 4, le(MAX_BLOCK + 4)), f"a length of {MAX_BLOCK + 4} bytes"),
        (HEAD + enhanced(1, ONE)[:-4] + le(60), "another length than it began with"),
        (HEAD + enhanced(1, ONE, number=1), "does not describe interface 1"),
        (section() + simple(ONE), "does not describe interface 0"),
        (HEAD + changed(enhanced(1, ONE), 20, le(33)), "larger than its block"),
        (HEAD + changed(enhanced(1, ONE), 20, le(MAX_PACKET + 1)), "where 262144 are the most"),
        (HEAD + block(6, bytes(16)), "too short for its type"),
        (HEAD + block(3, b""), "too short for its type"),
        (section() + block(1, bytes(4)), "too short for its type"),
        (section() + interface(options=[(9, b"\x06\x06")]), "clock of an interface"),
        (section() + interface(options=[(14, bytes(4))]), "clock of an interface"),
        (section() + interface(options=[(14, struct.pack("<q", -2))]) + enhanced(1, ONE), "before 1970"),
        (section() + interface(options=[(9, b"\x00")]) + enhanced(2**63, ONE), "after 2262"),
    ],
    ids=(str(number) for number in itertools.count()),
)
def test_damage_is_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [(pcap([(1000, ONE)]), pcap([(2000, TWO)])[24:]), (HEAD + enhanced(1, ONE), enhanced(2, TWO))],
    ids=["pcap", "pcapng"],
)
def test_a_cut_tail_is_reported_and_the_rest_is_good(first: bytes, second: bytes) -> None:
    assert read(first) == [(1000, ONE)]
    assert read(first + second) == [(1000, ONE), (2000, TWO)]
    for size in range(1, len(second)):
        capture = Capture(io.BytesIO(first + second[:size]))
        assert [tuple(captured) for captured in capture] == [(1000, ONE)]
        assert capture.truncated == "the capture is cut off after its packet 1: the next one is not whole"


@st.composite
def captures(draw: st.DrawFn) -> bytes:
    """Captures of both formats, whole."""
    order = draw(st.sampled_from("<>"))
    frames = draw(st.lists(st.sampled_from([ONE, ethernet(TWO), b"", b"\x45"]), max_size=4))
    link = draw(st.sampled_from([0, 1, 101, 113, 276, 147]))
    if draw(st.booleans()):
        return pcap([(NOON, frame) for frame in frames], link=link, order=order)
    options = draw(st.lists(st.tuples(st.sampled_from([0, 1, 9, 14]), st.binary(max_size=9)), max_size=3))
    data = section(order) + interface(link, snap=draw(st.integers(0, 99)), options=options, order=order)
    for frame in frames:
        data += draw(st.sampled_from([enhanced(5, frame, order=order), simple(frame, order=order)]))
    return data


@st.composite
def damaged_captures(draw: st.DrawFn) -> bytes:
    """Bytes that were a capture: some changed, then cut."""
    data = bytearray(draw(captures()))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


@given(damaged_captures() | st.binary(max_size=200))
@settings(max_examples=1500 * FUZZ)
def test_hostile_captures(data: bytes) -> None:
    try:
        capture = Capture(io.BytesIO(data))
        packets = list(capture)
    except CaptureError as error:
        assert "\n" not in str(error)
        return
    assert sum(len(captured.data) for captured in packets) <= len(data)
    assert all(0 <= captured.time < 2**63 for captured in packets)
    assert all(captured.data[0] >> 4 in (4, 6) for captured in packets)
