"""Patterns: what they match, and that none of them can take long."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy.patterns import BadValueError, Under, directories, glob, is_glob, regex, zones


def test_directories_and_zones() -> None:
    assert directories("/opt/app/x") == [Under("/"), Under("/opt/"), Under("/opt/app/")]
    assert zones("www.example.com") == [Under(".www.example.com"), Under(".example.com"), Under(".com")]
    assert Under("/opt/").matches("/opt/x/y")
    assert not Under("/opt/").matches("/optics")
    assert Under(".example.com").matches("example.com")
    assert not Under(".example.com").matches("anexample.com")


@given(st.text("ab/", max_size=8), st.text("ab.", max_size=8))
def test_what_a_text_lies_in_is_what_matches_it(path: str, name: str) -> None:
    assert all(one.matches(path) for one in directories(path))
    assert all(one.matches(name) for one in zones(name))


@given(st.text("ab*?.\\(|", max_size=8), st.text("ab.\\(|*\n", max_size=8))
def test_a_glob_is_that_of_the_shell(pattern: str, text: str) -> None:
    assert glob(pattern).matches(text) == fnmatch.fnmatchcase(text, pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("/usr/bin/*", "/usr/bin/curl", True),
        ("/usr/bin/*", "/usr/bin/x/curl", False),
        ("/usr/**/curl", "/usr/bin/x/curl", True),
        ("/usr/bin/python3.?", "/usr/bin/python3.1", True),
        ("/usr/bin/python3.?", "/usr/bin/python3./", False),
        ("/bin/[a-c]*", "/bin/bash", True),
        ("/bin/[!a-c]*", "/bin/bash", False),
        ("/bin/[*", "/bin/[x", True),
    ],
)
def test_a_glob_of_paths_stops_at_slashes(pattern: str, text: str, expected: bool) -> None:
    assert glob(pattern, path=True).matches(text) is expected


def test_capitals() -> None:
    assert glob("ads*", fold=True).matches("ADS.example")
    assert not glob("ads*").matches("ADS.example")
    assert is_glob("a?")
    assert not is_glob("/usr/bin/[")


@pytest.mark.parametrize("expression", ["(", "a{1000}{1000}", "(?=x)", "(a)\\1", "[z-a]", "x" * 1001])
def test_an_expression_that_cannot_be_used_is_refused_in_one_sentence(expression: str) -> None:
    with pytest.raises(BadValueError, match="the expression") as raised:
        regex(f"re:{expression}")
    assert "\n" not in str(raised.value)


def test_a_catastrophic_expression_is_none() -> None:
    """It would take longer than the universe is old where expressions are tried one way after the other."""
    assert not regex("re:^(a+)+$").matches("a" * 5000 + "b")
    assert not regex("re:^(a|a)*(b|b)*$").matches("a" * 5000 + "c")


@given(st.text(), st.text())
def test_any_expression_is_used_or_refused(expression: str, text: str) -> None:
    try:
        regex(f"re:{expression}").matches(text)
    except BadValueError as bad:
        assert str(bad).count("\n") == 0


def test_names_that_are_not_utf8() -> None:
    assert regex("re:^/caf").matches("/caf\udcff")


@given(st.text("abc", max_size=5), st.text("abc", max_size=9))
def test_expressions_are_looked_for_anywhere(expression: str, text: str) -> None:
    assert regex(f"re:{expression}").matches(text) == (re.search(expression, text) is not None)
