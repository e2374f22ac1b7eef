"""TOML texts: what is written is read again as the same."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy.writing import toml_policy, toml_value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@given(VALUES)
def test_any_value(value: Any) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


@given(TEXTS, TEXTS)
def test_a_comment_stays_one(name: str, comment: str) -> None:
    words = {
        "default": {"out": "ask"},
        "rule": [{"name": name, "not": {"port": 5}, "remote": ["a" * 50] * 3}],
    }
    text = toml_policy(words, {name: comment}, comment)
    assert tomllib.loads(text) == {"version": 1, **words}
