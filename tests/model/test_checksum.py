"""The internet checksum against RFC 1071's own words and example."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from strategies import pairs_of_addresses
from tidewaiter.model.checksum import (
    internet_checksum,
    pseudo_header_sum,
    transport_checksum,
    transport_sum,
)
from tidewaiter.model.key import Address, Protocol


def word_by_word(data: bytes) -> int:
    """RFC 1071 section 4.1: add words, fold the carries, complement."""
    total = 0
    padded = data + bytes(len(data) % 2)
    for at in range(0, len(padded), 2):
        total += padded[at] << 8 | padded[at + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_example_of_the_rfc() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def test_header_seen_on_the_wire() -> None:
    header = "450000730000400040110000c0a80001c0a800c7"
    assert internet_checksum(bytes.fromhex(header)) == 0xB861
    assert internet_checksum(bytes.fromhex(header.replace("40110000", "4011b861"))) == 0


def test_two_zeros() -> None:
    assert internet_checksum(b"") == 0xFFFF
    assert internet_checksum(bytes(20)) == 0xFFFF
    assert internet_checksum(b"\xff\xff") == 0
    assert internet_checksum(b"\xff\xfe\x00\x01") == 0


def test_odd_length_is_padded_behind() -> None:
    assert internet_checksum(b"\x12\x34\x56") == internet_checksum(b"\x12\x34\x56\x00")


@given(st.binary(max_size=200) | st.binary(max_size=20).map(lambda data: bytes(len(data)) + data))
def test_same_as_word_by_word(data: bytes) -> None:
    assert internet_checksum(data) == word_by_word(data)


@given(st.binary(max_size=80), st.binary(max_size=20).map(lambda data: data + data))
def test_initial_is_the_sum_of_what_went_before(data: bytes, before: bytes) -> None:
    assert internet_checksum(data, int.from_bytes(before, "big")) == word_by_word(before + data)


@given(pairs_of_addresses(), st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=40))
def test_pseudo_header_as_bytes(
    pair: tuple[Address, Address], protocol: int, length: int, data: bytes
) -> None:
    source, destination = pair
    width = 2 if source.version == 4 else 4
    pseudo = (
        source.packed + destination.packed + length.to_bytes(width, "big") + protocol.to_bytes(width, "big")
    )
    begin = pseudo_header_sum(source, destination, protocol, length)
    assert internet_checksum(data, begin) == word_by_word(pseudo + data)


def test_icmp_covers_no_pseudo_header() -> None:
    source, destination = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    assert transport_sum(source, destination, Protocol.ICMP, 8) == 0
    assert transport_sum(source, destination, Protocol.TCP, 8) != 0
    assert transport_sum(ip_address("::1"), ip_address("::1"), Protocol.ICMPV6, 8) == 2 + 58 + 8


def test_udp_sends_no_zero_but_tcp_does() -> None:
    source, destination = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    for protocol, expected in ((Protocol.UDP, 0xFFFF), (Protocol.TCP, 0)):
        rest = internet_checksum(b"", transport_sum(source, destination, protocol, 2))
        assert transport_checksum(source, destination, protocol, rest.to_bytes(2, "big")) == expected


@given(pairs_of_addresses(), st.sampled_from([6, 17, 58]), st.binary(max_size=60))
def test_a_segment_with_its_checksum_sums_to_zero(
    pair: tuple[Address, Address], protocol: int, segment: bytes
) -> None:
    checksum = transport_checksum(*pair, protocol, b"\x00\x00" + segment)
    whole = checksum.to_bytes(2, "big") + segment
    assert internet_checksum(whole, transport_sum(*pair, protocol, len(whole))) == 0
