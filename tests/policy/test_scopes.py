"""Scopes: every address has exactly one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy.scopes import SCOPES, scope_of, without


@given(st.ip_addresses())
def test_every_address_has_one_scope(address: IPv4Address | IPv6Address) -> None:
    found = [word for word, nets in SCOPES.items() for network in nets if address in network]
    assert found == [scope_of(address)]


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("127.1.2.3", "localhost"), ("::1", "localhost"), ("169.254.1.1", "link"), ("fe80::1", "link"),
        ("10.0.0.1", "lan"),
        ("100.64.0.1", "lan"), ("172.32.0.1", "internet"), ("fd00::1", "lan"), ("239.1.1.1", "multicast"),
        ("255.255.255.255", "multicast"), ("ff02::1", "multicast"), ("8.8.8.8", "internet"),
        ("2001:db8::1", "internet"),
    ],
)  # fmt: skip
def test_examples(address: str, scope: str) -> None:
    assert scope_of(ip_address(address)) == scope


def test_a_network_without_another() -> None:
    whole = [ip_network("10.0.0.0/30")]
    left = sorted(map(str, without(whole, ip_network("10.0.0.1"))))
    assert left == ["10.0.0.0/32", "10.0.0.2/31"]
    assert without(whole, ip_network("10.0.0.0/8")) == []
    assert without(whole, ip_network("::/0")) == whole
