"""Reading and building packets."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import (
    FUZZ,
    Made,
    damaged_packets,
    hostile_packets,
    packets,
    pairs_of_addresses,
    payloads,
    ports,
)
from tidewaiter.model.key import Address, Protocol
from tidewaiter.model.packet import (
    MAX_EXTENSIONS,
    Extension,
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

# As Linux sent them over its loopback device, in answer to a datagram to port 9.
PORT_UNREACHABLE_4 = bytes.fromhex(
    "45c0003a1c04000040015ffd7f0000017f0000010303d13100000000"
    "4500001eacb54000401190177f0000017f000001c5300009000afe1d6869"
)
PORT_UNREACHABLE_6 = bytes.fromhex(
    "6003ac5e003a3a4000000000000000000000000000000001000000000000000000000000000000010104a88200000000"
    "6007f77e000a1140000000000000000000000000000000010000000000000000000000000000000184970009000a001d6869"
)


@given(packets())
def test_finds_what_went_in(made: Made) -> None:
    packet = parse_packet(made.data)
    transport, later = made.transport, made.later_fragment
    assert packet.version == made.source.version
    assert (packet.source, packet.destination) == (made.source, made.destination)
    assert packet.protocol == transport.protocol
    assert packet.transport_offset == made.transport_offset
    assert packet.payload_offset == made.transport_offset + (0 if later else transport.header)
    assert (packet.fragment, packet.later_fragment) == (made.fragment, later)
    ports_there = (0, 0) if later else (transport.source_port, transport.destination_port)
    assert (packet.source_port, packet.destination_port) == ports_there
    assert packet.tcp_flags == (0 if later else transport.tcp_flags)
    assert packet.length == len(made.data)
    assert packet.payload == transport.segment[0 if later else transport.header :]
    assert packet.payload_length == len(packet.payload)
    if packet.icmp_type is not None:
        assert (packet.icmp_type, packet.icmp_code) == (transport.segment[0], transport.segment[1])


@given(hostile_packets())
@settings(max_examples=500 * FUZZ)
def test_hostile_bytes_give_a_packet_or_one_sentence(data: bytes) -> None:
    try:
        packet = parse_packet(data)
    except MalformedPacket as error:
        assert "\n" not in str(error)
        return
    assert packet.payload_offset <= packet.end
    assert packet.payload_length >= len(packet.payload)
    assert packet.payload in data
    assert str(packet)
    verify_checksums(data)


@given(damaged_packets())
def test_the_kind_of_buffer_does_not_matter(data: bytes) -> None:
    try:
        packet = parse_packet(data)
    except MalformedPacket:
        with pytest.raises(MalformedPacket):
            parse_packet(memoryview(data))
    else:
        again = parse_packet(memoryview(bytearray(data)))
        assert again == packet
        assert isinstance(again.data, bytes)


@given(packets(), st.binary(min_size=1, max_size=20))
def test_padding_is_not_payload(made: Made, padding: bytes) -> None:
    assert parse_packet(made.data + padding).payload == parse_packet(made.data).payload


@given(packets(), st.data())
def test_may_be_cut_behind_the_transport_header(made: Made, data: st.DataObject) -> None:
    whole = parse_packet(made.data)
    needed = whole.payload_offset
    if whole.protocol == Protocol.TCP and not whole.later_fragment:
        needed = whole.transport_offset + 20  # the options may be missing
    size = data.draw(st.integers(needed, len(made.data)))
    cut = parse_packet(made.data[:size])
    assert cut.payload_length == whole.payload_length
    assert cut.payload == made.data[:size][whole.payload_offset : whole.end]
    assert (cut.source_port, cut.destination_port) == (whole.source_port, whole.destination_port)


def test_packets_of_linux() -> None:
    packet = parse_packet(PORT_UNREACHABLE_4)
    assert str(packet) == "icmp 127.0.0.1 > 127.0.0.1 type 3 code 3, 30 bytes"
    assert str(parse_packet(packet.payload)) == "udp 127.0.0.1:50480 > 127.0.0.1:9, 2 bytes"
    packet = parse_packet(PORT_UNREACHABLE_6)
    assert str(packet) == "icmpv6 ::1 > ::1 type 1 code 4, 50 bytes"
    assert str(parse_packet(packet.payload)) == "udp [::1]:33943 > [::1]:9, 2 bytes"
    assert verify_checksums(PORT_UNREACHABLE_4)
    assert verify_checksums(PORT_UNREACHABLE_6)


def test_text_of_tcp_and_fragments() -> None:
    data = bytearray(build_tcp(*V4, 4000, 80, TcpFlag.SYN | TcpFlag.ACK, payload=b"hello"))
    assert str(parse_packet(data)) == "tcp 192.0.2.1:4000 > 198.51.100.2:80 SYN|ACK, 5 bytes"
    data[6:8] = b"\x20\x00"
    assert str(parse_packet(data)).endswith("SYN|ACK first fragment, 5 bytes")
    data[6:8] = b"\x00\x01"
    assert str(parse_packet(data)) == "tcp 192.0.2.1 > 198.51.100.2 later fragment, 25 bytes"


TCP = struct.pack("!HHIIBBHHH", 4000, 443, 1, 0, 5 << 4, TcpFlag.SYN, 0, 0, 0)
TO_TCP = bytes([Protocol.TCP, 0]) + bytes(6)


@pytest.mark.parametrize("kind", [e for e in Extension if e is not Extension.FRAGMENT])
def test_each_extension_header_is_walked(kind: Extension) -> None:
    size = 12 if kind == Extension.AUTHENTICATION else 16
    packet = parse_packet(build_ip(*V6, kind, bytes([Protocol.TCP, 1]) + bytes(size - 2) + TCP))
    assert (packet.protocol, packet.transport_offset, packet.destination_port) == (6, 40 + size, 443)


@pytest.mark.parametrize("protocol", [50, 59, 47])
def test_the_walk_ends_at_what_leads_nowhere(protocol: int) -> None:
    packet = parse_packet(build_ip(*V6, 60, bytes([protocol, 0]) + bytes(6) + TCP))
    assert (packet.protocol, packet.source_port) == (protocol, 0)
    assert packet.payload == TCP


def test_no_more_than_the_limit_of_extension_headers() -> None:
    eight = bytes([60, 0, 0, 0, 0, 0, 0, 0]) * (MAX_EXTENSIONS - 1)
    assert parse_packet(build_ip(*V6, 60, eight + TO_TCP + TCP)).destination_port == 443
    with pytest.raises(MalformedPacket, match="more than 8 IPv6 extension headers"):
        parse_packet(build_ip(*V6, 60, eight + bytes([60]) + bytes(7) + TO_TCP + TCP))


@pytest.mark.parametrize(
    ("field", "fragment", "later"),
    [
        (0x4000, False, False),
        (0x8000, False, False),
        (0x2000, True, False),
        (0x0001, True, True),
        (0x1000, True, True),
    ],
)
def test_fragments_of_ipv4(field: int, fragment: bool, later: bool) -> None:
    data = bytearray(build_ip(*V4, Protocol.TCP, TCP))
    data[6:8] = field.to_bytes(2, "big")
    packet = parse_packet(data)
    assert (packet.fragment, packet.later_fragment) == (fragment, later)
    assert packet.source_port == (0 if later else 4000)
    assert packet.payload_offset == (20 if later else 40)


@pytest.mark.parametrize(
    ("field", "fragment", "later"),
    [(0x0000, False, False), (0x0001, True, False), (0x0008, True, True), (0xFFF9, True, True)],
)
def test_fragments_of_ipv6(field: int, fragment: bool, later: bool) -> None:
    header = bytes([Protocol.TCP, 0xFF]) + field.to_bytes(2, "big") + bytes(4)
    packet = parse_packet(build_ip(*V6, Extension.FRAGMENT, header + TCP))
    assert (packet.fragment, packet.later_fragment) == (fragment, later)
    assert packet.source_port == (0 if later else 4000)
    assert packet.payload_offset == (48 if later else 68)


def test_a_later_fragment_is_not_walked_on() -> None:
    header = bytes([Extension.DESTINATION, 0, 0, 8]) + bytes(4)
    packet = parse_packet(build_ip(*V6, Extension.FRAGMENT, header + TO_TCP + TCP))
    assert (packet.protocol, packet.payload) == (Extension.DESTINATION, TO_TCP + TCP)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "0 bytes are too few for an IP header"),
        (bytes([0x50]) + bytes(40), "IP version 5 is neither 4 nor 6"),
        (bytes([0x60]) + bytes(38), "39 bytes are too few for an IPv6 header"),
        (bytes([0x44]) + bytes(40), "an IPv4 header of 16 bytes is too short"),
        (build_udp(*V4, 1, 2)[:27], "the headers end at byte 28, but the packet ends at byte 27"),
        (build_ip(*V4, 6, TCP[:12] + bytes([0x40]) + TCP[13:]), "a TCP header of 16 bytes is too short"),
        (build_ip(*V4, 6, TCP[:12] + bytes([0x60]) + TCP[13:]), "end at byte 44, but .* ends at byte 40"),
        (build_ip(*V6, 60, bytes([6, 9]) + bytes(6)), "end at byte 140, but the packet ends at byte 48"),
        (bytes([0x45, 0, 0, 19]) + bytes(16), "end at byte 20, but the packet ends at byte 19"),
    ],
)
def test_malformed(data: bytes, sentence: str) -> None:
    with pytest.raises(MalformedPacket, match=sentence):
        parse_packet(data)


@pytest.mark.parametrize(("pair", "at", "length"), [(V4, 2, 0), (V6, 4, 40)])
def test_a_segment_too_large_for_the_length_field(
    pair: tuple[Address, Address], at: int, length: int
) -> None:
    data = bytearray(build_tcp(*pair, 4000, 443, TcpFlag.ACK, payload=b"hello"))
    data[at : at + 2] = b"\0\0"
    packet = parse_packet(data)
    assert (packet.length, packet.payload, packet.payload_length) == (length, b"hello", 5)


def test_what_follows_a_datagram_is_not_payload() -> None:
    data = build_ip(*V4, Protocol.UDP, struct.pack("!HHHH", 1, 2, 8 + 2, 0) + b"hi" + b"options")
    assert parse_packet(data).payload == b"hi"
    wrong = build_ip(*V4, Protocol.UDP, struct.pack("!HHHH", 1, 2, 4000, 0) + b"hi")
    assert parse_packet(wrong).payload == b"hi"


@given(pairs_of_addresses(), ports, ports, st.integers(0, 255), payloads)
def test_built_tcp(
    pair: tuple[Address, Address], source_port: int, destination_port: int, flags: int, payload: bytes
) -> None:
    data = build_tcp(*pair, source_port, destination_port, flags, sequence=7, window=9, payload=payload)
    packet = parse_packet(data)
    assert (packet.source, packet.destination) == pair
    assert (packet.source_port, packet.destination_port) == (source_port, destination_port)
    assert (packet.tcp_flags, packet.payload, packet.fragment) == (flags, payload, False)
    assert verify_checksums(data)


@given(pairs_of_addresses(), ports, ports, payloads)
def test_built_udp(
    pair: tuple[Address, Address], source_port: int, destination_port: int, payload: bytes
) -> None:
    data = build_udp(*pair, source_port, destination_port, payload)
    packet = parse_packet(data)
    assert (packet.source, packet.destination) == pair
    assert (packet.source_port, packet.destination_port) == (source_port, destination_port)
    assert packet.payload == payload
    assert verify_checksums(data)


@pytest.mark.parametrize("pair", [V4, V6])
def test_the_largest_datagram(pair: tuple[Address, Address]) -> None:
    room = (65515 if pair is V4 else 65535) - 8
    assert parse_packet(build_udp(*pair, 1, 2, bytes(room))).payload_length == room
    with pytest.raises(ValueError, match="do not fit into an IP packet"):
        build_udp(*pair, 1, 2, bytes(room + 1))


def test_one_address_family_in_a_packet() -> None:
    with pytest.raises(ValueError, match="two address families"):
        build_udp(V4[0], V6[0], 1, 2)


@given(pairs_of_addresses(), st.sampled_from([6, 17, 58]), payloads, st.data())
def test_a_changed_bit_is_noticed(
    pair: tuple[Address, Address], protocol: int, payload: bytes, data: st.DataObject
) -> None:
    headers = {6: TCP, 17: struct.pack("!HHHH", 1, 2, 8 + len(payload), 0), 58: bytes([128]) + bytes(7)}
    packet = bytearray(build_ip(*pair, protocol, headers[protocol] + payload))
    assert verify_checksums(packet)
    # Addresses and what follows them, but not the length field of UDP, which decides what is summed.
    addresses = 12 if pair[0].version == 4 else 8
    start = parse_packet(packet).transport_offset
    places = [at for at in range(addresses, len(packet)) if at - start not in (4, 5, 6, 7, 12)]
    packet[data.draw(st.sampled_from(places))] ^= 1 << data.draw(st.integers(0, 7))
    assert not verify_checksums(packet)


def test_checksums_that_cannot_be_verified_are_not_wrong() -> None:
    data = build_udp(*V4, 1, 2, b"hello")
    assert verify_checksums(data[:-1])
    for pair, right in ((V4, True), (V6, False)):
        without = bytearray(build_udp(*pair, 1, 2, b"hello"))
        at = parse_packet(without).transport_offset + 6
        without[at : at + 2] = b"\0\0"
        assert verify_checksums(without) is right
    fragment = bytearray(build_ip(*V6, Extension.FRAGMENT, bytes([17, 0, 0, 1]) + bytes(4) + TCP))
    assert verify_checksums(fragment)
    assert verify_checksums(build_ip(*V4, Protocol.SCTP, bytes(12)))
    assert not verify_checksums(data[:8] + bytes([data[8] - 1]) + data[9:])
