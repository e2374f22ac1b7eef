"""lab/plan.py: the map is consistent."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from tidewaiter.lab import plan


def test_addresses_are_of_one_network_and_no_two_alike() -> None:
    places = [plan.CLIENT, *plan.SERVERS]
    four = ipaddress.ip_network(f"{plan.CLIENT.v4}/{plan.PREFIX.v4}", strict=False)
    six = ipaddress.ip_network(f"{plan.CLIENT.v6}/{plan.PREFIX.v6}", strict=False)
    assert all(ipaddress.ip_address(place.v4) in four for place in places)
    assert all(ipaddress.ip_address(place.v6) in six for place in places)
    assert len({address for place in places for address in place}) == 2 * len(places)


def test_every_variable_comes_in_both_families() -> None:
    variables = plan.environment()
    for name in ("LAB_HTTP", "LAB_TLS", "LAB_DNS", "LAB_TCP_ECHO", "LAB_UDP_ECHO"):
        for suffix, version in (("", 4), ("6", 6)):
            text = variables.pop(name + suffix)
            parts = urlsplit(text if "://" in text else f"//{text}")
            assert parts.hostname is not None
            assert ipaddress.ip_address(parts.hostname).version == version
            assert parts.port in set(plan.Port)
    assert not variables


def test_urls_and_addresses_read_as_promised() -> None:
    variables = plan.environment()
    assert variables["LAB_HTTP"] == "http://10.77.0.10:80/"
    assert variables["LAB_TLS6"] == "https://[fd77::11]:443/"
    assert variables["LAB_UDP_ECHO"] == "10.77.0.12:7"
    assert variables["LAB_DNS6"] == "[fd77::13]:53"
