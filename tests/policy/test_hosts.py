"""Names of hosts in a policy."""

from __future__ import annotations

import pytest

from tidewaiter.policy import Policy
from tidewaiter.policy.connection import read_connection
from tidewaiter.policy.explain import Explainer
from tidewaiter.policy.hosts import ascii_name, parse_name
from tidewaiter.policy.patterns import BadValueError, Under
from tidewaiter.policy.rule import World


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("日本語。jp。", "xn--wgv71a119e.jp"),
        (".bücher.example", Under(".xn--bcher-kva.example")),
        ("Example.COM.", "example.com"),
    ],
)
def test_names_are_as_they_travel(text: str, name: object) -> None:
    assert parse_name(text) == name
    assert ascii_name(text) == str(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*.bücher.example", "the pattern '*.bücher.example' has letters beyond ASCII"),
        ("re:bücher", "the pattern 're:bücher' has letters beyond ASCII"),
        ("ü" * 70 + ".example", "is no name (Label too long)"),
        ("ü" * 301, "is not a name"),
        ("bücher／x.example", "is n"),
    ],
)
def test_names_that_cannot_travel(text: str, message: str) -> None:
    with pytest.raises(BadValueError) as bad:
        parse_name(text)
    assert message in str(bad.value)
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize("name", ["xn--bcher-kva.example", "bücher.example"])
def test_a_rule_matches_the_name_on_the_wire(name: str) -> None:
    policy = Policy.parse('version = 1\n[[rule]]\nhost = "bücher.example"\nverdict = "block"\n')
    connection = read_connection(f'{{"remote": "192.0.2.1:443", "name": "{name}"}}')
    assert Explainer(policy, World()).explain(connection).verdict == "block"
