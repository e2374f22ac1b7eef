"""The verdict vocabulary."""

from __future__ import annotations

import pytest

from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict

# number, word, permanent, passes, rejects
TABLE = [
    (Verdict.UNDECIDED, 0, "undecided", False, False, False),
    (Verdict.UNDETERMINABLE, 1, "drop", True, False, False),
    (Verdict.ACCEPT, 2, "accept", False, True, False),
    (Verdict.PERMANENT_ACCEPT, 3, "accept", True, True, False),
    (Verdict.BLOCK, 4, "block", False, False, True),
    (Verdict.PERMANENT_BLOCK, 5, "block", True, False, True),
    (Verdict.DROP, 6, "drop", False, False, False),
    (Verdict.PERMANENT_DROP, 7, "drop", True, False, False),
    (Verdict.REDIRECT_NAME_SERVER, 8, "redirect", True, True, False),
    (Verdict.REDIRECT_TUNNEL, 9, "redirect", True, True, False),
    (Verdict.FAILED, 10, "drop", True, False, False),
    (Verdict.REDIRECT_SPLIT_TUNNEL, 11, "redirect", True, True, False),
]


@pytest.mark.parametrize(("verdict", "number", "word", "permanent", "passes", "rejects"), TABLE)
def test_each_verdict(
    verdict: Verdict, number: int, word: str, permanent: bool, passes: bool, rejects: bool
) -> None:
    assert verdict == number
    assert verdict.word == word
    assert (verdict.permanent, verdict.passes, verdict.rejects) == (permanent, passes, rejects)
    assert verdict.decided == (verdict is not Verdict.UNDECIDED)


def test_the_table_is_whole() -> None:
    assert [row[0] for row in TABLE] == list(Verdict)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_goes_on_is_not_refused(verdict: Verdict) -> None:
    assert not (verdict.passes and verdict.rejects)
    assert verdict.decided or not (verdict.passes or verdict.rejects or verdict.permanent)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_cannot_be_known_is_blocked_going_out_and_dropped_coming_in(verdict: Verdict) -> None:
    """portmaster-kext §2.2.3."""
    unknowable = verdict in (Verdict.UNDETERMINABLE, Verdict.FAILED)
    assert verdict.rejects_for(Direction.OUT) == (verdict.rejects or unknowable)
    assert verdict.rejects_for(Direction.IN) == verdict.rejects_for(Direction.FORWARD) == verdict.rejects


def test_there_is_no_twelfth_verdict() -> None:
    with pytest.raises(ValueError, match="12"):
        Verdict(12)
