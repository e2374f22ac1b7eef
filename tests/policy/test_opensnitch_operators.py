"""Single operators of OpenSnitch as words of ours. (That they decide alike: test_opensnitch.py.)"""

from __future__ import annotations

from typing import Any

import pytest

from tidewaiter.policy.imported import CannotCarryError
from tidewaiter.policy.opensnitch_operators import Operator, conditions
from tidewaiter.policy.patterns import BadValueError, regex


def carry(
    kind: str, operand: str, data: str, sensitive: bool = False
) -> tuple[list[Any], dict[str, Any], list[str]]:
    lists: dict[str, Any] = {}
    remarks: list[str] = []
    files = {"a.txt": b"# no\n" + b"AB" * 16 + b"  x\nABCD\n", ".b.txt": b"no\n", "none": b"no\n"}
    found = conditions(Operator(kind, operand, data, sensitive), lambda _path: files, lists, remarks)
    return found, lists, remarks


@pytest.mark.parametrize(
    ("kind", "operand", "data", "words"),
    [
        ("simple", "process.path", "/usr/bin/curl", {"program": "re:(?s)^(?i:/usr/bin/curl)$"}),
        ("simple", "process.id", "7", {"pid": 7}),
        ("simple", "process.hash.md5", "ABCD", {"md5": ["abcd", ""]}),
        ("simple", "process.hash.sha1", "", {"sha1": [""]}),
        ("simple", "process.env.A_B", "c", {"environment": "re:(?s)^A_B=(?i:c)$"}),
        ("simple", "protocol", "TCP6", {"protocol": "tcp6"}),
        ("simple", "dest.host", "", {"asked_host": ""}),
        ("simple", "dest.host", "bücher.example", {"asked_host": [r"re:(?i)^xn--bcher-kva\.example$"]}),
        ("regexp", "dest.port", "^(80|44[0-3])$", {"port": [80, "440-443"]}),
        ("regexp", "dest.host", ".*", {"asked_host": ["re:(?i).*", ""]}),
        ("regexp", "protocol", "^udp", {"protocol": ["udp4", "udp6", "udplite4", "udplite6"]}),
        ("regexp", "process.env.X", "^y", {"environment": "re:^X=(?is:y)"}),
        ("simple", "process.path", "", {"program": ""}),
        ("simple", "process.command", "", {"arguments": ""}),
        ("simple", "iface.out", "", {"interface": ""}),
        ("simple", "process.env.X", "", {"not": {"environment": "re:(?s)^X=."}}),
        ("regexp", "process.parent.path", ".*", {"ancestors": "re:(?i).*"}),
        ("regexp", "process.env.X", "a|b[^c]", {"environment": "re:^X=(?s:.*)(?is:a|b[^c])"}),
        ("regexp", "process.env.X", r"^(a|b)\^", {"environment": r"re:^X=(?is:(a|b)\^)"}),
        ("regexp", "process.env.X", r"^[]|^]\|", {"environment": r"re:^X=(?is:[]|^]\|)"}),
        ("network", "dest.network", "10.0.0.7/8", {"remote": "10.0.0.0/8"}),
        ("network", "source.network", "MULTICAST", {"local": ["224.0.0.0/4", "ff00::/8"]}),
        ("range", "dest.port", "10-99999", {"port": "10-65535"}),
        ("range", "user.id", "5-7", {"user": [5, 6, 7]}),
        ("simple", "iface.in", "eth0", {"interface": "re:(?s)^(?i:eth0)$", "direction": "in"}),
    ],
)
def test_words(kind: str, operand: str, data: str, words: dict[str, Any]) -> None:
    found = carry(kind, operand, data)[0][0]
    assert {key: str(value) for key, value in found.items()} == {
        key: str(value) for key, value in words.items()
    }


@pytest.mark.parametrize(
    ("first", "last"), [(1000, 60000), (0, 70000), (7, 10003), (999, 99999), (12345, 23456), (1, 2**32 - 1)]
)
def test_a_long_range_is_an_expression(first: int, last: int) -> None:
    words = carry("range", "user.id", f"{first}-{last}")[0][0]["user"]
    ends = [first - 1, first, first + 1, (first + last) // 2, last - 1, last, last + 1]
    near = range(max(0, first - 2000), min(last, first + 70000) + 2000)
    for number in [*ends, *near]:
        assert regex(words).matches(str(number)) == (first <= number <= last), number


def test_an_exact_path_stays_one_where_capitals_count() -> None:
    assert carry("simple", "process.path", "/usr/bin/curl", True)[0] == [{"program": "/usr/bin/curl"}]


def test_lists() -> None:
    found, lists, _ = carry("lists", "lists.domains", "/etc/ads/")
    assert (found, lists) == (
        [{"list": "ads"}],
        {"ads": {"path": "/etc/ads/*.*", "format": "opensnitch-domains"}},
    )
    found, lists, remarks = carry("lists", "lists.hash.md5", "/etc/hashes")
    assert (found, lists) == ([{"md5": ["ab" * 16, ""]}], {})
    assert remarks == [
        "1 lines of /etc/hashes copied: changes there are not followed",
        "1 lines there are no checksums",
    ]


@pytest.mark.parametrize("expression", ["^tr_|klingon", "a|^b", "^a|^b", "^(^a|b)", r"\Aa", "(?i)^a"])
def test_a_beginning_that_is_not_that_of_all_is_not_carried_over(expression: str) -> None:
    with pytest.raises(CannotCarryError, match="its expression on a variable has a"):
        carry("regexp", "process.env.LANG", expression)


def test_an_expression_that_fits_an_unset_variable_is_not_carried_over() -> None:
    with pytest.raises(CannotCarryError, match="a variable that is not there"):
        carry("regexp", "process.env.LANG", "^a*")


def test_an_expression_with_letters_that_no_name_has() -> None:
    with pytest.raises(BadValueError, match="has letters beyond ASCII"):
        carry("regexp", "dest.host", "^bücher")
