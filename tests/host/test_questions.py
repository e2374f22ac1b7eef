"""host/questions.py: what the kernel told and we did not hear is found again, and what nobody waits for goes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest

from livelab import eventually, loaded
from tidewaiter.driver.core import SECOND
from tidewaiter.host.questions import AGE, Questions
from tidewaiter.kernel import records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Home
from tidewaiter.model.key import Protocol

pytestmark = pytest.mark.live

_EVENTS_LOST = bytes(4)


def made(cookie: int, home: Home = Home.SOCKET, **fields: Any) -> bytes:
    """struct tw_connection of a datagram to 192.0.2.9:7."""
    return records.CONNECTION.pack(
        {
            "cookie": cookie,
            "namespace": 1,
            "family": 4,
            "protocol": Protocol.UDP,
            "local": records.address_bytes(ip_address("192.0.2.1")),
            "remote": records.address_bytes(ip_address("192.0.2.9")),
            "local_port": 1024 + cookie,
            "remote_port": 7,
            "home": home,
        }
        | fields
    )


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with loaded() as kernel:
        yield kernel


def ask(kernel: Kernel, *questions: bytes) -> None:
    for data in questions:
        kernel.map("pending").put(data[records.COOKIE], data)


def asked(kernel: Kernel) -> set[int]:
    """The cookies of all questions."""
    return {int.from_bytes(cookie, "little") for cookie in kernel.map("pending").keys()}  # noqa: SIM118


def lose_an_event(kernel: Kernel) -> None:
    counters = kernel.map("counters")
    before = counters.get(_EVENTS_LOST)
    assert before is not None
    counters.put(_EVENTS_LOST, (int.from_bytes(before[:8], "little") + 1).to_bytes(8, "little") + before[8:])


def found(questions: Questions, data: bytes) -> bytes:
    """What a search finds, as soon as the map is read again."""
    eventually(lambda: questions.search(data[records.FLOW]) is not None, "it is found")
    result = questions.search(data[records.FLOW])
    assert result is not None
    return result


def test_a_question_is_found_by_its_flow(kernel: Kernel) -> None:
    questions, first, second = Questions(kernel), made(1), made(2)
    assert questions.search(first[records.FLOW]) is None
    ask(kernel, first, second)
    assert found(questions, first) == first
    assert found(questions, second) == second


def test_what_is_found_is_what_is_there_now(kernel: Kernel) -> None:
    questions, data = Questions(kernel), made(1)
    ask(kernel, data)
    assert found(questions, data) == data
    newer = made(1, epoch=5)
    ask(kernel, newer)
    assert questions.search(data[records.FLOW]) == newer
    ask(kernel, made(1, remote_port=8))  # another question of the same socket
    assert questions.search(data[records.FLOW]) is None


def test_a_flow_is_found_by_its_addresses(kernel: Kernel) -> None:
    data = made(1, Home.ADDRESSES)
    kernel.map("flows").put(records.key_by_addresses(data[records.FLOW]), data)
    assert Questions(kernel).search(data[records.FLOW]) == data


def test_many_searches_read_the_map_seldom(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full map takes long to read: a packet must not wait for it again and again."""
    clock = [0]
    monkeypatch.setattr("tidewaiter.host.questions.time.monotonic_ns", lambda: clock[0])
    questions = Questions(kernel)
    readings = []
    pending = kernel.map("pending")
    read = pending.items

    def slow() -> Iterator[tuple[bytes, bytes]]:
        readings.append(clock[0])
        clock[0] += 100
        return read()

    monkeypatch.setattr(pending, "items", slow)
    for _ in range(1000):
        questions.search(made(1)[records.FLOW])
        clock[0] += 10
    assert len(readings) > 2
    assert {later - earlier for earlier, later in pairwise(readings)} == {1000}  # of which it reads for 100


def test_a_question_that_was_left_to_us_and_lost_is_cleared_away(kernel: Kernel) -> None:
    questions = Questions(kernel)
    lives, left, wanted = made(1), made(2, Home.RELEASED), made(3, Home.RELEASED)
    ask(kernel, lives, left, wanted)

    def is_wanted(name: bytes) -> bool:
        return name == records.name(wanted)

    for number in range(1, 4):  # no word was lost: somebody will ask for it
        questions.clear(number * AGE, is_wanted, idle=True)
    assert asked(kernel) == {1, 2, 3}

    lose_an_event(kernel)
    questions.clear(4 * AGE, is_wanted, idle=True)
    ask(kernel, made(4, Home.RELEASED))  # new: its packet may be on its way
    questions.clear(4 * AGE + AGE // 2, is_wanted, idle=True)
    assert asked(kernel) == {1, 2, 3, 4}
    questions.clear(5 * AGE, is_wanted, idle=True)
    assert asked(kernel) == {1, 3, 4}
    questions.clear(6 * AGE, is_wanted, idle=True)
    assert asked(kernel) == {1, 3}


def test_while_packets_come_it_waits_longer(kernel: Kernel) -> None:
    """They wait in the queue for a while; yet a flood that does not end may not fill the map."""
    questions = Questions(kernel)
    ask(kernel, made(2, Home.RELEASED))
    lose_an_event(kernel)
    questions.clear(1, lambda _: False, idle=False)
    questions.clear(1 + SECOND // 2, lambda _: False, idle=False)
    assert asked(kernel) == {2}
    questions.clear(1 + 60 * SECOND, lambda _: False, idle=False)
    assert asked(kernel) == set()
