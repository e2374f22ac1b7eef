"""Answers to refused packets."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ, hostile_packets, payloads
from tidewaiter.model.answer import Unanswerable, rejection, tcp_reset, unreachable
from tidewaiter.model.key import Address, Protocol
from tidewaiter.model.packet import (
    MalformedPacket,
    TcpFlag,
    build_ip,
    build_tcp,
    build_udp,
    parse_packet,
    verify_checksums,
)

V4 = ip_address("192.0.2.1"), ip_address("198.51.100.2")
V6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
BOTH = pytest.mark.parametrize("pair", [V4, V6])
Pair = tuple[Address, Address]

# A datagram to a port that nobody listens on, and the answer of Linux, over its loopback device.
DATAGRAM_4 = bytes.fromhex("4500001eacb54000401190177f0000017f000001c5300009000afe1d6869")
ANSWER_4 = bytes.fromhex("45c0003a1c04000040015ffd7f0000017f0000010303d13100000000") + DATAGRAM_4
DATAGRAM_6 = bytes.fromhex(
    "6007f77e000a1140000000000000000000000000000000010000000000000000000000000000000184970009000a001d6869"
)
ANSWER_6 = (
    bytes.fromhex("6003ac5e003a3a40000000000000000000000000000000010000000000000000000000000000000101")
    + bytes.fromhex("04a88200000000")
    + DATAGRAM_6
)


def numbers(data: bytes) -> tuple[int, int]:
    """Sequence and acknowledgement number of a TCP segment."""
    sequence, acknowledgement = struct.unpack_from("!II", data, parse_packet(data).transport_offset + 4)
    return sequence, acknowledgement


def assert_returns(answer: bytes, refused: bytes) -> None:
    """The answer goes back the way that the refused packet came, with right checksums."""
    there, back = parse_packet(refused), parse_packet(answer)
    assert (back.source, back.destination) == (there.destination, there.source)
    assert verify_checksums(answer)


@BOTH
@pytest.mark.parametrize(
    ("flags", "taken"),
    [
        (TcpFlag.SYN, 1),
        (TcpFlag.FIN, 1),
        (TcpFlag.SYN | TcpFlag.FIN, 2),
        (TcpFlag(0), 0),
        (TcpFlag.SYN | TcpFlag.ECE | TcpFlag.CWR, 1),
    ],
)
@pytest.mark.parametrize("payload", [b"", b"hello"])
@pytest.mark.parametrize("sequence", [1000, 2**32 - 1])
def test_a_segment_without_ack_is_acknowledged(
    pair: Pair, flags: TcpFlag, taken: int, payload: bytes, sequence: int
) -> None:
    refused = build_tcp(*pair, 4000, 443, flags, sequence=sequence, payload=payload)
    answer = tcp_reset(refused)
    assert_returns(answer, refused)
    packet = parse_packet(answer)
    assert packet.tcp_flags == TcpFlag.RST | TcpFlag.ACK
    assert numbers(answer) == (0, (sequence + taken + len(payload)) % 2**32)
    assert (packet.source_port, packet.destination_port, packet.payload) == (443, 4000, b"")


@BOTH
@pytest.mark.parametrize("flags", [TcpFlag.ACK, TcpFlag.SYN | TcpFlag.ACK, TcpFlag.FIN | TcpFlag.ACK])
def test_a_segment_with_ack_is_reset_where_it_acknowledges(pair: Pair, flags: TcpFlag) -> None:
    refused = build_tcp(*pair, 4000, 443, flags, sequence=5, acknowledgement=77, payload=b"hello")
    answer = tcp_reset(refused)
    assert_returns(answer, refused)
    assert parse_packet(answer).tcp_flags == TcpFlag.RST
    assert numbers(answer) == (77, 0)


def test_the_length_counts_what_was_not_captured_but_no_padding() -> None:
    refused = build_tcp(*V4, 4000, 443, TcpFlag.SYN, sequence=1000, payload=bytes(500))
    assert numbers(tcp_reset(refused[:60])) == (0, 1501)
    assert numbers(tcp_reset(refused + bytes(6))) == (0, 1501)


@BOTH
@pytest.mark.parametrize("flags", [TcpFlag.RST, TcpFlag.RST | TcpFlag.ACK])
def test_a_reset_is_never_answered(pair: Pair, flags: TcpFlag) -> None:
    refused = build_tcp(*pair, 4000, 443, flags)
    assert rejection(refused) is None
    with pytest.raises(Unanswerable, match="a reset is not answered"):
        tcp_reset(refused)


def test_only_tcp_is_reset() -> None:
    with pytest.raises(Unanswerable, match="only a TCP segment"):
        tcp_reset(build_udp(*V4, 1, 2))


@pytest.mark.parametrize(("datagram", "answer"), [(DATAGRAM_4, ANSWER_4), (DATAGRAM_6, ANSWER_6)])
def test_the_answer_is_that_of_linux(datagram: bytes, answer: bytes) -> None:
    ours, theirs = parse_packet(unreachable(datagram)), parse_packet(answer)
    assert ours.data[ours.transport_offset :] == theirs.data[theirs.transport_offset :]
    assert (ours.source, ours.destination, ours.protocol) == (
        theirs.source,
        theirs.destination,
        theirs.protocol,
    )


@pytest.mark.parametrize(
    ("pair", "protocol", "plain", "prohibited"),
    [(V4, Protocol.ICMP, (3, 3), (3, 13)), (V6, Protocol.ICMPV6, (1, 4), (1, 1))],
)
def test_types_and_codes(
    pair: Pair, protocol: Protocol, plain: tuple[int, int], prohibited: tuple[int, int]
) -> None:
    refused = build_udp(*pair, 4000, 53, b"hello")
    for answer, expected in (
        (unreachable(refused), plain),
        (unreachable(refused, prohibited=True), prohibited),
    ):
        assert_returns(answer, refused)
        packet = parse_packet(answer)
        assert packet.protocol == protocol
        assert (packet.icmp_type, packet.icmp_code) == expected
        assert packet.payload == refused


@pytest.mark.parametrize(("pair", "largest"), [(V4, 576), (V6, 1280)])
def test_the_quote_is_bounded(pair: Pair, largest: int) -> None:
    refused = build_udp(*pair, 4000, 53, bytes(range(250)) * 8)
    answer = unreachable(refused)
    assert len(answer) == largest
    assert refused.startswith(parse_packet(answer).payload)
    assert verify_checksums(answer)


def test_padding_is_not_quoted() -> None:
    refused = build_udp(*V4, 4000, 53)
    assert parse_packet(unreachable(refused + bytes(18))).payload == refused


@BOTH
def test_rejection_goes_by_the_protocol(pair: Pair) -> None:
    syn = build_tcp(*pair, 4000, 443, TcpFlag.SYN)
    assert rejection(syn) == tcp_reset(syn)
    icmp = Protocol.ICMP if pair is V4 else Protocol.ICMPV6
    echo = build_ip(*pair, icmp, bytes([8 if pair is V4 else 128]) + bytes(7))
    datagram = build_udp(*pair, 4000, 53)
    assert rejection(datagram) == unreachable(datagram)
    for other in (build_ip(*pair, Protocol.SCTP, bytes(12)), echo):
        assert rejection(other) == unreachable(other, prohibited=True)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("0.0.0.0", "192.0.2.1"),
        ("0.1.2.3", "192.0.2.1"),
        ("224.0.0.1", "192.0.2.1"),
        ("240.0.0.1", "192.0.2.1"),
        ("255.255.255.255", "192.0.2.1"),
        ("192.0.2.1", "255.255.255.255"),
        ("192.0.2.1", "239.255.255.250"),
        ("::", "2001:db8::1"),
        ("ff02::1", "2001:db8::1"),
        ("2001:db8::1", "ff02::fb"),
    ],
)
def test_only_between_single_hosts(source: str, destination: str) -> None:
    pair = ip_address(source), ip_address(destination)
    for refused in (build_udp(*pair, 4000, 53), build_tcp(*pair, 4000, 443, TcpFlag.SYN)):
        assert rejection(refused) is None
        with pytest.raises(Unanswerable, match="does not name one host"):
            unreachable(refused)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_programs_on_this_host_are_answered(address: str) -> None:
    assert rejection(build_udp(ip_address(address), ip_address(address), 4000, 53)) is not None


@pytest.mark.parametrize(("pair", "protocol"), [(V4, Protocol.ICMP), (V6, Protocol.ICMPV6)])
def test_icmp_errors_are_not_answered(pair: Pair, protocol: Protocol) -> None:
    unanswered = {
        kind for kind in range(256) if rejection(build_ip(*pair, protocol, bytes([kind]) + bytes(7))) is None
    }
    assert unanswered == ({3, 4, 5, 11, 12} if pair is V4 else {*range(128), 137})


@BOTH
def test_later_fragments_are_not_answered_but_first_ones_are(pair: Pair) -> None:
    def fragment(offset: int, segment: bytes, protocol: int) -> bytes:
        if pair is V6:
            return build_ip(*pair, 44, struct.pack("!BBHI", protocol, 0, offset << 3 | 1, 0) + segment)
        data = bytearray(build_ip(*pair, protocol, segment))
        data[6:8] = (0x2000 | offset).to_bytes(2, "big")
        return bytes(data)

    udp = struct.pack("!HHHH", 1, 2, 2000, 0) + bytes(16)
    assert rejection(fragment(0, udp, Protocol.UDP)) is not None
    assert rejection(fragment(3, udp, Protocol.UDP)) is None
    assert rejection(fragment(3, bytes(24), Protocol.TCP)) is None


@given(payloads)
def test_an_answer_is_never_answered(payload: bytes) -> None:
    for pair in (V4, V6):
        for refused in (
            build_udp(*pair, 1, 2, payload),
            build_tcp(*pair, 1, 2, TcpFlag.SYN, payload=payload),
        ):
            answer = rejection(refused)
            assert answer is not None
            assert rejection(answer) is None


@given(hostile_packets())
@settings(max_examples=500 * FUZZ)
def test_hostile_packets_get_a_sound_answer_or_none(data: bytes) -> None:
    try:
        answer = rejection(data)
    except MalformedPacket:
        return
    if answer is not None:
        assert_returns(answer, data)
        assert len(answer) <= 1280


@given(st.integers(0, 255))
def test_each_combination_of_flags(flags: int) -> None:
    answer = rejection(build_tcp(*V4, 1, 2, flags))
    assert (answer is None) == bool(flags & TcpFlag.RST)
