"""Lists as a whole: read fast or slowly they say the same, and a bad one says why."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listing import names, texts
from strategies import FUZZ
from tidewaiter.lists import FORMATS, CompiledList, ListError, NameEntry, Reader, domains, networks, reader
from tidewaiter.lists.entry import LineError
from tidewaiter.lists.formats import is_comment


def read(text: str | bytes, name: str = "", block: int = 1 << 20, tolerated: float = 0.05) -> CompiledList:
    data = text.encode() if isinstance(text, str) else text
    one = Reader("x.txt", FORMATS[name] if name else None, tolerated)
    for at in range(0, len(data), block):
        one.feed(data[at : at + block])
    return one.finish()


def read_slowly(text: bytes, name: str) -> tuple[list[NameEntry], list[object], int]:
    """Names, networks and bad lines, by the format's parser alone."""
    form = FORMATS[name]
    parse, merged, records, bad = form.parser(), dict[str, int](), {4: bytearray(), 6: bytearray()}, 0
    for raw in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = raw.removesuffix(b"\r").decode(errors="replace")
        try:
            entries = [] if is_comment(line, form.comments) else parse(line)
        except LineError:
            bad += 1
            continue
        for entry in entries:
            if isinstance(entry, NameEntry):
                merged[entry.name] = merged.get(entry.name, 0) | entry.flags
            else:
                records[entry.network.version] += networks.record(entry)
    return [NameEntry(*pair) for pair in merged.items()], list(networks.build(records[4], records[6])), bad


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=100 * FUZZ)
@given(
    text=texts.map(str.encode) | st.binary(max_size=200),
    block=st.integers(1, 60),
    byte_order_mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_the_native_module_reads_what_the_parser_reads(
    name: str, text: bytes, block: int, byte_order_mark: bytes
) -> None:
    text = byte_order_mark + text
    try:
        found = read(text, name, block, tolerated=1)
    except ListError as error:
        assert "more than one zone" in str(error)
        return
    slow_names, slow_networks, bad = read_slowly(text, name)
    assert sorted(found.domains) == sorted(slow_names)
    assert list(found.networks) == slow_networks
    assert found.counts.bad == bad


@pytest.mark.parametrize(
    "name", ["hosts", "domains", "zones", "adblock", "dnsmasq", "rpz", "opensnitch-domains"]
)
@given(st.lists(names.filter(lambda name: "." in name), min_size=1))
def test_names_of_each_format_are_found(name: str, many: list[str]) -> None:
    frames = {
        "hosts": "0.0.0.0 {}",
        "opensnitch-domains": "127.0.0.1 {}",
        "adblock": "||{}^",
        "dnsmasq": "address=/{}/",
        "rpz": "{} CNAME .",
    }
    found = read("\n".join(frames.get(name, "{}").format(one.upper()) for one in many), name)
    assert all(map(found.contains_name, many))
    assert found.counts.entries == found.counts.lines == len(many)


def test_a_real_list_of_each_kind() -> None:
    hosts = read(
        "# top\r\n127.0.0.1 localhost localhost.localdomain\r\n127.0.0.1 localhost.localdomain\r\n0.0.0.0 a.b\r\n"
    )
    assert hosts.format == "hosts"
    assert hosts.contains_name("a.b")
    assert not hosts.contains_name("localhost.localdomain")
    rpz = read(
        "$TTL 1\n@ SOA a. b. 1 2 3 4 5\n*.x.y CNAME .\nok.x.y CNAME rpz-passthru.\n32.1.2.0.192.rpz-ip CNAME .\n"
    )
    assert [rpz.contains_name(name) for name in ("x.y", "z.x.y", "ok.x.y", "z.ok.x.y")] == [
        False,
        True,
        False,
        True,
    ]
    assert rpz.contains_address(ip_address("192.0.2.1"))
    adblock = read("! top\n||x.y^\n@@||ok.x.y^\n||hot.ok.x.y^$important\n")
    asked = ("x.y", "z.x.y", "ok.x.y", "z.ok.x.y", "hot.ok.x.y")
    assert [adblock.contains_name(name) for name in asked] == [True, True, False, False, True]
    dnsmasq = read("server=/x.y/\nserver=/ok.x.y/#\naddress=/hot.ok.x.y/\n")
    assert [dnsmasq.contains_name(name) for name in asked] == [True, True, False, False, True]


def test_the_last_line_needs_no_end() -> None:
    assert read("a.example\nb.example").contains_name("b.example")


def test_bad_lines_are_passed_over_and_told_up_to_a_limit() -> None:
    good = "".join(f"{number}.example.com\n" for number in range(1000))
    found = read(good + "a b\n" * 50)
    assert found.counts.bad == 50
    assert len(found.counts.messages) == reader._MESSAGES
    assert found.counts.messages[0] == "x.txt, line 1001, column 3: 'b' is too much: write one name a line"
    with pytest.raises(ListError) as error:
        read(good + "a b\n" * 60)
    assert str(error.value) == (
        "x.txt is no good list: 60 of 1,060 lines are bad; "
        "the first: line 1001, column 3: 'b' is too much: write one name a line"
    )


def test_a_list_of_bad_lines_is_not_read_to_its_end() -> None:
    one = Reader("x.txt", FORMATS["domains"])
    with pytest.raises(ListError, match=r"x\.txt is no good list: 1\d,\d{3} of 1\d,\d{3} lines are bad"):
        one.feed(b"a b\n" * 100_000)


def test_bytes_that_are_no_utf_8_are_a_bad_line() -> None:
    found = read(b"a.example\n" * 100 + b"b\xff.example\n")
    assert found.counts.bad == 1
    assert found.counts.messages[0].startswith(
        "x.txt, line 101, column 1: 'b\ufffd.example' is no international"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "x.txt is empty"),
        ("<html>\nsorry\n</html>\n", "x.txt has no format that is known here: it begins with '<html>…"),
        ("a.example\n" + "a" * 70000, "x.txt has a line of more than 65,536 bytes, so it is no list"),
        (
            "a.example\n" * 3 + "a" * 70000 + "\n",
            "x.txt has a line of more than 65,536 bytes, so it is no list",
        ),
    ],
)
def test_what_is_no_list_says_so(text: str, sentence: str) -> None:
    with pytest.raises(ListError) as error:
        read(text)
    assert str(error.value).startswith(sentence.removesuffix("…"))


def test_more_odd_lines_than_are_handed_back_at_once() -> None:
    many = [f"bücher{number}.example" for number in range(3 * reader._ODD)]
    found = read("\n".join(many), "domains")
    assert len(found.domains) == len(many)
    assert found.counts.lines == len(many)


def test_a_list_is_refused_if_its_table_would_not_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ValueError("no table")

    monkeypatch.setattr(domains, "build", full)
    with pytest.raises(ListError, match=r"x\.txt is too large: no table"):
        read("a.example\n")
