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
    has_group,
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


SECTIONS = """\
version = 1

# A heading

# one's comment
[[rule]]
name = "one"
verdict = "drop"

# -------- section B --------

# two's comment
[[rule]]
name = "two"
verdict = "drop"
# two's tail

[[rule]]
name = "three"
host = '''re:
# not a comment'''
verdict = "drop"

# the end of the file
"""
PART_ONE = '# one\'s comment\n[[rule]]\nname = "one"\nverdict = "drop"\n\n'
PART_TWO = '# two\'s comment\n[[rule]]\nname = "two"\nverdict = "drop"\n# two\'s tail\n\n'
PART_THREE = SECTIONS[SECTIONS.index('[[rule]]\nname = "three') : SECTIONS.index("# the end")]


def test_what_stands_apart_stays() -> None:
    assert Pieces(SECTIONS).text() == SECTIONS
    for part, name in ((PART_ONE, "one"), (PART_TWO, "two"), (PART_THREE, "three")):
        assert remove_rule(SECTIONS, name) == SECTIONS.replace(part, "")
    moved = move_rule(SECTIONS, "one", Place("after", "two"))
    assert moved == SECTIONS.replace(PART_ONE, "").replace(PART_TWO, PART_TWO + PART_ONE)
    moved = move_rule(SECTIONS, "one", Place("last"))
    assert moved == SECTIONS.replace(PART_ONE, "").replace(PART_THREE, PART_THREE + PART_ONE)
    moved = move_rule(SECTIONS, "three", Place("first"))
    assert moved == SECTIONS.replace(PART_THREE, "").replace(PART_ONE, PART_THREE + PART_ONE)


@pytest.mark.parametrize(
    ("name", "last"),
    [("one", 'verdict = "drop"\n'), ("two", "# two's tail\n"), ("three", 'verdict = "drop"\n')],
)
def test_a_rule_is_switched_off_where_it_ends(name: str, last: str) -> None:
    at = SECTIONS.index(last, SECTIONS.index(f'"{name}"')) + len(last)
    off = enable_rule(SECTIONS, name, on=False)
    assert off == f"{SECTIONS[:at]}enabled = false\n{SECTIONS[at:]}"
    assert enable_rule(off, name, on=True) == SECTIONS


def test_a_group_has_a_table() -> None:
    assert has_group(TEXT, "work")
    assert not has_group(TEXT, "play")
    assert has_group("group.play.enabled = true", "play")
    with pytest.raises(EditError):
        has_group("a." * 100 + "b = 1", "play")


def test_the_comment_of_a_switch_stays() -> None:
    text = TEXT.replace('"accept"', '"accept"\nenabled = false # because of bug 12')
    on = enable_rule(text, "one", on=True)
    assert on == text.replace("false # because", "true # because")
    assert enable_rule(on, "one", on=False) == text
    text = TEXT.replace("enabled = true", "enabled = false # for now")
    assert enable_group(text, "work", on=True) == text.replace("false # for", "true # for")


def test_line_ends_stay() -> None:
    for text in (TEXT, SECTIONS):
        crlf = text.replace("\n", "\r\n")
        assert Pieces(crlf).text() == crlf
        assert move_rule(crlf, "one", Place()) == move_rule(text, "one", Place()).replace("\n", "\r\n")
        assert enable_rule("\ufeff" + text, "one", on=False) == "\ufeff" + enable_rule(text, "one", on=False)
        off = enable_rule(crlf, "one", on=False)
        assert off == enable_rule(text, "one", on=False).replace("\n", "\r\n")


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
