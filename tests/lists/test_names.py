"""Host names in canonical form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.lists.names import canonical, excerpt


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),  # a domain of its own, not fass.example
        ("日本語。jp", "xn--wgv71a119e.jp"),
        ("ＥＸＡＭＰＬＥ.com", "example.com"),
        ("_x.bücher.example", "_x.xn--bcher-kva.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("com", "com"),
    ],
)
def test_a_name_has_one_form(text: str, name: str) -> None:
    assert canonical(text) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "one of its parts is empty"),
        (".", "one of its parts is empty"),
        ("a..example", "one of its parts is empty"),
        (".example", "one of its parts is empty"),
        ("a b.example", "' ' cannot be in one"),
        ("a" * 64 + ".example", "longer than 63 bytes"),
        ("a." * 126 + "example", "longer than 253 bytes"),
        ("192.0.2.1", "its last part is a number"),
        ("ü" * 70 + ".example", "no international host name"),
        ("a\nb.example", r"'\n' cannot be in one"),
    ],
)
def test_what_is_no_name_is_told_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^'") as error:
        canonical(text)
    assert why in str(error.value)


def test_one_label_is_a_name_only_where_that_is_wanted() -> None:
    with pytest.raises(ValueError, match="it has one part only"):
        canonical("localhost", single=False)


@given(st.text(max_size=80) | st.from_regex(r"[a-zA-Zü0-9._-]{1,80}", fullmatch=True))
def test_canonical_is_canonical(text: str) -> None:
    try:
        name = canonical(text)
    except ValueError as error:
        assert len(str(error)) < 400
        return
    assert canonical(name) == name
    assert name.isascii()
    assert name == name.lower()


@given(st.text())
def test_an_excerpt_is_short_and_printable(text: str) -> None:
    assert excerpt(text).isprintable()
    assert len(excerpt(text)) <= 10 * 40 + 2
