"""driver/statistics.py. That they add up through any sequence of events is in test_core_stateful.py."""

from __future__ import annotations

from dataclasses import asdict

from tidewaiter.driver.statistics import Statistics


def test_counting_begins_at_nothing() -> None:
    assert set(asdict(Statistics()).values()) == {0}
