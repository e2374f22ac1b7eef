"""Closed sockets of which packets wait still."""

from __future__ import annotations

import time

from tidewaiter.host import closed
from tidewaiter.host.closed import Closed
from tidewaiter.kernel import records


def forwarded(opened: int, closing: int = 0) -> bytes:
    """struct tw_connection of one that began at a time, and what was seen of its end."""
    return records.CONNECTION.pack({"opened": opened, "closing": closing})


def test_they_are_over_when_nothing_of_them_waits() -> None:
    waiting = {b"a"}
    those = Closed(10)
    those.add(b"a", b"data of a", 1)
    those.add(b"b", b"data of b", 2)
    assert len(those) == 2
    assert b"b" in those
    assert those.over(time.monotonic_ns(), waiting.__contains__) == [(b"b", b"data of b", 2)]
    assert b"b" not in those
    waiting.clear()
    assert those.over(time.monotonic_ns(), waiting.__contains__) == []  # looked at a moment ago
    later = time.monotonic_ns() + 10 * closed._ROUND
    assert those.over(later, waiting.__contains__) == [(b"a", b"data of a", 1)]
    assert not len(those)


def test_too_many_are_looked_at_at_once() -> None:
    those = Closed(2)
    now = time.monotonic_ns()
    assert those.over(now, lambda _: False) == []
    for flow in (b"a", b"b"):
        those.add(flow, b"", now)
    assert those.over(now, lambda _: False) == []
    those.add(b"c", b"", now)
    assert [flow for flow, _, _ in those.over(now, lambda _: False)] == [b"a", b"b", b"c"]


def test_what_is_forwarded_is_over_after_its_late_packets() -> None:
    those = Closed(10)
    late = forwarded(1, records.OVER)
    assert those.meet(b"a", forwarded(1), 1) is None
    assert b"a" not in those
    assert those.meet(b"a", late, 2) is None
    assert those.over(time.monotonic_ns(), lambda _: False) == [(b"a", late, 2)]


def test_another_connection_with_the_same_ends_takes_its_place() -> None:
    those = Closed(10)
    those.add(b"a", forwarded(1, records.OVER), 2)
    assert those.meet(b"a", forwarded(1), 3) is None  # told before it had ended
    assert b"a" in those
    assert those.meet(b"a", forwarded(4), 4) == (forwarded(1, records.OVER), 2)
    assert b"a" not in those
    those.add(b"b", forwarded(1), 5)
    those.forget(b"b")
    assert b"b" not in those
