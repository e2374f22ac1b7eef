"""The text of a policy: quick where it is plain, and the same either way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy import BadValueError, Policy, PolicyError
from tidewaiter.policy.positions import Positions, is_plain
from tidewaiter.policy.reader import Reader
from tidewaiter.policy.source import Source


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", True),
        (
            "version = 1\n[[rule]] # x\nname = \"a # b\"\nport = [1, '2', ]\nnot.port = 5\n[default]\n[group.x]",
            True,
        ),
        ('a = "\\""', True),
        ('a = """\n[[rule]]\n"""', False),
        ("a = '''x'''", False),
        ("a = [[1]]", False),
        ("a = {b = 1}", False),
        ("a = [\n1]", False),
        ("a = 1234567890123456789", False),
        ("a.b.c.d = 1", False),
        ('a = [""" x"""]', False),
    ],
)
def test_what_is_plain(text: str, plain: bool) -> None:
    assert is_plain(text) is plain


@given(st.text("[]rule.=\"'{}1,#\n \\", max_size=40))
def test_what_is_plain_is_never_refused_by_the_scanner(text: str) -> None:
    if is_plain(text):
        try:
            Positions(text).scan()
        except BadValueError as bad:
            raise AssertionError from bad


def test_lines_are_the_same_in_both_ways() -> None:
    rules = "".join(f'\n# {n}\n\n[[rule]]\nname = "{n}"\nverdict = "drop"\n' for n in range(50))
    quick, slow = f"version = 1\n{rules}", f"version = 1\ndefault = {{}}\n{rules}"
    assert is_plain(quick)
    assert not is_plain(slow)
    found = [[rule.line for rule in Policy.parse(text).rules] for text in (quick, slow)]
    assert found[1] == [line + 1 for line in found[0]]


def test_errors_have_their_places_in_plain_texts_too() -> None:
    source = Source("version = 1\n[[rule]]\nport = 5\n", "x.toml")
    assert str(source._error(("rule", 0, "port"), "a", "b")) == "x.toml:3:8: a; b"
    with pytest.raises(PolicyError, match=r"x\.toml:1:1: the policy does not say its version"):
        Reader("", "x.toml")
