"""Waking a thread that waits."""

from __future__ import annotations

import select
import threading

import pytest

from tidewaiter.host.wake import Wake


def test_it_can_be_read_from_set_to_clear() -> None:
    wake = Wake()
    poll = select.poll()
    poll.register(wake.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    wake.set()
    wake.set()
    assert [fd for fd, _ in poll.poll(0)] == [wake.fileno()]
    wake.clear()
    assert poll.poll(0) == []
    with pytest.raises(BlockingIOError):
        wake.clear()
    wake.close()


def test_another_thread_wakes() -> None:
    wake = Wake()
    poll = select.poll()
    poll.register(wake.fileno(), select.POLLIN)
    thread = threading.Timer(0.01, wake.set)
    thread.start()
    assert poll.poll(5000) != []
    thread.join()
    wake.close()
    wake.set()  # too late, and no harm
