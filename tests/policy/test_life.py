"""policy/life.py: when rules end, and what of that later policies know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidewaiter.policy import Policy
from tidewaiter.policy.life import Lives
from tidewaiter.policy.rule import Rule
from tidewaiter.policy.tables import needs_python
from tidewaiter.policy.words import duration

NOW = 1_000_000.0


def policy(*lives: str) -> Policy:
    """A rule for each life, named by it."""
    rules = (f'[[rule]]\nname = "{life}"\nuntil = "{life}"\nverdict = "block"\n' for life in lives)
    return Policy.parse("version = 1\n" + "".join(rules))


def on(lives: Lives) -> list[str]:
    return [rule.name for rule in lives.policy.rules if rule.enabled]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2h", 7200), ("1d12h", 129600), ("1d1h1m1s", 90061), ("0s", 0), ("", 0), ("h", 0), ("1m1h", 0),
     ("once", 0), ("99999s", 0), ("1 h", 0), ("١h", 0)],
)  # fmt: skip
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == seconds


def test_a_duration_counts_from_the_first_policy_that_has_the_rule() -> None:
    first = Lives(policy("2h", "always"), NOW)
    assert [rule.until for rule in first.policy.rules] == [NOW + 7200, ""]
    later = Lives(policy("always", "2h", "3h"), NOW + 60, first)
    assert [rule.until for rule in later.policy.rules] == ["", NOW + 7200, NOW + 60 + 10800]
    changed = policy("2h")
    other = replace(changed, rules=(replace(changed.rules[0], name="another"),))
    assert Lives(other, NOW + 60, later).policy.rules[0].until == NOW + 60 + 7200
    gone = Lives(policy("always"), NOW + 61, later)
    assert Lives(policy("2h"), NOW + 62, gone).policy.rules[0].until == NOW + 62 + 7200


def test_dates_pass_in_their_order() -> None:
    lives = Lives(policy("2h", "1h", "always", "1h1s"), NOW)
    assert lives.pass_time(NOW + 3599) == []
    assert lives.pass_time(NOW + 3600) == [1]
    assert lives.pass_time(NOW + 3600) == []
    assert lives.pass_time(NOW + 9000) == [3, 0]
    assert on(lives) == ["2h", "1h", "always", "1h1s"]  # the time that they name says the rest


def test_what_a_rule_decides_ends_it() -> None:
    lives = Lives(policy("once", "always", "process-end"), NOW)
    assert list(lives.ending) == [0, 2]
    assert lives.end([lives.ending[0]]) == [0]
    assert on(lives) == ["always", "process-end"]
    assert (lives.begin(2), lives.begin(2)) == (True, False)
    assert lives.end([lives.ending[2]]) == [2]
    assert lives.end([]) == []
    assert (on(lives), lives.ending) == (["always"], {})


def test_a_rule_that_has_ended_stays_so_in_later_policies() -> None:
    one = Lives(policy("once", "process-end"), NOW)
    one.end([one.ending[0]])
    one.begin(1)
    two = Lives(policy("always", "process-end", "once"), NOW, one)
    assert on(two) == ["always", "process-end"]
    assert not two.begin(1)  # it has begun before
    three = Lives(policy("once"), NOW, two)
    assert on(three) == []
    assert on(Lives(policy("once"), NOW, Lives(policy(), NOW, three))) == ["once"]


@pytest.mark.parametrize("life", ["once", "process-end", "2h"])
def test_the_kernel_leaves_them_to_python(life: str) -> None:
    (rule,) = policy(life).rules
    assert needs_python(rule) == ("until",)
    assert needs_python(Lives(policy(life), NOW).policy.rules[0]) == ("until",)
    assert needs_python(replace(rule, until="restart")) == ()


def test_rules_without_an_end_are_left_as_they_are() -> None:
    rules: tuple[Rule, ...] = policy("always", "restart").rules
    assert all(one is other for one, other in zip(Lives(Policy(rules), NOW).policy.rules, rules, strict=True))
