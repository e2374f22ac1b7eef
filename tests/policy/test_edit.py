"""Changes of a file: what is changed is, and all else stays to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy import Policy
from tidewaiter.policy.edit import (
    EditError,
    Pieces,
    Place,
    add_rule,
    enable_group,
    enable_rule,
    move_rule,
    remove_rule,
)

TEXT = """\
# about this file
version = 1   # the only one

[default]
out = "ask"

# about one
# and more
[[rule]]
name = "one"  # inline
port = [
    443,  # https
]
verdict = "accept"

[[rule]]
verdict = "drop"
[rule.not]
port = 22

[group.work]  # of work
enabled = true

# the end
"""


def names(text: str) -> list[str]:
    return [rule.name for rule in Policy.parse(text).rules]


def test_add() -> None:
    new = {"name": "new", "not": {"remote": "lan"}, "verdict": "block"}
    added = add_rule(TEXT, new, Place())
    assert names(added) == ["one", "rule 2", "new"]
    lines = added.splitlines()
    assert [line for line in lines if line not in TEXT.splitlines()] == [
        'name = "new"', 'not.remote = "lan"', 'verdict = "block"',
    ]  # fmt: skip
    assert names(add_rule(TEXT, new, Place("first"))) == ["new", "one", "rule 3"]
    assert names(add_rule(TEXT, new, Place("before", "rule 2"))) == ["one", "new", "rule 3"]
    assert names(add_rule(TEXT, new, Place("after", "one"), "a comment")) == ["one", "new", "rule 3"]
    assert "# a comment\n[[rule]]" in add_rule(TEXT, new, Place("after", "one"), "a comment")
    assert names(add_rule("version = 1", new, Place())) == ["new"]


def test_remove_takes_the_comment_along() -> None:
    removed = remove_rule(TEXT, "one")
    assert names(removed) == ["rule 1"]
    assert "about one" not in removed
    assert TEXT.startswith(removed[:60])
    assert removed.endswith(TEXT[TEXT.index('[[rule]]\nverdict = "drop"') :])
    with pytest.raises(EditError, match="this file has no rule 'none'"):
        remove_rule(TEXT, "none")


def test_move() -> None:
    moved = move_rule(TEXT, "one", Place("after", "rule 2"))
    assert [rule.name for rule in Policy.parse(moved).rules] == ["rule 1", "one"]
    assert '# about one\n# and more\n[[rule]]\nname = "one"  # inline' in moved
    with pytest.raises(EditError, match="before or behind itself"):
        move_rule(TEXT, "one", Place("after", "one"))


def test_switch() -> None:
    off = enable_rule(TEXT, "one", on=False)
    assert not Policy.parse(off).rules[0].enabled
    assert "443,  # https" in off
    assert enable_rule(off, "one", on=True) == TEXT
    assert Policy.parse(enable_group(TEXT, "work", on=False)).groups == {"work": False}
    assert "# of work" in enable_group(TEXT, "work", on=False)
    assert Policy.parse(enable_group(TEXT, "play", on=False)).groups == {"play": False, "work": True}


@pytest.mark.parametrize("text", ['version = 1\nrule = [{verdict = "drop"}]', "a." * 100 + "b = 1"])
def test_a_text_that_cannot_be_cut(text: str) -> None:
    with pytest.raises(EditError):
        add_rule(text, {"verdict": "drop"}, Place())


@given(st.text("[]rule#\n\"' =a1.", max_size=60))
def test_the_pieces_are_the_whole(text: str) -> None:
    try:
        assert Pieces(text).text() == text
    except EditError as error:
        assert "\n" not in str(error)


@given(st.lists(st.sampled_from(["add", "remove", "move", "off", "on"]), max_size=8), st.randoms())
def test_any_order_of_changes_leaves_a_policy(changes: list[str], dice: object) -> None:
    text, count = TEXT, 0
    for change in changes:
        there = names(text)
        some = dice.choice(there) if there else ""  # type: ignore[attr-defined]
        place = dice.choice([Place("first"), Place("last"), Place("before", some)])  # type: ignore[attr-defined]
        try:
            if change == "add":
                count += 1
                text = add_rule(text, {"name": f"n{count}", "verdict": "drop"}, place)
            elif change == "remove":
                text = remove_rule(text, some)
            elif change == "move":
                text = move_rule(text, some, place)
            else:
                text = enable_rule(text, some, on=change == "on")
        except EditError:
            continue
        assert len(names(text)) == len(there) + {"add": 1, "remove": -1}.get(change, 0)
        assert "# about this file" in text
