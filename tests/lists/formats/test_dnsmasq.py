"""dnsmasq options."""

from __future__ import annotations

import pytest

from tidewaiter.lists.entry import BELOW, ZONE, LineError, NameEntry, Say
from tidewaiter.lists.formats.dnsmasq import parse

LISTED = NameEntry("ads.example", Say.LISTED * ZONE)


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("address=/ads.example/", [LISTED]),
        ("address=/Ads.Example/0.0.0.0  # a comment", [LISTED]),
        ("address=/ads.example/::", [LISTED]),
        ("address=/ads.example/127.0.0.1", [LISTED]),
        ("address=/ads.example/#", [LISTED]),
        ("local=/ads.example/", [LISTED]),
        (" server=/.ads.example/ ", [LISTED]),
        ("server=/a.example/ads.example/", [NameEntry("a.example", Say.LISTED * ZONE), LISTED]),
        ("server=/*.ads.example/", [NameEntry("ads.example", Say.LISTED * BELOW)]),
        ("server=/ads.example/#", [NameEntry("ads.example", Say.EXEMPT * ZONE)]),
        ("server=/ads.example/192.0.2.53#5353", []),
        ("address=/nas.example/192.0.2.1", []),
        ("address=/*ads.example/", []),
        ("server=//", []),
        ("server=192.0.2.53", []),
        ("no-resolv", []),
        ("  # a comment", []),
    ][:-1],
)
def test_an_option_that_takes_a_name_away_lists_its_zone(line: str, entries: list[NameEntry]) -> None:
    assert parse(line) == entries


@pytest.mark.parametrize(
    ("line", "column", "sentence"),
    [
        ("ads.example", 1, "'ads.example' is no option of dnsmasq"),
        ("address=/#/", 10, "'#' is every name"),
        ("address=/a.example/b..example/", 20, "'b..example' is no host name: one of its parts is empty"),
    ],
)
def test_a_bad_line_says_where_and_why(line: str, column: int, sentence: str) -> None:
    with pytest.raises(LineError) as error:
        parse(line)
    assert (error.value.column, error.value.sentence) == (column, sentence)
