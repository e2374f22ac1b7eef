"""AdBlock filters about domains."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tidewaiter.lists.entry import BELOW, ZONE, Entry, LineError, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats.adblock import parse


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("||ads.example^", NameEntry("ads.example", Say.LISTED * ZONE)),
        ("||Ads.Example^| ", NameEntry("ads.example", Say.LISTED * ZONE)),
        ("||ads.example^$all", NameEntry("ads.example", Say.LISTED * ZONE)),
        ("||*.ads.example^", NameEntry("ads.example", Say.LISTED * BELOW)),
        ("@@||ads.example^", NameEntry("ads.example", Say.EXEMPT * ZONE)),
        ("||ads.example^$important", NameEntry("ads.example", Say.LISTED_FIRMLY * ZONE)),
        ("@@||ads.example^$all,important", NameEntry("ads.example", Say.EXEMPT_FIRMLY * ZONE)),
        ("||zip^", NameEntry("zip", Say.LISTED * ZONE)),
        ("||192.0.2.1^", NetworkEntry(ip_network("192.0.2.1"), Say.LISTED)),
        ("||[2001:db8::1]^", NetworkEntry(ip_network("2001:db8::1"), Say.LISTED)),
    ],
)
def test_a_filter_about_a_domain_lists_it_with_what_is_below(line: str, entry: Entry) -> None:
    assert parse(line) == [entry]


@pytest.mark.parametrize(
    "line",
    [
        "||ads.example/path^",
        "||ads.example",
        "||ads.example^$third-party",
        "||ads.example^$important,script",
        "@@||ads.example^$generichide",
        "example.com##.banner",
        "/banner/*/img^",
        "|https://ads.example^",
        "||ads*.example^",
    ],
)
def test_other_filters_list_nothing(line: str) -> None:
    assert parse(line) == []


def test_a_bad_line_says_where_and_why() -> None:
    with pytest.raises(LineError) as error:
        parse("@@||exa mple^")
    assert (error.value.column, error.value.sentence) == (
        5,
        "'exa mple' is no host name: ' ' cannot be in one",
    )
