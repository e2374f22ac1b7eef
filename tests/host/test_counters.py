"""host/counters.py: the kernel's counters by name."""

from __future__ import annotations

import pytest

from livelab import loaded
from tidewaiter.host.counters import NAMES, Counters

pytestmark = pytest.mark.live


def test_each_counter_has_its_name() -> None:
    with loaded() as kernel:
        counters, there = Counters(kernel), kernel.map("counters")
        for number in range(len(NAMES)):
            processors = len(there.get(number.to_bytes(4, "little")) or b"") // 8
            values = [number + 1, *[10] * (processors - 1)]
            there.put(number.to_bytes(4, "little"), b"".join(value.to_bytes(8, "little") for value in values))
        found = counters.read()
        assert list(found) == list(NAMES)
        assert list(found.values()) == [number + 1 + 10 * (processors - 1) for number in range(len(NAMES))]
        assert counters.unheld() == found["unheld_dropped"] + found["unheld_passed"]
