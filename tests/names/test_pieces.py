"""names/pieces.py: any order gives the same stream, and a contradiction is found."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.names.pieces import GAPS, Pieces, PiecesError


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, bytes]]]:
    """A stream, and pieces that cover it, overlap and come in any order."""
    stream = draw(st.binary(min_size=1, max_size=60))
    cuts = sorted({0, len(stream), *draw(st.lists(st.integers(0, len(stream)), max_size=8))})
    pieces = [(low, stream[low : high + draw(st.integers(0, 5))]) for low, high in pairwise(cuts)]
    return stream, draw(st.permutations(pieces))


@given(cut_streams(), st.integers(1, 80))
def test_any_order_gives_the_stream_up_to_the_limit(
    cut: tuple[bytes, list[tuple[int, bytes]]], limit: int
) -> None:
    stream, pieces = cut
    whole = Pieces(limit)
    for offset, data in pieces:
        whole.add(offset, data)
        assert stream.startswith(whole.beginning())
    assert whole.beginning() == stream[:limit]
    assert whole.beginning(3) == stream[3:limit]
    assert whole.full == (len(stream) >= limit)


def test_nothing_is_read_across_a_gap() -> None:
    pieces = Pieces()
    pieces.add(3, b"def")
    assert (pieces.length, pieces.beginning()) == (0, b"")
    pieces.add(0, b"ab")
    assert pieces.beginning() == b"ab"
    pieces.add(2, b"c")
    assert pieces.beginning() == b"abcdef"


@pytest.mark.parametrize(("offset", "data"), [(0, b"X"), (2, b"cX"), (5, b"Xgh"), (0, b"abcdeXgh")])
def test_a_contradiction_is_an_error(offset: int, data: bytes) -> None:
    pieces = Pieces()
    pieces.add(0, b"abcdef")
    with pytest.raises(PiecesError, match="different bytes"):
        pieces.add(offset, data)


def test_what_lies_outside_is_left_out() -> None:
    pieces = Pieces(4)
    for offset, data in ((4, b"x"), (2**62, b"x"), (-1, b"xxx"), (0, b""), (0, b"abcdef")):
        pieces.add(offset, data)
    assert (pieces.beginning(), pieces.full) == (b"abcd", True)


def test_too_many_gaps_are_an_error() -> None:
    pieces = Pieces()
    with pytest.raises(PiecesError, match="stretches"):
        for number in range(GAPS + 1):
            pieces.add(2 * number, b"x")
