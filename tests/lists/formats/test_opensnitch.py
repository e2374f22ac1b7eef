"""The lists of OpenSnitch."""

from __future__ import annotations

import pytest

from tidewaiter.lists.entry import BELOW, NameEntry, Say
from tidewaiter.lists.formats.opensnitch import parse_domains, parse_networks


@pytest.mark.parametrize(
    ("line", "name", "scope"),
    [
        ("0.0.0.0 ads.example", "ads.example", 1),
        ("127.0.0.1\tAds.Example  # a comment", "ads.example", 1),
        ("0.0.0.0 printer", "printer", 1),
        ("0.0.0.0 *.wild.example", "wild.example", BELOW),
        ("0.0.0.0 .dot.example", "dot.example", BELOW),
    ],
)
def test_a_line_with_one_name_lists_it(line: str, name: str, scope: int) -> None:
    assert parse_domains(line) == [NameEntry(name, Say.LISTED * scope)]


@pytest.mark.parametrize(
    "line",
    [
        "plain.example.com",
        "0.0.0.0 ads?.example",
        "0.0.0.0 a.example b.example",
        "0.0.0.0",
        "::1 a.example",
        "127.0.0.1 localhost",
        "0.0.0.0 broadcasthost",
        "# a comment",
        "<html>",
    ],
)
def test_every_other_line_lists_nothing(line: str) -> None:
    assert parse_domains(line) == []


@pytest.mark.parametrize(
    ("line", "networks"),
    [
        ("8.8.8.8/24", ["8.8.8.0/24"]),
        ("9.9.9.9", ["9.9.9.9/32"]),
        ("2001:db8::1/32 # a comment", ["2001:db8::/32"]),
        ("::ffff:192.0.2.1", ["192.0.2.1/32"]),
        ("0.0.0.0/0", ["0.0.0.0/1", "128.0.0.0/1"]),
        ("fe80::1%eth0", []),
        ("192.0.2.1-192.0.2.9", []),
        ("10.0.0.0/33", []),
        ("not an address", []),
    ],
)
def test_a_network_without_the_bits_behind_its_prefix(line: str, networks: list[str]) -> None:
    assert [str(entry.network) for entry in parse_networks(line)] == networks
