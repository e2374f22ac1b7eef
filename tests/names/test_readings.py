"""names/readings.py: many connections at once, each told once, with an end to room and time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.model.key import Protocol
from tidewaiter.model.name import NO_NAME, By, Hidden, Name
from tidewaiter.names.first import TIME, First
from tidewaiter.names.readings import Readings

TCP, UDP = Protocol.TCP, Protocol.UDP
HTTP = b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n"
WEB = Name("web.example", By.HTTP)


def test_each_connection_is_told_once() -> None:
    readings: Readings[str] = Readings()
    readings.feed("a", TCP, HTTP[:20], 1)
    readings.feed("b", TCP, HTTP, 2)
    readings.feed("c", UDP, b"x", 3)
    readings.feed("d", TCP, b"", 3)
    assert readings.settled() == [("b", WEB), ("c", NO_NAME)]
    readings.feed("a", TCP, HTTP[20:], 4, 20)
    assert (readings.settled(), readings.settled(), len(readings)) == ([("a", WEB)], [], 0)


def test_time_is_over_for_the_oldest_first() -> None:
    readings: Readings[str] = Readings()
    assert readings.deadline is None
    readings.feed("a", TCP, HTTP[:20], 1)
    readings.feed("b", TCP, HTTP[:20], 2)
    assert readings.deadline == 1 + TIME
    readings.expire(1 + TIME)
    assert [(key, name.hidden) for key, name in readings.settled()] == [("a", Hidden.UNREADABLE)]
    readings.feed("c", UDP, b"x", 2 + TIME)
    assert [key for key, _ in readings.settled()] == ["b", "c"]


def test_what_comes_after_its_time_does_not_begin_again() -> None:
    readings: Readings[str] = Readings()
    readings.feed("a", TCP, HTTP[:20], 1)
    readings.feed("a", TCP, HTTP, 1 + TIME)
    assert [(key, name.hidden) for key, name in readings.settled()] == [("a", Hidden.UNREADABLE)]
    assert len(readings) == 0


def test_the_oldest_gives_way() -> None:
    readings: Readings[int] = Readings(2)
    for key in range(3):
        readings.feed(key, TCP, HTTP[:20], 1)
    ((key, name),) = readings.settled()
    assert (key, name.hidden, len(readings)) == (0, Hidden.UNREADABLE, 2)


def test_what_is_over_is_forgotten() -> None:
    readings: Readings[str] = Readings()
    readings.feed("a", TCP, HTTP[:20], 1)
    readings.ended("a")
    readings.ended("never")
    readings.expire(2 * TIME)
    assert (readings.settled(), len(readings)) == ([], 0)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 4), st.sampled_from([HTTP[:9], HTTP[9:], HTTP, b"x"]), st.integers(0, TIME // 2)
    ),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=100 * FUZZ)
def test_it_is_one_first_for_each(steps: list[tuple[int, bytes, int]]) -> None:
    readings: Readings[int] = Readings()
    firsts: dict[int, First] = {}
    told: dict[int, Name] = {}
    now = 0
    for key, data, pause in steps:
        now += pause
        offset = 9 if data == HTTP[9:] else 0
        if key not in told:
            readings.feed(key, TCP, data, now, offset)
            firsts.setdefault(key, First(TCP)).feed(data, now, offset)
        tell(readings, firsts, told, now)
    readings.expire(now)
    tell(readings, firsts, told, now)
    assert all(first.late(now) is None for key, first in firsts.items() if key not in told)


def tell(readings: Readings[int], firsts: dict[int, First], told: dict[int, Name], now: int) -> None:
    for settled, name in readings.settled():
        assert settled not in told
        told[settled] = name
        assert firsts[settled].late(now) == name
