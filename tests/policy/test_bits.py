"""The bits of rules: ascending, few of them moved, and those that stay found again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy import Answer, Rule
from tidewaiter.policy.bits import carried_over, same_ends, spread


@st.composite
def partly(draw: st.DrawFn) -> tuple[list[int | None], int]:
    """Ascending bits, some of them not given yet, and a limit that has room for all."""
    limit = draw(st.integers(1, 80))
    taken = sorted(draw(st.sets(st.integers(0, limit - 1))))
    bits: list[int | None] = [draw(st.sampled_from([bit, bit, None])) for bit in taken]
    for _ in range(draw(st.integers(0, limit - len(bits)))):
        bits.insert(draw(st.integers(0, len(bits))), None)
    return bits, limit


@given(partly())
def test_all_have_their_own_bit_and_keep_their_order(case: tuple[list[int | None], int]) -> None:
    bits, limit = case
    found = spread(bits, limit)
    assert len(found) == len(bits)
    assert found == sorted(set(found))
    assert not found or (found[0] >= 0 and found[-1] < limit)


@pytest.mark.parametrize(
    ("bits", "limit", "found"),
    [
        ([], 4, []),
        ([None] * 3, 100, [0, 2, 3]),
        ([None] * 4, 4, [0, 1, 2, 3]),
        ([0, None, 5], 100, [0, 3, 5]),
        ([3, None], 100, [3, 4]),
        ([3, None], 4, [0, 1]),
        ([0, None, 1, 3, 9], 100, [0, 1, 2, 3, 9]),
        ([None, 0, 1, 2, 5], 100, [0, 1, 3, 4, 5]),
        ([0, None, None, 3], 4, [0, 1, 2, 3]),
    ],
)
def test_no_more_are_moved_than_need_be(bits: list[int | None], limit: int, found: list[int]) -> None:
    assert spread(bits, limit) == found


def test_more_rules_than_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rules have no room in 4 bits"):
        spread([None] * 5, 4)


@pytest.mark.parametrize(
    ("old", "new", "ends", "overlapping"),
    [
        ("", "", (0, 0), (0, 0)),
        ("abc", "abc", (3, 0), (3, 3)),
        ("aaa", "aa", (2, 0), (2, 2)),
        ("abcd", "axd", (1, 1), (1, 1)),
        ("ab", "ba", (0, 0), (0, 0)),
    ],
)
def test_the_ends_that_are_the_same(
    old: str, new: str, ends: tuple[int, int], overlapping: tuple[int, int]
) -> None:
    assert same_ends(rules(old), rules(new)) == ends  # others, but equal
    assert same_ends(old, new) == ends
    assert same_ends(old, new, overlap=True) == overlapping


def rules(names: str) -> tuple[Rule, ...]:
    return tuple(Rule(name=name, answer=Answer.DROP) for name in names)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("abcd", "bcda", [1, 2, 3, None]),
        ("abcd", "dabc", [None, 0, 1, 2]),
        ("abcd", "abxcd", [0, 1, None, 2, 3]),
        ("abcd", "acd", [0, 2, 3]),
        ("abcdef", "axcyef", [0, None, 2, None, 4, 5]),
        ("", "ab", [None, None]),
        ("aab", "ab", [1, 2]),
        ("abcdef", "fbdcea", [None, 1, None, 2, 4, None]),
    ],
)
def test_what_stays_is_found(old: str, new: str, found: list[int | None]) -> None:
    assert carried_over(rules(old), rules(new)) == found


def test_a_rule_of_the_same_name_that_says_something_else_is_another_one() -> None:
    other = Rule(name="b", answer=Answer.ACCEPT)
    old = rules("abc")
    assert carried_over(old, (old[0], other, old[2])) == [0, None, 2]


@given(st.text("abcde"), st.text("abcde"))
def test_what_stays_ascends_and_is_the_same(old: str, new: str) -> None:
    found = carried_over(rules(old), rules(new))
    assert len(found) == len(new)
    kept = [place for place in found if place is not None]
    assert kept == sorted(set(kept))
    assert all(place is None or old[place] == name for place, name in zip(found, new, strict=True))
