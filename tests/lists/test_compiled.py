"""A list in a file: it comes back as it was, and damage is noticed."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.lists import CompiledList, Reader, dump, load
from tidewaiter.lists.compiled import MAGIC

TEXT = b"a.example\n*.b.example\n192.0.2.0/24\n2001:db8::/32\nwhat is this\n" + b"c.example\n" * 30
NOTES = {"etag": '"1"', "size": 7}


def file() -> bytes:
    reader = Reader("list")
    reader.feed(TEXT)
    return b"".join(dump(reader.finish(), NOTES))


def test_a_list_comes_back_as_it_was() -> None:
    found, notes = load(memoryview(file()))
    assert notes == NOTES
    assert found.format == "domains"
    assert found.counts.bad == 1
    assert found.counts.messages == ("list, line 5, column 6: 'is' is too much: write one name a line",)
    assert [name for name in ("a.example", "x.a.example", "x.b.example") if found.contains_name(name)] == [
        "a.example",
        "x.b.example",
    ]
    assert found.contains_address(ip_address("192.0.2.9"))
    assert found.contains_address(ip_address("2001:db8::9"))
    assert not found.contains_address(ip_address("192.0.3.9"))


def test_an_empty_list_lists_nothing() -> None:
    one, _ = load(memoryview(b"".join(dump(CompiledList(), {}))))
    assert not one.contains_name("a.example")
    assert not one.contains_address(ip_address("::1"))


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    whole = file()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(damaged), whole[:at]):
        with pytest.raises(ValueError, match=r"this is no compiled list|is damaged"):
            load(memoryview(bad))


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="no compiled list of this version"):
        load(memoryview(file().replace(MAGIC, MAGIC.replace(b"1", b"0"), 1)))
