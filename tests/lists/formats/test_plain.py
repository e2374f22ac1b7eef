"""Plain names in their two readings."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tidewaiter.lists.entry import BELOW, SELF, ZONE, LineError, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats.plain import parse_domains, parse_zones


@pytest.mark.parametrize(
    ("line", "name", "scope"),
    [
        ("ads.example", "ads.example", SELF),
        (" Ads.Example. # a comment", "ads.example", SELF),
        (".ads.example", "ads.example", ZONE),
        ("*.ads.example", "ads.example", BELOW),
        ("*.zip", "zip", BELOW),
        ("1.2.3.example", "1.2.3.example", SELF),
    ],
)
def test_a_line_lists_a_name_or_more_as_it_is_written(line: str, name: str, scope: int) -> None:
    assert parse_domains(line) == [NameEntry(name, Say.LISTED * scope)]
    assert parse_zones(line) == [NameEntry(name, Say.LISTED * ZONE)]


@pytest.mark.parametrize("line", ["192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "2001:db8::1"])
def test_an_address_is_one(line: str) -> None:
    assert parse_domains(line) == parse_zones(line) == [NetworkEntry(ip_network(line), Say.LISTED)]


def test_a_comment_lists_nothing() -> None:
    assert parse_domains("  # x") == []


@pytest.mark.parametrize(
    ("line", "column", "sentence"),
    [
        ("a.example b.example", 11, "'b.example' is too much: write one name a line"),
        (" com", 2, "'com' is no host name of a domain: it has one part only"),
        (
            "http://a.example/",
            1,
            "'http://a.example/' is no network: the length of its prefix is not a number",
        ),
        ("ads*.example", 1, "'ads*.example' is no host name: '*' cannot be in one"),
        ("192.0.2.300", 1, "'192.0.2.300' is no address and no network"),
    ],
)
def test_a_bad_line_says_where_and_why(line: str, column: int, sentence: str) -> None:
    for parse in (parse_domains, parse_zones):
        with pytest.raises(LineError) as error:
            parse(line)
        assert (error.value.column, error.value.sentence) == (column, sentence)
