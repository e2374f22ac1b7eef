"""A user's own cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy import Policy
from tidewaiter.policy.classifier import NOWHERE
from tidewaiter.policy.trial import TrialError, load_trials, parse_trials, try_out

POLICY = Policy.parse('version = 1\n[[rule]]\nname = "web"\nport = 443\nverdict = "block"\n')
TEXT = """\
policy = "p.toml"
[[case]]
name = "web is blocked"
connection = {remote = "192.0.2.1:443"}
verdict = "block"
rule = "web"
[[case]]
connection = {remote = "192.0.2.1:80"}
verdict = "drop"
[[case]]
connection = {remote = "192.0.2.1:80"}
verdict = "accept"
rule = "default"
"""


def test_cases() -> None:
    trials = parse_trials(TEXT)
    results = try_out(POLICY, NOWHERE, trials)
    assert trials.policy == "p.toml"
    assert [(result.name, result.line, result.passed) for result in results] == [
        ("web is blocked", 2, True),
        ("case 2", 7, False),
        ("case 3", 10, True),
    ]
    assert str(results[1]) == "case 2: expected drop, found accept by 'default'"
    assert results[0].as_object()["found"] == {"verdict": "block", "rule": "web"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "cases.toml:1: a file of cases has policy"),
        ("[[case]]\n[[case]]\n", "cases.toml:1: this is no case"),
        ("\n[[case]]\nconnection = {}\nverdict = 'drop'", "cases.toml:2: the connection has no remote end"),
        ("[[case]]\nconnection = {remote = '::1'}\nverdict = 5", "cases.toml:1: verdict is 5; write a text"),
        ("x =", "cases.toml:1: Invalid value"),
        ("", "cases.toml:1: there are no cases"),
        (
            "[[case]]\nconnection = {remote = '::1'}\nverdict = 'dorp'",
            "cases.toml:1: there is no verdict 'dorp'; did",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(TrialError) as raised:
        parse_trials(text)
    assert str(raised.value).startswith(message)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="the file cannot be read"):
        load_trials(tmp_path / "none")


@given(st.text("[]case=\n\"'{}x1 #"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_trials(text)
    except TrialError as error:
        assert "\n" not in str(error)
