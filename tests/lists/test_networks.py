"""The set of networks: the longest prefix decides, and the ranges come out again as prefixes."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listing import network_entries
from tidewaiter.lists import networks
from tidewaiter.lists.entry import Network, NetworkEntry, Say, listed
from tidewaiter.lists.networks import NetworkSet, unmapped


def made(*many: NetworkEntry) -> NetworkSet:
    records = {4: bytearray(), 6: bytearray()}
    for entry in many:
        records[entry.network.version] += networks.record(entry)
    return networks.build(records[4], records[6])


def listing(*texts: str) -> NetworkSet:
    """A text with ``not`` in front is an exception."""
    return made(
        *(
            NetworkEntry(ip_network(text.removeprefix("not ")), Say.EXEMPT if "not" in text else Say.LISTED)
            for text in texts
        )
    )


def test_an_address_is_listed_by_any_network_of_its_family() -> None:
    one = listing("192.0.2.0/24", "2001:db8::/32", "10.0.0.1/32")
    for inside in ("192.0.2.0", "192.0.2.255", "2001:db8:ffff::1", "10.0.0.1", "::ffff:192.0.2.7"):
        assert ip_address(inside) in one
    for outside in ("192.0.1.255", "192.0.3.0", "2001:db9::", "10.0.0.2", "::192.0.2.7", "::ffff:10.0.0.0"):
        assert ip_address(outside) not in one


def test_the_longest_prefix_decides() -> None:
    one = listing("10.0.0.0/8", "not 10.1.0.0/16", "10.1.2.0/24", "not 10.1.2.3/32")
    answers = {
        text: ip_address(text) in one for text in ("10.0.0.0", "10.1.0.0", "10.1.2.0", "10.1.2.3", "10.2.0.0")
    }
    assert answers == {
        "10.0.0.0": True,
        "10.1.0.0": False,
        "10.1.2.0": True,
        "10.1.2.3": False,
        "10.2.0.0": True,
    }


def test_networks_that_touch_become_one_range() -> None:
    one = listing("10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24", "10.0.0.7/32")
    assert len(one) == 1
    assert list(one) == [ip_network("10.0.0.0/23")]


def test_all_addresses_can_be_a_range() -> None:
    one = listing("0.0.0.0/0", "::/0", "not 255.255.255.255/32")
    assert ip_address("::") in one
    assert ip_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff") in one
    assert ip_address("255.255.255.255") not in one
    assert list(one.prefixes(6)) == [(0, 0)]
    assert len(list(one.prefixes(4))) == 32


@given(st.lists(network_entries(4) | network_entries(6), max_size=12))
def test_prefixes_are_what_the_longest_prefix_says(many: list[NetworkEntry]) -> None:
    one = made(*many)
    prefixes: list[Network] = list(one)
    said: dict[Network, int] = {}
    for entry in many:
        said[entry.network] = said.get(entry.network, 0) | entry.flags
    for entry in many:
        size = entry.network.num_addresses
        for address in (entry.network[0], entry.network[-1], entry.network[size // 2]):
            if address.version == 6 and address.ipv4_mapped:
                continue  # is an IPv4 address, whatever IPv6 networks say
            holders = [network for network in said if address in network]
            nearest = max(holders, key=lambda network: network.prefixlen)
            assert (address in one) is listed(said[nearest])
            assert sum(address in prefix for prefix in prefixes) == (address in one)
    assert sum(prefix.num_addresses for prefix in prefixes) == _addresses(one)


def _addresses(one: NetworkSet) -> int:
    total = 0
    for ranges, width in ((one.ranges4, 4), (one.ranges6, 16)):
        half = len(ranges) // 2
        for at in range(0, half, width):
            first, last = ranges[at : at + width], ranges[half + at : half + at + width]
            total += int.from_bytes(last, "big") - int.from_bytes(first, "big") + 1
    return total


@pytest.mark.parametrize(
    ("network", "meant"),
    [
        (IPv6Network("::ffff:192.0.2.0/120"), IPv4Network("192.0.2.0/24")),
        (IPv6Network("::ffff:0:0/96"), IPv4Network("0.0.0.0/0")),
        (IPv6Network("::fffe:0:0/95"), IPv6Network("::fffe:0:0/95")),
        (IPv6Network("2001:db8::/32"), IPv6Network("2001:db8::/32")),
        (IPv4Network("192.0.2.0/24"), IPv4Network("192.0.2.0/24")),
    ],
)
def test_ipv4_inside_of_ipv6_is_ipv4(network: Network, meant: Network) -> None:
    assert unmapped(network) == meant


@pytest.mark.parametrize("ranges", [(b"1234567", b""), (b"", bytes(31))])
def test_other_bytes_are_no_ranges(ranges: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="no ranges"):
        NetworkSet(*ranges)
