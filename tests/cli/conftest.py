"""What the tests of the commands share: a lab for each module, and this process's own signals afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from livelab import Agent, agent_in
from tidewaiter.lab.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def agent(world: World) -> Iterator[Agent]:
    with agent_in(world) as agent:
        yield agent


@pytest.fixture
def signals() -> Iterator[None]:
    """A command that runs to its end with its process may leave its handlers; this one goes on."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
