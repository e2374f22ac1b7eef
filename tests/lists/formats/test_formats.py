"""All formats: what every parser owes to whatever is written, and how a text tells its format."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listing import lines, texts
from strategies import FUZZ
from tidewaiter.lists import domains, networks
from tidewaiter.lists.entry import LineError, ListError, NameEntry
from tidewaiter.lists.formats import FORMATS, detect
from tidewaiter.lists.names import canonical


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=100 * FUZZ)
@given(many=st.lists(lines | st.text(max_size=60), max_size=8))
def test_a_parser_answers_or_says_why_whatever_is_written(name: str, many: list[str]) -> None:
    parse = FORMATS[name].parser()
    for line in filter(None, many):
        try:
            entries = parse(line)
        except LineError as error:
            assert 1 <= error.column <= len(line) + 1
            assert error.sentence
            assert error.sentence.isprintable()
            assert len(error.sentence) < 700
            continue
        except ListError as error:
            assert str(error)
            break
        for entry in entries:
            assert 0 < entry.flags < 256
            if isinstance(entry, NameEntry):
                assert canonical(entry.name) == entry.name
                assert domains.record(entry)
            else:
                assert entry.network.prefixlen > 0
                assert networks.record(entry)


STARTS = [
    "",
    "0.0.0.0 ",
    "||",
    "||a^$",
    "address=/",
    "address=/a/",
    "a CNAME ",
    "$ORIGIN ",
    "a ",
    "1.",
    "::1%",
    "*.",
    "ü",
]
STARTS += ["address=", "a IN ", "zz.", "@@", "192.0.2.1-"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("start", STARTS)
def test_a_long_line_is_read_in_time_that_grows_as_it_does(name: str, start: str) -> None:
    # What a regular expression tries each by each would take hours with these: the suite's time limit says so.
    for piece in ("1", " ", "/", ".", "a", "ü", "1s", "a ", "/ ", "^", "*.", ".rpz-ip", "$", "-", ":", "zz."):
        for end in ("", "/", "x", "^", " !", "\x00", ".rpz-ip CNAME ."):
            try:
                FORMATS[name].parser()(start + piece * (16_000 // len(piece)) + end)
            except ValueError as error:
                assert len(str(error)) < 700


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("# a list\n0.0.0.0 a.example\n0.0.0.0 b.example\n", "hosts"),
        ("a.example\nb.example\n192.0.2.1\n", "domains"),
        ("*.a.example\n*.b.example\n", "domains"),
        ("! a list\n[Adblock Plus]\n||a.example^\nb.example##.ad\n", "adblock"),
        ("$TTL 60\n@ SOA a. b. 1 2 3 4 5\n  NS localhost.\na.example CNAME .\n*.a.example CNAME .\n", "rpz"),
        ("# a list\naddress=/a.example/\nserver=/b.example/\n", "dnsmasq"),
        ("; a list\n192.0.2.0/24 ; x\n2001:db8::/32\n", "networks"),
    ],
)
def test_a_text_tells_its_format(text: str, name: str) -> None:
    assert detect(text) is FORMATS[name]


@pytest.mark.parametrize(
    "text",
    ["", "# nothing", "<!doctype html>\n<html><body>Sorry</body></html>\n", "\x00\x01\x02", '{\n "a": 1\n}'],
)
def test_other_texts_have_none(text: str) -> None:
    assert detect(text) is None


@given(texts | st.text())
def test_any_text_can_be_asked(text: str) -> None:
    found = detect(text)
    assert found is None or found in FORMATS.values()
