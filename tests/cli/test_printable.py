"""Texts on a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.cli.printable import printable


@given(st.text())
def test_nothing_steers_the_terminal(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_what_is_spelled_out() -> None:
    assert printable("a\x1b[31m\n") == "a\\x1b[31m\\n"
