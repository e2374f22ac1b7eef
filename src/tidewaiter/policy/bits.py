"""Which bit each rule has in the kernel's sets: in the order of the rules, with room between for those to come.

A rule that comes between two others gets a bit between theirs, so that no other rule's bit changes. Where there is none
left, as many neighbours move as it takes to find room for all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import is_

from tidewaiter.policy.rule import Rule


def spread(bits: list[int | None], limit: int) -> list[int]:
    """Gives those that have no bit one below ``limit``, and moves others only to make room. All are ascending.

    Raises ValueError for more rules than bits.
    """
    if len(bits) > limit:
        raise ValueError(f"{len(bits)} rules have no room in {limit} bits")
    bits = list(bits)
    while None in bits:
        first = last = bits.index(None)
        while last < len(bits) and bits[last] is None:
            last += 1
        step, room = 1, 0
        while True:
            first, last, low, high = _stretch(bits, first, last, limit)
            free, count = high - low, last - first
            # what is moved shall have room for more than itself, so that the next one need not move it again
            if free >= count + room or (free >= count and count == len(bits)):
                break
            first, last, step, room = max(0, first - step), min(len(bits), last + step), 2 * step, count // 4
        bits[first:last] = [low + (2 * at + 1) * free // (2 * count) for at in range(count)]
    return bits  # type: ignore[return-value]  # there is no None left


def _stretch(bits: list[int | None], first: int, last: int, limit: int) -> tuple[int, int, int, int]:
    """The places from ``first``, and the bits that there are for them. Those behind without a bit come along."""
    while last < len(bits) and bits[last] is None:
        last += 1
    before = bits[first - 1] if first else -1
    behind = bits[last] if last < len(bits) else None
    assert before is not None
    low = before + 1
    # behind the last rule: a third more than is needed, but no more, since bits that nobody has are looked at too
    return first, last, low, min(limit, low + (last - first) * 4 // 3) if behind is None else behind


def same_ends(old: Sequence[object], new: Sequence[object], *, overlap: bool = False) -> tuple[int, int]:
    """How many elements are the same at the beginning and at the end; with ``overlap`` some may count for both.

    It costs little where most of them are the same objects.
    """
    first, last = _same(old, new), _same(old[::-1], new[::-1])
    return first, last if overlap else min(last, min(len(old), len(new)) - first)


def _same(old: Sequence[object], new: Sequence[object]) -> int:
    identical = bytes(map(is_, old, new))
    at = identical.find(0)
    while at >= 0 and old[at] == new[at]:
        at = identical.find(0, at + 1)
    return at if at >= 0 else len(identical)


def carried_over(old: Sequence[Rule], new: Sequence[Rule]) -> list[int | None]:
    """For each new rule its place among the old ones, if it was there and stays in order with the others that do."""
    by_name = {rule.name: place for place, rule in enumerate(old)}
    places: list[int | None] = []
    for rule in new:
        place = by_name.pop(rule.name, None)
        places.append(place if place is not None and old[place] == rule else None)
    return _ascending(places)


def _ascending(places: list[int | None]) -> list[int | None]:
    """The same with as few left out (None) as it takes to have the rest ascend: a longest increasing subsequence."""
    ends: list[int] = []  # the smallest place that a sequence of each length can end with
    lengths = []
    for place in places:
        at = -1 if place is None else bisect_left(ends, place)
        lengths.append(at)
        if place is not None:
            ends[at : at + 1] = [place]
    wanted, found = len(ends) - 1, list[int | None]()
    for place, at in zip(reversed(places), reversed(lengths), strict=True):
        found.append(place if at == wanted and at >= 0 else None)
        wanted -= at == wanted and at >= 0
    return found[::-1]
