"""names/cursor.py: what is announced and not there is said, never read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.names.cursor import Cursor, EndOfBytes


def test_numbers_vectors_and_stretches() -> None:
    cursor = Cursor(b"\x01\x00\x02\x00\x00\x03ab\x02cdrest")
    assert [cursor.number(size) for size in (1, 2, 3)] == [1, 2, 3]
    assert cursor.take(2) == b"ab"
    assert cursor.vector(1) == b"cd"
    inner = cursor.within(3)
    assert (inner.take(3), inner.left, cursor.left) == (b"res", 0, 1)
    with pytest.raises(EndOfBytes):
        inner.take(1)


@pytest.mark.parametrize(
    ("wire", "value"),
    [  # RFC 9000, appendix A.1
        ("c2197c5eff14e88c", 151288809941952652),
        ("9d7f3e7d", 494878333),
        ("7bbd", 15293),
        ("25", 37),
        ("4025", 37),
    ],
)
def test_varints_of_the_rfc(wire: str, value: int) -> None:
    cursor = Cursor(bytes.fromhex(wire))
    assert (cursor.varint(), cursor.left) == (value, 0)


@pytest.mark.parametrize(("at", "end"), [(4, None), (0, 4), (2, 1), (-1, None)])
def test_a_stretch_beyond_the_bytes_is_refused(at: int, end: int | None) -> None:
    with pytest.raises(EndOfBytes):
        Cursor(b"abc", at, end)


@given(st.binary(max_size=20), st.integers(0, 30))
def test_it_gives_all_or_says_so(data: bytes, size: int) -> None:
    cursor = Cursor(data)
    if size <= len(data):
        assert cursor.take(size) == data[:size]
        assert cursor.left == len(data) - size
    else:
        with pytest.raises(EndOfBytes, match=f"{size} bytes are announced, {len(data)} are there"):
            cursor.take(size)
        assert cursor.at == 0
