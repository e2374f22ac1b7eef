"""names/spelling.py: one spelling for each name, and addresses are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.names.spelling import host_name, is_address


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"example.com", "example.com"),
        (b"WWW.Example.COM.", "www.example.com"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"_service.host_1.lan", "_service.host_1.lan"),
        (b"localhost", "localhost"),
        (b"a." * 126 + b"a", "a." * 126 + "a"),
    ],
)
def test_names(text: bytes, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b".",
        b"192.0.2.1",
        b"1.2.3.0x1f",
        b"2130706433",
        b"2001:db8::1",
        b"-a.example",
        b"two..dots",
        b".example",
        b"a b.example",
        b"exa\0mple.com",
        b"b\xc3\xbccher.example",
        b"line\n",
        b"a" * 64 + b".example",
        b"a." * 127 + b"a",
    ],
)
def test_what_is_no_name(text: bytes) -> None:
    assert host_name(text) == ""


@given(st.binary(max_size=300) | st.from_regex(rb"[a-zA-Z0-9_.-]{0,260}", fullmatch=True))
def test_a_name_is_spelled_in_one_way(text: bytes) -> None:
    name = host_name(text)
    assert name == host_name(name.encode())
    assert name == name.lower()
    assert len(name) <= 253


def test_addresses_are_told_from_nonsense() -> None:
    assert all(map(is_address, (b"192.0.2.1", b"[2001:db8::1]", b"fe80::1", b"0x7f000001")))
    assert not any(map(is_address, (b"", b"a b", b"two..dots", b"example.com")))
