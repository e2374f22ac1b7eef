"""Lists of networks."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tidewaiter.lists.entry import LineError, NetworkEntry, Say
from tidewaiter.lists.formats.networks import parse


@pytest.mark.parametrize(
    ("line", "networks"),
    [
        ("192.0.2.1", ["192.0.2.1/32"]),
        (" 192.0.2.0/24 ; SBL1", ["192.0.2.0/24"]),
        ("2001:DB8::/32# x", ["2001:db8::/32"]),
        ("::ffff:192.0.2.0/120", ["192.0.2.0/24"]),
        ("192.0.2.1-192.0.2.4", ["192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/32"]),
        ("2001:db8:: - 2001:db8::1", ["2001:db8::/127"]),
        ("  ; x", []),
    ],
)
def test_a_line_lists_networks(line: str, networks: list[str]) -> None:
    assert parse(line) == [NetworkEntry(ip_network(network), Say.LISTED) for network in networks]


@pytest.mark.parametrize(
    ("line", "column", "sentence"),
    [
        ("ads.example", 1, "'ads.example' is no address and no network"),
        (" 192.0.2.1/24", 2, "'192.0.2.1/24' has bits behind its prefix: write 192.0.2.0/24 or 192.0.2.1"),
        ("192.0.2.0/33", 1, "'192.0.2.0/33' is no network: a prefix has at most 32 bits"),
        ("192.0.2.0/x", 1, "'192.0.2.0/x' is no network: the length of its prefix is not a number"),
        ("192.0.2.0/", 1, "'192.0.2.0/' is no network: the length of its prefix is not a number"),
        ("::/0", 1, "'::/0' is every address"),
        ("0.0.0.0-255.255.255.255", 1, "'0.0.0.0-255.255.255.255' is every address"),
        ("fe80::1%eth0", 1, "'fe80::1%eth0' is no address and no network"),
        ("192.0.2.1 192.0.2.2", 11, "'192.0.2.2' is too much: write one network a line"),
        ("192.0.2.2-192.0.2.1", 1, "'192.0.2.2-192.0.2.1' is no range: it ends before it begins"),
        ("192.0.2.2-::1", 1, "'192.0.2.2-::1' is no range: write two addresses of one family"),
        (
            "192.0.2.0/24-192.0.2.1",
            1,
            "'192.0.2.0/24-192.0.2.1' is no range: write two addresses of one family",
        ),
    ],
)
def test_a_bad_line_says_where_and_why(line: str, column: int, sentence: str) -> None:
    with pytest.raises(LineError) as error:
        parse(line)
    assert (error.value.column, error.value.sentence) == (column, sentence)
