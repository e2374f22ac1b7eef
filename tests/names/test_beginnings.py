"""Where in its stream a segment lies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.names.beginnings import Beginnings

NUMBERS = st.integers(0, 2**32 - 1)


@given(NUMBERS, NUMBERS, st.integers(0, 2**31 - 1), st.booleans())
def test_each_side_counts_from_its_own_number(ours: int, theirs: int, offset: int, which: bool) -> None:
    both = Beginnings()
    both.begin(True, ours)
    both.begin(False, theirs)
    assert both.offset(which, ((ours if which else theirs) + offset) % 2**32) == offset


@given(NUMBERS, st.integers(1, 2**31))
def test_what_lies_before_the_beginning_has_no_place(first: int, back: int) -> None:
    one = Beginnings()
    assert one.offset(True, first) is None
    one.begin(True, first)
    assert one.offset(True, (first - back) % 2**32) is None
    assert one.offset(False, first) is None


def test_the_number_behind_the_highest_is_zero() -> None:
    one = Beginnings()
    one.begin(True, 2**32)  # that of a SYN with the highest, and one
    assert one.offset(True, 0) == 0
