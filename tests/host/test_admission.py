"""host/admission.py: how much may come in to be asked about, with a clock of our own. With packets: test_machine.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from livelab import loaded
from tidewaiter.host import admission
from tidewaiter.host.admission import WINDOW, Admission, is_full
from tidewaiter.host.queue import BATCH, Hook
from tidewaiter.kernel.loader import Kernel

pytestmark = pytest.mark.live

SECOND = 1_000_000_000
_IN, _ANY = range(2)  # enum tw_way


class Door:
    """The kernel's side: what is asked as long as there is room; and ours."""

    def __init__(self, kernel: Kernel) -> None:
        self._map = kernel.map("admission")
        self.kernel = kernel
        self.ours = Admission(kernel)

    def said(self, way: int = _IN) -> tuple[int, int]:
        """What has been asked, and what is said to be taken."""
        found = self._map.read(value=way)
        assert found is not None
        return found["asked"], found["taken"]

    def come(self, count: int) -> int:
        """So many come in; how many of them are asked about."""
        asked, taken = self.said()
        admitted = min(count, WINDOW - (asked - taken))
        for way in (_IN, _ANY):
            asked, taken = self.said(way)
            self._map.write({"value": way}, {"asked": asked + admitted, "taken": taken})
        return admitted

    def look(self, batch: int, gave_way: int, now: int, hook: Hook = Hook.LOCAL_IN) -> None:
        self.ours.begin()
        self.ours.end([[(1, hook, b"", b"", 0)] * batch], gave_way, now)


@pytest.fixture
def door() -> Iterator[Door]:
    with loaded() as kernel:
        door = Door(kernel)
        yield door
        door.ours.close()


def test_as_many_as_the_window_are_on_their_way(door: Door) -> None:
    assert door.come(WINDOW + 5) == WINDOW
    assert is_full(door.kernel)
    door.look(BATCH, 0, 1)
    assert door.said() == door.said(_ANY) == (WINDOW, BATCH)
    assert not is_full(door.kernel)
    assert door.come(100) == BATCH


def test_an_empty_queue_means_that_all_are_taken(door: Door) -> None:
    """What was lost on its way does not take up room for good."""
    door.come(WINDOW)
    door.look(BATCH, 0, 1)
    door.look(BATCH - 1, 0, 2)
    assert door.said() == door.said(_ANY) == (WINDOW, WINDOW)


def test_what_is_lost_in_a_full_queue_does_not_take_up_room_for_good(door: Door) -> None:
    """Of such packets no word is sent, but they were admitted."""
    door._map.write({"value": _IN}, {"asked": WINDOW, "taken": 0})
    door.look(0, 0, 1)
    assert door.said() == (WINDOW, WINDOW)


def test_more_than_were_asked_about_are_never_taken(door: Door) -> None:
    """Some packets come by another way: they are in the same queue, and not counted here."""
    door.come(10)
    door.look(BATCH, 0, 1)
    assert door.said() == (10, 10)


def test_what_goes_out_takes_no_place_of_what_comes_in(door: Door) -> None:
    door.come(100)
    door.look(BATCH, 0, 1, Hook.LOCAL_OUT)
    assert door.said() == (100, 0)
    assert door.said(_ANY) == (100, BATCH)


def test_what_comes_while_we_look_counts_next_time(door: Door) -> None:
    door.come(10)
    door.ours.begin()
    door.come(7)
    door.ours.end([[]], 0, 1)
    assert door.said() == door.said(_ANY) == (17, 10)


def test_when_packets_give_way_it_goes_slowly_until_none_does(door: Door) -> None:
    now, gave_way, admitted = SECOND, 0, 0
    begun = now
    while now < begun + 2 * SECOND:
        came = door.come(WINDOW)
        admitted += came
        gave_way += came
        door.look(0, gave_way, now)
        now += SECOND // 100
    assert 0.5 * admission._PACE < (admitted - WINDOW) / 2 <= admission._PACE + admission._CHUNK
    now += admission._CALM
    door.look(0, gave_way, now)
    asked, taken = door.said()
    assert asked == taken, "everything is admitted again"


def test_few_at_a_time_are_not_let_in(door: Door) -> None:
    """Each would wake us."""
    now = SECOND
    door.look(0, 0, now)
    door.come(WINDOW)
    taken = set()
    for gave_way in range(1, 300):
        now += SECOND // 1000
        door.look(0, gave_way, now)
        taken.add(door.said()[1])
    steps = [after - before for before, after in pairwise(sorted(taken))]
    assert steps
    assert min(steps) >= admission._CHUNK


def test_who_takes_over_begins_with_an_empty_queue(door: Door) -> None:
    door.come(WINDOW)
    again = Admission(door.kernel)
    assert door.said() == door.said(_ANY) == (WINDOW, WINDOW)
    again.close()
