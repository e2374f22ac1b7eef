"""Comments and words of lines."""

from __future__ import annotations

import pytest

from tidewaiter.lists.formats.format import is_comment, words


@pytest.mark.parametrize("line", ["", "  \t", "# x", "!x"])
def test_what_is_a_comment(line: str) -> None:
    assert is_comment(line, "#!")


@pytest.mark.parametrize("line", ["x", " # x", ";x"])
def test_what_is_none(line: str) -> None:
    assert not is_comment(line, "#!")


def test_words_have_columns_and_end_at_the_first_comment() -> None:
    assert list(words("  a\tb;c # d", "#;")) == [(3, "a"), (5, "b")]
    assert list(words("# a", "#")) == []
