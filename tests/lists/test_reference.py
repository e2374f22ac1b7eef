"""The native module and its twin in Python: the same answers for the same bytes, whatever they are."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listing import entries, names, network_entries, texts
from strategies import FUZZ
from tidewaiter.lists import _native, domains, networks, reference
from tidewaiter.lists.entry import NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats import FORMATS

KEY = bytes(range(16))


def test_siphash_is_siphash_1_3() -> None:
    # Of the empty text under a key of zeros, as the standard library of Rust has it.
    assert reference.siphash(bytes(16), b"") == 0xD1FBA762150C532C


def index_both(records: bytes, slots: int) -> tuple[object, object]:
    """What both make of the same records: their answer, the records, the table."""
    answers = []
    for index in (_native.index, reference.index):
        kept, table = bytearray(records), bytearray(5 * slots)
        answers.append((index(kept, table, KEY), kept, table))
    return answers[0], answers[1]


@given(st.lists(entries, max_size=20))
def test_index(many: list[NameEntry]) -> None:
    native, twin = index_both(b"".join(map(domains.record, many)), 32)
    assert native == twin


@given(st.lists(entries, max_size=20), st.booleans(), st.lists(names, max_size=20))
def test_find(many: list[NameEntry], nearest: bool, asked: list[str]) -> None:
    built = domains.build(bytearray(b"".join(map(domains.record, many))), len(many), nearest)
    for name in [*asked, *(entry.name for entry in many), *("b." + entry.name for entry in many)]:
        assert _native.find(built.image, name) == reference.find(built.image, name)


@given(st.lists(entries, max_size=5), st.text(max_size=12))
def test_find_whatever_is_asked(many: list[NameEntry], name: str) -> None:
    built = domains.build(bytearray(b"".join(map(domains.record, many))), len(many))
    try:
        found = _native.find(built.image, name)
    except UnicodeEncodeError:
        found = -1
    assert found == reference.find(built.image, name)


@given(st.lists(network_entries(4), max_size=12))
def test_flatten_ipv4(many: list[NetworkEntry]) -> None:
    records = b"".join(map(networks.record, many))
    assert _native.flatten(bytearray(records), 4) == reference.flatten(bytearray(records), 4)


@given(st.lists(network_entries(6), max_size=12))
def test_flatten_ipv6(many: list[NetworkEntry]) -> None:
    records = b"".join(map(networks.record, many))
    assert _native.flatten(bytearray(records), 16) == reference.flatten(bytearray(records), 16)


@pytest.mark.parametrize("version", [4, 6])
@given(st.data())
def test_inside(version: int, data: st.DataObject) -> None:
    many = data.draw(st.lists(network_entries(version), max_size=8))
    width = 4 if version == 4 else 16
    ranges = _native.flatten(bytearray(b"".join(map(networks.record, many))), width)
    asked = [data.draw(st.binary(min_size=width, max_size=width))]
    for entry in many:
        first, last = int(entry.network.network_address), int(entry.network.broadcast_address)
        asked += [(place % 256**width).to_bytes(width, "big") for place in (first - 1, first, last, last + 1)]
    for packed in asked:
        assert _native.inside(ranges, packed) == reference.inside(ranges, packed)


@settings(max_examples=100 * FUZZ)
@given(texts.map(str.encode) | st.binary(max_size=200), st.integers(1, 4), st.sampled_from(sorted(FORMATS)))
def test_scan_names(text: bytes, limit: int, name: str) -> None:
    form = FORMATS[name]
    answers = []
    for scan in (_native.scan_names, reference.scan_names):
        records, at, line, steps = bytearray(b"before"), 0, 10, []
        while at < len(text):
            comments = form.comments.encode(), form.inline_comments.encode()
            step = scan(text, at, line, limit, form.shapes, *comments, records)
            _, at, line, _ = step
            steps.append(step)
        answers.append((steps, records))
    assert answers[0] == answers[1]


@settings(max_examples=100 * FUZZ)
@given(texts.map(str.encode) | st.binary(max_size=200), st.integers(1, 4))
def test_scan_networks(text: bytes, limit: int) -> None:
    answers = []
    for scan in (_native.scan_networks, reference.scan_networks):
        four, six, at, line, steps = bytearray(), bytearray(), 0, 0, []
        while at < len(text):
            step = scan(text, at, line, limit, Say.LISTED, b"#;", b"#;", four, six)
            at, line, _ = step
            steps.append(step)
        answers.append((steps, four, six))
    assert answers[0] == answers[1]


# --- what is no set --------------------------------------------------------------------------------


@given(st.lists(entries, min_size=1, max_size=8), st.data())
def test_a_damaged_set_is_refused_or_answers(many: list[NameEntry], data: st.DataObject) -> None:
    image = bytearray(domains.build(bytearray(b"".join(map(domains.record, many))), len(many)).image)
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    for name in ("a.com", "www.a.b", *(entry.name for entry in many)):
        with contextlib.suppress(ValueError):
            assert -1 <= _native.find(image, name) <= 15


@given(st.binary(max_size=100), st.text(max_size=10))
def test_any_bytes_are_refused_or_answer(image: bytes, name: str) -> None:
    with contextlib.suppress(ValueError):
        _native.find(image, name)


@given(st.binary(max_size=60))
def test_broken_records_are_refused_or_indexed(records: bytes) -> None:
    try:
        _native.index(bytearray(records), bytearray(5 * 64), KEY)
    except ValueError as error:
        assert "broken record" in str(error)


@given(st.binary(max_size=60), st.sampled_from([4, 16, 5]))
def test_broken_records_of_networks_are_refused(records: bytes, width: int) -> None:
    try:
        assert len(_native.flatten(bytearray(records), width)) % (2 * width) == 0
    except ValueError as error:
        assert "record" in str(error)


def test_a_full_table_is_refused() -> None:
    records = b"".join(domains.record(NameEntry(name, 1)) for name in ("a.x", "b.x", "c.x"))
    with pytest.raises(ValueError, match="more names than the table has room for"):
        _native.index(bytearray(records), bytearray(10), KEY)
    with pytest.raises(ValueError, match="no table of 3 slots"):
        _native.index(bytearray(records), bytearray(15), KEY)


def test_a_table_without_a_free_slot_is_searched_once() -> None:
    records = bytearray(domains.record(NameEntry("a.x", 1)) + domains.record(NameEntry("b.x", 1)))
    table = bytearray(10)
    names, *masks = _native.index(records, table, KEY)
    image = records + table + domains.TRAILER.pack(KEY, len(records), names, *masks, 0, 2)
    assert [_native.find(image, name) for name in ("a.x", "b.x", "c.x")] == [1, 1, 0]


def test_what_cannot_be_scanned_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no offset 9"):
        _native.scan_names(b"", 9, 0, 1, (), b"", b"", bytearray())
    with pytest.raises(ValueError, match="too many shapes"):
        _native.scan_names(b"", 0, 0, 1, ((b"", b"", 1, True),) * 17, b"", b"", bytearray())
    with pytest.raises(ValueError, match="there is no offset 9"):
        _native.scan_networks(b"", 9, 0, 1, 1, b"", b"", bytearray(), bytearray())
    with pytest.raises(ValueError, match="no ranges of 5-byte addresses"):
        _native.inside(b"", bytes(5))
