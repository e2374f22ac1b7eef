"""Rules that are not read again: what comes out is what reading all of it gives, with its lines and its errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy import Policy, PolicyError, Rule, remembered
from tidewaiter.policy.remembered import RULES, Piece, pieces

HEAD = "version = 1\n[default]\nin = 'drop'\n"


def rule(name: str, line: str = "port = 5") -> str:
    return f'[[rule]]\nname = "{name}"\n{line}\nverdict = "drop"\n'


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RULES, "_rules", {})


def test_a_text_is_cut_where_rules_begin() -> None:
    text = "version = 1\n# [[rule]]\n [[rule]]\na = 1\n\n[[rule]] # x\nb = '[x]'\n"
    assert pieces(text) == (
        "version = 1\n# [[rule]]\n",
        [Piece(" [[rule]]\na = 1\n\n", 3), Piece("[[rule]] # x\nb = '[x]'\n", 6)],
    )
    assert pieces("a = 1\n[b]\n") == ("a = 1\n[b]\n", [])
    assert pieces("[[rule]]\n[default]\n") is None
    assert pieces("[[rule]]\n[[rules]]\n") is None


def test_a_rule_that_stays_is_the_same_object_and_one_that_moves_has_its_line() -> None:
    first = Policy.parse(HEAD + rule("a") + rule("b"))
    again = Policy.parse(HEAD + rule("a") + rule("c") + rule("b"))
    assert again.rules[0] is first.rules[0]
    assert again.rules[2] == first.rules[1]
    assert [one.line for one in again.rules] == [4, 8, 12]
    assert again.defaults == first.defaults


def test_another_file_has_rules_of_its_own() -> None:
    Policy.parse(HEAD + rule("a"), "one.toml")
    assert Policy.parse(HEAD + rule("a"), "two.toml").rules[0].file == "two.toml"


def test_what_depends_on_more_than_its_text_is_read_again() -> None:
    text = HEAD + rule("a", 'user = "anna"') + '[[rule]]\nverdict = "drop"\n'
    found = [Policy.parse(text, find_user=lambda _, uid=uid: uid).rules for uid in (5, 6)]  # type: ignore[misc]
    assert [rules[0].users for rules in found] == [(5,), (6,)]
    moved = HEAD + rule("b") + '[[rule]]\nverdict = "drop"\n' * 2
    assert [one.name for one in Policy.parse(moved).rules] == ["b", "rule 2", "rule 3"]
    listed = "[list.x]\npath = 'x'\n" + rule("c", 'list = "x"')
    assert Policy.parse(HEAD + listed).rules[0].any_of == {"list": ("x",)}
    with pytest.raises(PolicyError, match=r"policy\.toml:6:8: there is no list 'x'"):
        Policy.parse(HEAD + rule("c", 'list = "x"'))


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (rule("b", "port = 70000"), "10:8"),
        (rule("b", "port = 5\nport = 6"), "11:9"),
        (rule("a"), "9:8"),
        ("[[rule]]\nname = 'x'\n", "8:1"),
        ("[rule]\n", "8:1"),
        ("rule = 5\n", "8:1"),
    ],
)
def test_errors_have_their_places(bad: str, place: str) -> None:
    """Also behind rules that are known."""
    good = HEAD + rule("a")
    for _ in range(2):
        Policy.parse(good)
        with pytest.raises(PolicyError, match=rf"^policy\.toml:{place.partition(':')[0]}:"):
            Policy.parse(good + bad)


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "KEPT", 5)
    for number in range(20):
        assert Policy.parse(HEAD + rule(str(number))).rules[0].name == str(number)
        assert len(RULES._rules) <= 5


LINES = st.sampled_from(
    ["port = 5", 'remote = ["lan", "192.0.2.1"]', 'not.port = "80/tcp" # x', "", "pid = 7"]
)
TEXTS = st.lists(st.tuples(st.integers(0, 9), LINES), max_size=8, unique_by=lambda one: one[0]).map(
    lambda rules: HEAD + "".join(rule(str(name), line) for name, line in rules)
)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_what_is_read_again_is_as_if_it_were_read_for_the_first_time(texts: list[str]) -> None:
    def lines(rules: tuple[Rule, ...]) -> list[int]:
        return [one.line for one in rules]

    for text in texts:
        warm = Policy.parse(text)
        kept, RULES._rules = RULES._rules, {}
        cold = Policy.parse(text)
        RULES._rules = kept
        assert warm == cold
        assert lines(warm.rules) == lines(cold.rules)
