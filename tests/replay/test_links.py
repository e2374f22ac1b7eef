"""replay/links.py: the IP packet in a frame."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captures import ethernet, ethertype
from tidewaiter.model.packet import build_udp
from tidewaiter.replay.links import Link, ip_packet

V4 = build_udp(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 4000, 53, b"question")
V6 = build_udp(ip_address("2001:db8::1"), ip_address("2001:db8::2"), 4000, 53, b"question")
ARP = bytes(12) + b"\x08\x06" + bytes(28)
COOKED = bytes(14)
COOKED_2 = bytes(18)


@pytest.mark.parametrize("packet", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("tags", [(), (0x8100,), (0x88A8, 0x8100), (0x9100,)])
def test_ethernet_with_and_without_tags(packet: bytes, tags: tuple[int, ...]) -> None:
    assert ip_packet(Link.ETHERNET, ethernet(packet, *tags)) == packet


@pytest.mark.parametrize("packet", [V4, V6], ids=["v4", "v6"])
def test_linux_cooked(packet: bytes) -> None:
    assert ip_packet(Link.LINUX_COOKED, COOKED + ethertype(packet) + packet) == packet
    assert ip_packet(Link.LINUX_COOKED_2, ethertype(packet) + COOKED_2 + packet) == packet
    tagged = b"\x81\x00" + COOKED_2 + b"\x00\x05" + ethertype(packet) + packet
    assert ip_packet(Link.LINUX_COOKED_2, tagged) == packet


@pytest.mark.parametrize("link", [Link.RAW, Link.RAW_BSD, Link.IPV4])
def test_raw(link: Link) -> None:
    assert ip_packet(link, V4) == V4
    assert ip_packet(link, b"\xff" + V4) is None
    assert ip_packet(Link.IPV6, V6) == V6


@pytest.mark.parametrize("family", ["02000000", "00000002"])
def test_loopback_of_either_byte_order(family: str) -> None:
    assert ip_packet(Link.NULL, bytes.fromhex(family) + V4) == V4
    assert ip_packet(Link.LOOP, bytes.fromhex(family) + V4) == V4


@pytest.mark.parametrize("family", [10, 24, 28, 30])
def test_every_number_of_ipv6_on_a_loopback(family: int) -> None:
    assert ip_packet(Link.NULL, family.to_bytes(4, "little") + V6) == V6


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (Link.ETHERNET, ARP),
        (Link.ETHERNET, bytes(12) + b"\x00\x26" + V4),  # IEEE 802.3: a length
        (Link.ETHERNET, ethernet(V4)[:13]),
        (Link.ETHERNET, ethernet(V4)[:14]),
        (Link.ETHERNET, ethernet(V4, 0x8100)[:17]),
        (Link.ETHERNET, bytes(12) + b"\x08\x00" + ARP),
        (Link.NULL, b"\x07\x00\x00\x00" + V4),
        (Link.NULL, b"\x02\x00"),
        (Link.RAW, b""),
        (147, V4),
    ],
)
def test_no_packet(link: int, frame: bytes) -> None:
    assert ip_packet(link, frame) is None


@given(st.sampled_from([*Link, 2, 65535]), st.binary(max_size=60))
def test_hostile_frames(link: int, frame: bytes) -> None:
    packet = ip_packet(link, frame)
    assert packet is None or (frame.endswith(packet) and packet[0] >> 4 in (4, 6))
