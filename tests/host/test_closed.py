"""Closed sockets of which packets wait still."""

from __future__ import annotations

import time

from tidewaiter.host import closed
from tidewaiter.host.closed import Closed


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
