"""names/resolvers.py: DNS that hides itself is known by port, protocol, name and address."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tidewaiter.model.name import NO_NAME, By, Hidden, Name
from tidewaiter.names.resolvers import (
    ADDRESSES,
    ZONES,
    EncryptedDns,
    asks_for_others,
    encrypted_dns,
    resolves_in_secret,
)
from tidewaiter.names.spelling import host_name

ELSEWHERE = ip_address("192.0.2.1")


@pytest.mark.parametrize(
    ("port", "remote", "name", "hidden"),
    [
        (443, "192.0.2.1", NO_NAME, None),
        (443, "192.0.2.1", Name("www.example", By.TLS, protocols=("h2",)), None),
        (853, "192.0.2.1", NO_NAME, Hidden.DOT),
        (8853, "192.0.2.1", Name("", protocols=("dot",)), Hidden.DOT),
        (784, "192.0.2.1", Name("", protocols=("h3", "doq")), Hidden.DOT),
        (443, "192.0.2.1", Name("dns.google", By.TLS), Hidden.DOH),
        (443, "192.0.2.1", Name("abc123.dns.nextdns.io", By.QUIC), Hidden.DOH),
        (
            443,
            "192.0.2.1",
            Name("my.alias.example", By.DNS, chain=("mozilla.cloudflare-dns.com",)),
            Hidden.DOH,
        ),
        (443, "1.1.1.1", NO_NAME, Hidden.DOH),
        (443, "2620:fe::fe", NO_NAME, Hidden.DOH),
        (53, "1.1.1.1", NO_NAME, None),
    ],
)
def test_encrypted_dns(port: int, remote: str, name: Name, hidden: Hidden | None) -> None:
    assert encrypted_dns(port, ip_address(remote), name) is hidden


def test_a_zone_ends_at_a_dot() -> None:
    assert resolves_in_secret("quad9.net")
    assert resolves_in_secret("dns10.quad9.net")
    assert not resolves_in_secret("notquad9.net")
    assert not resolves_in_secret("net")
    assert not resolves_in_secret("")


def test_the_data_is_spelled_as_names_are() -> None:
    assert all(host_name(zone.encode()) == zone for zone in ZONES)
    assert not any(resolves_in_secret(zone.partition(".")[2]) for zone in ZONES)  # none within another
    assert ELSEWHERE not in ADDRESSES
    assert all(address.is_global for address in ADDRESSES)


def test_programs_that_resolve_for_others() -> None:
    assert asks_for_others("/usr/lib/systemd/systemd-resolved")
    assert not asks_for_others("/usr/bin/curl")
    assert not asks_for_others("")


def test_they_are_a_list_that_rules_may_name() -> None:
    known = EncryptedDns()
    address, other = ip_address("1.1.1.1"), ip_address("192.0.2.1")
    assert known.contains_address(address)
    assert not known.contains_address(other)
    assert known.contains_name("eu.dns.google")
    assert not known.contains_name("google")
    assert known.has(address.packed, ())
    assert known.has(other.packed, ("www.example", "dns.google"))
    assert not known.has(other.packed, ("www.example",))
    assert known.by_name
