"""Hosts files."""

from __future__ import annotations

import pytest

from tidewaiter.lists.entry import LineError, NameEntry, Say
from tidewaiter.lists.formats.hosts import parse


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("0.0.0.0 ads.example", ["ads.example"]),
        ("127.0.0.1\tAds.Example.  # a comment", ["ads.example"]),
        (" ::1 a.example b.example", ["a.example", "b.example"]),
        (":: bücher.example", ["xn--bcher-kva.example"]),
        ("127.0.0.1 localhost localhost.localdomain", []),
        ("0.0.0.0 0.0.0.0", []),
        ("192.0.2.1 server.example", []),
        ("ff02::1 ip6-allnodes", []),
        ("   # a comment", []),
    ],
)
def test_a_name_behind_nobodys_address_is_listed_alone(line: str, names: list[str]) -> None:
    assert parse(line) == [NameEntry(name, Say.LISTED) for name in names]


@pytest.mark.parametrize(
    ("line", "column", "sentence"),
    [
        ("ads.example", 1, "'ads.example' is no address: a line is an address and names"),
        ("  0.0.0.0", 3, "no name follows the address '0.0.0.0'"),
        ("0.0.0.0 a.example exa$mple", 19, "'exa$mple' is no host name: '$' cannot be in one"),
    ],
)
def test_a_bad_line_says_where_and_why(line: str, column: int, sentence: str) -> None:
    with pytest.raises(LineError) as error:
        parse(line)
    assert (error.value.column, error.value.sentence) == (column, sentence)
