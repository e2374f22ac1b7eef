"""Response policy zones."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tidewaiter.lists.entry import BELOW, SELF, Entry, LineError, ListError, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats.rpz import RPZ

ADS = NameEntry("ads.example", Say.LISTED * SELF)
START = [
    "$TTL 60",
    "@ IN SOA localhost. root.localhost. (",
    "  1 ; serial",
    "  2 3 4 5 )",
    "  IN NS localhost.",
]


def read(*lines: str) -> list[Entry]:
    parse = RPZ.parser()
    return [entry for line in lines for entry in parse(line)]


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("ads.example CNAME .", [ADS]),
        ("Ads.Example 300 IN cname *.  ; no data", [ADS]),
        ("ads.example IN 1h CNAME rpz-drop.", [ADS]),
        ("ads.example A 192.0.2.1", [ADS]),
        ("ads.example CNAME walled.garden.example.", [ADS]),
        ("*.ads.example CNAME .", [NameEntry("ads.example", Say.LISTED * BELOW)]),
        ("ads.example CNAME rpz-passthru.", [NameEntry("ads.example", Say.EXEMPT * SELF)]),
        ("*.ads.example CNAME ads.example.", [NameEntry("ads.example", Say.EXEMPT * BELOW)]),
        ("ads.example CNAME rpz-tcp-only.", []),
        ("24.0.2.0.192.rpz-ip CNAME .", [NetworkEntry(ip_network("192.0.2.0/24"), Say.LISTED)]),
        (
            "48.zz.5.db8.2001.rpz-ip CNAME rpz-passthru.",
            [NetworkEntry(ip_network("2001:db8:5::/48"), Say.EXEMPT)],
        ),
        ("128.1.zz.rpz-ip CNAME .", [NetworkEntry(ip_network("::1"), Say.LISTED)]),
        ("128.8.7.6.5.4.3.2.1.rpz-ip CNAME .", [NetworkEntry(ip_network("1:2:3:4:5:6:7:8"), Say.LISTED)]),
        ("32.1.2.0.192.rpz-client-ip CNAME .", []),
        ("ns.example.rpz-nsdname CNAME .", []),
        ("@ A 192.0.2.1", []),
        ("@ NS localhost.", []),
    ],
)
def test_a_record_lists_its_name(line: str, entries: list[Entry]) -> None:
    assert read(*START, line) == entries


@pytest.mark.parametrize("start", ["$ORIGIN rpz.example.", "RPZ.example. 60 IN SOA a. b. 1 2 3 4 5"])
def test_names_to_the_root_must_be_in_the_zone(start: str) -> None:
    assert read(start, "ads.example.rpz.example. CNAME .", "rpz.example. A 192.0.2.1") == [ADS]
    with pytest.raises(LineError, match=r"'ads\.example\.' is outside of the zone"):
        read(start, "ads.example. CNAME .")
    with pytest.raises(LineError, match=r"'xrpz\.example\.' is outside of the zone"):
        read(start, "xrpz.example. CNAME .")


def test_a_second_zone_makes_the_list_bad() -> None:
    with pytest.raises(ListError, match="more than one zone"):
        read("$ORIGIN rpz.example.", "$ORIGIN other.example.")


@pytest.mark.parametrize(
    ("line", "column", "sentence"),
    [
        ("ads.example", 1, "'ads.example' is no record: its type is missing"),
        ("ads.example IN 60", 1, "'ads.example IN 60' is no record: its type is missing"),
        ("ads.example WHAT .", 13, "'WHAT' is no type of record that a policy zone has"),
        ("ads.example CNAME ; .", 13, "nothing follows CNAME"),
        ("   CNAME .", 4, "the record does not name its owner: write the name in each line"),
        ("$INCLUDE file", 1, "'$INCLUDE file' is not understood: only $TTL and $ORIGIN NAME are"),
        ("a..b CNAME .", 1, "'a..b' is no host name: one of its parts is empty"),
        ("33.1.2.0.192.rpz-ip CNAME .", 1, "'33.1.2.0.192.rpz-ip' is no network: "),
        ("24.1.2.0.192.rpz-ip CNAME .", 1, "'24.1.2.0.192.rpz-ip' is no network: '192.0.2.1/24' has bits"),
        ("x.rpz-ip CNAME .", 1, "'x.rpz-ip' is no network: "),
    ],
)
def test_a_bad_line_says_where_and_why(line: str, column: int, sentence: str) -> None:
    with pytest.raises(LineError) as error:
        read(line)
    assert error.value.column == column
    assert error.value.sentence.startswith(sentence)
