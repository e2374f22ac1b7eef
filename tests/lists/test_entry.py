"""What a list says: the highest bit wins."""

from __future__ import annotations

import pytest

from tidewaiter.lists.entry import LineError, Say, listed


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (Say(0), False),
        (Say.LISTED, True),
        (Say.LISTED | Say.EXEMPT, False),
        (Say.EXEMPT, False),
        (Say.LISTED_FIRMLY | Say.EXEMPT, True),
        (Say.LISTED_FIRMLY | Say.EXEMPT_FIRMLY | Say.LISTED, False),
    ],
)
def test_the_strongest_word_counts(said: Say, answer: bool) -> None:
    assert listed(said) is answer


def test_a_bad_line_has_a_place() -> None:
    error = LineError(7, "this is wrong")
    assert (error.column, error.sentence, str(error)) == (7, "this is wrong", "this is wrong")
