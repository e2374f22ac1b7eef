"""Host names with letters beyond ASCII."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.model.international import in_ascii


@pytest.mark.parametrize(
    ("name", "ascii_name"),
    [
        ("BÜCHER.example", "xn--bcher-kva.example"),
        (".bücher.example", ".xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),  # a domain of its own, not fass.example
        ("日本語。jp", "xn--wgv71a119e.jp"),
    ],
)
def test_names_as_they_travel(name: str, ascii_name: str) -> None:
    assert in_ascii(name) == ascii_name


@given(st.text(max_size=80))
def test_any_text_is_ascii_or_refused(text: str) -> None:
    try:
        assert in_ascii(text).isascii()
    except ValueError as error:
        assert str(error)
